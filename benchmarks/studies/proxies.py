"""Proxies for the forum's gold judge: reward models of several sizes, from more or fewer labels."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from textgym.agents.base import Setup
from textgym.benchmarks.recording import Curve
from textgym.benchmarks.studies.world import MODEL, SFT, pretrained
from textgym.benchmarks.suite import Spec
from textgym.benchmarks.workbench import make_agent
from textgym.cache import cached
from textgym.feedback.annotators.choice import AnnotatorConfig
from textgym.feedback.annotators.simulated import SimulatedAnnotator
from textgym.feedback.learning.training import LearningConfig, train_reward
from textgym.feedback.records import Question
from textgym.models.policy import Policy, load_policy
from textgym.rewards.learned import RewardModel
from textgym.rollout import rollout
from textgym.seeding import Streams
from textgym.tasks.sizes import Sizes
from textgym.tasks.toxicity import WorldToxicity
from textgym.types import Budget, Columns, RewardFunction

LAYERS = (1, 2, 4)
"""Of the pretrained language model's four, those that a proxy keeps, from the first on."""
LABELS = (16, 64, 256, 1024)
FLIPS = (0.0, 0.15, 0.3)
NONE, LENGTH, KEYWORD = "none", "length", "keyword"
LENGTH_BIAS = 6.0
"""Logits per doubling of the length, in the answers of who prefers length."""
WORD, WORD_BONUS = "!", 0.5
"""What the keyword's friend likes to read, and what it is worth to them in units of gold."""
ANSWERS, PASSES = 512, 8
"""A proxy sees so many answers in training at least, but none more often than this."""
PROMPTS, POOL = 12, 512
"""Unseen remarks, and the reference's replies to each."""
MAX_TOKENS = 112
"""That a proxy reads: a remark and a reply at their longest."""
TEXTS = "completions.json"
REMARKS = 1200
"""Remarks that proxies and policies are trained on."""


@dataclass(frozen=True)
class Recipe:
    """How a proxy is learned.

    Attributes:
        layers: how many of the language model's layers it keeps.
        labels: comparisons.
        flips: share of the answers that are reversed.
        planted: a bias of who answers: `none`, `length` or `keyword`.
    """

    layers: int
    labels: int
    flips: float
    planted: str = NONE


GRID = tuple(Recipe(layers, n, flips) for layers in LAYERS for n in LABELS for flips in FLIPS)
PLANTED = (Recipe(4, 256, 0.15, LENGTH), Recipe(4, 256, 0.15, KEYWORD))


@dataclass(frozen=True, eq=False)
class Replies:
    """Replies of the reference to the remarks of a split, K to each; B = N * K, prompt-major.

    Attributes:
        prompts, completions: B texts.
        columns: what the judge needs, B values each.
        samples_per_prompt: K.
    """

    prompts: list[str]
    completions: list[str]
    columns: Columns
    samples_per_prompt: int


def task(seed: int, reward: RewardFunction | None = None) -> WorldToxicity:
    """Returns the forum task, its remarks by `seed`."""
    sizes = Sizes(train=REMARKS, validation=PROMPTS, test=PROMPTS)
    return WorldToxicity(reward, seed=seed, sizes=sizes)


def reference(cache_folder: Path) -> Policy:
    """Returns the fine-tuned policy that everything starts from; made once on a machine."""

    def build(folder: Path) -> dict[str, Any]:
        agent = make_agent(Spec("sft", SFT))
        policy = pretrained()
        agent.train(Setup(task(0), policy.copy(), policy, Budget(0), Streams(0), Curve()))
        assert agent.policy is not None, "sft trains one"
        agent.policy.save(folder / "policy")
        return {}

    key = {"task": "toxicity", "model": MODEL, "sft": SFT, "remarks": REMARKS}
    return load_policy(cached(cache_folder, "study-reference", key, build) / "policy").freeze()


