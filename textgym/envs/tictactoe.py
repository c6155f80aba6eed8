"""Tic-tac-toe as a plain environment: no text, no tokens, the exact values beside it."""

from __future__ import annotations

import operator
from typing import Any

import gymnasium
import numpy as np
from gymnasium import spaces
from numpy.typing import NDArray

from textgym.errors import ConfigError, EpisodeOverError, InvalidActionError
from textgym.registry import unknown_name
from textgym.worlds.tictactoe import (
    EMPTY,
    FIRST,
    OPPONENTS,
    is_over,
    legal_moves,
    opponent_moves,
    place,
    result,
)

METADATA: dict[str, Any] = {"render_modes": ["ansi", "human"], "render_fps": 4}
ON_ILLEGAL = ("lose", "raise")
RESULTS = {1.0: "win", 0.0: "draw", -1.0: "loss"}
SIGNS = {"X": 1, ".": 0, "O": -1}


class TicTacToeEnv(gymnasium.Env[NDArray[np.int8], np.int64]):
    """Tic-tac-toe against an opponent that is part of the environment.

    Observations are `Box(-1, 1, (3, 3), int8)`, +1 for X (the agent) and -1 for O; actions are
    `Discrete(9)`, the cells row by row. The reward is 0 until the game is over, then +1 for a win,
    0 for a draw and -1 for a loss. `textgym.worlds.tictactoe` has the exact value of every move.

    Every info has `board` (nine characters out of "XO.") and `action_mask` ([9] int8, 1 on legal
    moves, as `action_space.sample` takes it); the last step's also has `result` ("win", "draw" or
    "loss") and `illegal` (whether an illegal move ended the game).

    Args:
        opponent: "random", "greedy" or "perfect"; see `opponent_moves`.
        first: who moves first: "agent", "opponent", or one of them at "random".
        on_illegal: whether a move to a taken cell will "lose" the game or "raise" an error.
        render_mode: None, "ansi" (`render` returns a text) or "human" (it prints the text, which
            every reset and step also does by itself).

    Raises:
        ConfigError: an option outside its domain.
        UnknownNameError: no such opponent.
    """

    metadata = METADATA

    def __init__(
        self,
        opponent: str = "random",
        first: str = "agent",
        on_illegal: str = "lose",
        render_mode: str | None = None,
    ) -> None:
        if opponent not in OPPONENTS:
            raise unknown_name("opponent", opponent, OPPONENTS)
        self.opponent = opponent
        self.first = _one_of("first", first, (*FIRST, "random"))
        self.on_illegal = _one_of("on_illegal", on_illegal, ON_ILLEGAL)
        self.render_mode = render_mode
        self.action_space = spaces.Discrete(9)
        self.observation_space = spaces.Box(-1, 1, (3, 3), np.int8)
        self._board = EMPTY
        self._in_progress = False

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[NDArray[np.int8], dict[str, Any]]:
        """Starts a game; the opponent has moved already if it moves first.

        Args:
            seed: restarts the environment's generator.
            options: {"board": text} starts from that position, X to move, whoever is `first`.

        Raises:
            ConfigError: unknown options, or a board that no game in progress has with X to move.
        """
        super().reset(seed=seed)
        options = options or {}
        if set(options) - {"board"}:
            raise ConfigError(f"reset options must be 'board', got {', '.join(map(repr, options))}")
        self._board = _startable(options["board"]) if options else self._opening()
        self._in_progress = True
        return self._observe()

    def step(self, action: Any) -> tuple[NDArray[np.int8], float, bool, bool, dict[str, Any]]:
        """Places an X, and then the opponent's O.

        Raises:
            EpisodeOverError: before the first reset, or after the game has ended.
            InvalidActionError: no cell at all, or a taken one where `on_illegal` is "raise".
        """
        if not self._in_progress:
            raise EpisodeOverError("step needs a game in progress; call reset first")
        cell = _cell(action)
        if self.on_illegal == "lose" and cell not in legal_moves(self._board):
            return self._finish(-1.0, illegal=True)
        self._board = place(self._board, cell, "X")
        if not is_over(self._board):
            self._board = self._answer(self._board)
        if is_over(self._board):
            return self._finish(result(self._board), illegal=False)
        observation, info = self._observe()
        return observation, 0.0, False, False, info

    def action_masks(self) -> NDArray[np.bool_]:
        """Returns [9] bool, True on legal moves: none without a game in progress.

        sb3-contrib's `MaskablePPO` calls it by this name.
        """
        mask = np.zeros(9, dtype=np.bool_)
        if self._in_progress:
            mask[legal_moves(self._board)] = True
        return mask

    def render(self) -> str | None:
        """Returns ("ansi") or prints ("human") the board, its free cells numbered from 1 to 9."""
        if self.render_mode is None:
            return None
        text = describe(self._board)
        if self.render_mode == "human":
            print(text)
            return None
        return text

    def _opening(self) -> str:
        starter = self.first
        if starter == "random":
            starter = FIRST[self.np_random.integers(len(FIRST))]
        return EMPTY if starter == "agent" else self._answer(EMPTY)

    def _answer(self, board: str) -> str:
        moves = opponent_moves(board, self.opponent)
        cell = self.np_random.choice(list(moves), p=list(moves.values()))
        return place(board, int(cell), "O")

    def _observe(self) -> tuple[NDArray[np.int8], dict[str, Any]]:
        if self.render_mode == "human":
            self.render()
        signs = np.array([SIGNS[mark] for mark in self._board], dtype=np.int8)
        info = {"board": self._board, "action_mask": self.action_masks().astype(np.int8)}
        return signs.reshape(3, 3), info

    def _finish(
        self, reward: float, *, illegal: bool
    ) -> tuple[NDArray[np.int8], float, bool, bool, dict[str, Any]]:
        self._in_progress = False
        observation, info = self._observe()
        info |= {"result": RESULTS[reward], "illegal": illegal}
        return observation, reward, True, False, info


def describe(board: str) -> str:
    """Returns what `render` shows.

    >>> print(describe("X...O...."))
     X | 2 | 3
    ---+---+---
     4 | O | 6
    ---+---+---
     7 | 8 | 9
    """
    cells = [str(n) if mark == "." else mark for n, mark in enumerate(board, start=1)]
    rows = [" " + " | ".join(cells[start : start + 3]) for start in (0, 3, 6)]
    return "\n---+---+---\n".join(rows)


def _one_of(name: str, value: str, known: tuple[str, ...]) -> str:
    if value not in known:
        raise ConfigError(f"{name} must be one of {', '.join(known)}, got {value!r}")
    return value


def _startable(board: Any) -> str:
    if not isinstance(board, str) or len(board) != 9 or set(board) - set("XO."):
        raise ConfigError(f"board must be nine characters out of X, O and '.', got {board!r:.60}")
    xs, os = board.count("X"), board.count("O")
    if os - xs not in (0, 1):
        raise ConfigError(
            f"board must have X to move, with as many O or one more; got {xs} X and {os} O"
        )
    if is_over(board):
        raise ConfigError(f"board must leave the game open, got {board}, which is over")
    return board


def _cell(action: Any) -> int:
    try:
        cell = operator.index(action)
    except TypeError:
        raise InvalidActionError(
            f"action must be one cell, got {type(action).__name__} {action!r:.60}"
        ) from None
    if not 0 <= cell < 9:
        raise InvalidActionError(f"action must be in [0, 9), got {cell}")
    return cell
