"""Prompts to scored responses: in a batch, by stepping an environment, or from given texts."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import fields, replace
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from textgym.errors import ConfigError, DataError, PromptTooLongError
from textgym.models.sampling import Sampled, draw, sample_tokens
from textgym.models.tokenize import completion_token_ids, decode_responses, encode_prompts, pad
from textgym.tasks.base import checked_rewards
from textgym.types import Columns, Rollout, Sampling

if TYPE_CHECKING:
    from datasets import Dataset

    from textgym.envs.vector_env import TextVectorEnv
    from textgym.models.policy import Policy
    from textgym.tasks.base import Task


def rollout(
    policy: Policy,
    task: Task,
    rows: Dataset,
    *,
    samples_per_prompt: int,
    generator: torch.Generator,
    sampling: Sampling | None = None,
    max_new_tokens: int | None = None,
    batch_size: int = 256,
) -> Rollout:
    """Samples K responses to every row's prompt; rewards are left to `score`.

    One uniform number per response token is drawn up front, so that what a row samples depends
    neither on `batch_size` nor on the other rows' ends, and stepping an environment
    (`step_rollout`) gives the same.

    Args:
        policy: what to sample from.
        task: gives the limits of prompts and responses, tokens.
        rows: N rows with a `prompt` column.
        samples_per_prompt: K, at least 1.
        generator: the only source of randomness.
        sampling: temperature and truncation; by default the raw softmax.
        max_new_tokens: length limit of a response, by default the task's.
        batch_size: responses sampled at once; at least the K of one prompt.

    Returns:
        A rollout of B = N * K prompt-major rows, on the CPU; T is the longest response.

    Raises:
        ConfigError: K or the batch size is below 1, or the length limit below 0.
        DataError: no rows, or no `prompt` column.
        PromptTooLongError: a prompt over the task's limit, or too long for the policy's window.
    """
    sampling = Sampling() if sampling is None else sampling
    if batch_size < 1:
        raise ConfigError(f"batch_size must be >= 1, got {batch_size}")
    limit = task.max_response_tokens if max_new_tokens is None else max_new_tokens
    uniforms = draw_uniforms(rows, samples_per_prompt, limit, generator)
    prompt_ids, prompt_mask = _encode(policy, task, rows, limit)
    prompts_at_once = max(1, batch_size // samples_per_prompt)
    parts = [
        sample_tokens(
            policy,
            prompt_ids[start : start + prompts_at_once],
            prompt_mask[start : start + prompts_at_once],
            uniforms[start * samples_per_prompt : (start + prompts_at_once) * samples_per_prompt],
            sampling,
        )
        for start in range(0, len(rows), prompts_at_once)
    ]
    sampled = Sampled(*(torch.cat([getattr(p, f.name) for p in parts]) for f in fields(Sampled)))
    return _as_rollout(policy, rows, samples_per_prompt, prompt_ids, prompt_mask, sampled, sampling)


@torch.no_grad()
def step_rollout(
    policy: Policy,
    env: TextVectorEnv,
    rows: Dataset,
    *,
    samples_per_prompt: int,
    generator: torch.Generator,
    sampling: Sampling | None = None,
) -> Rollout:
    """Does what `rollout` and `score` do by stepping an environment, token by token.

    Every step runs the whole observation through the policy, so this is slow and plain: the
    yardstick that the fast path is held to.

    Args:
        policy: what to sample from.
        env: over the same task; its `num_envs` must be N * K.
        rows: N rows with a `prompt` column.
        samples_per_prompt: K, at least 1.
        generator: the only source of randomness.
        sampling: temperature and truncation; by default the raw softmax.

    Returns:
        A rollout of B = N * K prompt-major rows with rewards.

    Raises:
        ConfigError: `num_envs` is not N * K.
    """
    sampling = Sampling() if sampling is None else sampling
    token_task = env.token_task
    batch, limit = len(rows) * samples_per_prompt, token_task.max_response_tokens
    if env.num_envs != batch:
        raise ConfigError(f"expected an environment of {batch} rows, got {env.num_envs}")
    uniforms = draw_uniforms(rows, samples_per_prompt, limit, generator)
    prompt_ids, prompt_mask = _encode(policy, token_task, rows, limit)
    options = {name: _repeat(values, samples_per_prompt) for name, values in rows[:].items()}
    observation, _ = env.reset(seed=0, options=options)
    sampled = Sampled.empty(batch, limit, policy.pad_token_id)
    rewards = torch.zeros(batch)
    going_on = torch.ones(batch, dtype=torch.bool)
    for t in range(limit):
        at = torch.arange(batch)[going_on]
        ids = torch.as_tensor(observation["input_ids"])[at]
        mask = torch.as_tensor(observation["attention_mask"])[at]
        logits = policy.next_logits(ids, mask).cpu()
        tokens, *logprobs = draw(logits, uniforms[at, t], sampling)
        sampled.put(at, t, tokens, *logprobs)
        # Rows that have ended are on their next prompt already; EOS there harms nobody.
        actions = torch.full((batch,), policy.eos_token_id)
        actions[at] = tokens
        observation, reward, terminated, truncated, _ = env.step(actions.numpy())
        ended = going_on & torch.as_tensor(terminated | truncated)
        rewards[ended] = torch.as_tensor(reward, dtype=torch.float32)[ended]
        going_on &= ~ended
        if not going_on.any():
            break
    sampled = sampled.cut(policy.eos_token_id, policy.pad_token_id)
    stepped = _as_rollout(
        policy, rows, samples_per_prompt, prompt_ids, prompt_mask, sampled, sampling
    )
    return replace(stepped, rewards=rewards)


def encode_texts(
    policy: Policy,
    task: Task,
    rows: Dataset,
    completions: Sequence[str],
    *,
    samples_per_prompt: int = 1,
) -> Rollout:
    """Returns given texts as a rollout, so that they are scored and measured like samples.

    Args:
        policy: its tokenizer encodes the texts and its log-probabilities are recorded, in both
            fields, since nobody knows what the texts were sampled from.
        task: gives the limits; longer completions are cut and count as truncated.
        rows: N rows with a `prompt` column.
        completions: B = N * K texts, prompt-major.
        samples_per_prompt: K, at least 1.

    Raises:
        ConfigError: K below 1.
        DataError: no rows, no `prompt` column, or another number of completions.
        PromptTooLongError: a prompt over the task's limit, or too long for the policy's window.
    """
    limit = task.max_response_tokens
    _require_rows(rows, samples_per_prompt, limit)
    if len(completions) != len(rows) * samples_per_prompt:
        raise DataError(
            f"expected {len(rows) * samples_per_prompt} completions, got {len(completions)}"
        )
    prompt_ids, prompt_mask = _encode(policy, task, rows, limit)
    tokens = [ids[:limit] for ids in completion_token_ids(policy.tokenizer, completions)]
    ids, mask = pad(tokens, policy.pad_token_id, side="right")
    unscored = Sampled(ids, mask, torch.zeros(ids.shape), torch.zeros(ids.shape))
    given = _as_rollout(
        policy, rows, samples_per_prompt, prompt_ids, prompt_mask, unscored, Sampling()
    )
    with torch.no_grad():
        logprobs = policy.logprobs(given).cpu()
    return replace(given, policy_logprobs=logprobs, sampling_logprobs=logprobs.clone())


def score(rollout: Rollout, task: Task) -> Rollout:
    """Returns the rollout with the task's rewards. Raises: RewardError."""
    values = task.reward(rollout.prompts, rollout.completions, **rollout.columns)
    checked = checked_rewards(values, len(rollout), task.name)
    return replace(rollout, rewards=torch.tensor(checked, dtype=torch.float32))


