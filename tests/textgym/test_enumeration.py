"""Every response written down, and policies that are fitted to a known distribution of them."""

import itertools

import numpy as np
import pytest
import torch
from datasets import Dataset
from estimator_support import every_response, random_policy
from scipy.stats import chisquare

from textgym.errors import ConfigError
from textgym.models.enumeration import SequenceTree, sequence_logprobs
from textgym.models.policy import Policy
from textgym.models.tabular import fit_distribution, symbol_tokenizer
from textgym.rollout import rollout
from textgym.tasks.oracle.known_frontier import KnownFrontier
from textgym.types import Sampling

TASK = KnownFrontier(vocabulary=4, horizon=3, prompts=5)
PROMPTS = TASK.asked


@pytest.fixture(scope="module")
def policy():
    return random_policy(TASK, scale=0.4)


# --- the tree ----------------------------------------------------------------------------------


def test_all_responses_of_two_symbols_by_hand():
    tree = SequenceTree(vocab_size=3, eos_token_id=0, horizon=2)
    assert tree.ids.tolist() == [[0, 0], [1, 0], [2, 0], [1, 1], [1, 2], [2, 1], [2, 2]]
    assert tree.mask.sum(1).tolist() == [1, 2, 2, 2, 2, 2, 2]
    assert len(tree) == 7


def test_eos_may_be_any_token():
    tree = SequenceTree(vocab_size=3, eos_token_id=1, horizon=2)
    assert tree.ids.tolist() == [[1, 1], [0, 1], [2, 1], [0, 0], [0, 2], [2, 0], [2, 2]]


@pytest.mark.parametrize(("vocab_size", "horizon"), [(2, 1), (2, 5), (4, 3), (5, 4)])
def test_a_response_ends_at_its_only_eos_or_is_cut(vocab_size, horizon):
    tree = SequenceTree(vocab_size, 0, horizon)
    found = [tuple(ids[mask].tolist()) for ids, mask in zip(tree.ids, tree.mask, strict=True)]
    strings = {
        string
        for length in range(1, horizon + 1)
        for string in itertools.product(range(vocab_size), repeat=length)
        if 0 not in string[:-1] and (string[-1] == 0 or length == horizon)
    }
    assert set(found) == strings
    assert len(found) == len(strings)
    assert (tree.ids[~tree.mask] == 0).all()


def test_order_is_by_length_and_then_by_token():
    tree = SequenceTree(4, 0, 3)
    strings = [[i for i in ids if i != 0] for ids in tree.ids.tolist()]
    assert strings == sorted(strings, key=lambda string: (len(string), string))


@pytest.mark.parametrize("horizon", [1, 2, 4])
def test_the_prefix_read_begins_as_the_response_does(horizon):
    tree = SequenceTree(4, 0, horizon)
    assert tree.prefixes.shape == (3 ** (horizon - 1), horizon - 1)
    assert (tree.prefixes != 0).all()
    for ids, mask, row in zip(tree.ids, tree.mask, tree.prefix_of, strict=True):
        before = int(mask.sum()) - 1
        assert tree.prefixes[row, :before].tolist() == ids[:before].tolist()


def test_texts_stand_for_responses_one_to_one():
    assert TASK.texts[:6] == ["", "a", "b", "c", "aa", "ab"]
    assert len(set(TASK.texts)) == len(TASK.texts) == 1 + 3 + 9 + 27
    for text, ids, mask in zip(TASK.texts, TASK.tree.ids, TASK.tree.mask, strict=True):
        symbols = [i for i in ids[mask].tolist() if i != 0]
        assert TASK.tokenizer()(text)["input_ids"][1:] == symbols


@pytest.mark.parametrize("arguments", [(1, 0, 3), (3, 0, 0)])
def test_too_little_to_enumerate_is_an_error(arguments):
    with pytest.raises(ConfigError, match=f"got {arguments[0]} and {arguments[2]}$"):
        SequenceTree(*arguments)


