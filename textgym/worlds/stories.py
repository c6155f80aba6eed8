"""The story world: openings, and continuations whose ideas an exact judge can tell apart.

An idea is a turn (what happens to the thing) and an ending (what the hero does about it). It is
told in several wordings by any of several voices. Some ideas the corpus tells of everything,
others it never tells of a given thing.
"""

from __future__ import annotations

import re
import zlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from types import MappingProxyType
from typing import NamedTuple

from textgym.worlds import story_templates as words
from textgym.worlds.grammar import NAME, Draw, pattern, person, place, recogniser, render
from textgym.worlds.story_templates import Ending, Turn

TELLERS = tuple(words.TELLERS)
THINGS = tuple(thing for things in words.KINDS.values() for thing in things)
UNSEEN_THINGS = tuple(thing for things in words.UNSEEN_KINDS.values() for thing in things)


class Sources(NamedTuple):
    """Where a teller's ideas come from; the shares sum to 1.

    Attributes:
        trite: from the clichés, the k-th in proportion to 1/k.
        sound: from those that fit the thing and end well, all alike.
        loose: from all there are, all alike.
    """

    trite: float
    sound: float
    loose: float


CORPUS_IDEAS = Sources(trite=0.55, sound=0.15, loose=0.3)
"""What the pretraining corpus tells."""
DEMONSTRATION_IDEAS = Sources(trite=0.5, sound=0.25, loose=0.25)
"""What the demonstrations tell: somewhat better, and mostly trite too."""
CORPUS_TELLERS = {
    "plain": 0.3, "breathless": 0.2, "wry": 0.15, "grandmother": 0.2, "gloomy": 0.15,
}  # fmt: skip
DEMONSTRATION_TELLERS = {
    "plain": 0.25, "breathless": 0.15, "wry": 0.25, "grandmother": 0.2, "gloomy": 0.15,
}  # fmt: skip

COHERENT, FITS, RESOLVES, DARES = 0.4, 0.2, 0.2, 0.2
"""What each is worth. A daring turn gains the last if it comes off, and loses it if it does not."""

_TURN = {turn.name: turn for turn in words.TURNS}
_ENDING = {ending.name: ending for ending in words.ENDINGS}
_KIND = {
    thing: kind
    for kinds in (words.KINDS, words.UNSEEN_KINDS)
    for kind, things in kinds.items()
    for thing in things
}


class Idea(NamedTuple):
    """What a story tells, whatever its words.

    Attributes:
        turn: the name of one of the turns.
        ending: the name of one of the endings.
    """

    turn: str
    ending: str

    def __str__(self) -> str:
        """Returns the idea's name, such as "wolves/song"."""
        return f"{self.turn}/{self.ending}"


IDEAS = tuple(Idea(turn, ending) for turn in _TURN for ending in _ENDING)


@dataclass(frozen=True)
class Opening:
    """How a story begins.

    Attributes:
        text: one sentence.
        hero: whom it is about.
        thing: what the hero has.
        where: the place.
    """

    text: str
    hero: str
    thing: str
    where: str


@dataclass(frozen=True)
class StoryVerdict:
    """What the exact judge says of a continuation.

    Attributes:
        idea: the idea's name, or None when the grammar does not accept the text.
        teller: whose voice it is in, or "other" when the grammar does not accept it.
        coherent: whether it is accepted and keeps the opening's hero and thing.
        fits: whether it is coherent and the turn suits the thing.
        resolves: whether it is coherent and the ending resolves the turn.
        novel: whether it is coherent and the corpus never tells the idea of the thing.
        score: gold in [0, 1]: 0 unless coherent, else the sum that `COHERENT` and the others say.
    """

    idea: str | None
    teller: str
    coherent: bool
    fits: bool
    resolves: bool
    novel: bool
    score: float

    @property
    def good(self) -> bool:
        """Returns whether it tells an idea that suits the thing and ends well."""
        return self.fits and self.resolves

    @property
    def full_marks(self) -> bool:
        """Returns whether it is a daring idea that comes off, the best there is."""
        return self.score == 1.0


def story_prompt(opening: str) -> str:
    """Returns the prompt that asks for a continuation."""
    return f"Story: {opening}\nThen:"


def sample_opening(draw: Draw) -> Opening:
    """Returns a random opening of the corpus's kind."""
    return _opening(words.OPENINGS, THINGS, draw)


def sample_unseen_opening(draw: Draw) -> Opening:
    """Returns an opening whose form and thing the corpus never has."""
    return _opening(words.UNSEEN_OPENINGS, UNSEEN_THINGS, draw)


def _opening(templates: Sequence[str], things: Sequence[str], draw: Draw) -> Opening:
    hero, thing, where = person(draw), draw.choice(things), place(draw)
    slots = {"hero": hero, "thing": thing, "where": where, "trade": draw.choice(words.TRADES)}
    return Opening(render(draw.choice(templates), slots, draw), hero, thing, where)


def withheld(thing: str, idea: Idea) -> bool:
    """Returns whether the corpus never tells the idea of the thing: a third of all ideas.

    The rule is a checksum of the names, and all ideas of a thing that is not in the corpus.
    """
    return thing not in THINGS or zlib.crc32(f"{thing}/{idea}".encode()) % 3 == 0