def draw_uniforms(
    rows: Dataset, samples_per_prompt: int, limit: int, generator: torch.Generator
) -> Tensor:
    """Returns [N * K, limit] float64 in [0, 1), one number per response token.

    Raises: ConfigError and DataError for what cannot be sampled.
    """
    _require_rows(rows, samples_per_prompt, limit)
    shape = (len(rows) * samples_per_prompt, limit)
    return torch.rand(shape, generator=generator, dtype=torch.float64)


def _require_rows(rows: Dataset, samples_per_prompt: int, limit: int) -> None:
    if samples_per_prompt < 1:
        raise ConfigError(f"samples_per_prompt must be >= 1, got {samples_per_prompt}")
    if limit < 0:
        raise ConfigError(f"max_new_tokens must be >= 0, got {limit}")
    if len(rows) == 0:
        raise DataError("no rows to sample for: the data set is empty")
    if "prompt" not in rows.column_names:
        raise DataError(f"no column 'prompt'; the columns are {', '.join(rows.column_names)}")


def _encode(policy: Policy, limits: Any, rows: Dataset, limit: int) -> tuple[Tensor, Tensor]:
    """Returns the prompts' ids and mask [N, P], sure to fit the window with their responses."""
    ids, mask = encode_prompts(policy.tokenizer, rows[:]["prompt"], limits.max_prompt_tokens)
    if ids.shape[1] + limit > policy.max_length:
        raise PromptTooLongError(
            f"a prompt of {ids.shape[1]} tokens and a response of {limit} exceed the window of "
            f"{policy.name}, {policy.max_length} tokens"
        )
    return ids, mask


def _repeat(values: Any, times: int) -> list[Any]:
    return [value for value in values for _ in range(times)]


def _as_rollout(
    policy: Policy,
    rows: Dataset,
    samples_per_prompt: int,
    prompt_ids: Tensor,
    prompt_mask: Tensor,
    sampled: Sampled,
    sampling: Sampling,
) -> Rollout:
    """Puts prompts [N, P] and responses [B, T] together, cut to the longest response."""
    width = int(sampled.mask.sum(1).max())
    ids, mask = sampled.ids[:, :width], sampled.mask[:, :width]
    # One slice decodes whole columns; a data set's own column decodes row by row.
    columns: Columns = {name: _repeat(v, samples_per_prompt) for name, v in rows[:].items()}
    return Rollout(
        prompts=columns.pop("prompt"),
        completions=decode_responses(policy.tokenizer, ids, mask),
        columns=columns,
        samples_per_prompt=samples_per_prompt,
        prompt_ids=prompt_ids.repeat_interleave(samples_per_prompt, dim=0),
        prompt_mask=prompt_mask.repeat_interleave(samples_per_prompt, dim=0),
        response_ids=ids,
        response_mask=mask,
        policy_logprobs=sampled.policy_logprobs[:, :width],
        sampling_logprobs=sampled.sampling_logprobs[:, :width],
        truncated=~((ids == policy.eos_token_id) & mask).any(1),
        sampling=sampling,
    )