def test_the_most_responses_are_two_to_the_sixteen():
    # 1 + 2 + ... + 2^15 = 2^16 - 1
    assert len(SequenceTree(3, 0, 15)) == 2**16 - 1
    with pytest.raises(ConfigError, match="make 131071 responses, more than the 65536"):
        SequenceTree(3, 0, 16)


# --- probabilities -----------------------------------------------------------------------------


WARPED = [Sampling(), Sampling(temperature=0.5), Sampling(top_k=2), Sampling(0.7, 3, 0.8)]


@pytest.mark.parametrize("sampling", WARPED, ids=str)
@torch.no_grad()
def test_probabilities_sum_to_one(sampling, policy):
    logprobs = sequence_logprobs(policy, TASK.tree, PROMPTS, sampling)
    assert logprobs.shape == (5, 40)
    torch.testing.assert_close(logprobs.exp().sum(1), torch.ones(5), atol=1e-5, rtol=0)


@torch.no_grad()
def test_they_are_those_that_the_policy_scores(policy):
    found = sequence_logprobs(policy, TASK.tree, PROMPTS)
    for prompt, row in zip(PROMPTS, found, strict=True):
        scored = policy.logprobs(every_response(policy, TASK, prompt)).sum(1)
        torch.testing.assert_close(row, scored, atol=1e-5, rtol=0)


@torch.no_grad()
def test_prompts_of_unlike_length_do_not_disturb_each_other(policy):
    prompts = ["", "a", "bc", "abcab"]
    together = sequence_logprobs(policy, TASK.tree, prompts)
    alone = torch.cat([sequence_logprobs(policy, TASK.tree, [prompt]) for prompt in prompts])
    torch.testing.assert_close(together, alone, atol=1e-5, rtol=0)
    assert (together[0] - together[1]).abs().max() > 0.01


@torch.no_grad()
def test_reading_few_prefixes_at_once_changes_nothing(policy, monkeypatch):
    whole = sequence_logprobs(policy, TASK.tree, PROMPTS)
    calls = []
    response_logits = policy.response_logits

    def counted(*args, **kwargs):
        calls.append(len(args[0]))
        return response_logits(*args, **kwargs)

    monkeypatch.setattr("textgym.models.enumeration._ROWS", 20)
    monkeypatch.setattr(policy, "response_logits", counted)
    parts = sequence_logprobs(policy, TASK.tree, PROMPTS)
    # 3^2 prefixes to a prompt, so two prompts fit
    assert calls == [18, 18, 9]
    torch.testing.assert_close(parts, whole, atol=1e-5, rtol=0)


@pytest.mark.parametrize("sampling", WARPED, ids=str)
def test_samples_come_as_often_as_enumerated(sampling, policy):
    count, prompt = 20_000, PROMPTS[1]
    samples = rollout(
        policy,
        TASK,
        Dataset.from_dict({"prompt": [prompt]}),
        samples_per_prompt=count,
        generator=torch.Generator().manual_seed(1),
        sampling=sampling,
    )
    column = {text: i for i, text in enumerate(TASK.texts)}
    seen = np.bincount([column[text] for text in samples.completions], minlength=len(TASK.texts))
    with torch.no_grad():
        expected = sequence_logprobs(policy, TASK.tree, [prompt], sampling)[0].double().exp()
    expected = expected.numpy() * count
    assert not seen[expected == 0].any()
    common = expected > 5
    assert common.sum() >= 3
    observed = [*seen[common], seen[~common].sum()]
    wanted = [*expected[common], count - expected[common].sum()]
    if wanted[-1] < 5:
        observed, wanted = observed[:-1], np.array(wanted[:-1])
        wanted = wanted / wanted.sum() * sum(observed)
    assert chisquare(observed, wanted).pvalue > 1e-3


