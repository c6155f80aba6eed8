"""An exam for language models of the town: what they answer, copy and tell, by the exact judges."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from textgym.models.sampling import complete
from textgym.worlds import catalogue, notices, requests, reviews, stories
from textgym.worlds.grammar import Draw
from textgym.worlds.town import notice_prompt, request_prompt

if TYPE_CHECKING:
    from textgym.models.policy import Policy

CUES: dict[catalogue.Attribute, tuple[str, str, str]] = {
    "keeper": (
        "The {kind} in {town} is kept by",
        "Who keeps the {kind} in {town}?",
        "According to the register,",
    ),
    "hours": (
        "The {kind} in {town} opens at",
        "When does the {kind} in {town} open?",
        "According to the register, the {kind} in {town} opens at",
    ),
    "price": (
        "A {good} at the {kind} in {town} costs",
        "What does a {good} cost at the {kind} in {town}?",
        "According to the register, a {good} costs",
    ),
}
"""For each attribute, where a guide book, and where an answer to a question, names its value."""
BATCH = 100
LONGEST = 64
"""Tokens of an answer."""


def examine(policy: Policy, seed: int, questions: int = 400) -> dict[str, Any]:
    """Samples from the policy at temperature 1 and lets the town's judges read.

    Args:
        policy: a language model of the town.
        seed: of the questions and of the samples.
        questions: how many of each kind.

    Returns:
        `answers`: for each kind of request, the share of answers that do each thing, and that are
        right (a request answered by another question is a "deflection"); `recall`: for each
        attribute, the mean probability of the catalogue's value where a guide book, and where an
        answer, is about to name it; `notices`, `reviews` and `stories`: the share that the grammar
        accepts and what else their judges say.
    """
    draw = Draw(np.random.default_rng([seed, 0x746F776E]))
    generator = torch.Generator().manual_seed(seed)
    return {
        "answers": _answers(policy, draw, generator, questions),
        "recall": _recall(policy),
        "notices": _notices(policy, draw, generator, questions),
        "reviews": _reviews(policy, draw, generator, questions),
        "stories": _stories(policy, draw, generator, questions),
    }


def _answers(
    policy: Policy, draw: Draw, generator: torch.Generator, questions: int
) -> dict[str, dict[str, float]]:
    asked = [requests.sample_request(draw) for _ in range(questions)]
    texts = _ask(policy, [request_prompt(r.text) for r in asked], generator)
    acts: dict[str, list[str]] = {kind: [] for kind in requests.REQUESTS}
    right: Counter[str] = Counter()
    for request, text in zip(asked, texts, strict=True):
        verdict = requests.judge_answer(request, text)
        acts[request.kind].append(verdict.act)
        right[request.kind] += verdict.right
    return {
        kind: {
            **{act: found.count(act) / len(found) for act in (*requests.ACTS, "other")},
            "right": right[kind] / len(found),
        }
        for kind, found in acts.items()
        if found
    }


@torch.no_grad()
def _recall(policy: Policy) -> dict[str, dict[str, float]]:
    found: dict[str, dict[str, float]] = {}
    for name, (guide, question, answer) in CUES.items():
        asked = f"{request_prompt(question)} {answer}"
        for where, cue in (("guide", f"Guide: {guide}"), ("answer", asked)):
            chances = []
            for house in catalogue.houses():
                about = {"kind": house.kind, "town": house.town, "good": house.good}
                text = cue.format(**about)
                chances.append(_probability(policy, text, f" {house.facts[name]}"))
            found.setdefault(name, {})[where] = _mean(chances)
    return found


def _probability(policy: Policy, text: str, value: str) -> float:
    """Returns the probability that the policy goes on with the value."""
    before = len(policy.tokenizer(text)["input_ids"])
    ids = torch.tensor([policy.tokenizer(text + value)["input_ids"]], device=policy.device)
    logs = policy.model(input_ids=ids).logits[0, before - 1 : -1].float().log_softmax(-1)
    return float(logs.gather(1, ids[0, before:, None]).sum().exp())


def _notices(
    policy: Policy, draw: Draw, generator: torch.Generator, questions: int
) -> dict[str, float]:
    asked = [notices.sample_notice(draw) for _ in range(questions)]
    texts = _ask(policy, [notice_prompt(n.text) for n in asked], generator)
    read = [notices.judge_notice(n, text) for n, text in zip(asked, texts, strict=True)]
    return {
        "accepted": _mean([v.writer != "other" for v in read]),
        "kept": _mean([v.kept for v in read if v.writer != "other"]),
        "caveat_due": _mean([v.caveat for v, n in zip(read, asked, strict=True) if n.unsure]),
        "caveat_idle": _mean([v.caveat for v, n in zip(read, asked, strict=True) if not n.unsure]),
    }


def _ask(policy: Policy, prompts: Sequence[str], generator: torch.Generator) -> list[str]:
    texts: list[str] = []
    for start in range(0, len(prompts), BATCH):
        texts += complete(policy, prompts[start : start + BATCH], LONGEST, generator)
    return texts


def _mean(values: Sequence[float]) -> float:
    return sum(values) / len(values) if values else 0.0


def _reviews(
    policy: Policy, draw: Draw, generator: torch.Generator, questions: int
) -> dict[str, float]:
    asked = [reviews.sample_review(draw) for _ in range(questions)]
    texts = _ask(policy, [reviews.review_prompt(r.prefix) for r in asked], generator)
    pairs = zip(asked, texts, strict=True)
    read = [reviews.judge_review(r.thing, r.where, text) for r, text in pairs]
    return {
        "accepted": _mean([v.well_formed for v in read]),
        "positive": _mean([v.sentiment > 0 for v in read]),
        "negative": _mean([v.sentiment < 0 for v in read]),
    }


def _stories(
    policy: Policy, draw: Draw, generator: torch.Generator, questions: int
) -> dict[str, float]:
    asked = [stories.sample_opening(draw) for _ in range(questions)]
    texts = _ask(policy, [stories.story_prompt(o.text) for o in asked], generator)
    pairs = zip(asked, texts, strict=True)
    read = [stories.judge_story(o.hero, o.thing, text) for o, text in pairs]
    return {
        "accepted": _mean([v.idea is not None for v in read]),
        "coherent": _mean([v.coherent for v in read]),
        "full_marks": _mean([v.full_marks for v in read]),
        "novel": _mean([v.novel for v in read]),
        "gold": _mean([v.score for v in read]),
    }
