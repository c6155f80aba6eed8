"""The plug-in interface: an agent trains, then samples. The harness measures it from outside."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator
from dataclasses import dataclass, fields
from typing import TYPE_CHECKING, Any, ClassVar, Literal, get_args, get_origin, get_type_hints

import numpy as np
import torch
from torch import Tensor

from textgym.errors import ConfigError, PluginError, TrainingError
from textgym.models.enumeration import sequence_logprobs
from textgym.registry import unknown_name
from textgym.rollout import rollout, score
from textgym.seeding import Streams
from textgym.types import Budget, Log, Rollout, Sampling

if TYPE_CHECKING:
    from datasets import Dataset

    from textgym.models.policy import Policy
    from textgym.tasks.base import Task
    from textgym.tasks.oracle.base import OracleTask, Table

EXACT_DEVIATION, ROUNDED_DEVIATION = 1e-4, 0.5
"""How far the importance ratio of fresh samples may be off 1, in float32 and in shorter formats.

The first leaves room for sums in another order over some hundred tokens. In bfloat16 every product
is rounded to 8 bits, after sums that the sampler and the scorer take in different orders: random
Llamas of width 256 and 384 were off by up to 0.2 on twelve thousand tokens
(`textgym.benchmarks.speed.precision.gaps`).
"""


@dataclass(frozen=True)
class NoConfig:
    """The configuration of an agent that has nothing to configure."""


@dataclass
class Setup:
    """Everything an agent is given to train with.

    Attributes:
        task: prompts to ask and the proxy reward to maximise.
        policy: the policy to train, a copy of the reference that the agent may change.
        reference: the frozen policy that KL is measured against.
        budget: completions that may be sampled and scored.
        streams: named random generators; the only source of randomness.
        log: receives (step, metrics); may be called every step.
    """

    task: Task
    policy: Policy
    reference: Policy
    budget: Budget
    streams: Streams
    log: Log


class Agent(ABC):
    """An algorithm. Subclasses override `train` and, unless they end with a policy, `sample`.

    Attributes:
        config_class: the frozen dataclass of its settings.
        starts_from: which policy `setup.policy` is a copy of: "reference" or "pretrained".
        task: set by `train`.
        policy: set by `train` to what `sample` draws from; None for agents whose samples no
            policy scores (best-of-n, human text), for which the harness cannot measure KL and
            reports `kl_estimates` instead.
        sampling: how `sample` draws tokens.
    """

    config_class: ClassVar[type[Any]] = NoConfig
    starts_from: ClassVar[str] = "reference"

    def __init__(self, config: Any = None) -> None:
        self.config = self.config_class() if config is None else config
        self.task: Task | None = None
        self.policy: Policy | None = None
        self.sampling = Sampling()

    @abstractmethod
    def train(self, setup: Setup) -> None:
        """Spends the budget (or part of it) and sets `self.task` and `self.policy`.

        An agent that sets them before it trains can be looked at while it does.
        """

    def sample(self, rows: Dataset, samples_per_prompt: int, generator: torch.Generator) -> Rollout:
        """Returns K samples for each row's prompt, rows prompt-major; rewards may be None."""
        if self.policy is None or self.task is None:
            raise PluginError(f"{type(self).__name__}.sample called before train")
        return rollout(
            self.policy,
            self.task,
            rows,
            samples_per_prompt=samples_per_prompt,
            generator=generator,
            sampling=self.sampling,
        )

    def kl_estimates(self) -> dict[str, float]:
        """Returns KL figures that only the agent can give, such as best-of-n's bound, nats."""
        return {}

    def distribution(self, task: OracleTask, prompts: list[str]) -> Table | None:
        """Returns the exact probability of every response that `sample` can give.

        Override it where `sample` draws from something else than `self.policy`.

        Args:
            task: a task whose responses can be enumerated.
            prompts: n of the task's.

        Returns:
            [n, L], or None for an agent that cannot tell.
        """
        return (
            None if self.policy is None else enumerated(self.policy, task, prompts, self.sampling)
        )


@torch.no_grad()
def enumerated(
    policy: Policy, task: OracleTask, prompts: list[str], sampling: Sampling | None = None
) -> Table:
    """Returns [n, L], the exact probability of every response of an enumerable task."""
    probabilities = sequence_logprobs(policy, task.tree, prompts, sampling).double().exp().numpy()
    # In single precision a row's sum is off 1 by a millionth.
    normalised: Table = probabilities / probabilities.sum(axis=1, keepdims=True)
    return normalised


def prompt_batches(rows: Dataset, size: int, rng: np.random.Generator) -> Iterator[Dataset]:
    """Yields batches of `size` rows for ever, in a new random order every epoch.

    A batch may cross the border of two epochs, so that every batch has the same size.
    """
    queue: list[int] = []
    while True:
        while len(queue) < size:
            queue += rng.permutation(len(rows)).tolist()
        batch, queue = queue[:size], queue[size:]
        yield rows.select(batch)


