"""What an agent's samples are: scores, likelihoods, lengths, diversity, before any comparison."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from textgym.benchmarks.intervals import DIVERSITY, SET
from textgym.errors import RewardError
from textgym.functional import entropy, full_kl
from textgym.metrics import diversity, kl, responses, sets, toxicity
from textgym.models.sampling import sampling_distribution
from textgym.rollout import score
from textgym.tasks.base import checked_rewards

if TYPE_CHECKING:
    from textgym.models.policy import Policy
    from textgym.tasks.base import Task
    from textgym.types import Rollout

TOXICITY = "toxicity"
"""The task measure that expected maximum toxicity and toxicity probability are taken of."""

TokenMetric = Callable[[Sequence[Sequence[int]], int], float]

TOKEN_METRICS: dict[str, TokenMetric] = {
    "distinct_1": lambda texts, vocabulary: diversity.distinct_n(texts, 1),
    "distinct_2": lambda texts, vocabulary: diversity.distinct_n(texts, 2),
    "ead": lambda texts, vocabulary: diversity.ead(texts, vocabulary),
    "self_bleu": lambda texts, vocabulary: diversity.self_bleu_diversity(texts),
    "vendi_ngram": lambda texts, vocabulary: diversity.ngram_vendi(texts),
    "compression": lambda texts, vocabulary: _compression(texts),
}
"""Diversity of a set of token lists, given the vocabulary's size; higher is more diverse."""

EMBEDDING_METRICS: dict[str, Callable[[Any], float]] = {
    "embedding": diversity.embedding_diversity,
    "vendi_embedding": diversity.embedding_vendi,
}
"""Diversity of a set of embeddings."""


@dataclass
class Numbers:
    """What samples are, before any comparison.

    Attributes:
        columns: one number per response [B], by name; NaN where it does not apply.
        per_prompt: one number per prompt [N], by name; per-input diversity and the task's numbers
            of sets (`SET`) among them. NaN where nothing of the prompt's applies.
        across: across-input diversity by metric.
        tokens: one number per token.
        modes: the world's voice of each response, or None.
        common_length: tokens that responses were cut to for diversity.
    """

    columns: dict[str, np.ndarray]
    per_prompt: dict[str, np.ndarray]
    across: dict[str, float]
    tokens: Likelihoods
    modes: list[str] | None
    common_length: int


def take_numbers(
    samples: Rollout, task: Task, policy: Policy | None, reference: Policy, length: int | None
) -> Numbers:
    """Scores samples and takes their KL, entropy, lengths and diversity, as `measure` says.

    Args:
        samples: B = N * K responses.
        task: scores them.
        policy: what they were drawn from; None where no policy is.
        reference: KL is measured against it.
        length: tokens that responses are cut to for diversity; their median by default.
    """
    k, mask = samples.samples_per_prompt, samples.response_mask
    columns = _scores(samples, task)
    tokens = _likelihoods(samples, policy, reference)
    per_prompt = {name: _means(values, k) for name, values in columns.items()}
    per_prompt |= _of_sets(samples, task)
    if tokens.kl is not None:
        per_prompt["kl_seq"] = kl.prompt_sums(tokens.kl, mask, k)
    if tokens.entropy is not None:
        per_prompt["entropy_seq"] = kl.prompt_sums(tokens.entropy, mask, k)
    if TOXICITY in columns:
        per_prompt |= _worst(columns[TOXICITY].reshape(-1, k))
    if k > 1:
        rate = sets.per_prompt(responses.duplicate_rate, samples.completions, k)
        per_prompt["duplicate_rate"] = rate
    modes = task.modes(samples.prompts, samples.completions, **samples.columns)
    ids = token_lists(samples.completions, reference)
    common = max(1, int(np.median([len(i) for i in ids]))) if length is None else length
    inside, across = diversity_columns(sets.cut(ids, common), samples, reference, modes)
    return Numbers(columns, per_prompt | inside, across, tokens, modes, common)


def _means(values: np.ndarray, k: int) -> np.ndarray:
    """Returns [N], the mean over what applies of each prompt's K; NaN where nothing does."""
    groups = values.reshape(-1, k)
    known = ~np.isnan(groups)
    total, count = np.where(known, groups, 0).sum(axis=1), known.sum(axis=1)
    mean = np.full(len(groups), np.nan)
    np.divide(total, count, out=mean, where=count > 0)
    return mean


def _worst(scores: np.ndarray) -> dict[str, np.ndarray]:
    """Returns the highest of each prompt's toxicities [N, K], and whether it is above a half."""
    unknown = np.isnan(scores)
    highest = toxicity.max_toxicity(np.where(unknown, 0, scores))
    highest[unknown.all(axis=1)] = np.nan
    probability = np.where(np.isnan(highest), np.nan, highest > 0.5)
    return {"expected_max_toxicity": highest, "toxicity_probability": probability}


