"""Training a personal reward model on the answers of several annotators."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from textgym.feedback.learning.personal import PersonalRewardModel
from textgym.feedback.learning.training import (
    LearningConfig,
    Start,
    fit_answers,
    require_objectives,
    reward_model_of,
    seeded,
    split_by_prompt,
)
from textgym.feedback.records import Feedback

if TYPE_CHECKING:
    import torch

    from textgym.types import Log


def train_personal(
    start: Start,
    feedback: Sequence[Feedback],
    config: LearningConfig | None = None,
    generator: torch.Generator | None = None,
    log: Log | None = None,
    *,
    width: int = 4,
) -> tuple[PersonalRewardModel, dict[str, float]]:
    """Fits one reward model and an embedding of each annotator, together.

    Embeddings begin at 0, where everyone is alike, and learn at a faster rate than the weights, for
    there are few of them.

    Args:
        start: see `train_reward`.
        feedback: answers of the annotators to be known.
        config: how.
        generator: initialises head and directions, holds prompts out and orders the answers; None
            begins at seed 0.
        log: see `train_reward`.
        width: E, numbers per annotator.

    Returns:
        The model, not yet normalised, and the report of `fit_answers`: each answer is judged by its
        own annotator's scores.

    Raises:
        ConfigError: a width below 1.
        As `train_reward`.
    """
    config, generator = config or LearningConfig(), generator or seeded()
    require_objectives(feedback, config)
    base = reward_model_of(start, config, generator)
    names = sorted({f.annotator for f in feedback})
    model = PersonalRewardModel.around(base, names, width, generator)
    train, held = split_by_prompt(feedback, config.held_out, generator)
    report = fit_answers(
        model, model.encode, train, held, config, generator, log, [model.embeddings]
    )
    return model, report
