"""TRL's GRPO and RLOO as agents: the same prompts, reward, reference and budget as our own.

The prompts are those that our agents draw for the seed, in the same order. TRL samples with
`transformers` at temperature 1, without truncation, up to the task's response limit; its
completions are decoded as ours, special tokens removed, before the task's reward sees them.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from itertools import islice
from typing import Any, Literal

from textgym.agents.base import Agent, Setup, prompt_batches, require
from textgym.agents.trl import NAMES, TRLConfig, Workplace, readable_prompts, run
from textgym.errors import ConfigError
from textgym.models.tokenize import decode_responses, pad
from textgym.registry import unknown_name
from textgym.tasks.base import checked_rewards

LOSS_TYPES = ("grpo", "bnpo", "dr_grpo", "dapo")
SCALES = {"group": "group", "none": "none", None: "none"}


@dataclass(frozen=True)
class TRLGRPOConfig(TRLConfig):
    """Settings of TRL's GRPO; what is not here is at TRL's default.

    Attributes:
        kl_coef: TRL's `beta`, the weight of the KL (k3 times the importance ratio) in the loss.
        clip: TRL's `epsilon`: importance ratios are clipped to 1 +- this.
        loss_type: how the loss is averaged: `grpo` (over responses, of per-token means: our
            default; TRL's own is `dapo`), `bnpo` and `dapo` (over the batch's tokens), `dr_grpo`
            (by the length limit).
        scale: TRL's `scale_rewards`: `group` divides centred rewards by the standard deviation
            within the prompt, `none` does not.
        epochs: TRL's `num_iterations`, passes over a batch.
        minibatches: gradient steps per pass; each must hold equally many completions.
    """

    kl_coef: float = 0.04
    clip: float = 0.2
    loss_type: Literal["grpo", "bnpo", "dr_grpo", "dapo"] = "grpo"
    scale: Literal["group", "none"] | None = "group"
    epochs: int = 1
    minibatches: int = 1

    def __post_init__(self) -> None:
        super().__post_init__()
        require(self.kl_coef >= 0, f"kl_coef must be >= 0, got {self.kl_coef}")
        require(0 < self.clip < 1, f"clip must be in (0, 1), got {self.clip}")
        if self.loss_type not in LOSS_TYPES:
            raise ConfigError(str(unknown_name("loss_type", str(self.loss_type), LOSS_TYPES)))
        if self.scale not in SCALES:
            raise ConfigError(str(unknown_name("scale", str(self.scale), ("group", "none"))))
        require(self.epochs >= 1, f"epochs must be >= 1, got {self.epochs}")
        require(
            self.minibatches >= 1 and self.batch % self.minibatches == 0,
            f"minibatches must divide a batch of {self.batch}, got {self.minibatches}",
        )


@dataclass(frozen=True)
class TRLRLOOConfig(TRLConfig):
    """Settings of TRL's RLOO; what is not here is at TRL's default.

    Attributes:
        kl_coef: TRL's `beta`, the price of a nat of KL (k1, inside the reward) in units of reward.
    """

    kl_coef: float = 0.05

    def __post_init__(self) -> None:
        super().__post_init__()
        require(self.kl_coef >= 0, f"kl_coef must be >= 0, got {self.kl_coef}")


class TRLGRPO(Agent):
    """TRL's GRPOTrainer: group-relative advantages, clipped steps, the KL in the loss."""

    config_class = TRLGRPOConfig

    def train(self, setup: Setup) -> None:
        """Spends the budget in whole batches; logs TRL's metrics on every optimiser step.

        Raises:
            PluginError: TRL is not installed.
            PromptTooLongError: a prompt over the task's limit, or too long for the window.
            TrainingError: a loss or gradient norm that is not finite.
        """
        config: TRLGRPOConfig = self.config
        self.task, self.policy = setup.task, setup.policy
        _train(
            "trl:grpo",
            "GRPO",
            setup,
            config,
            steps_per_batch=config.epochs * config.minibatches,
            per_device_train_batch_size=config.batch // config.minibatches,
            steps_per_generation=config.minibatches,
            num_iterations=config.epochs,
            beta=config.kl_coef,
            epsilon=config.clip,
            loss_type=config.loss_type,
            scale_rewards=SCALES[config.scale],
        )


