"""Constrained REINFORCE: the most reward among policies whose expected cost stays within a limit.

The problem is `max E[r] - beta KL` subject to `E[cost] <= c`. A weighted sum of reward and cost
needs the right weight; here it is found. REINFORCE climbs the Lagrangian
`E[r - lambda (cost - c)] - beta KL`, by training on the reward `r - lambda cost`, and after every
batch the multiplier descends it: `lambda <- max(0, lambda + eta (mean cost - c))`. It rises for as
long as the limit is broken and falls to 0 where it costs nothing to keep; where it comes to rest it
is the price of the limit, in reward per unit of cost.

Source: Dai et al. 2023, "Safe RLHF", arXiv 2310.12773, section 3.3. There PPO takes the steps with
a second value model for the cost, `ln lambda` takes the step in place of lambda (eq. 31), so that a
multiplier never reaches 0, and the objective is divided by 1 + lambda, so that the price of KL
rises with the multiplier. Here it is the Lagrangian as written.
"""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

import numpy as np

from textgym.agents.base import Setup, require
from textgym.agents.reinforce import Reinforce, ReinforceConfig
from textgym.errors import ConfigError
from textgym.models.tokenize import completion_token_ids
from textgym.registry import unknown_name
from textgym.rewards import REWARDS, load_reward
from textgym.tasks.base import checked_rewards

if TYPE_CHECKING:
    from textgym.tasks.base import Task
    from textgym.types import RewardFunction

LENGTH = "length"
LIMITS = {"toxicity": 0.1, LENGTH: 1.0}
"""The costs that have a limit of their own; the first that a task has is the default cost."""


@dataclass(frozen=True)
class ConstrainedConfig(ReinforceConfig):
    """Settings of constrained REINFORCE: those of REINFORCE, and of the constraint.

    Attributes:
        cost: what is kept low: a measure of the task's (`toxicity`, `insult`, ...), `length` (the
            share of the response limit that a response takes, in [0, 1], which every task has), or
            a reward by name, file or folder, see `textgym.rewards.load_reward`. None: `toxicity`
            where the task measures it, else `length`.
        limit: c, what the expected cost may be. None: 0.1 for toxicity and 1 for length, which
            never binds, so that on a task without toxicity the default is REINFORCE; any other
            cost needs a limit.
        multiplier: lambda at the start, reward per unit of cost, >= 0.
        multiplier_lr: eta, by how much a batch that breaks the limit by a unit of cost raises it;
            0 keeps it: the cost then has a fixed price.
    """

    cost: str | None = None
    limit: float | None = None
    multiplier: float = 0.0
    multiplier_lr: float = 1.0

    def __post_init__(self) -> None:
        super().__post_init__()
        require(self.multiplier >= 0, f"multiplier must be >= 0, got {self.multiplier}")
        require(self.multiplier_lr >= 0, f"multiplier_lr must be >= 0, got {self.multiplier_lr}")
        require(
            self.limit is not None or self.cost in (None, *LIMITS),
            f"cost {self.cost!r} needs a limit: what may its mean be?",
        )


@dataclass
class Lagrangian:
    """A task's reward minus the multiplier times the cost; a reward function.

    Attributes:
        task: has the reward.
        name: the cost's.
        cost: what is to be kept low.
        limit: c, what its mean may be.
        multiplier: lambda.
        rewards, costs: of the last batch, before they are combined.
    """

    task: Task
    name: str
    cost: RewardFunction
    limit: float
    multiplier: float
    rewards: list[float] = field(default_factory=list)
    costs: list[float] = field(default_factory=list)

    def __call__(
        self, prompts: list[str], completions: list[str], **columns: list[Any]
    ) -> list[float]:
        """Returns `r - lambda cost`; the constant `lambda c` moves no gradient and is left out."""
        count = len(completions)
        rewards = self.task.reward(prompts, completions, **columns)
        self.rewards = checked_rewards(rewards, count, self.task.name)
        costs = self.cost(prompts, completions, **columns)
        self.costs = checked_rewards(costs, count, self.name)
        both = zip(self.rewards, self.costs, strict=True)
        return [r - self.multiplier * c for r, c in both]

    def metrics(self) -> dict[str, float]:
        """Returns `reward`, `reward_std`, `cost` (mean) and `multiplier` of the last batch."""
        return {
            "reward": float(np.mean(self.rewards)),
            "reward_std": float(np.std(self.rewards)),
            "cost": float(np.mean(self.costs)),
            "multiplier": self.multiplier,
        }

    def ascend(self, lr: float) -> None:
        """Raises or lowers the multiplier by what the last batch was above or below the limit."""
        self.multiplier = max(0.0, self.multiplier + lr * (float(np.mean(self.costs)) - self.limit))


class Constrained(Reinforce):
    """REINFORCE on a reward from which a cost is taken, at a price that keeps the cost's limit."""

    config_class = ConstrainedConfig

    def train(self, setup: Setup) -> None:
        """Spends the budget in whole batches.

        Logs what REINFORCE does (`reward` and `reward_std` are the task's own), `cost` (mean, in
        the cost's units) and `multiplier` (the lambda that the batch was trained with).

        Raises:
            ConfigError: neither the task nor the registry has such a cost.
            RewardError: a reward or a cost is not finite, or one is missing.
        """
        config: ConstrainedConfig = self.config
        name, cost = find_cost(config.cost, setup)
        limit = LIMITS[name] if config.limit is None else config.limit
        lagrangian = Lagrangian(setup.task, name, cost, limit, config.multiplier)
        priced = copy.copy(setup.task)
        # The task in all but its reward: REINFORCE's loop is the same.
        vars(priced)["reward"] = lagrangian

        def after_batch(step: int, metrics: dict[str, float]) -> None:
            setup.log(step, {**metrics, **lagrangian.metrics()})
            lagrangian.ascend(config.multiplier_lr)

        super().train(replace(setup, task=priced, log=after_batch))
        self.task = setup.task


def find_cost(name: str | None, setup: Setup) -> tuple[str, RewardFunction]:
    """Returns the name of a cost and what gives it; see `ConstrainedConfig`.

    The task is asked for the measures of one empty completion to learn which it has: no reward.

    Raises:
        ConfigError: neither the task nor the registry of rewards has it.
    """
    measures = _measures(setup.task)
    if name is None:
        name = next(n for n in LIMITS if n in measures or n == LENGTH)
    if name == LENGTH:
        return name, _length(setup)
    if name in measures:
        return name, _measure(setup.task, name)
    if name in REWARDS or ".py:" in name or "/" in name:
        return name, load_reward(name)
    known = [*measures, LENGTH, *REWARDS]
    raise ConfigError(str(unknown_name(f"cost for task {setup.task.name!r}", name, known)))


def _measures(task: Task) -> list[str]:
    """Returns the names of a task's measures."""
    row = task.prompts("train")[:1]
    return list(task.measures(row.pop("prompt"), [""], **row))


def _measure(task: Task, name: str) -> Callable[..., list[float]]:
    def cost(prompts: list[str], completions: list[str], **columns: list[Any]) -> list[float]:
        return task.measures(prompts, completions, **columns)[name]

    return cost


def _length(setup: Setup) -> Callable[..., list[float]]:
    limit, tokenizer = setup.task.max_response_tokens, setup.policy.tokenizer

    def cost(prompts: list[str], completions: list[str], **columns: list[Any]) -> list[float]:
        # Text that a tokenizer would split otherwise than it was written may be longer.
        return [min(1.0, len(t) / limit) for t in completion_token_ids(tokenizer, completions)]

    return cost
