"""Made-up rows laid out as SST-2's."""

from __future__ import annotations

from typing import Any

LIKED, LOATHED = ("superb", "lovely", "fine"), ("awful", "dull", "shabby")


def sentences(count: int, offset: int = 0, hidden: bool = False) -> list[dict[str, Any]]:
    """Made-up rows laid out as SST-2's; the last word of the rest tells the label."""
    rows = []
    for i in range(offset, offset + count):
        label = i % 2
        word = (LIKED if label else LOATHED)[(i // 2) % 3]
        text = f"the old film number {i} is for most of us {word}"
        rows.append({"sentence": text, "label": -1 if hidden else label})
    return rows
