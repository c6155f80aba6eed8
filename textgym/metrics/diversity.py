"""Diversity of a set of texts: n-gram statistics, self-BLEU, Vendi, embeddings, compression.

Every function maps one set to one number, higher for more diverse sets unless it says otherwise;
`textgym.metrics.sets` forms the sets. A text is a list of token ids of one shared tokenizer, cut
to the common length (`sets.cut`); the order of the texts never matters.
"""

from __future__ import annotations

import math
import zlib
from collections import Counter
from collections.abc import Hashable, Iterable, Sequence

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.special import entr

from textgym.errors import ConfigError
from textgym.metrics.sets import FloatArray

Text = Sequence[Hashable]
Texts = Sequence[Text]


def _ngrams(text: Text, n: int) -> Iterable[tuple[Hashable, ...]]:
    if n < 1:
        raise ConfigError(f"the n-gram order must be >= 1, got {n}")
    return zip(*(text[i:] for i in range(n)), strict=False)


def _require(count: int, at_least: int, metric: str) -> None:
    if count < at_least:
        raise ConfigError(f"{metric} needs a set of at least {at_least} texts, got {count}")


def _distinct_and_total(texts: Texts, n: int) -> tuple[int, int]:
    distinct: set[tuple[Hashable, ...]] = set()
    for text in texts:
        distinct.update(_ngrams(text, n))
    return len(distinct), sum(max(0, len(text) - n + 1) for text in texts)


def distinct_n(texts: Texts, n: int = 2) -> float:
    """Returns unique / total n-grams of the set, in [0, 1]; 0 for a set without n-grams.

    Falls with the length and number of the texts.

    Raises:
        ConfigError: no texts, or n < 1.

    Source: Li et al. 2016, arXiv 1510.03055.

    >>> distinct_n([[1, 2, 3], [1, 2, 4]], n=2)
    0.75
    """
    _require(len(texts), 1, "distinct-n")
    distinct, total = _distinct_and_total(texts, n)
    return distinct / total if total else 0.0


def ead(texts: Texts, vocabulary: int, orders: Sequence[int] = (1, 2, 3, 4, 5)) -> float:
    """Returns expectation-adjusted distinct, `U / (V (1 - ((V - 1) / V)^C))`, mean over orders.

    U distinct and C total n-grams: the count of distinct n-grams over what C draws from V equally
    likely ones would give. Can exceed 1, since for n > 1 there are more than V n-grams. An order
    without n-grams counts as 0.

    Args:
        texts: the set.
        vocabulary: V, the tokenizer's vocabulary, for every order.
        orders: the n to average over.

    Raises:
        ConfigError: no texts, vocabulary < 2, or an order < 1.

    Source: Liu et al. 2022, arXiv 2202.13587; orders as Kirk et al. 2023.
    """
    _require(len(texts), 1, "EAD")
    if vocabulary < 2:
        raise ConfigError(f"EAD needs a vocabulary of at least 2 tokens, got {vocabulary}")
    ratios = []
    for n in orders:
        distinct, total = _distinct_and_total(texts, n)
        expected = -vocabulary * math.expm1(total * math.log1p(-1 / vocabulary))
        ratios.append(distinct / expected if total else 0.0)
    return float(np.mean(ratios))


