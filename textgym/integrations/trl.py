"""A task for TRL's trainers: its prompts, rewards and judges in two lines.

    bundle = for_trl("summarize")
    trainer = GRPOTrainer(model=bundle.model, reward_funcs=bundle.reward_funcs, ...)

TRL's reward functions and ours have one signature, so that little is left to do: to leave out what
TRL passes and no task knows, to name the tokenizer, and to judge the model by what the trainer does
not see: gold, the exact KL and diversity. `examples/grpo_trainer.py` is a whole run.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property, partial
from pathlib import Path
from statistics import fmean
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from textgym.errors import ConfigError
from textgym.functional import full_kl
from textgym.integrations.isolation import require_trl
from textgym.metrics import diversity, kl, sets
from textgym.models.policy import Policy, load_policy
from textgym.models.tokenize import TINY, resolve
from textgym.rollout import rollout, score
from textgym.seeding import Streams
from textgym.tasks import load_task
from textgym.tasks.base import Task, checked_rewards
from textgym.types import Rollout

if TYPE_CHECKING:
    from datasets import Dataset

TRLS_OWN = ("completion_ids", "trainer_state", "log_extra", "log_metric", "environments")
"""What TRL passes to a reward function beside the data set's columns."""

PREFIX = "textgym_"
"""Of the judged metrics among a trainer's own."""


@dataclass
class Bundle:
    """What a trainer of TRL's asks for, and the judge of what comes out of it.

    Attributes:
        task: the task.
        model: folder or Hub id of the language model, as `model=` of a trainer takes it.
        prompts: how many of the validation split the judge asks.
        samples_per_prompt: K, responses to each, at least 2.
        seed: of which prompts those are and of the responses.
    """

    task: Task
    model: str
    prompts: int = 32
    samples_per_prompt: int = 4
    seed: int = 0

    @cached_property
    def reference(self) -> Policy:
        """The model as it was, frozen: what KL is measured against."""
        return load_policy(self.model).freeze()

    @property
    def processing_class(self) -> Any:
        """The tokenizer, with an EOS and a pad token, padding on the left."""
        return self.reference.tokenizer

    @property
    def train_dataset(self) -> Dataset:
        """The training prompts, with the columns that the reward needs."""
        return self.task.prompts("train")

    @cached_property
    def eval_dataset(self) -> Dataset:
        """The prompts that the judge asks: of the validation split, drawn by the seed."""
        rows = self.task.prompts("validation")
        order = Streams(self.seed).numpy("evaluation-prompts").permutation(len(rows))
        return rows.select(sorted(order[: self.prompts].tolist()))

    @property
    def max_completion_length(self) -> int:
        """The task's limit of a response, tokens: for the trainer's configuration."""
        return self.task.max_response_tokens

    @cached_property
    def reward_funcs(self) -> list[Callable[..., list[float]]]:
        """The task's reward, as the only one of the list."""

        def reward(prompts: list[str], completions: list[str], **columns: Any) -> list[float]:
            known = {name: v for name, v in columns.items() if name not in TRLS_OWN}
            values = self.task.reward(prompts, completions, **known)
            return checked_rewards(values, len(completions), self.task.name)

        return [reward]

    @cached_property
    def callback(self) -> Any:
        """A callback that judges the model at each of the trainer's evaluations.

        The metrics join those that `trainer.evaluate()` returns and `trainer.state.log_history`,
        called `eval_textgym_reward` and so on.
        """
        require_trl("textgym.integrations.trl")
        from transformers import TrainerCallback

        bundle = self

        class Judge(TrainerCallback):  # type: ignore[misc]
            def on_evaluate(
                self, args: Any, state: Any, control: Any, metrics: Any = None, **given: Any
            ) -> None:
                judged = bundle.judge(given["model"])
                named = {f"eval_{PREFIX}{name}": value for name, value in judged.items()}
                metrics.update(named)
                state.log_history.append({"step": state.global_step, **named})

        return Judge()

    def judge(self, model: Any) -> dict[str, float]:
        """Returns what a model does on `eval_dataset`, leaving it as it is.

        `reward` (the proxy it trains on), `gold` (in [0, 1], where the task has a judge),
        `kl_seq` (from the model as it was, of whole distributions, nats per response), `ead`
        (expectation-adjusted distinct n-grams of a prompt's responses) and `length` (tokens). The
        same seed draws the same prompts and, for the same weights, responses.

        Args:
            model: a `transformers` model of the reference's architecture, such as `trainer.model`.
        """
        # TRL replaces the forward pass of the model it trains; the weights are all that is judged.
        policy = self.reference.copy()
        policy.model.load_state_dict(model.state_dict())
        samples = rollout(
            policy,
            self.task,
            self.eval_dataset,
            samples_per_prompt=self.samples_per_prompt,
            generator=Streams(self.seed).torch("evaluation"),
        )
        k, mask, texts = self.samples_per_prompt, samples.response_mask, samples.completions
        rewards = score(samples, self.task).rewards
        assert rewards is not None, "score() sets them"
        judged = {"reward": rewards.mean().item()}
        if self.task.has_gold:
            gold = self.task.gold(samples.prompts, texts, **samples.columns)
            judged["gold"] = fmean(checked_rewards(gold, len(texts), f"{self.task.name} gold"))
        judged["kl_seq"] = kl.kl_seq(_full_kl(policy, self.reference, samples), mask, k).value
        tokenizer = self.reference.tokenizer
        ids = tokenizer(texts, add_special_tokens=False)["input_ids"]
        ead = partial(diversity.ead, vocabulary=len(tokenizer))
        judged["ead"] = sets.per_input(ead, ids, k)
        judged["length"] = mask.sum(1).float().mean().item()
        return judged


def for_trl(
    task: str | Task,
    model: str | Path | None = None,
    *,
    prompts: int = 32,
    samples_per_prompt: int = 4,
    seed: int = 0,
) -> Bundle:
    """Returns what a trainer of TRL's needs of a task.

    Args:
        task: a task, or the name of one.
        model: a language model's folder or Hub id, or "tiny" for the packaged one. None: the
            task's own where it brings one, else "tiny".
        prompts: how many the judge asks.
        samples_per_prompt: K, responses that the judge draws to each.
        seed: of the judge's draws.

    Raises:
        UnknownNameError: no such task.
        ModelError: a path that is no language model's.
        ConfigError: fewer than one prompt, or two responses to compare.
    """
    if prompts < 1 or samples_per_prompt < 2:
        raise ConfigError(
            "prompts must be >= 1 and samples_per_prompt >= 2, got "
            f"{prompts} and {samples_per_prompt}"
        )
    task = load_task(task)
    own = task.language_model() if model is None else model
    return Bundle(task, resolve(own or TINY), prompts, samples_per_prompt, seed)


@torch.no_grad()
def _full_kl(policy: Policy, reference: Policy, samples: Rollout) -> Tensor:
    """Returns [B, T] KL of whole next-token distributions, nats, 0 on pads."""
    parts = [samples.select(rows) for rows in policy.chunks(samples)]
    return torch.cat(
        [full_kl(policy.response_logprobs(p), reference.response_logprobs(p)) for p in parts]
    )
