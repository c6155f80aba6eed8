"""The pretraining corpus: an endless stream of the two worlds' documents."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from textgym.worlds import forum, reports
from textgym.worlds.grammar import Draw

KINDS = {"summary": 0.4, "reply": 0.25, "fields": 0.2, "echo": 0.15}
"""Share of each kind of document. Fields and echoes are dense lessons in copying, which a small
model hardly learns from summaries alone."""


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
    report = reports.sample_report(draw)
    if kind == "summary":
        writer = draw.weighted(reports.CORPUS_WRITERS)
        return f"{summary_prompt(report.text)} {reports.write_summary(report, writer, draw)}"
    names = draw.shuffled([name for name in reports.FACTS if name != "event"])
    lines = [f"{name.capitalize()}: {report.facts[name]}" for name in names]
    return "\n".join([f"Report: {report.text}", *lines])


def _echo(draw: Draw) -> str:
    """Returns a list of values said twice."""
    values = []
    for _ in range(draw.integer(2, 6)):
        values.append(reports.sample_value(draw.choice(reports.FACTS[1:]), draw))
    line = ", ".join(values)
    return f"List: {line}.\nAgain: {line}."


def documents(seed: int) -> Iterator[str]:
    """Yields documents without end, the same for the same seed."""
    draw = Draw(np.random.default_rng([seed, 0x776F726C]))
    while True:
        yield write_document(draw)


def measured_documents(seed: int, count: int) -> list[tuple[str, float]]:
    """Returns documents of another stream with their information content in nats."""
    rng = np.random.default_rng([seed, 0x68656C64])
    measured = []
    for _ in range(count):
        draw = Draw(rng)
        text = write_document(draw)
        measured.append((text, draw.nats))
    return measured
