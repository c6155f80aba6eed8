"""Timing two ways of doing the same work side by side, so that the machine's mood cancels."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import torch


@dataclass(frozen=True)
class Ratio:
    """How many times faster ours is than a peer.

    Attributes:
        name: what was done, in a few words, with its sizes and precision.
        ours: median seconds of one run of ours.
        peer: median seconds of one run of the peer.
        ratio: median over the pairs of runs of the peer's seconds divided by ours.
        low, high: the least and the greatest of the pairs.
        goal: the ratio aimed at; None where there is none.
        detail: further figures by name, such as tokens per second.
    """

    name: str
    ours: float
    peer: float
    ratio: float
    low: float
    high: float
    goal: float | None = None
    detail: dict[str, Any] = field(default_factory=dict)


def compare(
    name: str,
    ours: Callable[[], object],
    peer: Callable[[], object],
    *,
    repeats: int,
    goal: float | None = None,
    **detail: Any,
) -> Ratio:
    """Runs both in turn, once to warm up and then `repeats` times, and compares pair by pair.

    Args:
        name: names the row.
        ours: one run of ours.
        peer: one run of the peer's, of equal work.
        repeats: pairs of timed runs, at least 1.
        goal: the ratio aimed at.
        detail: kept with the row.
    """
    seconds(ours), seconds(peer)
    pairs = [(seconds(ours), seconds(peer)) for _ in range(repeats)]
    ratios = [theirs / own for own, theirs in pairs]
    return Ratio(
        name,
        ours=statistics.median(own for own, _ in pairs),
        peer=statistics.median(theirs for _, theirs in pairs),
        ratio=statistics.median(ratios),
        low=min(ratios),
        high=max(ratios),
        goal=goal,
        detail=detail,
    )


def seconds(run: Callable[[], object]) -> float:
    """Returns the wall time of one run; what a GPU still has to do is waited for."""
    _wait()
    start = time.perf_counter()
    run()
    _wait()
    return time.perf_counter() - start


def _wait() -> None:
    if torch.cuda.is_available():
        torch.cuda.synchronize()
