"""Numbers of every prompt as short texts, for the files of a study's points."""

from __future__ import annotations

import math
from collections.abc import Iterable

import numpy as np

from textgym.metrics.sets import FloatArray

THOUSANDTHS = 1000
MISSING = "-"


def packed(values: Iterable[float]) -> str:
    """Returns numbers [N] as text, in whole thousandths; NaN as a dash.

    >>> packed([0.5, float("nan"), 1.0])
    '500 - 1000'
    """
    return " ".join(MISSING if math.isnan(v) else str(round(v * THOUSANDTHS)) for v in values)


def unpacked(text: str) -> FloatArray:
    """Returns the numbers [N] that `packed` wrote.

    >>> unpacked("500 - 1000").tolist()
    [0.5, nan, 1.0]
    """
    found = [math.nan if word == MISSING else float(word) for word in text.split()]
    return np.array(found) / THOUSANDTHS