class TRLRLOO(Agent):
    """TRL's RLOOTrainer: the KL in the reward, the other samples' mean as the baseline."""

    config_class = TRLRLOOConfig

    def train(self, setup: Setup) -> None:
        """Spends the budget in whole batches; logs TRL's metrics on every step.

        Raises:
            PluginError: TRL is not installed.
            PromptTooLongError: a prompt over the task's limit, or too long for the window.
            TrainingError: a loss or gradient norm that is not finite.
        """
        config: TRLRLOOConfig = self.config
        self.task, self.policy = setup.task, setup.policy
        _train(
            "trl:rloo",
            "RLOO",
            setup,
            config,
            # TRL takes this share after the KL, ours is of the task's rewards.
            names={k: v for k, v in NAMES.items() if k != "frac_reward_zero_std"},
            per_device_train_batch_size=config.batch,
            steps_per_generation=1,
            beta=config.kl_coef,
        )


def _train(
    name: str,
    algorithm: str,
    setup: Setup,
    config: TRLConfig,
    steps_per_batch: int = 1,
    names: Mapping[str, str] = NAMES,
    **arguments: Any,
) -> None:
    """Trains with the trainer of an algorithm on as many batches as the budget holds.

    Args:
        name: the agent's.
        algorithm: of the trainer, GRPO or RLOO.
        setup: what to train with.
        config: the agent's.
        steps_per_batch: optimiser steps on a batch of fresh samples.
        names: TRL's metrics -> ours.
        arguments: the algorithm's own.
    """
    batches = setup.budget.left // config.batch
    if batches == 0:
        return
    rng = setup.streams.numpy("prompts")
    drawn = prompt_batches(setup.task.prompts("train"), config.prompts_per_step, rng)
    asked = [row for rows in islice(drawn, batches) for row in rows.to_list()]
    texts = readable_prompts(setup, [row["prompt"] for row in asked])

    def make_trainer(place: Workplace) -> Any:
        from datasets import Dataset

        settings = getattr(place.trl, f"{algorithm}Config")(
            **place.arguments,
            **arguments,
            max_steps=batches * steps_per_batch,
            num_generations=config.samples_per_prompt,
            max_completion_length=setup.task.max_response_tokens,
            temperature=1.0,
            top_p=1.0,
            top_k=0,
            shuffle_dataset=False,
            remove_unused_columns=False,
        )
        return getattr(place.trl, f"{algorithm}Trainer")(
            place.model,
            _task_reward(setup, asked),
            settings,
            Dataset.from_dict({"prompt": texts, "row": range(len(texts))}),
            processing_class=setup.policy.tokenizer,
        )

    run(name, setup, config, make_trainer, names=names)


def _task_reward(setup: Setup, asked: list[dict[str, Any]]) -> Any:
    """Returns the reward function that TRL calls: it books, decodes as we do, and scores.

    Args:
        setup: its budget is spent.
        asked: the task's rows, by the index that TRL's data set holds of them.
    """

    def task_reward(completion_ids: list[list[int]], row: list[int], **_: Any) -> list[float]:
        setup.budget.spend(len(completion_ids))
        ids, mask = pad(completion_ids, setup.policy.pad_token_id, side="right")
        texts = decode_responses(setup.policy.tokenizer, ids, mask)
        names = asked[0].keys() - {"prompt"}
        columns = {name: [asked[i][name] for i in row] for name in names}
        values = setup.task.reward([asked[i]["prompt"] for i in row], texts, **columns)
        return checked_rewards(values, len(texts), setup.task.name)

    return task_reward
