"""The conformance checks of an agent's conduct: each of one thing that the harness relies on.

A check returns where the agent keeps to it, raises `Failed` with a one-line cause where it does
not, and `NotApplicable` with the reason where there is nothing to check.
"""

from __future__ import annotations

import itertools
import math
import re
from dataclasses import fields, is_dataclass

import torch

from textgym.agents.base import Agent, make_config
from textgym.agents.conformance_trials import (
    QUICK,
    BrokenReward,
    Subject,
    Trial,
    draw,
    same_weights,
)
from textgym.errors import BudgetError, ConfigError, PluginError, RewardError, TextGymError
from textgym.types import Rollout

POSITIVE, NOT_NEGATIVE = (0, -1), (-1,)
NONSENSE: dict[str, tuple[int, ...]] = {
    **dict.fromkeys(("lr", "value_lr", "temperature", "n"), POSITIVE),
    **dict.fromkeys(("prompts_per_step", "samples_per_prompt", "batch_size"), POSITIVE),
    **dict.fromkeys(("epochs", "minibatches", "clip"), POSITIVE),
    **dict.fromkeys(("kl_coef", "beta", "steps", "gamma", "gae_lambda"), NOT_NEGATIVE),
}
"""Values that no option of these names can have; nor NaN, where the option is a float."""


class Failed(Exception):  # noqa: N818
    """The agent does not keep to what was checked; the message is the cause, one line."""


class NotApplicable(Exception):  # noqa: N818
    """There is nothing to check; the message says why."""


def demand(condition: bool, cause: str) -> None:
    """Raises Failed with `cause` unless `condition` holds."""
    if not condition:
        raise Failed(cause)


def told(error: BaseException) -> str:
    """Returns an error as one line."""
    return " ".join(f"{type(error).__name__}: {error}".split())


def construction(subject: Subject) -> None:
    """Can be made without options; its config is frozen, with a sentence for every field."""
    agent_class, config_class = subject.agent_class, subject.agent_class.config_class
    agent_class()
    demand(is_dataclass(config_class), f"{config_class.__name__} is no dataclass")
    frozen = config_class.__dataclass_params__.frozen
    demand(frozen, f"{config_class.__name__} is not frozen")
    documented = "\n".join(c.__doc__ or "" for c in config_class.__mro__[:-1])
    for field in fields(config_class):
        # As in `Attributes:`; the docstring that a dataclass makes up for itself does not count.
        entry = rf"^ +(\w+, )*{field.name}(, \w+)*: +\S"
        found = re.search(entry, documented, re.MULTILINE)
        demand(found is not None, f"no docstring of the config says what {field.name!r} is")
    starts = agent_class.starts_from
    demand(starts in ("reference", "pretrained"), f"starts_from is {starts!r}")


def nonsense(subject: Subject) -> None:
    """Refuses unknown options, and numbers outside their domain, by a TextGymError."""
    config_class = subject.agent_class.config_class
    demand(is_dataclass(config_class), f"{config_class.__name__} is no dataclass")
    defaults = {f.name: f.default for f in fields(config_class)}
    if not defaults:
        raise NotApplicable("it has no options")
    some = next(iter(defaults))
    try:
        make_config(config_class, {f"{some}x": 1})
    except ConfigError as error:
        demand("did you mean" in str(error), f"no suggestion in {str(error)!r}")
    else:
        raise Failed(f"an option {some}x was taken")
    for name in set(defaults) & set(NONSENSE):
        for value in (*NONSENSE[name], *([math.nan] if isinstance(defaults[name], float) else [])):
            try:
                subject.agent_class(make_config(config_class, {name: value}))
            except TextGymError:
                continue
            except Exception as error:
                raise Failed(f"{name}={value} ends in {told(error)}") from error
            raise Failed(f"{name}={value} was taken")


def untrained(subject: Subject) -> None:
    """`sample` before `train` raises a PluginError."""
    agent = subject.agent_class(subject.config())
    try:
        draw(agent)
    except PluginError:
        return
    except Exception as error:
        raise Failed(f"it ends in {told(error)}") from error
    raise Failed("it gives samples")


def training(subject: Subject) -> None:
    """Trains and samples without an error."""
    trial = subject.trial()
    if trial.error is not None:
        raise Failed(told(trial.error)) from trial.error
    demand(isinstance(trial.samples, Rollout), f"sample returned {type(trial.samples).__name__}")


def trained(subject: Subject, seed: int = 0) -> tuple[Trial, Agent, Rollout]:
    """Returns a trial that went well, for checks that have nothing to look at without."""
    trial = subject.trial(seed)
    if trial.error is not None or trial.agent is None or not isinstance(trial.samples, Rollout):
        raise NotApplicable(f"it could not be trained and sampled with seed {seed}")
    return trial, trial.agent, trial.samples


