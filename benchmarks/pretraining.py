"""The commands that make models: language models, classifiers, the reward model."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Sequence
from itertools import islice
from pathlib import Path
from typing import Any

import torch
from rich.console import Console

from textgym.agents.base import make_config
from textgym.benchmarks.cell import require_writable, write_json
from textgym.benchmarks.suite import Options
from textgym.errors import DataError
from textgym.models.documents import cycle, read_texts
from textgym.models.policy import load_policy
from textgym.models.pretrain import PretrainConfig, pretrain
from textgym.models.tokenize import PACKAGED, TINY
from textgym.registry import unknown_name
from textgym.rewards.text_classifier import ClassifierConfig
from textgym.rewards.train_toxicity import ToxicityConfig
from textgym.seeding import Streams
from textgym.tasks import load_task
from textgym.tasks.world_reward import WorldRewardConfig, make_world_reward
from textgym.tasks.world_sentiment import WORLD_SENTIMENT, make_world_sentiment
from textgym.tasks.world_toxicity import WORLD_CONFIG, make_world_toxicity
from textgym.worlds import corpus, exam, town, town_exam

HELD_OUT = 512
"""Documents kept for the held-out loss, at most a tenth of the data."""
SAMPLE_PROMPT_CHARACTERS = 60
HELD_OUT_SEED = 1_000_000
"""Added to the seed for the town's held-out documents, whose stream is then another."""


def pretrain_world(out: Path, settings: Options, seed: int, world: str = TINY) -> None:
    """Pretrains on an embedded world, then lets the world's own judges read the samples.

    The held-out loss of "tiny" stands beside the world's entropy on the same documents.

    Raises: UnknownNameError for a world there is not.
    """
    if world not in PACKAGED:
        raise unknown_name("world", world, PACKAGED)
    config = make_config(PretrainConfig, {"seed": seed, **settings})
    require_writable(out)
    summary = _pretrain_tiny(out, config) if world == TINY else _pretrain_town(out, config)
    write_json(out / "summary.json", summary)
    show(summary, out)


def _pretrain_tiny(out: Path, config: PretrainConfig) -> dict[str, Any]:
    held_out = corpus.measured_documents(config.seed, HELD_OUT)
    texts = [text for text, _ in held_out]
    asked = _asked(texts, ("Summary:", "Reply:"))
    summary = pretrain(corpus.documents, config, out, held_out=texts, sample_prompts=asked)
    summary["world_nats_per_document"] = sum(nats for _, nats in held_out) / len(held_out)
    return summary | exam.examine(load_policy(out), config.seed)


def _pretrain_town(out: Path, config: PretrainConfig) -> dict[str, Any]:
    texts = list(islice(town.documents(config.seed + HELD_OUT_SEED), HELD_OUT))
    asked = _asked(texts, ("Answer:", "Summary:", "Then:"))
    summary = pretrain(
        town.documents,
        config,
        out,
        held_out=texts,
        sample_prompts=asked,
        weights_dtype=torch.bfloat16,  # half the room; loaded as float32 again
    )
    return summary | town_exam.examine(load_policy(out), config.seed)


def _asked(texts: Sequence[str], cues: Sequence[str]) -> list[str]:
    """Returns one prompt for each cue: a text up to where its completion begins."""
    return [
        next(text[: text.index(cue) + len(cue)] for text in texts if cue in text) for cue in cues
    ]


def pretrain_data(
    out: Path,
    data: Sequence[str],
    split: str,
    settings: Options,
    seed: int,
) -> None:
    """Pretrains on the texts of one or more data sets, a tenth of which, at most, is held out.

    Args:
        out: the folder to write.
        data: each a Hub id or folder; behind a colon the folder inside it to read, behind an @ the
            text columns where there are others than `text`: `Salesforce/wikitext:wikitext-2-v1`,
            `knkarthick/dialogsum@dialogue+summary`.
        split: which split of each to read.
        settings: fields of `PretrainConfig`.
        seed: of everything.
    """
    config = make_config(PretrainConfig, {"seed": seed, **settings})
    texts: list[str] = []
    for source in data:
        where, _, columns = source.partition("@")
        path, _, data_dir = where.partition(":")
        options = {"data_dir": data_dir} if data_dir else {}
        texts += read_texts(path, split=split, columns=(columns or "text").split("+"), **options)
    kept = min(HELD_OUT, len(texts) // 10)
    if kept == 0:
        raise DataError(f"pretraining needs at least 10 texts, got {len(texts)}")
    require_writable(out)
    order = Streams(seed).numpy("held-out").permutation(len(texts)).tolist()
    held_out, training = ([texts[i] for i in part] for part in (order[:kept], order[kept:]))
    summary = pretrain(
        cycle(training), config, out, held_out=held_out, sample_prompts=_beginnings(held_out)
    )
    show(summary, out)


def _beginnings(texts: Sequence[str]) -> list[str]:
    return [text[:SAMPLE_PROMPT_CHARACTERS].rpartition(" ")[0] for text in texts[:2]]


def pretrain_toxicity(out: Path, settings: Options, seed: int) -> None:
    """Trains the embedded toxicity classifier."""
    config = make_config(ToxicityConfig, {**dataclasses.asdict(WORLD_CONFIG), **settings})
    require_writable(out)
    show(make_world_toxicity(out, seed, config), out)


def pretrain_sentiment(out: Path, settings: Options, seed: int) -> None:
    """Trains the town's sentiment classifier."""
    config = make_config(ClassifierConfig, {**dataclasses.asdict(WORLD_SENTIMENT), **settings})
    require_writable(out)
    show(make_world_sentiment(out, seed, config), out)


def pretrain_reward(out: Path, task: str, model: str | None, settings: Options, seed: int) -> None:
    """Trains an embedded task's reward model, starting from a language model, the task's own.

    What starts from the task's own model is written as that was, in bfloat16.
    """
    config = make_config(WorldRewardConfig, settings)
    own = load_task(task).language_model()
    policy = load_policy(model or own or TINY)
    require_writable(out)
    dtype = torch.float32 if own is None else torch.bfloat16
    show(make_world_reward(policy, out, seed, config, task=task, dtype=dtype), out)


def show(summary: dict[str, Any], out: Path) -> None:
    """Prints what came out, one number per line."""
    console = Console()
    console.print(f"written to {out}", highlight=False, soft_wrap=True)
    for name, value in _flat(summary):
        shown = f"{value:.4g}" if isinstance(value, float) else value
        console.print(f"  {name}: {shown}", highlight=False, markup=False, soft_wrap=True)


def _flat(summary: dict[str, Any]) -> Iterator[tuple[str, Any]]:
    for name, value in summary.items():
        if isinstance(value, dict):
            yield from ((f"{name}/{key}", inner) for key, inner in _flat(value))
        else:
            yield name, value
