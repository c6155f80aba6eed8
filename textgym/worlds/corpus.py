"""The pretraining corpus: an endless stream of the two worlds' documents."""

from __future__ import annotations

import math
from collections.abc import Iterator

import numpy as np

from textgym.worlds import forum, reports
from textgym.worlds.grammar import Draw

KINDS = {"summary": 0.35, "reply": 0.2, "fields": 0.15, "note": 0.15, "echo": 0.15}
"""Share of each kind of document. Fields (the facts of a report line by line), notes (one sentence
and its fact) and echoes (a few values said twice) are lessons in copying, the shorter the easier: a
small model sits for millions of tokens without copying if it has to learn it from summaries."""


def summary_prompt(report: str) -> str:
    """Returns the prompt that asks for a summary."""
    return f"Report: {report}\nSummary:"


def reply_prompt(remark: str) -> str:
    """Returns the prompt that asks for a reply."""
    return f"Remark: {remark}\nReply:"


def write_document(draw: Draw) -> str:
    """Returns one document; `draw.nats` grows by its information content."""
    kind = draw.weighted(KINDS)
    if kind == "reply":
        remark = forum.sample_remark(draw)
        voice = draw.weighted(forum.CORPUS_VOICES[remark.tone])
        return f"{reply_prompt(remark.text)} {forum.write_reply(remark, voice, draw)}"
    if kind == "echo":
        return _echo(draw)
    if kind == "note":
        fact = draw.choice(reports.STATED)
        value = reports.sample_value(fact, draw)
        return f"Note: {reports.state(fact, value, draw)}\n{fact.capitalize()}: {value}"
    report = reports.sample_report(draw)
    if kind == "summary":
        writer = draw.weighted(reports.CORPUS_WRITERS)
        return f"{summary_prompt(report.text)} {reports.write_summary(report, writer, draw)}"
    names = draw.shuffled(reports.FACTS[1:])
    lines = [f"{name.capitalize()}: {report.facts[name]}" for name in names]
    return "\n".join([f"Report: {report.text}", *lines])


def _echo(draw: Draw) -> str:
    """Returns a list of one to four values said twice."""
    facts = [draw.choice(reports.FACTS[1:]) for _ in range(draw.integer(1, 5))]
    line = ", ".join(reports.sample_value(fact, draw) for fact in facts)
    return f"List: {line}.\nAgain: {line}."


def documents(seed: int) -> Iterator[str]:
    """Yields documents without end, the same for the same seed."""
    draw = Draw(np.random.default_rng([seed, 0x776F726C]))
    while True:
        yield write_document(draw)


def measured_documents(seed: int, count: int) -> list[tuple[str, float]]:
    """Returns documents of another stream, each with its information content in nats.

    The content is given the document's first word, which a language model that reads a document
    from its start never predicts.
    """
    rng = np.random.default_rng([seed, 0x68656C64])
    measured = []
    for _ in range(count):
        draw = Draw(rng)
        text = write_document(draw)
        first = sum(KINDS[kind] for kind in _KINDS_BY_FIRST_WORD[text.partition(":")[0]])
        measured.append((text, draw.nats + math.log(first / sum(KINDS.values()))))
    return measured


_KINDS_BY_FIRST_WORD = {
    "Report": ("summary", "fields"),
    "Remark": ("reply",),
    "Note": ("note",),
    "List": ("echo",),
}