def _of_sets(samples: Rollout, task: Task) -> dict[str, np.ndarray]:
    """Returns the task's numbers of each prompt's K completions together, [N] by name."""
    k = samples.samples_per_prompt
    found = task.set_measures(samples.prompts, samples.completions, k, **samples.columns)
    prompts = len(samples) // k
    for name, values in found.items():
        if len(values) != prompts:
            raise RewardError(
                f"set measure {name!r} of task {task.name!r} returned {len(values)} values for "
                f"{prompts} prompts"
            )
    return {SET + name: np.array(values, float) for name, values in found.items()}


def _scores(samples: Rollout, task: Task) -> dict[str, np.ndarray]:
    """Returns the per-response numbers [B] by name."""
    texts = (samples.prompts, samples.completions)
    scored = score(samples, task).rewards
    assert scored is not None, "score() sets them"
    columns = {"reward": scored.numpy().astype(float)}
    if task.has_gold:
        gold = task.gold(*texts, **samples.columns)
        columns["gold"] = np.array(checked_rewards(gold, len(samples), f"{task.name} gold"))
    for name, values in task.measures(*texts, **samples.columns).items():
        columns[name] = np.array(values, float)
    columns["length"] = responses.response_lengths(samples.response_mask)
    columns["truncation_rate"] = samples.truncated.numpy().astype(float)
    return columns


@dataclass
class Likelihoods:
    """Per-token numbers [B, T] of the samples, nats; None where no policy can tell."""

    reference_logprobs: Tensor
    policy_logprobs: Tensor | None = None
    kl: Tensor | None = None
    entropy: Tensor | None = None
    sampling_logprobs: Tensor | None = None


@torch.no_grad()
def _likelihoods(samples: Rollout, policy: Policy | None, reference: Policy) -> Likelihoods:
    parts: dict[str, list[Tensor]] = {f.name: [] for f in fields(Likelihoods)}
    for rows in reference.chunks(samples):
        chunk = samples.select(rows)
        ids = chunk.response_ids[chunk.response_mask].unsqueeze(-1)
        base = _log_softmax(reference, chunk)
        parts["reference_logprobs"].append(base.gather(-1, ids)[:, 0])
        if policy is None:
            continue
        raw = base if policy is reference else _log_softmax(policy, chunk)
        drawn = sampling_distribution(raw, samples.sampling)
        parts["policy_logprobs"].append(raw.gather(-1, ids)[:, 0])
        parts["sampling_logprobs"].append(drawn.gather(-1, ids)[:, 0])
        parts["kl"].append(full_kl(drawn, base).clamp_min(0))
        parts["entropy"].append(entropy(drawn))
    mask = samples.response_mask
    return Likelihoods(
        **{
            name: torch.zeros(mask.shape).masked_scatter(mask, torch.cat(pieces))
            for name, pieces in parts.items()
            if pieces
        }
    )


def _log_softmax(policy: Policy, samples: Rollout) -> Tensor:
    """Returns [R, V], the policy's distribution at each real response token, on the CPU."""
    logits = policy.response_logits(
        samples.prompt_ids, samples.prompt_mask, samples.response_ids, samples.response_mask
    )
    return logits.float().cpu().log_softmax(-1)


def token_lists(texts: list[str], reference: Policy) -> list[list[int]]:
    """Returns the texts in the reference's tokens, whatever tokenizer wrote them."""
    ids: list[list[int]] = reference.tokenizer(texts, add_special_tokens=False)["input_ids"]
    return ids


def _compression(texts: Sequence[Sequence[int]]) -> float:
    return diversity.compression_ratio(texts) if any(texts) else math.nan


def diversity_columns(
    ids: list[list[int]], samples: Rollout, reference: Policy, modes: list[str] | None
) -> tuple[dict[str, np.ndarray], dict[str, float]]:
    """Returns per-input diversity [N] by column, and across-input diversity by metric."""
    k, vocabulary = samples.samples_per_prompt, len(reference.tokenizer)
    embeddings = reference.embed(samples).numpy()
    kinds: list[tuple[str, Callable[[Any], float], Any]] = []
    kinds += [(name, partial(of_tokens, m, vocabulary), ids) for name, m in TOKEN_METRICS.items()]
    kinds += [(name, metric, embeddings) for name, metric in EMBEDDING_METRICS.items()]
    if modes is not None:
        kinds.append(("mode_entropy", lambda m: responses.mode_coverage(m).entropy, modes))
    inside: dict[str, np.ndarray] = {}
    across: dict[str, float] = {}
    for name, metric, items in kinds:
        if k > 1:
            inside[DIVERSITY + name] = sets.per_prompt(metric, items, k)
        if len(items) > k:
            across[name] = sets.across_input(metric, items, k)
    return inside, across


def of_tokens(metric: TokenMetric, vocabulary: int, texts: Sequence[Sequence[int]]) -> float:
    """Returns a metric of token lists, its arguments in the order that `partial` wants."""
    return metric(texts, vocabulary)
