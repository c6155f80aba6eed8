"""Documents to pretrain on: endless seeded streams of texts, cut into batches of token rows."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from torch import Tensor

from textgym.errors import ConfigError, DataError
from textgym.models.tokenize import pad

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

Documents = Callable[[int], Iterator[str]]
"""seed -> an endless stream of texts; the same seed gives the same texts."""

POOL = 4096
"""Documents that are sorted by length together, so that a batch wastes little on padding."""


def cycle(texts: Sequence[str]) -> Documents:
    """Returns the stream that goes through `texts` for ever, newly shuffled every epoch.

    Raises: DataError when there are no texts.
    """
    if not len(texts):
        raise DataError("no texts to train on: the data set is empty")

    def stream(seed: int) -> Iterator[str]:
        random = np.random.default_rng(seed)
        while True:
            for i in random.permutation(len(texts)):
                yield texts[int(i)]

    return stream


def read_texts(
    path: str | Path, *, split: str = "train", columns: Sequence[str] = ("text",), **options: Any
) -> list[str]:
    """Reads the texts of a data set, a Hub id or a local folder; empty ones are left out.

    Args:
        path: what `datasets.load_dataset` takes.
        split: which split to read.
        columns: the columns that hold text; several are joined, one per line, in this order.
        options: passed to `load_dataset`, such as `data_dir`.

    Raises:
        DataError: no such data set or split, a column that is missing (the message names those
            that are there), or no text in it.
    """
    import datasets

    try:
        rows = datasets.load_dataset(str(path), split=split, **options)
    except Exception as error:
        cause = " ".join(str(error).split())[:300]
        raise DataError(f"cannot read split {split!r} of {path}: {cause}") from error
    for column in columns:
        if column not in rows.column_names:
            raise DataError(
                f"{path} has no column {column!r}; its columns are {', '.join(rows.column_names)}"
            )
    joined = ("\n".join(str(row[c]) for c in columns).strip() for row in rows)
    texts = [text for text in joined if text]
    if not texts:
        raise DataError(f"split {split!r} of {path} holds no text in {', '.join(columns)}")
    return texts


def token_rows(
    tokenizer: PreTrainedTokenizerBase, texts: Sequence[str], context: int
) -> list[list[int]]:
    """Returns one row of token ids per document, ended by EOS; longer ones in `context` pieces."""
    rows: list[list[int]] = []
    for ids in tokenizer(list(texts), add_special_tokens=False, verbose=False)["input_ids"]:
        ids = [*ids, tokenizer.eos_token_id]
        rows.extend(ids[start : start + context] for start in range(0, len(ids), context))
    # A piece of one token has nothing to predict.
    return [row for row in rows if len(row) > 1]


def batches(
    documents: Documents,
    tokenizer: PreTrainedTokenizerBase,
    *,
    seed: int,
    context: int,
    batch_tokens: int,
) -> Iterator[tuple[Tensor, Tensor]]:
    """Yields batches of whole documents for ever, the same for the same seed.

    Every row holds one document from position 0, which is how prompts stand at sampling time.
    Documents of like length share a batch and the batches of a pool come in random order.

    Yields:
        Ids [R, L] int64 right-padded and mask [R, L] bool, R * L <= batch_tokens.

    Raises:
        ConfigError: a batch could not hold one full context.
    """
    if batch_tokens < context:
        raise ConfigError(f"batch_tokens must be >= context ({context}), got {batch_tokens}")
    stream = documents(seed)
    random = np.random.default_rng([seed, 1])
    while True:
        texts = list(islice(stream, POOL))
        if not texts:
            raise DataError("the stream of documents has ended; it must be endless")
        rows = sorted(token_rows(tokenizer, texts, context), key=len)
        cut = _cut(rows, batch_tokens)
        for i in random.permutation(len(cut)):
            yield pad(cut[int(i)], tokenizer.pad_token_id, side="right")


def _cut(rows: list[list[int]], batch_tokens: int) -> list[list[list[int]]]:
    """Cuts rows sorted by length into batches that hold `batch_tokens` with their padding."""
    cut: list[list[list[int]]] = [[]]
    for row in rows:
        if (len(cut[-1]) + 1) * len(row) > batch_tokens:
            cut.append([])
        cut[-1].append(row)
    return [batch for batch in cut if batch]