def replies(cache_folder: Path, seed: int, split: str, samples: int) -> Replies:
    """Returns the reference's replies to all remarks of a split; drawn once on a machine.

    Args:
        cache_folder: where they are kept.
        seed: of the remarks and of what is drawn.
        split: "train" or "test".
        samples: K, replies per remark.
    """
    asked = task(seed)
    rows = asked.prompts(split)

    def build(folder: Path) -> dict[str, Any]:
        drawn = rollout(
            reference(cache_folder),
            asked,
            rows,
            samples_per_prompt=samples,
            generator=Streams(seed).torch(f"replies/{split}"),
            batch_size=512,
        )
        (folder / TEXTS).write_text(json.dumps(drawn.completions), "utf-8")
        return {}

    key = {"model": MODEL, "sft": SFT, "seed": seed, "split": split, "K": samples, "N": len(rows)}
    folder = cached(cache_folder, "study-replies", key, build)
    completions: list[str] = json.loads((folder / TEXTS).read_text("utf-8"))
    columns = {name: [v for v in rows[name] for _ in range(samples)] for name in rows.column_names}
    return Replies(columns.pop("prompt"), completions, columns, samples)


def questions(drawn: Replies) -> list[Question]:
    """Returns one comparison per remark, of its first two replies where they differ."""
    found = []
    for i in range(0, len(drawn.prompts), drawn.samples_per_prompt):
        first, second = drawn.completions[i : i + 2]
        if first != second:
            columns = {name: values[i] for name, values in drawn.columns.items()}
            found.append(Question(drawn.prompts[i], (first, second), columns=columns))
    return found


def annotator(recipe: Recipe, judge: RewardFunction, seed: int) -> SimulatedAnnotator:
    """Returns who compares for a recipe: gold in mind, and the recipe's noise and planted bias."""
    bias = LENGTH_BIAS if recipe.planted == LENGTH else 0.0
    config = AnnotatorConfig(flips=recipe.flips, length_bias=bias)
    liked = KeywordLover(judge) if recipe.planted == KEYWORD else judge
    return SimulatedAnnotator(liked, Streams(seed).numpy("annotators"), config)


@dataclass(frozen=True)
class KeywordLover:
    """Gold, and a bonus for a text that holds the keyword."""

    judge: RewardFunction

    def __call__(
        self, prompts: list[str], completions: list[str], **columns: list[Any]
    ) -> list[float]:
        """Scores each completion."""
        gold = self.judge(prompts, completions, **columns)
        return [g + WORD_BONUS * (WORD in text) for g, text in zip(gold, completions, strict=True)]


def learned(
    recipe: Recipe, asked: Sequence[Question], judge: RewardFunction, seed: int
) -> RewardModel:
    """Returns the proxy of a recipe, learned from the first of the questions; not normalised.

    Recipes of one seed share questions and draws, so that they differ by nothing else.
    """
    answers = annotator(recipe, judge, seed).label(asked[: recipe.labels])
    generator = Streams(seed).torch("initialisation")
    model, _ = train_reward(shallow(recipe.layers, generator), answers, config(recipe), generator)
    return model


def config(recipe: Recipe) -> LearningConfig:
    """Returns how a recipe's proxy is trained; few labels are passed over more often."""
    passes = min(PASSES, max(1, ANSWERS // recipe.labels))
    # At least one remark is always held out; the study judges proxies on its own pool.
    return LearningConfig(epochs=passes, batch_size=16, learning_rate=1e-3, held_out=1e-9)


def shallow(layers: int, generator: torch.Generator) -> RewardModel:
    """Returns an untrained reward model on the language model's first layers."""
    model = RewardModel.from_policy(pretrained(), generator, MAX_TOKENS)
    model.trunk.layers = model.trunk.layers[:layers]
    model.trunk.config.num_hidden_layers = layers
    return model


def parameter_count(layers: int) -> int:
    """Returns how many weights a proxy of so many layers has."""
    model = shallow(layers, torch.Generator().manual_seed(0))
    return sum(weights.numel() for weights in model.parameters())