def draw_scored(
    setup: Setup, policy: Policy, rows: Dataset, samples_per_prompt: int, generator: torch.Generator
) -> Rollout:
    """Samples from a policy, scores, and books the budget."""
    setup.budget.spend(len(rows) * samples_per_prompt)
    samples = rollout(
        policy, setup.task, rows, samples_per_prompt=samples_per_prompt, generator=generator
    )
    return score(samples, setup.task)


def collect(
    setup: Setup, rows: Dataset, samples_per_prompt: int, generator: torch.Generator
) -> tuple[Rollout, torch.Tensor]:
    """Samples from the policy in training, scores, and books the budget.

    Returns:
        The scored rollout and the reference's log-probabilities [B, T] of its tokens, nats.
    """
    samples = draw_scored(setup, setup.policy, rows, samples_per_prompt, generator)
    with torch.no_grad():
        reference_logprobs = setup.reference.logprobs(samples)
    return samples, reference_logprobs


def rollout_metrics(samples: Rollout, reference_logprobs: torch.Tensor) -> dict[str, float]:
    """Returns what every on-policy agent logs of a batch.

    `reward`, `reward_std` (of the proxy), `kl_seq` (k1, nats per response), `length` (tokens),
    `truncated` (share cut by the length limit), `nll` (nats per response: with fresh samples an
    estimate of the policy's entropy).
    """
    assert samples.rewards is not None, "collect() scores"
    mask = samples.response_mask
    log_ratio = (samples.policy_logprobs - reference_logprobs).masked_fill(~mask, 0)
    return {
        "reward": samples.rewards.mean().item(),
        "reward_std": samples.rewards.std(correction=0).item(),
        "kl_seq": log_ratio.sum(1).mean().item(),
        "length": mask.sum(1).float().mean().item(),
        "truncated": samples.truncated.float().mean().item(),
        "nll": -samples.policy_logprobs.masked_fill(~mask, 0).sum(1).mean().item(),
    }


def deviation_bound(precision: torch.dtype) -> float:
    """Returns how far off 1 the importance ratio of fresh samples may be in a precision."""
    exact = precision in (torch.float32, torch.float64)
    return EXACT_DEVIATION if exact else ROUNDED_DEVIATION


def require_on_policy(deviation: float, step: int, precision: torch.dtype) -> None:
    """Raises TrainingError where fresh samples' importance ratios are too far off 1.

    Args:
        deviation: the largest `|rho - 1|` of the first minibatch.
        step: of the training.
        precision: what the policy computes in; decides how far is too far.
    """
    bound = deviation_bound(precision)
    if deviation > bound:
        raise TrainingError(
            step,
            f"importance ratio is off 1 by {deviation:.2g} at the first minibatch, more than "
            f"{bound:g}: the sampler and the scorer disagree",
        )


def importance_weights(logprobs: Tensor, samples: Rollout, cap: float) -> Tensor:
    """Returns each token's weight `min(pi(a_t|s_t) / mu(a_t|s_t), cap)`, [B, T], 1 on pads.

    mu is what the sampler drew from, pi the policy as it is scored and trained. In a short number
    format the two differ by rounding. Under the bare ratio a token counts, given its prefix, as if
    pi had drawn it; the cap bounds what one token can do, at the price of a little bias.

    Args:
        logprobs: [B, T] under pi, nats; no gradient flows into the weights.
        samples: B responses, with the log-probabilities they were drawn at.
        cap: C, >= 1.

    Source: Ionides 2008, doi 10.1198/106186008X320456; for samplers and trainers that differ, Yao
    et al. 2025, "Your efficient RL framework secretly brings you off-policy RL training".
    """
    log_ratio = (logprobs.detach() - samples.sampling_logprobs).masked_fill(
        ~samples.response_mask, 0
    )
    return log_ratio.exp().clamp(max=cap)


def require(condition: bool, message: str) -> None:
    """Raises ConfigError with `message` unless `condition` holds."""
    if not condition:
        raise ConfigError(message)


def make_config(config_class: type[Any], options: dict[str, Any]) -> Any:
    """Returns `config_class(**options)`; a misspelt option raises ConfigError with a suggestion.

    On the command line `none` becomes None. Where "none" is one of an option's own words, as of a
    baseline, that word is meant.
    """
    names = [f.name for f in fields(config_class)]
    for name in options:
        if name not in names:
            raise ConfigError(str(unknown_name("option", name, names)))
    if None in options.values():
        hints = get_type_hints(config_class)
        meant = (n for n, value in options.items() if value is None and "none" in _words(hints[n]))
        options = options | dict.fromkeys(meant, "none")
    return config_class(**options)


def _words(hint: Any) -> set[Any]:
    """Returns the literals that a type allows."""
    if get_origin(hint) is Literal:
        return set(get_args(hint))
    return set().union(*map(_words, get_args(hint)))
