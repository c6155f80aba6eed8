"""Drawing tokens: the sampler behind every rollout, with a key-value cache."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

import torch
from torch import Tensor
from torch.nn import functional

from textgym.models.compiled import drawing as compiled
from textgym.models.compiled.layers import knows
from textgym.models.tokenize import decode_responses, encode_prompts
from textgym.types import Sampling

if TYPE_CHECKING:
    from textgym.models.policy import Policy

KEPT_SHARE = 0.75
"""Rows that have ended leave the batch when at most this share goes on; it copies the cache."""
BLOCK = 128
"""Tokens whose weights are summed together when one is drawn."""


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
    def empty(
        cls, batch: int, width: int, pad_token_id: int, device: torch.device | str = "cpu"
    ) -> Sampled:
        """Returns B responses of no tokens, with room for `width`."""
        return cls(
            ids=torch.full((batch, width), pad_token_id, dtype=torch.int64, device=device),
            mask=torch.zeros((batch, width), dtype=torch.bool, device=device),
            policy_logprobs=torch.zeros((batch, width), device=device),
            sampling_logprobs=torch.zeros((batch, width), device=device),
        )

    def put(self, rows: Tensor, t: int, tokens: Tensor, policy: Tensor, sampling: Tensor) -> None:
        """Books the tokens that `rows` drew at step t, with their log-probabilities."""
        self.ids[rows, t] = tokens
        self.policy_logprobs[rows, t] = policy
        self.sampling_logprobs[rows, t] = sampling

    def cut(self, eos_token_id: int, pad_token_id: int) -> Sampled:
        """Returns the same on the CPU, with nothing after each row's first EOS."""
        ids = self.ids.cpu()
        ends = (ids == eos_token_id).long()
        mask = ends.cumsum(1) - ends == 0
        return Sampled(
            ids.masked_fill(~mask, pad_token_id),
            mask,
            self.policy_logprobs.cpu().masked_fill(~mask, 0),
            self.sampling_logprobs.cpu().masked_fill(~mask, 0),
        )


class Sampler(Protocol):
    """What may draw a policy's tokens in place of the loop here: see `textgym.models.vllm`."""

    def sample(
        self,
        policy: Policy,
        prompt_ids: Tensor,
        prompt_mask: Tensor,
        uniforms: Tensor,
        sampling: Sampling,
    ) -> Sampled:
        """Does what `sample_tokens` does."""


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


def inverse_cdf(weights: Tensor, uniforms: Tensor) -> Tensor:
    """Draws one token per row: the first at which the cumulative weight exceeds the uniform.

    One number decides a row's token, so a row draws the same whatever batch it is in. (The
    exponential race in `torch.multinomial` needs V numbers from the generator per row and step.)
    Sums over blocks of tokens find the block, one block's own sums the token.

    Args:
        weights: [B, V] >= 0, probabilities up to a factor per row.
        uniforms: [B] float64 in [0, 1).

    Returns:
        [B] int64 tokens, never one of weight 0.
    """
    vocabulary = weights.shape[1]
    if beyond := -vocabulary % BLOCK:
        weights = functional.pad(weights, (0, beyond))
    blocks = weights.view(len(weights), -1, BLOCK)
    sums = blocks.sum(-1, dtype=torch.float64)
    totals = sums.cumsum(-1)
    block, rest = _first_above(totals, uniforms.unsqueeze(-1) * totals[:, -1:])
    inside = blocks[torch.arange(len(blocks), device=blocks.device), block].double().cumsum(-1)
    within, _ = _first_above(inside, rest.unsqueeze(-1))
    return block * BLOCK + within


def _first_above(cumulative: Tensor, targets: Tensor) -> tuple[Tensor, Tensor]:
    """Returns where [B, n] cumulative sums first exceed [B, 1] targets, and what is left there.

    Targets that rounding put outside [0, total) are put back: the weight found is never 0.
    """
    below_total = torch.nextafter(cumulative[:, -1:], cumulative.new_zeros(()))
    targets = targets.clamp(min=0).minimum(below_total)
    found = torch.searchsorted(cumulative, targets, right=True)
    before = cumulative.gather(1, (found - 1).clamp(min=0)).masked_fill_(found == 0, 0)
    return found[:, 0], (targets - before)[:, 0]


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
    if sampling == Sampling() and knows(logits):
        tokens, chosen = compiled.draw(logits, uniforms)
        return tokens, chosen, chosen
    logits = logits.float()
    if sampling == Sampling():
        highest = logits.amax(-1, keepdim=True)
        weights = (logits - highest).exp_()
        tokens = inverse_cdf(weights, uniforms)
        total = highest[:, 0] + weights.sum(-1).log()
        chosen = logits.gather(-1, tokens.unsqueeze(-1))[:, 0] - total
        return tokens, chosen, chosen
    policy = logits.log_softmax(-1)
    drawn_from = sampling_distribution(policy, sampling)
    tokens = inverse_cdf(drawn_from.exp(), uniforms)
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
        policy: what to sample from, in its own precision.
        prompt_ids: [N, P] int64, left-padded.
        prompt_mask: [N, P] bool.
        uniforms: [N * K, T] float64 in [0, 1), one per token; T is the length limit.
        sampling: temperature and truncation.

    Returns:
        B = N * K prompt-major responses, on the CPU.

    Raises:
        ModelError: the model keeps no key-value cache.
    """
    if policy.sampler is not None:
        return policy.sampler.sample(policy, prompt_ids, prompt_mask, uniforms, sampling)
    batch, limit = uniforms.shape
    if batch == 0 or limit == 0:
        return Sampled.empty(batch, limit, policy.pad_token_id)
    device = policy.device
    uniforms = uniforms.to(device)
    decoding = policy.decoding(prompt_ids, prompt_mask, batch // len(prompt_ids), limit)
    record = Sampled.empty(batch, limit, policy.pad_token_id, device)
    rows = torch.arange(batch, device=device)
    going = torch.ones_like(rows, dtype=torch.bool)
    for t in range(limit):
        tokens, *logprobs = draw(decoding.logits, uniforms[rows, t], sampling)
        record.put(rows, t, tokens, *logprobs)
        going = going & (tokens != policy.eos_token_id)
        left = int(going.sum())
        if t + 1 == limit or left == 0:
            break
        if left <= KEPT_SHARE * len(rows):
            kept = going.nonzero().squeeze(-1)
            rows, tokens, going = rows[kept], tokens[kept], going[kept]
            decoding.keep(kept)
        decoding.step(tokens)
    return record.cut(policy.eos_token_id, policy.pad_token_id)


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
