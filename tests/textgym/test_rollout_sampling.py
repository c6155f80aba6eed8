import random

import numpy as np
import pytest
import torch
from datasets import Dataset
from policy_support import (
    FAMILIES,
    PROMPTS,
    CountTask,
    make_policy,
    plain_logprobs,
    prompt_tokens,
    response_tokens,
)
from scipy.stats import chisquare

from textgym.envs.vector_env import TextVectorEnv
from textgym.errors import ConfigError, DataError, ModelError, PromptTooLongError, RewardError
from textgym.models import hugging_face
from textgym.models.sampling import complete, draw, inverse_cdf, sampling_distribution
from textgym.rollout import encode_texts, rollout, score, step_rollout
from textgym.types import Sampling

TASK = CountTask()
ROWS = TASK.prompts("train")
WARPED = Sampling(temperature=0.7, top_k=20, top_p=0.9)


@pytest.fixture(scope="module")
def policy():
    return make_policy("llama")


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


def sample(policy, seed=0, rows=ROWS, k=3, **options):
    return rollout(policy, TASK, rows, samples_per_prompt=k, generator=generator(seed), **options)


# --- drawing one token -------------------------------------------------------------------------


def test_inverse_cdf_by_hand():
    weights = torch.tensor([[0.5, 0.0, 0.25, 0.25]], dtype=torch.float64).expand(7, 4)
    uniforms = torch.tensor([0.0, 0.49, 0.51, 0.74, 0.76, 0.99, 1 - 2**-53], dtype=torch.float64)
    assert inverse_cdf(weights, uniforms).tolist() == [0, 0, 2, 2, 3, 3, 3]


def test_a_token_of_no_probability_is_never_drawn():
    weights = torch.tensor([[0.0, 1.0, 0.0]]).expand(3, 3)
    uniforms = torch.tensor([0.0, 0.5, 1 - 2**-53], dtype=torch.float64)
    assert inverse_cdf(weights, uniforms).tolist() == [1, 1, 1]


@pytest.mark.parametrize(
    ("sampling", "expected"),
    [
        (Sampling(), [0.3, 0.5, 0.05, 0.15]),
        # p^2 / sum p^2 with sum 0.365
        (Sampling(temperature=0.5), [0.09 / 0.365, 0.25 / 0.365, 0.0025 / 0.365, 0.0225 / 0.365]),
        (Sampling(top_k=2), [0.375, 0.625, 0, 0]),
        (Sampling(top_k=9), [0.3, 0.5, 0.05, 0.15]),
        # 0.5 does not reach 0.6, 0.5 + 0.3 does
        (Sampling(top_p=0.6), [0.375, 0.625, 0, 0]),
        (Sampling(top_p=0.4), [0.0, 1.0, 0.0, 0.0]),
        # after top_k=3 the best token has 0.526, so top_p=0.52 keeps it alone
        (Sampling(top_k=3, top_p=0.52), [0.0, 1.0, 0.0, 0.0]),
    ],
)
def test_sampling_distribution_by_hand(sampling, expected):
    logprobs = torch.tensor([[0.3, 0.5, 0.05, 0.15]]).log()
    actual = sampling_distribution(logprobs, sampling).exp()
    torch.testing.assert_close(actual, torch.tensor([expected]), atol=1e-6, rtol=0)


@pytest.mark.parametrize("sampling", [Sampling(), Sampling(temperature=2.0), Sampling(top_k=3)])
def test_token_frequencies_follow_the_distribution(sampling):
    logits = torch.tensor([1.0, -0.5, 0.3, 2.0, -1.0])
    count = 20_000
    uniforms = torch.rand(count, generator=generator(5), dtype=torch.float64)
    tokens, _, _ = draw(logits.expand(count, 5), uniforms, sampling)
    weights = torch.exp(logits.double() / sampling.temperature)
    if sampling.top_k:
        weights[[1, 4]] = 0
    seen = tokens.bincount(minlength=5)
    kept = weights > 0
    assert (seen[~kept] == 0).all()
    expected = (weights / weights.sum() * count)[kept]
    assert chisquare(seen[kept].numpy(), expected.numpy()).pvalue > 1e-3


def test_first_tokens_of_a_rollout_follow_the_softmax(policy):
    rows = ROWS.select([1])
    samples = sample(policy, rows=rows, k=4000, max_new_tokens=1)
    first = plain_logprobs(policy, prompt_tokens(samples, 0), [0])[0].double().exp()
    common = first.topk(12).indices
    seen = samples.response_ids[:, 0].bincount(minlength=policy.vocab_size)
    observed = [*seen[common].tolist(), len(samples) - int(seen[common].sum())]
    expected = [*first[common].tolist(), 1 - float(first[common].sum())]
    assert min(expected) * 4000 > 5
    assert chisquare(observed, np.array(expected) * 4000).pvalue > 1e-3


