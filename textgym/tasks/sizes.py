"""How many rows a task has and how long its windows are: options every task shares."""

from __future__ import annotations

from dataclasses import dataclass, fields
from typing import Any

from textgym.errors import ConfigError
from textgym.registry import unknown_name


@dataclass(frozen=True)
class Sizes:
    """Row counts and windows; None keeps the task's own.

    Attributes:
        train, validation, test: rows per split: how many a world writes, or at most how many of a
            data set are used. An out-of-distribution split has as many as `test`.
        demonstrations: rows for supervised fine-tuning, likewise.
        max_prompt_tokens: window kept for the prompt, tokens.
        max_response_tokens: length limit of a response, tokens.
    """

    train: int | None = None
    validation: int | None = None
    test: int | None = None
    demonstrations: int | None = None
    max_prompt_tokens: int | None = None
    max_response_tokens: int | None = None

    def __post_init__(self) -> None:
        for field in fields(self):
            value = getattr(self, field.name)
            if value is not None and value < 1:
                raise ConfigError(f"{field.name} must be >= 1, got {value}")


def make_sizes(options: dict[str, Any]) -> Sizes:
    """Returns `Sizes(**options)`. Raises: ConfigError for an option there is not."""
    names = [field.name for field in fields(Sizes)]
    for name in options:
        if name not in names:
            raise ConfigError(str(unknown_name("option", name, names)))
    return Sizes(**options)
