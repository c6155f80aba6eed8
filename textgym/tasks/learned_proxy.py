"""Reward models for tasks: trained on the task's preferences, normalised, kept in the cache."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING

import torch

from textgym.cache import cached, fingerprint, model_fingerprint
from textgym.models.policy import load_policy
from textgym.models.sampling import sample_tokens
from textgym.models.tokenize import decode_responses, encode_prompts
from textgym.rewards.learned import (
    RewardModel,
    RewardModelConfig,
    load_reward_model,
    train_reward_model,
)
from textgym.seeding import Streams
from textgym.types import Sampling

if TYPE_CHECKING:
    from datasets import Dataset

    from textgym.models.policy import Policy
    from textgym.tasks.real_data import RealTask

REFERENCE_PROMPTS = 128
"""Training prompts whose samples from the backbone set a reward's origin and unit."""


def cached_reward_model(
    task: RealTask,
    texts: Sequence[str],
    preferences: Callable[[Policy, Streams], Dataset],
    config: RewardModelConfig | None = None,
) -> RewardModel:
    """Returns the Bradley-Terry reward model of a task's preferences, trained on first use.

    Args:
        task: its backbone is what the reward model starts from, and what is sampled.
        texts: everything the preferences are made from; with the task's settings they decide
            which entry of the cache it is.
        preferences: makes the comparisons, columns `prompt`, `chosen`, `rejected`.
        config: how the reward model is trained.
    """
    config = config or RewardModelConfig(
        max_tokens=task.max_prompt_tokens + task.max_response_tokens
    )

    def build(folder: Path) -> dict[str, float]:
        policy = load_policy(task.backbone)
        streams = Streams(task.seed)
        pairs = preferences(policy, streams)
        model, report = train_reward_model(policy, pairs, config, streams.torch("initialisation"))
        prompts = task.prompts("train")["prompt"][:REFERENCE_PROMPTS]
        windows = (task.max_prompt_tokens, task.max_response_tokens)
        samples = sample_completions(policy, prompts, 4, *windows, streams.torch("evaluation"))
        model.normalise(
            [prompt for prompt in prompts for _ in range(4)],
            [text for texts in samples for text in texts],
        )
        model.save(folder)
        return report

    key = {
        "task": type(task).__name__,
        "texts": fingerprint(texts),
        "backbone": model_fingerprint(task.backbone),
        "windows": [task.max_prompt_tokens, task.max_response_tokens],
        "config": asdict(config),
        "seed": task.seed,
    }
    return load_reward_model(cached(task.cache, "reward", key, build))


def sample_completions(
    policy: Policy,
    prompts: Sequence[str],
    samples_per_prompt: int,
    max_prompt_tokens: int,
    max_response_tokens: int,
    generator: torch.Generator,
    batch_size: int = 64,
) -> list[list[str]]:
    """Returns K sampled completions of each prompt, at temperature 1.

    Raises: PromptTooLongError when a prompt exceeds its window.
    """
    completions: list[list[str]] = []
    for start in range(0, len(prompts), batch_size):
        batch = prompts[start : start + batch_size]
        ids, mask = encode_prompts(policy.tokenizer, batch, max_prompt_tokens)
        shape = (len(batch) * samples_per_prompt, max_response_tokens)
        uniforms = torch.rand(shape, generator=generator, dtype=torch.float64)
        sampled = sample_tokens(policy, ids, mask, uniforms, Sampling())
        texts = decode_responses(policy.tokenizer, sampled.ids, sampled.mask)
        completions += [
            texts[row : row + samples_per_prompt]
            for row in range(0, len(texts), samples_per_prompt)
        ]
    return completions
