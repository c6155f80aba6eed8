"""The embedded summarize task as the studies meet it: its reports, summaries, policies, judges."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import torch

from textgym.agents.base import Setup
from textgym.benchmarks.recording import Curve
from textgym.benchmarks.suite import Spec
from textgym.benchmarks.workbench import make_agent
from textgym.cache import cached
from textgym.feedback.annotators.choice import AnnotatorConfig
from textgym.feedback.annotators.simulated import SimulatedAnnotator
from textgym.feedback.learning.training import LearningConfig, train_reward
from textgym.feedback.records import Feedback, Question
from textgym.models.policy import Policy, load_policy
from textgym.rewards.learned import RewardModel
from textgym.rollout import rollout
from textgym.seeding import Streams
from textgym.tasks.learned_proxy import sample_completions
from textgym.tasks.sizes import Sizes
from textgym.tasks.summarize import WorldSummarize
from textgym.tasks.world_reward import order_accuracy, write_candidates
from textgym.types import Budget, RewardFunction, Rollout

MODEL = "tiny"
SFT = {"steps": 100}
BUDGET = 768
"""Completions that a policy is trained on."""
CONFIG = LearningConfig(epochs=2, learning_rate=1e-3, max_tokens=256)
"""How rewards are learned from feedback."""
NORMALISED_BY = 10_000
"""The seed of the summaries that rewards are normalised on, which no study has."""
PROMPTS, SAMPLES = 48, 4
"""How a policy is judged: so many unseen reports, so many summaries of each."""


@dataclass(frozen=True)
class Judged:
    """What is seen of a policy from outside.

    Attributes:
        rollout: its summaries of unseen reports, unscored.
        gold: the exact judge's mean score.
        kl: nats per summary to the reference, estimated on the same samples.
        voices: the share of summaries in the commonest writer's voice.
    """

    rollout: Rollout
    gold: float
    kl: float
    voices: float


def task(seed: int, reward: RewardFunction | None = None, reports: int = 512) -> WorldSummarize:
    """Returns the task, its texts by `seed`."""
    return WorldSummarize(reward, seed, Sizes(train=reports, validation=PROMPTS, test=PROMPTS))


@cache
def pretrained() -> Policy:
    """Returns the packaged language model, frozen; loaded once in a process."""
    return load_policy(MODEL).freeze()


def reference(cache_folder: Path) -> Policy:
    """Returns the fine-tuned policy that training starts from; made once on a machine."""

    def build(folder: Path) -> dict[str, Any]:
        agent = make_agent(Spec("sft", SFT))
        policy = pretrained()
        agent.train(Setup(task(0), policy.copy(), policy, Budget(0), Streams(0), Curve()))
        assert agent.policy is not None, "sft trains one"
        agent.policy.save(folder / "policy")
        return {}

    folder = cached(cache_folder, "study-reference", {"model": MODEL, "sft": SFT}, build)
    return load_policy(folder / "policy").freeze()


def questions(policy: Policy, seed: int, pairs: int, per_report: int = 3) -> list[Question]:
    """Returns pairs of summaries of the same report: one by the policy, four by the writers.

    Args:
        policy: writes one summary of each report.
        seed: of reports, summaries and pairs.
        pairs: how many.
        per_report: at most so many of one report.
    """
    streams = Streams(seed)
    reports = -(-pairs // per_report) + 8  # some reports have too few different summaries
    asked = task(seed, reports=reports)
    rows, candidates = write_candidates(policy, asked, 1, 4, streams)
    random = streams.numpy("pairs")
    found: list[Question] = []
    for prompt, facts, texts in zip(rows["prompt"], rows["facts"], candidates, strict=True):
        distinct = sorted(set(texts))
        both = [(a, b) for i, a in enumerate(distinct) for b in distinct[i + 1 :]]
        for index in random.permutation(len(both))[:per_report]:
            pair = both[int(index)]
            shown = pair if random.random() < 0.5 else pair[::-1]
            found.append(Question(prompt, shown, columns={"facts": facts}))
    return found[:pairs]


def gold(prompts: Sequence[str], completions: Sequence[str], **columns: list[Any]) -> list[float]:
    """The exact judge of summaries; `facts` is among the columns."""
    return task(0).gold(list(prompts), list(completions), **columns)


def own_questions(policy: Policy, seed: int, pairs: int) -> list[Question]:
    """Returns pairs of summaries by one policy, two of each report."""
    asked = task(seed, reports=pairs + 32)  # some two summaries are equal
    rows = asked.prompts("train")
    windows = (asked.max_prompt_tokens, asked.max_response_tokens)
    generator = Streams(seed).torch("sampling")
    samples = sample_completions(policy, rows["prompt"], 2, *windows, generator)
    found = [
        Question(prompt, (first, second), columns={"facts": facts})
        for prompt, facts, (first, second) in zip(
            rows["prompt"], rows["facts"], samples, strict=True
        )
        if first != second
    ]
    return found[:pairs]


def learned(feedback: Sequence[Feedback], seed: int, start: Policy) -> RewardModel:
    """Returns a reward model fitted to answers, 0 on average for summaries by `start`."""
    model, _ = train_reward(pretrained(), feedback, CONFIG, Streams(seed).torch("initialisation"))
    normalise(model, start)
    return model


def normalise(model: Any, start: Policy) -> None:
    """Makes a reward score summaries by `start` 0 on average with deviation 1."""
    drawn = judged(start, start, NORMALISED_BY).rollout
    model.normalise(drawn.prompts, drawn.completions)


def gold_accuracy(reward: RewardFunction, samples: Rollout) -> float:
    """Returns the share of pairs of one report's summaries that a reward orders as gold does."""
    scores = reward(samples.prompts, samples.completions, **samples.columns)
    true = task(0).gold(samples.prompts, samples.completions, **samples.columns)
    return order_accuracy(np.reshape(scores, (-1, SAMPLES)), np.reshape(true, (-1, SAMPLES)))


