"""Reward models on encoders such as BERT, which read the whole text at every token."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_model
from torch import Tensor

from textgym.errors import ConfigError, ModelError
from textgym.models.tokenize import load_pretrained, pad
from textgym.models.value_head import ScalarHead
from textgym.registry import unknown_name
from textgym.rewards.batching import each_once
from textgym.rewards.learned import CONSTANT_FIELDS, HEAD, RewardModel, TokenRow
from textgym.rewards.saving import CONSTANTS, read_constants

POOLINGS = ("completion", "text")
"""What is averaged: the completion's tokens, or those of prompt and completion."""


class EncoderRewardModel(RewardModel):
    """A reward function: the mean of a linear head over an encoder's tokens.

    Prompt and completion are read as a pair, with the special tokens that the tokenizer puts around
    one, cut from the front at `max_tokens`. In everything else it is a `RewardModel`.

    Attributes:
        pooling: one of `POOLINGS`.
    """

    def __init__(
        self,
        trunk: Any,
        head: ScalarHead,
        tokenizer: Any,
        max_tokens: int,
        pooling: str = "completion",
    ) -> None:
        super().__init__(trunk, head, tokenizer, max_tokens)
        if pooling not in POOLINGS:
            raise ConfigError(str(unknown_name("pooling", pooling, POOLINGS)))
        self.pooling = pooling
        self.before, self.between, self.after = _special_tokens(tokenizer)

    @classmethod
    def from_pretrained(
        cls,
        name_or_path: str | Path,
        generator: torch.Generator,
        max_tokens: int | None = None,
        pooling: str = "completion",
    ) -> EncoderRewardModel:
        """Returns an untrained reward model on an encoder's weights.

        Args:
            name_or_path: a Hub id or folder that `AutoModel` loads.
            generator: initialises the head.
            max_tokens: at most the encoder's window, which is the default.
            pooling: one of `POOLINGS`.

        Raises:
            ModelError: nothing to load there.
            ConfigError: an unknown pooling.
        """
        trunk, tokenizer = _load_encoder(name_or_path)
        head = ScalarHead(trunk.config.hidden_size, generator)
        window = _window(trunk, tokenizer)
        return cls(trunk, head, tokenizer, min(max_tokens or window, window), pooling)

    def encode(self, prompts: Sequence[str], completions: Sequence[str]) -> list[TokenRow]:
        """Returns B rows of token ids: the pair with its special tokens, cut at the front.

        What follows the completion counts as the completion's. An empty text is one pad token.
        """
        asked = each_once(self._token_ids, prompts)
        given = each_once(self._token_ids, completions)
        rows = []
        for p, c in zip(asked, given, strict=True):
            ends = len(self.before) + len(self.between) + len(self.after)
            room = max(1, self.max_tokens - ends)
            c = c[-room:]
            p = p[-(room - len(c)) :] if len(c) < room else []
            ids = [*self.before, *p, *self.between, *c, *self.after]
            ids = ids or [self.tokenizer.pad_token_id]
            rows.append(TokenRow(tuple(ids), max(1, len(c) + len(self.after))))
        return rows

    def _token_ids(self, texts: list[str]) -> list[list[int]]:
        if not texts:
            return []
        ids: list[list[int]] = self.tokenizer(texts, add_special_tokens=False)["input_ids"]
        return ids

    def states(self, rows: Sequence[TokenRow]) -> tuple[Tensor, Tensor]:
        """Returns the states [M, D] of the M tokens that are read, and whose row each is, [M]."""
        device = self.head.weight.device
        ids, mask = pad([row.ids for row in rows], self.tokenizer.pad_token_id, side="right")
        starts = torch.tensor([[len(row.ids) - row.completion] for row in rows])
        completion = mask & (torch.arange(ids.shape[1]) >= starts)
        inputs = {"input_ids": ids, "attention_mask": mask.long()}
        if "token_type_ids" in self.tokenizer.model_input_names:
            inputs["token_type_ids"] = completion.long()
        hidden = self.trunk(**{name: x.to(device) for name, x in inputs.items()}).last_hidden_state
        scored = completion if self.pooling == "completion" else mask
        return hidden[scored.to(device)], scored.nonzero()[:, 0].to(device)

    def constants(self) -> dict[str, Any]:
        """Returns what is kept beside the weights, as JSON values."""
        return {**super().constants(), "kind": "encoder", "pooling": self.pooling}


