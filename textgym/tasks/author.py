"""Author: who is served by tuning, the searcher of one good answer or the author of the best?"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np

from textgym.functional.best_of_n import expected_best_of_n
from textgym.tasks.base import Task
from textgym.tasks.columns import column
from textgym.tasks.sizes import make_sizes
from textgym.tasks.town import LearnedTownTask
from textgym.tasks.world_data import Row
from textgym.worlds import request_templates as words
from textgym.worlds import requests, stories
from textgym.worlds.grammar import Draw
from textgym.worlds.requests import AnswerVerdict, Request, judge_answer
from textgym.worlds.stories import Opening, StoryVerdict, judge_story, story_prompt
from textgym.worlds.town import request_prompt

if TYPE_CHECKING:
    from textgym.tasks.toxicity import Classifier
    from textgym.types import RewardFunction

SEEN = 10
"""Completions that an author is shown."""
STORY, QUESTION = "story", "question"
ASKED = ("kind", "hero", "thing", "house", "town", "attribute")
"""The columns that the judges need: a story's or a question's, "" where it is the other."""

Verdict = StoryVerdict | AnswerVerdict


def make_author(
    data: str | Path | None = None,
    data_dir: str | None = None,
    reward: str | Path | RewardFunction | None = None,
    backbone: str = "tiny",
    seed: int = 0,
    cache: str | Path | None = None,
    classifier: Classifier = None,
    **sizes: int | None,
) -> Task:
    """Returns the author task, on the embedded town or on human-written dialogues.

    Args:
        data: None for the town; a Hub id or folder laid out as HH-RLHF (columns `chosen`,
            `rejected`), such as "Anthropic/hh-rlhf".
        data_dir: the folder inside `data` to read, such as "helpful-base".
        reward: replaces the proxy, see `textgym.rewards.load_reward`.
        backbone: the language model that is asked; "tiny" is the packaged one of the town. On
            `data` it is what reward models start from, and its tokenizer measures the windows.
        seed: what the town writes and how reward models are trained follow from it.
        cache: where trained models are kept, see `textgym.cache.cache_root`.
        classifier: who measures toxicity on `data`, see `make_toxicity`.
        sizes: see `textgym.tasks.sizes.Sizes`.

    Raises:
        ConfigError: an option there is not, or outside its domain.
        DataError: a data set that cannot be read, lacks a column or has an empty split.
    """
    made = make_sizes(sizes)
    if data is None:
        return WorldAuthor(reward, backbone, seed, made)
    from textgym.tasks.data_source import load_splits, require_columns
    from textgym.tasks.hh_author import HHAuthor

    splits = load_splits(data, data_dir)
    require_columns(splits, HHAuthor.needed, data)
    return HHAuthor(data, splits, reward, backbone, seed, cache, made, classifier)


class WorldAuthor(LearnedTownTask):
    """Story openings, and questions with one good answer, under two users.

    The searcher sees one completion and wants it to be good. The author sees ten, wants the best
    of them to be good, and of the stories different good ideas, best those that nobody has told.
    The proxy is a Bradley-Terry reward model trained on simulated comparisons of two completions,
    which is how a searcher would compare (shipped). Gold is the same for both users.
    """

    name: ClassVar[str] = "author"
    question: ClassVar[str] = (
        "For whom does tuning help: the searcher, who sees one completion, or the author, who "
        "sees ten and wants the best and the different?"
    )
    max_prompt_tokens = 48
    max_response_tokens = 56
    eval_samples_per_prompt = SEEN
    shipped_reward = "author_reward"
    floor = 0.0
    ceiling = 1.0

    def write_row(self, draw: Draw) -> Row:
        """Draws a story's or a question's prompt, reference and what the judges need."""
        if draw.chance(0.5):
            return _story_row(stories.sample_opening(draw), draw)
        return _question_row(requests.sample_question(draw), draw)

    def write_shifted_row(self, draw: Draw) -> Row:
        """Draws the same of an opening or a question whose wording the corpus never has.

        The things of the stories are unseen too.
        """
        if draw.chance(0.5):
            return _story_row(stories.sample_unseen_opening(draw), draw)
        return _question_row(requests.sample_unheard_question(draw), draw)

    def write_completions(self, row: Row, count: int, draw: Draw) -> list[str]:
        """Returns completions of a row as the corpus has them."""
        write = _corpus_story if row["kind"] == STORY else _corpus_answer
        return [write(row, draw) for _ in range(count)]

    def gold(self, prompts: list[str], completions: list[str], **columns: list[Any]) -> list[float]:
        """Returns a story's score, see `StoryVerdict`, or 1 for the right answer, else 0."""
        return [verdict.score for verdict in _verdicts(completions, columns)]

    def measures(
        self, prompts: list[str], completions: list[str], **columns: list[Any]
    ) -> dict[str, list[float]]:
        """Returns what stories are and whether answers are right, NaN for the other kind."""
        verdicts = _verdicts(completions, columns)

        def of_stories(value: Callable[[StoryVerdict], float]) -> list[float]:
            return [value(v) if isinstance(v, StoryVerdict) else math.nan for v in verdicts]

        return {
            "coherent": of_stories(lambda v: v.coherent),
            "fits": of_stories(lambda v: v.fits),
            "resolves": of_stories(lambda v: v.resolves),
            "full_marks": of_stories(lambda v: v.full_marks),
            "novel": of_stories(lambda v: v.novel),
            "right": [v.score if isinstance(v, AnswerVerdict) else math.nan for v in verdicts],
        }

    def set_measures(
        self,
        prompts: list[str],
        completions: list[str],
        samples_per_prompt: int,
        **columns: list[Any],
    ) -> dict[str, list[float]]:
        """Returns both users' satisfaction with a prompt's completions, and its good ideas.

        - `searcher`: expected gold of one completion.
        - `author`: expected gold of the best of ten. Of more than ten completions it is the
          unbiased estimate, of fewer the best of those there are.
        - `good_ideas`: expected number of different good ideas in ten, likewise: those that suit
          the thing and end well; NaN for questions.
        - `novel_ideas`: share of the different good ideas that the corpus never tells of the
          thing; NaN for questions and where there is no good idea.
        """
        k, verdicts = samples_per_prompt, _verdicts(completions, columns)
        sets = [verdicts[i : i + k] for i in range(0, len(verdicts), k)]
        gold = [[verdict.score for verdict in seen] for seen in sets]
        return {
            "searcher": [float(np.mean(scores)) for scores in gold],
            "author": [expected_best_of_n(scores, min(SEEN, k)) for scores in gold],
            "good_ideas": [_good_ideas(seen) for seen in sets],
            "novel_ideas": [_novel_share(seen) for seen in sets],
        }

    def modes(
        self, prompts: list[str], completions: list[str], **columns: list[Any]
    ) -> list[str] | None:
        """Returns the voice that tells each story or gives each answer, "other" for none."""
        return [
            verdict.teller if isinstance(verdict, StoryVerdict) else _speaker(verdict)
            for verdict in _verdicts(completions, columns)
        ]


