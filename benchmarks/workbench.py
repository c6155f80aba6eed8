"""What the cells of one process share: tasks, policies, references and their samples."""

from __future__ import annotations

import hashlib
import inspect
import json
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
import torch

from textgym.agents import AGENTS
from textgym.agents.base import Agent, Setup, make_config
from textgym.benchmarks import pools
from textgym.benchmarks.cell import (
    OWN_MODEL,
    RESULT,
    Cell,
    read_json,
    whole_directory,
    write_json,
    write_table,
)
from textgym.benchmarks.checkpoints import kept
from textgym.benchmarks.locks import ignored_by_git, make_once
from textgym.benchmarks.measure import Baseline, measure
from textgym.benchmarks.reachable import ReferencePool
from textgym.benchmarks.recording import Curve
from textgym.benchmarks.sample_numbers import take_numbers, token_lists
from textgym.benchmarks.suite import Evaluation, Spec, folder_name
from textgym.benchmarks.tracking import Tracking
from textgym.errors import DataError, PluginError
from textgym.models.lora import adapted
from textgym.models.policy import Policy, load_policy
from textgym.models.precision import AUTO, describe
from textgym.rollout import rollout, score
from textgym.seeding import Streams
from textgym.tasks import TASKS, load_task
from textgym.tasks.base import Task, checked_rewards
from textgym.tasks.oracle.base import OracleTask
from textgym.types import Budget

if TYPE_CHECKING:
    from datasets import Dataset

POOL, SAMPLES, START = "pool.parquet", "samples.parquet", "start.parquet"
START_SETS = 8
"""Sets of samples of the reference, where an agent at a checkpoint has one: the reference's noise
would be in every agent's loss."""
SFT_SEED = 0
"""The reference is trained with this seed, whatever the cell's: it is part of the question."""


def make_agent(spec: Spec) -> Agent:
    """Returns an agent from its registered name or `path/to/file.py:Class`.

    Raises:
        UnknownNameError: no such agent.
        PluginError: the class lacks a method of the interface; names it.
        ConfigError: an option that the agent does not have, or outside its domain.
    """
    agent_class = load_agent_class(spec.name)
    agent: Agent = agent_class(make_config(agent_class.config_class, spec.options))
    return agent


def load_agent_class(name: str) -> type[Agent]:
    """Returns the class that a registered name or `path/to/file.py:Class` stands for.

    Raises: UnknownNameError and PluginError as `make_agent`.
    """
    agent_class = AGENTS.load(name)
    if not isinstance(agent_class, type):
        raise PluginError(f"agent {name!r} is a {type(agent_class).__name__}, not a class")
    missing = [method for method in ("train", "sample") if not _overrides(agent_class, method)]
    if missing:
        raise PluginError(f"agent {name!r} has no method {' and no method '.join(missing)}")
    if not issubclass(agent_class, Agent):
        raise PluginError(f"agent {name!r} is not a subclass of textgym.agents.base.Agent")
    return agent_class


def _overrides(agent_class: type[Any], name: str) -> bool:
    method = getattr(agent_class, name, None)
    return callable(method) and not getattr(method, "__isabstractmethod__", False)


def evaluation_rows(task: Task, evaluation: Evaluation, seed: int) -> Dataset:
    """Returns the prompts every agent of this seed is asked; another seed draws others.

    Raises: DataError when the split is empty.
    """
    rows = task.prompts(evaluation.split)
    if len(rows) == 0:
        raise DataError(f"task {task.name!r}: split {evaluation.split!r} is empty")
    order = Streams(seed).numpy("evaluation-prompts").permutation(len(rows))
    return rows.select(sorted(order[: evaluation.prompts].tolist()))


def samples_per_prompt(task: Task, evaluation: Evaluation) -> int:
    """Returns K: the evaluation's, or the task's own."""
    return evaluation.samples_per_prompt or task.eval_samples_per_prompt


