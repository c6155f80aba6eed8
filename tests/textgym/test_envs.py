from __future__ import annotations

import subprocess
import sys

import gymnasium
import numpy as np
import pytest
import torch
from envs_support import BLEW, EOS, FELL, PAD, PROMPTS, RAIN, SHONE, SUN, WIND, WordTask
from envs_support import word_tokenizer as make_tokenizer

from textgym.envs import ENVS, GAMES, register_envs
from textgym.envs.context_window import ContextWindow
from textgym.envs.text_env import TextEnv
from textgym.errors import (
    ConfigError,
    DataError,
    EpisodeOverError,
    InvalidActionError,
    ModelError,
    PromptTooLongError,
    RewardError,
    UnknownNameError,
)
from textgym.models.tokenize import decode_responses, train_tokenizer


def make_env(**options):
    return TextEnv(WordTask(), make_tokenizer(), **options)


def test_window_equals_lists():
    """Thousands of random steps and restarts, against plain Python lists."""
    rng = np.random.default_rng(0)
    rows, length = 3, 5
    window = ContextWindow(rows, length, pad_id=9)
    contexts: list[list[int]] = [[] for _ in range(rows)]
    for _ in range(300):
        # Rows that would not fit start anew, as responses do.
        for row in range(rows):
            if len(contexts[row]) == length or rng.random() < 0.2:
                contexts[row] = rng.integers(0, 9, rng.integers(0, length)).tolist()
                window.place(row, np.array(contexts[row], dtype=np.int64))
        tokens = rng.integers(0, 9, rows)
        window.push(tokens)
        observation = window.rows()
        for row in range(rows):
            contexts[row] = [*contexts[row], int(tokens[row])]
            pads = length - len(contexts[row])
            assert observation["input_ids"][row].tolist() == [9] * pads + contexts[row]
            assert observation["attention_mask"][row].tolist() == [0] * pads + [1] * (length - pads)
            assert window.last(row, 1).tolist() == contexts[row][-1:]
            assert window.row(row)["input_ids"].tolist() == observation["input_ids"][row].tolist()


def test_episode_by_hand():
    env = make_env()
    assert env.observation_space["input_ids"].shape == (7,)
    assert env.action_space.n == 9
    observation, info = env.reset(options={"index": 0})
    assert info == {"prompt": "rain fell", "index": 0}
    assert observation["input_ids"].tolist() == [PAD] * 5 + [RAIN, FELL]
    assert observation["attention_mask"].tolist() == [0] * 5 + [1, 1]

    observation, *rest = env.step(np.int64(FELL))
    assert observation["input_ids"].tolist() == [PAD] * 4 + [RAIN, FELL, FELL]
    assert rest == [0.0, False, False, {}]
    env.step(np.array(RAIN))
    observation, reward, terminated, truncated, info = env.step(EOS)
    assert observation["input_ids"].tolist() == [PAD] * 2 + [RAIN, FELL, FELL, RAIN, EOS]
    assert observation["attention_mask"].tolist() == [0] * 2 + [1] * 5
    assert (reward, terminated, truncated) == (0.5, True, False)
    assert info == {
        "prompt": "rain fell",
        "index": 0,
        "response": "fell rain",
        "response_tokens": 3,
        "finish_reason": "stop",
        "reward_terms": {"task": 0.5},
    }
    assert env.token_task.task.calls == [(["rain fell"], ["fell rain"], {"reference": ["fell"]})]


@pytest.mark.parametrize(
    ("length_limit", "flags"), [("terminate", (True, False)), ("truncate", (False, True))]
)
def test_length_limit(length_limit, flags):
    env = make_env(length_limit=length_limit)
    env.reset(options={"index": 1})
    env.step(SHONE)
    env.step(SHONE)
    _, reward, *flagged, info = env.step(SHONE)
    assert tuple(flagged) == flags
    assert (reward, info["finish_reason"], info["response_tokens"]) == (1.0, "length", 3)
    env.reset(options={"index": 1})
    _, _, terminated, truncated, info = env.step(EOS)
    assert (terminated, truncated) == (True, False)
    assert (info["response"], info["finish_reason"]) == ("", "stop")


def test_eos_as_last_allowed_token_is_a_stop():
    env = make_env(max_response_tokens=1, length_limit="truncate")
    env.reset(seed=0)
    _, _, terminated, truncated, info = env.step(EOS)
    assert (terminated, truncated, info["finish_reason"]) == (True, False, "stop")


