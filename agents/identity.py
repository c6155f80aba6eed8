"""A task so small that the right answer is known: told a letter, say it. Agents are checked on it.

Its language model is a random two-layer Llama, its reference that model after a moment of
supervised fine-tuning on demonstrations that say the right letter twice in five times. Both are
made in seconds, without network or files.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any, ClassVar

import torch
from datasets import Dataset
from torch import Tensor

from textgym.agents.base import Setup
from textgym.agents.sft import SFT, SFTConfig
from textgym.models.policy import Policy
from textgym.models.pretrain import PretrainConfig, make_llama
from textgym.models.tokenize import train_tokenizer
from textgym.rollout import rollout
from textgym.seeding import Streams
from textgym.tasks.base import Task, require_split
from textgym.types import Budget

LETTERS = "abcd"


class Identity(Task):
    """Told a letter, say it. The demonstrations say the right one twice in five times.

    Attributes:
        scored: completions whose reward has been asked for.
    """

    name: ClassVar[str] = "identity"
    question: ClassVar[str] = "Can it learn at all?"
    max_prompt_tokens = 8
    max_response_tokens = 2
    has_gold = False

    def __init__(self) -> None:
        self.scored = 0
        # Handed out as they are, so that an agent that changes what it is given is found out.
        self._prompts = Dataset.from_dict(
            {
                "prompt": [f"say {x}:" for x in LETTERS],
                "letter": list(LETTERS),
                "reference": [f" {x}" for x in LETTERS],
            }
        )
        pairs = [(f"say {x}:", f" {y}") for x in LETTERS for y in LETTERS + x]
        prompts, completions = zip(*pairs, strict=True)
        self._demonstrations = Dataset.from_dict(
            {"prompt": list(prompts), "completion": list(completions)}
        )

    def prompts(self, split: str) -> Dataset:
        """Returns the four prompts, the same in every split, with the letter to say."""
        require_split(split)
        return self._prompts

    def demonstrations(self) -> Dataset:
        """Returns twenty pairs: each letter in answer to each prompt, the right one twice."""
        return self._demonstrations

    def reward(
        self, prompts: list[str], completions: list[str], **columns: list[Any]
    ) -> list[float]:
        """Returns 1 for the letter told and 0 for anything else."""
        self.scored += len(completions)
        return [float(c == f" {x}") for c, x in zip(completions, columns["letter"], strict=True)]

    def measures(
        self, prompts: list[str], completions: list[str], **columns: list[Any]
    ) -> dict[str, list[float]]:
        """Returns `toxicity`, 1 for what is no letter: a cost for agents that keep one low."""
        return {"toxicity": [float(c.strip() not in set(LETTERS)) for c in completions]}


def make_pretrained() -> Policy:
    """Returns a random Llama of width 32 that knows no more than the task's tokens."""
    texts = [f"say {x}: {y}" for x in LETTERS for y in LETTERS]
    tokenizer = train_tokenizer(texts, 280)
    config = PretrainConfig(width=32, layers=2, heads=2, kv_heads=2, intermediate=64, context=32)
    return Policy(make_llama(config, tokenizer), tokenizer, "pretrained")


def make_reference(pretrained: Policy | None = None) -> Policy:
    """Returns the frozen reference, which says the right letter with probability 0.4."""
    pretrained = pretrained or make_pretrained()
    setup, _ = make_setup(pretrained, pretrained, budget=0)
    agent = SFT(SFTConfig(steps=300, batch_size=20, lr=3e-3))
    agent.train(setup)
    return setup.policy.freeze()


def make_setup(
    policy: Policy, reference: Policy, budget: int, seed: int = 0, task: Task | None = None
) -> tuple[Setup, list[dict[str, float]]]:
    """Returns what an agent trains with on a copy of `policy`, and the list its logs go to."""
    logs: list[dict[str, float]] = []
    setup = Setup(
        task=task or Identity(),
        policy=policy.copy(),
        reference=reference,
        budget=Budget(budget),
        streams=Streams(seed),
        log=lambda step, metrics: logs.append({"step": step, **metrics}),
    )
    return setup, logs


@torch.no_grad()
def answers(policy: Policy) -> Tensor:
    """Returns [4, 4], the probability of each letter, followed by EOS, in answer to each prompt."""
    task, count = Identity(), len(LETTERS)
    samples = rollout(
        policy,
        task,
        task.prompts("train"),
        samples_per_prompt=count,
        generator=torch.Generator().manual_seed(0),
    )
    ids = [policy.tokenizer(f" {x}", add_special_tokens=False)["input_ids"] for x in LETTERS]
    assert all(len(i) == 1 for i in ids)
    exact = replace(
        samples,
        response_ids=torch.tensor([[*i, policy.eos_token_id] for i in ids]).repeat(count, 1),
        response_mask=torch.ones((count * count, 2), dtype=torch.bool),
    )
    return policy.logprobs(exact).sum(1).exp().reshape(count, count)


def right_answer(policy: Policy) -> float:
    """Returns the probability of the letter told, followed by EOS, averaged over the letters."""
    return answers(policy).diagonal().mean().item()
