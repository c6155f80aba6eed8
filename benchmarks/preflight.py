"""Finds what would fail before anything trains."""

from __future__ import annotations

from collections.abc import Callable

from textgym.benchmarks.cell import OWN_MODEL, Pretrained
from textgym.benchmarks.recording import CountedTask
from textgym.benchmarks.suite import Suite
from textgym.benchmarks.workbench import Workbench, evaluation_rows, make_agent
from textgym.cache import model_fingerprint
from textgym.errors import DataError
from textgym.models.lora import import_peft
from textgym.rollout import encode_texts


def preflight(bench: Workbench, suite: Suite, say: Callable[[str], None]) -> dict[str, Pretrained]:
    """Makes every agent, reads every task's data, loads the models; returns them by task label.

    The texts at hand are rewarded once, so that a broken reward is found now, and the evaluation
    prompts are encoded, so that one that does not fit its window is.

    Args:
        bench: loads and keeps what is needed.
        suite: what is to be run.
        say: told what is being done, since a task may train its reward here (minutes; then cached).

    Raises:
        TextGymError: the first thing that would fail.
    """
    if suite.lora is not None:
        import_peft()
    for spec in suite.agents:
        make_agent(spec)
    models: dict[str, Pretrained] = {}
    for spec in suite.tasks:
        say(f"{spec.label}: reading data; training what it needs unless it is cached")
        task = CountedTask(bench.task(spec, suite.model))
        own = task.language_model()
        name, path = (suite.model, suite.model) if own is None else (OWN_MODEL, str(own))
        policy = bench.policy(path, suite.precision)
        models[spec.label] = Pretrained(name, model_fingerprint(path))
        demonstrations = task.demonstrations()
        if len(demonstrations) == 0:
            raise DataError(f"task {task.name!r}: split 'train' is empty")
        rows = evaluation_rows(task, suite.evaluation, suite.seeds[0])
        encode_texts(policy, task, rows, [""] * len(rows))
        columns = {name: list(values) for name, values in rows[:2].items()}
        prompts = columns.pop("prompt")
        task.reward(prompts, ["an answer"] * len(prompts), **columns)
    return models
