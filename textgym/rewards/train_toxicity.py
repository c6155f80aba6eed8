"""Trains a tiny toxicity classifier and saves it in Detoxify's own checkpoint format."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from textgym.rewards.detoxify import CHECKPOINT, sha256
from textgym.rewards.text_classifier import ClassifierConfig, train_classifier

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

ToxicityConfig = ClassifierConfig


def train_toxicity(
    texts: Sequence[str],
    labels: Sequence[int],
    out: str | Path,
    config: ToxicityConfig | None = None,
    seed: int = 0,
) -> dict[str, Any]:
    """Trains a BERT-like classifier of single texts and writes it for `Toxicity(out)`.

    The same texts, configuration and seed give the same file to the bit on one machine and thread
    count.

    Args:
        texts: what to classify.
        labels: 1 toxic, 0 not, one per text.
        out: the folder to write: `toxicity.ckpt` (Detoxify's format: config and state dict), the
            Hugging Face config and the tokenizer.
        config: how; the defaults take about a minute for 20,000 short texts.
        seed: initialisation, order and held-out texts follow from it.

    Returns:
        The report of `train_classifier`, and the file's `sha256`.

    Raises:
        DataError: fewer than two texts of a class, or labels of another number.
        TrainingError: the loss is not finite.
    """
    config = config or ToxicityConfig()
    model, tokenizer, report = train_classifier(texts, labels, config, seed)
    _save(model, tokenizer, config, Path(out))
    return {**report, "sha256": sha256(Path(out) / CHECKPOINT)}


def _save(
    model: Any, tokenizer: PreTrainedTokenizerBase, config: ToxicityConfig, out: Path
) -> None:
    """Writes Detoxify's dictionary and, beside it, what it needs to load without the network."""
    out.mkdir(parents=True, exist_ok=True)
    model.config.save_pretrained(out)
    tokenizer.save_pretrained(out)
    arch = {
        "num_classes": 1,
        "model_type": "bert",
        "model_name": "BertForSequenceClassification",
        "tokenizer_name": "PreTrainedTokenizerFast",
    }
    checkpoint = {
        "config": {
            "arch": {"type": "BERT", "args": arch},
            "dataset": {"args": {"classes": ["toxicity"]}},
            "training": asdict(config),
        },
        "state_dict": {name: tensor.clone() for name, tensor in model.state_dict().items()},
    }
    torch.save(checkpoint, out / CHECKPOINT)
