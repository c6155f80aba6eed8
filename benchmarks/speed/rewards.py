"""How fast rewards are: texts in batches of like length, beside one batch and single texts.

The learned reward is the packaged reward model of the embedded summarize task, the classifier is
the packaged Detoxify. What is scored are the embedded tasks' own prompts and references, whose
lengths are as mixed as a policy's.
"""

from __future__ import annotations

from functools import partial
from importlib import resources
from pathlib import Path

import torch

from textgym.benchmarks.speed.timing import Ratio, compare
from textgym.errors import DataError
from textgym.rewards.detoxify import Toxicity
from textgym.rewards.learned import RewardModel, TokenRow, load_reward_model
from textgym.tasks import load_task
from textgym.tasks.summarize import SHIPPED_REWARD

COMPLETIONS = 256


def measure(repeats: int = 5) -> list[Ratio]:
    """Compares the learned reward and the classifier with plainer ways to call them.

    The detail holds the number of texts and the calls of the model by which the peer scores them.

    Args:
        repeats: pairs of timed runs per row.
    """
    return [*_learned(repeats), _classifier(repeats)]


def distinct_texts(task: str, count: int) -> tuple[list[str], list[str]]:
    """Returns `count` prompts of a task and their references, no reference twice.

    Raises: DataError when the train split has fewer.
    """
    rows = load_task(task).prompts("train")
    prompt_of = dict(zip(rows["reference"], rows["prompt"], strict=True))
    if len(prompt_of) < count:
        raise DataError(f"expected {count} distinct references, {task} has {len(prompt_of)}")
    references = list(prompt_of)[:count]
    return [prompt_of[text] for text in references], references


def _learned(repeats: int) -> list[Ratio]:
    folder = resources.files("textgym.assets").joinpath(SHIPPED_REWARD)
    model = load_reward_model(Path(str(folder)))
    rows = model.encode(*distinct_texts("summarize", COMPLETIONS))
    lengths = [len(row.ids) for row in rows]
    name = f"learned reward, {COMPLETIONS} completions of {min(lengths)} to {max(lengths)} tokens"
    ours = partial(model.score_rows, rows)
    return [
        compare(
            f"{name}, in length buckets, to {what}",
            ours=ours,
            peer=partial(_score_in, model, rows, size),
            repeats=repeats,
            texts=len(rows),
            peer_calls=-(-len(rows) // size),
        )
        for what, size in (("one batch in order of arrival", len(rows)), ("one text per call", 1))
    ]


@torch.no_grad()
def _score_in(model: RewardModel, rows: list[TokenRow], size: int) -> None:
    """Scores rows in the order they arrive, `size` at a time."""
    for start in range(0, len(rows), size):
        model.raw_scores(rows[start : start + size])


def _classifier(repeats: int) -> Ratio:
    """Compares with Detoxify's own class, called for one text at a time."""
    detoxify = Toxicity().detoxify
    _, texts = distinct_texts("toxicity", COMPLETIONS)

    def ours() -> None:
        # A new one each time, since it remembers the last batch.
        Toxicity(detoxify).scores(texts)

    def peer() -> None:
        for text in texts:
            detoxify.predict(text)

    return compare(
        f"Detoxify, {COMPLETIONS} completions, in length buckets, to one text per call",
        ours=ours,
        peer=peer,
        repeats=repeats,
        texts=len(texts),
        peer_calls=len(texts),
    )
