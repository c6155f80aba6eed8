"""Tic-tac-toe: the game against an independent enumeration, the environment against the game."""

from __future__ import annotations

from collections import Counter
from fractions import Fraction
from functools import cache
from itertools import combinations

import gymnasium
import numpy as np
import pytest
from gymnasium.envs.registration import EnvSpec
from gymnasium.utils.env_checker import check_env, data_equivalence
from gymnasium.vector import AutoresetMode, SyncVectorEnv

from textgym.envs.tictactoe import TicTacToeEnv
from textgym.errors import (
    ConfigError,
    EpisodeOverError,
    InvalidActionError,
    UnknownNameError,
)
from textgym.worlds import tictactoe as game

# In a magic square the lines, and nothing else, are the three cells that sum to 15.
MAGIC = (2, 7, 6, 9, 5, 1, 4, 3, 8)
CELLS = frozenset(range(9))
BOARDS = game.decision_boards()


def has_line(cells):
    return any(sum(MAGIC[cell] for cell in three) == 15 for three in combinations(cells, 3))


def text(xs, os):
    return "".join("X" if cell in xs else "O" if cell in os else "." for cell in range(9))


@cache
def positions():
    """Every position of a game that X begins, by play: (X's cells, O's cells) -> its children."""
    children = {}
    frontier = [(frozenset(), frozenset())]
    while frontier:
        xs, os = frontier.pop()
        if (xs, os) in children:
            continue
        over = has_line(xs) or has_line(os)
        moves = set() if over else CELLS - xs - os
        turn_of_x = len(xs) == len(os)
        children[xs, os] = [(xs | {m}, os) if turn_of_x else (xs, os | {m}) for m in moves]
        frontier += children[xs, os]
    return children


def swapped(board):
    return board.translate(str.maketrans("XO", "OX"))


def best_moves(board, opponent):
    values = game.move_values(board, opponent)
    return [cell for cell, value in values.items() if value == max(values.values())]


def uniform(board):
    return dict.fromkeys(game.legal_moves(board), 1 / len(game.legal_moves(board)))


def perfect(board):
    return dict.fromkeys(best := best_moves(board, "perfect"), 1 / len(best))


# The game


def test_rules_on_every_position():
    results = Counter()
    for (xs, os), children in positions().items():
        board = text(xs, os)
        x_won, o_won = has_line(xs), has_line(os)
        assert game.winner(board) == ("X" if x_won else "O" if o_won else None)
        assert game.is_over(board) == (not children)
        mark = "X" if len(xs) == len(os) else "O"
        moves = game.legal_moves(board)
        placed = [game.place(board, cell, mark) for cell in moves]
        assert sorted(placed) == sorted(text(*child) for child in children)
        assert moves == sorted(moves)
        if not children:
            assert game.result(board) == x_won - o_won
            results[game.result(board)] += 1
    assert len(positions()) == 5478
    assert results == {1.0: 626, -1.0: 316, 0.0: 16}


def test_decision_boards_are_those_of_legal_play():
    open_boards = [(len(xs) == len(os), text(xs, os)) for (xs, os), c in positions().items() if c]
    agent_first = sorted(board for x_moves, board in open_boards if x_moves)
    # The opponent's turns of a game that the agent began, with the marks exchanged.
    opponent_first = sorted(swapped(board) for x_moves, board in open_boards if not x_moves)
    assert game.decision_boards() == agent_first
    assert game.decision_boards("opponent") == opponent_first
    assert (len(agent_first), len(opponent_first)) == (2423, 2097)


def test_minimax_by_backward_induction():
    values = {}
    for xs, os in sorted(positions(), key=lambda p: -len(p[0] | p[1])):
        children = [values[child] for child in positions()[xs, os]]
        best = max if len(xs) == len(os) else min
        values[xs, os] = best(children) if children else has_line(xs) - has_line(os)
    assert len(values) == 5478
    for (xs, os), value in values.items():
        to_move, other = ("X", "O") if len(xs) == len(os) else ("O", "X")
        assert game.minimax(text(xs, os), to_move) == value
        assert game.minimax(swapped(text(xs, os)), other) == -value