def budget(subject: Subject) -> None:
    """Books every completion it has scored in training, and no more than it was given."""
    _require_booked(subject.trial())


def small_budget(subject: Subject) -> None:
    """Does the same with less than a batch left, or nothing, and can still be sampled."""
    for completions in (0, 1):
        trial = subject.trial(budget=completions)
        _require_booked(trial)
        if trial.error is not None:
            raise Failed(f"with a budget of {completions}: {told(trial.error)}") from trial.error


def _require_booked(trial: Trial) -> None:
    """Raises Failed unless what was scored in training was booked."""
    if isinstance(trial.error, BudgetError):
        raise Failed(told(trial.error)) from trial.error
    spent, scored = trial.setup.budget, trial.scored
    demand(spent.used == scored, f"scored {scored} completions and booked {spent.used}")
    demand(spent.used <= trial.given, f"used {spent.used} of {trial.given}")


def reference(subject: Subject) -> None:
    """Leaves the reference as it is: weights, gradients off, tokenizer."""
    changed = subject.trial().changed["reference"]
    demand(not changed, f"changed {', '.join(changed[:3])}")


def task(subject: Subject) -> None:
    """Leaves the task and its data as they are."""
    changed = subject.trial().changed["task"]
    demand(not changed, f"changed {', '.join(changed[:3])}")


def global_randomness(subject: Subject) -> None:
    """Draws nothing from the global generators of torch, numpy and random."""
    changed = subject.trial().changed["random"]
    demand(not changed, f"touched the global generator of {', '.join(changed)}")


def same_seed(subject: Subject) -> None:
    """The same seed gives the same logs, weights (to the bit) and samples."""
    trial, _, samples = trained(subject)
    again = subject.train(0, trial.given, QUICK)
    if again.error is not None:
        raise Failed(f"the second time: {told(again.error)}") from again.error
    # As text, in which NaN equals itself.
    demand(repr(trial.logs) == repr(again.logs), "the logs differ")
    demand(same_weights(trial.weights, again.weights), "the weights differ")
    assert again.samples is not None, "it was sampled without an error"
    demand(samples.completions == again.samples.completions, "the samples differ")


def other_seed(subject: Subject) -> None:
    """Another seed gives another training, and another generator other samples."""
    trial, agent, _ = trained(subject)
    if trial.trains:
        other, _, _ = trained(subject, seed=1)
        differs = repr(trial.logs) != repr(other.logs)
        differs |= not same_weights(trial.weights, other.weights)
        demand(differs, "another seed gives the same logs and weights")
    generators = [torch.Generator().manual_seed(seed) for seed in (1, 2)]
    untouched = generators[0].get_state()
    texts = [draw(agent, 16, generator).completions for generator in generators]
    varies = any(len(set(texts[0][i : i + 16])) > 1 for i in range(0, len(texts[0]), 16))
    demand(texts[0] != texts[1] or not varies, "another generator gives the same samples")
    if not trial.trains and torch.equal(untouched, generators[0].get_state()):
        raise NotApplicable("it draws nothing at random")


def logs(subject: Subject) -> None:
    """Logs finite numbers under names, at steps that increase."""
    trial, _, _ = trained(subject)
    if not trial.logs:
        raise NotApplicable("it logs nothing")
    steps = [entry["step"] for entry in trial.logs]
    demand(all(isinstance(s, int) for s in steps), f"a step is a {type(steps[0]).__name__}")
    demand(all(a < b for a, b in itertools.pairwise(steps)), f"the steps are {steps[:5]}")
    for entry in trial.logs:
        for name, value in entry.items():
            where = f"{name!r} at step {entry['step']}"
            demand(isinstance(name, str), f"the name {where} is no text")
            demand(isinstance(value, (int, float)), f"{where} is a {type(value).__name__}")
            demand(math.isfinite(value), f"{where} is {value}")


def broken_reward(subject: Subject) -> None:
    """A reward that is NaN, or missing, ends in a RewardError."""
    asked = False
    for broken, what in (("nan", "a NaN reward"), ("short", "a missing reward")):
        trial = subject.train(0, subject.trial().given, QUICK, BrokenReward(broken))
        asked |= trial.task.scored > 0
        if trial.error is None:
            demand(trial.task.scored == 0, f"{what} was taken")
        elif not isinstance(trial.error, RewardError):
            raise Failed(f"{what} ends in {told(trial.error)}") from trial.error
    if not asked:
        raise NotApplicable("it asks for no reward")
