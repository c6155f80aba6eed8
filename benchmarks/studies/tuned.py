"""Tuning an agent on a task and measuring it on several splits, for studies.

    seen = tune_and_measure(Spec("summarize"), Spec("rloo", {"lr": 3e-4}), seed=0, cache=folder,
                            splits=("test", "ood"))
    seen["ood"].mean("gold"), seen["ood"].kl, seen["ood"].diversity_lost

Agents without training are told in the same way: `Spec("sft")` (the reference),
`Spec("pretrained")`, `Spec("best_of_n", {"n": 8})`, `Spec("reference", {"temperature": 0.7})`.
"""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from textgym.agents.base import Agent, Setup
from textgym.benchmarks.intervals import BASELINE, DIVERSITY
from textgym.benchmarks.measure import HEADLINE, Baseline, measure
from textgym.benchmarks.recording import Curve
from textgym.benchmarks.suite import Evaluation, Options, Spec
from textgym.benchmarks.workbench import evaluation_rows, make_agent
from textgym.cache import cached, fingerprint, model_fingerprint
from textgym.errors import DataError
from textgym.models.policy import Policy, load_policy
from textgym.rollout import rollout
from textgym.seeding import Streams
from textgym.tasks import load_task
from textgym.tasks.base import Task
from textgym.types import Budget

if TYPE_CHECKING:
    import pandas as pd
    from datasets import Dataset

MODEL = "tiny"
SFT: Options = {"steps": 100}
BUDGET = 768
"""Reference and budget are those of the suite `core`, where a study says nothing else."""
PROMPTS, SAMPLES = 24, 8
EAD, REFERENCE_EAD = DIVERSITY + HEADLINE, BASELINE + HEADLINE
"""Columns of `Seen.prompts`: the agent's diversity on a prompt, and the reference's."""


@dataclass(frozen=True, eq=False)
class Start:
    """What every agent of a task begins with; made once in a process.

    Attributes:
        task: asks and scores.
        pretrained: the language model, frozen.
        reference: the same after supervised fine-tuning, frozen.
    """

    task: Task
    pretrained: Policy
    reference: Policy


@dataclass(frozen=True)
class Tuned:
    """An agent after its training, and what it is held against.

    Attributes:
        agent: samples.
        task: asks and scores, as this run met it.
        start: what training began with.
        seed: of the training, and of the prompts that are asked.
    """

    agent: Agent
    task: Task
    start: Start
    seed: int

    @property
    def reference(self) -> Policy:
        """What KL and diversity loss are measured against."""
        return self.start.reference


@dataclass(frozen=True)
class Seen:
    """What is seen of an agent on a split.

    Attributes:
        prompts: one row per prompt, by column: `reward`, `gold` where the task has one, `kl_seq`
            (nats per response; not for agents without a policy), the task's measures, diversity
            (`EAD` and others) and the reference's on the same prompt (`REFERENCE_EAD`).
        kl: nats per response to the reference, by the agent's own estimate where no policy scores
            its samples; NaN where nobody can tell.
        common_length: tokens that responses were cut to for diversity, the reference's median.
    """

    prompts: pd.DataFrame
    kl: float
    common_length: int

    def mean(self, column: str) -> float:
        """Returns a column's mean over the prompts it applies to."""
        return float(self.prompts[column].mean())

    def kl_of_prompts(self) -> list[float]:
        """Returns `kl_seq` of each prompt, or the agent's own estimate for every one."""
        if "kl_seq" in self.prompts:
            return [float(value) for value in self.prompts["kl_seq"]]
        return [self.kl] * len(self.prompts)

    @property
    def diversity_lost(self) -> float:
        """Returns `1 - EAD / the reference's EAD`, a ratio of means over prompts."""
        return 1 - self.mean(EAD) / self.mean(REFERENCE_EAD)


