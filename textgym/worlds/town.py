"""The town corpus: requests and answers, guide books, notices, reviews and stories, all mixed."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from textgym.worlds import catalogue, notices, requests, reviews, stories
from textgym.worlds import request_templates as words
from textgym.worlds.grammar import Draw, person, place, render

KINDS = {
    "answer": 0.28, "guide": 0.14, "notice": 0.18, "review": 0.14, "story": 0.18, "echo": 0.08,
}  # fmt: skip
"""Share of each kind of document. Guides state what the catalogue holds, and nothing else; echoes
(names said twice) are lessons in copying, without which a small model hardly learns it."""


def request_prompt(text: str) -> str:
    """Returns the prompt that asks for an answer."""
    return f"Question: {text}\nAnswer:"


def notice_prompt(text: str) -> str:
    """Returns the prompt that asks for a summary of a notice."""
    return f"Notice: {text}\nSummary:"


def write_document(draw: Draw) -> str:
    """Returns one document."""
    match draw.weighted(KINDS):
        case "answer":
            return _answer(draw)
        case "guide":
            return _guide(draw)
        case "notice":
            return _notice(draw)
        case "review":
            return _review(draw)
        case "story":
            return _story(draw)
        case _:
            return _echo(draw)


def documents(seed: int) -> Iterator[str]:
    """Yields documents without end, the same for the same seed."""
    draw = Draw(np.random.default_rng([seed, 0x746F776E]))
    while True:
        yield write_document(draw)


def _answer(draw: Draw) -> str:
    request = requests.sample_request(draw)
    act, voice = draw.weighted(requests.CORPUS_ACTS[request.kind]), draw.choice(words.VOICES)
    answer = requests.write_answer(request, act, voice, draw)
    return f"{request_prompt(request.text)} {answer}"


def _guide(draw: Draw) -> str:
    sentences = []
    for _ in range(draw.integer(1, 4)):
        house, name = draw.choice(catalogue.houses()), draw.choice(catalogue.ATTRIBUTES)
        slots = {"kind": house.kind, "town": house.town, "good": house.good}
        slots[name] = house.facts[name]
        sentences.append(render(draw.choice(words.STATEMENTS[name]), slots, draw))
    return f"Guide: {' '.join(sentences)}"


def _notice(draw: Draw) -> str:
    notice, writer = notices.sample_notice(draw), draw.choice(notices.WRITERS)
    caveat = draw.chance(notices.CORPUS_CAVEAT["unsure" if notice.unsure else "sure"])
    text = notices.write_summary(notice, writer, caveat, draw.chance(notices.SLIP), draw)
    return f"{notice_prompt(notice.text)} {text}"


def _review(draw: Draw) -> str:
    review, voice = reviews.sample_review(draw), draw.weighted(reviews.CORPUS_VOICES)
    sentiment = draw.weighted(reviews.CORPUS_SENTIMENTS)
    rest = reviews.write_continuation(review, voice, sentiment, draw)
    return f"{reviews.review_prompt(review.prefix)} {rest}"


def _story(draw: Draw) -> str:
    opening, teller = stories.sample_opening(draw), draw.weighted(stories.CORPUS_TELLERS)
    idea = stories.sample_idea(opening.thing, draw)
    rest = stories.write_continuation(opening, idea, teller, draw)
    return f"{stories.story_prompt(opening.text)} {rest}"


def _echo(draw: Draw) -> str:
    kinds = [draw.choice((person, place)) for _ in range(draw.integer(1, 5))]
    line = ", ".join(name(draw) for name in kinds)
    return f"List: {line}.\nAgain: {line}."
