"""Pursuing a proxy: best-of-n over n from a pool, policy gradients along training."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
import torch

from textgym.agents.base import Agent, Setup
from textgym.benchmarks.recording import Curve
from textgym.benchmarks.studies import proxies
from textgym.benchmarks.studies.proxies import Replies
from textgym.benchmarks.suite import Spec
from textgym.benchmarks.workbench import make_agent
from textgym.functional import full_kl
from textgym.functional.best_of_n import best_of_n_kl_bound, best_of_n_weights
from textgym.metrics.kl import prompt_sums
from textgym.metrics.sets import FloatArray
from textgym.models.policy import Policy
from textgym.rewards.learned import RewardModel
from textgym.rollout import rollout
from textgym.seeding import Streams
from textgym.tasks.toxicity import WorldToxicity
from textgym.types import Budget, Rollout

BEST_OF_N = "best of n"
NS = tuple(2**i for i in range(9))
BATCH = 64
"""Replies of a batch, two or four to a remark."""
METHODS: dict[str, dict[str, float]] = {
    "ppo": {"lr": 4e-4, "kl_coef": 0.0, "prompts_per_step": 32, "samples_per_prompt": 2},
    "reinforce": {"lr": 8e-4, "kl_coef": 0.0, "prompts_per_step": 32, "samples_per_prompt": 2},
    "rloo": {"lr": 7e-4, "kl_coef": 0.0, "prompts_per_step": 16, "samples_per_prompt": 4},
}
"""Trained methods and their settings: nothing holds them to the reference, so that they go far."""
STEPS = (2, 4, 6, 8, 10, 12)
"""Batches after which a policy in training is looked at; the last one ends it."""
SEEN = 8
"""Replies per remark at a look."""
STANDARDISED = ("proxy", "gold")
TRAITS = ("length", "keyword")
Scores = dict[str, FloatArray]
"""Numbers of replies by name: `proxy`, `gold`, `length` in characters, and `keyword`, 1 for a reply
that holds `proxies.WORD`, else 0."""


@dataclass(frozen=True, eq=False)
class Pursuit:
    """What was seen on the way, at C points, the reference first, on N remarks.

    Attributes:
        kl: [C, N], nats per reply to the reference; [C, 1] where it is the same for all remarks.
        proxy, gold: [C, N], from the reference's mean for the same remark, in standard deviations
            of the reference's replies.
        traits: [C, 1] by name, the mean length and the share of replies with the keyword.
    """

    kl: FloatArray
    proxy: FloatArray
    gold: FloatArray
    traits: Scores


@dataclass(frozen=True, eq=False)
class Yardstick:
    """The reference's pool of replies as a proxy and the judge score it.

    Attributes:
        scores: [N, M] by name.
    """

    scores: Scores

    def of(self, kl: FloatArray, seen: Scores) -> Pursuit:
        """Returns a pursuit from what was seen, mean scores [C, N] by name."""
        told = {name: _standard(seen[name], self.scores[name]) for name in STANDARDISED}
        traits = {name: seen[name].mean(axis=1, keepdims=True) for name in TRAITS}
        return Pursuit(kl, told["proxy"], told["gold"], traits)

    def start(self) -> Scores:
        """Returns the reference's mean scores, [N] by name."""
        return {name: values.mean(axis=1) for name, values in self.scores.items()}


def _standard(values: FloatArray, pool: FloatArray) -> FloatArray:
    return np.asarray((values - pool.mean(axis=1)) / pool.std())


def scored(proxy: RewardModel, task: WorldToxicity, replies: Replies | Rollout) -> Scores:
    """Returns the numbers of B replies, K to a remark, as [N, K] by name."""
    texts = replies.completions
    found: dict[str, list[float]] = {
        "proxy": proxy(replies.prompts, texts),
        "gold": task.gold(replies.prompts, texts, **replies.columns),
        "length": [len(text) for text in texts],
        "keyword": [proxies.WORD in text for text in texts],
    }
    shape = (-1, replies.samples_per_prompt)
    return {name: np.reshape(values, shape).astype(float) for name, values in found.items()}


