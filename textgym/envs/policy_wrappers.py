"""Wrappers that look at the context through a policy: an action mask and a KL penalty."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Protocol, cast

import gymnasium
import numpy as np
import torch
from gymnasium import spaces
from gymnasium.utils import RecordConstructorArgs
from numpy.typing import NDArray
from torch import Tensor

from textgym.envs.context_window import Observation
from textgym.errors import ConfigError, InvalidActionError
from textgym.models.sampling import sampling_distribution
from textgym.types import Sampling

if TYPE_CHECKING:
    from textgym.envs.text_env import TextEnv

ON_INVALID = ("raise", "project")


class NextToken(Protocol):
    """What the wrappers ask of a policy."""

    def next_logits(self, input_ids: Tensor, attention_mask: Tensor) -> Tensor:
        """Returns the next token's logits [B, V] after left-padded contexts [B, C]."""


def next_logits(policy: NextToken, observation: Observation, vocab_size: int) -> Tensor:
    """Returns a policy's logits, float32 [B, V], for one observation (B = 1) or a batch of them.

    Raises: ConfigError when the policy's vocabulary is not the environment's.
    """
    input_ids = torch.tensor(np.atleast_2d(observation["input_ids"]))
    attention_mask = torch.tensor(np.atleast_2d(observation["attention_mask"]), dtype=torch.bool)
    with torch.no_grad():
        logits = policy.next_logits(input_ids, attention_mask).float().cpu()
    if logits.shape[-1] != vocab_size:
        raise ConfigError(
            f"the policy scores {logits.shape[-1]} tokens, the environment has {vocab_size} "
            "actions; make it with vocab_size= the policy's"
        )
    return logits


def allowed_tokens(logits: Tensor, cut: Sampling) -> Tensor:
    """Returns which tokens ([B, V] bool) a policy with these logits [B, V] would sample from.

    >>> allowed_tokens(torch.tensor([[0.5, 0.3, 0.2]]).log(), Sampling(top_p=0.6))
    tensor([[ True,  True, False]])
    """
    return sampling_distribution(logits.log_softmax(dim=-1), cut) > -torch.inf


class TokenMask:
    """The tokens a policy's top-k / top-p allows, and what to do about the others.

    Args:
        policy: whose distribution is cut.
        vocab_size: V.
        top_k: keep the k most likely tokens; 0 keeps all.
        top_p: keep the smallest set of tokens whose probability reaches p; 1 keeps all.
        on_invalid: "raise" InvalidActionError for a forbidden token, or "project" it to the
            policy's most likely one.

    Raises:
        ConfigError: an option outside its domain.
    """

    def __init__(
        self, policy: NextToken, vocab_size: int, top_k: int, top_p: float, on_invalid: str
    ) -> None:
        cut = Sampling(top_k=top_k, top_p=top_p)
        if on_invalid not in ON_INVALID:
            raise ConfigError(
                f"on_invalid must be one of {', '.join(ON_INVALID)}, got {on_invalid!r}"
            )
        self.vocab_size = vocab_size
        self._policy = policy
        self._cut = cut
        self._project = on_invalid == "project"

    def look(self, observation: Observation) -> tuple[NDArray[np.bool_], NDArray[np.int64]]:
        """Returns the allowed tokens [B, V] and the most likely one [B] of each context."""
        logits = next_logits(self._policy, observation, self.vocab_size)
        allowed = allowed_tokens(logits, self._cut)
        return allowed.numpy(), logits.argmax(dim=-1).numpy()

    def apply(self, token: int, allowed: NDArray[np.bool_], best: int) -> int:
        """Returns the token if its mask [V] allows it, else raises or projects it."""
        if allowed[token]:
            return token
        if self._project:
            return best
        raise InvalidActionError(
            f"action {token} is not among the {int(allowed.sum())} tokens that the mask allows"
        )


def log_ratios(
    policy: NextToken, reference: NextToken, observation: Observation, tokens: Any, vocab_size: int
) -> NDArray[np.float64]:
    """Returns l_t = log pi(a|s) - log pi_ref(a|s) of each row's token, nats, [B]."""
    chosen = torch.as_tensor(np.atleast_1d(tokens), dtype=torch.int64)[:, None]
    ours, theirs = (
        next_logits(model, observation, vocab_size).log_softmax(dim=-1).gather(-1, chosen)[:, 0]
        for model in (policy, reference)
    )
    return (ours - theirs).double().numpy()


def checked_coef(coef: float) -> float:
    """Returns a KL coefficient. Raises: ConfigError below 0 and for NaN."""
    if not coef >= 0:
        raise ConfigError(f"the KL coefficient must be >= 0, got {coef}")
    return coef


def token_actions(space: gymnasium.Space[Any]) -> int:
    """Returns V of an action space of tokens. Raises: ConfigError for any other space."""
    if not isinstance(space, spaces.Discrete):
        raise ConfigError(f"expected an environment whose actions are tokens, got {space}")
    return int(space.n)


