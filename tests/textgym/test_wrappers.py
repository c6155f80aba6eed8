from __future__ import annotations

from math import log

import gymnasium
import numpy as np
import pytest
import torch
from envs_support import (
    BLEW,
    EOS,
    FELL,
    RAIN,
    SHONE,
    SUN,
    UNK,
    WIND,
    WORDS,
    Bigram,
    WordTask,
    word_tokenizer,
)
from gymnasium.utils.env_checker import check_env, data_equivalence
from gymnasium.vector import AutoresetMode, SyncVectorEnv

from textgym.envs.policy_wrappers import allowed_tokens
from textgym.envs.text_env import TextEnv
from textgym.envs.vector_env import TextVectorEnv
from textgym.envs.vector_wrappers import VectorActionMask, VectorKLPenalty
from textgym.envs.wrappers import ActionMask, CompletionActions, KLPenalty, SentenceActions
from textgym.errors import ConfigError, EpisodeOverError, InvalidActionError
from textgym.types import Sampling

UNIFORM = Bigram(lambda last: [1 / 9] * 9)


def descending(last: int) -> list[float]:
    """After token t: t + 1 with 0.5, t + 2 with 0.25, ..., the last two with 1/256 (mod 9)."""
    return [0.5 ** min((token - last - 1) % 9 + 1, 8) for token in range(9)]


def make_env(**options):
    return TextEnv(WordTask(), word_tokenizer(), **options)


def make_vector(num_envs=2, **options):
    return TextVectorEnv(num_envs, WordTask(), word_tokenizer(), **options)


def registered_env(**options):
    return gymnasium.make(
        "textgym/Text-v0",
        disable_env_checker=True,
        task=WordTask(),
        tokenizer=word_tokenizer(),
        **options,
    )


# Coarser actions


def test_completion_is_one_step():
    env = CompletionActions(make_env())
    env.reset(options={"index": 0})
    observation, reward, terminated, truncated, info = env.step("fell rain")
    assert observation["input_ids"].tolist()[-5:] == [RAIN, FELL, FELL, RAIN, EOS]
    assert (reward, terminated, truncated) == (0.5, True, False)
    assert (info["response"], info["finish_reason"]) == ("fell rain", "stop")
    with pytest.raises(EpisodeOverError):
        env.step("fell")


@pytest.mark.parametrize("action", ["fell rain sun shone", [FELL, RAIN, SUN], (FELL, RAIN, SUN)])
def test_completion_is_cut_at_the_limit(action):
    env = CompletionActions(make_env())
    env.reset()
    info = env.step(action)[-1]
    assert (info["response"], info["finish_reason"]) == ("fell rain sun", "length")


def test_completion_of_tokens_ends_at_its_own_eos():
    env = CompletionActions(make_env())
    env.reset()
    info = env.step(np.array([FELL, EOS, RAIN]))[-1]
    assert (info["response"], info["response_tokens"]) == ("fell", 2)


def test_sentences_add_up():
    env = SentenceActions(make_env(max_response_tokens=6))
    env.reset(options={"index": 0})
    observation, reward, terminated, _, info = env.step("fell")
    assert (reward, terminated, info) == (0.0, False, {})
    observation, *_ = env.step("sun shone")
    assert observation["input_ids"].tolist()[-5:] == [RAIN, FELL, FELL, SUN, SHONE]
    _, reward, terminated, _, info = env.step("")
    assert (reward, terminated) == (pytest.approx(1 / 3), True)
    assert (info["response"], info["response_tokens"]) == ("fell sun shone", 4)


@pytest.mark.parametrize("action", [3, None, [[1]], [1.5], [9], [-1], {"a": 1}])
@pytest.mark.parametrize("wrapper", [CompletionActions, SentenceActions])
def test_bad_text_action(wrapper, action):
    env = wrapper(make_env())
    env.reset()
    with pytest.raises(InvalidActionError):
        env.step(action)


def test_text_actions_sum_the_rewards_inside():
    policy = Bigram(descending)
    env = CompletionActions(KLPenalty(make_env(), policy, UNIFORM, coef=1.0))
    env.reset(options={"prompt": "rain", "reference": "fell"})
    _, reward, _, _, info = env.step([FELL, SUN, SHONE])
    # Each token follows its predecessor in the vocabulary: probability 1/2 against 1/9.
    kl = 3 * log(9 / 2)
    assert reward == pytest.approx(1 / 3 - kl)
    assert info["reward_terms"] == {
        "task": pytest.approx(1 / 3),
        "kl_penalty": pytest.approx(-kl),
    }
    assert info["log_ratio_sum"] == pytest.approx(kl)


# The action mask


