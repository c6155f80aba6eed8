"""A model's own forward pass in `transformers`, for those whose weights are not read directly."""

from __future__ import annotations

import inspect
from typing import Any

import torch
from torch import Tensor

from textgym.errors import ModelError


def position_ids(mask: Tensor) -> Tensor:
    """Returns [B, L] positions that count real tokens only: 0 at the first, whatever the padding.

    >>> position_ids(torch.tensor([[0, 0, 1, 1], [1, 1, 1, 0]]))
    tensor([[0, 0, 0, 1],
            [0, 1, 2, 2]])
    """
    return (mask.long().cumsum(-1) - 1).clamp(min=0)


def response_inputs(
    prompt_ids: Tensor, prompt_mask: Tensor, response_ids: Tensor, response_mask: Tensor
) -> tuple[Tensor, Tensor]:
    """Returns what a model reads to predict every response token: [B, P + T - 1] ids and mask.

    The last T positions are the states before each response token. The last token of the response
    is predicted, never read.
    """
    ids = torch.cat([prompt_ids, response_ids[:, :-1]], dim=1)
    mask = torch.cat([prompt_mask, response_mask[:, :-1]], dim=1)
    return ids, mask


def forward(
    model: Any, input_ids: Tensor, attention_mask: Tensor, keep: int, cache: Any = None
) -> Any:
    """Runs a causal language model with positions counted from the mask.

    Args:
        model: the `transformers` model.
        input_ids: [B, L] int64, tokens not in the cache yet.
        attention_mask: [B, M] bool, M = L plus what the cache holds.
        keep: how many of the last positions go through the head, at least 1.
        cache: True begins a key-value cache; what an earlier call returned is extended.

    Returns:
        The output; its `logits` are [B, keep, V], its `past_key_values` are the cache.
    """
    takes = inspect.signature(model.forward).parameters
    arguments: dict[str, Any] = {
        "input_ids": input_ids,
        "attention_mask": attention_mask.long(),
        "past_key_values": None if cache is True else cache,
        "use_cache": cache is not None,
    }
    if "position_ids" in takes:
        arguments["position_ids"] = position_ids(attention_mask)[:, -input_ids.shape[1] :]
    if "logits_to_keep" in takes:
        arguments["logits_to_keep"] = keep
    output = model(**arguments)
    output.logits = output.logits[:, -keep:]
    return output


def hidden_states(trunk: Any, input_ids: Tensor, attention_mask: Tensor) -> Tensor:
    """Returns [B, L, D] last hidden states of a headless model, positions counted from the mask."""
    arguments = {"input_ids": input_ids, "attention_mask": attention_mask.long()}
    if "position_ids" in inspect.signature(trunk.forward).parameters:
        arguments["position_ids"] = position_ids(attention_mask)
    hidden: Tensor = trunk(**arguments, use_cache=False).last_hidden_state
    return hidden


class CachedDecoding:
    """N * K samples in the making over the cache of `transformers`.

    It does what `textgym.models.decoding.Decoding` does, for any causal language model.

    Args:
        model: the `transformers` model.
        vocab_size: V; logits beyond it are cut off.
        prompt_ids: [N, P] int64, left-padded.
        prompt_mask: [N, P] bool.
        samples: K, samples per prompt; rows are prompt-major.

    Attributes:
        logits: [B, V] of each row's next token.

    Raises:
        ModelError: the model keeps no key-value cache.
    """

    def __init__(
        self, model: Any, vocab_size: int, prompt_ids: Tensor, prompt_mask: Tensor, samples: int
    ) -> None:
        self._model = model
        self._vocab_size = vocab_size
        output = forward(model, prompt_ids, prompt_mask, keep=1, cache=True)
        self._cache = output.past_key_values
        if not hasattr(self._cache, "batch_repeat_interleave"):
            raise ModelError(
                f"{type(model).__name__} keeps no key-value cache that can be sampled with"
            )
        if samples > 1:
            self._cache.batch_repeat_interleave(samples)
        self._mask = prompt_mask.repeat_interleave(samples, dim=0)
        logits = output.logits[:, 0, :vocab_size]
        self.logits: Tensor = logits.repeat_interleave(samples, dim=0)

    def step(self, tokens: Tensor) -> None:
        """Reads each row's next token, [B] int64, and sets `logits` for the one after it."""
        self._mask = torch.cat([self._mask, self._mask.new_ones((len(tokens), 1))], dim=1)
        output = forward(self._model, tokens[:, None], self._mask, keep=1, cache=self._cache)
        self.logits = output.logits[:, 0, : self._vocab_size]

    def keep(self, rows: Tensor) -> None:
        """Goes on with the given rows only, [B'] int64, in ascending order."""
        self._cache.batch_select_indices(rows)
        self._mask = self._mask[rows]