def self_bleu(texts: Texts, orders: Sequence[int] = (2, 3, 4, 5)) -> float:
    """Returns the mean BLEU of each text against all the others; in [0, 1], 1 for copies.

    BLEU-n is the geometric mean of the clipped precisions of orders 1..n times the brevity penalty
    against the other text of the nearest length; a precision of 0 becomes 0.1 / total (smoothing
    method 1), and without a common unigram BLEU is 0. Averaged over texts and `orders`.

    A text of fewer than n tokens has no n-grams: its BLEU-n uses the orders that it has, and an
    empty text scores 1 beside another empty one, otherwise 0. (Smoothing such orders too would
    give copies of a three-token answer a BLEU-4 of 0.56, and call a collapsed policy diverse.)

    Args:
        texts: the set, at least two.
        orders: the n of BLEU-n to average over; `(4,)` is self-BLEU-4.

    Raises:
        ConfigError: fewer than two texts, or an order < 1.

    Sources: Zhu et al. 2018, arXiv 1802.01886 (self-BLEU); Chen and Cherry 2014 (smoothing 1).
    """
    _require(len(texts), 2, "self-BLEU")
    lengths = np.array([len(text) for text in texts])
    top = max(orders)
    # log precision of every text and order; NaN where the text has no n-grams of that order.
    log_precision = np.full((len(texts), top), np.nan)
    no_match = np.zeros(len(texts), bool)
    for n in range(1, top + 1):
        matches = _clipped_matches(texts, n)
        totals = lengths - n + 1
        has = totals > 0
        log_precision[has, n - 1] = np.log(np.where(matches == 0, 0.1, matches)[has] / totals[has])
        if n == 1:
            no_match = matches == 0
    penalty = _brevity_penalty(lengths)
    scores = []
    for n in orders:
        usable = np.clip(lengths, 1, n)
        bleu = penalty * np.exp(np.nansum(log_precision[:, :n], axis=1) / usable)
        scores.append(np.where(no_match, 0.0, bleu))
    empty = lengths == 0
    result = np.where(empty, float(empty.sum() > 1), np.mean(scores, axis=0))
    return float(result.mean())


def _clipped_matches(texts: Texts, n: int) -> FloatArray:
    """Returns, per text, its n-grams matched in another text, each up to that text's count.

    The largest count among the others is the largest of all, or the second largest for the one
    text that holds the largest: so that each text's n-grams are counted once, not K times.
    """
    counts = [Counter(_ngrams(text, n)) for text in texts]
    first: dict[tuple[Hashable, ...], int] = {}
    second: dict[tuple[Hashable, ...], int] = {}
    holder: dict[tuple[Hashable, ...], int] = {}
    for i, count in enumerate(counts):
        for gram, c in count.items():
            best = first.get(gram, 0)
            if c > best:
                first[gram], second[gram], holder[gram] = c, best, i
            elif c > second[gram]:
                second[gram] = c
    return np.array(
        [
            sum(
                min(c, second[gram] if holder[gram] == i else first[gram])
                for gram, c in count.items()
            )
            for i, count in enumerate(counts)
        ],
        dtype=float,
    )


def _brevity_penalty(lengths: NDArray[np.int64]) -> FloatArray:
    """Returns `min(1, exp(1 - r / c))`, r the nearest other length (the shorter of two as near)."""
    distance = np.abs(lengths[:, None] - lengths).astype(float)
    np.fill_diagonal(distance, np.inf)
    # Half a token more for the longer ones breaks ties toward the shorter.
    nearest = lengths[(distance + 0.5 * (lengths > lengths[:, None])).argmin(axis=1)]
    return np.where(lengths > 0, np.exp(np.minimum(0, 1 - nearest / np.maximum(lengths, 1))), 0.0)


def self_bleu_diversity(texts: Texts, orders: Sequence[int] = (2, 3, 4, 5)) -> float:
    """Returns `1 - self_bleu`, so that higher is more diverse. Arguments as `self_bleu`."""
    return 1 - self_bleu(texts, orders)


def ngram_kernel(texts: Texts, orders: Sequence[int] = (1, 2)) -> FloatArray:
    """Returns [n, n], the cosine similarity of n-gram counts, mean over `orders`.

    Texts too short for an order count as equal to each other and unlike the rest.

    Raises:
        ConfigError: an order < 1.

    Source: Friedman and Dieng 2023, arXiv 2210.02410.
    """
    kernels = []
    for n in orders:
        index: dict[Hashable, int] = {}
        rows = []
        for text in texts:
            counts: Counter[Hashable] = Counter(_ngrams(text, n)) or Counter([()])
            rows.append({index.setdefault(gram, len(index)): c for gram, c in counts.items()})
        matrix = np.zeros((len(texts), len(index)))
        for i, row in enumerate(rows):
            matrix[i, list(row)] = list(row.values())
        kernels.append(embedding_kernel(matrix))
    return np.asarray(np.mean(kernels, axis=0))


