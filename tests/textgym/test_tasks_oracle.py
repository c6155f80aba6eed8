"""The oracle tasks against their own words: tables worked out by hand, models enumerated."""

from __future__ import annotations

import itertools
import json
import math

import numpy as np
import pytest
import torch

from textgym.agents.base import enumerated
from textgym.cache import report_of
from textgym.errors import ConfigError, DataError, TextGymError, UnknownNameError
from textgym.metrics import exact
from textgym.models.policy import load_policy
from textgym.rollout import rollout
from textgym.seeding import Streams
from textgym.tasks import TASKS, load_task
from textgym.tasks.oracle.base import OracleTask, numbered_prompts
from textgym.tasks.oracle.many_good_answers import GOOD
from textgym.tasks.oracle.tic_tac_toe import TicTacToe
from textgym.tasks.oracle.two_modes import TwoModes
from textgym.worlds.tictactoe import EMPTY, OPPONENTS, legal_moves, move_values

NAMES = [name for name in TASKS if TASKS.target(name).startswith("textgym.tasks.oracle.")]


def at(task, table, text, prompt=0):
    return table[prompt, task.texts.index(text)]


def uniform_over(task, texts):
    chosen = np.array([[float(text in texts) for text in task.texts]])
    return chosen / chosen.sum()


# What every oracle task promises.


@pytest.mark.parametrize("name", NAMES)
def test_tables_are_distributions_and_scores(name):
    task = load_task(name)
    tables, shape = task.tables, (len(task.asked), len(task.texts))
    experts = tables.known if tables.experts is None else tables.experts
    for distribution in (tables.known, experts):
        assert distribution.shape == shape
        assert (distribution >= 0).all()
        assert distribution.sum(axis=1) == pytest.approx(1)
    assert tables.rewards.shape == tables.gold.shape == shape
    assert tables.gold.min() >= 0
    assert tables.gold.max() <= 1
    if not task.has_gold:
        assert (tables.gold == tables.rewards).all()
    assert len(set(task.texts)) == len(task.texts)
    assert len(set(task.asked)) == len(task.asked)