def normalised(model: RewardModel, task: WorldToxicity, pool: Replies) -> Yardstick:
    """Scores a pool, and gives the proxy mean 0 and deviation 1 on it.

    Args:
        model: the proxy, as it was fitted; changed.
        task: has the judge.
        pool: N * M replies.
    """
    scores = scored(model, task, pool)
    model.mean, model.std = float(scores["proxy"].mean()), float(scores["proxy"].std())
    return Yardstick({**scores, "proxy": (scores["proxy"] - model.mean) / model.std})


def best_of_n(pool: Yardstick) -> Pursuit:
    """Returns what the best of n by the proxy is worth for every n of `NS`.

    The unbiased means over all subsets of n of a remark's M replies (`best_of_n_weights`), of
    proxy and gold alike. KL is the bound `log n - (n - 1) / n`, which is best-of-n's KL where no
    two replies tie.
    """
    ranked = pool.scores["proxy"]
    weights = np.array([[best_of_n_weights(row, n) for row in ranked] for n in NS])
    kl = np.array([[best_of_n_kl_bound(n)] for n in NS])
    return pool.of(kl, {name: (weights * x).sum(axis=2) for name, x in pool.scores.items()})


@dataclass
class Watch:
    """Looks at a policy in training on the pool's remarks.

    Attributes:
        agent: whose policy is looked at.
        reference: what its KL is measured against.
        proxy: what it is trained on.
        seed: of the remarks. Every look draws from the same stream.
        kl: [N], nats per reply, at each look.
        scores: [N] by name, at each look.
    """

    agent: Agent
    reference: Policy
    proxy: RewardModel
    seed: int
    kl: list[FloatArray] = field(default_factory=list)
    scores: list[Scores] = field(default_factory=list)

    def __call__(self, batches: int) -> dict[str, float]:
        """Looks where it is due; adds nothing to what the agent logs."""
        if batches in STEPS:
            self._look()
        return {}

    def _look(self) -> None:
        task, policy = proxies.task(self.seed), self.agent.policy
        assert policy is not None, "set before training"
        samples = rollout(
            policy,
            task,
            task.prompts("test"),
            samples_per_prompt=SEEN,
            generator=Streams(self.seed).torch("evaluation"),
        )
        seen = scored(self.proxy, task, samples)
        self.kl.append(kl_to(self.reference, policy, samples))
        self.scores.append({name: values.mean(axis=1) for name, values in seen.items()})


@torch.no_grad()
def kl_to(reference: Policy, policy: Policy, samples: Rollout) -> FloatArray:
    """Returns each remark's mean over replies of the tokens' exact KL, [N], nats per reply."""
    mask = samples.response_mask
    ours, theirs = (p.response_logprobs(samples)[mask] for p in (policy, reference))
    per_token = torch.zeros(mask.shape).masked_scatter(mask, full_kl(ours, theirs).clamp_min(0))
    return prompt_sums(per_token.numpy(), mask.numpy(), samples.samples_per_prompt)


def trained(
    method: str, proxy: RewardModel, pool: Yardstick, reference: Policy, seed: int
) -> Pursuit:
    """Trains a policy on a proxy and returns what was seen of it on the pool's remarks.

    Args:
        method: one of `METHODS`.
        proxy: normalised on the pool.
        pool: what the scores are told from.
        reference: where training starts.
        seed: of remarks and of everything drawn.
    """
    agent = make_agent(Spec(method, METHODS[method]))
    watch = Watch(agent, reference, proxy, seed)
    budget = Budget(BATCH * STEPS[-1])
    task = proxies.task(seed, proxy)
    agent.train(Setup(task, reference.copy(), reference, budget, Streams(seed), Curve(look=watch)))
    start = pool.start()
    kl = np.stack([np.zeros_like(start["gold"]), *watch.kl])
    return pool.of(
        kl, {name: np.stack([start[name], *(s[name] for s in watch.scores)]) for name in start}
    )
