"""Drawing tokens: the sampler behind every rollout, with a key-value cache."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from textgym.errors import ModelError
from textgym.models.tokenize import decode_responses, encode_prompts
from textgym.types import Sampling

if TYPE_CHECKING:
    from textgym.models.policy import Policy

KEPT_SHARE = 0.75
"""Rows that have ended leave the batch when at most this share goes on; it copies the cache."""


@dataclass
class Sampled:
    """Sampled responses.

    Attributes:
        ids: [B, T] int64, right-padded.
        mask: [B, T] bool, True up to and including EOS.
        policy_logprobs: [B, T] float32, nats, at temperature 1 without truncation.
        sampling_logprobs: [B, T] float32, nats, under the distribution drawn from.
    """

    ids: Tensor
    mask: Tensor
    policy_logprobs: Tensor
    sampling_logprobs: Tensor

    @classmethod
    def empty(cls, batch: int, width: int, pad_token_id: int) -> Sampled:
        """Returns B responses of no tokens, with room for `width`."""
        return cls(
            ids=torch.full((batch, width), pad_token_id, dtype=torch.int64),
            mask=torch.zeros((batch, width), dtype=torch.bool),
            policy_logprobs=torch.zeros((batch, width)),
            sampling_logprobs=torch.zeros((batch, width)),
        )

    def put(self, rows: Tensor, t: int, tokens: Tensor, policy: Tensor, sampling: Tensor) -> None:
        """Books the tokens that `rows` drew at step t, with their log-probabilities."""
        self.ids[rows, t] = tokens
        self.mask[rows, t] = True
        self.policy_logprobs[rows, t] = policy
        self.sampling_logprobs[rows, t] = sampling


def sampling_distribution(logprobs: Tensor, sampling: Sampling) -> Tensor:
    """Returns the log-probabilities of the distribution that is really drawn from.

    Temperature first, then top-k, then top-p of what top-k left, as in `transformers`.

    Args:
        logprobs: [B, V] the policy's, nats.
        sampling: temperature and truncation.

    Returns:
        [B, V] normalised log-probabilities, -inf on tokens that are cut.
    """
    if sampling == Sampling():
        return logprobs
    scaled = logprobs / sampling.temperature
    if 0 < sampling.top_k < scaled.shape[-1]:
        kept = scaled.topk(sampling.top_k, dim=-1).indices
        scaled = torch.full_like(scaled, -torch.inf).scatter(-1, kept, scaled.gather(-1, kept))
    scaled = scaled.log_softmax(-1)
    if sampling.top_p < 1:
        ordered, order = scaled.sort(dim=-1, descending=True, stable=True)
        before = ordered.exp().cumsum(-1) - ordered.exp()
        ordered = ordered.masked_fill(before >= sampling.top_p, -torch.inf)
        scaled = torch.full_like(scaled, -torch.inf).scatter(-1, order, ordered)
    return scaled.log_softmax(-1)


def inverse_cdf(logprobs: Tensor, uniforms: Tensor) -> Tensor:
    """Draws one token per row: the first at which the cumulative probability exceeds the uniform.

    One number decides a row's token, so a row draws the same whatever batch it is in. (The
    exponential race in `torch.multinomial` needs V numbers from the generator per row and step.)

    Args:
        logprobs: [B, V] normalised log-probabilities, nats.
        uniforms: [B] float64 in [0, 1).

    Returns:
        [B] int64 tokens.
    """
    cdf = logprobs.double().exp().cumsum(-1)
    targets = uniforms.unsqueeze(-1) * cdf[:, -1:]
    # right=True: a token of probability 0 is never the first above its target.
    tokens = torch.searchsorted(cdf, targets, right=True).squeeze(-1)
    return tokens.clamp(max=logprobs.shape[-1] - 1)


def draw(logits: Tensor, uniforms: Tensor, sampling: Sampling) -> tuple[Tensor, Tensor, Tensor]:
    """Draws one token per row.

    Args:
        logits: [B, V].
        uniforms: [B] float64 in [0, 1).
        sampling: how.

    Returns:
        Tokens [B] int64 and their log-probabilities [B] under the policy and under the
        distribution drawn from.
    """
    policy = logits.float().log_softmax(-1)
    drawn_from = sampling_distribution(policy, sampling)
    tokens = inverse_cdf(drawn_from, uniforms)
    index = tokens.unsqueeze(-1)
    return tokens, policy.gather(-1, index)[:, 0], drawn_from.gather(-1, index)[:, 0]


@torch.no_grad()
def sample_tokens(
    policy: Policy,
    prompt_ids: Tensor,
    prompt_mask: Tensor,
    uniforms: Tensor,
    sampling: Sampling,
) -> Sampled:
    """Samples responses until EOS or the length limit.

    Each prompt is read once for its K samples, and rows that have ended leave the batch.

    Args:
        policy: what to sample from.
        prompt_ids: [N, P] int64, left-padded.
        prompt_mask: [N, P] bool.
        uniforms: [N * K, T] float64 in [0, 1), one per token; T is the length limit.
        sampling: temperature and truncation.

    Returns:
        B = N * K prompt-major responses, on the CPU.

    Raises:
        ModelError: the model keeps no key-value cache.
    """
    device = policy.device
    batch, limit = uniforms.shape
    sampled = Sampled.empty(batch, limit, policy.pad_token_id)
    if batch == 0 or limit == 0:
        return sampled
    uniforms, mask = uniforms.to(device), prompt_mask.to(device)
    logits, cache = _read_prompts(policy, prompt_ids.to(device), mask, batch // len(mask))
    mask = mask.repeat_interleave(batch // len(mask), dim=0)
    rows = torch.arange(batch, device=device)
    going = torch.ones_like(rows, dtype=torch.bool)
    for t in range(limit):
        drawn = draw(logits, uniforms[rows, t], sampling)
        sampled.put(rows[going].cpu(), t, *(x[going].cpu() for x in drawn))
        tokens = drawn[0]
        going = going & (tokens != policy.eos_token_id)
        left = going.nonzero().squeeze(-1)
        if t + 1 == limit or len(left) == 0:
            break
        if len(left) <= KEPT_SHARE * len(rows):
            rows, tokens, mask, going = rows[left], tokens[left], mask[left], going[left]
            cache.batch_select_indices(left)
        mask = torch.cat([mask, mask.new_ones((len(rows), 1))], dim=1)
        logits = policy.forward(tokens[:, None], mask, keep=1, cache=cache, use_cache=True).logits
        logits = logits[:, 0]
    return sampled


def _read_prompts(policy: Policy, ids: Tensor, mask: Tensor, samples: int) -> tuple[Tensor, Any]:
    """Returns the logits [N * K, V] of each sample's first token, and the cache of the prompts."""
    output = policy.forward(ids, mask, keep=1, use_cache=True)
    cache = output.past_key_values
    if not hasattr(cache, "batch_repeat_interleave"):
        raise ModelError(f"{policy.name} keeps no key-value cache that can be sampled with")
    if samples > 1:
        cache.batch_repeat_interleave(samples)
    return output.logits[:, 0].repeat_interleave(samples, dim=0), cache


def complete(
    policy: Policy, prompts: Sequence[str], max_length: int, generator: torch.Generator
) -> list[str]:
    """Returns one sampled completion per prompt, prompt and completion within `max_length` tokens.

    Raises: PromptTooLongError when a prompt leaves no room for a token.
    """
    ids, mask = encode_prompts(policy.tokenizer, prompts, max_length - 1)
    limit = max_length - ids.shape[1]
    uniforms = torch.rand((len(prompts), limit), generator=generator, dtype=torch.float64)
    sampled = sample_tokens(policy, ids, mask, uniforms, Sampling())
    return decode_responses(policy.tokenizer, sampled.ids, sampled.mask)
