"""A policy that keeps to the tokens another policy, most often an older self, finds likely."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, cast

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from textgym.errors import ConfigError
from textgym.models.policy import MASK, Policy, load_policy
from textgym.models.sampling import sampling_distribution
from textgym.types import Sampling

if TYPE_CHECKING:
    from textgym.models.compiled.decoding import CompiledDecoding
    from textgym.models.decoding import Decoding
    from textgym.models.hugging_face import CachedDecoding

    Steps = Decoding | CompiledDecoding | CachedDecoding

MASKING = "masking"
"""The folder of the masking policy inside that of a saved masked policy."""


def kept_tokens(logits: Tensor, top_p: float, eos_token_id: int) -> Tensor:
    """Returns which tokens a mask keeps, [R, V] bool.

    They are the smallest set whose probability reaches `top_p`, and always EOS besides: a policy
    that could not end a response would fill it up to the limit and never learn to stop.

    Args:
        logits: [R, V] of the masking policy.
        top_p: the share p, in (0, 1].
        eos_token_id: the token that is always kept.
    """
    logprobs = sampling_distribution(logits.float().log_softmax(-1), Sampling(top_p=top_p))
    kept = logprobs > -torch.inf
    kept[:, eos_token_id] = True
    return kept


def extended(prefixes: Tensor, tokens: Tensor) -> Tensor:
    """Returns the numbers of prefixes that are longer by one token; both are int64 of one shape.

    A prefix's number is a 64-bit hash of its token ids, 0 for none: what its mask is kept under.
    """
    mixed = (prefixes ^ (tokens + 0x9E3779B97F4A7C1)) * 0x2545F4914F6CDD1D
    return mixed ^ (mixed >> 29)


def numbered(ids: Tensor, mask: Tensor) -> Tensor:
    """Returns the number [B] of each row's tokens, [B, C] int64 and bool, pads left out."""
    prefixes = torch.zeros(len(ids), dtype=torch.int64, device=ids.device)
    for tokens, real in zip(ids.T, mask.bool().T, strict=True):
        prefixes = torch.where(real, extended(prefixes, tokens), prefixes)
    return prefixes


class MaskMemory:
    """Which tokens were kept after each prefix that was sampled, V / 8 bytes per prefix.

    A token on the edge of a mask falls to either side with the order in which a sum is taken, and
    a sampler sums in another order than a scorer. In single precision that befalls a token in ten
    thousand or so, in bfloat16 many: enough to make the importance ratio of some sampled token 0.
    So the mask a token was drawn under is the mask it is scored under.
    """

    def __init__(self) -> None:
        self.clear()

    def clear(self) -> None:
        """Forgets everything."""
        self._prefixes: list[NDArray[np.int64]] = []
        self._kept: list[NDArray[np.uint8]] = []
        self._counts: list[Tensor] = []
        self._masses: list[Tensor] = []
        self._index: tuple[NDArray[np.int64], NDArray[np.int64]] | None = None

    def add(self, prefixes: Tensor, kept: Tensor, logits: Tensor) -> None:
        """Remembers the masks [R, V] after prefixes [R]; `logits` [R, V] are not masked."""
        self._index = None
        self._prefixes.append(prefixes.cpu().numpy())
        self._kept.append(np.packbits(kept.cpu().numpy(), axis=1))
        self._counts.append(kept.sum(1).float())
        self._masses.append((logits.float().softmax(-1) * kept).sum(1))

    def find(self, prefixes: Tensor, vocabulary: int) -> tuple[Tensor, Tensor]:
        """Returns which prefixes [R] are remembered, [R] bool, and their masks [R, V]."""
        wanted = prefixes.cpu().numpy()
        if not self._prefixes:
            blank = prefixes.new_zeros((len(wanted), 1), dtype=torch.bool)
            return blank[:, 0], blank.expand(-1, vocabulary)
        if self._index is None:
            self._prefixes = [np.concatenate(self._prefixes)]
            self._kept = [np.concatenate(self._kept)]
            self._index = np.unique(self._prefixes[0], return_index=True)
        known, first = self._index
        place = np.searchsorted(known, wanted).clip(max=len(known) - 1)
        packed = self._kept[0][first[place]]
        kept = np.unpackbits(packed, axis=1, count=vocabulary).astype(bool)
        found = torch.from_numpy(known[place] == wanted), torch.from_numpy(kept)
        return found[0].to(prefixes.device), found[1].to(prefixes.device)

    def means(self) -> dict[str, float]:
        """Returns `kept_tokens` and `kept_mass` (the policy's own probability), means by token."""
        if not self._counts:
            return {}
        return {
            "kept_tokens": torch.cat(self._counts).mean().item(),
            "kept_mass": torch.cat(self._masses).mean().item(),
        }


