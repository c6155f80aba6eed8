"""Whether an agent keeps to the interface: what `textgym check agent` runs on a plug-in.

Each check trains the agent on the identity task (`textgym.agents.identity`), a few times for a
second and once for long enough to learn it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, Literal

from textgym.agents import conformance_checks as checks
from textgym.agents import conformance_samples as given
from textgym.agents.base import Agent
from textgym.agents.conformance_trials import Ground, Subject

Status = Literal["passed", "failed", "not applicable"]

CHECKS: dict[str, Callable[[Subject], None]] = {
    "construction": checks.construction,
    "nonsense": checks.nonsense,
    "untrained": checks.untrained,
    "training": checks.training,
    "budget": checks.budget,
    "small budget": checks.small_budget,
    "reference": checks.reference,
    "task": checks.task,
    "global randomness": checks.global_randomness,
    "same seed": checks.same_seed,
    "other seed": checks.other_seed,
    "logs": checks.logs,
    "samples": given.samples,
    "likelihood": given.likelihood,
    "saving": given.saving,
    "broken reward": checks.broken_reward,
    "learning": given.learning,
}
"""By name, in the order they are run: what the later need is checked by the earlier."""


@dataclass(frozen=True)
class Outcome:
    """What came of one check.

    Attributes:
        check: its name in `CHECKS`.
        status: `passed`, `failed` or `not applicable`.
        cause: what was found wrong, or why there is nothing to check; one line, else empty.
    """

    check: str
    status: Status
    cause: str = ""

    @property
    def claim(self) -> str:
        """What the check checks: the first line of its docstring."""
        return (CHECKS[self.check].__doc__ or "").partition("\n")[0]


def conformance(
    agent_class: type[Agent], options: dict[str, Any] | None = None, ground: Ground | None = None
) -> Iterator[Outcome]:
    """Yields the outcome of each check as it is done.

    Args:
        agent_class: the class of the agent.
        options: of its config; those given are never replaced by faster ones.
        ground: the models it is tried on, so that several agents can share them.

    Raises:
        ConfigError: an option that the agent does not have, or outside its domain.
    """
    subject = Subject(agent_class, ground, options)
    for name in CHECKS:
        yield examine(subject, name)


def examine(subject: Subject, name: str) -> Outcome:
    """Returns what comes of one check."""
    try:
        CHECKS[name](subject)
    except checks.Failed as failed:
        return Outcome(name, "failed", str(failed))
    except checks.NotApplicable as reason:
        return Outcome(name, "not applicable", str(reason))
    except Exception as error:  # what a plug-in raises where nobody expects it
        return Outcome(name, "failed", checks.told(error))
    return Outcome(name, "passed")
