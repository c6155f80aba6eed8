"""Language models so small that their distribution is known: a few symbols, fitted exactly."""

from __future__ import annotations

import inspect
from collections.abc import Sequence
from itertools import pairwise
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from textgym.errors import ConfigError
from textgym.models.enumeration import SequenceTree, sequence_logprobs
from textgym.models.policy import Policy
from textgym.models.pretrain import PretrainConfig, make_llama
from textgym.models.tokenize import END_OF_TEXT
from textgym.models.training import adamw, optimiser_step, warmup_cosine

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase


def symbol_tokenizer(symbols: str) -> PreTrainedTokenizerBase:
    """Returns a tokenizer of one token per character and one more that is BOS, EOS and pad.

    Texts of these characters and their token ids stand for each other one to one. BOS is needed:
    without absolute positions, attention over "a" and over "aa" averages equal values and cannot
    tell the two apart.

    Args:
        symbols: different characters.

    Raises:
        ConfigError: a character twice, or none.

    >>> symbol_tokenizer("ab")("abba")["input_ids"]
    [0, 1, 2, 2, 1]
    """
    from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers, processors
    from transformers import PreTrainedTokenizerFast

    if not symbols or len(set(symbols)) < len(symbols):
        raise ConfigError(f"symbols must be different characters, got {symbols!r}")
    vocabulary = {token: i for i, token in enumerate([END_OF_TEXT, *symbols])}
    tokenizer = Tokenizer(models.WordLevel(vocabulary))
    tokenizer.pre_tokenizer = pre_tokenizers.Split(Regex("."), "isolated")
    tokenizer.decoder = decoders.Fuse()
    tokenizer.post_processor = processors.TemplateProcessing(
        single=f"{END_OF_TEXT} $A", special_tokens=[(END_OF_TEXT, 0)]
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        bos_token=END_OF_TEXT,
        eos_token=END_OF_TEXT,
        pad_token=END_OF_TEXT,
        padding_side="left",
        clean_up_tokenization_spaces=False,
    )


def fit_distribution(
    tokenizer: PreTrainedTokenizerBase,
    tree: SequenceTree,
    prompts: Sequence[str],
    target: Tensor,
    *,
    width: int = 32,
    layers: int = 1,
    steps: int = 300,
    lr: float = 3e-3,
    prompts_per_step: int = 64,
    seed: int = 0,
) -> tuple[Policy, float]:
    """Pretrains a very small Llama until its responses have a known distribution.

    Minimises the exact KL(target || policy), summed over all responses and averaged over prompts:
    what cross-entropy on endless samples of the target would tend to.

    Args:
        tokenizer: of the symbols.
        tree: all L responses.
        prompts: N texts.
        target: [N, L], each row a distribution.
        width: hidden size.
        layers: transformer blocks.
        steps: optimiser steps.
        lr: peak learning rate of AdamW.
        prompts_per_step: how many prompts a step looks at, drawn anew where there are more.
        seed: of the initialisation and of the draws.

    Returns:
        The policy, frozen, and the KL(target || policy) that is left, nats.

    Raises:
        ConfigError: a target of another shape, or a prompt that another one begins with: what
            follows the one and what is the other look the same.
    """
    for a, b in pairwise(sorted(prompts)):
        if b.startswith(a):
            raise ConfigError(f"prompt {b!r} begins with prompt {a!r}; no model tells them apart")
    if target.shape != (len(prompts), len(tree)):
        raise ConfigError(
            f"expected a target of shape {[len(prompts), len(tree)]}, got {list(target.shape)}"
        )
    longest = max(len(prompt) for prompt in prompts)
    config = PretrainConfig(
        width=width,
        layers=layers,
        heads=4,
        kv_heads=4,
        intermediate=2 * width,
        # One matrix for both would make symbols that are equally likely look alike when read.
        tied=False,
        context=1 + longest + tree.horizon,
        seed=seed,
    )
    policy = Policy(make_llama(config, tokenizer), tokenizer, "fitted")
    optimizer = adamw(policy.model.parameters(), lr)
    target = target.float()
    generator = torch.Generator().manual_seed(seed)
    for step in range(steps):
        rows = torch.randperm(len(prompts), generator=generator)[:prompts_per_step]
        loss = _divergence(policy, tree, [prompts[i] for i in rows], target[rows])
        for group in optimizer.param_groups:
            group["lr"] = lr * warmup_cosine(step / steps, floor=0.01)
        optimiser_step(optimizer, loss, step)
    with torch.no_grad():
        left = _divergence(policy, tree, prompts, target).item()
    return policy.freeze(), left


def fit_defaults() -> dict[str, Any]:
    """Returns the settings of `fit_distribution` by name: what a fitted model follows from."""
    parameters = inspect.signature(fit_distribution).parameters.values()
    return {p.name: p.default for p in parameters if p.default is not p.empty}


def _divergence(
    policy: Policy, tree: SequenceTree, prompts: Sequence[str], target: Tensor
) -> Tensor:
    """Returns the mean over prompts of KL(target || policy), nats."""
    logprobs = sequence_logprobs(policy, tree, prompts)
    divergence: Tensor = torch.special.xlogy(target, target) - target * logprobs
    return divergence.sum(-1).mean()