@pytest.mark.parametrize(
    ("top_k", "top_p", "expected"),
    [
        (0, 1.0, [1, 1, 1, 1]),
        (2, 1.0, [0, 1, 0, 1]),
        (9, 1.0, [1, 1, 1, 1]),
        (0, 0.3, [0, 1, 0, 0]),
        (0, 0.45, [0, 1, 0, 1]),
        (0, 0.75, [0, 1, 1, 1]),
        (0, 1e-9, [0, 1, 0, 0]),
        # Of the two kept, 0.4 is 4/7 of the probability.
        (2, 0.55, [0, 1, 0, 0]),
        (2, 0.6, [0, 1, 0, 1]),
    ],
)
def test_allowed_tokens_by_hand(top_k, top_p, expected):
    logits = torch.tensor([[0.1, 0.4, 0.2, 0.3]]).log()
    assert allowed_tokens(logits, Sampling(top_k=top_k, top_p=top_p)).int().tolist() == [expected]


def test_top_k_of_ties_keeps_k():
    assert allowed_tokens(torch.zeros(2, 5), Sampling(top_k=3)).sum(dim=1).tolist() == [3, 3]


def test_top_p_stops_where_the_probability_is_reached():
    assert allowed_tokens(torch.zeros(1, 2), Sampling(top_p=0.5)).tolist() == [[True, False]]


def test_mask_follows_the_policy():
    policy = Bigram(descending)
    env = ActionMask(make_env(), policy, top_k=2)
    _, info = env.reset(options={"prompt": "rain"})
    assert np.flatnonzero(info["action_mask"]).tolist() == [FELL, SUN]
    ids, mask = policy.seen[-1]
    assert (ids.shape, ids.dtype, mask.dtype) == ((1, 7), torch.int64, torch.bool)
    assert mask.int().tolist() == [[0] * 6 + [1]]
    with pytest.raises(InvalidActionError, match="action 3 is not among the 2 tokens"):
        env.step(RAIN)
    with pytest.raises(InvalidActionError, match=r"in \[0, 9\), got 9"):
        env.step(9)
    *_, info = env.step(SUN)
    assert np.flatnonzero(env.action_masks()).tolist() == [SHONE, WIND]
    assert (info["action_mask"] == env.action_masks()).all()
    env.step(SHONE)
    _, _, terminated, _, info = env.step(WIND)
    assert terminated
    assert not info["action_mask"].any()
    with pytest.raises(EpisodeOverError):
        env.step(BLEW)


def test_mask_projects_to_the_most_likely_token():
    env = ActionMask(make_env(), Bigram(descending), top_p=0.7, on_invalid="project")
    env.reset(options={"prompt": "rain"})
    observation, *_, info = env.step(EOS)
    assert info["projected_action"] == FELL
    assert observation["input_ids"][-1] == FELL
    *_, info = env.step(SHONE)
    assert "projected_action" not in info


def test_mask_in_observation():
    env = ActionMask(make_env(), Bigram(descending), top_k=1, in_observation=True)
    observation, _ = env.reset(options={"prompt": "rain"})
    assert observation in env.observation_space
    assert np.flatnonzero(observation["action_mask"]).tolist() == [FELL]


@pytest.mark.parametrize(
    "options", [{"top_k": -1}, {"top_p": 0.0}, {"top_p": 1.5}, {"on_invalid": "ignore"}]
)
def test_bad_mask_options(options):
    with pytest.raises(ConfigError):
        ActionMask(make_env(), UNIFORM, **options)
    with pytest.raises(ConfigError):
        VectorActionMask(make_vector(), UNIFORM, **options)


# The KL penalty


def test_penalty_by_hand():
    policy = Bigram(descending)
    env = KLPenalty(make_env(render_mode="ansi"), policy, UNIFORM, coef=0.5)
    env.reset(options={"prompt": "rain", "reference": "sun"})
    # After rain: sun has 1/4, then after sun: rain (7 steps on) has 1/128; the reference 1/9.
    first, second = log(9 / 4), log(9 / 128)
    _, reward, _, _, info = env.step(SUN)
    assert reward == pytest.approx(-0.5 * first)
    assert info == {
        "log_ratio": pytest.approx(first),
        "log_ratio_sum": pytest.approx(first),
        "reward_terms": {"kl_penalty": pytest.approx(-0.5 * first)},
    }
    env.step(RAIN)
    _, reward, terminated, _, info = env.step(SUN)
    assert terminated
    assert reward == pytest.approx(2 / 3 - 0.5 * first)
    assert reward == pytest.approx(sum(info["reward_terms"].values()))
    assert info["log_ratio_sum"] == pytest.approx(2 * first + second)
    assert f"kl_penalty {-0.5 * (2 * first + second):.4f}" in env.render()
    with pytest.raises(EpisodeOverError):
        env.step(SUN)
    env.reset()
    assert "kl_penalty" not in env.render()


