"""The columns that judges need."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from textgym.errors import RewardError


def column(columns: Mapping[str, list[Any]], name: str) -> list[Any]:
    """Returns a column that a judge needs. Raises: RewardError, naming those that are there."""
    if name not in columns:
        there = ", ".join(sorted(columns)) or "none"
        raise RewardError(f"the gold judge needs a column {name!r}; the columns are {there}")
    return columns[name]
