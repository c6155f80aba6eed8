"""Tic-tac-toe, exactly: rules, opponents, the value of every move, the end of every game.

A board is a text of nine cells out of "X", "O" and ".", row by row; cells are numbered

    0 1 2
    3 4 5
    6 7 8

The agent is always X; results and values are X's: +1 X won, 0 draw, -1 O won.

>>> best = move_values(EMPTY, "random")  # against a random opponent a corner is the best opening
>>> [cell for cell in best if best[cell] == max(best.values())]
[0, 2, 6, 8]
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Mapping
from fractions import Fraction
from functools import cache
from itertools import product
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from textgym.errors import ConfigError, InvalidActionError
from textgym.registry import unknown_name

EMPTY = "." * 9
LINES = ("012", "345", "678", "036", "147", "258", "048", "246")
OPPONENTS = ("random", "greedy", "perfect")
FIRST = ("agent", "opponent")
TOLERANCE = 1e-5
"""Within which move probabilities sum to 1; single precision is off by less."""

Moves = Mapping[int, float] | NDArray[np.floating]
"""Probabilities of moves: cell -> probability, or one value for each of the nine cells."""


class Outcome(NamedTuple):
    """Probabilities of the three ends of a game, for X."""

    win: float
    draw: float
    loss: float

    @property
    def value(self) -> float:
        """Expected result, in [-1, 1]."""
        return self.win - self.loss


def legal_moves(board: str) -> list[int]:
    """Returns the free cells in ascending order; none once the game is over.

    >>> legal_moves("XO.XO.O.X")
    [2, 5, 7]
    """
    return [] if winner(board) else [cell for cell, mark in enumerate(board) if mark == "."]


def place(board: str, cell: int, mark: str) -> str:
    """Returns the board with `mark` in a free cell.

    Raises:
        InvalidActionError: the cell is taken or is none of 0..8.
    """
    if cell not in range(9) or board[cell] != ".":
        free = ", ".join(map(str, legal_moves(board)))
        raise InvalidActionError(f"cell must be one of {free or 'none'} on {board}, got {cell}")
    return board[:cell] + mark + board[cell + 1 :]


@cache
def winner(board: str) -> str | None:
    """Returns "X" or "O", whichever holds a line, or None.

    >>> winner("XXXOO....")
    'X'
    """
    lines = {"".join(board[int(cell)] for cell in line) for line in LINES}
    return next((mark for mark in "XO" if mark * 3 in lines), None)


def is_over(board: str) -> bool:
    """Returns whether someone holds a line or no cell is free."""
    return winner(board) is not None or "." not in board


def result(board: str) -> float:
    """Returns +1 if X won, -1 if O won, 0 for a draw. Raises: ValueError if not over."""
    if not is_over(board):
        raise ValueError(f"the game must be over, got {board} with free cells and no line")
    return {"X": 1.0, "O": -1.0, None: 0.0}[winner(board)]


@cache
def minimax(board: str, to_move: str) -> float:
    """Returns the result of the game if both sides play perfectly from here.

    Args:
        board: any position.
        to_move: whose turn it is, "X" or "O".

    >>> minimax(EMPTY, "X"), minimax("X..O.....", "X")
    (0.0, 1.0)
    """
    if to_move not in ("X", "O"):
        raise ValueError(f"to_move must be X or O, got {to_move!r}")
    if is_over(board):
        return result(board)
    best, other = (max, "O") if to_move == "X" else (min, "X")
    return best(minimax(place(board, cell, to_move), other) for cell in legal_moves(board))


def opponent_moves(board: str, opponent: str) -> dict[int, float]:
    """Returns O's probability of each move it may make; O is to move.

    Args:
        board: any position; a finished game has no moves.
        opponent: "random" moves uniformly. "greedy" completes a line of its own if it can, else
            blocks one of X's, else moves uniformly; between several such cells it is uniform.
            "perfect" is uniform over the moves of the best `minimax` value.

    Raises:
        UnknownNameError: no such opponent.

    >>> opponent_moves("X........", "perfect")
    {4: 1.0}
    """
    cells = _opponent_cells(board, _known(opponent))
    return {cell: 1 / len(cells) for cell in cells}


def move_values(board: str, opponent: str) -> dict[int, float]:
    """Returns the expected result of each of X's legal moves, X playing on in the best way.

    Expectimax over exact fractions, so that moves of equal worth have equal values.

    Args:
        board: a position with X to move; a finished game has no moves.
        opponent: one of OPPONENTS.

    Raises:
        UnknownNameError: no such opponent.

    >>> move_values("XOXOO.X..", "random")
    {5: -0.5, 7: -0.5, 8: -1.0}
    """
    return {cell: float(value) for cell, value in _move_values(board, _known(opponent)).items()}


def decision_boards(first: str = "agent") -> list[str]:
    """Returns, sorted, every board of a game in progress with X to move.

    Args:
        first: who began: "agent" (X, 2,423 boards) or "opponent" (O, 2,097 boards).

    Raises:
        ConfigError: another value of `first`.
    """
    return list(_decision_boards(_starter(first)))


def play_out(moves: Callable[[str], Moves], opponent: str, first: str = "agent") -> Outcome:
    """Returns the exact probabilities of the ends of a game between `moves` and an opponent.

    Args:
        moves: gives X's move probabilities on a board, as cell -> probability or as an array [9];
            `table.__getitem__` of a table over `decision_boards` will do. Called once for each
            board that the game can reach. Anything but a legal cell (-1, say) loses at once.
        opponent: one of OPPONENTS.
        first: who moves first, "agent" or "opponent".

    Raises:
        ConfigError: another value of `first`.
        UnknownNameError: no such opponent.
        ValueError: probabilities that are negative or do not sum to 1.

    >>> in_order = {board: {min(legal_moves(board)): 1.0} for board in decision_boards()}
    >>> play_out(in_order.__getitem__, "perfect")
    Outcome(win=0.0, draw=0.0, loss=1.0)
    """
    _known(opponent)
    ends = {1.0: 0.0, 0.0: 0.0, -1.0: 0.0}
    reached = {EMPTY: 1.0}
    if _starter(first) == "opponent":
        reached = _answered(reached, opponent)
    while reached:
        placed: defaultdict[str, float] = defaultdict(float)
        for board, chance in reached.items():
            legal = legal_moves(board)
            for cell, probability in _checked(moves(board), board):
                if cell in legal:
                    placed[place(board, cell, "X")] += chance * probability
                else:
                    ends[-1.0] += chance * probability
        reached = _settled(_answered(_settled(placed, ends), opponent), ends)
    return Outcome(win=ends[1.0], draw=ends[0.0], loss=ends[-1.0])


def _known(opponent: str) -> str:
    if opponent not in OPPONENTS:
        raise unknown_name("opponent", opponent, OPPONENTS)
    return opponent


def _starter(first: str) -> str:
    if first not in FIRST:
        raise ConfigError(f"first must be one of {', '.join(FIRST)}, got {first!r}")
    return first


@cache
def _opponent_cells(board: str, opponent: str) -> list[int]:
    """Every opponent is uniform over some of the legal cells: these."""
    legal = legal_moves(board)
    if opponent == "random" or not legal:
        return legal
    if opponent == "greedy":
        return _completing(board, "O") or _completing(board, "X") or legal
    values = {cell: minimax(place(board, cell, "O"), "X") for cell in legal}
    return [cell for cell in legal if values[cell] == min(values.values())]


def _completing(board: str, mark: str) -> list[int]:
    return [cell for cell in legal_moves(board) if winner(place(board, cell, mark))]


@cache
def _move_values(board: str, opponent: str) -> dict[int, Fraction]:
    values = {}
    for cell in legal_moves(board):
        after = place(board, cell, "X")
        # None when X has ended the game; every answer is equally likely.
        answers = [place(after, c, "O") for c in _opponent_cells(after, opponent)] or [after]
        total = sum((_value(answer, opponent) for answer in answers), Fraction())
        values[cell] = total / len(answers)
    return values


def _value(board: str, opponent: str) -> Fraction:
    """Value of a board with X to move, or finished."""
    if is_over(board):
        return Fraction(result(board))
    return max(_move_values(board, opponent).values())


@cache
def _decision_boards(first: str) -> list[str]:
    # Without a line on the board no order of its moves ended the game early: it is reachable.
    ahead = 0 if first == "agent" else 1
    boards = ("".join(marks) for marks in product(".OX", repeat=9))
    return [b for b in boards if b.count("O") - b.count("X") == ahead and not is_over(b)]


def _checked(moves: Moves, board: str) -> list[tuple[int, float]]:
    """Returns the moves of positive probability."""
    pairs = list(moves.items() if isinstance(moves, Mapping) else enumerate(map(float, moves)))
    chances = [chance for _, chance in pairs]
    if any(chance < 0 for chance in chances) or not abs(sum(chances) - 1) < TOLERANCE:
        raise ValueError(f"move probabilities on {board} must be >= 0 and sum to 1, got {chances}")
    return [(cell, chance) for cell, chance in pairs if chance > 0]


def _answered(reached: Mapping[str, float], opponent: str) -> dict[str, float]:
    """Probabilities of the boards after O's move."""
    answers: defaultdict[str, float] = defaultdict(float)
    for board, chance in reached.items():
        for cell, probability in opponent_moves(board, opponent).items():
            answers[place(board, cell, "O")] += chance * probability
    return answers


def _settled(reached: Mapping[str, float], ends: dict[float, float]) -> dict[str, float]:
    """Adds the finished boards to `ends` and returns the others."""
    for board in filter(is_over, reached):
        ends[result(board)] += reached[board]
    return {board: chance for board, chance in reached.items() if not is_over(board)}
