"""How a simulated annotator chooses: the probability of each answer in closed form.

The annotator looks at gold scores through logistic noise of scale 1 / rationality:

    pair     P(first) = sigmoid(beta (g_0 - g_1) + length + position)   (Bradley and Terry 1952)
    rating   P(rating > k) = sigmoid(beta (g - threshold_k) + length)   (ordered logit, McCullagh
             1980), k = 1..4
    binary   P(good) = sigmoid(beta (g - good_from) + length)

Then a share of the answers is reversed (flips), and a share is given without looking (lapses).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
from scipy.special import expit

from textgym.errors import ConfigError

Probabilities = dict[float, float]
"""Answer -> its probability; they sum to 1."""


@dataclass(frozen=True)
class AnnotatorConfig:
    """What a simulated annotator's answers depend on, besides gold.

    Attributes:
        rationality: beta >= 0, per unit of gold. Of a pair, 0 is a coin and infinity never errs
            (equal scores stay a coin); of a single completion, 0 is noise so strong that it is
            rated 1 or 5.
        flips: share in [0, 0.5] of answers reversed at random: the other completion, 6 - rating,
            bad for good. Ties stay. 0.25 is AlpacaFarm's (Dubois et al. 2023, arXiv 2305.14387).
        length_bias: logit added per doubling of the length, log2((1 + a) / (1 + b)) of a and b
            characters: of a pair against the other completion, else against `typical_length`.
        position_bias: logit added for the completion shown first.
        tie_threshold: a pair whose gold scores differ by less is always called a tie.
        lapses: share in [0, 1] of answers given without looking: a coin between the two of a pair
            or good and bad, a rating from 1 to 5, each as likely.
        fatigue: after n labels rationality is beta / (1 + n / fatigue), so that it has halved
            after `fatigue` labels; None for never.
        thresholds: gold from which the better of two ratings becomes the likelier, four numbers
            for 1|2 to 4|5; `quintiles` takes them from a sample.
        good_from: gold from which "good" is likelier than "bad".
        typical_length: characters at which `length_bias` neither lifts nor lowers a single
            completion.
        reading_speed: characters per second; the response time is the time to read prompt and
            completions, times a log-normal factor of median 1 and spread 0.25. None for no clock.

    Raises:
        ConfigError: on construction, for a value outside its domain.
    """

    rationality: float = 12.0
    flips: float = 0.0
    length_bias: float = 0.0
    position_bias: float = 0.0
    tie_threshold: float = 0.0
    lapses: float = 0.0
    fatigue: float | None = None
    thresholds: tuple[float, float, float, float] = (0.2, 0.4, 0.6, 0.8)
    good_from: float = 0.5
    typical_length: int = 100
    reading_speed: float | None = None

    def __post_init__(self) -> None:
        for name in ("rationality", "tie_threshold", "typical_length"):
            if not getattr(self, name) >= 0:
                raise ConfigError(f"{name} must be >= 0, got {getattr(self, name)}")
        for name, most in (("flips", 0.5), ("lapses", 1)):
            if not 0 <= getattr(self, name) <= most:
                raise ConfigError(f"{name} must be in [0, {most}], got {getattr(self, name)}")
        for name in ("length_bias", "position_bias", "good_from"):
            if not math.isfinite(getattr(self, name)):
                raise ConfigError(f"{name} must be finite, got {getattr(self, name)}")
        for name in ("fatigue", "reading_speed"):
            value = getattr(self, name)
            if value is not None and not value > 0:
                raise ConfigError(f"{name} must be > 0, got {value}")
        rising = all(a <= b for a, b in pairwise(self.thresholds))
        if len(self.thresholds) != 4 or not rising or not all(map(math.isfinite, self.thresholds)):
            raise ConfigError(f"thresholds must be 4 rising numbers, got {self.thresholds}")

    def rationality_after(self, given: int) -> float:
        """Returns the rationality that is left after `given` labels."""
        return self.rationality / (1 + (given / self.fatigue if self.fatigue else 0))


def quintiles(gold: Sequence[float]) -> tuple[float, float, float, float]:
    """Returns thresholds that give each rating a fifth of a sample of gold scores.

    Raises:
        ConfigError: an empty sample.

    >>> quintiles([0, 1, 2, 3, 4, 5])
    (1.0, 2.0, 3.0, 4.0)
    """
    if not len(gold):
        raise ConfigError("thresholds need a sample of gold scores, got none")
    a, b, c, d = (float(q) for q in np.quantile(gold, [0.2, 0.4, 0.6, 0.8]))
    return a, b, c, d


def pair_probabilities(
    config: AnnotatorConfig,
    gold: tuple[float, float],
    lengths: tuple[int, int],
    first_shown: int = 0,
    given: int = 0,
) -> Probabilities:
    """Returns the probabilities of 1 (the first completion), 0 (the second) and 0.5 (a tie).

    Args:
        config: the annotator's.
        gold: of the two completions.
        lengths: of the two, characters.
        first_shown: which of the two the annotator sees first, 0 or 1.
        given: labels given before.
    """
    margin = gold[0] - gold[1]
    tie = float(abs(margin) < config.tie_threshold)
    position = config.position_bias * (1 if first_shown == 0 else -1)
    bias = position + config.length_bias * _doublings(*lengths)
    first = _sigmoid(config.rationality_after(given), margin, bias)
    careful = {0.0: (1 - tie) * (1 - first), 0.5: tie, 1.0: (1 - tie) * first}
    return _with_errors(config, careful, {0.0: 0.5, 0.5: 0.0, 1.0: 0.5})


def rating_probabilities(
    config: AnnotatorConfig, gold: float, length: int, given: int = 0
) -> Probabilities:
    """Returns the probabilities of the ratings 1 to 5; the arguments are `pair_probabilities`'."""
    beta, bias = config.rationality_after(given), _length_bias(config, length)
    above = [1.0, *(_sigmoid(beta, gold - t, bias) for t in config.thresholds), 0.0]
    careful = {float(k): a - b for k, (a, b) in enumerate(pairwise(above), 1)}
    return _with_errors(config, careful, dict.fromkeys(careful, 0.2))


def binary_probabilities(
    config: AnnotatorConfig, gold: float, length: int, given: int = 0
) -> Probabilities:
    """Returns the probabilities of 1 (good) and 0; the arguments are `pair_probabilities`'."""
    beta, bias = config.rationality_after(given), _length_bias(config, length)
    good = _sigmoid(beta, gold - config.good_from, bias)
    return _with_errors(config, {0.0: 1 - good, 1.0: good}, {0.0: 0.5, 1.0: 0.5})


def _with_errors(
    config: AnnotatorConfig, careful: Probabilities, unseen: Probabilities
) -> Probabilities:
    """Mixes in the answers that are reversed and those that are given without looking."""
    reflect = min(careful) + max(careful)
    flips, lapses = config.flips, config.lapses
    return {
        label: (1 - lapses) * ((1 - flips) * p + flips * careful[reflect - label])
        + lapses * unseen[label]
        for label, p in careful.items()
    }


def _length_bias(config: AnnotatorConfig, length: int) -> float:
    return config.length_bias * _doublings(length, config.typical_length)


def _doublings(a: int, b: int) -> float:
    return math.log2((1 + a) / (1 + b))


def _sigmoid(rationality: float, margin: float, bias: float) -> float:
    # Infinity times a margin of zero is no number.
    return float(expit((rationality * margin if margin else 0.0) + bias))
