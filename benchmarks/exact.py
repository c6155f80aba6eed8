"""What an agent's policy is worth exactly, on tasks whose responses can be enumerated."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from textgym.agents.base import Agent, Setup, enumerated
from textgym.benchmarks.intervals import BASELINE, DIVERSITY
from textgym.benchmarks.reachable import FRONTIER, LEAST_KL, REFERENCE_REWARD
from textgym.benchmarks.recording import Look
from textgym.metrics import exact
from textgym.tasks.base import Task
from textgym.tasks.oracle.base import OracleTask, Table

if TYPE_CHECKING:
    from textgym.models.policy import Policy

Columns = dict[str, NDArray[np.float64]]
"""Numbers by name, one per prompt."""

EXACT = "exact/"
"""Prefix of enumerated numbers in a training curve, beside what the agent logs of its samples."""
PROBE_EVERY = 5
"""Logged rows from one exact look at a policy to the next."""
REGRET = "regret"
"""`(J(pi*) - J(pi)) / beta = KL(pi || pi*)`, nats per response; J = E r - beta KL."""


def oracle(task: Task) -> OracleTask | None:
    """Returns the task if its responses can be enumerated, looking into wrappers."""
    inner = getattr(task, "inner", task)
    return inner if isinstance(inner, OracleTask) else None


def exact_columns(
    probabilities: Table, reference: Table, task: OracleTask, prompts: list[str]
) -> Columns:
    """Returns the exact numbers of each of n prompts, under the names of the sampled ones.

    Args:
        probabilities: [n, L], what the agent answers.
        reference: [n, L], what the reference answers.
        task: has the rewards and the price of KL.
        prompts: n of the task's.
    """
    rows = task.rows_of(prompts)
    rewards, beta = task.tables.rewards[rows], task.beta
    entropy, kept = exact.entropy(probabilities), exact.entropy(reference)
    columns = {
        REGRET: exact.regret(probabilities, reference, rewards, beta) / beta,
        "reward": exact.expectation(probabilities, rewards),
        "kl_seq": exact.kl(probabilities, reference),
        "kl_reverse": exact.kl(reference, probabilities),
        "entropy_seq": entropy,
        "entropy_kept": np.divide(entropy, kept, out=np.full_like(kept, np.nan), where=kept > 0),
        **task.exact_measures(probabilities, prompts),
    }
    if task.has_gold:
        columns["gold"] = exact.expectation(probabilities, task.tables.gold[rows])
    return columns


def best_columns(
    probabilities: Table, reference: Table, task: OracleTask, prompts: list[str]
) -> Columns:
    """Returns what the best policies at the agent's own KL have, and the entropies to compare."""
    spent = float(exact.kl(probabilities, reference).mean())
    columns = {
        DIVERSITY + "entropy": exact.entropy(probabilities),
        BASELINE + "entropy": exact.entropy(reference),
    }
    if spent < LEAST_KL:
        return columns
    rewards = task.tables.rewards[task.rows_of(prompts)]
    best = exact.tilted(reference, rewards, exact.beta_at_kl(reference, rewards, spent))
    return {
        **columns,
        FRONTIER + "reward": exact.expectation(best, rewards),
        REFERENCE_REWARD: exact.expectation(reference, rewards),
        FRONTIER + "entropy": exact.entropy(best),
    }


def measure_exactly(
    agent: Agent, reference: Policy, task: Task, prompts: list[str]
) -> tuple[Columns, dict[str, float]]:
    """Returns an agent's exact numbers by prompt, and those of the task as a whole.

    Both are empty where responses cannot be enumerated, or the agent cannot tell its distribution.
    """
    inner = oracle(task)
    probabilities = None if inner is None else agent.distribution(inner, prompts)
    if inner is None or probabilities is None:
        return {}, {}
    base = enumerated(reference, inner, prompts)

    def answers(asked: list[str]) -> Table:
        found = agent.distribution(inner, asked)
        assert found is not None, "it could tell a moment ago"
        return found

    columns = exact_columns(probabilities, base, inner, prompts)
    columns |= best_columns(probabilities, base, inner, prompts)
    return columns, inner.summaries(answers)


def probe(setup: Setup, prompts: list[str]) -> Look | None:
    """Returns what looks at the policy in training: exact means over the prompts.

    It looks at every `PROBE_EVERY`th row, from the first. None where responses cannot be
    enumerated.
    """
    task = oracle(setup.task)
    if task is None:
        return None
    base = enumerated(setup.reference, task, prompts)

    def look(rows: int) -> dict[str, float]:
        if rows % PROBE_EVERY != 1:
            return {}
        now = enumerated(setup.policy, task, prompts)
        columns = exact_columns(now, base, task, prompts)
        return {EXACT + name: float(values.mean()) for name, values in columns.items()}

    return look