@pytest.mark.parametrize(
    ("board", "cells"),
    [
        ("OO.XX....", [2]),  # completes its row, though X threatens to
        ("XX.O.....", [2]),  # blocks
        ("OX.O....X", [6]),  # completes its column
        ("OO.OX..XX", [2, 6]),  # completes a row or a column
        ("X.X.O.X.O", [1, 3]),  # blocks one of two
        ("X...O...X", [1, 2, 3, 5, 6, 7]),  # nothing to complete or to block
    ],
)
def test_greedy_opponent(board, cells):
    assert game.opponent_moves(board, "greedy") == dict.fromkeys(cells, 1 / len(cells))


@pytest.mark.parametrize(
    ("board", "cells"),
    [
        ("X........", [4]),  # every other answer to a corner loses
        ("....X....", [0, 2, 6, 8]),  # every edge loses
        (".X.......", [0, 2, 4, 7]),
        ("X...O...X", [1, 3, 5, 7]),  # a corner gives X two threats
        ("OO.XX....", [2]),
    ],
)
def test_perfect_opponent(board, cells):
    assert game.opponent_moves(board, "perfect") == dict.fromkeys(cells, 1 / len(cells))


def test_random_opponent():
    assert game.opponent_moves("XOXX.OO..", "random") == {4: 1 / 3, 7: 1 / 3, 8: 1 / 3}
    assert game.opponent_moves("XXXOO....", "random") == {}


@pytest.mark.parametrize("opponent", game.OPPONENTS)
def test_move_values_by_hand(opponent):
    """O threatens 5 and 7, and X can block only one of them.

    After X's 5 or 7 O wins on the other, or, at random, takes 8 and lets X fill the board. After
    X's 8 both cells left win.
    """
    values = game.move_values("XOXOO.X..", opponent)
    random = opponent == "random"
    assert values == ({5: -0.5, 7: -0.5, 8: -1} if random else {5: -1, 7: -1, 8: -1})
    assert game.move_values("XX.OO....", opponent)[2] == 1
    assert game.move_values("XXXOO....", opponent) == {}


@pytest.mark.parametrize("first", game.FIRST)
def test_move_values_against_minimax_on_every_board(first):
    better = Counter()
    for board in game.decision_boards(first):
        safe = {
            cell: game.minimax(game.place(board, cell, "X"), "O")
            for cell in game.legal_moves(board)
        }
        assert game.move_values(board, "perfect") == safe
        for opponent in ("random", "greedy"):
            values = game.move_values(board, opponent)
            assert list(values) == list(safe)
            assert all(safe[cell] <= values[cell] <= 1 for cell in safe)
            better[opponent] += max(values.values()) > max(safe.values())
    assert min(better["random"], better["greedy"]) > 50, "weaker opponents lose more"


@pytest.mark.parametrize("opponent", game.OPPONENTS)
def test_equivalent_openings_have_equal_values(opponent):
    values = game.move_values(game.EMPTY, opponent)
    assert len({values[cell] for cell in (0, 2, 6, 8)}) == 1
    assert len({values[cell] for cell in (1, 3, 5, 7)}) == 1


@pytest.mark.parametrize("first", game.FIRST)
@pytest.mark.parametrize("opponent", game.OPPONENTS)
def test_best_moves_earn_their_value(opponent, first):
    """The tree walked forward, with the moves' probabilities, gives what expectimax promised."""

    def best(board):
        return {best_moves(board, opponent)[0]: 1.0}

    openings = {game.EMPTY: 1.0}
    if first == "opponent":
        moves = game.opponent_moves(game.EMPTY, opponent)
        openings = {game.place(game.EMPTY, cell, "O"): p for cell, p in moves.items()}
    promised = sum(p * max(game.move_values(b, opponent).values()) for b, p in openings.items())
    outcome = game.play_out(best, opponent, first)
    assert outcome.value == pytest.approx(promised, abs=1e-12)
    assert sum(outcome) == pytest.approx(1)
    assert outcome.value >= game.play_out(perfect, opponent, first).value - 1e-12


