from __future__ import annotations

import gymnasium
import numpy as np
import pytest
from envs_support import EOS, FELL, PROMPTS, RAIN, SHONE, SUN, WordTask, word_tokenizer
from gymnasium.utils.env_checker import data_equivalence
from gymnasium.vector import AutoresetMode, SyncVectorEnv

from textgym.envs.text_env import TextEnv
from textgym.envs.vector_env import TextVectorEnv
from textgym.errors import (
    ConfigError,
    EpisodeOverError,
    InvalidActionError,
    PromptTooLongError,
    RewardError,
)


def make_vector(num_envs=3, **options):
    return TextVectorEnv(num_envs, WordTask(), word_tokenizer(), **options)


@pytest.mark.parametrize("length_limit", ["terminate", "truncate"])
def test_equals_single_environments(length_limit):
    """Observations, rewards, flags and infos of 200 steps, against Gymnasium's own vectorizer."""
    options = {"max_response_tokens": 6, "length_limit": length_limit}
    vector = make_vector(4, **options)
    singles = SyncVectorEnv(
        [lambda: TextEnv(WordTask(), word_tokenizer(), **options)] * 4,
        autoreset_mode=AutoresetMode.SAME_STEP,
    )
    assert vector.observation_space == singles.observation_space
    assert vector.action_space == singles.action_space
    ours, theirs = vector.reset(seed=11), singles.reset(seed=11)
    assert data_equivalence(ours, theirs, exact=True)
    rng = np.random.default_rng(0)
    endings = 0
    for _ in range(200):
        actions = rng.integers(0, 9, 4)
        ours, theirs = vector.step(actions), singles.step(actions)
        assert data_equivalence(ours, theirs, exact=True)
        endings += int((ours[2] | ours[3]).sum())
    assert endings > 100
    assert ours[0] in vector.observation_space


def test_rewards_of_one_step_are_one_call():
    env = make_vector()
    env.reset(options={"index": [0, 1, 2]})
    env.step([FELL, SHONE, RAIN])
    _, rewards, terminated, truncated, infos = env.step(np.array([EOS, EOS, RAIN]))
    assert env.token_task.task.calls == [
        (["rain fell", "sun"], ["fell", "shone"], {"reference": ["fell", "shone"]})
    ]
    assert rewards.tolist() == [1.0, 1.0, 0.0]
    assert terminated.tolist() == [True, True, False]
    assert not truncated.any()
    assert infos["_final_info"].tolist() == [True, True, False]
    final = infos["final_info"]
    assert final["response"].tolist() == ["fell", "shone", None]
    assert final["finish_reason"].tolist() == ["stop", "stop", None]
    assert final["reward_terms"]["task"].tolist() == [1.0, 1.0, 0.0]
    assert infos["final_obs"][0]["input_ids"].tolist()[-4:] == [RAIN, FELL, FELL, EOS]
    assert infos["final_obs"][2] is None


def test_columns_that_only_some_rows_have():
    env = make_vector(2)
    env.reset()
    env.reset(
        options={
            "prompt": ["sun", "sun"],
            "reference": ["rain", "rain"],
            "reset_mask": np.array([True, False]),
        }
    )
    env.step([EOS, EOS])
    _, _, columns = env.token_task.task.calls[-1]
    assert columns["reference"][0] == "rain"


def test_make_vec_gives_one_batched_environment():
    env = gymnasium.make_vec(
        "textgym/Text-v0", num_envs=5, task=WordTask(), tokenizer=word_tokenizer()
    )
    assert isinstance(env, TextVectorEnv)
    assert env.metadata["autoreset_mode"] is AutoresetMode.SAME_STEP
    observations, infos = env.reset(seed=0)
    assert observations["input_ids"].shape == (5, 7)
    assert set(infos["prompt"]) <= set(PROMPTS)
    env.close()


