"""Makes the shipped reward models of the tasks that worlds write, from simulated comparisons."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from textgym.errors import ConfigError
from textgym.rewards.learned import RewardModel, RewardModelConfig, train_reward_model
from textgym.rewards.preferences import Annotator, simulate_preferences
from textgym.seeding import Streams
from textgym.tasks import load_task
from textgym.tasks.learned_proxy import sample_completions
from textgym.tasks.summarize import WorldSummarize
from textgym.tasks.world_data import WorldTask, report_text
from textgym.worlds.grammar import Draw
from textgym.worlds.reports import Report, write_summary

if TYPE_CHECKING:
    from datasets import Dataset

    from textgym.models.policy import Policy
    from textgym.types import Log


@dataclass(frozen=True)
class WorldRewardConfig:
    """How the comparisons behind a world's reward model come about.

    Attributes:
        reports: how many prompts are answered (reports, where they are summarised).
        held_out: further prompts whose completions by the policy normalise and test the model.
        samples: the policy's completions per prompt.
        written: completions per prompt by writers of the world, as often as in its corpus.
        pairs_per_report: comparisons per prompt.
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
            raise ConfigError("a comparison needs two completions; samples + written is below 2")


def make_world_reward(
    policy: Policy,
    out: str | Path,
    seed: int = 0,
    config: WorldRewardConfig | None = None,
    log: Log | None = None,
    task: str = WorldSummarize.name,
    dtype: torch.dtype | None = None,
) -> dict[str, float]:
    """Trains a reward model from simulated comparisons and writes it for `load_reward_model`.

    Completions come from the policy and from the world's writers, pairs of them are compared by a
    noisy annotator who has their `worth` in mind, and the fitted model is normalised so that the
    policy's completions score 0 on average with deviation 1.

    Args:
        policy: the pretrained model: sampled from, and where the reward model starts.
        out: the folder to write.
        seed: everything follows from it.
        config: how many comparisons, by whom.
        log: receives the training's (step, metrics).
        task: the name of a task that a world writes.
        dtype: what the written weights are rounded to; float32 by default.

    Returns:
        `accuracy` on held-out comparisons and `train_accuracy`, both as the noisy annotator sees
        them, `annotator_accuracy`, the share of comparisons in which the annotator agrees with
        gold, `gold_accuracy`, the share of fresh pairs of the policy's completions of unequal gold
        that the model orders rightly, and `pairs`; of summaries also `truth_accuracy`, the share
        of true ones that score above the same with a fact or two replaced.

    Raises:
        UnknownNameError: no such task.
        ConfigError: a task whose texts no world writes.
    """
    config = config or WorldRewardConfig()
    streams = Streams(seed)
    asked = load_task(task, seed=seed, train=config.reports, validation=config.held_out)
    if not isinstance(asked, WorldTask):
        raise ConfigError(f"no world writes completions of task {task!r}")
    preferences, agreement = _compare(policy, asked, config, streams)
    model, report = train_reward_model(
        policy, preferences, config.training, streams.torch("initialisation"), log
    )
    held_out = asked.prompts("validation")
    samples = _sample(policy, asked, held_out["prompt"], 4, streams.torch("evaluation"))
    prompts = [prompt for prompt in held_out["prompt"] for _ in range(4)]
    model.normalise(prompts, [text for texts in samples for text in texts])
    model.save(out, dtype or torch.float32)
    gold = _judged(asked.gold, held_out, samples)
    scores = np.reshape(model(prompts, [text for texts in samples for text in texts]), (-1, 4))
    report |= {
        "annotator_accuracy": agreement,
        "gold_accuracy": order_accuracy(scores, np.array(gold)),
    }
    if isinstance(asked, WorldSummarize):
        report["truth_accuracy"] = _truth_accuracy(model, held_out)
    return report


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
    policy: Policy, task: WorldTask, samples: int, written: int, streams: Streams
) -> tuple[Dataset, list[list[str]]]:
    """Returns the training prompts' rows, and for each of them completions to compare.

    Args:
        policy: writes the first `samples` of each prompt.
        task: has the prompts.
        samples: the policy's completions per prompt.
        written: completions per prompt by writers of the world, as often as in its corpus.
        streams: "sampling" and "writers" draw.
    """
    rows = task.prompts("train")
    sampled = _sample(policy, task, rows["prompt"], samples, streams.torch("sampling"))
    draw = Draw(streams.numpy("writers"))
    told = [task.write_completions(row, written, draw) for row in rows]
    return rows, [own + others for own, others in zip(sampled, told, strict=True)]


def _compare(
    policy: Policy, task: WorldTask, config: WorldRewardConfig, streams: Streams
) -> tuple[Dataset, float]:
    """Returns the comparisons and the share in which the annotator agrees with gold."""
    rows, candidates = write_candidates(policy, task, config.samples, config.written, streams)
    worth = _judged(task.worth, rows, candidates)
    preferences = simulate_preferences(
        rows["prompt"],
        candidates,
        worth,
        config.annotator,
        streams.numpy("annotators"),
        config.pairs_per_report,
    )
    row_of = {prompt: number for number, prompt in enumerate(rows["prompt"])}
    compared = rows.select([row_of[prompt] for prompt in preferences["prompt"]])
    pairs = zip(preferences["chosen"], preferences["rejected"], strict=True)
    judged = np.array(_judged(task.gold, compared, [list(pair) for pair in pairs]))
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
    task: WorldTask,
    prompts: Sequence[str],
    samples: int,
    generator: torch.Generator,
) -> list[list[str]]:
    windows = (task.max_prompt_tokens, task.max_response_tokens)
    return sample_completions(policy, prompts, samples, *windows, generator)


def _judged(
    judge: Callable[..., list[float]], rows: Dataset, completions: Sequence[Sequence[str]]
) -> list[list[float]]:
    """Returns what a judge says of each row's completions."""
    owners = [row for row, texts in enumerate(completions) for _ in texts]
    columns: dict[str, list[Any]] = rows.select(owners)[:]
    prompts, texts = columns.pop("prompt"), [t for texts in completions for t in texts]
    scores = iter(judge(prompts, texts, **columns))
    return [[next(scores) for _ in texts] for texts in completions]