def reference_pool(
    reference: Policy, task: Task, rows: Dataset, samples_per_prompt: int, streams: Streams
) -> ReferencePool:
    """Returns scored samples of the reference, M for every row."""
    samples = rollout(
        reference,
        task,
        rows,
        samples_per_prompt=samples_per_prompt,
        generator=streams.torch("reference-frontier"),
    )
    rewards = score(samples, task).rewards
    assert rewards is not None, "score() sets them"
    shape, gold = (len(rows), samples_per_prompt), None
    if task.has_gold:
        values = task.gold(samples.prompts, samples.completions, **samples.columns)
        gold = np.array(checked_rewards(values, len(samples), f"{task.name} gold")).reshape(shape)
    ids = token_lists(samples.completions, reference)
    return ReferencePool(rewards.double().numpy().reshape(shape), ids, gold)


class Workbench:
    """Makes tasks, policies and references once and hands them out.

    Attributes:
        out: the results folder; references are kept under `out/references`.
        tracking: who is told of the cells' training; no number depends on it.
    """

    def __init__(self, out: Path, tracking: Tracking | None = None) -> None:
        self.out = out
        self.tracking = tracking or Tracking()
        self._tasks: dict[str, Task] = {}
        self._policies: dict[tuple[str, str], Policy] = {}

    def task(self, spec: Spec, model: str) -> Task:
        """Returns the task, made once; one that takes a `backbone` gets the suite's model.

        A cell that starts from `OWN_MODEL` leaves the backbone to the task.
        """
        options = dict(spec.options)
        if model != OWN_MODEL and "backbone" in inspect.signature(TASKS.load(spec.name)).parameters:
            options.setdefault("backbone", model)
        key = json.dumps([spec.name, options], sort_keys=True, default=str)
        if key not in self._tasks:
            self._tasks[key] = load_task(spec.name, **options)
        return self._tasks[key]

    def policy(self, name_or_path: str, precision: str = AUTO) -> Policy:
        """Returns the policy, loaded once and frozen; callers copy before they train."""
        key = (name_or_path, precision)
        if key not in self._policies:
            self._policies[key] = load_policy(name_or_path, precision=precision).freeze()
        return self._policies[key]

    def pretrained(self, cell: Cell) -> Policy:
        """Returns what the cell starts from: the task's own language model, or the suite's."""
        own = self.task(cell.task, cell.model).language_model()
        return self.policy(cell.model if own is None else str(own), cell.precision)

    def trainable(self, policy: Policy, cell: Cell, streams: Streams) -> Policy:
        """Returns what starts as the policy and may change: a copy, or adapters on its weights."""
        if cell.lora is None:
            return policy.copy()
        return adapted(policy, cell.lora, streams.torch("adapters"))

    def reference_folder(self, cell: Cell) -> Path:
        """Returns where the cell's reference and its samples are kept.

        Reference and samples depend on what was computed in, whatever it was asked for as. A
        reference that is not trained is the same with adapters and without.
        """
        computed = describe(self.pretrained(cell).precision)
        decides = (cell.task.name, cell.task.options, cell.model, cell.fingerprint, computed)
        adapters = [cell.lora] if cell.lora is not None and cell.reference == "sft" else []
        key = json.dumps(
            [*decides, cell.reference, cell.sft, *adapters], sort_keys=True, default=str
        )
        digest = hashlib.sha256(key.encode()).hexdigest()[:12]
        return self.out / "references" / f"{folder_name(cell.task.label)}-{digest}"

    def reference(self, cell: Cell, *, wait: bool = True) -> Policy:
        """Returns the reference policy: fine-tuned and saved on first use, then loaded.

        Raises: BusyError when another process is making it, and `wait` is False.
        """
        if cell.reference == "pretrained":
            return self.pretrained(cell)
        folder = self.reference_folder(cell) / "policy"
        make = partial(self._train_reference, cell, folder)
        make_once(self.out, folder, make, wait=wait)
        return self.policy(str(folder), cell.precision)

    def _train_reference(self, cell: Cell, folder: Path) -> None:
        pretrained = self.pretrained(cell)
        agent = make_agent(Spec("sft", cell.sft))
        curve, streams = Curve(), Streams(SFT_SEED)
        agent.train(
            Setup(
                task=self.task(cell.task, cell.model),
                policy=self.trainable(pretrained, cell, streams),
                reference=pretrained,
                budget=Budget(0),
                streams=streams,
                log=curve,
            )
        )
        if agent.policy is None:
            raise PluginError("agent 'sft' trained no policy to serve as the reference")
        with whole_directory(folder) as temporary:
            # Weights can be made again; what git keeps of a results folder is the numbers.
            ignored_by_git(self.out / "references")
            agent.policy.save(temporary)
            curve.frame().to_parquet(temporary / "curve.parquet", index=False)

    def baseline(self, cell: Cell, *, wait: bool = True) -> Baseline:
        """Returns what agents are held against on the cell's prompts, measured once per seed.

        The reference's diversity, and where responses cannot be enumerated a pool of samples for
        the reachable frontier. They come from streams of their own, so that the `reference`
        agent's diversity loss is a control: the interval must hold zero. What the pool tells
        without its texts goes into `out/pools`, for later reports.

        Raises: BusyError when another process is making it, and `wait` is False.
        """
        task, e = self.task(cell.task, cell.model), cell.evaluation
        self.reference(cell, wait=wait)
        k = samples_per_prompt(task, e)
        m = 0 if isinstance(task, OracleTask) else e.frontier_samples
        looks = 0 if isinstance(task, OracleTask) else e.checkpoint_prompts
        name = f"seed-{cell.seed}-{e.split}-{e.prompts}x{k}+{m}"
        name += f"+{looks}x{e.checkpoint_samples}" if looks else ""
        folder = self.reference_folder(cell) / name
        make = partial(self._measure_reference, cell, folder, k, m, looks)
        make_once(self.out, folder, make, wait=wait)
        pool = ReferencePool.load(folder / POOL) if (folder / POOL).is_file() else None
        start = pd.read_parquet(folder / START) if looks else None
        prompts = pd.read_parquet(folder / "prompts.parquet")
        return Baseline(prompts, pool=pool, start=start, **read_json(folder / RESULT))

    def _measure_reference(self, cell: Cell, folder: Path, k: int, m: int, looks: int) -> None:
        task, reference, e = self.task(cell.task, cell.model), self.reference(cell), cell.evaluation
        rows, streams = evaluation_rows(task, e, cell.seed), Streams(cell.seed)
        generator = streams.torch("reference-evaluation")
        samples = rollout(reference, task, rows, samples_per_prompt=k, generator=generator)
        seen = measure(samples, task, reference, reference)
        measured = seen.baseline()
        pool = reference_pool(reference, task, rows, m, streams) if m else None
        scores = pools.pool_file(self.out, cell)
        if pool is not None:
            pools.save_pool(pool, scores, k, measured.common_length, reference)
        with whole_directory(folder) as temporary:
            measured.prompts.to_parquet(temporary / "prompts.parquet", index=False)
            write_table(seen.samples, temporary / SAMPLES)  # to score them later
            if pool is not None:
                pool.save(temporary / POOL)
            if looks:
                start = self._start(cell, looks, measured.common_length)
                start.to_parquet(temporary / START, index=False)
                pools.write(start, pools.beside(scores, pools.START))
            write_json(
                temporary / RESULT,
                {"across": measured.across, "common_length": measured.common_length},
            )

    def _start(self, cell: Cell, prompts: int, common_length: int) -> pd.DataFrame:
        """Returns the reference's numbers on the prompts of a checkpoint, one row each."""
        task, reference = self.task(cell.task, cell.model), self.reference(cell)
        k = cell.evaluation.checkpoint_samples
        rows = evaluation_rows(task, cell.evaluation, cell.seed)
        samples = rollout(
            reference,
            task,
            rows.select(range(min(prompts, len(rows)))),
            samples_per_prompt=START_SETS * k,
            generator=Streams(cell.seed).torch("reference-checkpoint"),
        )
        sets = samples.select(torch.arange(len(samples)), samples_per_prompt=k)
        numbers = take_numbers(sets, task, reference, reference, common_length).per_prompt
        means = {name: v.reshape(-1, START_SETS).mean(axis=1) for name, v in numbers.items()}
        return kept(pd.DataFrame(means))
