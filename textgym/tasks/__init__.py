"""The tasks: one file each, one line of the table below."""

from __future__ import annotations

from typing import Any

from textgym.registry import Registry
from textgym.tasks.base import Task

TASKS = Registry(
    "task",
    {
        "summarize": "textgym.tasks.summarize:make_summarize",
        "toxicity": "textgym.tasks.toxicity:make_toxicity",
    },
    entry_point_group="textgym.tasks",
)


def load_task(name: str | Task, **options: Any) -> Task:
    """Returns the task of that name, made with `options` (such as `data=`), or the task itself.

    Raises: UnknownNameError for a name no task has; ConfigError for an option it does not take.
    """
    if isinstance(name, Task):
        return name
    task: Task = TASKS.load(name)(**options)
    return task
