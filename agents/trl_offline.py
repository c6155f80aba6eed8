"""TRL's DPO and KTO as agents, on the reference's own responses labelled by the task's reward.

The data are what our `dpo` draws for the seed: fresh batches of the reference's samples until the
budget is spent. TRL then trains on all of them, its data set read `epochs` times. Its trainers are
given tokens, those that the reference sampled. From texts they would make others: they tokenize
prompt and response as one text, which may merge tokens across the border, and end every response
with EOS, those that the length limit cut too.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

import torch

from textgym.agents.base import Agent, Setup, draw_scored, prompt_batches, require
from textgym.agents.dpo import bradley_terry_pairs, preference_pairs
from textgym.agents.kto import LABELS as MARKS
from textgym.agents.kto import marks
from textgym.agents.trl import NAMES, TRLConfig, Workplace, run
from textgym.errors import ConfigError
from textgym.integrations.isolation import require_trl
from textgym.registry import unknown_name
from textgym.types import Rollout

LABELS = ("best", "bradley_terry")

Row = dict[str, Any]
"""Of a data set in the format of TRL's collators."""


@dataclass(frozen=True)
class TRLOfflineConfig(TRLConfig):
    """Settings of an agent that learns from labelled samples of the reference.

    Attributes:
        beta: the price of a nat of KL in units of reward (the reward that explains the labels).
        epochs: how often the whole data set is read.
    """

    samples_per_prompt: int = 4
    prompts_per_step: int = 16
    beta: float = 0.1
    epochs: int = 2

    def __post_init__(self) -> None:
        super().__post_init__()
        require(self.beta > 0, f"beta must be > 0, got {self.beta}")
        require(self.epochs >= 1, f"epochs must be >= 1, got {self.epochs}")


@dataclass(frozen=True)
class TRLDPOConfig(TRLOfflineConfig):
    """Settings of TRL's DPO; what is not here is at TRL's default.

    Attributes:
        labels: `best`, each prompt's best response against its worst; or `bradley_terry`, see
            `dpo`.
        lr: learning rate of AdamW, constant.
    """

    lr: float = 1e-4
    labels: Literal["best", "bradley_terry"] = "best"

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.labels not in LABELS:
            raise ConfigError(str(unknown_name("labels", str(self.labels), LABELS)))


@dataclass(frozen=True)
class TRLKTOConfig(TRLOfflineConfig):
    """Settings of TRL's KTO; what is not here is at TRL's default.

    Attributes:
        labels: who is good: `mean`, whose reward is above the mean of the prompt's others; or
            `bradley_terry`, see `kto`.
        desirable_weight: of the loss of the good responses.
        undesirable_weight: of the bad ones'.
        prompts_per_step: N, prompts per batch of fresh samples, >= 2; a step of the optimiser is
            on N K responses.
    """

    labels: Literal["mean", "bradley_terry"] = "mean"
    desirable_weight: float = 1.0
    undesirable_weight: float = 1.0

    def __post_init__(self) -> None:
        super().__post_init__()
        require(
            self.desirable_weight > 0 and self.undesirable_weight > 0,
            "desirable_weight and undesirable_weight must be > 0, got "
            f"{self.desirable_weight} and {self.undesirable_weight}",
        )
        require(
            self.prompts_per_step >= 2,
            "the KL is estimated from answers to another prompt: prompts_per_step must be >= 2, "
            f"got {self.prompts_per_step}",
        )
        if self.labels not in MARKS:
            raise ConfigError(str(unknown_name("labels", str(self.labels), MARKS)))


class TRLDPO(Agent):
    """TRL's DPOTrainer on pairs of the reference's own responses."""

    config_class = TRLDPOConfig

    def train(self, setup: Setup) -> None:
        """Spends the budget in whole batches of data, then trains; logs TRL's metrics.

        Logs first, as step 0, `pairs` and `reference_reward` (mean reward of the data); the steps
        of the optimiser follow.

        Raises:
            PluginError: TRL is not installed.
            PromptTooLongError: a prompt over the task's limit, or too long for the window.
            TrainingError: a loss or gradient norm that is not finite.
        """
        config: TRLDPOConfig = self.config
        self.task, self.policy = setup.task, setup.policy
        annotator = setup.streams.torch("annotators")

        def pairs(samples: Rollout) -> list[Row]:
            assert samples.rewards is not None, "draw_scored() scores"
            k = config.samples_per_prompt
            if config.labels == "best":
                better, worse = preference_pairs(samples.rewards, k)
            else:
                better, worse = bradley_terry_pairs(samples.rewards, k, annotator)
            prompts, responses = token_rows(samples)
            return [
                {"prompt_ids": prompts[a], "chosen_ids": responses[a], "rejected_ids": responses[b]}
                for a, b in zip(better.tolist(), worse.tolist(), strict=True)
            ]

        require_trl("agent 'trl:dpo'")
        rows = _collect("pairs", setup, config, pairs)
        placeholder = {"prompt": [""], "chosen": [""], "rejected": [""]}
        size = config.prompts_per_step
        _train("trl:dpo", "DPO", setup, config, rows, placeholder, size, {"beta": config.beta})


