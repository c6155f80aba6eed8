"""What the studies' figures have in common."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import pandas as pd


def lines(axes: Any, summary: pd.DataFrame, x: str, y: str, *, label: str, **style: Any) -> None:
    """Draws a column's means against another column, with bars of two standard errors."""
    ordered = summary.sort_values(x)
    axes.errorbar(
        ordered[x],
        ordered[y],
        yerr=2 * ordered[f"{y}_se"],
        marker="o",
        capsize=3,
        label=label,
        **style,
    )
    axes.spines[["top", "right"]].set_visible(False)
    axes.grid(alpha=0.3)
