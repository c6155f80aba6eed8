"""From an agent's samples to numbers, the same way for every agent, from outside the agent."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
from torch import Tensor

from textgym.benchmarks.intervals import BASELINE, DIVERSITY, intervals
from textgym.benchmarks.reachable import ReferencePool
from textgym.benchmarks.sample_numbers import (
    TOKEN_METRICS,
    Likelihoods,
    of_tokens,
    take_numbers,
)
from textgym.metrics import kl, responses, stats

if TYPE_CHECKING:
    from textgym.models.policy import Policy
    from textgym.tasks.base import Task
    from textgym.types import Rollout

ACROSS = "across/"
"""Prefix of across-input diversity."""
HEADLINE = "ead"
"""The per-input metric that tables show; every other is in the CSV."""
HEADLINE_NAME = "diversity (EAD)"

HELD_AGAINST = ("length", "truncation_rate", "duplicate_rate", "entropy_seq")
"""What else is kept of the reference, for the health checks."""


@dataclass
class Measured:
    """What was measured of one agent on one set of prompts.

    Attributes:
        metrics: name -> `value` and, where prompts can be resampled, `low` and `high`.
        prompts: one row per prompt; metrics by column, and the reference's diversity.
        samples: one row per response.
        across: across-input diversity by metric.
        common_length: tokens that responses were cut to for diversity.
        tokens: one number per token of the samples.
    """

    metrics: dict[str, dict[str, float | None]]
    prompts: pd.DataFrame
    samples: pd.DataFrame
    tokens: Likelihoods
    across: dict[str, float] = field(default_factory=dict)
    common_length: int = 1

    def baseline(self, pool: ReferencePool | None = None) -> Baseline:
        """Returns what other agents need for their diversity loss against this one."""
        own = [n for n in self.prompts if str(n).startswith(DIVERSITY) or n in HELD_AGAINST]
        return Baseline(self.prompts[own], self.across, self.common_length, pool)


@dataclass
class Baseline:
    """The reference's diversity on the prompts of a seed.

    Attributes:
        prompts: one row per prompt, per-input diversity and `HELD_AGAINST` by column.
        across: across-input diversity by metric.
        common_length: tokens that every agent's responses are cut to.
        pool: further samples, from which the reachable frontier is estimated.
        start: one row per prompt of a checkpoint, the reference's numbers there.
    """

    prompts: pd.DataFrame
    across: dict[str, float]
    common_length: int
    pool: ReferencePool | None = None
    start: pd.DataFrame | None = None


def measure(
    samples: Rollout,
    task: Task,
    policy: Policy | None,
    reference: Policy,
    *,
    baseline: Baseline | None = None,
    kl_estimates: dict[str, float] | None = None,
    exact: dict[str, np.ndarray] | None = None,
) -> Measured:
    """Measures samples: reward, gold, KL, entropy, diversity and its loss, lengths, voices.

    Args:
        samples: B = N * K responses.
        task: scores them.
        policy: what they were drawn from, under `samples.sampling`; None where no policy is.
        reference: KL is measured against it; its tokenizer counts tokens for every agent.
        baseline: the reference's own diversity; without it there is no diversity loss and the
            common length is the samples' median.
        kl_estimates: KL figures of an agent without a policy.
        exact: what was enumerated, [N] by name; it takes the place of what was sampled.

    Raises:
        RewardError: a reward or gold score that is not finite, or a wrong number of them.
    """
    k = samples.samples_per_prompt
    length = baseline.common_length if baseline else None
    numbers = take_numbers(samples, task, policy, reference, length)
    per_prompt, across, tokens = dict(numbers.per_prompt), numbers.across, numbers.tokens
    metrics: dict[str, dict[str, float | None]] = {}
    if tokens.kl is not None:
        metrics["kl_token"] = _value(kl.kl_token(tokens.kl, samples.response_mask, k).value)
    if tokens.entropy is not None:
        value = kl.entropy_token(tokens.entropy, samples.response_mask, k).value
        metrics["entropy_token"] = _value(value)
    if numbers.modes is not None:
        metrics |= _mode_metrics(numbers.modes)
    if baseline is not None and baseline.pool is not None:
        per_prompt |= _frontier(per_prompt, baseline, kl_estimates, k, len(reference.tokenizer))
    metrics |= {ACROSS + name: _value(value) for name, value in across.items()}
    prompts = pd.DataFrame(per_prompt | (exact or {}))
    if baseline is not None:
        for name in (n for n in numbers.per_prompt if n.startswith(DIVERSITY)):
            prompts[BASELINE + name.removeprefix(DIVERSITY)] = baseline.prompts[name].to_numpy()
        metrics |= _across_losses(across, baseline.across)
    metrics |= {name: _value(value) for name, value in (kl_estimates or {}).items()}
    metrics |= {n: _bounded(i) for n, i in intervals([prompts]).items()}
    table = _sample_table(samples, numbers.columns, tokens, numbers.modes)
    return Measured(metrics, prompts, table, tokens, across, numbers.common_length)


def _frontier(
    per_prompt: dict[str, np.ndarray],
    baseline: Baseline,
    kl_estimates: dict[str, float] | None,
    k: int,
    vocabulary: int,
) -> dict[str, np.ndarray]:
    """Returns what the best policy at the agent's KL has, estimated from the reference's pool."""
    assert baseline.pool is not None, "the caller looked"
    measured = per_prompt.get("kl_seq")
    spent = (kl_estimates or {}).get("kl_estimate") if measured is None else measured.mean()
    if spent is None:
        return {}
    metrics: dict[str, Callable[[Sequence[Sequence[int]]], float]] = {
        HEADLINE: partial(of_tokens, TOKEN_METRICS[HEADLINE], vocabulary)
    }
    return baseline.pool.columns(float(spent), k, metrics, baseline.common_length)


def _value(value: float) -> dict[str, float | None]:
    return {"value": float(value) if math.isfinite(value) else None}


def _bounded(interval: stats.Interval) -> dict[str, float | None]:
    return {"value": interval.estimate, "low": interval.low, "high": interval.high}


def _mode_metrics(modes: list[str]) -> dict[str, dict[str, float | None]]:
    coverage = responses.mode_coverage(modes)
    return {
        "modes": _value(coverage.modes),
        "mode_entropy": _value(coverage.entropy),
        "effective_modes": _value(math.exp(coverage.entropy)),
        **{f"mode_share/{m}": _value(modes.count(m) / len(modes)) for m in sorted(set(modes))},
    }


def _across_losses(
    own: dict[str, float], reference: dict[str, float]
) -> dict[str, dict[str, float | None]]:
    shared = [name for name in own if reference.get(name, 0) > 0]
    return {f"across_loss/{n}": _value(1 - own[n] / reference[n]) for n in shared}


def _sample_table(
    samples: Rollout,
    columns: dict[str, np.ndarray],
    tokens: Likelihoods,
    modes: list[str] | None,
) -> pd.DataFrame:
    """Returns one row per response, enough to compute new metrics without running again."""
    lengths = samples.response_mask.sum(dim=1).tolist()

    def ragged(values: Tensor) -> list[list[Any]]:
        return [row[:n].tolist() for row, n in zip(values, lengths, strict=True)]

    table: dict[str, Any] = {
        "prompt_index": np.arange(len(samples)) // samples.samples_per_prompt,
        "prompt": samples.prompts,
        "response": samples.completions,
        "response_ids": ragged(samples.response_ids),
        "reference_logprobs": ragged(tokens.reference_logprobs),
    }
    if tokens.policy_logprobs is not None:
        table["policy_logprobs"] = ragged(tokens.policy_logprobs)
    table |= columns
    if modes is not None:
        table["mode"] = modes
    return pd.DataFrame(table)
