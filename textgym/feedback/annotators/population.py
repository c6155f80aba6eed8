"""Groups of simulated annotators with different or opposed tastes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from textgym.errors import ConfigError
from textgym.feedback.annotators.choice import AnnotatorConfig
from textgym.feedback.annotators.simulated import SimulatedAnnotator
from textgym.feedback.annotators.tastes import Taste
from textgym.feedback.records import Feedback, Question
from textgym.seeding import Streams


@dataclass(frozen=True)
class Group:
    """Annotators who share a taste.

    Attributes:
        taste: what they like; its name is the group's.
        configs: how each member errs, one per member: `(AnnotatorConfig(),) * 3` are three alike.

    Raises:
        ConfigError: on construction, for a group without members.
    """

    taste: Taste
    configs: tuple[AnnotatorConfig, ...]

    def __post_init__(self) -> None:
        if not self.configs:
            raise ConfigError(f"group {self.taste.name!r} has no members")


class Population:
    """Members who share the questions out among themselves, in turn.

    The members' circle mixes the groups evenly, so that with groups of equal size and as many
    votes as groups, every question is answered once by each group. The next call goes on where the
    last one ended.

    Attributes:
        members: in the order of their turns.
        votes: how many members answer each question.
    """

    def __init__(self, members: Sequence[SimulatedAnnotator], votes: int = 1) -> None:
        """Takes the circle. Raises: ConfigError for votes that are not 1 to the members' number."""
        if not 1 <= votes <= len(members):
            raise ConfigError(f"votes must be in [1, {len(members)}], the members, got {votes}")
        self.members = tuple(members)
        self.votes = votes
        self._turn = 0

    def label(self, questions: Sequence[Question]) -> list[Feedback]:
        """Returns `votes` answers per question, those of a question side by side.

        Raises:
            RewardError: a taste gave a wrong number of scores, or one that is not finite.
        """
        turns = range(self._turn, self._turn + len(questions) * self.votes)
        answers: dict[int, Feedback] = {}
        for m, member in enumerate(self.members):
            mine = [i for i, turn in enumerate(turns) if turn % len(self.members) == m]
            asked = [questions[i // self.votes] for i in mine]
            answers |= zip(mine, member.label(asked), strict=True)
        self._turn = turns.stop % len(self.members)
        return [answers[i] for i in range(len(turns))]


def population(groups: Sequence[Group], seed: int, votes: int = 1) -> Population:
    """Returns the population of the groups' members, named "group-0", "group-1", ...

    Every member draws from a stream of its own, so that others who join change none of its draws.

    Args:
        groups: with different tastes.
        seed: every member's stream follows from it and the member's name.
        votes: how many members answer each question.

    Raises:
        ConfigError: no groups, two of one name, or votes outside [1, members].
    """
    names = [group.taste.name for group in groups]
    if not names or len(set(names)) < len(names):
        raise ConfigError(f"a population needs groups of different names, got {names}")
    streams, places = Streams(seed), []
    for g, group in enumerate(groups):
        taste = group.taste
        for i, config in enumerate(group.configs):
            name = f"{taste.name}-{i}"
            random = streams.numpy(f"annotators/{name}")
            member = SimulatedAnnotator(taste.reward, random, config, name, taste.name, seed)
            # Spreads every group evenly over the circle.
            places.append(((i + 0.5) / len(group.configs), g, member))
    return Population([member for *_, member in sorted(places, key=lambda p: p[:2])], votes)
