"""A policy: any Hugging Face causal language model behind one small interface."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from textgym.errors import ModelError
from textgym.models import hugging_face
from textgym.models.branches import branch, states_before
from textgym.models.compiled.decoding import CompiledDecoding, fits
from textgym.models.decoder import Decoder
from textgym.models.decoder import logits as head_logits
from textgym.models.decoding import Decoding
from textgym.models.families import read
from textgym.models.likelihood import token_logprobs
from textgym.models.linear import Linear
from textgym.models.lora import merged, trainable_copy
from textgym.models.pieces import chunks, in_pieces
from textgym.models.precision import AUTO, resolve
from textgym.models.tokenize import TINY, load_pretrained, load_tokenizer, quiet
from textgym.models.trunk import states_of_responses

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

    from textgym.models.sampling import Sampler
    from textgym.types import Rollout

MASK = "mask.json"
"""What a saved policy has beside its weights that samples under a mask (`masked_policy`)."""


class Policy:
    """A causal LM that samples, scores given tokens and gives full-vocabulary log-probabilities.

    The model is always in evaluation mode: a policy's dropout would make the probabilities that
    were sampled from and those that are trained on two different things.

    Attributes:
        model: the `transformers` model.
        tokenizer: its tokenizer, with an EOS and a pad token.
        name: for tables and errors.
        precision: what matrix products are computed in (`textgym.models.precision`); weights,
            their gradients, norms and the sums between layers keep the weights' own type.
        sampler: what draws tokens; None for the loop in `textgym.models.sampling`.
        vocab_size: V, the tokenizer's tokens. A head may have more rows, to fill a block of
            memory; no text has those ids and they are cut off everywhere.
        eos_token_id: ends a response.
        pad_token_id: fills; may equal EOS.
        max_length: the window, tokens of prompt and response together.
    """

    def __init__(
        self,
        model: Any,
        tokenizer: PreTrainedTokenizerBase,
        name: str = "policy",
        precision: str = AUTO,
    ) -> None:
        rows = model.get_input_embeddings().weight.shape[0]
        if len(tokenizer) > rows:
            raise ModelError(
                f"{name}: the tokenizer has {len(tokenizer)} tokens, the model embeds {rows}"
            )
        self.model = model.eval()
        self.tokenizer = tokenizer
        self.name = name
        self.asked_precision = precision
        self.sampler: Sampler | None = None
        self.vocab_size = len(tokenizer)
        self.eos_token_id: int = tokenizer.eos_token_id
        self.pad_token_id: int = tokenizer.pad_token_id
        window = getattr(model.config, "max_position_embeddings", None)
        self.max_length: int = window or tokenizer.model_max_length

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

    @property
    def precision(self) -> torch.dtype:
        """What matrix products are computed in; the weights' type where they are not read here."""
        return self.dtype if read(self.model) is None else self._resolved()

    def _resolved(self) -> torch.dtype:
        return resolve(self.asked_precision, self.model)

    def decoder(self) -> Decoder | None:
        """Returns the weights as they are now, or None where the model is not read directly."""
        decoder = read(self.model)
        if decoder is None:
            return None
        if isinstance(decoder.head, Linear) and self.vocab_size < len(decoder.head.weight):
            # No text has the ids of the rows beyond.
            weight, bias = decoder.head.weight, decoder.head.bias
            cut = None if bias is None else bias[: self.vocab_size]
            decoder = replace(decoder, head=Linear(weight[: self.vocab_size], cut))
        dtype = self._resolved()
        return decoder if dtype == self.dtype else decoder.to(dtype)

    def decoding(
        self, prompt_ids: Tensor, prompt_mask: Tensor, samples: int, limit: int
    ) -> Decoding | CompiledDecoding | hugging_face.CachedDecoding:
        """Returns N * K samples in the making: it gives logits, and reads the tokens drawn.

        Args:
            prompt_ids: [N, P] int64, left-padded.
            prompt_mask: [N, P] bool.
            samples: K, samples per prompt.
            limit: most tokens of a sample.

        Raises:
            ModelError: the model keeps no key-value cache.
        """
        ids, mask = prompt_ids.to(self.device), prompt_mask.to(self.device)
        decoder = self.decoder()
        if decoder is None:
            return hugging_face.CachedDecoding(self.model, self.vocab_size, ids, mask, samples)
        kind: type[CompiledDecoding | Decoding] = CompiledDecoding if fits(decoder) else Decoding
        return kind(decoder, ids, mask, samples, limit)

    def response_logits(
        self, prompt_ids: Tensor, prompt_mask: Tensor, response_ids: Tensor, response_mask: Tensor
    ) -> Tensor:
        """Returns [R, V] logits that predict the R real response tokens, row by row.

        Differentiable. Each distinct prompt is read once.

        Args:
            prompt_ids: [B, P] int64, padded.
            prompt_mask: [B, P] bool.
            response_ids: [B, T] int64, right-padded.
            response_mask: [B, T] bool; R is how many it holds.
        """
        batch = [x.to(self.device) for x in (prompt_ids, prompt_mask, response_ids, response_mask)]
        if not response_mask.any():
            return torch.zeros((0, self.vocab_size), device=self.device)
        decoder = self.decoder()
        if decoder is not None:
            return head_logits(decoder, states_before(decoder, branch(*batch)))
        ids, mask = hugging_face.response_inputs(*batch)
        output = hugging_face.forward(self.model, ids, mask, keep=response_ids.shape[1])
        logits: Tensor = output.logits[batch[3]][:, : self.vocab_size]
        return logits

    def token_logprobs(
        self, prompt_ids: Tensor, prompt_mask: Tensor, response_ids: Tensor, response_mask: Tensor
    ) -> Tensor:
        """Returns [B, T] log-probabilities of given responses, nats, 0 where the mask is False.

        Differentiable, in one pass. The arguments are those of `response_logits`.
        """
        mask, ids = response_mask.to(self.device), response_ids.to(self.device)
        logits = self.response_logits(prompt_ids, prompt_mask, ids, mask)
        found = torch.zeros(mask.shape, device=self.device)
        return found.masked_scatter(mask, token_logprobs(logits, ids[mask]))

    def logprobs(self, rollout: Rollout) -> Tensor:
        """Returns [B, T] log-probabilities of the responses, nats, 0 where the mask is False.

        Differentiable where gradients are enabled; a large batch is scored in pieces.
        """
        if len(rollout) == 0:
            return torch.zeros(rollout.response_mask.shape, device=self.device)
        return in_pieces(self._score, rollout, self.model.config, self.vocab_size)

    def _score(self, rollout: Rollout, rows: Tensor) -> Tensor:
        return self.token_logprobs(
            rollout.prompt_ids[rows],
            rollout.prompt_mask[rows],
            rollout.response_ids[rows],
            rollout.response_mask[rows],
        )

    def response_logprobs(self, rollout: Rollout) -> Tensor:
        """Returns [B, T, V] log-probabilities of every token, nats, 0 where the mask is False.

        This is large: take `chunks` of the rollout where B is.
        """
        mask = rollout.response_mask.to(self.device)
        logits = self.response_logits(
            rollout.prompt_ids, rollout.prompt_mask, rollout.response_ids, mask
        )
        found = torch.zeros((*mask.shape, self.vocab_size), device=self.device)
        return found.masked_scatter(mask.unsqueeze(-1), logits.float().log_softmax(-1))

    def chunks(self, rollout: Rollout) -> list[Tensor]:
        """Returns row indices in pieces of a size that is scored at once without gradients."""
        return chunks(rollout, self.vocab_size)

    def next_logits(self, input_ids: Tensor, attention_mask: Tensor) -> Tensor:
        """Returns [B, V] logits of the token that follows; differentiable.

        Args:
            input_ids: [B, C] int64, left-padded.
            attention_mask: [B, C] bool, or integers 0 and 1.
        """
        mask = attention_mask.bool()
        width = int(mask.sum(1).max())
        ids, mask = input_ids[:, -width:].to(self.device), mask[:, -width:].to(self.device)
        decoder = self.decoder()
        if decoder is None:
            logits: Tensor = hugging_face.forward(self.model, ids, mask, keep=1).logits[:, 0]
            return logits[:, : self.vocab_size]
        return Decoding(decoder, ids, mask, samples=1, limit=0).logits

    @torch.no_grad()
    def embed(self, rollout: Rollout) -> Tensor:
        """Returns [B, D] float32: hidden states averaged over each response's tokens.

        A response of no tokens is all zeros.
        """
        embeddings = torch.zeros((len(rollout), self.model.config.hidden_size))
        width = rollout.response_ids.shape[1]
        for rows in self.chunks(rollout) if width else []:
            mask = rollout.response_mask[rows]
            hidden = states_of_responses(
                self.model.base_model,
                rollout.prompt_ids[rows],
                rollout.prompt_mask[rows],
                rollout.response_ids[rows],
                mask,
                self.precision,
            )
            sums = torch.zeros((len(rows), hidden.shape[1]))
            sums.index_add_(0, mask.nonzero()[:, 0], hidden.float().cpu())
            embeddings[rows] = sums / mask.sum(1, keepdim=True).clamp(min=1)
        return embeddings

    def copy(self, name: str | None = None) -> Policy:
        """Returns a policy with its own, trainable copy of the weights.

        Where there are adapters (`textgym.models.lora`), those alone: the base is shared.
        """
        return self.of(trainable_copy(self.model), name)

    def of(self, model: Any, name: str | None = None) -> Policy:
        """Returns a policy like this one of another model."""
        return Policy(model, self.tokenizer, name or self.name, self.asked_precision)

    def freeze(self) -> Policy:
        """Stops gradients to the weights and returns the policy itself."""
        self.model.requires_grad_(False)
        return self

    def save(self, path: str | Path) -> None:
        """Writes safetensors weights, config and tokenizer, as `load_policy` reads them.

        Adapters are merged into the weights.
        """
        with quiet():
            merged(self.model).save_pretrained(path)
        self.tokenizer.save_pretrained(path)