# --- a whole rollout ---------------------------------------------------------------------------


def test_rows_are_prompt_major_with_their_columns(policy):
    samples = sample(policy)
    assert samples.prompts == [p for p in PROMPTS for _ in range(3)]
    assert samples.columns == {"bonus": [b for b in (1.0, 2.0, 3.0, 4.0) for _ in range(3)]}
    assert samples.samples_per_prompt == 3
    assert len({tuple(response_tokens(samples, i)) for i in range(3)}) == 3
    assert samples.rewards is None


def test_masks_end_at_eos_or_the_limit(policy):
    samples = sample(policy, k=8)
    assert samples.truncated.any()
    assert not samples.truncated.all()
    for row in range(len(samples)):
        tokens = response_tokens(samples, row)
        length = len(tokens)
        assert samples.response_mask[row].tolist() == [True] * length + [False] * (
            samples.response_ids.shape[1] - length
        )
        assert policy.eos_token_id not in tokens[:-1]
        if samples.truncated[row]:
            assert length == TASK.max_response_tokens
            assert tokens[-1] != policy.eos_token_id
        else:
            assert tokens[-1] == policy.eos_token_id
    assert int(samples.response_mask.sum(1).max()) == samples.response_ids.shape[1]


def test_ending_rows_do_not_disturb_the_others(policy):
    """Without EOS every row runs to the limit; with it, each is that row's beginning."""
    endless = make_policy("llama")
    endless.eos_token_id = -1
    long, samples = sample(endless, k=8), sample(policy, k=8)
    assert samples.response_mask.sum(1).unique().numel() > 4
    for row in range(len(samples)):
        tokens, run = response_tokens(samples, row), response_tokens(long, row)
        assert len(run) == TASK.max_response_tokens
        assert run[: len(tokens)] == tokens
        if not samples.truncated[row]:
            assert run.index(policy.eos_token_id) == len(tokens) - 1


def test_batch_size_changes_nothing(policy):
    whole = sample(policy)
    for batch_size in (1, 4, 6):
        parts = sample(policy, batch_size=batch_size)
        assert torch.equal(parts.response_ids, whole.response_ids)
        assert torch.equal(parts.response_mask, whole.response_mask)
        torch.testing.assert_close(parts.policy_logprobs, whole.policy_logprobs, atol=1e-5, rtol=0)


def test_the_same_seed_gives_the_same_bits_and_another_seed_others(policy):
    first, again, other = sample(policy), sample(policy), sample(policy, seed=1)
    assert torch.equal(first.response_ids, again.response_ids)
    assert torch.equal(first.policy_logprobs, again.policy_logprobs)
    assert first.completions != other.completions


def test_no_global_random_state_is_touched(policy):
    numpy = np.random.mtrand._rand  # the generator behind np.random.rand and its like
    before = torch.get_rng_state(), numpy.get_state()[1].copy(), random.getstate()
    sample(policy)
    complete(policy, ["A"], 20, generator())
    assert torch.equal(torch.get_rng_state(), before[0])
    assert (numpy.get_state()[1] == before[1]).all()
    assert random.getstate() == before[2]


def test_default_sampling_keeps_one_set_of_logprobs(policy):
    samples = sample(policy)
    assert torch.equal(samples.policy_logprobs, samples.sampling_logprobs)


def test_warped_sampling_keeps_both_sets_of_logprobs(policy):
    samples = sample(policy, sampling=Sampling(temperature=0.5, top_k=4))
    assert samples.sampling == Sampling(temperature=0.5, top_k=4)
    for row in range(len(samples)):
        response = response_tokens(samples, row)
        raw = plain_logprobs(policy, prompt_tokens(samples, row), response)
        for t, token in enumerate(response):
            best = raw[t].topk(4).indices.tolist()
            assert token in best
            weights = (raw[t, best].double() * 2).exp()
            expected = (weights[best.index(token)] / weights.sum()).log()
            assert samples.sampling_logprobs[row, t].item() == pytest.approx(
                expected.item(), abs=1e-5
            )
            assert samples.policy_logprobs[row, t].item() == pytest.approx(
                raw[t, token].item(), abs=1e-5
            )


