"""Policies whose every response can be written down, and what estimators should find of them."""

import itertools
import math
from collections import Counter
from dataclasses import dataclass

import numpy as np
import torch

from textgym import functional
from textgym.agents.base import Setup
from textgym.models.enumeration import sequence_logprobs
from textgym.models.policy import Policy
from textgym.models.pretrain import PretrainConfig, make_llama
from textgym.models.tokenize import encode_prompts
from textgym.models.value_head import ValueModel
from textgym.rollout import rollout
from textgym.seeding import Streams
from textgym.types import Budget, Rollout


def random_policy(task, scale=0.4, seed=0):
    """A small random Llama over the task's symbols, far from uniform."""
    config = PretrainConfig(
        width=16, layers=1, heads=2, kv_heads=2, intermediate=32, context=16, seed=seed
    )
    return perturbed(Policy(make_llama(config, task.tokenizer()), task.tokenizer()), scale, seed)


@torch.no_grad()
def perturbed(policy, scale, seed):
    """A copy with normal noise on every weight; the same direction at any scale."""
    moved, generator = policy.copy(), torch.Generator().manual_seed(seed)
    for parameter in moved.parameters():
        parameter += scale * torch.randn(parameter.shape, generator=generator)
    return moved


def every_response(policy, task, prompt):
    """The L responses to one prompt as a rollout of L rows."""
    tree, rows = task.tree, len(task.tree)
    ids, mask = encode_prompts(policy.tokenizer, [prompt], policy.max_length)
    blank = torch.zeros(tree.ids.shape)
    return Rollout(
        prompts=[prompt] * rows,
        completions=task.texts,
        columns={},
        samples_per_prompt=rows,
        prompt_ids=ids.repeat(rows, 1),
        prompt_mask=mask.repeat(rows, 1),
        response_ids=tree.ids,
        response_mask=tree.mask,
        policy_logprobs=blank,
        sampling_logprobs=blank,
        truncated=~((tree.ids == policy.eos_token_id) & tree.mask).any(1),
        rewards=torch.tensor(task.reward([prompt] * rows, task.texts)),
    )


def samples_of(policy, task, count, seed=0):
    """`count` responses to each prompt; every row its own group."""
    rows = task.prompts("train").select(np.repeat(np.arange(len(task.asked)), count))
    generator = torch.Generator().manual_seed(seed)
    return rollout(policy, task, rows, samples_per_prompt=1, generator=generator)


@dataclass
class World:
    """A task, two policies of known distributions, and exact answers about them.

    Attributes:
        p, q: [N, L] float64, the probabilities of the policy and of the reference.
        rewards: [N, L].
        length: the mean of a response's, tokens with EOS.
    """

    task: object
    policy: Policy
    reference: Policy

    def __post_init__(self):
        with torch.no_grad():
            self.p, self.q = (
                sequence_logprobs(x, self.task.tree, self.task.asked).double().exp().numpy()
                for x in (self.policy, self.reference)
            )
        self.rewards = self.task.tables.rewards
        self.length = (self.p @ self.task.tree.mask.sum(1).numpy()).mean()

    def flat(self, scalar):
        """The gradient of a scalar in the policy's weights, [D]."""
        gradients = torch.autograd.grad(scalar, self.policy.parameters(), materialize_grads=True)
        return torch.cat([g.flatten() for g in gradients])

    def gradient_of_objective(self, beta):
        """That of `J = E_pi [r - beta log(pi / pi_ref)]`, mean over prompts."""
        logp = sequence_logprobs(self.policy, self.task.tree, self.task.asked)
        log_ref = torch.from_numpy(self.q).log().float()
        value = torch.from_numpy(self.rewards).float() - beta * (logp - log_ref)
        return self.flat((logp.exp() * value).sum(-1).mean())

    def gradient_over_states(self, divergence):
        """That of a divergence of next-token distributions, with the visits to states held fixed.

        Args:
            divergence: maps log pi and log pi_ref [..., V] to [...].
        """
        total = 0
        for prompt, p in zip(self.task.asked, self.p, strict=True):
            rows = every_response(self.policy, self.task, prompt)
            here, there = (x.response_logprobs(rows) for x in (self.policy, self.reference))
            values = divergence(here, there.detach()).masked_fill(~rows.response_mask, 0).sum(1)
            total = total + torch.from_numpy(p).float() @ values
        return self.flat(total / len(self.p))


