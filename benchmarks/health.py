"""Health checks: what is wrong with a cell, told from its numbers, each with a cause and a hint.

They look from outside: at what the agent logged while it trained, and at its evaluated samples
beside the reference's on the same prompts. A number that an agent does not give (human texts have
no policy, one sample per prompt has no duplicates) leaves its checks silent.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
import torch
from numpy.typing import NDArray

from textgym.agents.base import deviation_bound
from textgym.benchmarks import health_signs as signs
from textgym.benchmarks.health_checks import CHECKS
from textgym.benchmarks.health_signs import Finding

if TYPE_CHECKING:
    from textgym.benchmarks.measure import Baseline, Measured
    from textgym.types import Rollout


@dataclass(frozen=True)
class Evidence:
    """The numbers of a cell that its checks look at.

    Attributes:
        curve: what the agent logged, one row per training step.
        prompts: means over each prompt's samples, one row per prompt.
        reference: the same of the reference's samples to the same prompts.
        rewards: [N, K], the proxy's.
        lengths: [N, K], tokens.
        log_ratios: [N, K], `sum_t log pi - log pi_ref` of each response, nats, pi being what
            tokens are drawn from; None where no policy scores the samples.
        deviations: per token of the samples the largest `|rho - 1|`, rho the probability that the
            scorer gives it over the one that it carries; None likewise.
        bound: how far rho may be off 1 in the precision that the policy computes in.
    """

    curve: pd.DataFrame
    prompts: pd.DataFrame
    reference: pd.DataFrame
    rewards: NDArray[np.float64]
    lengths: NDArray[np.float64]
    log_ratios: NDArray[np.float64] | None
    deviations: NDArray[np.float64] | None
    bound: float


RULES: dict[str, Callable[[Evidence], Finding | None]] = {
    "ratio": lambda e: signs.off_policy(e.curve, e.bound),
    "negative KL": lambda e: signs.negative_kl(e.log_ratios),
    "sampler and scorer disagree": lambda e: signs.disagreeing(e.deviations, e.bound),
    "constant reward": lambda e: signs.constant(e.curve, e.rewards),
    "truncation rising": lambda e: signs.truncated(e.curve, e.prompts, e.reference),
    "duplicates rising": lambda e: signs.duplicated(e.prompts, e.reference),
    "reward follows length": lambda e: signs.length_seeking(e.rewards, e.lengths, e.reference),
    "value loss diverging": lambda e: signs.diverging(e.curve),
    "entropy collapse": lambda e: signs.collapsed(e.curve, e.prompts, e.reference),
}
"""How each check looks."""


def health(evidence: Evidence) -> list[dict[str, Any]]:
    """Returns one record per check that fires, for `result.json`.

    Each has `check` (its name), `value` (None where it is not finite), `threshold`, `seen` (the
    numbers in words), `cause` and `hint`.
    """
    found = ((check, RULES[check.name](evidence)) for check in CHECKS)
    return [
        {
            "check": check.name,
            "value": finding.value if math.isfinite(finding.value) else None,
            "threshold": finding.threshold,
            "seen": finding.seen,
            "cause": check.cause,
            "hint": check.hint,
        }
        for check, finding in found
        if finding is not None
    ]


def gather(
    samples: Rollout,
    measured: Measured,
    baseline: Baseline,
    curve: pd.DataFrame,
    precision: torch.dtype,
) -> Evidence:
    """Returns the evidence of a cell.

    Args:
        samples: the evaluated B = N * K responses, with the log-probabilities that they carry.
        measured: what the harness made of them.
        baseline: the reference on the same prompts.
        curve: what the agent logged.
        precision: what the policy computes in.
    """
    k, mask, tokens = samples.samples_per_prompt, samples.response_mask, measured.tokens
    log_ratios = deviations = None
    if tokens.policy_logprobs is not None and tokens.sampling_logprobs is not None:
        drawn = tokens.sampling_logprobs
        ratios = (drawn - tokens.reference_logprobs).masked_fill(~mask, 0).sum(1)
        log_ratios = ratios.double().numpy().reshape(-1, k)
        pairs = (
            (tokens.policy_logprobs, samples.policy_logprobs),
            (drawn, samples.sampling_logprobs),
        )
        off = [((a - b.cpu()).exp() - 1).abs() for a, b in pairs if a.shape == b.shape]
        deviations = torch.stack(off).amax(0)[mask].double().numpy() if off else None
    return Evidence(
        curve=curve,
        prompts=measured.prompts,
        reference=baseline.prompts,
        rewards=measured.samples["reward"].to_numpy(float).reshape(-1, k),
        lengths=measured.samples["length"].to_numpy(float).reshape(-1, k),
        log_ratios=log_ratios,
        deviations=deviations,
        bound=deviation_bound(precision),
    )
