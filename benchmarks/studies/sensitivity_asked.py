"""Asking a tuned agent under other length limits, temperatures and wordings."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

import torch
from datasets import Dataset

from textgym.agents.base import Agent
from textgym.agents.best_of_n import Selection
from textgym.benchmarks.sample_numbers import token_lists
from textgym.benchmarks.studies.sensitivity_settings import (
    AGENTS,
    AS_TRAINED,
    COMMON_LENGTH,
    FRAMES,
    LIMIT,
    LIMITS,
    TEMPERATURE,
    TEMPERATURES,
    WORDING,
    reworded,
)
from textgym.benchmarks.studies.tuned import PROMPTS, SAMPLES, Tuned, tune
from textgym.benchmarks.suite import Evaluation, Spec, load_suite
from textgym.benchmarks.workbench import evaluation_rows
from textgym.metrics import diversity, sets
from textgym.metrics.sets import FloatArray
from textgym.models.policy import Policy
from textgym.models.tokenize import decode_responses
from textgym.rollout import rollout, score
from textgym.seeding import Streams
from textgym.types import Rollout, Sampling

Setting = tuple[str, str]
"""What is varied, and its value."""


@dataclass(frozen=True)
class Seen:
    """Gold and diversity (EAD of the first `COMMON_LENGTH` tokens) of each prompt, [N]."""

    gold: FloatArray
    diversity: FloatArray


def asked(task: str, agent: str, seed: int, cache: Path) -> dict[Setting, Seen]:
    """Tunes an agent and returns what is seen of it under every setting.

    Args:
        task: one of `TASKS`.
        agent: one of `AGENTS`.
        seed: of training, prompts and samples.
        cache: where references are kept.
    """
    spec = next(s for s in load_suite("core").agents if s.label == AGENTS[agent])
    made = tune(Spec(task), spec, seed, cache)
    rows = evaluation_rows(made.task, Evaluation(prompts=PROMPTS), seed)
    return {setting: _seen(given, made) for setting, given in _answers(made, task, rows)}


def _answers(made: Tuned, task: str, rows: Dataset) -> Iterator[tuple[Setting, Rollout]]:
    """Yields what the agent gives under each setting."""
    usual = _drawn(made, rows, 1.0)
    for limit in LIMITS:
        if limit <= made.task.max_response_tokens:
            short = shortened(usual, limit, made.reference)
            yield (LIMIT, str(limit)), _given(made, short)
    for temperature in TEMPERATURES:
        pool = usual if temperature == 1 else _drawn(made, rows, temperature)
        yield (TEMPERATURE, str(temperature)), _given(made, pool)
    for frame in FRAMES:
        other = [{**row, "prompt": reworded(row["prompt"], task, frame)} for row in rows.to_list()]
        pool = usual if frame == AS_TRAINED else _drawn(made, Dataset.from_list(other), 1.0)
        yield (WORDING, frame), _given(made, pool)


@torch.no_grad()
def _drawn(made: Tuned, rows: Dataset, temperature: float) -> Rollout:
    """Returns K samples per prompt, or for an agent that selects the pool it selects from."""
    many = made.agent.config.n if isinstance(made.agent, Selection) else 1
    return rollout(
        _policy(made.agent, made.reference),
        made.task,
        rows,
        samples_per_prompt=SAMPLES * many,
        generator=Streams(made.seed).torch("evaluation"),
        sampling=Sampling(temperature),
    )


def _policy(agent: Agent, reference: Policy) -> Policy:
    return reference if agent.policy is None else agent.policy


def _given(made: Tuned, pool: Rollout) -> Rollout:
    """Returns what the agent gives of what was drawn."""
    if not isinstance(made.agent, Selection):
        return pool
    generator = Streams(made.seed).torch("selection")
    chosen = made.agent.choose(score(pool, made.task), SAMPLES, generator)
    return pool.select(chosen, samples_per_prompt=SAMPLES)


def shortened(samples: Rollout, limit: int, policy: Policy) -> Rollout:
    """Returns the samples as a lower limit of `limit` tokens would have cut them."""
    ids, mask = samples.response_ids[:, :limit], samples.response_mask[:, :limit]
    return replace(
        samples,
        completions=decode_responses(policy.tokenizer, ids, mask),
        response_ids=ids,
        response_mask=mask,
        policy_logprobs=samples.policy_logprobs[:, :limit],
        sampling_logprobs=samples.sampling_logprobs[:, :limit],
        truncated=~((ids == policy.eos_token_id) & mask).any(1),
    )


def _seen(given: Rollout, made: Tuned) -> Seen:
    k, task, reference = given.samples_per_prompt, made.task, made.reference
    gold = task.gold(given.prompts, given.completions, **given.columns)
    ids = sets.cut(token_lists(given.completions, reference), COMMON_LENGTH)
    ead = partial(diversity.ead, vocabulary=len(reference.tokenizer))
    return Seen(
        sets.per_prompt(lambda scores: float(sum(scores)) / k, gold, k),
        sets.per_prompt(ead, ids, k),
    )
