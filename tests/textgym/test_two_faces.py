"""Stepping the environment and sampling in a batch are the same thing, on every task."""

from functools import cache

import pytest
import torch

import textgym
from textgym.envs.vector_env import TextVectorEnv
from textgym.rollout import rollout, score, step_rollout
from textgym.tasks import TASKS
from textgym.types import Sampling


@cache
def policy_of(name):
    """The language model that the task brings, or the embedded one."""
    return textgym.load_policy(textgym.load_task(name).language_model() or "tiny")


@pytest.mark.parametrize("sampling", [Sampling(), Sampling(temperature=0.7, top_k=50, top_p=0.9)])
@pytest.mark.parametrize("name", list(TASKS))
def test_stepping_and_sampling_agree(name, sampling):
    policy = policy_of(name)
    # A task object for each face: a noisy reward then draws the same noise.
    task, stepped = textgym.load_task(name), textgym.load_task(name)
    rows = task.prompts("test")
    rows = rows.select(range(min(4, len(rows))))
    k = 2 if len(rows) == 4 else 8
    fast = score(
        rollout(
            policy,
            task,
            rows,
            samples_per_prompt=k,
            generator=torch.Generator().manual_seed(5),
            sampling=sampling,
        ),
        task,
    )
    env = TextVectorEnv(num_envs=len(rows) * k, task=stepped, split="test")
    slow = step_rollout(
        policy,
        env,
        rows,
        samples_per_prompt=k,
        generator=torch.Generator().manual_seed(5),
        sampling=sampling,
    )
    assert fast.completions == slow.completions
    assert torch.equal(fast.response_ids, slow.response_ids)
    assert torch.equal(fast.response_mask, slow.response_mask)
    assert torch.equal(fast.truncated, slow.truncated)
    for field in ("policy_logprobs", "sampling_logprobs"):
        torch.testing.assert_close(getattr(fast, field), getattr(slow, field), atol=1e-5, rtol=0)
    torch.testing.assert_close(fast.rewards, slow.rewards, atol=1e-5, rtol=1e-5)
    assert len(set(fast.completions)) > len(rows)  # not the trivial agreement of one text