class WrongEstimateError(AssertionError):
    """A check found an estimator to be wrong."""


def demand(condition, message):
    """Raises WrongEstimateError unless the condition holds."""
    if not condition:
        raise WrongEstimateError(message)


def agent_gradients(monkeypatch, module, agent, world, batch, batches=12, seed=0):
    """What an agent would step along in each of `batches` batches, all at the same weights [n, D].

    Only the optimiser's step is taken from the agent: sampling, scoring and losses are its own.
    """
    policy, found = world.policy.copy(), []

    def instead(optimizer, loss, step, max_grad_norm=1.0):
        if optimizer.param_groups[0]["params"][0] in set(policy.parameters()):
            gradients = torch.autograd.grad(loss, policy.parameters(), materialize_grads=True)
            found.append(-torch.cat([g.flatten() for g in gradients]))
        return 0.0

    setup = Setup(
        task=world.task,
        policy=policy,
        reference=world.reference,
        budget=Budget(batch * batches),
        streams=Streams(seed),
        log=lambda step, metrics: None,
    )
    with monkeypatch.context() as patch:
        patch.setattr(module, "optimiser_step", instead)
        agent.train(setup)
    return torch.stack(found)


def check_gradient(gradients, exact, scale=1.0, cosine=0.998):
    """Demands that the mean gradient be `scale` times the exact one: direction and length.

    The length is that along the exact gradient, so that noise does not lengthen it.
    """
    exact = exact.double()
    mean = gradients.double().mean(0)
    found = (mean @ exact / (mean.norm() * exact.norm())).item()
    demand(found > cosine, f"cosine to the exact gradient is {found:.4f}")
    lengths = gradients.double() @ exact / exact.square().sum() / scale
    error = lengths.std().item() / len(lengths) ** 0.5
    off = lengths.mean().item() - 1
    demand(abs(off) < 4 * error, f"length is {1 + off:.3f} +- {error:.3f} of the exact gradient")
    # A standard error too wide to tell anything would let everything through.
    assert error < 0.05, error


def check_mean(per_response, truth):
    """Demands a mean within 4 standard errors of the truth, and errors below a tenth of it."""
    x = np.asarray(per_response, float)
    error = x.std(ddof=1) / len(x) ** 0.5
    demand(abs(x.mean() - truth) < 4 * error, f"{x.mean():.4f} +- {error:.4f}, truth {truth:.4f}")
    assert error < abs(truth) / 10


def check_estimate(estimate, truth):
    """Demands an estimate within 4 of its own standard errors, those below a tenth of the truth."""
    demand(
        abs(estimate.value - truth) < 4 * estimate.standard_error, f"{estimate}, truth {truth:.4f}"
    )
    assert estimate.standard_error < truth / 10


def all_draws(p, n):
    """Every way to draw n outcomes of L: indices [L^n, n] and probabilities [L^n]."""
    draws = np.array(list(itertools.product(range(len(p)), repeat=n)))
    return draws, p[draws].prod(axis=1)


def brute_force_gae(rewards, values, gamma, lam):
    """The average of the n-step advantages of one response, weighted by (1 - lam) lam^(n - 1).

    The longest, which sees the end and so needs no value there, has what weight is left.
    """
    length, advantages = len(rewards), []
    for t in range(length):
        total = 0.0
        for n in range(1, length - t + 1):
            seen = sum(gamma**i * rewards[t + i] for i in range(n))
            last = t + n == length
            step = seen + (0.0 if last else gamma**n * values[t + n]) - values[t]
            total += lam ** (n - 1) * (1.0 if last else 1 - lam) * step
        advantages.append(total)
    return advantages


def true_values(world, n, rows):
    """[L, T], what reward is to be expected before each token, by averaging over all that follows.

    Responses that begin alike share it.
    """
    values = torch.zeros(rows.response_mask.shape)
    for t in range(values.shape[1]):
        begins = [tuple(ids[:t]) for ids in rows.response_ids.tolist()]
        open_ = rows.response_mask[:, t].tolist()
        mass, reward = Counter(), Counter()
        for i, begin in enumerate(begins):
            if open_[i]:
                mass[begin] += world.p[n, i]
                reward[begin] += world.p[n, i] * world.rewards[n, i]
        for i, begin in enumerate(begins):
            if open_[i]:
                values[i, t] = reward[begin] / mass[begin]
    return values


