"""Training a reward model on answers of any kind, with prompts held out to test it on."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import torch
from torch import Tensor, nn

from textgym.errors import ConfigError, FeedbackError
from textgym.feedback.learning.answers import Answers, Encode
from textgym.feedback.learning.links import OBJECTIVES, Link, make_links
from textgym.feedback.records import Feedback
from textgym.models.policy import Policy, load_policy
from textgym.models.tokenize import TINY
from textgym.registry import unknown_name
from textgym.rewards.fitting import RewardModelConfig, fit
from textgym.rewards.learned import RewardModel

if TYPE_CHECKING:
    from textgym.types import Log

Start = Policy | RewardModel | str | Path
"""What a reward model starts from: a policy, a reward model, or a Hub id or folder of a causal
language model or an encoder."""


@dataclass(frozen=True)
class LearningConfig(RewardModelConfig):
    """How a reward model is trained on feedback.

    Batches are of answers, and `held_out` is a share of the prompts.

    Attributes:
        objectives: one per kind of feedback, see `textgym.feedback.learning.links.OBJECTIVES`.
        margin: by how much the preferred completion of a pair should lead, in raw score; or the
            name of a column of the questions that says it, 0 where a question has none.
    """

    objectives: tuple[str, ...] = ("bradley_terry", "ordinal", "logistic")
    margin: float | str = 0.0

    def __post_init__(self) -> None:
        super().__post_init__()
        for name in self.objectives:
            if name not in OBJECTIVES:
                raise ConfigError(str(unknown_name("objective", name, OBJECTIVES)))
        kinds = [OBJECTIVES[name].kind for name in self.objectives]
        if not kinds or len(set(kinds)) < len(kinds):
            raise ConfigError(
                f"expected one objective per kind of feedback, got {', '.join(self.objectives)}"
            )
        if self.margin and "davidson" in self.objectives:
            raise ConfigError("Davidson's objective knows no margin; use bradley_terry with one")


class Trainable(Protocol):
    """What can be fitted to answers. Rows are texts as tokens and what else a score needs."""

    def parameters(self) -> list[nn.Parameter]:
        """Returns the weights."""

    def raw_scores(self, rows: Sequence[Any]) -> Tensor:
        """Returns scores [B] with their gradient."""

    def score_rows(self, rows: Sequence[Any]) -> Tensor:
        """Returns scores [B] of any number of rows, without gradient."""


def train_reward(
    start: Start,
    feedback: Sequence[Feedback],
    config: LearningConfig | None = None,
    generator: torch.Generator | None = None,
    log: Log | None = None,
) -> tuple[RewardModel, dict[str, float]]:
    """Fits a reward model to answers of one kind or several.

    No prompt is both learned from and tested on.

    Args:
        start: copied, not changed; see `reward_model_of`.
        feedback: the answers.
        config: how.
        generator: initialises the head, holds prompts out and orders the answers; None begins at
            seed 0.
        log: receives (step, {"loss", "accuracy"}) of every step's batch.

    Returns:
        The model, not yet normalised, and the report of `fit_answers`.

    Raises:
        FeedbackError: an answer that no objective takes, or answers to fewer than two prompts.
        ModelError: nothing to start from.
        TrainingError: the loss is not finite.
    """
    config, generator = config or LearningConfig(), generator or seeded()
    require_objectives(feedback, config)
    model = reward_model_of(start, config, generator)
    train, held = split_by_prompt(feedback, config.held_out, generator)
    report = fit_answers(model, encoder_of(model), train, held, config, generator, log)
    return model, report


def seeded(seed: int = 0) -> torch.Generator:
    """Returns a generator at the start of a seed's numbers."""
    return torch.Generator().manual_seed(seed)


def reward_model_of(
    start: Start = TINY,
    config: RewardModelConfig | None = None,
    generator: torch.Generator | None = None,
) -> RewardModel:
    """Returns a reward model to train.

    Args:
        start: a policy, or the Hub id or folder of one, whose trunk is copied under a new head; an
            encoder's, likewise (`EncoderRewardModel.from_pretrained` has more settings); or a
            reward model, which is copied as it is, to be trained on.
        config: its `max_tokens` is taken over.
        generator: initialises the head; None begins at seed 0.

    Raises:
        ModelError: nothing to load there.
    """
    from textgym.feedback.learning.encoder import EncoderRewardModel, is_encoder

    generator = generator or seeded()
    max_tokens = None if config is None else config.max_tokens
    if isinstance(start, RewardModel):
        return copy_of(start)
    if not isinstance(start, Policy):
        if is_encoder(start):
            return EncoderRewardModel.from_pretrained(start, generator, max_tokens)
        start = load_policy(start)
    return RewardModel.from_policy(start, generator, max_tokens)