@pytest.mark.parametrize("first", game.FIRST)
def test_perfect_play(first):
    assert game.play_out(perfect, "perfect", first) == pytest.approx((0, 1, 0))
    assert game.play_out(uniform, "perfect", first).win == 0
    assert game.play_out(perfect, "random", first).loss == 0
    assert game.play_out(perfect, "greedy", first).loss == 0


def test_random_against_random():
    @cache
    def ends(xs, os):
        children = positions()[xs, os]
        if not children:
            won, lost = has_line(xs), has_line(os)
            return (Fraction(won), Fraction(not won and not lost), Fraction(lost))
        each = [ends(*child) for child in children]
        return tuple(sum(column) / len(each) for column in zip(*each, strict=True))

    exact = ends(frozenset(), frozenset())
    assert exact == (Fraction(737, 1260), Fraction(8, 63), Fraction(121, 420))
    assert game.play_out(uniform, "random") == pytest.approx([float(p) for p in exact])
    assert game.play_out(uniform, "random", "opponent") == pytest.approx(
        [float(p) for p in reversed(exact)]
    )


@pytest.mark.parametrize(
    ("opponent", "first", "win"),
    [
        # O's first move must miss cells 1 and 2 (6 of 8), its second cell 2 (5 of 6).
        ("random", "agent", 6 / 8 * 5 / 6),
        # All three must miss the row (6 of 9, 5 of 7, 4 of 5), in no line: 12 of 120 orders are.
        ("random", "opponent", 6 / 9 * 5 / 7 * 4 / 5 * 108 / 120),
        ("greedy", "agent", 0),
        ("perfect", "opponent", 0),
    ],
)
@pytest.mark.parametrize("as_array", [False, True])
def test_play_out_of_the_top_row(opponent, first, win, as_array):
    """X's n-th move is cell n, taken or not: it wins with the row or loses."""
    asked = []

    def top_row(board):
        asked.append(board)
        cell = board.count("X")
        return np.eye(9, dtype=np.float32)[cell] if as_array else {cell: 1.0}

    outcome = game.play_out(top_row, opponent, first)
    assert outcome == pytest.approx((win, 0, 1 - win))
    assert outcome.value == pytest.approx(2 * win - 1)
    assert len(asked) == len(set(asked)), "each board is asked for once"
    assert all(board.startswith("X" * board.count("X")) for board in asked), "never reached"


def test_part_of_the_probability_on_illegal_moves():
    """A quarter of every move goes to no cell; perfect play needs all five of X's moves."""
    legal = {board: {cell: 0.75 * p for cell, p in perfect(board).items()} for board in BOARDS}
    outcome = game.play_out(lambda board: {**legal[board], -1: 0.25}, "perfect")
    assert outcome == pytest.approx((0, 0.75**5, 1 - 0.75**5))


@pytest.mark.parametrize(
    "moves", [{0: 0.5, 1: 0.4}, {0: 1.5, 1: -0.5}, {0: float("nan")}, {}, np.ones(9)]
)
def test_no_distribution(moves):
    with pytest.raises(ValueError, match="sum to 1"):
        game.play_out(lambda board: moves, "random")


def test_what_is_returned_may_be_changed():
    game.opponent_moves(game.EMPTY, "random").clear()
    game.move_values(game.EMPTY, "random").clear()
    game.decision_boards().clear()
    game.legal_moves(game.EMPTY).clear()
    assert len(game.opponent_moves(game.EMPTY, "random")) == 9
    assert len(game.move_values(game.EMPTY, "random")) == 9
    assert len(game.decision_boards()) == 2423


