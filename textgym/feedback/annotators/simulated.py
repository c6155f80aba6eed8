"""Simulated annotators: a gold reward in mind, and human failings."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
from scipy.special import ndtri

from textgym.errors import ConfigError
from textgym.feedback.annotators.base import gold_scores
from textgym.feedback.annotators.choice import (
    AnnotatorConfig,
    Probabilities,
    binary_probabilities,
    pair_probabilities,
    rating_probabilities,
)
from textgym.feedback.records import BINARY, PAIRWISE, Feedback, Question

if TYPE_CHECKING:
    from textgym.types import RewardFunction

TIME_SPREAD = 0.25
"""Standard deviation of the logarithm of a response time."""


class SimulatedAnnotator:
    """Answers all kinds of question from a gold reward, as `textgym.feedback.annotators.choice`.

    Every question takes three draws, whatever is asked and however questions are split over calls:
    the order that a pair is shown in, the answer, the response time.

    Attributes:
        name, group: as the store knows them.
        reward: gold.
        config: how it errs.
        seed: recorded with every answer.
        given: labels given so far, which is what tires it.
    """

    def __init__(
        self,
        reward: RewardFunction,
        random: np.random.Generator,
        config: AnnotatorConfig | None = None,
        name: str = "simulated",
        group: str = "",
        seed: int | None = None,
    ) -> None:
        """Takes gold, the only source of randomness, and who this is.

        Args:
            reward: called with the questions' columns; for the embedded tasks, `task.gold`.
            random: draws orders, answers and response times.
            config: how it errs; by default Bradley-Terry noise alone.
            name: must not be empty.
            group: which group it belongs to.
            seed: what `random` was made from, to be recorded.

        Raises:
            ConfigError: no name.
        """
        if not name:
            raise ConfigError("an annotator needs a name")
        self.reward = reward
        self.random = random
        self.config = config or AnnotatorConfig()
        self.name = name
        self.group = group
        self.seed = seed
        self.given = 0

    def label(self, questions: Sequence[Question]) -> list[Feedback]:
        """Answers every question.

        Raises:
            RewardError: gold gave a wrong number of scores, or one that is not finite.
        """
        scores = gold_scores(self.reward, questions)
        return [self._answer(q, gold) for q, gold in zip(questions, scores, strict=True)]

    def _answer(self, question: Question, gold: tuple[float, ...]) -> Feedback:
        side, choice, pace = self.random.random(3)
        order = tuple(range(len(gold)))
        if side < 0.5:
            order = order[::-1]
        chances = answer_probabilities(self.config, question, gold, order[0], self.given)
        self.given += 1
        return Feedback(
            question,
            _pick(chances, choice),
            self.name,
            self.group,
            order,
            seconds=self._seconds(question, pace),
            seed=self.seed,
        )

    def _seconds(self, question: Question, pace: float) -> float | None:
        """Returns the response time at a quantile of its distribution."""
        if self.config.reading_speed is None:
            return None
        read = sum(map(len, (question.prompt, *question.completions)))
        return float(read / self.config.reading_speed * np.exp(TIME_SPREAD * ndtri(pace)))


def answer_probabilities(
    config: AnnotatorConfig,
    question: Question,
    gold: tuple[float, ...],
    first_shown: int = 0,
    given: int = 0,
) -> Probabilities:
    """Returns the probability of each answer to a question of any kind.

    Args:
        config: the annotator's.
        question: what is asked.
        gold: of the question's completions.
        first_shown: which completion of a pair the annotator sees first.
        given: labels given before.
    """
    lengths = [len(text) for text in question.completions]
    if question.kind == PAIRWISE:
        a, b = gold
        return pair_probabilities(config, (a, b), (lengths[0], lengths[1]), first_shown, given)
    single = binary_probabilities if question.kind == BINARY else rating_probabilities
    return single(config, gold[0], lengths[0], given)


def _pick(chances: Probabilities, quantile: float) -> float:
    """Returns the answer at a quantile in [0, 1) of the answers in rising order."""
    labels = sorted(chances)
    reached = np.cumsum([chances[label] for label in labels])
    return labels[int(np.searchsorted(reached / reached[-1], quantile, side="right"))]
