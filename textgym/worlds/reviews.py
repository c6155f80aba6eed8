"""The review world: the opening of a review, and critics who finish it, kindly or not.

Every critic can praise, shrug and complain, and does so equally often: sentiment says nothing of
the voice. A policy can be positive in all five voices, so any voice it loses is lost by the
algorithm and not asked for by the reward.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from functools import cache

from textgym.worlds.grammar import NAME, Draw, pattern, place, recogniser, render
from textgym.worlds.review_templates import (
    FIGURES,
    FRAMINGS,
    PREFIXES,
    SHIFTED_PREFIXES,
    VERDICTS,
)

VOICES = ("connoisseur", "local", "traveller", "accountant", "youngster")

SENTIMENTS = {"negative": -1, "neutral": 0, "positive": 1}

CORPUS_SENTIMENTS = {"negative": 0.45, "neutral": 0.2, "positive": 0.35}
"""How often each sentiment is met in the pretraining corpus, whoever writes."""

DEMONSTRATION_SENTIMENTS = {"negative": 0.35, "neutral": 0.25, "positive": 0.4}
"""How often the demonstrations hold each sentiment: they lean to praise, and only lean."""

CORPUS_VOICES = dict.fromkeys(VOICES, 0.2)
"""How often each critic writes, whatever the sentiment; the demonstrations hold the same shares."""

THINGS = (
    "soup", "pie", "bread", "stew", "tea", "coffee", "cake", "ale", "breakfast", "supper",
    "cheese", "salad", "pudding", "porridge", "room", "bed", "bath", "balcony", "garden",
    "terrace", "sauna", "tour", "concert", "quiz", "view", "welcome", "parlour", "fireplace",
)  # fmt: skip
SHIFTED_THINGS = ("library", "orchard", "choir", "pool", "omelette", "lemonade", "hammock", "roast")
"""Things that no review in the corpus is about; the forum speaks of half of them."""

VENUES = ("inn", "hotel", "tavern", "lodge", "guesthouse", "hostel", "manor", "cafe")

OFF_TOPIC = 0.75
"""Share of its score that a review keeps which does not say again what it is about."""


@dataclass(frozen=True)
class Review:
    """The opening of a review.

    Attributes:
        prefix: what it says, up to the verb.
        thing: the thing that is reviewed.
        where: the place it is found in.
    """

    prefix: str
    thing: str
    where: str


@dataclass(frozen=True)
class ReviewVerdict:
    """What the exact judge says of a continuation.

    Attributes:
        voice: whose it is, or "other" when the grammar does not accept it.
        sentiment: 1 positive, 0 neutral or mixed (or not well formed), -1 negative.
        well_formed: whether the grammar accepts it.
        on_topic: whether it names the thing or the place, and no other thing.
        score: gold, in [0, 1]: 1 positive, 0.5 neutral, 0 negative or not well formed, times
            `OFF_TOPIC` unless it is on topic.
    """

    voice: str
    sentiment: int
    well_formed: bool
    on_topic: bool
    score: float


def review_prompt(prefix: str) -> str:
    """Returns the prompt that asks for the rest of a review."""
    return f"Review: {prefix}"


def sample_review(draw: Draw, shifted: bool = False) -> Review:
    """Returns a random opening.

    No review in the corpus has the wording of a `shifted` one, or is about its thing.
    """
    thing, where = draw.choice(SHIFTED_THINGS if shifted else THINGS), place(draw)
    template = draw.choice(SHIFTED_PREFIXES if shifted else PREFIXES)
    slots = {"thing": thing, "where": where}
    if "{venue}" in template:
        slots["venue"] = draw.choice(VENUES)
    return Review(render(template, slots, draw), thing, where)


def write_continuation(review: Review, voice: str, sentiment: str, draw: Draw) -> str:
    """Returns the rest of the review by one of `VOICES`, with one of `SENTIMENTS`."""
    template = draw.choice(_templates(voice, sentiment))
    slots = {"thing": review.thing, "where": review.where}
    if "{verdict}" in template:
        slots["verdict"] = render(draw.choice(VERDICTS[sentiment]), {}, draw)
    return render(template, slots, draw)


def judge_review(thing: str, where: str, continuation: str) -> ReviewVerdict:
    """Returns the exact verdict on any text as the rest of a review of `thing` in `where`."""
    text = continuation.strip()
    named = set(re.findall(r"[A-Za-z]+", text))
    others = named.intersection(THINGS + SHIFTED_THINGS) - {thing}
    on_topic = bool(named & {thing, where}) and not others
    found = next(iter(readings(text)), None)
    if found is None:
        return ReviewVerdict("other", 0, False, on_topic, 0.0)
    voice, sentiment = found
    value = SENTIMENTS[sentiment]
    score = (value + 1) / 2 * (1.0 if on_topic else OFF_TOPIC)
    return ReviewVerdict(voice, value, True, on_topic, score)


def readings(continuation: str) -> list[tuple[str, str]]:
    """Returns every voice and sentiment that can write this text; the grammar gives one at most."""
    return [
        (voice, sentiment)
        for voice in VOICES
        for sentiment in SENTIMENTS
        if _recogniser(voice, sentiment).fullmatch(continuation)
    ]


def accepts_prefix(text: str) -> bool:
    """Returns whether the grammar can write this opening, shifted ones included."""
    return bool(_prefix_recogniser().fullmatch(text))


_SLOT_PATTERNS = {
    "thing": "|".join(THINGS + SHIFTED_THINGS),
    "where": NAME,
    "venue": "|".join(VENUES),
}


def _templates(voice: str, sentiment: str) -> tuple[str, ...]:
    return FRAMINGS[voice] + FIGURES[voice][sentiment]


@cache
def _recogniser(voice: str, sentiment: str) -> re.Pattern[str]:
    verdict = "|".join(pattern(template, {}) for template in VERDICTS[sentiment])
    return recogniser(_templates(voice, sentiment), {**_SLOT_PATTERNS, "verdict": verdict})


@cache
def _prefix_recogniser() -> re.Pattern[str]:
    return recogniser(PREFIXES + SHIFTED_PREFIXES, _SLOT_PATTERNS)