def test_prompts_follow_the_seed_alone():
    def prompts(env, seed):
        first = env.reset(seed=seed)[1]["prompt"]
        return [first] + [env.reset()[1]["prompt"] for _ in range(20)]

    legacy = np.random.get_bit_generator()
    state = str(legacy.state)
    one, other = prompts(make_env(), 3), prompts(make_env(), 4)
    assert one == prompts(make_env(), 3)
    assert one != other
    assert set(one) == set(PROMPTS)
    assert str(legacy.state) == state, "drew from the global generator"


def test_options_prompt_brings_its_columns():
    env = make_env()
    state = env.np_random.bit_generator.state
    observation, info = env.reset(options={"prompt": "wind blew", "reference": "sun"})
    assert info == {"prompt": "wind blew", "index": -1}
    assert observation["input_ids"].tolist()[-2:] == [WIND, BLEW]
    env.step(SUN)
    _, reward, *_ = env.step(EOS)
    assert reward == 1.0
    assert env.np_random.bit_generator.state == state


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"index": 4}, ConfigError, r"index must be in \[0, 4\), got 4"),
        ({"index": -1}, ConfigError, r"got -1"),
        ({"promt": "rain"}, ConfigError, "'promt'"),
        ({"index": 0, "prompt": "rain"}, ConfigError, "'index', 'prompt'"),
        ({"prompt": "rain rain rain rain rain"}, PromptTooLongError, "5 tokens, the limit is 4"),
    ],
)
def test_bad_reset_options(options, error, message):
    with pytest.raises(error, match=message):
        make_env().reset(options=options)


@pytest.mark.parametrize("action", [-1, 9, 1.0, "rain", None, np.array([1]), np.array(1.0)])
def test_bad_action_is_refused_and_changes_nothing(action):
    env = make_env()
    before, _ = env.reset(seed=0)
    with pytest.raises(InvalidActionError, match="action must be"):
        env.step(action)
    after, *_ = env.step(RAIN)
    assert after["input_ids"][:-1].tolist() == before["input_ids"][1:].tolist()


def test_step_out_of_order():
    env = make_env(render_mode="ansi")
    with pytest.raises(EpisodeOverError, match="reset first"):
        env.step(RAIN)
    with pytest.raises(EpisodeOverError, match="reset first"):
        env.render()
    env.reset()
    env.step(EOS)
    with pytest.raises(EpisodeOverError, match="reset first"):
        env.step(RAIN)
    env.reset()
    env.step(RAIN)


@pytest.mark.parametrize("registered", [False, True])
def test_step_before_reset_is_the_same_error_through_make(registered):
    env = make_env()
    if registered:
        env = gymnasium.make("textgym/Text-v0", task=WordTask(), tokenizer=make_tokenizer())
    with pytest.raises(EpisodeOverError):
        env.step(RAIN)


@pytest.mark.parametrize(
    ("values", "message"), [([float("nan")], "nan"), ([], "0 values for 1"), ([1, 2], "2 values")]
)
def test_bad_reward(values, message):
    def broken(prompts, completions, **columns):
        return values

    env = make_env(reward=broken)
    env.reset()
    with pytest.raises(RewardError, match=rf"'broken' returned .*{message}|{message}"):
        env.step(EOS)


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"split": "dev"}, DataError, "unknown split 'dev'"),
        ({"split": "test"}, DataError, "empty"),
        ({"split": "validation"}, DataError, "columns: text, label"),
        ({"length_limit": "stop"}, ConfigError, "terminate, truncate"),
        ({"max_prompt_tokens": 0}, ConfigError, "max_prompt_tokens must be >= 1, got 0"),
        ({"max_response_tokens": -1}, ConfigError, "max_response_tokens must be >= 1, got -1"),
        ({"vocab_size": 8}, ConfigError, "vocab_size must be >= the tokenizer's 9, got 8"),
        ({"data": "folder"}, ConfigError, "takes no options, got data"),
    ],
)
def test_bad_configuration(options, error, message):
    with pytest.raises(error, match=message):
        make_env(**options)


def test_unknown_task_and_tokenizer(tmp_path):
    with pytest.raises(UnknownNameError, match="did you mean 'summarize'"):
        TextEnv("sumarize", make_tokenizer())
    with pytest.raises(ModelError):
        TextEnv(WordTask(), str(tmp_path))
    tokenizer = make_tokenizer()
    tokenizer.eos_token = None
    with pytest.raises(ModelError, match="no EOS"):
        TextEnv(WordTask(), tokenizer)