def expected_distinct(kinds: Sequence[str | None], seen: int) -> float:
    """Returns the expected number of different kinds among `seen` of K items, drawn at random.

    `sum_kinds 1 - C(K - m, seen) / C(K, seen)`, m the items of a kind; `seen` is at most K.

    Args:
        kinds: K names, None for an item that does not count.
        seen: items drawn without replacement.

    >>> expected_distinct(["a", "a", "b", None], seen=4)
    2.0
    >>> expected_distinct(["a", "a", "b", None], seen=1)
    0.75
    """
    names = [kind for kind in kinds if kind is not None]
    ways = math.comb(len(kinds), seen)
    missed = sum(math.comb(len(kinds) - names.count(name), seen) for name in set(names))
    return len(set(names)) - missed / ways


def _good_ideas(seen: Sequence[Verdict]) -> float:
    if not all(isinstance(verdict, StoryVerdict) for verdict in seen):
        return math.nan
    return expected_distinct([_good_idea(verdict) for verdict in seen], min(SEEN, len(seen)))


def _novel_share(seen: Sequence[Verdict]) -> float:
    novel = {
        _good_idea(verdict): verdict.novel
        for verdict in seen
        if isinstance(verdict, StoryVerdict) and verdict.good
    }
    return float(np.mean(list(novel.values()))) if novel else math.nan


def _good_idea(verdict: Verdict) -> str | None:
    if isinstance(verdict, StoryVerdict) and verdict.good:
        return verdict.idea
    return None


def _speaker(verdict: AnswerVerdict) -> str:
    """Returns an answer's voice under a name that no teller has."""
    return verdict.voice if verdict.voice == "other" else f"{verdict.voice}, answering"


def _story_row(opening: Opening, draw: Draw) -> Row:
    idea = stories.sample_idea(opening.thing, draw, stories.DEMONSTRATION_IDEAS)
    teller = draw.weighted(stories.DEMONSTRATION_TELLERS)
    told = stories.write_continuation(opening, idea, teller, draw)
    about = {"kind": STORY, "hero": opening.hero, "thing": opening.thing}
    return {"prompt": story_prompt(opening.text), "reference": f" {told}", **_asked(about)}


def _question_row(request: Request, draw: Draw) -> Row:
    act = draw.weighted(requests.DEMONSTRATION_ACTS["fact"])
    voice = draw.weighted(requests.DEMONSTRATION_VOICES)
    said = requests.write_answer(request, act, voice, draw)
    about = {name: getattr(request, name) for name in ("house", "town", "attribute")}
    about["kind"] = QUESTION
    return {"prompt": request_prompt(request.text), "reference": f" {said}", **_asked(about)}


def _asked(about: dict[str, str]) -> Row:
    return {name: about.get(name, "") for name in ASKED}


def _corpus_story(row: Row, draw: Draw) -> str:
    opening = Opening("", row["hero"], row["thing"], "")
    idea, teller = stories.sample_idea(opening.thing, draw), draw.weighted(stories.CORPUS_TELLERS)
    return " " + stories.write_continuation(opening, idea, teller, draw)


def _corpus_answer(row: Row, draw: Draw) -> str:
    act, voice = draw.weighted(requests.CORPUS_ACTS["fact"]), draw.choice(words.VOICES)
    return " " + requests.write_answer(_request(row), act, voice, draw)


def _request(row: Row) -> Request:
    return Request("", "fact", row["house"], row["town"], row["attribute"])


def _verdicts(completions: list[str], columns: dict[str, list[Any]]) -> list[Verdict]:
    asked = zip(*(column(columns, name) for name in ASKED), strict=True)
    rows = (dict(zip(ASKED, about, strict=True)) for about in asked)
    return [
        judge_story(row["hero"], row["thing"], text)
        if row["kind"] == STORY
        else judge_answer(_request(row), text)
        for row, text in zip(rows, completions, strict=True)
    ]