def test_errors_of_the_game():
    for call in (game.opponent_moves, game.move_values):
        with pytest.raises(UnknownNameError, match="did you mean 'greedy'"):
            call(game.EMPTY, "gredy")
    with pytest.raises(UnknownNameError, match="did you mean 'perfect'"):
        game.play_out(uniform, "perfct")
    with pytest.raises(ConfigError, match="agent, opponent, got 'random'"):
        game.play_out(uniform, "random", "random")
    with pytest.raises(ConfigError, match="first"):
        game.decision_boards("X")
    with pytest.raises(ValueError, match="must be over"):
        game.result("XX.OO....")
    with pytest.raises(ValueError, match="X or O"):
        game.minimax(game.EMPTY, "x")
    for cell in (0, -1, 9):
        with pytest.raises(InvalidActionError, match=f"one of 2, 5, 7 .* got {cell}"):
            game.place("XO.XO.O.X", cell, "O")


# The environment


def make(**options):
    return gymnasium.make(EnvSpec("Game-v0", TicTacToeEnv, order_enforce=False, kwargs=options))


def play(env, choose, seed=None):
    """Plays one game; returns its boards and its reward."""
    _, info = env.reset(seed=seed)
    boards = [info["board"]]
    done = False
    while not done:
        _, reward, done, _, info = env.step(choose(info["board"]))
        boards.append(info["board"])
    return boards, reward


def random_player(seed):
    rng = np.random.default_rng(seed)
    return lambda board: rng.choice(game.legal_moves(board))


@pytest.mark.parametrize("first", ["agent", "opponent", "random"])
@pytest.mark.parametrize("render_mode", [None, "ansi", "human"])
def test_gymnasium_checker(first, render_mode, capsys):
    check_env(make(first=first, render_mode=render_mode).unwrapped)
    assert "---+---+---" in capsys.readouterr().out, "human rendering printed nothing"


def test_stable_baselines3_checker():
    from stable_baselines3.common.env_checker import check_env as sb3_check_env

    # Its own policies flatten; its checker warns of anything but vectors and images.
    sb3_check_env(gymnasium.wrappers.FlattenObservation(make()))


def test_torchrl_checker():
    from torchrl.envs import GymWrapper
    from torchrl.envs.utils import check_env_specs

    check_env_specs(GymWrapper(make()))


def test_game_by_hand():
    """X wins on 2; if it moves elsewhere, O completes its row on 5."""
    env = TicTacToeEnv(opponent="greedy")
    observation, info = env.reset(options={"board": "XX.OO...."})
    assert observation.tolist() == [[1, 1, 0], [-1, -1, 0], [0, 0, 0]]
    assert observation.dtype == np.int8
    assert info["board"] == "XX.OO...."
    assert info["action_mask"].tolist() == [0, 0, 1, 0, 0, 1, 1, 1, 1]

    observation, *rest, info = env.step(np.int64(2))
    assert observation.tolist() == [[1, 1, 1], [-1, -1, 0], [0, 0, 0]]
    assert rest == [1.0, True, False]
    assert (info["board"], info["result"], info["illegal"]) == ("XXXOO....", "win", False)
    assert info["action_mask"].tolist() == [0] * 9

    env.reset(options={"board": "XX.OO...."})
    *_, reward, terminated, truncated, info = env.step(8)
    assert (reward, terminated, truncated) == (-1.0, True, False)
    assert (info["board"], info["result"], info["illegal"]) == ("XX.OOO..X", "loss", False)

    env.reset(options={"board": "XX.OO...."})
    env.step(2)
    env.reset(options={"board": "XOXOO.X.."})
    assert env.step(5)[4]["board"] == "XOXOOXXO."


def test_a_draw_after_steps_without_reward():
    env = TicTacToeEnv()
    env.reset(options={"board": "XOXXO.O.."})
    _, reward, terminated, truncated, info = env.step(7)
    assert (reward, terminated, truncated) == (0.0, False, False)
    assert info["board"] in ("XOXXOOOX.", "XOXXO.OXO")
    assert set(info) == {"board", "action_mask"}
    _, reward, terminated, truncated, info = env.step(info["board"].index("."))
    assert (reward, terminated, truncated) == (0.0, True, False)
    assert (info["result"], info["illegal"]) == ("draw", False)