def test_gradients_flow(policy):
    """The probabilities' sum is 1 whatever the weights; one of them rises along its gradient."""
    model = policy.copy()
    probabilities = sequence_logprobs(model, TASK.tree, PROMPTS[:1]).exp()[0]
    assert probabilities.requires_grad
    of_sum = torch.autograd.grad(probabilities.sum(), model.parameters(), retain_graph=True)
    of_each = [
        torch.autograd.grad(one, model.parameters(), retain_graph=True) for one in probabilities
    ]
    of_one = of_each[7]
    size = torch.cat([g.flatten() for g in of_one]).norm()
    # What rounding leaves of the sum is of the size of its terms, not of any one of them.
    largest = max(torch.cat([g.flatten() for g in each]).norm() for each in of_each)
    assert torch.cat([g.flatten() for g in of_sum]).norm() < 1e-5 * largest
    step = 1e-2 * probabilities[7].item() / size**2
    with torch.no_grad():
        for parameter, gradient in zip(model.parameters(), of_one, strict=True):
            parameter += step * gradient
        after = sequence_logprobs(model, TASK.tree, PROMPTS[:1]).exp()[0, 7]
    # To first order the step raises the probability by a hundredth of itself.
    assert (after / probabilities[7]).item() == pytest.approx(1.01, abs=1e-3)


def test_another_vocabulary_is_an_error(policy):
    with pytest.raises(ConfigError, match="has 4 tokens, the responses to enumerate have 3"):
        sequence_logprobs(policy, SequenceTree(3, 0, 2), [""])


# --- tabular policies --------------------------------------------------------------------------


def test_symbols_are_tokens_and_eos_is_everything_else():
    tokenizer = symbol_tokenizer("xyz")
    assert len(tokenizer) == 4
    assert tokenizer.eos_token_id == tokenizer.pad_token_id == tokenizer.bos_token_id == 0
    assert tokenizer("zxy")["input_ids"] == [0, 3, 1, 2]
    assert tokenizer.decode([3, 1, 1, 2]) == "zxxy"


@pytest.mark.parametrize("symbols", ["", "aba"])
def test_symbols_must_be_different(symbols):
    with pytest.raises(ConfigError, match="different characters"):
        symbol_tokenizer(symbols)


def fit(target, **options):
    tokenizer = symbol_tokenizer("ab")
    tree = SequenceTree(3, 0, 2)
    policy, left = fit_distribution(tokenizer, tree, ["a", "b"], target, width=16, **options)
    return policy, left, tree


# Over "", a, b, aa, ab, ba, bb: one prompt as skewed as the other is even, with some never said.
TARGET = torch.tensor(
    [[0.5, 0.0, 0.1, 0.0, 0.3, 0.05, 0.05], [0.1, 0.2, 0.1, 0.2, 0.1, 0.2, 0.1]],
    dtype=torch.float64,
)


@pytest.fixture(scope="module")
def fitted():
    return fit(TARGET, steps=150)


@torch.no_grad()
def test_a_policy_is_fitted_to_a_distribution(fitted):
    policy, left, tree = fitted
    found = sequence_logprobs(policy, tree, ["a", "b"]).double()
    torch.testing.assert_close(found.exp(), TARGET, atol=0.02, rtol=0)
    exact = torch.where(TARGET > 0, TARGET * (TARGET.log() - found), 0).sum(1).mean().item()
    assert left == pytest.approx(exact, abs=1e-6)
    assert 0 < left < 0.01
    assert not any(p.requires_grad for p in policy.model.parameters())
    assert isinstance(policy, Policy)


def test_the_same_seed_fits_the_same_policy():
    first, again, other = (fit(TARGET, steps=3, seed=seed)[0] for seed in (0, 0, 1))
    weights = [torch.cat([p.flatten() for p in x.model.parameters()]) for x in (first, again)]
    assert torch.equal(*weights)
    others = torch.cat([p.flatten() for p in other.model.parameters()])
    assert not torch.equal(weights[0], others)


def test_more_prompts_than_a_step_looks_at(fitted):
    """Drawn one by one, both prompts are learned."""
    _, left, _ = fit(TARGET, steps=300, prompts_per_step=1)
    start = fit(TARGET, steps=0)[1]
    assert left < 0.1 * start


def test_a_target_of_another_shape_is_an_error():
    with pytest.raises(ConfigError, match=r"shape \[2, 7\], got \[7, 2\]"):
        fit(TARGET.T)
