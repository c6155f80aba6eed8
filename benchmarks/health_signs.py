"""The rules behind the health checks: pure functions of tables and arrays, thresholds beside them.

Each returns None when all is well, or when the numbers it needs are not there.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from scipy import stats

from textgym.benchmarks.health_checks import (
    CONSTANT_SHARE,
    CORRELATION,
    ENTROPY_SHARE,
    LENGTH_CHANGE,
    MORE_DUPLICATES,
    MORE_TRUNCATED,
    NEGLIGIBLE_KL,
    OFF_SHARE,
    SIGMAS,
    VALUE_GROWTH,
    WORSE_VALUE_GROWTH,
)

Array = NDArray[np.float64]


@dataclass(frozen=True)
class Finding:
    """What a check saw.

    Attributes:
        value: the number, held against `threshold`.
        threshold: where the check begins to fire.
        seen: both in words.
    """

    value: float
    threshold: float
    seen: str


def off_policy(curve: pd.DataFrame, bound: float) -> Finding | None:
    """Finds importance ratios of fresh samples that are off 1 by more than `bound`."""
    name = "first_ratio_deviation"
    if name not in curve or not len(curve[name].dropna()):
        return None
    worst = float(curve[name].max())
    if worst <= bound:
        return None
    step = int(curve["step"].iloc[int(np.nanargmax(curve[name]))])
    return Finding(worst, bound, f"|rho - 1| is {worst:.2g} at step {step}, above {bound:g}")


def negative_kl(log_ratios: Array | None) -> Finding | None:
    """Finds a mean log-ratio that noise cannot have brought below 0.

    Args:
        log_ratios: [N, K], nats per response.
    """
    if log_ratios is None:
        return None
    mean, errors = _off_zero(log_ratios.mean(axis=1))
    needed = _needed(len(log_ratios))
    if not (errors < -needed and mean < -NEGLIGIBLE_KL):
        return None
    return Finding(
        errors, -needed, f"{mean:.3g} nats per response, {-errors:.1f} standard errors below 0"
    )


def disagreeing(deviations: Array | None, bound: float) -> Finding | None:
    """Finds tokens whose probability the scorer does not confirm.

    Args:
        deviations: `|rho - 1|` of each token; NaN counts as off.
        bound: how far off is fine.
    """
    if deviations is None or not len(deviations):
        return None
    share = float(np.mean(~(deviations <= bound)))
    if share <= OFF_SHARE:
        return None
    return Finding(share, OFF_SHARE, f"{share:.1%} of the tokens are off by more than {bound:g}")


def constant(curve: pd.DataFrame, rewards: Array) -> Finding | None:
    """Finds groups that teach nothing, in training or among the evaluated samples [N, K]."""
    shares = {}
    thirds = _thirds(curve, "zero_variance_share")
    if thirds:
        shares["prompts at the end of training"] = float(thirds[-1].mean())
    if rewards.shape[1] > 1 and len(rewards) > 1:
        shares["evaluated prompts"] = float(np.mean(np.ptp(rewards, axis=1) == 0))
    return _above(shares, CONSTANT_SHARE, "{value:.0%} of the {where} have one reward")


def truncated(
    curve: pd.DataFrame, prompts: pd.DataFrame, reference: pd.DataFrame
) -> Finding | None:
    """Finds responses that are cut more and more often."""
    rises = {}
    against = _paired(prompts, reference, "truncation_rate")
    if against is not None and _is_sure(against):
        rises["the reference's"] = float(against.mean())
    thirds = _thirds(curve, "truncated")
    if thirds and min(map(len, thirds)) > 1:
        first, last = thirds[0], thirds[-1]
        error = np.sqrt(first.var(ddof=1) / len(first) + last.var(ddof=1) / len(last))
        if last.mean() - first.mean() > _needed(len(first) + len(last) - 1) * error:
            rises["the beginning of training"] = float(last.mean() - first.mean())
    return _above(rises, MORE_TRUNCATED, "the share of cut responses is {value:.2f} above {where}")


def duplicated(prompts: pd.DataFrame, reference: pd.DataFrame) -> Finding | None:
    """Finds samples that repeat each other more than the reference's do."""
    against = _paired(prompts, reference, "duplicate_rate")
    if against is None or not _is_sure(against):
        return None
    rises = {"the reference's": float(against.mean())}
    return _above(
        rises, MORE_DUPLICATES, "the share of repeated samples is {value:.2f} above {where}"
    )