def load_policy(
    name_or_path: str | Path = TINY,
    *,
    dtype: torch.dtype = torch.float32,
    precision: str = AUTO,
    device: str | torch.device = "cpu",
    revision: str | None = None,
) -> Policy:
    """Loads the packaged tiny language model, or any that `AutoModelForCausalLM` loads.

    Sampling defaults in the checkpoint (temperature, top-p, ...) are dropped: how tokens are drawn
    is always the caller's choice.

    Args:
        name_or_path: "tiny", a folder or a Hub id.
        dtype: of the weights.
        precision: of matrix products: "auto" (what the machine does fast at this width), "float32"
            or "bfloat16".
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
    policy = Policy(model, tokenizer, str(name_or_path), precision)
    _require_causal(policy)
    if not Path(name_or_path, MASK).is_file():
        return policy
    from textgym.models.masked_policy import load_mask

    return load_mask(policy, name_or_path)


@torch.no_grad()
def _require_causal(policy: Policy) -> None:
    """Raises ModelError if a later token changes an earlier prediction, as in a BERT."""
    ids = torch.tensor([[0, 0], [0, 1]], device=policy.device)
    mask = torch.ones_like(ids)
    logits = hugging_face.forward(policy.model, ids, mask, keep=2).logits[:, 0].float()
    if not torch.allclose(logits[0], logits[1], atol=1e-2, rtol=1e-2):
        raise ModelError(f"{policy.name} is no causal model: it sees the tokens it is to predict")
