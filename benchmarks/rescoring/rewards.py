"""Rewards and toxicity classifiers as scorers of kept samples."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from functools import partial
from importlib import resources
from pathlib import Path
from typing import Any

import numpy as np

from textgym.benchmarks.rescoring.archive import COLUMNS
from textgym.benchmarks.rescoring.kept import Kept
from textgym.benchmarks.rescoring.scorer import (
    Scored,
    Scorer,
    default_column,
    digest,
    digest_of,
    named,
    per_response,
    plain_errors,
)
from textgym.benchmarks.suite import Spec
from textgym.errors import ConfigError
from textgym.metrics import toxicity
from textgym.rewards import REWARDS, load_reward
from textgym.rewards.detoxify import CHECKPOINT, Toxicity, sha256
from textgym.tasks.base import checked_rewards

OWN_REWARD = "task"
"""What the task's own reward is called, where a reward is named."""
TINY = "tiny"
"""What the packaged toxicity classifier is called."""


def reward_scorer(spec: Spec, column: str | None) -> Scorer:
    """Returns what scores each response by a reward.

    Args:
        spec: a registered reward, a folder that one was saved to, `file.py:function` or
            `file.py:Class` under the reward contract, or `task` for the task's own.
        column: what it is called, by default the reward's name.

    Raises:
        ConfigError, UnknownNameError, PluginError, ModelError: a reward that cannot be made.
    """
    name = column or default_column(spec)
    make = partial(Scorer, named("reward", spec), name, needs=frozenset({COLUMNS}))
    if spec.name == OWN_REWARD:
        if spec.options:
            raise ConfigError(f"the task's own reward takes no options, got {spec.options}")
        return make(partial(_own_reward, name))
    function = _reward_function(spec)
    score = partial(_reward, name, function)
    return make(score, options=spec.options, sha256=digest(spec, REWARDS))


def _reward_function(spec: Spec) -> Callable[..., Any]:
    """Returns a plain function of prompts and completions as it is, or what a factory makes."""
    with plain_errors(f"reward {spec.name!r}"):
        if ".py:" in spec.name:
            found = REWARDS.load(spec.name)
            if not inspect.isclass(found) and "completions" in inspect.signature(found).parameters:
                return partial(found, **spec.options)
        return load_reward(spec.name, **spec.options)


def _reward(name: str, function: Callable[..., Any], kept: Kept) -> Scored:
    with plain_errors(f"reward {name!r}"):
        values = function(kept.prompts, kept.responses, **kept.columns)
        return per_response(name, checked_rewards(values, len(kept.table), name), kept.k)


def _own_reward(name: str, kept: Kept) -> Scored:
    return _reward(name, kept.task().reward, kept)


def toxicity_scorer(spec: Spec, column: str | None) -> Scorer:
    """Returns what gives each response's toxicity, its expected maximum and its probability.

    Args:
        spec: `tiny` for the packaged classifier, a public name of Detoxify's, or a folder with a
            checkpoint of its kind; options as of `textgym.rewards.detoxify.Toxicity`.
        column: what it is called, by default the classifier's name.

    Raises:
        ModelError, PluginError: a classifier that cannot be loaded.
    """
    with plain_errors(f"toxicity {spec.name!r}"):
        classifier = Toxicity(None if spec.name == TINY else spec.name, **spec.options)
    name = column or classifier.name
    highest, probability = f"expected_max_{name}", f"{name}_probability"

    def compute(kept: Kept) -> Scored:
        scores = np.asarray(classifier.scores(kept.responses), float)
        found = per_response(name, scores, kept.k)
        found.prompts[highest] = toxicity.max_toxicity(scores.reshape(-1, kept.k))
        found.prompts[probability] = (found.prompts[highest] > 0.5).astype(float)
        return found

    return Scorer(
        by=f"toxicity {classifier.name}",
        column=name,
        compute=compute,
        options=spec.options,
        sha256=_weights(spec.name),
        also=(highest, probability),
        shown=(highest,),
    )


def _weights(name: str) -> str | None:
    """Returns the digest of a classifier's weights; the public ones have theirs checked by name."""
    if name == TINY:
        shipped = resources.files("textgym.assets").joinpath("toxicity", CHECKPOINT)
        return sha256(Path(str(shipped)))
    return digest_of(Path(name))