def test_penalty_judges_the_context_the_user_was_shown():
    env = KLPenalty(make_env(), Bigram(descending), UNIFORM, coef=1.0)
    observation, _ = env.reset(options={"prompt": "rain"})
    observation["input_ids"][:] = BLEW
    assert env.step(FELL)[-1]["log_ratio"] == pytest.approx(log(9 / 2))


def test_policy_equal_to_reference_costs_nothing():
    env = KLPenalty(make_env(), UNIFORM, UNIFORM, coef=10.0)
    env.reset(options={"index": 0})
    env.step(UNK)
    assert env.step(EOS)[1] == 0.0


@pytest.mark.parametrize("coef", [-0.1, float("nan")])
def test_bad_coefficient(coef):
    with pytest.raises(ConfigError, match="must be >= 0"):
        KLPenalty(make_env(), UNIFORM, UNIFORM, coef)
    with pytest.raises(ConfigError, match="must be >= 0"):
        VectorKLPenalty(make_vector(), UNIFORM, UNIFORM, coef)


def test_wrong_spaces_and_vocabularies():
    with pytest.raises(ConfigError, match="actions are tokens"):
        KLPenalty(CompletionActions(make_env()), UNIFORM, UNIFORM, 0.1)
    with pytest.raises(ConfigError, match="actions are tokens"):
        SentenceActions(CompletionActions(make_env()))
    env = ActionMask(make_env(vocab_size=12), UNIFORM)
    with pytest.raises(ConfigError, match="the policy scores 9 tokens, the environment has 12"):
        env.reset()


# All of them


@pytest.mark.parametrize(
    "wrap",
    [
        SentenceActions,
        CompletionActions,
        lambda env: ActionMask(env, Bigram(descending), top_k=3, on_invalid="project"),
        lambda env: ActionMask(
            env, Bigram(descending), top_k=3, on_invalid="project", in_observation=True
        ),
        lambda env: KLPenalty(env, Bigram(descending), UNIFORM, coef=0.1),
    ],
    ids=["sentence", "completion", "mask", "mask-in-observation", "kl"],
)
# The checker asks for the bare environment; here the wrapper is what is checked.
@pytest.mark.filterwarnings("ignore:.*is different from the unwrapped version")
def test_gymnasium_checker(wrap):
    check_env(wrap(registered_env()))


@pytest.mark.parametrize(
    ("single", "vector"),
    [
        (
            lambda env: KLPenalty(env, Bigram(descending), UNIFORM, 0.3),
            lambda env: VectorKLPenalty(env, Bigram(descending), UNIFORM, 0.3),
        ),
        (
            lambda env: ActionMask(env, Bigram(descending), top_k=4, on_invalid="project"),
            lambda env: VectorActionMask(env, Bigram(descending), top_k=4, on_invalid="project"),
        ),
        (
            lambda env: ActionMask(
                KLPenalty(env, Bigram(descending), UNIFORM, 0.3), UNIFORM, 4, on_invalid="project"
            ),
            lambda env: VectorActionMask(
                VectorKLPenalty(env, Bigram(descending), UNIFORM, 0.3),
                UNIFORM,
                4,
                on_invalid="project",
            ),
        ),
    ],
    ids=["kl", "mask", "both"],
)
def test_vector_wrappers_equal_single_ones(single, vector):
    singles = SyncVectorEnv(
        [lambda: single(make_env(max_response_tokens=5))] * 3,
        autoreset_mode=AutoresetMode.SAME_STEP,
    )
    ours = vector(make_vector(3, max_response_tokens=5))
    assert data_equivalence(ours.reset(seed=2), singles.reset(seed=2), exact=True)
    rng = np.random.default_rng(0)
    for _ in range(60):
        actions = rng.integers(0, len(WORDS), 3)
        got, expected = ours.step(actions), singles.step(actions)
        assert data_equivalence(got[:4], expected[:4])
        assert data_equivalence(got[4], expected[4]), (got[4], expected[4])


def test_vector_wrappers_refuse():
    env = VectorActionMask(make_vector(), Bigram(descending), top_k=1)
    with pytest.raises(EpisodeOverError):
        env.step([RAIN, RAIN])
    with pytest.raises(EpisodeOverError):
        env.action_masks()
    env.reset(options={"prompt": "rain"})
    with pytest.raises(InvalidActionError, match="action 3 is not among the 1 tokens"):
        env.step([FELL, RAIN])
    env.step([FELL, FELL])
    assert env.action_masks()[:, SUN].all()


def test_vector_penalty_restarts_with_reset_mask():
    env = VectorKLPenalty(make_vector(max_response_tokens=9), Bigram(descending), UNIFORM, 1.0)
    env.reset(options={"prompt": "rain"})
    env.step([FELL, FELL])
    env.reset(options={"prompt": "rain", "reset_mask": np.array([True, False])})
    sums = env.step([FELL, SUN])[-1]["log_ratio_sum"]
    assert sums == pytest.approx([log(9 / 2), 2 * log(9 / 2)])