def copy_of(model: RewardModel) -> RewardModel:
    """Returns a reward model with its own weights, not normalised."""
    twin = copy.copy(model)
    twin.trunk, twin.head = copy.deepcopy(model.trunk), copy.deepcopy(model.head)
    twin.mean, twin.std = 0.0, 1.0
    return twin


def encoder_of(model: RewardModel) -> Encode:
    """Returns what makes a reward model's rows; who answers does not matter to it."""
    return lambda prompts, completions, annotators: model.encode(prompts, completions)


def require_objectives(feedback: Sequence[Feedback], config: LearningConfig) -> None:
    """Raises FeedbackError unless every answer's kind has an objective."""
    known = {OBJECTIVES[name].kind for name in config.objectives}
    for kind in sorted({f.question.kind for f in feedback} - known):
        count = sum(f.question.kind == kind for f in feedback)
        raise FeedbackError(
            f"{count} {kind} answers, and no objective for them: "
            f"{', '.join(config.objectives)} learn from {', '.join(sorted(known))} feedback"
        )


def split_by_prompt(
    feedback: Sequence[Feedback], held_out: float, generator: torch.Generator
) -> tuple[list[Feedback], list[Feedback]]:
    """Returns the answers to learn from and those held out; no prompt is in both.

    Args:
        feedback: the answers.
        held_out: share of the prompts that is held out, at least one.
        generator: chooses them.

    Raises:
        FeedbackError: fewer than two prompts.
    """
    prompts = list(dict.fromkeys(f.question.prompt for f in feedback))
    if len(prompts) < 2:
        raise FeedbackError(f"a reward needs answers to at least two prompts, got {len(prompts)}")
    count = min(len(prompts) - 1, max(1, round(held_out * len(prompts))))
    order = torch.randperm(len(prompts), generator=generator).tolist()
    held = {prompts[i] for i in order[:count]}
    train = [f for f in feedback if f.question.prompt not in held]
    return train, [f for f in feedback if f.question.prompt in held]


def fit_answers(
    model: Trainable,
    encode: Encode,
    train: Sequence[Feedback],
    held: Sequence[Feedback],
    config: LearningConfig,
    generator: torch.Generator,
    log: Log | None = None,
    fast: Sequence[nn.Parameter] = (),
) -> dict[str, float]:
    """Trains in place and tests.

    Args:
        model: what is trained.
        encode: makes its rows.
        train: what is learned from.
        held: what is tested on.
        config: how.
        generator: orders the answers.
        log: see `train_reward`.
        fast: see `textgym.rewards.fitting.fit`.

    Returns:
        `accuracy` and `loss` (nats) on the held-out answers, `train_accuracy` over the last epoch,
        `pairs` (answers learned from), `held_out` (answers tested on), per kind of several
        `<kind>_accuracy`, and what the objectives learned beside: `tie_width`, `threshold_1` to
        `threshold_4`, `cut`. A pair is right when the preferred scores higher (half for equal
        scores; ties do not count), a rating when it is the likeliest, a verdict when the score is
        on its side of the cut. NaN where nothing counts.
    """
    kinds, labels = [f.question.kind for f in train], [f.label for f in train]
    links = make_links(config.objectives, kinds, labels, config.centering)
    answers = Answers(train, encode, links, config.margin)
    few = [p for link in links.values() for p in link.parameters()]

    def objective(batch: list[int]) -> tuple[Tensor, Tensor]:
        scores = model.raw_scores(answers.rows_of(batch))
        loss, right = answers.judge(batch, scores.float().cpu())
        return loss, torch.cat(list(right.values()))

    train_accuracy = fit(
        model.parameters(), objective, range(len(train)), config, generator, log, [*fast, *few]
    )
    return {
        **judge_answers(model, encode, held, links),
        "train_accuracy": train_accuracy,
        "pairs": float(len(train)),
        "held_out": float(len(held)),
        **{name: x for link in links.values() for name, x in link.numbers().items()},
    }


@torch.no_grad()
def judge_answers(
    model: Trainable, encode: Encode, held: Sequence[Feedback], links: dict[str, Link]
) -> dict[str, float]:
    """Returns `accuracy`, `loss` and, of several kinds, each one's accuracy; see `fit_answers`.

    The loss is the likelihood's alone, without margins and centring.
    """
    known = [f for f in held if f.question.kind in links]
    if not known:
        return {"accuracy": float("nan"), "loss": float("nan")}
    plain = copy.deepcopy(links)
    for link in plain.values():
        link.centering = 0.0
    answers = Answers(known, encode, plain)
    everything = list(range(len(known)))
    loss, right = answers.judge(everything, model.score_rows(answers.rows_of(everything)))
    each = {f"{kind}_accuracy": float(r.mean()) for kind, r in right.items()}
    return {
        "accuracy": float(torch.cat(list(right.values())).mean()),
        "loss": loss.item(),
        **(each if len(each) > 1 else {}),
    }