class MaskedPolicy(Policy):
    """A policy whose every distribution is cut to the likely tokens of a masking policy.

    What it draws from, scores, enumerates and is measured by is one distribution: its model's
    softmax over the tokens that `kept_tokens` of the masking policy keeps, 0 elsewhere. Gradients
    flow to the model by way of the kept tokens alone. The masking policy reads every prefix too,
    so that sampling costs twice as much; a `sampler` of its own the policy has not.

    Attributes:
        top_p: p; 1 masks nothing and is the plain policy.
        masking: the frozen masking policy.
        memory: masks of what was sampled; None where none are remembered.
    """

    def __init__(
        self,
        policy: Policy,
        top_p: float,
        masking: Policy | None = None,
        memory: MaskMemory | None = None,
    ) -> None:
        """Shares the model of `policy`.

        Args:
            policy: its model is masked, and trained where anything is.
            top_p: p, in (0, 1].
            masking: the masking policy; None takes a frozen copy of `policy`.
            memory: where masks are remembered, which training needs, see `MaskMemory`.

        Raises:
            ConfigError: `top_p` outside its domain.
        """
        if not 0 < top_p <= 1:
            raise ConfigError(f"top_p must be in (0, 1], got {top_p}")
        super().__init__(policy.model, policy.tokenizer, policy.name, policy.asked_precision)
        self.top_p = top_p
        self.masking = (masking or super().copy()).freeze()
        self.memory = memory

    def refresh(self) -> None:
        """Makes the masking policy a copy of the policy as it is now, without its mask."""
        self.masking = super().copy().freeze()
        if self.memory is not None:
            self.memory.clear()

    def decoding(self, prompt_ids: Tensor, prompt_mask: Tensor, samples: int, limit: int) -> Steps:
        """Returns samples in the making, as `Policy.decoding`, with masked logits."""
        asked = prompt_ids, prompt_mask, samples, limit
        own = super().decoding(*asked)
        if self.top_p == 1:
            return own
        prefixes = numbered(prompt_ids, prompt_mask).to(self.device).repeat_interleave(samples)
        masked = MaskedDecoding(self, own, self.masking.decoding(*asked), prefixes)
        # It has what samplers use of a decoding.
        return cast("Steps", masked)

    def response_logits(
        self, prompt_ids: Tensor, prompt_mask: Tensor, response_ids: Tensor, response_mask: Tensor
    ) -> Tensor:
        """Returns [R, V] logits as `Policy.response_logits`, -inf on tokens that are cut."""
        batch = prompt_ids, prompt_mask, response_ids, response_mask
        logits = super().response_logits(*batch)
        if self.top_p == 1 or len(logits) == 0:
            return logits
        at = numbered(prompt_ids, prompt_mask)
        before = []
        for tokens in response_ids.to(at.device).T:
            before.append(at)
            at = extended(at, tokens)
        prefixes = torch.stack(before, dim=1)[response_mask.to(at.device)]
        return self._masked(logits, prefixes, lambda: self.masking.response_logits(*batch))

    def next_logits(self, input_ids: Tensor, attention_mask: Tensor) -> Tensor:
        """Returns [B, V] logits as `Policy.next_logits`, -inf on tokens that are cut."""
        logits = super().next_logits(input_ids, attention_mask)
        if self.top_p == 1:
            return logits
        prefixes = numbered(input_ids, attention_mask)
        return self._masked(
            logits, prefixes, lambda: self.masking.next_logits(input_ids, attention_mask)
        )

    def _masked(self, logits: Tensor, prefixes: Tensor, masking: Callable[[], Tensor]) -> Tensor:
        """Returns logits [R, V] with -inf on tokens cut after the prefixes [R].

        `masking` gives the masking policy's logits; it is asked where a mask is not remembered.
        """
        known, kept = (self.memory or MaskMemory()).find(prefixes, self.vocab_size)
        known, kept = known.to(logits.device), kept.to(logits.device)
        if not known.all():
            with torch.no_grad():
                fresh = kept_tokens(masking(), self.top_p, self.eos_token_id)
            kept = torch.where(known[:, None], kept, fresh)
        return logits.masked_fill(~kept, -torch.inf)

    def copy(self, name: str | None = None) -> MaskedPolicy:
        """Returns a policy with its own, trainable copy of the weights and the same mask."""
        return MaskedPolicy(super().copy(name), self.top_p, self.masking)

    def save(self, path: str | Path) -> None:
        """Writes what `Policy.save` does, and the mask, which `load_policy` puts on again."""
        super().save(path)
        self.masking.save(Path(path, MASKING))
        Path(path, MASK).write_text(json.dumps({"top_p": self.top_p}) + "\n", "utf-8")


class MaskedDecoding:
    """Samples of a masked policy in the making; see `textgym.models.decoding.Decoding`.

    Args:
        policy: gives p, and remembers the masks if it has a memory.
        own: the decoding of its model.
        masking: that of the masking policy.
        prefixes: [B], the number of each row's prompt.

    Attributes:
        logits: [B, V] of each row's next token, -inf on tokens that are cut.
    """

    def __init__(self, policy: MaskedPolicy, own: Steps, masking: Steps, prefixes: Tensor) -> None:
        self._policy, self._own, self._masking, self._prefixes = policy, own, masking, prefixes
        self._mask()

    def _mask(self) -> None:
        policy = self._policy
        kept = kept_tokens(self._masking.logits, policy.top_p, policy.eos_token_id)
        if policy.memory is not None:
            policy.memory.add(self._prefixes, kept, self._own.logits)
        self.logits = self._own.logits.masked_fill(~kept, -torch.inf)

    def step(self, tokens: Tensor) -> None:
        """Reads each row's next token, [B] int64, and sets `logits` for the one after it."""
        self._own.step(tokens)
        self._masking.step(tokens)
        self._prefixes = extended(self._prefixes, tokens)
        self._mask()

    def keep(self, rows: Tensor) -> None:
        """Goes on with the given rows only, [B'] int64, in ascending order."""
        self._own.keep(rows)
        self._masking.keep(rows)
        self._prefixes = self._prefixes[rows]


def load_mask(policy: Policy, folder: str | Path) -> MaskedPolicy:
    """Returns a policy under the mask that `MaskedPolicy.save` wrote into its folder."""
    top_p = json.loads(Path(folder, MASK).read_text("utf-8"))["top_p"]
    masking = load_policy(
        Path(folder, MASKING),
        dtype=policy.dtype,
        precision=policy.asked_precision,
        device=policy.device,
    )
    return MaskedPolicy(policy, top_p, masking)
