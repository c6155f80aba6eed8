"""Makes the shipped reward model of the embedded summarize task."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from textgym.errors import ConfigError
from textgym.rewards.learned import RewardModel, RewardModelConfig, train_reward_model
from textgym.rewards.preferences import Annotator, simulate_preferences
from textgym.seeding import Streams
from textgym.tasks.learned_proxy import sample_completions
from textgym.tasks.sizes import Sizes
from textgym.tasks.summarize import WorldSummarize
from textgym.tasks.world_data import report_text
from textgym.worlds.grammar import Draw
from textgym.worlds.reports import CORPUS_WRITERS, Report, judge_summary, write_summary

if TYPE_CHECKING:
    import torch
    from datasets import Dataset

    from textgym.models.policy import Policy
    from textgym.types import Log


@dataclass(frozen=True)
class WorldRewardConfig:
    """How the comparisons behind the world's reward model come about.

    Attributes:
        reports: how many reports are summarised.
        held_out: further reports whose summaries by the policy normalise and test the model.
        samples: the policy's summaries per report.
        written: summaries per report by writers of the world, as often as in its corpus.
        pairs_per_report: comparisons per report.
        annotator: who compares; its gold is the world's exact judge.
        training: how the model is fitted.
    """

    reports: int = 4000
    held_out: int = 256
    samples: int = 1
    written: int = 4
    pairs_per_report: int = 3
    annotator: Annotator = field(default_factory=Annotator)
    training: RewardModelConfig = field(
        default_factory=lambda: RewardModelConfig(epochs=1, learning_rate=1e-3)
    )

    def __post_init__(self) -> None:
        if self.reports < 2:
            raise ConfigError(f"reports must be >= 2, got {self.reports}")
        if self.samples + self.written < 2:
            raise ConfigError("a comparison needs two summaries; samples + written is below 2")


def make_world_reward(
    policy: Policy,
    out: str | Path,
    seed: int = 0,
    config: WorldRewardConfig | None = None,
    log: Log | None = None,
) -> dict[str, float]:
    """Trains the reward model from simulated comparisons and writes it for `load_reward_model`.

    Summaries come from the policy and from the world's writers, pairs of them are compared by a
    noisy annotator who knows the facts, and the fitted model is normalised so that the policy's
    summaries score 0 on average with deviation 1.

    Args:
        policy: the pretrained model: sampled from, and where the reward model starts.
        out: the folder to write.
        seed: everything follows from it.
        config: how many comparisons, by whom.
        log: receives the training's (step, metrics).

    Returns:
        `accuracy` on held-out comparisons and `train_accuracy`, both as the noisy annotator sees
        them, `annotator_accuracy`, the share of comparisons in which the annotator agrees with
        gold, `gold_accuracy`, the share of fresh pairs of the policy's summaries of unequal gold
        that the model orders rightly, `truth_accuracy`, the share of true summaries that score
        above the same with a fact or two replaced, and `pairs`.
    """
    config = config or WorldRewardConfig()
    streams = Streams(seed)
    task = WorldSummarize(seed=seed, sizes=Sizes(train=config.reports, validation=config.held_out))
    preferences, agreement = _compare(policy, task, config, streams)
    model, report = train_reward_model(
        policy, preferences, config.training, streams.torch("initialisation"), log
    )
    held_out = task.prompts("validation")
    samples = _sample(policy, task, held_out["prompt"], 4, streams.torch("evaluation"))
    prompts = [prompt for prompt in held_out["prompt"] for _ in range(4)]
    model.normalise(prompts, [text for texts in samples for text in texts])
    model.save(out)
    gold = _gold(held_out["facts"], samples)
    scores = np.reshape(model(prompts, [text for texts in samples for text in texts]), (-1, 4))
    return {
        **report,
        "annotator_accuracy": agreement,
        "gold_accuracy": order_accuracy(scores, np.array(gold)),
        "truth_accuracy": _truth_accuracy(model, held_out),
    }


def order_accuracy(scores: np.ndarray, gold: np.ndarray) -> float:
    """Returns the share of within-row pairs of unequal gold that the scores order as gold does.

    Without such a pair it is one half, what a coin would get.

    Args:
        scores: [N, K].
        gold: [N, K].

    >>> order_accuracy(np.array([[1.0, 2.0, 3.0]]), np.array([[0.0, 0.5, 0.2]]))
    0.6666666666666666
    """
    first, second = np.triu_indices(scores.shape[1], k=1)
    truth = np.sign(gold[:, first] - gold[:, second])
    found = np.sign(scores[:, first] - scores[:, second])
    decided = truth != 0
    return float(np.mean(truth[decided] == found[decided])) if decided.any() else 0.5


def write_candidates(
    policy: Policy, task: WorldSummarize, samples: int, written: int, streams: Streams
) -> tuple[Dataset, list[list[str]]]:
    """Returns the training reports' rows, and for each of them summaries to compare.

    Args:
        policy: writes the first `samples` of each report.
        task: has the reports.
        samples: the policy's summaries per report.
        written: summaries per report by writers of the world, as often as in its corpus.
        streams: "sampling" and "writers" draw.
    """
    rows = task.prompts("train")
    sampled = _sample(policy, task, rows["prompt"], samples, streams.torch("sampling"))
    draw = Draw(streams.numpy("writers"))
    candidates = []
    for prompt, facts, texts in zip(rows["prompt"], rows["facts"], sampled, strict=True):
        report = Report(report_text(prompt), json.loads(facts))
        writers = [draw.weighted(CORPUS_WRITERS) for _ in range(written)]
        candidates.append(texts + [" " + write_summary(report, w, draw) for w in writers])
    return rows, candidates


def _compare(
    policy: Policy, task: WorldSummarize, config: WorldRewardConfig, streams: Streams
) -> tuple[Dataset, float]:
    """Returns the comparisons and the share in which the annotator agrees with gold."""
    rows, candidates = write_candidates(policy, task, config.samples, config.written, streams)
    gold = _gold(rows["facts"], candidates)
    preferences = simulate_preferences(
        rows["prompt"],
        candidates,
        gold,
        config.annotator,
        streams.numpy("annotators"),
        config.pairs_per_report,
    )
    facts_of = dict(zip(rows["prompt"], rows["facts"], strict=True))
    facts = [facts_of[prompt] for prompt in preferences["prompt"]]
    pairs = zip(preferences["chosen"], preferences["rejected"], strict=True)
    judged = np.array(_gold(facts, [list(pair) for pair in pairs]))
    decided = judged[:, 0] != judged[:, 1]
    return preferences, float(np.mean(judged[decided, 0] > judged[decided, 1]))


def _truth_accuracy(model: RewardModel, rows: Dataset) -> float:
    """Returns how often a true summary scores above the same one falsified."""
    true: list[str] = []
    false: list[str] = []
    for number, (prompt, known) in enumerate(zip(rows["prompt"], rows["facts"], strict=True)):
        report = Report(report_text(prompt), json.loads(known))
        for texts, writer in ((true, "concise"), (false, "inventing")):
            # Two draws of one seed begin alike, with the choice of the template.
            texts.append(" " + write_summary(report, writer, Draw(np.random.default_rng(number))))
    scores = zip(model(rows["prompt"], true), model(rows["prompt"], false), strict=True)
    return float(np.mean([t > f for t, f in scores]))


def _sample(
    policy: Policy,
    task: WorldSummarize,
    prompts: Sequence[str],
    samples: int,
    generator: torch.Generator,
) -> list[list[str]]:
    windows = (task.max_prompt_tokens, task.max_response_tokens)
    return sample_completions(policy, prompts, samples, *windows, generator)


def _gold(facts: Sequence[str], summaries: Sequence[Sequence[str]]) -> list[list[float]]:
    """Returns the exact judge's score of each report's summaries."""
    return [
        [judge_summary(json.loads(known), text).score for text in texts]
        for known, texts in zip(facts, summaries, strict=True)
    ]
