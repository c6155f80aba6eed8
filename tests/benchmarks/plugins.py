"""A task and agents as a user would write them, loaded by path."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from datasets import Dataset

from textgym.agents.base import Agent, Setup, collect
from textgym.errors import TrainingError
from textgym.tasks.base import Task, require_split


class Letters(Task):
    """Answer with as many a's as you can."""

    name: ClassVar[str] = "letters"
    question: ClassVar[str] = "Does a policy learn to write a?"
    max_prompt_tokens = 12
    max_response_tokens = 6
    eval_samples_per_prompt = 4

    def __init__(self, broken: str = "", window: int = 12, data: str = "") -> None:
        self.broken = broken
        self.max_prompt_tokens = window
        self.data = data

    def prompts(self, split: str) -> Dataset:
        require_split(split)
        count = 0 if self.broken == f"empty {split}" else 8
        prompts = [f"say {i}:" for i in range(count)]
        return Dataset.from_dict({"prompt": prompts, "reference": ["a a"] * count})

    def demonstrations(self) -> Dataset:
        return Dataset.from_dict({"prompt": ["say 1:", "say 2:"], "completion": [" a b", " b a"]})

    def reward(
        self, prompts: list[str], completions: list[str], **columns: list[Any]
    ) -> list[float]:
        if self.broken == "nan":
            return [float("nan")] * len(completions)
        if self.broken == "short":
            return [0.0]
        return [float(text.count("a")) for text in completions]

    def gold(self, prompts: list[str], completions: list[str], **columns: list[Any]) -> list[float]:
        return [min(1.0, text.count("a") / 6) for text in completions]

    def measures(
        self, prompts: list[str], completions: list[str], **columns: list[Any]
    ) -> dict[str, list[float]]:
        return {"toxicity": [min(1.0, text.count("b") / 3) for text in completions]}

    def modes(
        self, prompts: list[str], completions: list[str], **columns: list[Any]
    ) -> list[str] | None:
        return ["a" if "a" in text else "other" for text in completions]


@dataclass(frozen=True)
class NudgeConfig:
    """Options of Nudge."""

    strength: float = 1.0
    fail_at: int = -1


class Nudge(Agent):
    """Samples twice, then moves every weight a little, at random."""

    config_class = NudgeConfig

    def train(self, setup: Setup) -> None:
        rows = setup.task.prompts("train")
        for step in range(2):
            if step == self.config.fail_at:
                raise TrainingError(step, "loss is nan")
            samples, _ = collect(setup, rows, 1, setup.streams.torch(f"sampling-{step}"))
            setup.log(step, {"reward": samples.rewards.mean().item()})
        generator = setup.streams.torch("initialisation")
        with torch.no_grad():
            for weights in setup.policy.parameters():
                noise = torch.randn(weights.shape, generator=generator)
                weights += 0.05 * self.config.strength * noise
        self.task, self.policy = setup.task, setup.policy


class NoTrain:
    def sample(self, rows, samples_per_prompt, generator):
        raise NotImplementedError


class NoSample:
    def train(self, setup):
        raise NotImplementedError


class Crash(Agent):
    """Fails as no one expected."""

    def train(self, setup: Setup) -> None:
        raise ZeroDivisionError("division by zero")


class Wait(Agent):
    """Says that it has begun, then trains until it is stopped."""

    def train(self, setup: Setup) -> None:
        import os
        import time
        from pathlib import Path

        Path(os.environ["TEXTGYM_TEST_BEGAN"]).touch()
        time.sleep(600)
