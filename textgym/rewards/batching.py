"""Scoring many texts at little cost: equal ones once, those of like length together."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import TypeVar

Item = TypeVar("Item")
Score = TypeVar("Score")


def each_once(score: Callable[[list[Item]], Iterable[Score]], items: Sequence[Item]) -> list[Score]:
    """Returns every item's score; equal items, as a trained policy gives many, are scored once.

    >>> each_once(lambda texts: map(len, texts), ["aa", "b", "aa"])
    [2, 1, 2]
    """
    distinct = list(dict.fromkeys(items))
    scores = dict(zip(distinct, score(distinct), strict=True))
    return [scores[item] for item in items]


def buckets(order: Iterable[int], lengths: Sequence[int], limit: int) -> list[list[int]]:
    """Cuts indices, in the order given, into buckets of bounded size.

    Args:
        order: indices, those of like lengths side by side where little is to be spent on padding.
        lengths: of the items.
        limit: most that a bucket may be once padded: items times the longest of them. One item may
            exceed it and is then alone.

    >>> buckets([1, 4, 3, 0, 2], [3, 1, 9, 2, 1], limit=6)
    [[1, 4, 3], [0], [2]]
    """
    found: list[list[int]] = []
    longest = 0
    for i in order:
        longest = max(longest, lengths[i])
        if not found or (len(found[-1]) + 1) * longest > limit:
            found.append([])
            longest = lengths[i]
        found[-1].append(i)
    return found
