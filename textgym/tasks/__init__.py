"""The tasks: one file each, one line of the table below."""

from __future__ import annotations

import inspect
from typing import Any

from textgym.errors import ConfigError
from textgym.registry import Registry, unknown_name
from textgym.tasks.base import Task

TASKS = Registry(
    "task",
    {
        "summarize": "textgym.tasks.summarize:make_summarize",
        "toxicity": "textgym.tasks.toxicity:make_toxicity",
        "assistant": "textgym.tasks.assistant:make_assistant",
        "author": "textgym.tasks.author:make_author",
        "sentiment": "textgym.tasks.sentiment:make_sentiment",
        "caveats": "textgym.tasks.caveats:make_caveats",
        "two-modes": "textgym.tasks.oracle.two_modes:TwoModes",
        "known-frontier": "textgym.tasks.oracle.known_frontier:KnownFrontier",
        "noisy-reward": "textgym.tasks.oracle.noisy_reward:NoisyReward",
        "credit": "textgym.tasks.oracle.credit:Credit",
        "many-good-answers": "textgym.tasks.oracle.many_good_answers:ManyGoodAnswers",
        "stepping-stones": "textgym.tasks.oracle.stepping_stones:SteppingStones",
        "tic-tac-toe": "textgym.tasks.oracle.tic_tac_toe:TicTacToe",
    },
    entry_point_group="textgym.tasks",
)


def load_task(name: str | Task, **options: Any) -> Task:
    """Returns the task of that name, made with `options` (such as `data=`), or the task itself.

    Raises:
        UnknownNameError: a name no task has.
        ConfigError: an option it does not take, or a seed that is no integer.
    """
    if isinstance(name, Task):
        return name
    factory = TASKS.load(name)
    parameters = inspect.signature(factory).parameters
    if not any(p.kind is p.VAR_KEYWORD for p in parameters.values()):
        for option in options:
            if option not in parameters:
                raise ConfigError(str(unknown_name("option", option, parameters)))
    seed = options.get("seed", 0)
    if not isinstance(seed, int):
        raise ConfigError(f"seed must be an integer, got {seed!r}")
    task: Task = factory(**options)
    return task