@pytest.mark.parametrize("opponent", game.OPPONENTS)
def test_perfect_player_never_loses(opponent):
    env = TicTacToeEnv(opponent, first="random")
    env.reset(seed=0)
    rewards = Counter(play(env, lambda b: best_moves(b, "perfect")[0])[1] for _ in range(200))
    assert rewards[-1.0] == 0
    assert rewards[1.0] == 0 if opponent == "perfect" else rewards[1.0] > 50


@pytest.mark.parametrize(
    ("opponent", "first"),
    [("random", "agent"), ("random", "opponent"), ("greedy", "agent"), ("perfect", "agent")],
)
def test_random_player_earns_the_exact_value(opponent, first):
    env = TicTacToeEnv(opponent, first)
    env.reset(seed=1)
    choose = random_player(2)
    rewards = [play(env, choose)[1] for _ in range(2000)]
    outcome = game.play_out(uniform, opponent, first)
    deviation = (outcome.win + outcome.loss - outcome.value**2) ** 0.5
    assert abs(np.mean(rewards) - outcome.value) < 4 * deviation / 2000**0.5


def test_games_follow_the_seed_alone():
    def games(seed):
        env = TicTacToeEnv(first="random")
        env.reset(seed=seed)
        return [play(env, lambda board: game.legal_moves(board)[0]) for _ in range(20)]

    legacy = np.random.get_bit_generator()
    state = str(legacy.state)
    assert games(3) == games(3) != games(4)
    assert str(legacy.state) == state, "drew from the global generator"


def test_who_moves_first():
    def openings(first):
        env = TicTacToeEnv(first=first)
        env.reset(seed=0)
        return Counter(env.reset()[1]["board"] for _ in range(360))

    assert openings("agent") == {game.EMPTY: 360}
    assert game.EMPTY not in openings("opponent")
    both = openings("random")
    assert 130 < both[game.EMPTY] < 230
    for counts, expected in ((openings("opponent"), 40), (both, 20)):
        marked = [n for board, n in counts.items() if board != game.EMPTY]
        assert len(marked) == 9
        assert max(abs(n - expected) for n in marked) < 4 * expected**0.5


def test_masks_are_the_legal_moves():
    env = TicTacToeEnv(first="random")
    assert not env.action_masks().any(), "no game yet"
    env.reset(seed=0)
    env.action_space.seed(0)
    for _ in range(50):
        _, info = env.reset()
        over = False
        while not over:
            mask = info["action_mask"]
            assert np.flatnonzero(mask).tolist() == game.legal_moves(info["board"])
            assert env.action_masks().tolist() == mask.astype(bool).tolist()
            assert (mask.dtype, env.action_masks().dtype) == (np.int8, np.bool_)
            _, _, over, _, info = env.step(env.action_space.sample(mask))
            assert not info.get("illegal")
        assert not env.action_masks().any(), "the game is over"


def test_an_illegal_move_loses():
    env = TicTacToeEnv()
    env.reset(options={"board": "X.O......"})
    observation, *rest, info = env.step(2)
    assert rest == [-1.0, True, False]
    assert observation.tolist() == [[1, 0, -1], [0, 0, 0], [0, 0, 0]]
    assert (info["board"], info["result"], info["illegal"]) == ("X.O......", "loss", True)
    assert info["action_mask"].tolist() == [0] * 9
    with pytest.raises(EpisodeOverError, match="reset"):
        env.step(1)


def test_an_illegal_move_raises_and_changes_nothing():
    env = TicTacToeEnv("greedy", on_illegal="raise")
    env.reset(options={"board": "XOXOO.X.."})
    with pytest.raises(InvalidActionError, match=r"one of 5, 7, 8 .* got 2"):
        env.step(2)
    assert env.step(5)[4]["board"] == "XOXOOXXO."


