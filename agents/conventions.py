"""Where libraries compute differently what papers call by one name: switches, and their presets.

A preset sets what a library is known to do and leaves the rest to the agent's own default, so that
two runs differ in nothing but the conventions. Every switch can also be set by itself:
`ppo@conventions=trl,whitening=unmasked`.
"""

from __future__ import annotations

from dataclasses import dataclass, fields, replace
from typing import Any, ClassVar, Literal, get_args, get_origin, get_type_hints

import torch
from torch import Tensor

from textgym.agents.base import Setup, require
from textgym.errors import ConfigError
from textgym.functional import (
    aggregate,
    extend_mask,
    full_kl,
    kl_k1,
    kl_k2,
    kl_k3,
    masked_whiten,
    returns_to_go,
    rewards_on_last_token,
    rloo_advantages,
    unmasked_whiten,
)
from textgym.registry import unknown_name
from textgym.types import Rollout

KLPlacement = Literal["reward", "loss"]
KLEstimator = Literal["k1", "k2", "k3", "full"]
Baseline = Literal["batch", "moving", "none", "leave_one_out"]
Whitening = Literal["none", "masked", "minibatch", "unmasked"]
Aggregation = Literal["token", "sequence", "constant", "sum"]
RewardToken = Literal["last", "first_pad"]
EOSRule = Literal["none", "subtract", "scale", "override"]
IPONormalisation = Literal["mean", "sum"]

ESTIMATORS = {"k1": kl_k1, "k2": kl_k2, "k3": kl_k3}


@dataclass(frozen=True)
class Conventions:
    """One value for every switch.

    Attributes:
        kl_placement: `reward` subtracts beta times the estimate from each token's reward, as a
            number; `loss` adds it to the loss, where gradients flow through it.
        kl_estimator: k1, k2, k3, or `full`, the sum over the vocabulary (in the loss alone: as a
            number it would not tell the chosen token from the others).
        kl_ratio_correction: multiply the estimate in the loss by pi / pi_old.
        baseline: what REINFORCE subtracts from the return.
        kl_in_baseline: with `leave_one_out`, whether the KL is part of the return that the
            baseline is taken from; see `leave_one_out_advantages`.
        whitening: `masked` standardises advantages over the batch's response tokens, `minibatch`
            over each minibatch's, `unmasked` over pads too.
        aggregation: of the policy's loss and of the KL in it; see `functional.aggregate`.
        reward_token: where the task's reward sits; see `value_rollout`.
        eos_rule: what becomes of the reward of a response cut by the length limit; see
            `eos_adjusted`.
        eos_penalty: how much, >= 0.
        ipo_normalisation: whether IPO takes a response's log-ratio as the mean or the sum over its
            tokens.
    """

    kl_placement: KLPlacement = "reward"
    kl_estimator: KLEstimator = "k1"
    kl_ratio_correction: bool = False
    baseline: Baseline = "batch"
    kl_in_baseline: bool = True
    whitening: Whitening = "masked"
    aggregation: Aggregation = "token"
    reward_token: RewardToken = "last"
    eos_rule: EOSRule = "none"
    eos_penalty: float = 1.0
    ipo_normalisation: IPONormalisation = "mean"

    def __post_init__(self) -> None:
        for name, hint in get_type_hints(Conventions).items():
            value = getattr(self, name)
            if get_origin(hint) is Literal and value not in get_args(hint):
                raise ConfigError(str(unknown_name(name, str(value), get_args(hint))))
            if hint is bool:
                require(isinstance(value, bool), f"{name} must be true or false, got {value!r}")
        in_loss = self.kl_placement == "loss"
        require(
            in_loss or self.kl_estimator != "full",
            "kl_estimator 'full' needs kl_placement 'loss', got 'reward'",
        )
        require(
            not self.kl_ratio_correction or (in_loss and self.kl_estimator != "full"),
            "kl_ratio_correction needs kl_placement 'loss' and a sampled estimator, got "
            f"{self.kl_placement!r} and {self.kl_estimator!r}",
        )
        require(self.eos_penalty >= 0, f"eos_penalty must be >= 0, got {self.eos_penalty}")
        require(
            self.eos_rule != "scale" or self.eos_penalty <= 1,
            f"eos_penalty must be <= 1 where eos_rule is 'scale', got {self.eos_penalty}",
        )


