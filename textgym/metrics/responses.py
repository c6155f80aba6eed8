"""Plain numbers about responses: length, truncation, duplicates, and which voices they cover."""

from __future__ import annotations

from collections import Counter
from collections.abc import Hashable, Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike
from scipy.stats import entropy

from textgym.errors import ConfigError
from textgym.metrics.sets import FloatArray


def response_lengths(mask: ArrayLike) -> FloatArray:
    """Returns [B], the tokens of each response, EOS included, from its mask [B, T]."""
    return np.asarray(np.asarray(mask, bool).sum(axis=1), float)


def truncation_rate(truncated: ArrayLike) -> float:
    """Returns the share of responses that the length limit cut, from [B] bool.

    Raises:
        ConfigError: no responses.
    """
    cut = np.asarray(truncated, bool)
    if not cut.size:
        raise ConfigError("truncation rate needs at least one response")
    return float(cut.mean())


def duplicate_rate(texts: Sequence[Sequence[Hashable]]) -> float:
    """Returns the share of texts that repeat an earlier one, `1 - distinct / total`; in [0, 1).

    Raises:
        ConfigError: no texts.

    >>> duplicate_rate(["yes", "no", "yes", "yes"])
    0.5
    """
    if not len(texts):
        raise ConfigError("duplicate rate needs at least one text")
    return 1 - len({tuple(text) for text in texts}) / len(texts)


class ModeCoverage(NamedTuple):
    """How many of the world's voices a set of responses speaks in.

    Attributes:
        entropy: of the voices' shares, nats.
        modes: number of voices with a share above 1%.
    """

    entropy: float
    modes: int


def mode_coverage(labels: Sequence[Hashable], threshold: float = 0.01) -> ModeCoverage:
    """Returns the entropy of the labels' shares (plug-in estimate) and the number above 1%.

    Raises:
        ConfigError: no labels.

    >>> mode_coverage(["poet"] * 4).modes
    1
    """
    if not len(labels):
        raise ConfigError("mode coverage needs at least one label")
    shares = np.array(list(Counter(labels).values())) / len(labels)
    return ModeCoverage(float(entropy(shares)), int((shares > threshold).sum()))