class ActionMask(
    gymnasium.Wrapper[Observation, np.int64, Observation, np.int64], RecordConstructorArgs
):
    """Allows only tokens in a policy's top-k / top-p (NLPO, arXiv 2210.01241, section 4).

    The mask is in `info["action_mask"]` ([V] bool) after reset and every step, and
    `action_masks()` gives it too. It is all False once the response has ended. A projected action
    is reported as `info["projected_action"]`. A KL penalty belongs inside this wrapper, so that it
    sees the token really taken.

    Args:
        env: an environment whose actions are tokens.
        policy, top_k, top_p, on_invalid: see `TokenMask`.
        in_observation: adds the mask to the observation as `action_mask`, MultiBinary(V).

    Raises:
        ConfigError: an option outside its domain.
    """

    def __init__(
        self,
        env: gymnasium.Env[Observation, np.int64],
        policy: NextToken,
        top_k: int = 0,
        top_p: float = 1.0,
        on_invalid: str = "raise",
        in_observation: bool = False,
    ) -> None:
        RecordConstructorArgs.__init__(
            self,
            _disable_deepcopy=True,
            policy=policy,
            top_k=top_k,
            top_p=top_p,
            on_invalid=on_invalid,
            in_observation=in_observation,
        )
        gymnasium.Wrapper.__init__(self, env)
        vocab_size = token_actions(env.action_space)
        self._mask = TokenMask(policy, vocab_size, top_k, top_p, on_invalid)
        self._allowed = np.zeros(vocab_size, dtype=bool)
        self._best = 0
        self._open = False
        self._in_observation = in_observation
        if in_observation:
            inner = cast("spaces.Dict", env.observation_space)
            self.observation_space = spaces.Dict(
                {**inner.spaces, "action_mask": spaces.MultiBinary(vocab_size)}
            )

    def action_masks(self) -> NDArray[np.bool_]:
        """Returns which tokens the next step allows, [V] bool."""
        return self._allowed.copy()

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[Observation, dict[str, Any]]:
        """Resets, and masks the first action."""
        observation, info = self.env.reset(seed=seed, options=options)
        return self._look(observation, info, over=False)

    def step(self, action: Any) -> tuple[Observation, Any, bool, bool, dict[str, Any]]:
        """Steps with an allowed token.

        Raises:
            InvalidActionError: the mask forbids the action, and `on_invalid` is "raise".
        """
        if not self._open:
            return self.env.step(action)
        token = cast("TextEnv", self.unwrapped).token(action)
        taken = self._mask.apply(token, self._allowed, self._best)
        observation, reward, terminated, truncated, info = self.env.step(np.int64(taken))
        if taken != token:
            info["projected_action"] = taken
        observation, info = self._look(observation, info, over=terminated or truncated)
        return observation, reward, terminated, truncated, info

    def _look(
        self, observation: Observation, info: dict[str, Any], *, over: bool
    ) -> tuple[Observation, dict[str, Any]]:
        self._open = not over
        if over:
            self._allowed = np.zeros_like(self._allowed)
        else:
            allowed, best = self._mask.look(observation)
            self._allowed, self._best = allowed[0], int(best[0])
        info["action_mask"] = self._allowed.copy()
        if self._in_observation:
            observation = {**observation, "action_mask": self._allowed.astype(np.int8)}
        return observation, info


class KLPenalty(
    gymnasium.Wrapper[Observation, np.int64, Observation, np.int64], RecordConstructorArgs
):
    """Subtracts coef * l_t from every step's reward, l_t = log pi(a|s) - log pi_ref(a|s) (k1).

    Every step's info has `log_ratio` (l_t, nats), `log_ratio_sum` (of the response so far) and
    `reward_terms["kl_penalty"]` = -coef * l_t; the reward terms add up to the reward. Both models
    are asked at temperature 1, on the context before the action.

    Args:
        env: an environment whose actions are tokens.
        policy: pi, as it is at the time of each step.
        reference: pi_ref.
        coef: >= 0, reward per nat.

    Raises:
        ConfigError: a coefficient below 0, or an environment of other actions.
    """

    def __init__(
        self,
        env: gymnasium.Env[Observation, np.int64],
        policy: NextToken,
        reference: NextToken,
        coef: float,
    ) -> None:
        RecordConstructorArgs.__init__(
            self, _disable_deepcopy=True, policy=policy, reference=reference, coef=coef
        )
        gymnasium.Wrapper.__init__(self, env)
        self._coef = checked_coef(coef)
        self._vocab_size = token_actions(env.action_space)
        self._policy, self._reference = policy, reference
        self._observation: Observation | None = None
        self._sum = 0.0

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[Observation, dict[str, Any]]:
        """Resets the environment and the sum."""
        observation, info = self.env.reset(seed=seed, options=options)
        self._observation, self._sum = _snapshot(observation), 0.0
        return observation, info

    def step(self, action: Any) -> tuple[Observation, Any, bool, bool, dict[str, Any]]:
        """Steps, and adds the penalty to the reward."""
        base = cast("TextEnv", self.unwrapped)
        if self._observation is None:
            return self.env.step(action)
        token = base.token(action)
        ratio = float(
            log_ratios(self._policy, self._reference, self._observation, token, self._vocab_size)[0]
        )
        penalty = -self._coef * ratio
        self._sum += ratio
        base.reward_terms["kl_penalty"] = -self._coef * self._sum
        observation, reward, terminated, truncated, info = self.env.step(action)
        self._observation = None if terminated or truncated else _snapshot(observation)
        info["log_ratio"] = ratio
        info["log_ratio_sum"] = self._sum
        info["reward_terms"] = {**info.get("reward_terms", {}), "kl_penalty": penalty}
        return observation, float(reward) + penalty, terminated, truncated, info


def _snapshot(observation: Observation) -> Observation:
    """Returns a copy that the user, who holds the observation, cannot change."""
    return {name: observation[name].copy() for name in ("input_ids", "attention_mask")}
