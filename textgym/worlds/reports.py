"""The report world: short news reports with five known facts, and writers who summarise them."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache

from textgym.worlds import report_templates as words
from textgym.worlds.grammar import NAME, Draw, person, place, recogniser, render
from textgym.worlds.report_templates import SHIFTED_TOPICS, TOPICS, Topic
from textgym.worlds.unseen import unseen_person, unseen_place

FACTS = ("event", "who", "where", "when", "amount")

WRITERS = ("concise", "lead", "rambling", "inventing", "off_topic")

CORPUS_WRITERS = {
    "concise": 0.25, "lead": 0.2, "rambling": 0.2, "inventing": 0.15, "off_topic": 0.2,
}  # fmt: skip
"""How often each writer appears in the pretraining corpus."""

DEMONSTRATION_WRITERS = {"concise": 0.45, "lead": 0.25, "rambling": 0.2, "inventing": 0.1}
"""Who writes the human demonstrations: good on the whole, far from the best attainable."""

BREVITY_WORDS = 20
"""Words a summary may have before its gold score shrinks in proportion."""

FILLERS, SHIFTED_FILLERS = (0, 3), (4, 9)
"""Sentences beside the facts that a report has: from the first to below the second."""

_ALL_TOPICS = (*TOPICS, *SHIFTED_TOPICS)
_TOPIC_OF = {topic.key: topic for topic in _ALL_TOPICS}
_WORD = re.compile(r"[A-Za-z]+|\d+:\d+|\d+")


@dataclass(frozen=True)
class Report:
    """A report and the facts it states.

    Attributes:
        text: the report, a lead sentence and others in random order.
        facts: the value of each of `FACTS`; "event" is the topic's key word.
    """

    text: str
    facts: dict[str, str]

    @property
    def topic(self) -> Topic:
        """What happened."""
        return _TOPIC_OF[self.facts["event"]]

    @property
    def lead(self) -> str:
        """The first sentence."""
        return self.text.partition(".")[0] + "."


@dataclass(frozen=True)
class SummaryVerdict:
    """What the exact judge says of a summary.

    Attributes:
        covered: facts of the report that it states, 0 to 5.
        invented: names, times, numbers and events it states that the report does not.
        words: its length.
        writer: whose voice it is in, or "other" when the grammar does not accept it.
        well_formed: whether the grammar accepts it.
        score: gold, `max(0, covered - invented) / 5 * min(1, 20 / words)`, in [0, 1].
    """

    covered: int
    invented: int
    words: int
    writer: str
    well_formed: bool
    score: float


def sample_value(fact: str, draw: Draw) -> str:
    """Returns a random value of one of `FACTS`; all but events come from thousands of values."""
    match fact:
        case "event":
            return draw.choice(TOPICS).key
        case "who":
            return person(draw)
        case "where":
            return place(draw)
        case "when":
            return f"{draw.integer(0, 24):02d}:{draw.integer(0, 60):02d}"
        case "amount":
            return str(draw.integer(110, 10000))
    raise ValueError(f"unknown fact {fact!r}; expected one of {', '.join(FACTS)}")


def sample_report(draw: Draw) -> Report:
    """Returns a random report."""
    return _write_report({fact: sample_value(fact, draw) for fact in FACTS}, FILLERS, draw)


def sample_shifted_report(draw: Draw) -> Report:
    """Returns a report that the corpus cannot hold: longer, and one thing in it is unseen.

    That is its topic, its person or its place: with all three at once a model that copies by habit
    would score 0 whatever it was tuned to, and nothing could be compared.
    """
    facts = {fact: sample_value(fact, draw) for fact in FACTS}
    unseen = draw.choice(("event", "who", "where"))
    facts[unseen] = _unseen_value(unseen, draw)
    return _write_report(facts, SHIFTED_FILLERS, draw)


def _unseen_value(fact: str, draw: Draw) -> str:
    if fact == "event":
        return draw.choice(SHIFTED_TOPICS).key
    return unseen_person(draw) if fact == "who" else unseen_place(draw)


def _write_report(facts: dict[str, str], fillers: tuple[int, int], draw: Draw) -> Report:
    slots = _slots(facts)
    lead = render(words.LEAD.replace("{lead}", _TOPIC_OF[facts["event"]].lead), slots, draw)
    kinds: list[tuple[str, ...]] = [words.WHO, words.WHEN, words.AMOUNT]
    kinds += [words.FILLER] * draw.integer(*fillers)
    rest = [render(draw.choice(kind), slots, draw) for kind in draw.shuffled(kinds)]
    return Report(" ".join([lead, *rest]), facts)


STATED = ("who", "when", "amount")
"""The facts that have a sentence of their own in a report."""


def state(fact: str, value: str, draw: Draw) -> str:
    """Returns a sentence that states one of `STATED`."""
    templates = {"who": words.WHO, "when": words.WHEN, "amount": words.AMOUNT}[fact]
    slots = {fact: value, "unit": draw.choice(TOPICS, told=fact == "amount").unit}
    return render(draw.choice(templates), slots, draw)


def write_summary(report: Report, writer: str, draw: Draw) -> str:
    """Returns a summary of the report in the voice of `writer`, one of `WRITERS`."""
    if writer == "lead":
        return report.lead
    if writer == "off_topic":
        others = [topic for topic in TOPICS if topic != report.topic]
        return render(draw.choice(words.OFF_TOPIC), {"other": draw.choice(others).noun}, draw)
    if writer == "rambling":
        return render(draw.choice(words.RAMBLING), _slots(report.facts), draw)
    template = draw.choice(words.CONCISE)
    facts = report.facts if writer == "concise" else _falsified(report.facts, template, draw)
    return render(template, _slots(facts), draw)


def judge_summary(facts: Mapping[str, str], summary: str) -> SummaryVerdict:
    """Returns the exact verdict on any text as a summary of a report with these facts."""
    text = summary.strip()
    tokens = _WORD.findall(text)
    mentioned = set(tokens)
    covered = sum(facts[name] in mentioned for name in FACTS)
    invented = sum(_is_claim(token) and token not in facts.values() for token in mentioned)
    length = max(len(text.split()), 1)
    writer = _writer(text, invented)
    score = max(0, covered - invented) / len(FACTS) * min(1.0, BREVITY_WORDS / length)
    return SummaryVerdict(covered, invented, length, writer, writer != "other", score)


def accepts_report(text: str) -> bool:
    """Returns whether the grammar can write this report, sentence by sentence."""
    lead, *rest = re.findall(r"[^.]+\.", text) or [""]
    sentence = _recognisers()["sentence"]
    return bool(_recognisers()["lead"].fullmatch(lead)) and all(
        sentence.fullmatch(s.strip()) for s in rest
    )


def _slots(facts: Mapping[str, str]) -> dict[str, str]:
    topic = _TOPIC_OF[facts["event"]]
    return {**facts, "noun": topic.noun, "unit": topic.unit}


def _falsified(facts: Mapping[str, str], template: str, draw: Draw) -> dict[str, str]:
    """Returns the facts with one or two of the open values that the template states replaced."""
    stated = [name for name in FACTS[1:] if f"{{{name}}}" in template]
    wrong = draw.subset(stated, 1, 3)
    return {**facts, **{name: sample_value(name, draw) for name in wrong}}


_SLOT_PATTERNS = {
    "who": NAME, "where": NAME, "when": r"\d\d:\d\d", "amount": r"\d+",
    "noun": "|".join(t.noun for t in _ALL_TOPICS), "other": "|".join(t.noun for t in TOPICS),
    "unit": "|".join(t.unit for t in _ALL_TOPICS),
}  # fmt: skip


@cache
def _recognisers() -> dict[str, re.Pattern[str]]:
    leads = [words.LEAD.replace("{lead}", topic.lead) for topic in _ALL_TOPICS]
    sentences = [*words.WHO, *words.WHEN, *words.AMOUNT, *words.FILLER]
    groups = {
        "lead": leads, "concise": words.CONCISE, "rambling": words.RAMBLING,
        "off_topic": words.OFF_TOPIC, "sentence": sentences,
    }  # fmt: skip
    return {name: recogniser(group, _SLOT_PATTERNS) for name, group in groups.items()}


@cache
def _plain_words() -> frozenset[str]:
    """Every word that a template can write; whatever else is capitalised is a name."""
    bank = [*words.WHO, *words.WHEN, *words.AMOUNT, *words.FILLER, *words.CONCISE]
    bank += [*words.RAMBLING, *words.OFF_TOPIC, *(topic.lead for topic in _ALL_TOPICS)]
    return frozenset(re.findall(r"[A-Za-z]+", re.sub(r"\{\w+\}", " ", " ".join(bank))))


def _is_claim(token: str) -> bool:
    if token[0].isdigit() or token in _TOPIC_OF:
        return True
    return token[0].isupper() and token not in _plain_words()


def _writer(text: str, invented: int) -> str:
    for name in ("lead", "concise", "rambling", "off_topic"):
        if _recognisers()[name].fullmatch(text):
            return "inventing" if invented and name in ("lead", "concise", "rambling") else name
    return "other"
