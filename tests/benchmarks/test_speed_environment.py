import gymnasium
import numpy as np
import pytest

from textgym.benchmarks.speed import environment
from textgym.benchmarks.speed.environment import RedecodingEnv, SpeedTask, speed_tokenizer
from textgym.envs.vector_env import TextVectorEnv

WINDOW = (24, 5)


@pytest.fixture
def small(monkeypatch):
    monkeypatch.setattr(environment, "WINDOWS", (WINDOW,))
    monkeypatch.setattr(environment, "ROWS", 2)
    monkeypatch.setattr(environment, "STEPS", 6)


def peer(prompts, tokenizer):
    return RedecodingEnv(tokenizer, prompts, *WINDOW, np.random.default_rng(0))


@pytest.mark.parametrize("tokens", [[299, 40, 270, 260, 50], [299, 40, 0]], ids=["length", "EOS"])
def test_the_peer_shows_what_our_environment_shows(tokens):
    """Same prompt and tokens: the same contexts, the same end, the same text."""
    prompt, tokenizer = "rain fell on hills", speed_tokenizer()
    ours = gymnasium.make("textgym/Text-v0", task=SpeedTask(*WINDOW), tokenizer=tokenizer)
    theirs = peer([prompt], speed_tokenizer())
    expected, _ = ours.reset(options={"prompt": prompt})
    found = theirs.reset()
    # 299 is a word, 40 a byte; the response ends by EOS (0) or at five tokens.
    for step, token in enumerate(tokens, start=1):
        assert found["ids"].tolist() == expected["input_ids"].tolist()
        assert found["mask"].tolist() == expected["attention_mask"].tolist()
        expected, reward, terminated, _, info = ours.step(token)
        found, peer_reward, done, peer_info = theirs.step(token)
        assert (peer_reward, done) == (reward, terminated) == (0.0, step == len(tokens))
    assert peer_info["output"] == info["response"]
    assert found["ids"].tolist() == expected["input_ids"].tolist()


def test_the_peers_arrays_by_hand():
    tokenizer = speed_tokenizer()
    pad = tokenizer.pad_token_id
    rain, wind = (tokenizer(word)["input_ids"][0] for word in ("rain", "wind"))
    env = peer(["rain wind"], tokenizer)
    arrays = env.reset()
    prompt = tokenizer("rain wind")["input_ids"]
    assert arrays["prompt_ids"].tolist() == [pad] * (24 - len(prompt)) + prompt
    assert arrays["response_mask"].tolist() == [0, 0, 0, 0, 0]
    env.step(rain)
    arrays, _, done, info = env.step(wind)
    assert arrays["response_ids"].tolist() == [pad, pad, pad, rain, wind]
    assert arrays["response_mask"].tolist() == [0, 0, 0, 1, 1]
    assert arrays["ids"].tolist()[-len(prompt) - 2 :] == [*prompt, rain, wind]
    assert arrays["mask"].sum() == len(prompt) + 2
    assert not done
    assert info["output"] == tokenizer.decode([rain, wind])
    assert info["previous_output"] == tokenizer.decode([rain])
    assert info["tokens"] == tokenizer.convert_ids_to_tokens([rain, wind])


def test_every_step_copies_what_it_holds_and_what_it_shows():
    env = peer(["rain"], speed_tokenizer())
    env.reset()
    shown, *_, info = env.step(299)
    held = env._state
    assert not any(np.shares_memory(shown[name], getattr(held, name).numpy()) for name in shown)
    response, tokens = held.response_ids.clone(), list(info["tokens"])
    env.step(298)
    assert held.response_ids.tolist() == response.tolist()
    assert info["tokens"] == tokens


@pytest.mark.usefixtures("small")
def test_both_are_compared_over_equally_many_tokens(monkeypatch):
    counted = dict.fromkeys((TextVectorEnv, RedecodingEnv), 0)

    def count(kind):
        plain = kind.step

        def step(self, action):
            counted[kind] += np.size(action)
            return plain(self, action)

        monkeypatch.setattr(kind, "step", step)

    for kind in counted:
        count(kind)
    (row,) = environment.measure(repeats=1)
    # One run warms up; both take 6 steps of 2 rows, ours several times.
    assert counted == {TextVectorEnv: 2 * environment.PASSES * 12, RedecodingEnv: 2 * 12}
    assert row.goal == 100
    assert "24 + 5 tokens" in row.name
    assert row.ratio > 1
    assert row.low == row.ratio == row.high == pytest.approx(row.peer / row.ours)
    assert row.detail["peer token steps/s"] == pytest.approx(12 / row.peer)
    assert row.detail["ours token steps/s"] == pytest.approx(12 / row.ours)


@pytest.mark.usefixtures("small")
def test_speeds_has_a_row_for_every_way_to_step():
    table = environment.speeds(steps=200, repeats=1)
    columns = [list(column.cells) for column in table.columns]
    assert columns[0] == ["TextEnv, bare", "TextEnv, as made", "TextVectorEnv, 2"]
    assert columns[1] == ["24 + 5"] * 3
    assert all(int(cell.replace(",", "")) > 100 for cell in columns[2])