def embedding_kernel(embeddings: ArrayLike) -> FloatArray:
    """Returns [n, n], the cosine similarities of [n, d] embeddings.

    Raises:
        ValueError: not of shape [n, d], or an embedding that is zero or not finite.
    """
    rows = np.asarray(embeddings, float)
    if rows.ndim != 2:
        raise ValueError(f"expected embeddings of shape [n, d], got {list(rows.shape)}")
    norms = np.linalg.norm(rows, axis=1, keepdims=True)
    if not np.all(np.isfinite(norms) & (norms > 0)):
        raise ValueError("an embedding is zero or not finite")
    unit = rows / norms
    return np.asarray(unit @ unit.T)


def vendi(kernel: ArrayLike) -> float:
    """Returns the Vendi score, `exp(-sum lam log lam)`, lam the eigenvalues of `kernel / n`.

    The effective number of different texts, in [1, n]; divide by n to compare sets of unlike size.

    Args:
        kernel: [n, n] similarities, symmetric, positive semi-definite, 1 on the diagonal.

    Raises:
        ValueError: not such a matrix.

    Source: Friedman and Dieng 2023, arXiv 2210.02410.
    """
    k = np.asarray(kernel, float)
    square = k.ndim == 2 and k.shape[0] == k.shape[1] > 0
    if not square or not np.allclose(k, k.T) or not np.allclose(np.diag(k), 1):
        raise ValueError("the kernel must be symmetric with 1 on the diagonal")
    return float(np.exp(entr(np.linalg.eigvalsh(k / len(k)).clip(0, 1)).sum()))


def ngram_vendi(texts: Texts, orders: Sequence[int] = (1, 2)) -> float:
    """Returns the Vendi score under the n-gram kernel, in [1, n].

    Raises:
        ConfigError: no texts, or an order < 1.
    """
    _require(len(texts), 1, "Vendi")
    return vendi(ngram_kernel(texts, orders))


def embedding_vendi(embeddings: ArrayLike) -> float:
    """Returns the Vendi score of [n, d] embeddings under their cosine similarity, in [1, n].

    Raises:
        ValueError: as `embedding_kernel`.
    """
    return vendi(embedding_kernel(embeddings))


def embedding_diversity(embeddings: ArrayLike) -> float:
    """Returns 1 - the mean cosine similarity over the pairs of [n, d] embeddings, in [0, 2].

    Raises:
        ConfigError: fewer than two embeddings.
        ValueError: as `embedding_kernel`.

    Source: Tevet and Berant 2021, arXiv 2004.02990.
    """
    kernel = embedding_kernel(embeddings)
    _require(len(kernel), 2, "embedding diversity")
    return float(1 - kernel[np.triu_indices(len(kernel), k=1)].mean())


def compression_ratio(texts: Sequence[Sequence[int]]) -> float:
    """Returns compressed / raw bytes of the set; higher is more diverse.

    Ids are written as four-byte little-endian integers, texts in sorted order, one after the
    other, and zlib compresses the whole once at level 9. Falls with the size of the set; for a
    few bytes zlib's own header lifts it above 1.

    Raises:
        ConfigError: no tokens at all.

    Source: Shaib et al. 2024, arXiv 2403.00553 (there raw / compressed).
    """
    raw = b"".join(np.asarray(text, "<u4").tobytes() for text in sorted(map(list, texts)))
    if not raw:
        raise ConfigError("compression needs a set with at least one token")
    return len(zlib.compress(raw, 9)) / len(raw)
