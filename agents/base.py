"""The plug-in interface: an agent trains, then samples. The harness measures it from outside."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass, fields
from typing import TYPE_CHECKING, Any, ClassVar

import torch
from textgym.rollout import rollout

from textgym.errors import ConfigError, PluginError
from textgym.registry import unknown_name
from textgym.seeding import Streams
from textgym.types import Budget, Log, Rollout, Sampling

if TYPE_CHECKING:
    from datasets import Dataset
    from textgym.models.policy import Policy

    from textgym.tasks.base import Task


@dataclass(frozen=True)
class NoConfig:
    """The configuration of an agent that has nothing to configure."""


@dataclass
class Setup:
    """Everything an agent is given to train with.

    Attributes:
        task: prompts to ask and the proxy reward to maximise.
        policy: the policy to train, a copy of the reference that the agent may change.
        reference: the frozen policy that KL is measured against.
        budget: completions that may be sampled and scored.
        streams: named random generators; the only source of randomness.
        log: receives (step, metrics); may be called every step.
    """

    task: Task
    policy: Policy
    reference: Policy
    budget: Budget
    streams: Streams
    log: Log


class Agent(ABC):
    """An algorithm. Subclasses override `train` and, unless they end with a policy, `sample`.

    Attributes:
        config_class: the frozen dataclass of its settings.
        task: set by `train`.
        policy: set by `train` to what `sample` draws from; None for agents whose samples no
            policy scores (best-of-n, human text), for which the harness cannot measure KL and
            reports `kl_estimates` instead.
        sampling: how `sample` draws tokens.
    """

    config_class: ClassVar[type[Any]] = NoConfig

    def __init__(self, config: Any = None) -> None:
        self.config = self.config_class() if config is None else config
        self.task: Task | None = None
        self.policy: Policy | None = None
        self.sampling = Sampling()

    @abstractmethod
    def train(self, setup: Setup) -> None:
        """Spends the budget (or part of it), then sets `self.task` and `self.policy`."""

    def sample(self, rows: Dataset, samples_per_prompt: int, generator: torch.Generator) -> Rollout:
        """Returns K samples for each row's prompt, rows prompt-major; rewards may be None."""
        if self.policy is None or self.task is None:
            raise PluginError(f"{type(self).__name__}.sample called before train")
        return rollout(
            self.policy,
            self.task,
            rows,
            samples_per_prompt=samples_per_prompt,
            generator=generator,
            sampling=self.sampling,
        )

    def kl_estimates(self) -> dict[str, float]:
        """Returns KL figures that only the agent can give, such as best-of-n's bound, nats."""
        return {}


def make_config(config_class: type[Any], options: dict[str, Any]) -> Any:
    """Returns `config_class(**options)`; a misspelt option raises ConfigError with a suggestion."""
    names = [f.name for f in fields(config_class)]
    for name in options:
        if name not in names:
            raise ConfigError(str(unknown_name("option", name, names)))
    return config_class(**options)