def load_encoder_reward(path: str | Path) -> EncoderRewardModel:
    """Loads what `EncoderRewardModel.save` wrote. Raises: ModelError for a folder without one."""
    fields = (*CONSTANT_FIELDS, "pooling")
    constants = read_constants(path, fields, ("config.json", HEAD, CONSTANTS))
    trunk, tokenizer = _load_encoder(path)
    head = ScalarHead(trunk.config.hidden_size)
    load_model(head, str(Path(path, HEAD)))
    model = EncoderRewardModel(
        trunk, head, tokenizer, constants["max_tokens"], constants["pooling"]
    )
    model.mean, model.std = constants["mean"], constants["std"]
    return model


def is_encoder(name_or_path: str | Path) -> bool:
    """Returns whether a Hub id or folder holds an encoder and no causal language model.

    Raises: ModelError when it holds neither.
    """
    from transformers import AutoConfig
    from transformers.models.auto.modeling_auto import (
        MODEL_FOR_CAUSAL_LM_MAPPING_NAMES,
        MODEL_FOR_MASKED_LM_MAPPING_NAMES,
    )

    config = load_pretrained(AutoConfig, name_or_path, "language model")
    # BERT and its kin can be told to be decoders; unless they are, they see the future.
    masked = config.model_type in MODEL_FOR_MASKED_LM_MAPPING_NAMES
    causal = config.model_type in MODEL_FOR_CAUSAL_LM_MAPPING_NAMES
    return not causal or (masked and not getattr(config, "is_decoder", False))


def _load_encoder(name_or_path: str | Path) -> tuple[Any, Any]:
    from transformers import AutoModel, AutoTokenizer

    tokenizer = load_pretrained(AutoTokenizer, name_or_path, "tokenizer")
    if tokenizer.pad_token_id is None:
        raise ModelError(f"the tokenizer at {name_or_path} has no pad token")
    # What the checkpoint lacks is drawn at random, which is no one else's business.
    with torch.random.fork_rng(devices=[]):
        trunk, loading = load_pretrained(
            AutoModel, name_or_path, "encoder", dtype=torch.float32, output_loading_info=True
        )
    if trunk.config.is_encoder_decoder:
        raise ModelError(f"{name_or_path} is an encoder with a decoder, expected one alone")
    missing = sorted(k for k in loading["missing_keys"] if not k.startswith("pooler."))
    if missing:
        raise ModelError(
            f"the weights at {name_or_path} are incomplete: {len(missing)} are missing, "
            f"such as {missing[0]!r}"
        )
    if getattr(trunk, "pooler", None) is not None:
        trunk.pooler = None  # reads the first token alone; nothing here does
    return trunk, tokenizer


def _window(trunk: Any, tokenizer: Any) -> int:
    positions = getattr(trunk.config, "max_position_embeddings", None) or 2**30
    return int(min(positions, tokenizer.model_max_length))


def _special_tokens(tokenizer: Any) -> tuple[list[int], list[int], list[int]]:
    """Returns what the tokenizer puts before, between and after the texts of a pair."""
    encoded = tokenizer("a", "a")
    places = encoded.sequence_ids(0)
    first, last = places.index(0), len(places) - 1 - places[::-1].index(1)
    ids = encoded["input_ids"]
    before, after = ids[:first], ids[last + 1 :]
    special = [token for token, place in zip(ids, places, strict=True) if place is None]
    return before, special[len(before) : len(special) - len(after)], after