# What is not listed stays the agent's default: the library does the same, is not known to do
# otherwise, or (the size of the EOS penalty) leaves it to its user.
PRESETS: dict[str, dict[str, Any]] = {
    "textgym": {},
    "trl": {
        "kl_placement": "reward",
        "kl_estimator": "k1",
        "kl_in_baseline": True,  # RLOO: KL inside R, before the baseline
        "whitening": "masked",  # over the whole batch
        "reward_token": "first_pad",  # PPO
        "eos_rule": "subtract",
        "ipo_normalisation": "mean",  # over tokens, as IPO's authors do
    },
    "openrlhf": {
        "kl_placement": "reward",
        "kl_estimator": "k1",
        "kl_in_baseline": False,  # RLOO: baseline first, then the KL of the tokens to come
        "whitening": "masked",  # over the whole batch
        "reward_token": "last",  # the last action
        "eos_rule": "scale",  # or `override`: there one number's sign decides
        "ipo_normalisation": "sum",
    },
    "rl4lms": {
        "whitening": "minibatch",
        "reward_token": "last",  # the last step
    },
    "kirk": {
        "whitening": "unmasked",
        "reward_token": "last",  # the last action
        "eos_rule": "override",  # zero and subtract: 0 * r - penalty
    },
}


@dataclass(frozen=True, kw_only=True)
class ConventionalConfig:
    """A config whose fields named like a switch of `Conventions` are that switch.

    Attributes:
        conventions: a preset: `textgym`, `trl`, `openrlhf`, `rl4lms` or `kirk`. It sets every
            switch left at None.
        defaults: of the class: what the agent does where neither the config nor the preset says.
    """

    conventions: str = "textgym"

    defaults: ClassVar[Conventions] = Conventions()

    def __post_init__(self) -> None:
        self.resolved()

    def resolved(self) -> Conventions:
        """Returns each switch's value: the config's own, else the preset's, else the default.

        Raises:
            ConfigError: no such preset, or a value outside its domain.
        """
        if self.conventions not in PRESETS:
            raise ConfigError(str(unknown_name("conventions", str(self.conventions), PRESETS)))
        own = {f.name: getattr(self, f.name, None) for f in fields(Conventions)}
        chosen = {name: value for name, value in own.items() if value is not None}
        return replace(self.defaults, **{**PRESETS[self.conventions], **chosen})


@dataclass(frozen=True, kw_only=True)
class PolicyGradientConventions(ConventionalConfig):
    """The switches of every agent that follows a policy gradient; None: the preset's.

    Attributes:
        kl_placement: `reward` or `loss`.
        kl_estimator: `k1`, `k2`, `k3`, or in the loss `full`.
        kl_ratio_correction: whether the estimate in the loss is multiplied by pi / pi_old.
        aggregation: of the policy's loss: `token`, `sequence`, `constant` (the task's response
            limit) or `sum`.
        eos_rule: for responses cut by the length limit: `none`, `subtract`, `scale`, `override`.
        eos_penalty: what the rule takes away, >= 0: a reward, for `scale` a share.
    """

    kl_placement: KLPlacement | None = None
    kl_estimator: KLEstimator | None = None
    kl_ratio_correction: bool | None = None
    aggregation: Aggregation | None = None
    eos_rule: EOSRule | None = None
    eos_penalty: float | None = None


def eos_adjusted(samples: Rollout, conventions: Conventions) -> Tensor:
    """Returns the task's rewards [B] after the rule for responses that the length limit cut.

    With penalty p, `subtract` makes r into `r - p`, `scale` into `(1 - p) r` (which raises a
    negative reward), `override` into `-p`.
    """
    assert samples.rewards is not None, "collect() scores"
    rewards, penalty = samples.rewards, conventions.eos_penalty
    adjusted = {
        "none": rewards,
        "subtract": rewards - penalty,
        "scale": (1 - penalty) * rewards,
        "override": torch.full_like(rewards, -penalty),
    }
    return torch.where(samples.truncated, adjusted[conventions.eos_rule], rewards)


def kl_penalty(
    samples: Rollout, logp_ref: Tensor, kl_coef: float, conventions: Conventions
) -> Tensor:
    """Returns what KL takes from each token's reward, [B, T]; 0 where the KL is in the loss.

    With k1 the policy gradient is that of the KL. With k2 and k3 it is not, though k3 has the same
    mean: what is lost is the gradient of the estimate itself, which for k1 is 0 in expectation.

    Args:
        samples: B responses, with the log-probabilities they were sampled at.
        logp_ref: [B, T] under the reference, nats.
        kl_coef: beta, reward per nat.
        conventions: `kl_placement` and `kl_estimator`.
    """
    if conventions.kl_placement == "loss":
        return torch.zeros_like(logp_ref)
    estimate = ESTIMATORS[conventions.kl_estimator](samples.policy_logprobs, logp_ref)
    return kl_coef * estimate.masked_fill(~samples.response_mask, 0)