def test_a_response_of_eos_alone_is_empty_and_complete(policy):
    samples = sample(policy, k=40)
    lone = (samples.response_mask.sum(1) == 1).nonzero().squeeze(-1)
    assert len(lone) > 0
    for row in lone.tolist():
        assert samples.completions[row] == ""
        assert not samples.truncated[row]


def test_all_rows_may_end_at_once(policy):
    """The limit leaves room for more, but the batch is empty after one token."""
    samples = sample(policy, k=1)
    first_eos = make_policy("llama")
    rows = ROWS.select([1])
    first_eos.eos_token_id = int(sample(policy, rows=rows, k=1).response_ids[0, 0])
    alone = sample(first_eos, rows=rows, k=1)
    assert alone.response_ids.shape == (1, 1)
    assert samples.response_ids.shape[1] > 1


# --- two faces, one truth ----------------------------------------------------------------------


@pytest.mark.parametrize("sampling", [Sampling(), WARPED], ids=["raw", "warped"])
@pytest.mark.parametrize("family", FAMILIES)
def test_stepping_the_environment_gives_the_same_rollout(family, sampling):
    policy = make_policy(family)
    env = TextVectorEnv(num_envs=12, task=TASK, tokenizer=policy.tokenizer)
    stepped = step_rollout(
        policy, env, ROWS, samples_per_prompt=3, generator=generator(4), sampling=sampling
    )
    batched = score(sample(policy, seed=4, sampling=sampling), TASK)
    assert batched.response_mask.sum(1).unique().numel() > 2
    for name in ("prompt_ids", "prompt_mask", "response_ids", "response_mask", "truncated"):
        assert torch.equal(getattr(stepped, name), getattr(batched, name)), name
    for name in ("policy_logprobs", "sampling_logprobs", "rewards"):
        torch.testing.assert_close(
            getattr(stepped, name), getattr(batched, name), atol=1e-5, rtol=0
        )
    assert stepped.completions == batched.completions


# --- scoring -----------------------------------------------------------------------------------


def test_score_sets_rewards_in_a_new_record(policy):
    given = encode_texts(policy, TASK, ROWS, ["a boat", "", "a", "rain"])
    scored = score(given, TASK)
    assert given.rewards is None
    torch.testing.assert_close(scored.rewards, torch.tensor([1.6, 2.0, 3.1, 4.4]))


@pytest.mark.parametrize("values", [[1.0], [1.0, float("nan"), 1.0, 1.0]])
def test_a_bad_reward_is_an_error(policy, values):
    task = CountTask()
    task.reward = lambda prompts, completions, **columns: values
    with pytest.raises(RewardError, match="count"):
        score(encode_texts(policy, task, ROWS, ["a"] * 4), task)


# --- bad input ---------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"k": 0}, ConfigError, "samples_per_prompt must be >= 1, got 0"),
        ({"max_new_tokens": -1}, ConfigError, "max_new_tokens must be >= 0, got -1"),
        ({"batch_size": 0}, ConfigError, "batch_size must be >= 1, got 0"),
        ({"rows": Dataset.from_dict({"prompt": []})}, DataError, "no rows"),
        ({"rows": Dataset.from_dict({"text": ["a"]})}, DataError, "columns are text"),
        ({"rows": Dataset.from_dict({"prompt": ["A" * 25]})}, PromptTooLongError, "25 .* 24"),
        ({"max_new_tokens": 60}, PromptTooLongError, "window of llama, 64 tokens"),
    ],
)
def test_bad_input_is_one_clear_line(policy, options, error, message):
    with pytest.raises(error, match=message) as caught:
        sample(policy, **options)
    assert "\n" not in str(caught.value)


def test_an_environment_of_the_wrong_size_is_an_error(policy):
    env = TextVectorEnv(num_envs=5, task=TASK, tokenizer=policy.tokenizer)
    with pytest.raises(ConfigError, match="environment of 12 rows, got 5"):
        step_rollout(policy, env, ROWS, samples_per_prompt=3, generator=generator())


def test_a_wrong_number_of_texts_is_an_error(policy):
    with pytest.raises(DataError, match="expected 4 completions, got 3"):
        encode_texts(policy, TASK, ROWS, ["a"] * 3)


def test_a_model_without_a_cache_is_an_error(policy, monkeypatch):
    class NoCache:
        past_key_values = None
        logits = torch.zeros(4, 1, policy.vocab_size)

    monkeypatch.setattr(policy, "decoder", lambda: None)
    monkeypatch.setattr(hugging_face, "forward", lambda *args, **kwargs: NoCache())
    with pytest.raises(ModelError, match="keeps no key-value cache"):
        sample(policy)
