"""A template language that both writes text and recognises it, so that the judges are exact.

`[a|b|c]` is a uniform choice (choices nest), `{slot}` is filled in. The same template renders a
sentence and compiles to the regular expression that accepts exactly what it can render.
"""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Hashable, Mapping, Sequence
from functools import cache
from typing import TypeVar

import numpy as np

T = TypeVar("T", bound=Hashable)

_TOKEN = re.compile(r"[\[\]|]|\{\w+\}|[^\[\]|{}]+")


class Draw:
    """Random choices that add up their own information content.

    Attributes:
        rng: where the randomness comes from.
        nats: -log probability of all that was drawn so far. For a document written through one
            Draw it is the document's exact negative log-probability, as long as no other series
            of draws writes the same text (otherwise an upper bound).
    """

    def __init__(self, rng: np.random.Generator) -> None:
        self.rng = rng
        self.nats = 0.0

    def integer(self, low: int, high: int) -> int:
        """Returns a uniform integer in [low, high)."""
        self.nats += math.log(high - low)
        return int(self.rng.integers(low, high))

    def choice(self, items: Sequence[T], *, told: bool = True) -> T:
        """Returns a uniform choice, which adds no information unless it is `told` in the text."""
        before = self.nats
        chosen = items[self.integer(0, len(items))]
        if not told:
            self.nats = before
        return chosen

    def chance(self, probability: float) -> bool:
        """Returns True with the given probability."""
        hit = bool(self.rng.random() < probability)
        self.nats -= math.log(probability if hit else 1 - probability)
        return hit

    def weighted(self, weights: Mapping[str, float]) -> str:
        """Returns a key, drawn in proportion to its weight."""
        names = list(weights)
        p = np.array([weights[name] for name in names])
        p = p / p.sum()
        index = int(np.searchsorted(np.cumsum(p), self.rng.random(), side="right"))
        index = min(index, len(names) - 1)
        self.nats -= math.log(p[index])
        return names[index]

    def shuffled(self, items: Sequence[T]) -> list[T]:
        """Returns the items in a uniformly random order; equal items count as alike."""
        alike = Counter(items).values()
        self.nats += math.lgamma(len(items) + 1) - sum(math.lgamma(n + 1) for n in alike)
        return [items[i] for i in self.rng.permutation(len(items))]

    def subset(self, items: Sequence[T], low: int, high: int) -> list[T]:
        """Returns a uniform number in [low, high) of the items, or all there are if that is more.

        Subsets of one size are equally probable.
        """
        order = self.rng.permutation(len(items))
        size = min(int(self.rng.integers(low, high)), len(items))
        ways = high - size if size == len(items) else 1
        self.nats += math.log((high - low) / ways * math.comb(len(items), size))
        return [items[i] for i in order[:size]]


# A parsed template is a sequence of parts: text, a slot "{name}", or a choice (list of sequences).
Part = str | list["Sequence_"]
Sequence_ = tuple[Part, ...]


@cache
def parse(template: str) -> Sequence_:
    """Returns the parsed template. Raises ValueError for unbalanced brackets."""
    tokens = _TOKEN.findall(template)
    if "".join(tokens) != template:
        raise ValueError(f"bad template {template!r}")
    parts, rest = _parse_sequence(tokens, 0)
    if rest != len(tokens):
        raise ValueError(f"unbalanced ']' or '|' in template {template!r}")
    return parts


def _parse_sequence(tokens: list[str], at: int) -> tuple[Sequence_, int]:
    parts: list[Part] = []
    while at < len(tokens) and tokens[at] not in "|]":
        if tokens[at] != "[":
            parts.append(tokens[at])
            at += 1
            continue
        options: list[Sequence_] = []
        while True:
            option, at = _parse_sequence(tokens, at + 1)
            options.append(option)
            if at >= len(tokens):
                raise ValueError(f"unclosed '[' in template {''.join(tokens)!r}")
            if tokens[at] == "]":
                break
        parts.append(options)
        at += 1
    return tuple(parts), at


def render(template: str, slots: Mapping[str, str], draw: Draw) -> str:
    """Returns one text of the template.

    >>> draw = Draw(np.random.default_rng(0))
    >>> render("A [red|blue] {thing}.", {"thing": "boat"}, draw)
    'A blue boat.'
    >>> round(draw.nats, 3)
    0.693
    """
    return _render(parse(template), slots, draw)


def _render(parts: Sequence_, slots: Mapping[str, str], draw: Draw) -> str:
    out = []
    for part in parts:
        if isinstance(part, list):
            out.append(_render(draw.choice(part), slots, draw))
        elif part.startswith("{"):
            out.append(slots[part[1:-1]])
        else:
            out.append(part)
    return "".join(out)


def pattern(template: str, slot_patterns: Mapping[str, str]) -> str:
    """Returns the regular expression of the template's texts; each slot matches its own pattern."""
    return _pattern(parse(template), slot_patterns)


def _pattern(parts: Sequence_, slot_patterns: Mapping[str, str]) -> str:
    out = []
    for part in parts:
        if isinstance(part, list):
            out.append(f"(?:{'|'.join(_pattern(option, slot_patterns) for option in part)})")
        elif part.startswith("{"):
            out.append(f"(?:{slot_patterns[part[1:-1]]})")
        else:
            out.append(re.escape(part))
    return "".join(out)


def recogniser(templates: Sequence[str], slot_patterns: Mapping[str, str]) -> re.Pattern[str]:
    """Returns a compiled expression for `fullmatch` against any of the templates."""
    return re.compile("|".join(pattern(t, slot_patterns) for t in templates))


def count(template: str) -> int:
    """Returns how many texts a template has, slots apart."""
    return _count(parse(template))


def _count(parts: Sequence_) -> int:
    total = 1
    for part in parts:
        if isinstance(part, list):
            total *= sum(_count(option) for option in part)
    return total


_ONSETS = ("B", "D", "F", "G", "H", "K", "L", "M", "N", "P", "R", "S", "T", "V", "Br", "Dr", "Gr",
           "Kl", "St", "Tr")  # fmt: skip
_VOWELS = ("a", "e", "i", "o", "u")
_MIDDLES = ("l", "m", "n", "r", "s", "v", "rd", "lm", "nd", "sk", "rt", "lv")
_PERSON_ENDS = ("ano", "ik", "en", "ova", "as", "er", "imo", "un", "eth", "ila")
_PLACE_ENDS = ("bury", "ford", "stead", "ham", "wick", "dale", "mouth", "port", "field", "ness")

NAME = r"[A-Z][a-z]+"
"""What a person's or a place's name looks like."""


def person(draw: Draw) -> str:
    """Returns one of 12,000 one-word names of people, such as "Marvila"."""
    return _name(draw, _PERSON_ENDS)


def place(draw: Draw) -> str:
    """Returns one of 12,000 names of places, such as "Kelbury"."""
    return _name(draw, _PLACE_ENDS)


def _name(draw: Draw, ends: Sequence[str]) -> str:
    return draw.choice(_ONSETS) + draw.choice(_VOWELS) + draw.choice(_MIDDLES) + draw.choice(ends)