def length_seeking(rewards: Array, lengths: Array, reference: pd.DataFrame) -> Finding | None:
    """Finds a policy that became longer (or shorter) as its reward asks within prompts.

    Args:
        rewards: [N, K].
        lengths: [N, K], tokens.
        reference: its `length`, means by prompt.
    """
    if "length" not in reference or rewards.shape[1] < 2:
        return None
    x, y = (v - v.mean(axis=1, keepdims=True) for v in (rewards, lengths))
    scale = float(np.sqrt((x**2).sum() * (y**2).sum()))
    if scale < 1e-9:
        return None
    r = float((x * y).sum()) / scale
    base = reference["length"].to_numpy(float)
    change = (lengths.mean(axis=1) - base) * np.sign(r)
    moved = float(change.mean() / base.mean())
    if not (abs(r) > CORRELATION and moved > LENGTH_CHANGE and _is_sure(change)):
        return None
    way = "longer" if r > 0 else "shorter"
    return Finding(r, np.sign(r) * CORRELATION, f"r = {r:.2f}, and responses are {moved:.0%} {way}")


def diverging(curve: pd.DataFrame) -> Finding | None:
    """Finds a value loss that ends far above what it had come down to."""
    if "value_loss" not in curve:
        return None
    losses = curve["value_loss"].to_numpy(float)
    if np.isinf(losses).any():
        return Finding(np.inf, VALUE_GROWTH, "the value loss is not finite")
    thirds = _thirds(curve, "value_loss")
    if not thirds:
        return None
    explained = _thirds(curve, "explained_variance")
    useless = bool(explained) and float(np.median(explained[-1])) < 0
    bound = WORSE_VALUE_GROWTH if useless else VALUE_GROWTH
    first, middle, last = (float(np.median(third)) for third in thirds)
    lowest = min(first, middle)
    if lowest < 0 or not last > bound * lowest:
        return None
    growth = last / lowest if lowest > 0 else np.inf
    return Finding(growth, bound, f"from {lowest:.3g} to {last:.3g}, {growth:.3g} times")


def collapsed(
    curve: pd.DataFrame, prompts: pd.DataFrame, reference: pd.DataFrame
) -> Finding | None:
    """Finds a policy that is nearly deterministic beside the reference or its own beginning."""
    shares = {}
    own, base = _entropy_per_token(prompts), _entropy_per_token(reference)
    if own is not None and base is not None and base > 0:
        shares["the reference's"] = own / base
    thirds = _thirds(_surprise(curve), "entropy")
    if thirds and thirds[0].mean() > 0:
        shares["what training began with"] = float(thirds[-1].mean() / thirds[0].mean())
    low = {where: share for where, share in shares.items() if share < ENTROPY_SHARE}
    if not low:
        return None
    where, share = min(low.items(), key=lambda item: item[1])
    return Finding(share, ENTROPY_SHARE, f"the entropy per token is {share:.0%} of {where}")


def _entropy_per_token(prompts: pd.DataFrame) -> float | None:
    if not {"entropy_seq", "length"} <= set(prompts) or not prompts["length"].sum() > 0:
        return None
    return float(prompts["entropy_seq"].sum() / prompts["length"].sum())


def _surprise(curve: pd.DataFrame) -> pd.DataFrame:
    """Returns the curve's entropy per token, or what fresh samples estimate it by."""
    if "entropy" in curve or not {"nll", "length"} <= set(curve):
        return curve
    return curve.assign(entropy=curve["nll"] / curve["length"])


def _thirds(curve: pd.DataFrame, name: str) -> list[Array]:
    """Returns a column's first, middle and last third; nothing with fewer than three numbers."""
    values = curve[name].dropna().to_numpy(float) if name in curve else np.empty(0)
    return np.array_split(values, 3) if len(values) >= 3 else []


def _paired(prompts: pd.DataFrame, reference: pd.DataFrame, name: str) -> Array | None:
    """Returns a column's differences, prompt by prompt."""
    if name not in prompts or name not in reference:
        return None
    differences: Array = prompts[name].to_numpy(float) - reference[name].to_numpy(float)
    return differences


def _above(values: dict[str, float], threshold: float, seen: str) -> Finding | None:
    """Returns the largest of the values if it is above the threshold."""
    where, value = max(values.items(), key=lambda item: item[1], default=("", -np.inf))
    if not value > threshold:
        return None
    return Finding(value, threshold, seen.format(value=value, where=where))


def _is_sure(differences: Array) -> bool:
    """Tells whether a mean is above 0 by more than noise over prompts."""
    return _off_zero(differences)[1] > _needed(len(differences))


def _off_zero(values: Array) -> tuple[float, float]:
    """Returns a mean over prompts, and how many standard errors it is off 0."""
    mean = float(values.mean())
    if len(values) < 2 or mean == 0:
        return mean, 0.0
    error = float(values.std(ddof=1) / np.sqrt(len(values)))
    return mean, mean / error if error > 0 else float(np.copysign(np.inf, mean))


def _needed(count: int) -> float:
    """Returns `SIGMAS`, or how many more Student's t asks for at the same odds."""
    if count < 2:
        return np.inf
    quantile: Any = stats.t.isf(stats.norm.sf(SIGMAS), count - 1)
    return float(quantile)