def test_pad_equal_to_eos_is_told_apart_by_the_mask():
    tokenizer = make_tokenizer(pad=False)
    env = TextEnv(WordTask(), tokenizer)
    assert tokenizer.pad_token is None, "what the user passed was changed"
    env.reset(options={"index": 1})
    observation, *_ = env.step(EOS)
    assert observation["input_ids"].tolist() == [EOS] * 5 + [SUN, EOS]
    assert observation["attention_mask"].tolist() == [0] * 5 + [1, 1]


def test_model_head_larger_than_tokenizer():
    env = make_env(vocab_size=16)
    assert env.action_space.n == 16
    env.reset()
    observation, *_ = env.step(15)
    assert observation in env.observation_space
    assert env.step(EOS)[-1]["response"] == ""


def test_observations_do_not_change_under_the_user():
    env = make_env(max_response_tokens=30)
    held = [env.reset(seed=0)[0]]
    held += [env.step(RAIN)[0] for _ in range(20)]
    copies = [{name: array.copy() for name, array in one.items()} for one in held]
    held[0]["input_ids"][:] = 7
    held[-1]["attention_mask"][:] = 0
    after, *_ = env.step(SUN)
    assert after["input_ids"].tolist()[:-1] == copies[-1]["input_ids"].tolist()[1:]
    assert after["attention_mask"].tolist()[:-1] == copies[-1]["attention_mask"].tolist()[1:]
    for one, copy in zip(held[1:-1], copies[1:-1], strict=True):
        assert (one["input_ids"] == copy["input_ids"]).all()


def test_decoding_is_that_of_rollouts():
    text = "the rain fell on café roofs, didn't it? "
    tokenizer = train_tokenizer([text] * 5, 300)
    env = TextEnv(WordTask(), tokenizer, max_prompt_tokens=200)
    ids = np.random.default_rng(0).integers(0, len(tokenizer), (50, 12))
    mask = torch.ones(ids.shape, dtype=torch.bool)
    expected = decode_responses(tokenizer, torch.from_numpy(ids), mask)
    assert [env.token_task.decode(row) for row in ids] == expected


def test_a_task_with_a_language_of_its_own_brings_its_tokenizer():
    env = gymnasium.make("textgym/TwoModes-v0")
    assert env.action_space.n == 3
    env.reset(seed=0)
    tokens = env.unwrapped.token_task.tokenizer.get_vocab()
    *_, terminated, _, info = env.step(tokens["A"])
    assert terminated
    assert (info["response"], info["reward_terms"]) == ("A", {"task": 0.51})
    # Another tokenizer's texts can be asked for, and are worth the least.
    env = TextEnv("two-modes", make_tokenizer())
    env.reset()
    assert env.step(RAIN)[1] == 0


def test_noise_follows_the_seed():
    def reward(env, seed):
        env.reset(seed=seed, options={"index": 0})
        return env.step(env.token_task.eos_id)[1]

    env = TextEnv("noisy-reward")
    first = reward(env, 3)
    assert reward(env, 3) == first
    assert reward(TextEnv("noisy-reward"), 3) == first
    assert reward(env, 4) != first


def test_render(capsys):
    env = make_env(render_mode="ansi")
    env.reset(options={"index": 0})
    env.step(FELL)
    assert env.render() == "[prompt]\nrain fell\n[response: 1 tokens, open]\nfell\n[reward]"
    env.step(EOS)
    end = "[prompt]\nrain fell\n[response: 2 tokens, stop]\nfell\n[reward]\ntask 1.0000"
    assert env.render() == end
    assert capsys.readouterr().out == ""

    env = make_env(render_mode="human")
    env.reset(options={"index": 0})
    env.step(FELL)
    assert capsys.readouterr().out == ""
    env.step(EOS)
    assert capsys.readouterr().out == end + "\n"
    assert env.render() is None
    assert capsys.readouterr().out == end + "\n"
    env = make_env()
    env.reset()
    assert env.render() is None


def test_registration_is_light_and_idempotent():
    register_envs()  # warnings are errors, and a second registration would warn
    assert {*ENVS, *GAMES} <= set(gymnasium.registry)
    code = (
        "import sys, textgym, gymnasium; assert 'textgym/Text-v0' in gymnasium.registry;"
        "print([m for m in ('torch', 'transformers', 'datasets', 'pandas') if m in sys.modules])"
    )
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert out.stdout.strip() == "[]"