def kl_estimate(
    logp: Tensor, logp_ref: Tensor, old_logp: Tensor, conventions: Conventions
) -> Tensor:
    """Returns the differentiable KL estimate of each sampled token, [B, T], nats.

    What its gradient is in expectation over fresh tokens, given their prefixes:

    - k1: zero, `E[grad log pi] = 0`; the reference has no say;
    - k2: that of KL(pi || pi_ref), though its value is biased;
    - k3: that of KL(pi_ref || pi), the wrong way round;
    - k1 or k3 times `rho = pi / pi_old`: that of KL(pi || pi_ref), since on the sampling policy
      rho is 1 but its gradient is `grad log pi`;
    - k2 times rho: that of its own mean, `E[l^2 / 2]`, which is another quantity.

    None holds a token to account for the KL of later prefixes, as the reward does.

    Args:
        logp: [B, T] under the policy in training, nats.
        logp_ref: [B, T] under the reference.
        old_logp: [B, T] under the policy that sampled.
        conventions: `kl_estimator`, not `full`, and `kl_ratio_correction`.
    """
    estimate = ESTIMATORS[conventions.kl_estimator](logp, logp_ref)
    return (logp - old_logp).exp() * estimate if conventions.kl_ratio_correction else estimate


def kl_loss(
    setup: Setup, samples: Rollout, logp: Tensor, logp_ref: Tensor, conventions: Conventions
) -> Tensor:
    """Returns the KL to add, times beta, to the policy's loss: a scalar, nats per aggregated unit.

    Arguments as `kl_estimate`; `full` asks the setup's policy and reference for distributions.
    """
    if conventions.kl_estimator == "full":
        with torch.no_grad():
            reference = setup.reference.response_logprobs(samples)
        per_token = full_kl(setup.policy.response_logprobs(samples), reference)
    else:
        per_token = kl_estimate(logp, logp_ref, samples.policy_logprobs, conventions)
    limit = setup.task.max_response_tokens
    return aggregate(per_token, samples.response_mask, conventions.aggregation, limit)


def leave_one_out_advantages(
    rewards: Tensor, penalty: Tensor, samples: Rollout, conventions: Conventions
) -> Tensor:
    """Returns RLOO's advantages [B, T] in one of two orders; without KL they are the same.

    With `kl_in_baseline`, `A_t = R_i - mean_{j != i} R_j`, R the reward minus the whole response's
    KL penalty, equal for all tokens. Without, `A_t = r_i - mean_{j != i} r_j` minus the penalty of
    the tokens from t on, which no baseline centres.

    Args:
        rewards: [B] from `eos_adjusted`.
        penalty: [B, T] from `kl_penalty`.
        samples: B = N * K responses, K >= 2.
        conventions: `kl_in_baseline`.

    Source: Ahmadian et al. 2024, arXiv 2402.14740.
    """
    mask, k = samples.response_mask, samples.samples_per_prompt
    if conventions.kl_in_baseline:
        return rloo_advantages(rewards - penalty.sum(1), k)[:, None] * mask
    centred = rloo_advantages(rewards, k)
    return returns_to_go(rewards_on_last_token(centred, mask) - penalty, mask)


def whiten(advantages: Tensor, mask: Tensor, conventions: Conventions) -> Tensor:
    """Returns the advantages [B, T] of a batch (or minibatch) whitened; pads count, if so, as 0."""
    if conventions.whitening == "none":
        return advantages
    if conventions.whitening == "unmasked":
        return unmasked_whiten(advantages.masked_fill(~mask, 0), mask)
    return masked_whiten(advantages, mask)


def value_rollout(samples: Rollout, max_tokens: int, conventions: Conventions) -> Rollout:
    """Returns the rollout whose positions have values; the reward sits on the last of each row.

    With `reward_token` at `first_pad`, a response that the limit leaves room for is longer by the
    position after its last token, [B, T + 1]: one more state to predict, and one more step of
    discount between the reward and its causes. Others keep the reward on their last token.
    """
    if conventions.reward_token == "last":
        return samples
    mask = extend_mask(samples.response_mask, samples.response_mask.sum(1) < max_tokens)
    ids = torch.nn.functional.pad(samples.response_ids, (0, 1))
    return replace(samples, response_ids=ids, response_mask=mask)
