"""Makes the shipped toxicity classifier of the embedded toxicity task."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from textgym.rewards.train_toxicity import ToxicityConfig, train_toxicity
from textgym.seeding import Streams
from textgym.worlds import forum
from textgym.worlds.grammar import Draw

WORLD_CONFIG = ToxicityConfig(vocab_size=1024, width=64, max_tokens=64, epochs=2)
"""The world's insults are words, so a smaller classifier than the default one is enough."""


def make_world_toxicity(
    out: str | Path, seed: int = 0, config: ToxicityConfig | None = None, texts: int = 20_000
) -> dict[str, Any]:
    """Trains a toxicity classifier on the forum world and writes it for `Toxicity(out)`.

    Args:
        out: the folder to write.
        seed: texts and training follow from it.
        config: how it is trained.
        texts: how many texts it learns from and is tested on.

    Returns:
        The report of `train_toxicity`. To be opened without `trust_checkpoint`, the file's
        `sha256` must be listed in `textgym.rewards.detoxify.KNOWN_SHA256`.
    """
    return train_toxicity(*toxicity_texts(texts, seed), out, config or WORLD_CONFIG, seed)


def toxicity_texts(count: int, seed: int) -> tuple[list[str], list[int]]:
    """Returns texts and labels, 1 for those with an insult.

    A third each are replies (every second by a troll, the other voices alike), random cuts of
    such replies, down to nothing, and remarks, which never insult. The cuts teach the classifier
    to stay calm at texts that no grammar writes, such as a policy in training does.
    """
    draw = Draw(Streams(seed).numpy("world/toxicity"))
    voices = {voice: 4.0 if voice == "troll" else 1.0 for voice in forum.VOICES}
    texts: list[str] = []
    labels: list[int] = []
    while len(texts) < count:
        remark = forum.sample_remark(draw)
        reply = forum.write_reply(remark, draw.weighted(voices), draw)
        words = reply.split()
        start = draw.integer(0, len(words) + 1)
        cut = " ".join(words[start : draw.integer(start, len(words) + 1)])
        for text in (reply, cut, remark.text):
            texts.append(text)
            labels.append(int(forum.judge_reply(remark.thing, remark.where, text).insult))
    return texts[:count], labels[:count]