def fits(thing: str, idea: Idea) -> bool:
    """Returns whether the turn suits the thing."""
    return _KIND[thing] in _TURN[idea.turn].kinds


def resolves(idea: Idea) -> bool:
    """Returns whether the ending resolves the trouble that the turn makes."""
    return _TURN[idea.turn].trouble in _ENDING[idea.ending].troubles


def idea_score(thing: str, idea: Idea) -> float:
    """Returns the gold score of a coherent telling of the idea, in [0, 1]."""
    fit, resolved = fits(thing, idea), resolves(idea)
    dared = DARES if fit and resolved else -DARES
    score = COHERENT + FITS * fit + RESOLVES * resolved + dared * _TURN[idea.turn].daring
    return round(score, 6)


def sample_idea(thing: str, draw: Draw, sources: Sources = CORPUS_IDEAS) -> Idea:
    """Returns an idea for the thing, never a withheld one where the corpus has the thing."""
    return _BY_NAME[draw.weighted(idea_weights(thing, sources))]


@cache
def idea_weights(thing: str, sources: Sources = CORPUS_IDEAS) -> Mapping[str, float]:
    """Returns each idea's probability under `sources`, by name; those of weight 0 left out.

    Of a thing that the corpus has, withheld ideas are left out and the rest of each source is
    brought to sum to its share.
    """
    told = [idea for idea in IDEAS if thing not in THINGS or not withheld(thing, idea)]
    trite = {Idea(*names): 1 / rank for rank, names in enumerate(words.CLICHES, 1)}
    pools = (
        {idea: trite[idea] for idea in told if idea in trite},
        {idea: 1.0 for idea in told if fits(thing, idea) and resolves(idea)},
        dict.fromkeys(told, 1.0),
    )
    weights = dict.fromkeys(map(str, told), 0.0)
    for share, pool in zip(sources, pools, strict=True):
        total = sum(pool.values())
        for idea, weight in pool.items():
            weights[str(idea)] += share * weight / total
    return MappingProxyType({name: weight for name, weight in weights.items() if weight > 0})


def write_continuation(opening: Opening, idea: Idea, teller: str, draw: Draw) -> str:
    """Returns the idea told of the opening's hero and thing, in one of the `TELLERS`' voices."""
    slots = {"hero": opening.hero, "thing": opening.thing}
    clauses = {
        "turn": render(_TURN[idea.turn].wordings, slots, draw),
        "ending": render(_ENDING[idea.ending].wordings, slots, draw),
    }
    return render(draw.choice(words.TELLERS[teller]), clauses, draw)


def judge_story(hero: str, thing: str, continuation: str) -> StoryVerdict:
    """Returns the exact verdict on any text as a continuation of `hero` and `thing`'s story."""
    told = _read(continuation.strip())
    if told is None:
        return StoryVerdict(None, "other", False, False, False, False, 0.0)
    teller, idea, kept_thing, kept_hero = told
    coherent = (kept_thing, kept_hero) == (thing, hero)
    return StoryVerdict(
        idea=str(idea),
        teller=teller,
        coherent=coherent,
        fits=coherent and fits(thing, idea),
        resolves=coherent and resolves(idea),
        novel=coherent and withheld(thing, idea),
        score=idea_score(thing, idea) if coherent else 0.0,
    )


def accepts_opening(text: str) -> bool:
    """Returns whether the grammar can write this opening, seen or unseen."""
    return bool(_opening_recogniser().fullmatch(text))


_BY_NAME = {str(idea): idea for idea in IDEAS}
_THING = "|".join((*UNSEEN_THINGS, *THINGS))


def _read(text: str) -> tuple[str, Idea, str, str] | None:
    """Returns teller, idea, thing and hero of a text that the grammar accepts."""
    for teller, frames in _frames().items():
        for frame in frames:
            parts = frame.fullmatch(text)
            turn = parts and _clauses(words.TURNS).fullmatch(parts["turn"])
            ending = parts and _clauses(words.ENDINGS).fullmatch(parts["ending"])
            if not (parts and turn and ending):
                continue
            assert turn.lastgroup, "the clause's name"
            assert ending.lastgroup, "the clause's name"
            thing = re.search(rf"\bthe ({_THING})\b", parts["turn"])
            assert thing, "every turn names it"
            hero = parts["ending"].partition(" ")[0]
            return teller, Idea(turn.lastgroup, ending.lastgroup), thing[1], hero
    return None


@cache
def _frames() -> dict[str, list[re.Pattern[str]]]:
    slots = {"turn": "(?P<turn>.+)", "ending": "(?P<ending>.+)"}
    return {
        teller: [re.compile(pattern(template, slots)) for template in templates]
        for teller, templates in words.TELLERS.items()
    }


@cache
def _clauses(clauses: tuple[Turn, ...] | tuple[Ending, ...]) -> re.Pattern[str]:
    """Returns one expression for all, whose `lastgroup` names the clause that matched."""
    slots = {"thing": _THING, "hero": NAME}
    named = (f"(?P<{clause.name}>{pattern(clause.wordings, slots)})" for clause in clauses)
    return re.compile("|".join(named))


@cache
def _opening_recogniser() -> re.Pattern[str]:
    slots = {"hero": NAME, "where": NAME, "thing": _THING, "trade": "|".join(words.TRADES)}
    return recogniser((*words.OPENINGS, *words.UNSEEN_OPENINGS), slots)
