from __future__ import annotations

import math

import numpy as np
import pandas as pd
import pytest
import torch
from plugins import Letters

from textgym.benchmarks.intervals import BASELINE, DIVERSITY, LOSS, intervals
from textgym.benchmarks.measure import measure
from textgym.benchmarks.reachable import ReferencePool
from textgym.errors import RewardError
from textgym.types import Rollout, Sampling

VOCABULARY = "_ab"  # 0 ends a response


class Coin:
    """A policy of one distribution over three tokens, whatever came before."""

    def __init__(self, *probabilities):
        self.log = torch.tensor(probabilities).log()
        self.tokenizer = self

    def __len__(self):
        return len(VOCABULARY)

    def __call__(self, texts, add_special_tokens):
        assert not add_special_tokens
        return {"input_ids": [[VOCABULARY.index(c) for c in text] for text in texts]}

    def response_logits(self, prompt_ids, prompt_mask, response_ids, response_mask):
        return (5 + self.log).expand(int(response_mask.sum()), 3)

    def chunks(self, samples):
        return list(torch.arange(len(samples)).split(3))

    def embed(self, samples):
        return torch.tensor([[1.0, t.count("a"), t.count("b")] for t in samples.completions])


def responses(texts, k, sampling=None):
    ids = [[VOCABULARY.index(c) for c in text] + [0] for text in texts]
    width = max(map(len, ids))
    mask = torch.tensor([[t < len(row) for t in range(width)] for row in ids])
    padded = torch.tensor([row + [0] * (width - len(row)) for row in ids])
    prompts = [f"say {i // k}:" for i in range(len(texts))]
    zeros = torch.zeros(padded.shape)
    ones = torch.ones((len(texts), 1), dtype=torch.long)
    return Rollout(
        prompts,
        list(texts),
        {},
        k,
        ones,
        ones.bool(),
        padded,
        mask,
        zeros,
        zeros,
        torch.zeros(len(texts), dtype=torch.bool),
        sampling or Sampling(),
    )


SKEWED, UNIFORM = Coin(0.5, 0.25, 0.25), Coin(1 / 3, 1 / 3, 1 / 3)
# sum p log(p / q) = 0.5 log 1.5 + 0.5 log 0.75
KL = 0.5 * math.log(1.5) + 0.5 * math.log(0.75)


def value(measured, name):
    return measured.metrics[name]["value"]


def test_likelihoods_by_hand():
    measured = measure(responses(["a", "ab", "bb", ""], 2), Letters(), SKEWED, UNIFORM)
    # Tokens with EOS: 2, 3 | 3, 1.
    assert value(measured, "kl_token") == pytest.approx(KL, abs=1e-6)
    assert value(measured, "kl_seq") == pytest.approx(KL * 9 / 4, abs=1e-6)
    assert measured.prompts["kl_seq"].tolist() == pytest.approx([2.5 * KL, 2 * KL], abs=1e-6)
    assert value(measured, "entropy_token") == pytest.approx(1.5 * math.log(2), abs=1e-6)
    first = measured.samples.iloc[0]
    assert first["policy_logprobs"] == pytest.approx([math.log(0.25), math.log(0.5)], abs=1e-6)
    assert first["reference_logprobs"] == pytest.approx([-math.log(3)] * 2, abs=1e-6)
    assert [len(ids) for ids in measured.samples["response_ids"]] == [2, 3, 3, 1]


def test_kl_is_of_the_distribution_that_was_drawn_from():
    # At temperature 1/2 the coin squares its odds: 4:1:1. Against the uniform that is
    # 2/3 log 2 + 1/3 log 1/2 = log(2) / 3 a token.
    drawn = responses(["a", "b"], 2, Sampling(temperature=0.5))
    measured = measure(drawn, Letters(), SKEWED, UNIFORM)
    assert value(measured, "kl_token") == pytest.approx(math.log(2) / 3, abs=1e-6)
    # Logged log-probabilities stay the policy's own.
    logged = measured.samples.iloc[0]["policy_logprobs"]
    assert logged == pytest.approx([math.log(0.25), math.log(0.5)], abs=1e-6)


def test_scores_by_hand():
    measured = measure(responses(["aa", "ab", "bbb", "bbb"], 2), Letters(), SKEWED, UNIFORM)
    assert value(measured, "reward") == pytest.approx((2 + 1 + 0 + 0) / 4)
    assert measured.prompts["gold"].tolist() == pytest.approx([0.25, 0])
    assert value(measured, "length") == pytest.approx((3 + 3 + 4 + 4) / 4)
    # Toxicity is b's in threes: maxima 1/3 and 1, of which one is above a half.
    assert value(measured, "expected_max_toxicity") == pytest.approx(2 / 3)
    assert value(measured, "toxicity_probability") == 0.5
    assert value(measured, "duplicate_rate") == 0.25
    # Voices: a, a, other, other.
    assert value(measured, "effective_modes") == pytest.approx(2)
    assert value(measured, "mode_share/a") == 0.5


def test_diversity_is_cut_to_the_common_length_and_paired():
    # Lengths 2, 2, 2, 4 have the median 2; cut there, the second prompt's texts are copies.
    reference = measure(responses(["ab", "ba", "ab", "abab"], 2), Letters(), UNIFORM, UNIFORM)
    assert reference.common_length == 2
    assert reference.prompts[DIVERSITY + "distinct_2"].tolist() == [1, 0.5]
    agent = measure(
        responses(["aa", "aa", "abaa", "aaaa"], 2),
        Letters(),
        SKEWED,
        UNIFORM,
        baseline=reference.baseline(),
    )
    # aa, aa: 1 of 2 bigrams. ab, aa: 2 of 2.
    assert agent.prompts[DIVERSITY + "distinct_2"].tolist() == [0.5, 1]
    assert agent.prompts[BASELINE + "distinct_2"].tolist() == [1, 0.5]
    assert value(agent, LOSS + "distinct_2") == 0
    # Across: {aa, ab}, {aa, aa} against {ab, ab}, {ba, ab}: means 3/4 and 3/4.
    assert value(agent, "across/distinct_2") == 0.75
    assert value(agent, "across_loss/distinct_2") == 0
    assert value(agent, LOSS + "distinct_1") == pytest.approx(1 - (0.25 + 0.5) / (0.5 + 0.5))


