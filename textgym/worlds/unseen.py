"""Names that the worlds' corpus cannot hold: none of its names begins with these letters."""

from __future__ import annotations

from collections.abc import Sequence

from textgym.worlds.grammar import Draw

_ONSETS = ("C", "Ch", "Cl", "Cr", "J", "W", "Y", "Z")
_VOWELS = ("ai", "oa", "ou", "ee")
_MIDDLES = ("b", "g", "p", "x", "ck", "ff", "zz")
_PERSON_ENDS = ("otte", "yn", "us", "ando", "ette")
_PLACE_ENDS = ("burgh", "ville", "gate", "worth", "minster")


def unseen_person(draw: Draw) -> str:
    """Returns one of 1,120 one-word names of people, such as "Jaibotte"."""
    return _name(draw, _PERSON_ENDS)


def unseen_place(draw: Draw) -> str:
    """Returns one of 1,120 names of places, such as "Zoackville"."""
    return _name(draw, _PLACE_ENDS)


def _name(draw: Draw, ends: Sequence[str]) -> str:
    return draw.choice(_ONSETS) + draw.choice(_VOWELS) + draw.choice(_MIDDLES) + draw.choice(ends)
