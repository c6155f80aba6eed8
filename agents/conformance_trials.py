"""Trains an agent on the identity task and notes what it did: what the conformance checks look at.

Every trial gets models, a task and a budget of its own, so that an agent that spoils what it is
lent spoils nothing for the next.
"""

from __future__ import annotations

import copy
import random
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, fields, is_dataclass, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from textgym.agents.base import Agent, Setup, make_config
from textgym.agents.identity import Identity, make_pretrained, make_reference, make_setup
from textgym.errors import PluginError, TextGymError
from textgym.models.policy import Policy
from textgym.tasks.base import SPLITS, Task
from textgym.types import Rollout

BUDGET, LEARNING_BUDGET = 200, 2560
"""Completions: for the checks of conduct (no batch fits in whole), and for the one of learning."""

QUICK: dict[str, Any] = {"batch": 32, "steps": 20}
LEARNING: dict[str, Any] = {
    "batch": 64,
    "lr": 1e-3,
    "value_lr": 3e-3,
    "kl_coef": 0.0,
    "beta": 0.5,
}
"""What options of these names are set to, so that a trial takes a second, or learns in a few.

The batch, in completions, decides `prompts_per_step`. A small beta would be unfair to the agents
that learn from pairs: the higher the margin they aim at, the more probability they lose to texts
that are in no pair.
"""
FROM_RANDOM: dict[str, Any] = {"steps": 300, "lr": 3e-3}
"""Likewise of an agent that starts from the random model and so has further to go."""


@dataclass(frozen=True)
class Ground:
    """The identity task's models, made once: the random one, and the reference."""

    pretrained: Policy
    reference: Policy

    @classmethod
    def make(cls) -> Ground:
        """Returns new ones, in a second or two."""
        pretrained = make_pretrained()
        return cls(pretrained.freeze(), make_reference(pretrained))


class BrokenReward(Identity):
    """The identity task with a reward that no agent may train on.

    Attributes:
        broken: `nan`, one reward is not a number; or `short`, one reward is missing.
    """

    def __init__(self, broken: str) -> None:
        super().__init__()
        self.broken = broken

    def reward(
        self, prompts: list[str], completions: list[str], **columns: list[Any]
    ) -> list[float]:
        """Returns the identity's rewards, the last of them broken."""
        rewards = super().reward(prompts, completions, **columns)
        return rewards[:-1] + ([float("nan")] if self.broken == "nan" else [])


@dataclass
class Trial:
    """One training and what was seen of it.

    Attributes:
        agent: as it was after training, or None where it could not be made.
        setup: what it was given.
        task: the task it was given.
        logs: what it logged.
        given: the budget it was given, completions.
        start: the weights it started from, by name.
        scored: completions it had scored in training.
        samples: 5 for each prompt, drawn after training.
        error: what ended it early.
        changed: what it changed that is not its own, by kind: `reference`, `task`, `random`.
    """

    agent: Agent | None
    setup: Setup
    task: Identity
    logs: list[dict[str, float]]
    given: int
    start: dict[str, Tensor]
    scored: int = 0
    samples: Rollout | None = None
    error: Exception | None = None
    changed: dict[str, list[str]] = field(default_factory=dict)

    @property
    def weights(self) -> dict[str, Tensor]:
        """The weights it ended with, by name; none where no policy gives its samples."""
        policy = None if self.agent is None else self.agent.policy
        return {} if policy is None else policy.model.state_dict()

    @property
    def trains(self) -> bool:
        """Whether it spent anything or ended with other weights than it started from."""
        return self.setup.budget.used > 0 or (
            bool(self.weights) and not same_weights(self.weights, self.start)
        )