@pytest.mark.parametrize("name", NAMES)
def test_the_language_model_says_what_is_known_of_it(name):
    task = load_task(name)
    folder = task.language_model()
    assert task.language_model() == folder
    policy = load_policy(folder)
    assert policy.tokenizer.get_vocab() == task.tokenizer().get_vocab()
    picked = range(0, len(task.asked), max(1, len(task.asked) // 40))
    asked = [task.asked[n] for n in picked]
    left = exact.kl(task.tables.known[list(picked)], enumerated(policy, task, asked))
    assert left.max() < 1e-2
    assert report_of(folder)["kl"] < 1e-2


@pytest.mark.parametrize("name", NAMES)
def test_what_is_sampled_can_be_looked_up(name):
    task = load_task(name)
    rows = task.prompts("test").select(range(min(4, len(task.asked))))
    policy = load_policy(task.language_model())
    generator = torch.Generator().manual_seed(0)
    samples = rollout(policy, task, rows, samples_per_prompt=64, generator=generator)
    assert set(samples.completions) <= set(task.texts)
    texts = (samples.prompts, samples.completions)
    pairs = zip(*texts, strict=True)
    looked_up = [at(task, task.tables.gold, text, task.asked.index(p)) for p, text in pairs]
    assert task.gold(*texts) == looked_up


@pytest.mark.parametrize("name", NAMES)
def test_prompts_and_demonstrations(name):
    task = load_task(name)
    for split in ("train", "validation", "test"):
        assert task.prompts(split)["prompt"][:] == task.asked
    with pytest.raises(DataError, match="unknown split 'dev'"):
        task.prompts("dev")
    rows = task.demonstrations()
    assert rows.column_names == ["prompt", "completion"]
    assert set(rows["completion"]) <= set(task.texts)
    assert rows.to_list() == load_task(name).demonstrations().to_list()
    counts = [rows["prompt"][:].count(prompt) for prompt in task.asked[:50]]
    assert max(counts) - min(counts) <= 1, "every prompt is demonstrated alike"


@pytest.mark.parametrize("name", NAMES)
def test_another_prompt_is_an_error_and_another_text_is_worth_least(name):
    task = load_task(name)
    with pytest.raises(DataError, match=f"'no such' is no prompt of task '{name}'"):
        task.reward(["no such"], [""])
    best = task.tables.gold.max(axis=1).argmax()
    prompt = task.asked[best]
    assert task.gold([prompt], ["an answer"]) == [task.tables.gold.min()]
    assert task.gold([prompt], ["an answer"])[0] < task.tables.gold[best].max()


def test_demonstrations_follow_the_regularised_optimum():
    task = load_task("known-frontier")
    rows = task.demonstrations().to_list()
    # pi* by its definition, each prompt asked 256 times.
    weights = task.tables.known * np.exp(task.tables.gold / 0.2)
    optimum = weights / weights.sum(axis=1, keepdims=True)
    found = np.zeros(optimum.shape)
    for row in rows:
        found[task.asked.index(row["prompt"]), task.texts.index(row["completion"])] += 1
    assert found.sum(axis=1).tolist() == [256] * 4
    error = np.sqrt(optimum * (1 - optimum) / 256)
    assert (np.abs(found / 256 - optimum) <= 4 * error + 1 / 256).all()


def test_a_language_model_is_kept_where_it_is_said(tmp_path):
    folder = TwoModes(cache=tmp_path).language_model()
    assert folder.parent == tmp_path
    key = json.loads((folder / "entry.json").read_text())["key"]
    assert key["known"] == [[0.01, 0.495, 0.495]]
    # Neither the reward nor its price touches what the model is.
    assert TwoModes(right=0.9, beta=1.0, cache=tmp_path).language_model() == folder


def test_numbered_prompts_are_different_and_of_one_length():
    for symbols, count in itertools.product(("a", "ab", "abcd"), (1, 2, 3, 4, 5, 17)):
        if symbols == "a" and count > 1:
            continue
        prompts = numbered_prompts(symbols, count)
        assert len(set(prompts)) == count
        assert len({len(prompt) for prompt in prompts}) == 1


# Each task by hand.


def test_two_modes_by_hand():
    task = load_task("two-modes")
    assert sorted(task.texts) == ["", "A", "B"]
    known, rewards, gold, experts = task.tables
    assert [at(task, known, text) for text in ("", "A", "B")] == [0.01, 0.495, 0.495]
    for table in (rewards, gold, experts):
        assert [at(task, table, text) for text in ("", "A", "B")] == [0, 0.51, 0.49]
    best = exact.tilted(known, rewards, task.beta)
    assert at(task, best, "A") / at(task, best, "B") == pytest.approx(math.exp(0.02 / 0.2))
    said = task.demonstrations()["completion"][:]
    assert set(said) == {"A", "B"}
    assert said.count("A") / 1024 == pytest.approx(0.51, abs=4 * math.sqrt(0.25 / 1024))
    p = np.array([[0.2, 0.3, 0.5]])[:, [task.texts.index(t) for t in ("", "A", "B")]]
    assert task.exact_measures(p, [""])["p_a"].tolist() == [at(task, p, "A")]


def test_credit_by_hand():
    task = load_task("credit", horizons="1+3")
    assert task.asked == ["a", "b"]
    assert len(task.texts) == 1 + 2 + 4 + 8
    for prompt, length in enumerate((1, 3)):
        for text, p in zip(task.texts, task.tables.known[prompt], strict=True):
            assert p == (2.0**-length if len(text) == length else 0)
    assert at(task, task.tables.rewards, "abb") == 1
    assert at(task, task.tables.rewards, "baa") == at(task, task.tables.rewards, "") == 0
    # Odds of e^5 for a first "a", at any length.
    best = exact.tilted(task.tables.known, task.tables.rewards, 0.2)
    first = np.array([text.startswith("a") for text in task.texts])
    assert best[:, first].sum(axis=1) == pytest.approx(math.exp(5) / (1 + math.exp(5)))
    assert load_task("credit", horizons=3).horizons == (3,)
    assert load_task("credit").horizons == (1, 2, 4, 8)


def test_many_good_answers_by_hand():
    task = load_task("many-good-answers")
    rewards, known = task.tables.rewards, task.tables.known
    assert rewards.sum(axis=1).tolist() == [1, 2, 4, 8, 16, 32] == list(GOOD)
    assert set(np.unique(rewards)) == {0, 1}
    long = np.array([len(text) == 2 for text in task.texts])
    assert (known[:, long] == 1 / 64).all()
    assert not known[:, ~long].any()
    assert not rewards[:, ~long].any()
    measures = task.exact_measures(known, task.asked)
    assert measures["good"] == pytest.approx([k / 64 for k in GOOD])
    assert measures["coverage"] == pytest.approx([1] * 6)
    assert measures["good_answers"].tolist() == list(GOOD)
    # Two of the four good answers to the third prompt, half the time.
    good, bad = np.flatnonzero(rewards[2]), np.flatnonzero(rewards[2] == 0)
    p = np.zeros((1, len(task.texts)))
    p[0, good[:2]], p[0, bad[0]] = 0.25, 0.5
    found = task.exact_measures(p, [task.asked[2]])
    assert (found["good"][0], found["coverage"][0]) == pytest.approx((0.5, 2 / 4))
    # The optimum says the good ones alike.
    best = exact.tilted(known, rewards, task.beta)
    weights = [k * math.exp(5) / (k * math.exp(5) + 64 - k) for k in GOOD]
    assert task.exact_measures(best, task.asked)["good"] == pytest.approx(weights)
    again = load_task("many-good-answers").tables.rewards
    assert (again == rewards).all()
    assert (load_task("many-good-answers", seed=1).tables.rewards != rewards).any()


def test_stepping_stones_by_hand():
    task = load_task("stepping-stones")
    known, rewards, gold = task.tables[:3]
    assert len(task.texts) == 1 + 4 + 16 + 64 + 256
    best = [text for text, value in zip(task.texts, gold[0], strict=True) if value == 1]
    assert sorted(best) == ["dad", "dada", "dadb", "dadc", "dadd"]
    for text in task.texts:
        if text.startswith("d"):
            assert at(task, rewards, text) == 0.1
            assert at(task, gold, text) in (0.1, 1.0)
        else:
            assert 0.2 <= at(task, rewards, text) == at(task, gold, text) <= 0.7
    # Token by token: an EOS first one time in twenty, later one in ten.
    assert at(task, known, "") == pytest.approx(0.05)
    assert at(task, known, "d") == pytest.approx(0.05 * 0.1)
    assert at(task, known, "ab") == pytest.approx(0.3 * 0.225 * 0.1)
    assert at(task, known, "abcd") == pytest.approx(0.3 * 0.225**3)
    treasure = task.exact_measures(known, [""])["p_best"]
    assert treasure == pytest.approx([0.05 * 0.225**2])


def test_the_tuned_policy_is_overtaken_by_the_one_it_began_as():
    task = load_task("stepping-stones")
    known = task.tables.known
    tuned = exact.tilted(known, task.tables.rewards, task.beta)
    before, after = (task.exact_measures(p, [""]) for p in (known, tuned))
    assert after["best_of/1"] > before["best_of/1"]
    assert after["best_of/1024"] < before["best_of/1024"]
    # All the mass on a "dad" and on one other answer: 1 - 2^-k of the one, 2^-k of the other.
    p = uniform_over(task, ["dadb", "dd"])
    found = task.exact_measures(p, [""])
    assert found["best_of/1"][0] == pytest.approx(0.55)
    assert found["best_of/4"][0] == pytest.approx(1 - 0.9 / 16)


def test_known_frontier_is_drawn_from_its_seed():
    task = load_task("known-frontier")
    assert (len(task.asked), len(task.texts)) == (4, 1 + 4 + 16)
    again, other = load_task("known-frontier"), load_task("known-frontier", seed=1)
    for mine, same, different in zip(task.tables[:2], again.tables, other.tables, strict=False):
        assert (mine == same).all()
        assert (mine != different).all()
        assert len(np.unique(mine)) == mine.size, "every number is drawn anew"
    # One more prompt, another vocabulary.
    small = load_task("known-frontier", vocabulary=2, horizon=3, prompts=1)
    assert small.texts == ["", "a", "aa", "aaa"]
    assert small.asked == [""]


# Noise.


def test_noise_is_that_of_the_run():
    task = load_task("noisy-reward")
    quiet = load_task("known-frontier")
    prompts, texts = task.asked * 500, task.texts[:4] * 500

    def rewards(of):
        return np.array(of.reward(prompts, texts))

    def of_run(seed):
        return task.for_run(Streams(seed))

    run = of_run(3)
    first, second = rewards(run), rewards(run)
    assert (first != second).all(), "drawn anew each time"
    assert (rewards(of_run(3)) == first).all()
    assert (rewards(of_run(4)) != first).all()
    assert (rewards(task) == rewards(load_task("noisy-reward"))).all(), "the runs drew elsewhere"
    noise = first - rewards(quiet)
    assert noise.mean() == pytest.approx(0, abs=4 * 0.5 / math.sqrt(noise.size))
    assert noise.std() == pytest.approx(0.5, rel=0.1)
    # Neither the truth nor the optimum is blurred.
    assert task.gold(prompts[:4], texts[:4]) == quiet.gold(prompts[:4], texts[:4])
    assert (task.tables.rewards == quiet.tables.rewards).all()
    assert quiet.for_run(Streams(3)) is quiet


# Tic-tac-toe.


@pytest.fixture(scope="module")
def game():
    return load_task("tic-tac-toe")


def best_moves(task):
    """[N, L], all mass on the first of the best legal moves of each board."""
    table = np.zeros((len(task.asked), len(task.texts)))
    for row, board in zip(table, task.asked, strict=True):
        values = move_values(board, task.opponent)
        row[task.texts.index(str(1 + max(values, key=lambda cell: values[cell])))] = 1
    return table


def test_a_move_is_worth_its_result(game):
    # X wins on cell 3 or lets O win on 6; a taken cell, silence and a mark are no moves.
    board = "XX.OO...."
    boards, texts = [board] * 5, ["3", "7", "1", "", "X"]
    assert game.reward(boards, texts) == [1, 0, 0, 0, 0]
    # Against perfect play the empty board is a draw wherever one begins.
    assert game.reward([EMPTY] * 9, list("123456789")) == [0.5] * 9
    p = np.full((1, len(game.texts)), 1 / len(game.texts))
    measures = game.exact_measures(p, [board])
    assert measures["legal"][0] == pytest.approx(5 / 13)
    assert measures["best_move"][0] == pytest.approx(1 / 13)


def test_no_illegal_answer_is_a_best_move(game):
    # Where every move loses, each is worth what a taken cell is; that is still no move.
    lost = next(b for b in game.asked if max(move_values(b, "perfect").values()) == -1)
    taken = next(str(cell + 1) for cell in range(9) if cell not in legal_moves(lost))
    measures = game.exact_measures(uniform_over(game, [taken]), [lost])
    assert (measures["legal"][0], measures["best_move"][0]) == (0, 0)


@pytest.mark.parametrize("opponent", OPPONENTS)
def test_who_answers_with_the_best_move_earns_its_value(opponent):
    task = TicTacToe(opponent)
    table = best_moves(task)
    assert task.exact_measures(table, task.asked)["best_move"].min() == 1
    outcome = task.games(table)
    assert outcome.value == pytest.approx(max(move_values(EMPTY, opponent).values()))
    assert sum(outcome) == pytest.approx(1)


def test_whole_games(game):
    table = best_moves(game)
    assert game.games(table) == (0, 1, 0)
    assert all(game.games(table, opponent).loss == 0 for opponent in OPPONENTS)
    asked = []

    def answers(prompts):
        asked.extend(prompts)
        return table

    found = game.summaries(answers)
    assert asked == game.asked
    assert found == {f"games/{o}": game.games(table, o).value for o in OPPONENTS}
    silent = np.tile(uniform_over(game, [""]), (len(game.asked), 1))
    assert game.games(silent) == (0, 0, 1)
    # Silent half the time on the first board, perfect afterwards.
    table[game.asked.index(EMPTY)] = (table[game.asked.index(EMPTY)] + silent[0]) / 2
    assert game.games(table) == (0, 0.5, 0.5)
    with pytest.raises(ConfigError, match=r"expected probabilities of shape \[2423, 13\], got"):
        game.games(table[:5])


# What a user can say wrong.


@pytest.mark.parametrize(
    ("name", "options", "says"),
    [
        (
            "known-frontier",
            {"vocabulary": 17},
            "vocabulary must be between 2 and 16 tokens, got 17",
        ),
        ("known-frontier", {"vocabulary": 1}, "vocabulary must be between 2 and 16"),
        ("known-frontier", {"horizon": 9}, "horizon must be between 1 and 8 tokens, got 9"),
        ("known-frontier", {"horizon": 0}, "horizon must be between 1 and 8 tokens, got 0"),
        ("known-frontier", {"vocabulary": 16, "horizon": 5}, "more than the 65536"),
        ("known-frontier", {"vocabulary": 2, "prompts": 2}, "one symbol can write one prompt"),
        ("known-frontier", {"prompts": 0}, "prompts must be >= 1, got 0"),
        ("known-frontier", {"beta": 0}, "beta must be > 0, got 0"),
        ("known-frontier", {"beta": math.nan}, "beta must be > 0, got nan"),
        ("known-frontier", {"noise": math.nan}, "noise must be >= 0, got nan"),
        ("noisy-reward", {"noise": -1}, "noise must be >= 0, got -1"),
        ("two-modes", {"right": 1}, r"right must be in \(0, 1\), got 1"),
        ("credit", {"horizons": "1+9"}, "between 1 and 8 tokens, got"),
        ("credit", {"horizons": "1+x"}, "whole numbers like 1.4.8, got '1.x'"),
        ("credit", {"horizons": ()}, "between 1 and 8"),
        ("tic-tac-toe", {"opponent": "perfekt"}, "did you mean 'perfect'"),
        ("two-modes", {"rigth": 0.5}, "unknown option 'rigth'; did you mean 'right'"),
    ],
)
def test_options_outside_their_domain(name, options, says):
    with pytest.raises(TextGymError, match=says) as raised:
        load_task(name, **options)
    assert isinstance(raised.value, UnknownNameError if name == "tic-tac-toe" else ConfigError)
    assert "\n" not in str(raised.value)


def test_an_oracle_task_needs_its_tables():
    with pytest.raises(TypeError, match="write_tables"):
        OracleTask(symbols="a", horizon=1, prompts=[""])