def test_reset_mask_and_options():
    env = make_vector()
    first, _ = env.reset(options={"prompt": "sun"})
    assert first["attention_mask"].sum(axis=1).tolist() == [1, 1, 1]
    env.step([RAIN, RAIN, RAIN])
    mask = np.array([False, True, False])
    observations, infos = env.reset(options={"reset_mask": mask, "index": 0})
    assert observations["attention_mask"].sum(axis=1).tolist() == [2, 2, 2]
    assert observations["input_ids"][:, -2:].tolist() == [[SUN, RAIN], [RAIN, FELL], [SUN, RAIN]]
    assert infos["_prompt"].tolist() == mask.tolist()
    one, two = env.reset(seed=[5, 6, 7])[1], env.reset(seed=5)[1]
    assert one["prompt"].tolist() == two["prompt"].tolist()


def test_unseeded_rows_draw_independently():
    env = make_vector(64)
    _, infos = env.reset()
    assert len(set(infos["prompt"])) == len(PROMPTS)


@pytest.mark.parametrize(
    ("reset", "error", "message"),
    [
        ({"seed": [1, 2]}, ConfigError, "expected 3 seeds, got 2"),
        ({"options": {"index": [0, 1]}}, ConfigError, "'index' must list 3 values"),
        ({"options": {"prompt": ["a"] * 3, "reference": "b"}}, ConfigError, "'reference' must"),
        ({"options": {"reset_mask": np.array([True, False, False])}}, ConfigError, "first reset"),
        ({"options": {"reset_mask": np.zeros(3, bool)}}, ConfigError, "at least one True"),
        ({"options": {"prompt": "sun sun sun sun sun"}}, PromptTooLongError, "5 tokens"),
    ],
)
def test_bad_reset(reset, error, message):
    env = make_vector()
    with pytest.raises(error, match=message):
        env.reset(**reset)
    with pytest.raises(EpisodeOverError):
        env.step([RAIN] * 3)


@pytest.mark.parametrize(
    "actions", [[0, 0], [0, 0, 9], [0, -1, 0], [0.0, 0.0, 0.0], 0, [[0, 0, 0]], None]
)
def test_bad_actions_change_nothing(actions):
    env = make_vector()
    before, _ = env.reset()
    with pytest.raises(InvalidActionError, match="actions must be"):
        env.step(actions)
    after, *_ = env.step([RAIN] * 3)
    assert after["input_ids"][:, :-1].tolist() == before["input_ids"][:, 1:].tolist()


def test_bad_configuration_and_reward():
    with pytest.raises(ConfigError, match="num_envs must be >= 1, got 0"):
        make_vector(0)
    env = make_vector(reward=lambda prompts, completions, **columns: [1.0])
    env.reset()
    with pytest.raises(RewardError, match="1 values for 2 texts"):
        env.step([EOS, EOS, RAIN])


def test_observations_do_not_change_under_the_user():
    env = make_vector(2, max_response_tokens=20)
    held, _ = env.reset(seed=0)
    copies = [held["input_ids"].copy()]
    observations = [held]
    for _ in range(18):
        observations.append(env.step([RAIN, SUN])[0])
        copies.append(observations[-1]["input_ids"].copy())
    observations[-1]["input_ids"][:] = 0
    mask = observations[-1]["attention_mask"].copy()
    observations[-1]["attention_mask"][:] = 0
    after, *_ = env.step([RAIN, SUN])
    assert (after["attention_mask"][:, :-1] == mask[:, 1:]).all()
    assert (after["input_ids"][:, :-1] == copies[-1][:, 1:]).all()
    for observation, copy in zip(observations[:-1], copies[:-1], strict=True):
        assert (observation["input_ids"] == copy).all()


def test_render(capsys):
    env = make_vector(2, render_mode="ansi")
    with pytest.raises(EpisodeOverError):
        env.render()
    env.reset(options={"index": [0, 1]})
    env.step([FELL, SHONE])
    texts = env.render()
    assert texts[1] == "[prompt]\nsun\n[response: 1 tokens, open]\nshone\n[reward]"
    env = make_vector(2, render_mode="human")
    env.reset()
    assert env.render() is None
    assert capsys.readouterr().out.count("[prompt]") == 2
