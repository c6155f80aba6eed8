"""The action mask and the KL penalty for vector environments: one forward pass for all rows."""

from __future__ import annotations

from typing import Any, cast

import numpy as np
from gymnasium.vector import VectorEnv, VectorWrapper
from numpy.typing import NDArray

from textgym.envs.context_window import Observation
from textgym.envs.policy_wrappers import (
    NextToken,
    TokenMask,
    checked_coef,
    log_ratios,
    token_actions,
)
from textgym.envs.vector_env import Step, TextVectorEnv
from textgym.errors import EpisodeOverError

Wrapper = VectorWrapper[
    Observation, NDArray[np.int64], Observation, NDArray[np.int64], NDArray[Any]
]
Env = VectorEnv[Observation, NDArray[np.int64], NDArray[Any]]


class VectorActionMask(Wrapper):
    """`ActionMask` for vector environments.

    `infos["action_mask"]` ([B, V] bool) is the mask of the next actions; `final_info` of a response
    that ended holds one that is all False.

    Args:
        env: a vector environment whose actions are tokens, with same-step autoreset.
        policy, top_k, top_p, on_invalid: see `TokenMask`.

    Raises:
        ConfigError: an option outside its domain.
    """

    def __init__(
        self,
        env: Env,
        policy: NextToken,
        top_k: int = 0,
        top_p: float = 1.0,
        on_invalid: str = "raise",
    ) -> None:
        super().__init__(env)
        vocab_size = token_actions(env.single_action_space)
        self._mask = TokenMask(policy, vocab_size, top_k, top_p, on_invalid)
        self._allowed: NDArray[np.bool_] | None = None
        self._best: NDArray[np.int64] = np.zeros(env.num_envs, dtype=np.int64)

    def action_masks(self) -> NDArray[np.bool_]:
        """Returns which tokens the next step allows, [B, V] bool."""
        if self._allowed is None:
            raise EpisodeOverError("action_masks needs responses in progress; call reset first")
        return self._allowed.copy()

    def reset(
        self, *, seed: Any = None, options: dict[str, Any] | None = None
    ) -> tuple[Observation, dict[str, Any]]:
        """Resets, and masks the first actions."""
        observations, infos = self.env.reset(seed=seed, options=options)
        return observations, self._look(observations, infos)

    def step(self, actions: NDArray[np.int64]) -> Step:
        """Steps with allowed tokens.

        Raises:
            InvalidActionError: a mask forbids its row's action, and `on_invalid` is "raise".
        """
        if self._allowed is None:
            return self.env.step(actions)
        tokens = cast("TextVectorEnv", self.unwrapped).tokens(actions)
        rows = zip(tokens.tolist(), self._allowed, self._best.tolist(), strict=True)
        taken = np.array([self._mask.apply(*row) for row in rows])
        observations, rewards, terminated, truncated, infos = self.env.step(taken)
        over = terminated | truncated
        for row in np.flatnonzero(taken != tokens).tolist():
            note = {"projected_action": int(taken[row])}
            infos = self._add_info(infos, {"final_info": note} if over[row] else note, row)
        for row in np.flatnonzero(over).tolist():
            closed = {"action_mask": np.zeros(self._mask.vocab_size, dtype=bool)}
            infos = self._add_info(infos, {"final_info": closed}, row)
        return observations, rewards, terminated, truncated, self._look(observations, infos)

    def _look(self, observations: Observation, infos: dict[str, Any]) -> dict[str, Any]:
        self._allowed, self._best = self._mask.look(observations)
        infos["action_mask"] = self._allowed.copy()
        infos["_action_mask"] = np.ones(self.num_envs, dtype=bool)
        return infos


class VectorKLPenalty(Wrapper):
    """`KLPenalty` for vector environments.

    The terms of a response that ended are in its `final_info`, those of the others in `infos`.

    Args:
        env: a vector environment whose actions are tokens, with same-step autoreset.
        policy: pi, as it is at the time of each step.
        reference: pi_ref.
        coef: >= 0, reward per nat.

    Raises:
        ConfigError: a coefficient below 0, or an environment of other actions.
    """

    def __init__(self, env: Env, policy: NextToken, reference: NextToken, coef: float) -> None:
        super().__init__(env)
        self._coef = checked_coef(coef)
        self._vocab_size = token_actions(env.single_action_space)
        self._policy, self._reference = policy, reference
        self._observations: Observation | None = None
        self._sums = np.zeros(env.num_envs)

    def reset(
        self, *, seed: Any = None, options: dict[str, Any] | None = None
    ) -> tuple[Observation, dict[str, Any]]:
        """Resets the rows and their sums."""
        rows = (options or {}).get("reset_mask", np.ones(self.num_envs, dtype=bool))
        observations, infos = self.env.reset(seed=seed, options=options)
        self._sums[rows] = 0.0
        self._observations = {name: array.copy() for name, array in observations.items()}
        return observations, infos

    def step(self, actions: NDArray[np.int64]) -> Step:
        """Steps, and adds the penalties to the rewards."""
        if self._observations is None:
            return self.env.step(actions)
        tokens = cast("TextVectorEnv", self.unwrapped).tokens(actions)
        ratios = log_ratios(
            self._policy, self._reference, self._observations, tokens, self._vocab_size
        )
        penalties = -self._coef * ratios
        observations, rewards, terminated, truncated, infos = self.env.step(actions)
        self._sums += ratios
        over = terminated | truncated
        for row in range(self.num_envs):
            note = {
                "log_ratio": float(ratios[row]),
                "log_ratio_sum": float(self._sums[row]),
                "reward_terms": {"kl_penalty": float(penalties[row])},
            }
            infos = self._add_info(infos, {"final_info": note} if over[row] else note, row)
        self._sums[over] = 0.0
        self._observations = {name: array.copy() for name, array in observations.items()}
        return observations, rewards + penalties, terminated, truncated, infos
