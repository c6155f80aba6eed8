"""A policy: any Hugging Face causal language model behind one small interface."""

from __future__ import annotations

import copy
import inspect
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from textgym.errors import ModelError
from textgym.models import llama
from textgym.models.tokenize import TINY, load_pretrained, load_tokenizer, quiet

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

    from textgym.types import Rollout

CHUNK_FLOATS = 2**25
"""Logits held at once where no gradient is needed: 128 MiB of float32."""
CHUNK_TOKENS = 2**13
"""Tokens read at once where no gradient is needed: the activations of far more leave the cache."""


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


def token_logprobs(logits: Tensor, ids: Tensor) -> Tensor:
    """Returns the log-probability of each id, nats: logits [..., V] and ids [...] give [...]."""
    logits = logits.float()
    return logits.gather(-1, ids.unsqueeze(-1)).squeeze(-1) - logits.logsumexp(-1)


class Policy:
    """A causal LM that samples, scores given tokens and gives full-vocabulary log-probabilities.

    The model is always in evaluation mode: a policy's dropout would make the probabilities that
    were sampled from and those that are trained on two different things.

    Attributes:
        model: the `transformers` model.
        tokenizer: its tokenizer, with an EOS and a pad token.
        name: for tables and errors.
        vocab_size: V, the tokenizer's tokens. A head may have more rows, to fill a block of
            memory; no text has those ids and they are cut off everywhere.
        eos_token_id: ends a response.
        pad_token_id: fills; may equal EOS.
        max_length: the window, tokens of prompt and response together.
    """

    def __init__(
        self, model: Any, tokenizer: PreTrainedTokenizerBase, name: str = "policy"
    ) -> None:
        rows = model.get_input_embeddings().weight.shape[0]
        if len(tokenizer) > rows:
            raise ModelError(
                f"{name}: the tokenizer has {len(tokenizer)} tokens, the model embeds {rows}"
            )
        self.model = model.eval()
        self.tokenizer = tokenizer
        self.name = name
        self.vocab_size = len(tokenizer)
        self.eos_token_id: int = tokenizer.eos_token_id
        self.pad_token_id: int = tokenizer.pad_token_id
        window = getattr(model.config, "max_position_embeddings", None)
        self.max_length: int = window or tokenizer.model_max_length
        self._takes = set(inspect.signature(model.forward).parameters)

    @property
    def device(self) -> torch.device:
        """Where the weights are."""
        device: torch.device = next(self.model.parameters()).device
        return device

    @property
    def dtype(self) -> torch.dtype:
        """What the weights are held in."""
        dtype: torch.dtype = next(self.model.parameters()).dtype
        return dtype

    def parameters(self) -> list[torch.nn.Parameter]:
        """Returns the parameters that are not frozen."""
        return [p for p in self.model.parameters() if p.requires_grad]

    def forward(
        self,
        input_ids: Tensor,
        attention_mask: Tensor,
        keep: int,
        cache: Any = None,
        use_cache: bool = False,
        **options: Any,
    ) -> Any:
        """Runs the model with positions counted from the mask.

        A plain Llama goes the short way of `textgym.models.llama`, which gives the same.

        Args:
            input_ids: [B, L] int64, tokens not in the cache yet.
            attention_mask: [B, M] bool, M = L plus what the cache holds.
            keep: how many of the last positions go through the head, at least 1.
            cache: what an earlier call returned, read and extended; not while gradients are
                recorded.
            use_cache: whether to begin or extend a key-value cache.
            options: passed on to the model in `transformers`.

        Returns:
            The output; its `logits` are [B, keep, V], its `past_key_values` are the cache.
        """
        if isinstance(cache, llama.Cache) or (
            cache is None and not options and llama.supports(self.model)
        ):
            cache = llama.Cache() if use_cache and cache is None else cache
            plain = llama.forward(self.model, input_ids, attention_mask, keep, cache)
            plain.logits = plain.logits[..., : self.vocab_size]
            return plain
        width = input_ids.shape[1]
        arguments: dict[str, Any] = {
            "input_ids": input_ids,
            "attention_mask": attention_mask.long(),
            "past_key_values": cache,
            "use_cache": use_cache,
            **options,
        }
        if "position_ids" in self._takes:
            arguments["position_ids"] = position_ids(attention_mask)[:, -width:]
        if "logits_to_keep" in self._takes:
            arguments["logits_to_keep"] = keep
        output = self.model(**arguments)
        output.logits = output.logits[:, -keep:, : self.vocab_size]
        return output

    def logits(
        self, prompt_ids: Tensor, prompt_mask: Tensor, response_ids: Tensor, response_mask: Tensor
    ) -> Tensor:
        """Returns [B, T, V] logits, those at t predict response token t; differentiable.

        Args:
            prompt_ids: [B, P] int64, left-padded.
            prompt_mask: [B, P] bool.
            response_ids: [B, T] int64, right-padded.
            response_mask: [B, T] bool.
        """
        batch, width = response_ids.shape
        if batch == 0 or width == 0:
            return torch.zeros((batch, width, self.vocab_size), device=self.device)
        ids, mask = response_inputs(prompt_ids, prompt_mask, response_ids, response_mask)
        ids, mask = ids.to(self.device), mask.to(self.device)
        logits: Tensor = self.forward(ids, mask, keep=width, use_cache=False).logits
        return logits

    def logprobs(self, rollout: Rollout) -> Tensor:
        """Returns [B, T] log-probabilities of the responses, nats, 0 where the mask is False.

        Differentiable where gradients are enabled, then in one pass; else in chunks.
        """
        return self._scored(rollout, full=False)

    def response_logprobs(self, rollout: Rollout) -> Tensor:
        """Returns [B, T, V] log-probabilities of every token, nats, 0 where the mask is False.

        This is large: take `chunks` of the rollout where B is.
        """
        return self._scored(rollout, full=True)

    def chunks(self, rollout: Rollout) -> list[Tensor]:
        """Returns row indices in pieces that stay within CHUNK_FLOATS logits and CHUNK_TOKENS."""
        responses = rollout.response_ids.shape[1]
        tokens = rollout.prompt_ids.shape[1] + responses
        logits = responses * self.vocab_size
        rows = min(CHUNK_FLOATS // max(1, logits), CHUNK_TOKENS // max(1, tokens))
        return list(torch.split(torch.arange(len(rollout)), max(1, rows)))

    def _scored(self, rollout: Rollout, full: bool) -> Tensor:
        if torch.is_grad_enabled() or len(rollout) == 0:
            return self._score_rows(rollout, torch.arange(len(rollout)), full)
        return torch.cat([self._score_rows(rollout, r, full) for r in self.chunks(rollout)])

    def _score_rows(self, rollout: Rollout, rows: Tensor, full: bool) -> Tensor:
        ids = rollout.response_ids[rows]
        mask = rollout.response_mask[rows].to(self.device)
        logits = self.logits(rollout.prompt_ids[rows], rollout.prompt_mask[rows], ids, mask)
        if full:
            return logits.float().log_softmax(-1).masked_fill(~mask.unsqueeze(-1), 0.0)
        return token_logprobs(logits, ids.to(self.device)).masked_fill(~mask, 0.0)

    def next_logits(self, input_ids: Tensor, attention_mask: Tensor) -> Tensor:
        """Returns [B, V] logits of the token that follows.

        Args:
            input_ids: [B, C] int64, left-padded.
            attention_mask: [B, C] bool, or integers 0 and 1.
        """
        mask = attention_mask.bool()
        width = int(mask.sum(1).max())
        ids, mask = input_ids[:, -width:].to(self.device), mask[:, -width:].to(self.device)
        logits: Tensor = self.forward(ids, mask, keep=1, use_cache=False).logits[:, 0]
        return logits

    def last_hidden(self, input_ids: Tensor, attention_mask: Tensor) -> Tensor:
        """Returns [B, L, D], the trunk's last hidden states (after its final norm).

        Args:
            input_ids: [B, L] int64, padded on either side.
            attention_mask: [B, L] bool.
        """
        return last_hidden(self.model.base_model, input_ids, attention_mask)

    @torch.no_grad()
    def embed(self, rollout: Rollout) -> Tensor:
        """Returns [B, D] float32: hidden states averaged over each response's tokens.

        A response of no tokens is all zeros.
        """
        embeddings = torch.zeros((len(rollout), self.model.config.hidden_size))
        width = rollout.response_ids.shape[1]
        for rows in self.chunks(rollout) if width else []:
            ids = torch.cat([rollout.prompt_ids[rows], rollout.response_ids[rows]], dim=1)
            mask = rollout.response_mask[rows]
            read = torch.cat([rollout.prompt_mask[rows], mask], dim=1)
            hidden = self.last_hidden(ids, read)[:, -width:].float().cpu()
            tokens = mask.sum(1, keepdim=True).clamp(min=1)
            embeddings[rows] = (hidden * mask.unsqueeze(-1)).sum(1) / tokens
        return embeddings

    def copy(self, name: str | None = None) -> Policy:
        """Returns a policy with its own, trainable copy of the weights."""
        model = copy.deepcopy(self.model).requires_grad_(True)
        return Policy(model, self.tokenizer, name or self.name)

    def freeze(self) -> Policy:
        """Stops gradients to the weights and returns the policy itself."""
        self.model.requires_grad_(False)
        return self

    def save(self, path: str | Path) -> None:
        """Writes safetensors weights, config and tokenizer, as `load_policy` reads them."""
        with quiet():
            self.model.save_pretrained(path)
        self.tokenizer.save_pretrained(path)


def last_hidden(trunk: Any, input_ids: Tensor, attention_mask: Tensor) -> Tensor:
    """Returns [B, L, D] last hidden states of a headless model, positions counted from the mask."""
    device = next(trunk.parameters()).device
    input_ids, mask = input_ids.to(device), attention_mask.to(device)
    if llama.supports(trunk):
        return llama.hidden_states(trunk, input_ids, mask)
    arguments = {"input_ids": input_ids, "attention_mask": mask.long()}
    if "position_ids" in inspect.signature(trunk.forward).parameters:
        arguments["position_ids"] = position_ids(mask)
    hidden: Tensor = trunk(**arguments, use_cache=False).last_hidden_state
    return hidden


def load_policy(
    name_or_path: str | Path = TINY,
    *,
    dtype: torch.dtype = torch.float32,
    device: str | torch.device = "cpu",
    revision: str | None = None,
) -> Policy:
    """Loads the packaged tiny language model, or any that `AutoModelForCausalLM` loads.

    Sampling defaults in the checkpoint (temperature, top-p, ...) are dropped: how tokens are drawn
    is always the caller's choice.

    Args:
        name_or_path: "tiny", a folder or a Hub id.
        dtype: of the weights.
        device: where to put them.
        revision: commit, branch or tag of a Hub id.

    Raises:
        ModelError: nothing to load there, weights that are incomplete, a model that sees the
            future, a tokenizer without EOS or with more tokens than the model embeds.
    """
    from transformers import AutoModelForCausalLM, GenerationConfig

    options = {} if revision is None else {"revision": revision}
    tokenizer = load_tokenizer(name_or_path, **options)
    model, loading = load_pretrained(
        AutoModelForCausalLM,
        name_or_path,
        "causal language model",
        output_loading_info=True,
        **options,
    )
    if missing := sorted(loading["missing_keys"]):
        raise ModelError(
            f"the weights at {name_or_path} are incomplete: {len(missing)} are missing, "
            f"such as {missing[0]!r}"
        )
    model.to(device=device, dtype=dtype)
    model.generation_config = GenerationConfig(
        eos_token_id=tokenizer.eos_token_id, pad_token_id=tokenizer.pad_token_id
    )
    policy = Policy(model, tokenizer, name=str(name_or_path))
    _require_causal(policy)
    return policy


@torch.no_grad()
def _require_causal(policy: Policy) -> None:
    """Raises ModelError if a later token changes an earlier prediction, as in a BERT."""
    ids = torch.tensor([[0, 0], [0, 1]], device=policy.device)
    logits = policy.forward(ids, torch.ones_like(ids), keep=2, use_cache=False).logits[:, 0].float()
    if not torch.allclose(logits[0], logits[1], atol=1e-2, rtol=1e-2):
        raise ModelError(f"{policy.name} is no causal model: it sees the tokens it is to predict")