def pair_distinct(a, b):
    bigrams = [x[i : i + 2] for x in (a, b) for i in range(len(x) - 1)]
    return len(set(bigrams)) / len(bigrams) if bigrams else 0.0


def pair_ead(a, b):
    """V = 4 and single tokens: U over the distinct ones to expect of C fair draws."""
    count = len(a + b)
    return len(set(a + b)) / (4 * (1 - 0.75**count)) if count else 0.0


def pair_self_bleu(a, b):
    """1 - BLEU-1: common tokens over the length, times exp(1 - r / c) for the shorter."""
    if not a or not b:
        return 1 - float(a == b)
    common = sum(min(a.count(s), b.count(s)) for s in set(a))
    one, other = (
        common / len(x) * min(1, math.exp(1 - len(y) / len(x))) for x, y in ((a, b), (b, a))
    )
    return 1 - (one + other) / 2


def symbol_counts(text):
    return np.array([text.count(symbol) for symbol in "abc"])


def pair_cosine(a, b):
    """Of the counts of symbols; an empty text is like another and unlike the rest."""
    if not a or not b:
        return float(a == b)
    one, other = symbol_counts(a), symbol_counts(b)
    return one @ other / math.sqrt((one @ one) * (other @ other))


def pair_vendi(a, b):
    """The eigenvalues of two texts of cosine c are (1 + c) / 2 and (1 - c) / 2."""
    cosine = pair_cosine(a, b)
    shares = [x for x in ((1 + cosine) / 2, (1 - cosine) / 2) if x > 1e-12]
    return math.prod(x**-x for x in shares)


def expected_per_token(world, function):
    """The exact mean over prompts and responses of a per-token function of the log-ratio."""
    means = []
    for prompt, p in zip(world.task.asked, world.p, strict=True):
        rows = every_response(world.policy, world.task, prompt)
        with torch.no_grad():
            logp, logp_ref = world.policy.logprobs(rows), world.reference.logprobs(rows)
        values = function(logp.double(), logp_ref.double()).masked_fill(~rows.response_mask, 0)
        means.append(p @ values.sum(1).numpy())
    return np.mean(means)


def expected_gradient(world, per_token):
    """`E[sum_t A_t grad log pi]` by enumeration, mean over prompts.

    Args:
        per_token: maps a prompt's index and its L responses to advantages, [L] or [L, T].
    """
    total = 0
    for n, prompt in enumerate(world.task.asked):
        rows = every_response(world.policy, world.task, prompt)
        advantages = per_token(n, rows)
        weight = torch.from_numpy(world.p[n]).float() * len(rows)
        weight = weight if advantages.ndim == 1 else weight[:, None]
        logp = world.policy.logprobs(rows)
        total = total - functional.policy_gradient_loss(
            logp, weight * advantages, rows.response_mask, "sum"
        )
    return world.flat(total / len(world.p))


def advantage_deviation(world, beta):
    """The standard deviation over all response tokens of the return minus PPO's first value."""
    value_model = ValueModel(world.policy, Streams(0).torch("initialisation"))
    weights, found = [], []
    for prompt, p, r in zip(world.task.asked, world.p, world.rewards, strict=True):
        rows = every_response(world.policy, world.task, prompt)
        with torch.no_grad():
            log_ratio = world.policy.logprobs(rows) - world.reference.logprobs(rows)
            values = value_model(rows)
        to_come = log_ratio.flip(1).cumsum(1).flip(1)
        advantages = torch.from_numpy(r)[:, None] - beta * to_come - values
        weights.append((torch.from_numpy(p)[:, None] * rows.response_mask).flatten())
        found.append(advantages.flatten())
    weight, advantage = torch.cat(weights), torch.cat(found)
    weight = weight / weight.sum()
    mean = weight @ advantage
    return (weight @ (advantage - mean).square()).sqrt().item()


def relative_error(found, truth):
    return ((found - truth).norm() / truth.norm()).item()
