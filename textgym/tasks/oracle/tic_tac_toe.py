"""Tic-tac-toe as text: the board in the context window, a move as one token."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import ClassVar

import numpy as np
from numpy.typing import NDArray

from textgym.errors import ConfigError
from textgym.tasks.oracle.base import OracleTask, Table, Tables
from textgym.worlds.tictactoe import (
    EMPTY,
    OPPONENTS,
    Outcome,
    decision_boards,
    legal_moves,
    move_values,
    play_out,
)

CELLS = "123456789"


class TicTacToe(OracleTask):
    """Every position in which X is to move, as nine characters; the answer is a cell, 1 to 9.

    The reward is what the move is worth, (v + 1) / 2 with v the exact expected result when X goes
    on in the best way against the opponent; 0 for what is no legal move, as for a loss. A position
    says all that matters, so that a policy that answers every prompt in the best way plays the
    best game. The language model knows that moves are digits, and nothing of the rules.

    Args:
        opponent: who plays O: random, greedy or perfect.
        width: hidden size of the language model; one that is to play well needs 64 and 2 layers.
        layers: its transformer blocks.
        beta: see `OracleTask`.
        cache: see `OracleTask`.

    Raises:
        ConfigError: an option outside its domain.
        UnknownNameError: no such opponent.
    """

    name: ClassVar[str] = "tic-tac-toe"
    question: ClassVar[str] = (
        "Does the same agent that tunes a language model learn a game, move by move?"
    )
    eval_samples_per_prompt = 8

    def __init__(
        self,
        opponent: str = "perfect",
        width: int = 32,
        layers: int = 1,
        beta: float = 0.2,
        cache: str | Path | None = None,
    ) -> None:
        move_values(EMPTY, opponent)  # an unknown opponent is found here
        self.opponent = opponent
        super().__init__(
            symbols=f"XO.{CELLS}",
            horizon=1,
            prompts=decision_boards(),
            beta=beta,
            cache=cache,
            fit={"steps": 60, "width": width, "layers": layers},
        )

    def write_tables(self) -> Tables:
        """All nine digits alike at first, legal or not."""
        known = self.tabulate(lambda _, text: bool(text) and text in CELLS) / len(CELLS)
        rewards = self.tabulate(self._worth)
        return Tables(known=known, rewards=rewards, gold=rewards)

    def _worth(self, board: str, text: str) -> float:
        values = move_values(board, self.opponent)
        cell = self._cell(text)
        return (values[cell] + 1) / 2 if cell in values else 0.0

    @staticmethod
    def _cell(text: str) -> int:
        """Returns the cell a response names, or -1 for none."""
        return CELLS.index(text) if text and text in CELLS else -1

    def exact_measures(
        self, probabilities: Table, prompts: Sequence[str]
    ) -> dict[str, NDArray[np.float64]]:
        """Returns `legal`, the probability of a legal move, and `best_move`, of a best one."""
        cells = [self._cell(text) for text in self.texts]
        legal = np.array([np.isin(cells, legal_moves(board)) for board in prompts])
        gold = self.tables.gold[self.rows_of(prompts)]
        # Where every move loses, an illegal one is worth no less.
        best = legal & (gold == gold.max(axis=1, keepdims=True))
        return {
            "legal": (probabilities * legal).sum(axis=1),
            "best_move": (probabilities * best).sum(axis=1),
        }

    def summaries(self, answers: Callable[[list[str]], Table]) -> dict[str, float]:
        """Returns the exact expected result of whole games against each opponent, in [-1, 1]."""
        probabilities = answers(self.asked)
        return {f"games/{name}": self.games(probabilities, name).value for name in OPPONENTS}

    def games(self, probabilities: Table, opponent: str | None = None) -> Outcome:
        """Returns how whole games end, exactly, when every move is drawn from the policy.

        Args:
            probabilities: [N, L], what the policy answers to every prompt of the task, in order.
            opponent: who plays O; by default the task's.

        Raises:
            ConfigError: probabilities of another shape.
        """
        if probabilities.shape != (len(self.asked), len(self.texts)):
            raise ConfigError(
                f"expected probabilities of shape {[len(self.asked), len(self.texts)]}, got "
                f"{list(probabilities.shape)}"
            )
        cells = [self._cell(text) for text in self.texts]

        def moves(board: str) -> dict[int, float]:
            chances: dict[int, float] = defaultdict(float)
            for cell, p in zip(cells, probabilities[self._row[board]], strict=True):
                chances[cell] += float(p)
            return chances

        return play_out(moves, opponent or self.opponent)