@pytest.mark.parametrize("on_illegal", ["lose", "raise"])
@pytest.mark.parametrize("action", [-1, 9, 1.0, None, np.zeros(2, int)])
def test_no_cell_at_all(on_illegal, action):
    env = TicTacToeEnv(on_illegal=on_illegal)
    env.reset(seed=0)
    with pytest.raises(InvalidActionError, match="action must be"):
        env.step(action)


@pytest.mark.parametrize("first", ["agent", "opponent", "random"])
@pytest.mark.parametrize("board", [game.EMPTY, "X.O......", "....O....", "XOXXOO.XO"])
def test_given_boards(first, board):
    observation, info = TicTacToeEnv(first=first).reset(options={"board": board})
    assert info["board"] == board
    assert observation.sum() == board.count("X") - board.count("O")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"board": "X.O"}, "nine characters"),
        ({"board": "x.o......"}, "nine characters"),
        ({"board": ["."] * 9}, "nine characters"),
        ({"board": None}, "nine characters"),
        ({"board": "X........"}, "got 1 X and 0 O"),
        ({"board": "OO......."}, "got 0 X and 2 O"),
        ({"board": "XX.OOO..."}, "is over"),
        ({"board": "XX.OOO..X"}, "is over"),
        ({"board": "XOXOOXXXO"}, "got 5 X and 4 O"),
        ({"board": "OXOXXOOOX"}, "is over"),
        ({"bord": game.EMPTY}, "'bord'"),
        ({"board": game.EMPTY, "first": "agent"}, "'first'"),
    ],
)
def test_bad_reset_options(options, message):
    with pytest.raises(ConfigError, match=message):
        TicTacToeEnv().reset(options=options)


def test_bad_settings():
    with pytest.raises(UnknownNameError, match="did you mean 'random'"):
        TicTacToeEnv("randon")
    with pytest.raises(ConfigError, match="first must be one of agent, opponent, random"):
        TicTacToeEnv(first="X")
    with pytest.raises(ConfigError, match="on_illegal must be one of lose, raise"):
        TicTacToeEnv(on_illegal="ignore")


def test_a_step_needs_a_game():
    env = TicTacToeEnv()
    with pytest.raises(EpisodeOverError, match="reset"):
        env.step(0)
    play(env, random_player(0), seed=0)
    with pytest.raises(EpisodeOverError, match="reset"):
        env.step(0)
    env.reset()
    env.step(0)


def test_render(capsys):
    env = TicTacToeEnv(render_mode="ansi")
    env.reset(options={"board": "X.O......"})
    lines = [" X | 2 | O", "---+---+---", " 4 | 5 | 6", "---+---+---", " 7 | 8 | 9"]
    assert env.render().split("\n") == lines
    assert capsys.readouterr().out == ""
    human = TicTacToeEnv(render_mode="human")
    human.reset(options={"board": "X.O......"})
    assert capsys.readouterr().out.split("\n")[:-1] == lines
    human.step(2)
    assert capsys.readouterr().out.split("\n")[:-1] == lines
    assert TicTacToeEnv().render() is None


def test_vectorised_games_are_the_single_ones():
    vector = SyncVectorEnv([TicTacToeEnv] * 4, autoreset_mode=AutoresetMode.SAME_STEP)
    singles = [TicTacToeEnv() for _ in range(4)]
    observations, infos = vector.reset(seed=7)
    expected = [env.reset(seed=7 + row) for row, env in enumerate(singles)]
    rng = np.random.default_rng(0)
    endings = 0
    for _ in range(60):
        assert data_equivalence(observations, np.stack([o for o, _ in expected]), exact=True)
        assert infos["board"].tolist() == [info["board"] for _, info in expected]
        actions = np.array([rng.choice(np.flatnonzero(mask)) for mask in infos["action_mask"]])
        observations, rewards, over, _, infos = vector.step(actions)
        for row, env in enumerate(singles):
            observation, reward, terminated, _, info = env.step(actions[row])
            assert (reward, terminated) == (rewards[row], over[row])
            expected[row] = env.reset() if terminated else (observation, info)
            endings += terminated
    assert endings > 20