class TRLKTO(Agent):
    """TRL's KTOTrainer on the reference's responses, each marked good or bad."""

    config_class = TRLKTOConfig

    def train(self, setup: Setup) -> None:
        """Spends the budget in whole batches of data, then trains; logs TRL's metrics.

        Logs first, as step 0, `examples` and `reference_reward` (mean reward of the data); the
        steps of the optimiser follow.

        Raises:
            PluginError: TRL is not installed.
            PromptTooLongError: a prompt over the task's limit, or too long for the window.
            TrainingError: a loss or gradient norm that is not finite.
        """
        config: TRLKTOConfig = self.config
        self.task, self.policy = setup.task, setup.policy
        annotator = setup.streams.torch("annotators")

        def examples(samples: Rollout) -> list[Row]:
            assert samples.rewards is not None, "draw_scored() scores"
            k = config.samples_per_prompt
            which, good = marks(
                samples.rewards, k, annotator if config.labels == "bradley_terry" else None
            )
            prompts, responses = token_rows(samples)
            # Neighbours are to be of different prompts: see `with_other_responses`.
            marked = sorted(
                zip(which.tolist(), good.tolist(), strict=True), key=lambda m: (m[0] % k, m[0])
            )
            return [
                {"prompt_ids": prompts[i], "completion_ids": responses[i], "label": label}
                for i, label in marked
            ]

        require_trl("agent 'trl:kto'")
        rows = with_other_responses(_collect("examples", setup, config, examples), config.batch)
        placeholder: dict[str, list[Any]] = {"prompt": [""], "completion": [""], "label": [True]}
        weights = {
            "beta": config.beta,
            "desirable_weight": config.desirable_weight,
            "undesirable_weight": config.undesirable_weight,
        }
        names = {**NAMES, "kl": "z0"}
        _train("trl:kto", "KTO", setup, config, rows, placeholder, config.batch, weights, names)


def with_other_responses(rows: list[Row], size: int) -> list[Row]:
    """Returns the rows with the responses to other prompts from which TRL estimates the KL.

    As TRL itself pairs them: within each batch every prompt is given its neighbour's response.

    Args:
        rows: with `completion_ids`.
        size: of a batch.
    """
    paired: list[Row] = []
    for start in range(0, len(rows), size):
        batch = rows[start : start + size]
        others = [batch[i - 1]["completion_ids"] for i in range(len(batch))]
        paired += [
            row | {"KL_completion_ids": other} for row, other in zip(batch, others, strict=True)
        ]
    return paired


def token_rows(samples: Rollout) -> tuple[list[list[int]], list[list[int]]]:
    """Returns the token ids of B prompts and of their responses, without padding."""
    prompts, responses = (
        [row[keep].tolist() for row, keep in zip(ids, mask, strict=True)]
        for ids, mask in (
            (samples.prompt_ids, samples.prompt_mask),
            (samples.response_ids, samples.response_mask),
        )
    )
    return prompts, responses


def _collect(what: str, setup: Setup, config: TRLOfflineConfig, label: Any) -> list[Row]:
    """Returns labelled samples of the reference, as many as the budget holds in whole batches.

    Args:
        what: the rows are, for the log.
        setup: its budget is spent.
        config: the agent's.
        label: returns the rows that a scored rollout makes.
    """
    train = setup.task.prompts("train")
    prompts = prompt_batches(train, config.prompts_per_step, setup.streams.numpy("prompts"))
    sampling = setup.streams.torch("sampling")
    rows: list[Row] = []
    rewards = []
    while setup.budget.left >= config.batch:
        batch, k = next(prompts), config.samples_per_prompt
        samples = draw_scored(setup, setup.reference, batch, k, sampling)
        assert samples.rewards is not None, "draw_scored() scores"
        rewards.append(samples.rewards)
        rows += label(samples)
    if rewards:
        mean = torch.cat(rewards).mean().item()
        setup.log(0, {what: float(len(rows)), "reference_reward": mean})
    return rows


def _train(
    name: str,
    algorithm: str,
    setup: Setup,
    config: TRLOfflineConfig,
    rows: list[Row],
    placeholder: dict[str, list[Any]],
    batch_size: int,
    arguments: dict[str, Any],
    names: dict[str, str] = NAMES,
) -> None:
    """Trains with the trainer of an algorithm on tokenized rows; without rows nothing happens.

    Args:
        name: the agent's.
        algorithm: of the trainer, DPO or KTO.
        setup: what to train with.
        config: the agent's.
        rows: what TRL's collator reads.
        placeholder: texts for TRL to tokenize in their place.
        batch_size: rows of an optimiser step.
        arguments: the algorithm's own.
        names: TRL's metrics -> ours.
    """
    if not rows:
        return

    def make_trainer(place: Workplace) -> Any:
        from datasets import Dataset

        settings = getattr(place.trl, f"{algorithm}Config")(
            **place.arguments,
            **arguments,
            num_train_epochs=config.epochs,
            per_device_train_batch_size=batch_size,
            max_length=None,
        )
        trainer = getattr(place.trl, f"{algorithm}Trainer")(
            place.model,
            place.reference,
            settings,
            train_dataset=Dataset.from_dict(placeholder),
            processing_class=setup.policy.tokenizer,
        )
        trainer.train_dataset = Dataset.from_list(rows)
        return trainer

    run(name, setup, config, make_trainer, first_step=1, names=names)