def tune_and_measure(
    task: Spec,
    agent: Spec,
    seed: int,
    cache: Path,
    *,
    splits: Sequence[str] = ("test",),
    prompts: int = PROMPTS,
    samples: int = SAMPLES,
    budget: int = BUDGET,
    sft: Options = SFT,
    model: str = MODEL,
) -> dict[str, Seen]:
    """Trains an agent against the fine-tuned reference and measures it on each split.

    Args:
        task: by name and options.
        agent: by name and options.
        seed: of the training, of the prompts and of the samples.
        cache: where references are kept, so that points share them.
        splits: such as "test" and "ood".
        prompts: how many of a split are asked.
        samples: K per prompt.
        budget: completions that training may sample and score.
        sft: options of the `sft` agent that makes the reference, always with seed 0.
        model: the pretrained model, where the task brings none of its own.

    Returns:
        What is seen, by split.

    Raises:
        DataError: a split that the task does not have.
    """
    made = tune(task, agent, seed, cache, budget=budget, sft=sft, model=model)
    return {split: look(made, split, prompts, samples) for split in splits}


def tune(
    task: Spec,
    agent: Spec,
    seed: int,
    cache: Path,
    *,
    budget: int = BUDGET,
    sft: Options = SFT,
    model: str = MODEL,
) -> Tuned:
    """Returns the trained agent; arguments as `tune_and_measure`."""
    options, steps = (json.dumps(o, sort_keys=True, default=str) for o in (task.options, sft))
    start = _start(task.name, options, model, steps, cache)
    streams, trained = Streams(seed), make_agent(agent)
    asked = start.task.for_run(streams)
    if agent == Spec("sft"):  # the reference is not trained twice
        trained.task, trained.policy = asked, start.reference
        return Tuned(trained, asked, start, seed)
    first = start.pretrained if trained.starts_from == "pretrained" else start.reference
    trained.train(Setup(asked, first.copy(), start.reference, Budget(budget), streams, Curve()))
    return Tuned(trained, asked, start, seed)


def look(tuned: Tuned, split: str, prompts: int = PROMPTS, samples: int = SAMPLES) -> Seen:
    """Returns what is seen of a tuned agent on a split; arguments as `tune_and_measure`."""
    rows, baseline = _baseline(tuned.start, tuned.seed, split, prompts, samples)
    own = tuned.agent.sample(rows, samples, Streams(tuned.seed).torch("evaluation"))
    estimates = tuned.agent.kl_estimates()
    found = measure(
        own,
        tuned.task,
        tuned.agent.policy,
        tuned.reference,
        baseline=baseline,
        kl_estimates=estimates,
    )
    table = found.prompts
    kl = table["kl_seq"].mean() if "kl_seq" in table else estimates.get("kl_estimate", math.nan)
    return Seen(table, float(kl), found.common_length)


@lru_cache(maxsize=8)
def _baseline(
    start: Start, seed: int, split: str, prompts: int, samples: int
) -> tuple[Dataset, Baseline]:
    """Returns the prompts that agents of a seed are asked, and the reference's own diversity."""
    task, reference = start.task, start.reference
    rows = evaluation_rows(task, Evaluation(prompts=prompts, split=split), seed)
    drawn = rollout(
        reference,
        task,
        rows,
        samples_per_prompt=samples,
        generator=Streams(seed).torch("reference-evaluation"),
    )
    return rows, measure(drawn, task, reference, reference).baseline()


@lru_cache(maxsize=2)
def _start(name: str, options: str, model: str, sft: str, cache: Path) -> Start:
    """Returns the start; its reference is made once on a machine. Options and `sft` are JSON."""
    task: Task = load_task(name, **json.loads(options))
    own = task.language_model()
    base = model if own is None else str(own)
    pretrained = load_policy(base).freeze()
    rows = task.demonstrations()
    if len(rows) == 0:
        raise DataError(f"task {name!r} has no demonstrations to fine-tune on")

    def build(folder: Path) -> dict[str, Any]:
        agent = make_agent(Spec("sft", json.loads(sft)))
        agent.train(Setup(task, pretrained.copy(), pretrained, Budget(0), Streams(0), Curve()))
        assert agent.policy is not None, "sft trains one"
        agent.policy.save(folder / "policy")
        return {}

    key = {
        "task": name,
        "model": model_fingerprint(base),
        "sft": sft,
        "demonstrations": fingerprint([*rows["prompt"], *rows["completion"]]),
    }
    folder = cached(cache, "study-reference", key, build)
    return Start(task, pretrained, load_policy(folder / "policy").freeze())