def trained(
    start: Policy,
    reward: RewardFunction,
    seed: int,
    completions: int = BUDGET,
    policy: Policy | None = None,
    samples: int = 1,
) -> Policy:
    """Returns a policy trained by REINFORCE on a reward.

    Args:
        start: what the policy is held to.
        reward: the proxy.
        seed: of everything drawn.
        completions: the budget.
        policy: what training goes on from; `start` by default.
        samples: per prompt of a step, which has 64 in all.
    """
    options = {"prompts_per_step": 64 // samples, "samples_per_prompt": samples}
    agent = make_agent(Spec("reinforce", options))
    setup = Setup(
        task(seed, reward),
        (policy or start).copy(),
        start,
        Budget(completions),
        Streams(seed),
        Curve(),
    )
    agent.train(setup)
    assert agent.policy is not None, "reinforce trains one"
    return agent.policy.freeze()


@torch.no_grad()
def judged(policy: Policy, start: Policy, seed: int) -> Judged:
    """Returns what is seen of a policy on unseen reports."""
    asked = task(seed)
    rows = asked.prompts("test")
    samples = rollout(
        policy,
        asked,
        rows,
        samples_per_prompt=SAMPLES,
        generator=Streams(seed).torch("evaluation"),
    )
    scores = asked.gold(samples.prompts, samples.completions, **samples.columns)
    voices = asked.modes(samples.prompts, samples.completions, **samples.columns) or []
    _, counts = np.unique(voices, return_counts=True)
    ratios = (policy.logprobs(samples) - start.logprobs(samples)).sum(1)
    share = float(counts.max() / counts.sum())
    return Judged(samples, float(np.mean(scores)), float(ratios.mean()), share)


def learned_from_people(pairs: int, flips: float, seed: int, cache_folder: Path) -> dict[str, Any]:
    """Collects from simulated people, learns a reward, trains a policy on it and judges both.

    Args:
        pairs: comparisons.
        flips: share of the answers that are reversed.
        seed: of everything drawn.
        cache_folder: where the reference is kept.

    Returns:
        A study's row: the reward model's accuracy, and gold before and after.
    """
    start = reference(cache_folder)
    random = Streams(seed).numpy("annotators")
    people = SimulatedAnnotator(gold, random, AnnotatorConfig(flips=flips))
    reward = learned(people.label(questions(pretrained(), seed, pairs)), seed, start)
    before = judged(start, start, seed)
    after = judged(trained(start, reward, seed), start, seed)
    return {
        "accuracy": gold_accuracy(reward, before.rollout),
        "gold before": before.gold,
        "gold": after.gold,
        "KL": after.kl,
        "commonest voice": after.voices,
    }
