"""Trains tiny classifiers of single texts, from nothing: a BERT-like encoder and its tokenizer."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import binary_cross_entropy_with_logits

from textgym.errors import ConfigError, DataError
from textgym.models.training import adamw, optimiser_step, warmup_cosine
from textgym.seeding import Streams

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

SPECIAL = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]


@dataclass(frozen=True)
class ClassifierConfig:
    """How the classifier is built and trained.

    Attributes:
        vocab_size: tokens at most, special ones and the 256 bytes included.
        width: hidden size; the feed-forward size is twice that.
        layers: encoder layers.
        heads: attention heads.
        max_tokens: texts are cut to this many tokens.
        epochs: passes over the training texts.
        batch_size: texts per step.
        learning_rate: peak of AdamW's warm-up and cosine.
        weight_decay: AdamW's, on matrices.
        dropout: share of tokens replaced by [MASK] while training, which keeps the classifier
            from leaning on any one of them.
        held_out: share of the texts kept back to report accuracy and AUC on.
    """

    vocab_size: int = 4096
    width: int = 96
    layers: int = 2
    heads: int = 4
    max_tokens: int = 96
    epochs: int = 3
    batch_size: int = 64
    learning_rate: float = 1e-3
    weight_decay: float = 0.05
    dropout: float = 0.1
    held_out: float = 0.1

    def __post_init__(self) -> None:
        for name in (
            "vocab_size",
            "width",
            "layers",
            "heads",
            "max_tokens",
            "epochs",
            "batch_size",
        ):
            if getattr(self, name) < 1:
                raise ConfigError(f"{name} must be >= 1, got {getattr(self, name)}")
        if self.width % self.heads:
            raise ConfigError(f"width {self.width} must be a multiple of heads {self.heads}")
        if not 0 < self.held_out < 1:
            raise ConfigError(f"held_out must be in (0, 1), got {self.held_out}")


class Trained(NamedTuple):
    """A trained classifier.

    Attributes:
        model: `BertForSequenceClassification` with one logit, of label 1.
        tokenizer: what it reads with.
        report: `accuracy` (at 0.5) and `auc` on held-out texts, `loss` (their cross-entropy, nats),
            `texts` and `parameters`.
    """

    model: Any
    tokenizer: PreTrainedTokenizerBase
    report: dict[str, Any]


def train_classifier(
    texts: Sequence[str],
    labels: Sequence[int],
    config: ClassifierConfig | None = None,
    seed: int = 0,
) -> Trained:
    """Trains a BERT-like classifier of single texts and measures it on those it held out.

    The same texts, configuration and seed give the same weights to the bit on one machine and
    thread count.

    Args:
        texts: what to classify.
        labels: 1 or 0, one per text.
        config: how; the defaults take about a minute for 20,000 short texts.
        seed: initialisation, order and held-out texts follow from it.

    Raises:
        DataError: fewer than two texts of a class, or labels of another number.
        TrainingError: the loss is not finite.
    """
    config = config or ClassifierConfig()
    _check(texts, labels)
    streams = Streams(seed)
    train, held = _split(labels, config.held_out, streams.numpy("held-out"))
    tokenizer = _train_tokenizer([texts[i] for i in train], config)
    model = _build(config, len(tokenizer), streams.torch("initialisation"))
    rows = tokenizer(list(texts), truncation=True)["input_ids"]
    _fit(model, rows, labels, train, config, tokenizer, streams)
    probability = _predict(model, [rows[i] for i in held], tokenizer.pad_token_id)
    truth = np.array([labels[i] for i in held])
    clipped = np.clip(np.where(truth == 1, probability, 1 - probability), 1e-7, 1)
    report = {
        "accuracy": float(np.mean((probability > 0.5) == (truth == 1))),
        "auc": auc(truth, probability),
        "loss": float(-np.mean(np.log(clipped))),
        "texts": len(texts),
        "parameters": sum(p.numel() for p in model.parameters()),
    }
    return Trained(model, tokenizer, report)


def auc(labels: np.ndarray, scores: np.ndarray) -> float:
    """Returns the chance that a random positive outscores a random negative, ties one half.

    >>> auc(np.array([0, 0, 1, 1]), np.array([0.1, 0.4, 0.4, 0.8]))
    0.875
    """
    from scipy.stats import rankdata

    positive = labels == 1
    n, m = int(positive.sum()), int((~positive).sum())
    ranks = float(rankdata(scores)[positive].sum())
    return (ranks - n * (n + 1) / 2) / (n * m)


def _check(texts: Sequence[str], labels: Sequence[int]) -> None:
    if len(texts) != len(labels):
        raise DataError(f"{len(labels)} labels for {len(texts)} texts")
    for label in (0, 1):
        # One of each class must be left to train on when one is held out.
        if sum(1 for given in labels if given == label) < 2:
            raise DataError(f"a classifier needs at least two texts labelled {label}")


def _split(
    labels: Sequence[int], held_out: float, random: np.random.Generator
) -> tuple[list[int], list[int]]:
    """Returns the indices to train on and to hold out, the latter with both classes in them."""
    held: list[int] = []
    for label in (0, 1):
        rows = random.permutation([i for i, given in enumerate(labels) if given == label])
        held.extend(int(i) for i in rows[: max(1, round(held_out * len(rows)))])
    kept = set(held)
    return [i for i in range(len(labels)) if i not in kept], held


def _train_tokenizer(texts: Sequence[str], config: ClassifierConfig) -> PreTrainedTokenizerBase:
    from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors, trainers
    from transformers import PreTrainedTokenizerFast

    # Byte-level BPE: the library's WordPiece trainer numbers its pieces in the order of a hash
    # table, which differs between runs.
    tokenizer = Tokenizer(models.BPE())
    tokenizer.normalizer = normalizers.BertNormalizer(lowercase=True)
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=True)
    tokenizer.train_from_iterator(
        texts,
        trainers.BpeTrainer(
            vocab_size=config.vocab_size,
            special_tokens=SPECIAL,
            initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
            show_progress=False,
        ),
    )
    ids = {token: tokenizer.token_to_id(token) for token in ("[CLS]", "[SEP]")}
    tokenizer.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]", special_tokens=list(ids.items())
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        pad_token="[PAD]",
        unk_token="[UNK]",
        cls_token="[CLS]",
        sep_token="[SEP]",
        mask_token="[MASK]",
        model_max_length=config.max_tokens,
        model_input_names=["input_ids", "attention_mask"],
    )


def _build(config: ClassifierConfig, vocab_size: int, generator: torch.Generator) -> Any:
    from transformers import BertConfig, BertForSequenceClassification

    bert = BertConfig(
        vocab_size=vocab_size,
        hidden_size=config.width,
        num_hidden_layers=config.layers,
        num_attention_heads=config.heads,
        intermediate_size=2 * config.width,
        max_position_embeddings=config.max_tokens,
        # Dropout would draw from the global random state.
        hidden_dropout_prob=0.0,
        attention_probs_dropout_prob=0.0,
        num_labels=1,
        pad_token_id=0,
    )
    with torch.random.fork_rng(devices=[]):
        model = BertForSequenceClassification(bert)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if parameter.dim() > 1:
                parameter.normal_(0.0, 0.05, generator=generator)
            else:
                parameter.fill_(1.0 if "LayerNorm.weight" in name else 0.0)
    return model


def _pad(rows: Sequence[Sequence[int]], pad_id: int) -> tuple[Tensor, Tensor]:
    """Returns ids and mask [B, C] int64, right-padded."""
    width = max(len(row) for row in rows)
    ids = torch.tensor([[*row, *[pad_id] * (width - len(row))] for row in rows])
    mask = torch.tensor([[1] * len(row) + [0] * (width - len(row)) for row in rows])
    return ids, mask


def _fit(
    model: Any,
    rows: Sequence[Sequence[int]],
    labels: Sequence[int],
    train: Sequence[int],
    config: ClassifierConfig,
    tokenizer: PreTrainedTokenizerBase,
    streams: Streams,
) -> None:
    order, noise = streams.numpy("minibatches"), streams.torch("masking")
    optimizer = adamw(model.parameters(), config.learning_rate, config.weight_decay)
    steps = config.epochs * -(-len(train) // config.batch_size)
    step = 0
    model.train()
    for _ in range(config.epochs):
        shuffled = [train[int(i)] for i in order.permutation(len(train))]
        batches = [
            shuffled[start : start + config.batch_size]
            for start in range(0, len(shuffled), config.batch_size)
        ]
        for batch in batches:
            for group in optimizer.param_groups:
                group["lr"] = config.learning_rate * warmup_cosine(step / steps)
            ids, mask = _pad([rows[i] for i in batch], tokenizer.pad_token_id)
            masked = (torch.rand(ids.shape, generator=noise) < config.dropout) & (
                ids >= len(SPECIAL)
            )
            ids = ids.masked_fill(masked, tokenizer.mask_token_id)
            logits = model(input_ids=ids, attention_mask=mask).logits[:, 0]
            target = torch.tensor([float(labels[i]) for i in batch])
            optimiser_step(optimizer, binary_cross_entropy_with_logits(logits, target), step)
            step += 1
    model.eval()


@torch.no_grad()
def _predict(model: Any, rows: Sequence[Sequence[int]], pad_id: int) -> np.ndarray:
    """Returns the probability of label 1 for each row, [R]."""
    found = []
    for start in range(0, len(rows), 256):
        ids, mask = _pad(rows[start : start + 256], pad_id)
        found.append(torch.sigmoid(model(input_ids=ids, attention_mask=mask).logits[:, 0]))
    return torch.cat(found).double().numpy()
