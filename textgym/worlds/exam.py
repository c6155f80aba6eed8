"""An exam for language models of the world: grammar, voices, copying, and the loss left to gain."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from textgym.models.sampling import complete
from textgym.worlds import forum, reports
from textgym.worlds.corpus import reply_prompt, summary_prompt
from textgym.worlds.grammar import Draw

if TYPE_CHECKING:
    from textgym.models.policy import Policy


def examine(policy: Policy, seed: int, questions: int = 400) -> dict[str, Any]:
    """Samples from the policy at temperature 1 and lets the world's own parser judge.

    Args:
        policy: a language model of the world.
        seed: of the questions and of the samples.
        questions: how many reports and as many remarks.

    Returns:
        `summaries` and `replies`, each with `accepted` (share of samples that the grammar can
        write) and `voices` (share of each writer or voice, `world` beside `model`), and `copied`:
        for each open slot the share of field lines ("Who: ...") that name the report's value.
    """
    draw = Draw(np.random.default_rng([seed, 0x6578616D]))
    generator = torch.Generator().manual_seed(seed)
    asked = [reports.sample_report(draw) for _ in range(questions)]
    remarks = [forum.sample_remark(draw) for _ in range(questions)]
    summaries = _ask(policy, [summary_prompt(r.text) for r in asked], generator)
    replies = _ask(policy, [reply_prompt(r.text) for r in remarks], generator)
    writers = [
        reports.judge_summary(r.facts, s).writer for r, s in zip(asked, summaries, strict=True)
    ]
    voices = [
        forum.judge_reply(r.thing, r.where, s).voice for r, s in zip(remarks, replies, strict=True)
    ]
    tones = Counter(remark.tone for remark in remarks)
    expected = {
        voice: sum(forum.CORPUS_VOICES[tone][voice] * n for tone, n in tones.items()) / questions
        for voice in forum.VOICES
    }
    copied = {}
    for slot in reports.FACTS[1:]:
        prompts = [f"Report: {report.text}\n{slot.capitalize()}:" for report in asked]
        lines = [text.split("\n")[0].strip() for text in _ask(policy, prompts, generator)]
        right = [line == r.facts[slot] for line, r in zip(lines, asked, strict=True)]
        copied[slot] = sum(right) / questions
    return {
        "summaries": _shares(writers, reports.CORPUS_WRITERS),
        "replies": _shares(voices, expected),
        "copied": copied,
    }


def _ask(policy: Policy, prompts: Sequence[str], generator: torch.Generator) -> list[str]:
    texts = []
    for start in range(0, len(prompts), 100):
        batch = prompts[start : start + 100]
        texts += complete(policy, batch, min(policy.max_length, 192), generator)
    return texts


def _shares(voices: Sequence[str], expected: Mapping[str, float]) -> dict[str, Any]:
    counts = Counter(voices)
    shares = {
        voice: {"model": counts[voice] / len(voices), "world": share}
        for voice, share in expected.items()
    }
    return {"accepted": 1 - counts["other"] / len(voices), "voices": shares}
