"""The conformance checks of what an agent gives: its samples, its policy, what it has learnt."""

from __future__ import annotations

import tempfile

import torch
from torch import Tensor

from textgym.agents.base import Agent
from textgym.agents.conformance_checks import Failed, NotApplicable, demand, told, trained
from textgym.agents.conformance_trials import FROM_RANDOM, LEARNING, LEARNING_BUDGET, Subject, draw
from textgym.agents.identity import LETTERS, Identity, answers
from textgym.errors import PluginError
from textgym.models.policy import load_policy
from textgym.models.tokenize import decode_responses
from textgym.types import Rollout

LEARNT, LEARNT_SHARE = 0.15, 0.3
"""By how much the right letter's probability must rise, or else its share of the four letters'.

Of the latter only because what compares answers learns no more than that: the probability of the
better may fall, in favour of texts that are in no comparison (Razin et al. 2024, arXiv 2410.08847).
"""


def samples(subject: Subject) -> None:
    """Gives K samples a prompt, prompt by prompt, each with its columns, tokens and reward."""
    _, agent, drawn = trained(subject)
    rows = Identity().prompts("test")
    for k, given in ((5, drawn), (1, draw(agent, 1))):
        count = len(rows) * k
        demand(len(given) == count, f"{len(given)} samples; expected {len(rows)} prompts x {k}")
        demand(given.samples_per_prompt == k, f"samples_per_prompt is {given.samples_per_prompt}")
        for name in rows.column_names:
            expected = [value for value in rows[name] for _ in range(k)]
            found = given.prompts if name == "prompt" else given.columns.get(name)
            demand(found == expected, f"the column {name!r} is not that of the prompts in order")
        for name in ("response_ids", "response_mask", "policy_logprobs", "sampling_logprobs"):
            shape = getattr(given, name).shape
            demand(shape == given.response_mask.shape, f"{name} is {list(shape)}")
            demand(len(shape) == 2 and shape[0] == count, f"{name} is {list(shape)}")
        _tokens_are_right(subject, given)
        if given.rewards is not None:
            expected = Identity().reward(given.prompts, given.completions, **given.columns)
            demand(given.rewards.tolist() == expected, "the rewards are not those of the texts")


def _tokens_are_right(subject: Subject, given: Rollout) -> None:
    """Raises Failed unless masks, ends, texts and log-probabilities fit the tokens."""
    policy, mask = subject.ground.reference, given.response_mask
    lengths = mask.sum(1)
    expected = torch.arange(mask.shape[1]) < lengths[:, None]
    demand(torch.equal(mask, expected), "a response_mask has a gap")
    demand(lengths.min().item() >= 1, "a response has no token")
    ends = (given.response_ids == policy.eos_token_id) & mask
    demand(not ends[:, :-1][mask[:, 1:]].any().item(), "a response goes on after its EOS")
    demand(torch.equal(given.truncated, ~ends.any(1)), "truncated is not where there is no EOS")
    limit = Identity.max_response_tokens
    demand(lengths.max().item() <= limit, f"a response is longer than {limit} tokens")
    texts = decode_responses(policy.tokenizer, given.response_ids, mask)
    demand(texts == given.completions, "the completions are not the texts of the tokens")
    for name in ("policy_logprobs", "sampling_logprobs"):
        values = getattr(given, name)
        demand(bool(values[mask].isfinite().all()), f"{name} are not all finite")
        demand(bool((values[mask] <= 1e-6).all()), f"{name} are not all at most 0")


def likelihood(subject: Subject) -> None:
    """Its policy gives its samples the log-probabilities that they carry."""
    _, agent, drawn = trained(subject)
    if agent.policy is None:
        raise NotApplicable("no policy scores its samples")
    with torch.no_grad():
        off = agent.policy.logprobs(drawn) - drawn.policy_logprobs
    worst = off[drawn.response_mask].abs().max().item()
    demand(worst <= 1e-4, f"agent.policy's log-probabilities are off by up to {worst:.2g} nats")


def saving(subject: Subject) -> None:
    """Its policy, saved and loaded, gives the same samples."""
    _, agent, drawn = trained(subject)
    if agent.policy is None:
        raise NotApplicable("it has no policy to save")
    own = agent.policy
    with tempfile.TemporaryDirectory() as folder:
        own.save(folder)
        agent.policy = load_policy(folder)
    try:
        again = draw(agent)
    finally:
        agent.policy = own
    demand(drawn.completions == again.completions, "the samples differ")
    off = (drawn.policy_logprobs - again.policy_logprobs).abs().max().item()
    demand(off <= 1e-5, f"the log-probabilities are off by up to {off:.2g} nats")


def learning(subject: Subject) -> None:
    """Makes the right letter clearly more probable, in all or at least among the letters."""
    if not trained(subject)[0].trains:
        raise NotApplicable("it spends no budget and changes no weights")
    from_random = subject.agent_class.starts_from == "pretrained"
    faster = LEARNING | FROM_RANDOM if from_random else LEARNING
    trial = subject.train(0, LEARNING_BUDGET, faster)
    if trial.error is not None or trial.agent is None:
        raise Failed(told(trial.error or PluginError("no agent"))) from trial.error
    before = answers(subject.ground.pretrained if from_random else subject.ground.reference)
    after = _answered(trial.agent)
    (start, start_share), (end, share) = _right(before), _right(after)
    demand(
        end - start >= LEARNT or share - start_share >= LEARNT_SHARE,
        f"the right letter went from {start:.2f} to {end:.2f} (of the letters, from "
        f"{start_share:.2f} to {share:.2f}) in {trial.setup.budget.used} completions",
    )


def _answered(agent: Agent) -> Tensor:
    """Returns [4, 4], the probability of each letter in answer to each prompt."""
    if agent.policy is not None:
        return answers(agent.policy)
    drawn = draw(agent, k := 200)
    texts = [drawn.completions[i : i + k] for i in range(0, len(drawn), k)]
    return torch.tensor([[own.count(f" {x}") / k for x in LETTERS] for own in texts])


def _right(probabilities: Tensor) -> tuple[float, float]:
    """Returns the mean probability of the right letter, and its mean share of all four's."""
    right, letters = probabilities.diagonal(), probabilities.sum(1).clamp(min=1e-9)
    return right.mean().item(), (right / letters).mean().item()
