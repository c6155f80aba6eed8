"""Options that pay a policy-gradient agent for diversity: in its loss, and in its rewards.

The entropy bonus is a term of the loss. The novelty of a response among its prompt's samples, and
what it adds to the batch, are bonuses on the task's reward. All are off by default, and then take
no time and change no number. `reward` in the logs stays the task's.

Sources: an entropy bonus, Mnih et al. 2016, arXiv 1602.01783; rewards for novelty, Hong et al.
2024, arXiv 2402.19464; for diversity among a prompt's samples, Li et al. 2025, arXiv 2509.02534
(which multiplies it with the quality where these are added).
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Literal, get_args

import numpy as np
import torch
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from textgym.agents.base import Setup, require
from textgym.agents.conventions import ConventionalConfig
from textgym.errors import ConfigError
from textgym.functional import adaptive_entropy_step, entropy
from textgym.metrics.diversity import embedding_kernel, ngram_kernel
from textgym.metrics.sets import FloatArray
from textgym.models.policy import Policy
from textgym.registry import unknown_name
from textgym.types import Rollout

Novelty = Literal["ngram", "embedding"]

Responses = Sequence[Sequence[int]]
"""The token ids of each response, without EOS."""

BATCH_ORDERS = (1, 2, 3)
"""The lengths of the n-grams that `batch_diversity` counts."""


@dataclass(frozen=True, kw_only=True)
class DiversityOptions(ConventionalConfig):
    """What policy-gradient agents can be paid for diversity; all off by default.

    Attributes:
        entropy_coef: the weight in the loss of the policy's entropy, the mean over tokens of the
            full next-token distribution's: advantage per nat per token; >= 0.
        entropy_target: nats per token that an adaptive weight, which starts at `entropy_coef`,
            steers toward; None keeps the weight.
        entropy_horizon: completions over which the adaptive weight changes by at most a fifth.
        novelty_coef: what a response gains in reward for a novelty of 1 (`novelty`); >= 0. Needs
            samples_per_prompt >= 2.
        novelty: how a response differs from its prompt's other samples: by its `ngram`s or by its
            `embedding`.
        batch_diversity_coef: what a response gains in reward if the batch has none of its n-grams
            elsewhere (`batch_diversity`); >= 0.
    """

    entropy_coef: float = 0.0
    entropy_target: float | None = None
    entropy_horizon: float = 200.0
    novelty_coef: float = 0.0
    novelty: Novelty = "ngram"
    batch_diversity_coef: float = 0.0

    def __post_init__(self) -> None:
        super().__post_init__()
        for name in ("entropy_coef", "novelty_coef", "batch_diversity_coef"):
            value = getattr(self, name)
            require(value >= 0, f"{name} must be >= 0, got {value}")
        require(
            self.entropy_target is None or (self.entropy_target > 0 and self.entropy_coef > 0),
            "entropy_target must be > 0 and needs an entropy_coef > 0 to start from, got "
            f"{self.entropy_target} and {self.entropy_coef}",
        )
        require(
            self.entropy_horizon > 0, f"entropy_horizon must be > 0, got {self.entropy_horizon}"
        )
        if self.novelty not in get_args(Novelty):
            raise ConfigError(str(unknown_name("novelty", str(self.novelty), get_args(Novelty))))
        samples = getattr(self, "samples_per_prompt", 1)
        require(
            self.novelty_coef == 0 or samples >= 2,
            f"novelty_coef needs samples_per_prompt >= 2 to compare, got {samples}",
        )


# In the loss


def with_entropy(
    loss: Tensor, coef: float, policy: Policy, samples: Rollout
) -> tuple[Tensor, dict[str, float]]:
    """Returns the loss minus the weighted entropy, and what to log: nothing where the weight is 0.

    Logs `entropy` (nats per token) and `entropy_coef`.

    Args:
        loss: a scalar to minimise.
        coef: the weight, advantage per nat per token.
        policy: in training.
        samples: B responses, whose prefixes are where the entropy is taken.
    """
    if coef == 0:
        return loss, {}
    value = mean_entropy(policy, samples)
    return loss - coef * value, {"entropy": value.item(), "entropy_coef": coef}


def mean_entropy(policy: Policy, samples: Rollout) -> Tensor:
    """Returns the policy's mean entropy `-sum_v pi(v|s_t) log pi(v|s_t)`, a scalar, nats per token.

    The mean is over all response tokens, whatever the aggregation of the policy's loss: a weight
    then means the same for every agent. The gradient is exact given the prefixes: no noise of the
    tokens drawn is in it, nor how a token changes the entropy of those that follow.
    """

    def total(rows: Tensor) -> Tensor:
        some = samples.select(rows)
        prompts, responses = some.prompt_ids, some.response_ids
        logits = policy.response_logits(prompts, some.prompt_mask, responses, some.response_mask)
        return entropy(logits).sum()

    pieces = policy.chunks(samples)
    # Of several pieces, each is computed again in the backward pass: memory for one.
    sums = (
        [total(pieces[0])]
        if len(pieces) == 1
        else [checkpoint(total, rows, use_reentrant=False) for rows in pieces]
    )
    return torch.stack(sums).sum() / samples.response_mask.sum().to(policy.device)


def next_entropy_coef(
    config: DiversityOptions, coef: float, log: dict[str, float], completions: int
) -> float:
    """Returns the entropy's weight for the next batch, from what this one's `with_entropy` logged.

    Args:
        config: the agent's.
        coef: the present weight.
        log: of the batch; without `entropy` (no step was made) the weight stays.
        completions: sampled for the batch.
    """
    if config.entropy_target is None or "entropy" not in log:
        return coef
    return adaptive_entropy_step(
        coef, log["entropy"], config.entropy_target, completions, config.entropy_horizon
    )


# In the rewards


def with_bonus(
    setup: Setup, config: DiversityOptions, samples: Rollout
) -> tuple[Rollout, dict[str, float]]:
    """Returns the rollout with the bonuses in its rewards, and what to log of them.

    It comes before whatever the agent does to rewards: EOS rule, KL, baseline, normalisation. (So
    a cut response gets no bonus under the EOS rule `override`.) Logs the batch's mean `novelty`
    and `batch_diversity`, each in its own units and where its coefficient is not 0.

    Args:
        setup: its reference gives the embeddings.
        config: the agent's.
        samples: B scored responses; they are not changed.
    """
    assert samples.rewards is not None, "collect() scores"
    rewards, log = samples.rewards, {}
    if config.novelty_coef:
        kernel = SIMILARITIES[config.novelty](setup, samples)
        values = torch.from_numpy(novelty(kernel, samples.samples_per_prompt)).to(rewards)
        rewards, log["novelty"] = rewards + config.novelty_coef * values, values.mean().item()
    if config.batch_diversity_coef:
        texts = responses(samples, setup.reference.eos_token_id)
        values = torch.from_numpy(batch_diversity(texts)).to(rewards)
        rewards = rewards + config.batch_diversity_coef * values
        log["batch_diversity"] = values.mean().item()
    return (replace(samples, rewards=rewards) if log else samples), log


def responses(samples: Rollout, eos_token_id: int) -> list[list[int]]:
    """Returns the tokens of each response without EOS, which all that end have in common."""
    kept = samples.response_mask & (samples.response_ids != eos_token_id)
    return [ids[mask].tolist() for ids, mask in zip(samples.response_ids, kept, strict=True)]


def novelty(similarity: FloatArray, k: int) -> FloatArray:
    """Returns each response's mean distance to the other K - 1 to its prompt, `1 - s`, [B].

    Args:
        similarity: [N, K, K], s of each pair of a prompt's responses.
        k: samples per prompt, >= 2.
    """
    others = 1 - np.eye(k)
    return np.asarray(((1 - similarity) * others).sum(axis=2) / (k - 1)).reshape(-1)


def _ngram_similarity(setup: Setup, samples: Rollout) -> FloatArray:
    """Returns [N, K, K], cosines of n-gram counts, mean over n = 1 and 2 (`ngram_kernel`)."""
    texts, k = responses(samples, setup.reference.eos_token_id), samples.samples_per_prompt
    return np.stack([ngram_kernel(texts[i : i + k]) for i in range(0, len(texts), k)])


def _embedding_similarity(setup: Setup, samples: Rollout) -> FloatArray:
    """Returns [N, K, K], the cosines of the frozen reference's mean hidden states."""
    embeddings, k = setup.reference.embed(samples).numpy(), samples.samples_per_prompt
    rows = range(0, len(embeddings), k)
    return np.stack([embedding_kernel(embeddings[i : i + k]) for i in rows])


SIMILARITIES: dict[str, Callable[[Setup, Rollout], FloatArray]] = {
    "ngram": _ngram_similarity,
    "embedding": _embedding_similarity,
}


def batch_diversity(texts: Responses) -> FloatArray:
    """Returns what each response alone brings to its batch, [B], in [0, 1].

    `(U(all) - U(all but i)) / U(i)`, U(S) the number of distinct n-grams of the responses S, for n
    = 1, 2 and 3 together: the share of a response's distinct n-grams that no other has. A copy
    brings 0, and so does a response without tokens.

    >>> batch_diversity([[1, 2], [1, 3], [4]]).round(2).tolist()
    [0.67, 0.67, 1.0]

    Args:
        texts: B responses.
    """
    grams = [
        {tuple(text[i : i + n]) for n in BATCH_ORDERS for i in range(len(text) - n + 1)}
        for text in texts
    ]
    holders = Counter(gram for some in grams for gram in some)
    return np.array([sum(holders[g] == 1 for g in some) / max(1, len(some)) for some in grams])