class Subject:
    """An agent under examination.

    Attributes:
        agent_class: the agent's class.
        options: options that its user set; they are never replaced by faster ones.
    """

    def __init__(
        self,
        agent_class: type[Agent],
        ground: Ground | None = None,
        options: dict[str, Any] | None = None,
    ) -> None:
        self.agent_class = agent_class
        self.options = options or {}
        self._ground = ground
        self._trials: dict[tuple[int, int], Trial] = {}
        self._budget = BUDGET
        if self.options:
            self.config()

    @property
    def ground(self) -> Ground:
        """The models it is tried on; made on first use."""
        self._ground = self._ground or Ground.make()
        return self._ground

    def config(self, faster: dict[str, Any] | None = None) -> Any:
        """Returns its config, with what it takes of the faster options.

        Raises:
            ConfigError: an option of the user's that it does not have, or outside its domain.
            PluginError: options are given and its config is no dataclass.
        """
        config_class = self.agent_class.config_class
        if not is_dataclass(config_class):
            if self.options:
                raise PluginError(f"{config_class.__name__} is no dataclass: it takes no options")
            return config_class()
        config = make_config(config_class, self.options)
        faster = dict(faster or {})
        if "batch" in faster:
            k = getattr(config, "samples_per_prompt", 1)
            faster["prompts_per_step"] = max(1, faster.pop("batch") // k)
        names = {f.name for f in fields(config)} - set(self.options)
        for name, value in faster.items():
            # An option of that name may mean something else here.
            if name in names and isinstance(getattr(config, name), (int, float)):
                try:
                    config = replace(config, **{name: value})
                except TextGymError:
                    continue
        return config

    def trial(self, seed: int = 0, budget: int | None = None) -> Trial:
        """Returns what became of a quick training; each is done once.

        Args:
            seed: of all its randomness.
            budget: completions; by default few, or more where an agent's batch does not fit.
        """
        key = (seed, self._budget if budget is None else budget)
        if key not in self._trials:
            self._trials[key] = self.train(*key, QUICK)
        trial = self._trials[key]
        if budget is None and self._budget == BUDGET and not trial.error and not trial.trains:
            self._budget = LEARNING_BUDGET
            return self.trial(seed)
        return trial

    def train(
        self, seed: int, budget: int, faster: dict[str, Any], task: Identity | None = None
    ) -> Trial:
        """Returns what becomes of one training and of drawing 5 samples for each prompt."""
        task = task or Identity()
        reference = duplicate(self.ground.reference).freeze()
        start = reference
        if self.agent_class.starts_from == "pretrained":
            start = duplicate(self.ground.pretrained)
        setup, logs = make_setup(start, reference, budget, seed, task)
        weights = {name: value.clone() for name, value in setup.policy.model.state_dict().items()}
        before = {"reference": policy_state(reference), "task": task_state(task)}
        trial = Trial(None, setup, task, logs, budget, weights)
        with global_random_state() as touched:
            try:
                trial.agent = self.agent_class(self.config(faster))
                try:
                    trial.agent.train(setup)
                finally:
                    trial.scored = task.scored
                trial.samples = draw(trial.agent)
            except Exception as error:  # whatever a plug-in raises is what the checks report
                trial.error = error
        after = {"reference": policy_state(reference), "task": task_state(task)}
        trial.changed = {kind: differences(before[kind], after[kind]) for kind in before}
        trial.changed["random"] = touched
        return trial


def draw(
    agent: Agent, samples_per_prompt: int = 5, generator: torch.Generator | None = None
) -> Rollout:
    """Returns the agent's samples for the four prompts; each time the same without a generator."""
    generator = generator or torch.Generator().manual_seed(1)
    return agent.sample(Identity().prompts("test"), samples_per_prompt, generator)


def duplicate(policy: Policy) -> Policy:
    """Returns a policy that shares nothing with the given one, its tokenizer neither."""
    model, tokenizer = copy.deepcopy((policy.model, policy.tokenizer))
    return Policy(model, tokenizer, policy.name, policy.asked_precision)


def same_weights(one: dict[str, Tensor], other: dict[str, Tensor]) -> bool:
    """Returns whether both have the same tensors to the bit under the same names."""
    return one.keys() == other.keys() and all(torch.equal(one[n], other[n]) for n in one)


def policy_state(policy: Policy) -> dict[str, Any]:
    """Returns what a frozen policy is, by name, to hold against the same at another time."""
    model, tokenizer = policy.model, policy.tokenizer
    weights = {f"weights {name}": value.clone() for name, value in model.state_dict().items()}
    return weights | {
        "requires_grad": [name for name, p in model.named_parameters() if p.requires_grad],
        "gradients": [name for name, p in model.named_parameters() if p.grad is not None],
        "training mode": model.training,
        "sampler": policy.sampler,
        "tokenizer": (len(tokenizer), tokenizer.eos_token, tokenizer.pad_token),
        "tokenizer sides": (tokenizer.padding_side, tokenizer.truncation_side),
    }


def task_state(task: Task) -> dict[str, Any]:
    """Returns a task's data and the names of its attributes, likewise."""
    rows = {f"prompts {split}": task.prompts(split) for split in SPLITS}
    rows["demonstrations"] = task.demonstrations()
    # The text of the rows, since a format set on them changes what they hold.
    return {name: repr(data[:]) for name, data in rows.items()} | {"attributes": sorted(vars(task))}


def differences(before: dict[str, Any], after: dict[str, Any]) -> list[str]:
    """Returns the names under which two states differ."""

    def same(one: Any, other: Any) -> bool:
        return bool(torch.equal(one, other) if isinstance(one, Tensor) else one == other)

    names = before | after
    return [n for n in names if n not in before or n not in after or not same(before[n], after[n])]


@contextmanager
def global_random_state() -> Iterator[list[str]]:
    """Gives a list that names, afterwards, the global generators touched; puts them back."""
    touched: list[str] = []
    torch_state, own_state = torch.random.get_rng_state(), random.getstate()
    numpy_state = _numpy_state()
    try:
        yield touched
    finally:
        if not torch.equal(torch_state, torch.random.get_rng_state()):
            touched.append("torch")
        if numpy_state != _numpy_state():
            touched.append("numpy")
        if own_state != random.getstate():
            touched.append("random")
        torch.random.set_rng_state(torch_state)
        name, keys, *rest = numpy_state
        np.random.set_state((name, np.array(keys, dtype=np.uint32), *rest))  # noqa: NPY002
        random.setstate(own_state)


def _numpy_state() -> tuple[Any, ...]:
    """Returns NumPy's global state with its keys as a list, which can be compared."""
    state: Any = np.random.get_state()  # noqa: NPY002
    name, keys, *rest = state
    return (name, keys.tolist(), *rest)
