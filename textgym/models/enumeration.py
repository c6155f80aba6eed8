"""Every response a policy can give, where they are few enough to write down."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from textgym.errors import ConfigError
from textgym.models.sampling import sampling_distribution
from textgym.models.tokenize import decode_responses, encode_prompts
from textgym.types import Sampling

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

    from textgym.models.policy import Policy

MAX_SEQUENCES = 2**16
"""Responses that are enumerated at most."""

_ROWS = 2**14
"""Prefixes read at once where no gradient is needed."""


class SequenceTree:
    """All L responses over a vocabulary up to a horizon: ended by EOS, or cut at the horizon.

    In a vocabulary of V tokens with S = V - 1 symbols beside EOS there are S^h responses of h
    symbols and EOS for every h below the horizon H, and S^H that are cut. They are ordered by
    length and then by token ids.

    Args:
        vocab_size: V, EOS included.
        eos_token_id: which of them is EOS.
        horizon: H, the most tokens of a response.

    Attributes:
        ids: [L, H] int64, right-padded with EOS.
        mask: [L, H] bool, True up to and including EOS.

    Raises:
        ConfigError: fewer than 2 tokens, a horizon below 1, or more than 2^16 responses.
    """

    def __init__(self, vocab_size: int, eos_token_id: int, horizon: int) -> None:
        if vocab_size < 2 or horizon < 1:
            raise ConfigError(
                "to enumerate takes a vocabulary of at least 2 tokens and a horizon of at least "
                f"1, got {vocab_size} and {horizon}"
            )
        symbols = vocab_size - 1
        size = sum(symbols**h for h in range(horizon + 1))
        if size > MAX_SEQUENCES:
            raise ConfigError(
                f"a vocabulary of {vocab_size} tokens and a horizon of {horizon} make {size} "
                f"responses, more than the {MAX_SEQUENCES} that are enumerated"
            )
        self.vocab_size, self.horizon = vocab_size, horizon
        self._symbols = torch.tensor([i for i in range(vocab_size) if i != eos_token_id])
        parts = [self._ended(h, eos_token_id) for h in range(horizon)]
        parts.append(self._strings(horizon))
        self.ids = torch.cat(parts)
        ended = torch.cat([torch.full((len(p),), h + 1) for h, p in enumerate(parts)])
        self.mask = torch.arange(horizon) < ended.clamp(max=horizon)[:, None]

    def __len__(self) -> int:
        return len(self.ids)

    def _strings(self, length: int) -> Tensor:
        """Returns [S^length, length], all strings of symbols in order."""
        if length == 0:
            return torch.zeros((1, 0), dtype=torch.int64)
        return torch.cartesian_prod(*[self._symbols] * length).reshape(-1, length)

    def _ended(self, length: int, eos_token_id: int) -> Tensor:
        """Returns [S^length, H]: `length` symbols, then EOS to the end of the row."""
        strings = self._strings(length)
        fill = torch.full((len(strings), self.horizon - length), eos_token_id)
        return torch.cat([strings, fill], dim=1)

    @cached_property
    def prefixes(self) -> Tensor:
        """What a policy must read to predict every token: [R, H - 1] all longest prefixes."""
        return self._strings(self.horizon - 1)

    @cached_property
    def prefix_of(self) -> Tensor:
        """A row of `prefixes` [L] that begins as each response does before its last token."""
        symbols, horizon = len(self._symbols), self.horizon
        rows = [torch.arange(symbols**h) * symbols ** (horizon - 1 - h) for h in range(horizon)]
        return torch.cat([*rows, torch.arange(symbols**horizon) // symbols])

    def texts(self, tokenizer: PreTrainedTokenizerBase) -> list[str]:
        """Returns the L responses as texts."""
        return decode_responses(tokenizer, self.ids, self.mask)


def sequence_logprobs(
    policy: Policy,
    tree: SequenceTree,
    prompts: Sequence[str],
    sampling: Sampling | None = None,
) -> Tensor:
    """Returns the log-probability of every response to every prompt, exactly.

    Differentiable where gradients are enabled, then in one pass.

    Args:
        policy: its vocabulary must be the tree's.
        tree: L responses.
        prompts: N texts.
        sampling: temperature and truncation; by default the raw softmax.

    Returns:
        [N, L] float32, nats; each row's exponentials sum to 1.

    Raises:
        ConfigError: the policy has another vocabulary.
    """
    if policy.vocab_size != tree.vocab_size:
        raise ConfigError(
            f"{policy.name} has {policy.vocab_size} tokens, the responses to enumerate have "
            f"{tree.vocab_size}"
        )
    ids, mask = encode_prompts(policy.tokenizer, list(prompts), policy.max_length)
    rows = len(tree.prefixes)
    how = Sampling() if sampling is None else sampling
    at_once = len(ids) if torch.is_grad_enabled() else max(1, _ROWS // rows)
    starts = range(0, len(ids), at_once)
    pieces = [slice(start, start + at_once) for start in starts]
    return torch.cat([_responses(policy, tree, ids[p], mask[p], how) for p in pieces])


def _responses(
    policy: Policy, tree: SequenceTree, prompt_ids: Tensor, prompt_mask: Tensor, sampling: Sampling
) -> Tensor:
    prompts, rows, horizon = len(prompt_ids), len(tree.prefixes), tree.horizon
    prefixes = tree.prefixes.repeat(prompts, 1)
    # The last token of a row is predicted, never read: any token does there.
    read = torch.cat([prefixes, torch.zeros((len(prefixes), 1), dtype=torch.int64)], dim=1)
    logits = policy.response_logits(
        prompt_ids.repeat_interleave(rows, dim=0),
        prompt_mask.repeat_interleave(rows, dim=0),
        read,
        torch.ones(read.shape, dtype=torch.bool),
    )
    logprobs = sampling_distribution(logits.float().log_softmax(-1), sampling)
    table = logprobs.reshape(prompts, rows, horizon, tree.vocab_size)
    steps = torch.arange(horizon)
    chosen = table[:, tree.prefix_of[:, None], steps, tree.ids]
    return torch.where(tree.mask, chosen, 0).sum(-1)
