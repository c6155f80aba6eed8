"""Generation with distributional control: imitate the target distribution, do not seek its mode.

The target is `p(y|x) = pi_ref(y|x) exp(r(x, y) / beta) / Z(x)`, the optimum of reinforcement
learning with a price beta on the KL. That minimises KL(pi || p), where an answer which the policy
no longer gives costs little; this by default minimises KL(p || pi), where it costs without bound.
Samples of a proposal q are weighted by `P / (Z q)`. KL-adaptively: q is a frozen copy of the
policy, replaced when the policy has come nearer to p. With other divergences it is f-DPG. What
none of a prompt's K samples shows is not learned: a small K or beta dulls the difference.

Only this pointwise target; moment constraints (so many of the responses are to have a property)
are not here. Sources: Khalifa et al. 2021, arXiv 2012.11635, algorithm 1; targets per prompt,
Korbak et al. 2022, arXiv 2112.00791; f-DPG, Go et al. 2023, arXiv 2302.08215.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from textgym.agents.base import (
    Agent,
    Setup,
    draw_scored,
    prompt_batches,
    require,
    rollout_metrics,
)
from textgym.errors import ConfigError
from textgym.functional import (
    effective_sample_size,
    log_partition,
    matching_weights,
    policy_gradient_loss,
    target_kl,
)
from textgym.functional.matching import DIVERGENCES
from textgym.models.training import adamw, optimiser_step
from textgym.registry import unknown_name
from textgym.types import Rollout


@dataclass(frozen=True)
class GDCConfig:
    """Settings of generation with distributional control.

    Attributes:
        lr: learning rate of AdamW, constant.
        beta: the price of a nat of KL in units of reward: the target is pi_ref exp(r / beta) / Z;
            > 0.
        divergence: what is minimised between policy and target: `forward_kl`, KL(p || pi);
            `reverse_kl`; `js`, Jensen-Shannon; or `total_variation`.
        baseline: whether the mean pseudo-reward of the prompt is subtracted (for the forward KL it
            is 1), which takes noise away; see `functional.matching_weights`.
        adaptive: whether the proposal is a frozen copy of the policy, replaced when the policy is
            estimated to be nearer to the target; else it is the policy itself.
        prompts_per_step: N, prompts per optimiser step.
        samples_per_prompt: K, samples per prompt, >= 2: they are weighed against each other.
        max_grad_norm: the gradient's global norm is clipped to this.
    """

    lr: float = 3e-4
    beta: float = 0.1
    divergence: Literal["forward_kl", "reverse_kl", "js", "total_variation"] = "forward_kl"
    baseline: bool = True
    adaptive: bool = True
    prompts_per_step: int = 8
    samples_per_prompt: int = 8
    max_grad_norm: float = 1.0

    def __post_init__(self) -> None:
        require(self.lr > 0, f"lr must be > 0, got {self.lr}")
        require(self.beta > 0, f"beta must be > 0, got {self.beta}")
        if self.divergence not in DIVERGENCES:
            raise ConfigError(str(unknown_name("divergence", str(self.divergence), DIVERGENCES)))
        for name in ("baseline", "adaptive"):
            value = getattr(self, name)
            require(isinstance(value, bool), f"{name} must be true or false, got {value!r}")
        require(
            self.prompts_per_step >= 1,
            f"prompts_per_step must be >= 1, got {self.prompts_per_step}",
        )
        require(
            self.samples_per_prompt >= 2,
            f"samples_per_prompt must be >= 2 to compare, got {self.samples_per_prompt}",
        )
        require(self.max_grad_norm > 0, f"max_grad_norm must be > 0, got {self.max_grad_norm}")


class GDC(Agent):
    """One gradient step per batch of the proposal's samples, weighted toward the target."""

    config_class = GDCConfig

    def train(self, setup: Setup) -> None:
        """Spends the budget in whole batches.

        Logs `rollout_metrics` (of the proposal's samples, and so of its KL), `log_partition` (log
        Z), `kl_target` and `kl_target_proposal` (KL(p || pi) and KL(p || q), nats per response;
        the latter at most log K), `effective_sample_size` (of the weights P / q; 1 to K), all as
        means over prompts and before the step; `proposal_updates` (how often q was replaced so
        far), `loss` and `grad_norm`.
        """
        config: GDCConfig = self.config
        self.task, self.policy = setup.task, setup.policy
        k, batch = config.samples_per_prompt, config.prompts_per_step * config.samples_per_prompt
        prompts = prompt_batches(
            setup.task.prompts("train"), config.prompts_per_step, setup.streams.numpy("prompts")
        )
        sampling = setup.streams.torch("sampling")
        optimizer = adamw(setup.policy.model.parameters(), config.lr)
        proposal = setup.policy.copy("proposal").freeze() if config.adaptive else setup.policy

        step, updates = 0, 0
        while setup.budget.left >= batch:
            samples = draw_scored(setup, proposal, next(prompts), k, sampling)
            with torch.no_grad():
                reference_logprobs = setup.reference.logprobs(samples)
            logprobs = setup.policy.logprobs(samples)
            densities = log_densities(samples, logprobs, reference_logprobs, config.beta)
            weights = matching_weights(*densities, k, config.divergence, config.baseline)
            loss = policy_gradient_loss(logprobs, weights, samples.response_mask, "sum")

            metrics = _target_metrics(*densities, k)
            # Judged by samples that the policy has not been trained on, so before the step.
            if config.adaptive and metrics["kl_target"] < metrics["kl_target_proposal"]:
                proposal = setup.policy.copy("proposal").freeze()
                updates += 1
            metrics |= {"proposal_updates": float(updates), "loss": loss.item()}
            metrics["grad_norm"] = optimiser_step(optimizer, loss, step, config.max_grad_norm)
            setup.log(step, {**rollout_metrics(samples, reference_logprobs), **metrics})
            step += 1


def log_densities(
    samples: Rollout, logprobs: Tensor, reference_logprobs: Tensor, beta: float
) -> tuple[Tensor, Tensor, Tensor]:
    """Returns each response's log P, log pi and log q, [B] each, nats, without gradient.

    Args:
        samples: B scored responses, with the log-probabilities they were drawn at, q.
        logprobs: [B, T] under the policy in training.
        reference_logprobs: [B, T].
        beta: the price of a nat of KL in units of reward.
    """
    assert samples.rewards is not None, "draw_scored() scores"
    log_reference, log_policy, log_proposal = (
        torch.where(samples.response_mask, x.detach(), 0).sum(1)
        for x in (reference_logprobs, logprobs, samples.sampling_logprobs)
    )
    return log_reference + samples.rewards / beta, log_policy, log_proposal


def _target_metrics(
    log_target: Tensor, log_policy: Tensor, log_proposal: Tensor, k: int
) -> dict[str, float]:
    """Returns what the weights of a batch tell of the target, as means over prompts."""
    by_prompt = {
        "log_partition": log_partition(log_target, log_policy, log_proposal, k),
        "kl_target": target_kl(log_target, log_policy, log_proposal, k),
        "kl_target_proposal": target_kl(log_target, log_proposal, log_proposal, k),
        "effective_sample_size": effective_sample_size(log_target - log_proposal, k),
    }
    return {name: values.mean().item() for name, values in by_prompt.items()}
