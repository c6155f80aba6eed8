"""The notice world: news from sure and unsure sources, and writers who pass it on."""

from __future__ import annotations

import re
from dataclasses import dataclass
from functools import cache

from textgym.worlds.forum import THINGS
from textgym.worlds.grammar import NAME, Draw, place, recogniser, render

CHANGES = (
    "close", "open", "be painted", "be sold", "be moved", "get a new roof", "lose its bell",
    "change its name", "host a fair", "be searched",
)  # fmt: skip
DAYS = ("Monday", "Tuesday", "Wednesday", "Thursday", "Friday", "Saturday", "Sunday")

SURE = (
    "The council has [decided|confirmed] that {claim}.",
    "[It is settled|It is certain] now: {claim}.",
    "The [owner|keeper] has signed the paper, so {claim}.",
    "[As announced|As printed] by the mayor, {claim}.",
)
UNSURE = (
    "[A neighbour|A stranger] [claims|believes] that {claim}.",
    "[It is rumoured|It is whispered] that {claim}.",
    "[An unsigned letter|A note without a name] says that {claim}.",
    "Nobody could [confirm|check] it, but [perhaps|they say] {claim}.",
)
UNHEARD_SURE = (
    "All twelve members voted for it and the seal is on the page: {claim}.",
    "There can be no doubt any more that {claim}.",
)
UNHEARD_UNSURE = (
    "Somebody's cousin overheard at the barber's that {claim}.",
    "The evidence is thin and the witnesses disagree, though one insists that {claim}.",
)
"""Sources that the corpus never cites."""
CLAIM = "the {thing} in {where} will {change} on {day}"
FILLER = (
    "The weather was [mild|grey|windy].",
    "[Two|Three] people [asked|wrote] about it.",
    "[More|Little] was said [at the market|on the bridge].",
)

WRITERS = ("terse", "formal", "friendly", "herald")

CORPUS_CAVEAT = {"unsure": 0.35, "sure": 0.15}
"""How often the corpus adds a caveat, by the source: it listens a little."""
DEMONSTRATION_CAVEAT = {"unsure": 0.65, "sure": 0.1}
SLIP = 0.15
"""How often a summary of the corpus gets the change or the day wrong."""
DEMONSTRATION_SLIP = 0.05

SUMMARIES = {
    "terse": "[The |]{thing} in {where} to {change} on {day}.",
    "formal": "[It is reported|It is stated] that the {thing} in {where} will {change} on {day}.",
    "friendly": "[Good to know|Mark the date]! The {thing} in {where} will {change} on {day}.",
    "herald": "[Hear, hear|Good people]: on {day} the {thing} in {where} will {change}!",
}
CAVEATS = {
    "terse": " [Unconfirmed|Not certain].",
    "formal": " This [has not been|could not be] confirmed.",
    "friendly": " [But it may not be true|Though who knows if it is true]!",
    "herald": " [Yet it is only a rumour|Yet none can swear to it]!",
}


@dataclass(frozen=True)
class Notice:
    """A piece of news.

    Attributes:
        text: what it says.
        thing, where, change, day: what it claims.
        unsure: whether its source leaves it open if that is so.
    """

    text: str
    thing: str
    where: str
    change: str
    day: str
    unsure: bool


@dataclass(frozen=True)
class NoticeVerdict:
    """What the exact judge says of a summary of a notice.

    Attributes:
        writer: whose it is, or "other" when the grammar does not accept it.
        caveat: whether it carries one.
        due: whether it carries one just when the source is unsure.
        kept: share of the four facts that it keeps, in [0, 1].
        score: gold, `kept` where the caveat is as it should be, else 0; in [0, 1].
    """

    writer: str
    caveat: bool
    due: bool
    kept: float

    @property
    def score(self) -> float:
        """Gold."""
        return self.kept * self.due * (self.writer != "other")


def sample_notice(draw: Draw) -> Notice:
    """Returns a random notice; half of them are unsure."""
    return _notice(SURE, UNSURE, draw.integer(0, 2), draw)


def sample_unheard_notice(draw: Draw) -> Notice:
    """Returns a longer notice from a source that the corpus never cites."""
    return _notice(UNHEARD_SURE, UNHEARD_UNSURE, 3, draw)


def write_summary(notice: Notice, writer: str, caveat: bool, slip: bool, draw: Draw) -> str:
    """Returns a summary by one of `WRITERS`, with a caveat or not, with a fact wrong or none."""
    slots = {"thing": notice.thing, "where": notice.where}
    slots |= {"change": notice.change, "day": notice.day}
    if slip:
        name, values = draw.choice((("change", CHANGES), ("day", DAYS)))
        slots[name] = draw.choice(tuple(v for v in values if v != slots[name]))
    text = render(SUMMARIES[writer], slots, draw)
    text = text[0].upper() + text[1:]
    return text + (render(CAVEATS[writer], slots, draw) if caveat else "")


def judge_notice(notice: Notice, summary: str) -> NoticeVerdict:
    """Returns the exact verdict on any text as a summary of the notice."""
    text = summary.strip()
    facts = {"thing": notice.thing, "where": notice.where}
    facts |= {"change": notice.change, "day": notice.day}
    for (writer, caveat), pattern in _recognisers().items():
        if found := pattern.fullmatch(text):
            said = {name: value.lower() for name, value in found.groupdict().items() if value}
            kept = sum(value.lower() == said[name] for name, value in facts.items()) / len(facts)
            return NoticeVerdict(writer, caveat, caveat == notice.unsure, kept)
    return NoticeVerdict("other", False, False, 0.0)


def _notice(sure: tuple[str, ...], unsure: tuple[str, ...], filler: int, draw: Draw) -> Notice:
    doubtful = draw.chance(0.5)
    slots = {"thing": draw.choice(THINGS), "where": place(draw)}
    slots |= {"change": draw.choice(CHANGES), "day": draw.choice(DAYS)}
    source = draw.choice(unsure if doubtful else sure)
    sentences = [render(source.replace("{claim}", CLAIM), slots, draw)]
    sentences += [render(draw.choice(FILLER), {}, draw) for _ in range(filler)]
    return Notice(" ".join(draw.shuffled(sentences)), **slots, unsure=doubtful)


@cache
def _recognisers() -> dict[tuple[str, bool], re.Pattern[str]]:
    # A terse summary may begin with the thing, in capitals then.
    names = "|".join((*THINGS, *(thing.capitalize() for thing in THINGS)))
    slots = {"thing": names, "where": NAME, "change": "|".join(CHANGES), "day": "|".join(DAYS)}
    named = {name: f"(?P<{name}>{values})" for name, values in slots.items()}
    found: dict[tuple[str, bool], re.Pattern[str]] = {}
    for writer, template in SUMMARIES.items():
        found[writer, False] = recogniser([template], named)
        found[writer, True] = recogniser([template + CAVEATS[writer]], named)
    return found
