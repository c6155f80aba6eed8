"""The loop that fits a reward: minibatches in random order, warm-up and cosine."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from textgym.errors import ConfigError
from textgym.models.training import adamw, optimiser_step, warmup_cosine

if TYPE_CHECKING:
    from textgym.types import Log

FAST = 30.0
"""The learning rate of numbers of which there are few, as a multiple of the weights'."""

Objective = Callable[[list[int]], tuple[Tensor, Tensor]]
"""Maps a batch, as indices, to its loss and to 1 or 0 for each answer that is right or wrong."""


@dataclass(frozen=True)
class RewardModelConfig:
    """How a reward model is trained.

    Attributes:
        epochs: passes over the pairs; more than one or two overfits.
        batch_size: pairs per step.
        learning_rate: peak of AdamW's warm-up and cosine.
        weight_decay: AdamW's, on matrices.
        centering: weight of the squared sum of a pair's scores, which ties the origin.
        held_out: share of the pairs kept back to report accuracy on.
        max_tokens: most tokens that are read; None for the model's context.
    """

    epochs: int = 2
    batch_size: int = 32
    learning_rate: float = 3e-4
    weight_decay: float = 0.01
    centering: float = 0.01
    held_out: float = 0.1
    max_tokens: int | None = None

    def __post_init__(self) -> None:
        if self.epochs < 1 or self.batch_size < 1:
            raise ConfigError(
                f"epochs and batch_size must be >= 1, got {self.epochs} and {self.batch_size}"
            )
        if not self.learning_rate > 0:
            raise ConfigError(f"learning_rate must be > 0, got {self.learning_rate}")
        if not 0 < self.held_out < 1:
            raise ConfigError(f"held_out must be in (0, 1), got {self.held_out}")


def fit(
    parameters: Iterable[nn.Parameter],
    objective: Objective,
    train: Sequence[int],
    config: RewardModelConfig,
    generator: torch.Generator,
    log: Log | None = None,
    fast: Iterable[nn.Parameter] = (),
) -> float:
    """Trains in place.

    Args:
        parameters: what is trained.
        objective: what is minimised; it may leave answers uncounted that are neither.
        train: what is learned from, as indices.
        config: epochs, batch size, learning rate and weight decay.
        generator: orders the batches.
        log: receives (step, {"loss", "accuracy"}) of every step's batch.
        fast: further parameters, trained at `FAST` times the rate and without decay: an embedding
            or a threshold moves alone, where a score moves with all of a head's weights.

    Returns:
        The share of the last epoch's answers that were right when they were seen; NaN for none.

    Raises:
        TrainingError: the loss is not finite.
    """
    optimizer = adamw(parameters, config.learning_rate, config.weight_decay)
    if quick := list(fast):
        optimizer.add_param_group({"params": quick, "weight_decay": 0.0, "pace": FAST})
    steps = config.epochs * -(-len(train) // config.batch_size)
    step, correct, counted = 0, 0.0, 0
    for _ in range(config.epochs):
        correct, counted = 0.0, 0
        shuffled = [train[i] for i in torch.randperm(len(train), generator=generator).tolist()]
        for start in range(0, len(shuffled), config.batch_size):
            rate = config.learning_rate * warmup_cosine(step / steps)
            for group in optimizer.param_groups:
                group["lr"] = rate * group.get("pace", 1.0)
            loss, right = objective(shuffled[start : start + config.batch_size])
            optimiser_step(optimizer, loss, step)
            sure = float(right.sum())
            correct, counted = correct + sure, counted + len(right)
            if log is not None:
                accuracy = {"accuracy": sure / len(right)} if len(right) else {}
                log(step, {"loss": loss.item(), **accuracy})
            step += 1
    return correct / counted if counted else float("nan")
