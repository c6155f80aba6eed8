"""Assistant: helpful, honest, harmless, and which of these an algorithm sells for the others."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from textgym.tasks.base import Task
from textgym.tasks.columns import column
from textgym.tasks.sizes import make_sizes
from textgym.tasks.town import LearnedTownTask
from textgym.tasks.world_data import Row
from textgym.worlds import request_templates as words
from textgym.worlds import requests
from textgym.worlds.grammar import Draw
from textgym.worlds.requests import AnswerVerdict, Request, judge_answer
from textgym.worlds.town import request_prompt

if TYPE_CHECKING:
    from textgym.tasks.toxicity import Classifier
    from textgym.types import RewardFunction

ASKED = ("kind", "house", "town", "attribute", "deed", "who")
"""The columns that a request is made of, its text apart."""


def make_assistant(
    data: str | Path | None = None,
    data_dir: str | None = None,
    reward: str | Path | RewardFunction | None = None,
    backbone: str = "tiny",
    seed: int = 0,
    cache: str | Path | None = None,
    classifier: Classifier = None,
    **sizes: int | None,
) -> Task:
    """Returns the assistant task, on the embedded town or on human-written dialogues.

    Args:
        data: None for the town; a Hub id or folder laid out as HH-RLHF (columns `chosen`,
            `rejected`), such as "Anthropic/hh-rlhf".
        data_dir: the folder inside `data` to read, such as "harmless-base".
        reward: replaces the proxy, see `textgym.rewards.load_reward`.
        backbone: the language model that is asked; "tiny" is the packaged one of the town. On
            `data` it is what a reward model starts from, and its tokenizer measures the windows.
        seed: what the town asks and how a reward model is trained follow from it.
        cache: where trained reward models are kept, see `textgym.cache.cache_root`.
        classifier: who measures toxicity on `data`, see `make_toxicity`.
        sizes: see `textgym.tasks.sizes.Sizes`.

    Raises:
        ConfigError: an option there is not, or outside its domain.
        DataError: a data set that cannot be read, lacks a column or has an empty split.
    """
    made = make_sizes(sizes)
    if data is None:
        return WorldAssistant(reward, backbone, seed, made)
    from textgym.tasks.data_source import load_splits, require_columns
    from textgym.tasks.hh_assistant import HHAssistant

    splits = load_splits(data, data_dir)
    require_columns(splits, HHAssistant.needed, data)
    return HHAssistant(data, splits, reward, backbone, seed, cache, made, classifier)


class WorldAssistant(LearnedTownTask):
    """Answers to the town's requests (after Askell et al. 2021, arXiv 2112.00861).

    Some requests can be answered from the catalogue that the language model has read, some by
    nobody, some ask how to do mild mischief and some how to do a favour that sounds like it. The
    proxy is a Bradley-Terry reward model trained on simulated noisy comparisons (shipped); whoever
    compares adds up the three judges, so one can be sold for another. Gold asks for all at once.
    """

    name: ClassVar[str] = "assistant"
    question: ClassVar[str] = (
        "Does a reward learned from comparisons make an assistant helpful, honest and harmless, "
        "and which of the three does each algorithm sell for the others?"
    )
    max_prompt_tokens = 48
    max_response_tokens = 40
    shipped_reward = "assistant_reward"
    floor = 0.0
    ceiling = 1.0

    def write_row(self, draw: Draw) -> Row:
        """Draws a request's prompt, a reference answer and what was asked."""
        return _row(requests.sample_request(draw), draw)

    def write_shifted_row(self, draw: Draw) -> Row:
        """Draws a request in wordings, on towns and deeds, that the corpus never has."""
        return _row(requests.sample_unheard_request(draw), draw)

    def write_completions(self, row: Row, count: int, draw: Draw) -> list[str]:
        """Returns answers to a row's request as the corpus has them."""
        request = Request("", *(row[name] for name in ASKED))
        acts = requests.CORPUS_ACTS[request.kind]
        return [
            " "
            + requests.write_answer(request, draw.weighted(acts), draw.choice(words.VOICES), draw)
            for _ in range(count)
        ]

    def worth(
        self, prompts: list[str], completions: list[str], **columns: list[Any]
    ) -> list[float]:
        """Returns what an answer is worth to who compares: the mean of the judges that apply."""
        return [verdict.worth for verdict in _verdicts(completions, columns)]

    def gold(self, prompts: list[str], completions: list[str], **columns: list[Any]) -> list[float]:
        """Returns 1 for an answer that is all it can be of helpful, honest, harmless, else 0."""
        return [verdict.score for verdict in _verdicts(completions, columns)]

    def measures(
        self, prompts: list[str], completions: list[str], **columns: list[Any]
    ) -> dict[str, list[float]]:
        """Returns the three judges, NaN where one has nothing to say, and what answers do."""
        verdicts = _verdicts(completions, columns)
        return {
            "helpful": [verdict.helpful for verdict in verdicts],
            "honest": [verdict.honest for verdict in verdicts],
            "harmless": [verdict.harmless for verdict in verdicts],
            **{
                act: [float(verdict.act == act) for verdict in verdicts]
                for act in ("deflection", "ignorance", "refusal", "insult")
            },
            "well_formed": [float(verdict.act != "other") for verdict in verdicts],
        }

    def modes(
        self, prompts: list[str], completions: list[str], **columns: list[Any]
    ) -> list[str] | None:
        """Returns the voice each answer is in, "rude" for an insult, "other" for none."""
        return [verdict.voice for verdict in _verdicts(completions, columns)]


def _row(request: Request, draw: Draw) -> Row:
    act = draw.weighted(requests.DEMONSTRATION_ACTS[request.kind])
    voice = draw.weighted(requests.DEMONSTRATION_VOICES)
    return {
        "prompt": request_prompt(request.text),
        "reference": " " + requests.write_answer(request, act, voice, draw),
        **{name: getattr(request, name) for name in ASKED},
    }


def _verdicts(completions: list[str], columns: dict[str, list[Any]]) -> list[AnswerVerdict]:
    asked = zip(*(column(columns, name) for name in ASKED), completions, strict=True)
    # The judges need what was asked, not in which words.
    return [judge_answer(Request("", *about), answer) for *about, answer in asked]
