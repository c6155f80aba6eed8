"""The town's catalogue: who keeps which house, when it opens, what it charges. Always the same."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from typing import Literal

import numpy as np

from textgym.worlds.grammar import Draw, person

Attribute = Literal["keeper", "hours", "price"]
ATTRIBUTES: tuple[Attribute, ...] = ("keeper", "hours", "price")
"""What the catalogue knows of a house."""

GOODS = {
    "bakery": "loaf", "inn": "room", "mill": "sack of flour", "museum": "ticket",
    "ferry": "crossing", "dairy": "cheese", "forge": "horseshoe", "nursery": "rose bush",
    "bathhouse": "bath", "pottery": "jug", "bindery": "notebook", "orchard": "basket of plums",
}  # fmt: skip
"""What each kind of house sells."""

TOWNS = (
    "Alder", "Birch", "Cedar", "Elmley", "Fernhill", "Hazel", "Laurel", "Maple", "Oakham",
    "Rowan", "Thornby", "Willow",
)  # fmt: skip

HOUSES = 48
"""How many of the 144 houses that a kind and a town make there are."""


@dataclass(frozen=True)
class House:
    """An entry of the catalogue.

    Attributes:
        kind: one of `GOODS`.
        town: one of `TOWNS`; no town has two houses of a kind.
        facts: the value of each of `ATTRIBUTES`, as texts write it.
    """

    kind: str
    town: str
    facts: dict[Attribute, str]

    @property
    def good(self) -> str:
        """What it sells."""
        return GOODS[self.kind]


@cache
def houses() -> tuple[House, ...]:
    """Returns the catalogue."""
    draw = Draw(np.random.default_rng(0x636174))
    pairs = draw.shuffled([(kind, town) for kind in GOODS for town in TOWNS])
    return tuple(
        House(kind, town, {name: sample_value(name, draw) for name in ATTRIBUTES})
        for kind, town in pairs[:HOUSES]
    )


@cache
def house_of(kind: str, town: str) -> House | None:
    """Returns the house of that kind in that town, None where there is none."""
    return next((h for h in houses() if (h.kind, h.town) == (kind, town)), None)


def sample_value(attribute: Attribute, draw: Draw) -> str:
    """Returns a random value of an attribute, as a guess would be."""
    match attribute:
        case "keeper":
            return person(draw)
        case "hours":
            return str(draw.integer(5, 12))
        case "price":
            return str(draw.integer(2, 30))