def test_one_sample_per_prompt_has_no_diversity_within_prompts():
    reference = measure(responses(["ab", "ba"], 1), Letters(), UNIFORM, UNIFORM)
    assert not [name for name in reference.prompts if name.startswith(DIVERSITY)]
    assert "across/distinct_2" in reference.metrics


def test_without_a_policy_there_is_no_kl_but_the_agents_estimates():
    measured = measure(
        responses(["ab", "ba"], 2), Letters(), None, UNIFORM, kl_estimates={"kl_bound": 0.3}
    )
    assert not {"kl_seq", "kl_token", "entropy_token"} & set(measured.metrics)
    assert value(measured, "kl_bound") == 0.3
    assert "policy_logprobs" not in measured.samples


def pooled(reward):
    """A baseline whose pool has four samples per prompt, of texts a, b, ab and ba."""
    reference = measure(responses(["ab", "ba", "ab", "ba"], 2), Letters(), UNIFORM, UNIFORM)
    ids = [[1], [2], [1, 2], [2, 1]] * 2
    return reference.baseline(ReferencePool(np.array([reward] * 2), ids))


def test_the_frontier_is_taken_at_the_kl_that_was_measured():
    # KL is 0.0589 a token, here 2 tokens a response: 0.118 nats, where tilting fair 0s and 1s
    # to odds q : 1 - q has log 2 - H(q) = 0.118, so that q = 0.737.
    drawn = responses(["a", "b", "a", "b"], 2)
    measured = measure(drawn, Letters(), SKEWED, UNIFORM, baseline=pooled([0.0, 0, 1, 1]))
    spent = value(measured, "kl_seq")
    assert spent == pytest.approx(2 * KL, abs=1e-6)
    q = measured.prompts["frontier/reward"].to_numpy()
    assert (math.log(2) + q * np.log(q) + (1 - q) * np.log(1 - q)) == pytest.approx([spent] * 2)
    assert measured.prompts["frontier/reference_reward"].tolist() == [0.5, 0.5]
    # The rewards of a and b are 1 and 0: nothing is gained on the reference's 1/2.
    assert value(measured, "frontier_efficiency") == pytest.approx(0)
    assert "frontier/ead" in measured.prompts
    assert "loss_beyond_optimum/ead" in measured.metrics
    # A mean of numbers at one KL is no metric of its own.
    assert not [name for name in measured.metrics if name.startswith("frontier/")]


def test_without_a_policy_the_agents_estimate_says_where_the_frontier_is_read():
    drawn, baseline = responses(["ab", "ba"] * 2, 2), pooled([0.0, 0, 1, 1])
    estimates = {"kl_estimate": math.log(2), "kl_bound": 9.0}
    measured = measure(drawn, Letters(), None, UNIFORM, baseline=baseline, kl_estimates=estimates)
    assert measured.prompts["frontier/reward"].tolist() == pytest.approx([1, 1], abs=1e-6)
    silent = measure(drawn, Letters(), None, UNIFORM, baseline=baseline)
    assert not [name for name in silent.prompts if name.startswith("frontier/")]
    # The reference spends nothing.
    still = measure(drawn, Letters(), UNIFORM, UNIFORM, baseline=baseline)
    assert not [name for name in still.prompts if name.startswith("frontier/")]


def test_what_was_enumerated_takes_the_place_of_what_was_sampled():
    exact = {"kl_seq": np.array([0.25, 0.75]), "regret": np.array([1.0, 3.0])}
    drawn = responses(["a", "ab", "bb", ""], 2)
    measured = measure(drawn, Letters(), SKEWED, UNIFORM, exact=exact)
    assert value(measured, "kl_seq") == 0.5
    assert value(measured, "regret") == 2
    assert value(measured, "kl_token") == pytest.approx(KL, abs=1e-6)


@pytest.mark.parametrize(("broken", "says"), [("nan", "returned nan"), ("short", "1 values for 2")])
def test_broken_rewards_are_typed_errors(broken, says):
    with pytest.raises(RewardError, match=says):
        measure(responses(["ab", "ba"], 2), Letters(broken), SKEWED, UNIFORM)


def test_intervals_pair_each_seed_with_its_reference():
    name = "ead"
    seeds = [
        pd.DataFrame({DIVERSITY + name: [0.5, 1.0], BASELINE + name: [1.0, 2.0]}),
        pd.DataFrame({DIVERSITY + name: [2.0], BASELINE + name: [4.0]}),
    ]
    found = intervals(seeds)
    assert found[DIVERSITY + name].estimate == pytest.approx(3.5 / 3)
    # Every prompt keeps half, so that no resample can say anything else.
    loss = found[LOSS + name]
    assert (loss.estimate, loss.low, loss.high) == (0.5, 0.5, 0.5)


def test_a_prompt_without_a_value_is_left_out():
    seeds = [pd.DataFrame({"gold": [1.0, np.nan, 3.0]}), pd.DataFrame({"gold": [2.0]})]
    assert intervals(seeds)["gold"].estimate == 2
