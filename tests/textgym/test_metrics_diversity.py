"""Diversity worked by hand, self-BLEU against nltk, and the qualification of each metric."""

from __future__ import annotations

import itertools
import math
import zlib
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from nltk.translate.bleu_score import SmoothingFunction, sentence_bleu

from textgym.errors import ConfigError
from textgym.metrics import METRICS, diversity, responses, sets

Texts = list[list[int]]


def test_distinct_n_by_hand() -> None:
    # 1 2 | 2 3 | 1 2 | 2 4: three of four bigrams are distinct.
    assert diversity.distinct_n([[1, 2, 3], [1, 2, 4]], 2) == 0.75
    assert diversity.distinct_n([[7, 7, 7, 7]], 1) == 0.25
    assert diversity.distinct_n([[1], []], 2) == 0.0


def test_ead_by_hand() -> None:
    # V = 2: one distinct of two unigrams; two draws are expected to give 2 (1 - 1/4) = 1.5.
    assert diversity.ead([[1, 1]], 2, orders=(1,)) == pytest.approx(1 / 1.5)
    # Orders average; the set has one bigram, and one draw gives exactly one distinct.
    assert diversity.ead([[1, 1]], 2, orders=(1, 2)) == pytest.approx((1 / 1.5 + 1) / 2)
    assert diversity.ead([[1, 1]], 2, orders=(3,)) == 0


def test_ead_can_exceed_one_and_is_not_clipped() -> None:
    every_pair = [[a, b] for a in range(4) for b in range(4)]
    wanted = 16 / (4 * (1 - 0.75**16))
    assert diversity.ead(every_pair, 4, orders=(2,)) == pytest.approx(wanted)
    assert wanted > 4


def nltk_self_bleu(texts: Texts, order: int) -> float:
    scores = [
        sentence_bleu(
            texts[:i] + texts[i + 1 :],
            text,
            weights=(1 / order,) * order,
            smoothing_function=SmoothingFunction().method1,
        )
        for i, text in enumerate(texts)
    ]
    return float(np.mean(scores))


long_enough = st.lists(st.integers(0, 4), min_size=5, max_size=12)


@settings(max_examples=60, deadline=None)
@given(st.lists(long_enough, min_size=2, max_size=6), st.integers(1, 5))
def test_self_bleu_is_nltks(texts: Texts, order: int) -> None:
    assert diversity.self_bleu(texts, (order,)) == pytest.approx(nltk_self_bleu(texts, order))


def test_self_bleu_averages_orders() -> None:
    texts = [[1, 2, 3, 4, 5, 6], [1, 2, 3, 9, 8, 7], [6, 5, 4, 3, 2, 1, 0]]
    wanted = np.mean([nltk_self_bleu(texts, n) for n in (2, 3, 4, 5)])
    assert diversity.self_bleu(texts) == pytest.approx(wanted)
    assert diversity.self_bleu_diversity(texts) == pytest.approx(1 - wanted)


@pytest.mark.parametrize("text", [[], [1], [1, 2, 3], [1, 1, 1, 1, 1, 1]], ids=str)
def test_copies_score_one_however_short(text: list[int]) -> None:
    assert diversity.self_bleu([text] * 3) == pytest.approx(1)


def test_self_bleu_of_unlike_and_empty_texts() -> None:
    assert diversity.self_bleu([[1, 2, 3, 4, 5], [6, 7, 8, 9, 10]]) == 0
    assert diversity.self_bleu([[], [1, 2]]) == 0
    # [1, 2] against [1, 2, 3]: precisions 1, brevity penalty exp(1 - 3/2); and back:
    # precisions 2/3, 1/2 and 0.1/1, no penalty; at orders 2 and 3.
    there = math.exp(-0.5)
    back = (math.sqrt(2 / 3 * 1 / 2) + (2 / 3 * 1 / 2 * 0.1) ** (1 / 3)) / 2
    assert diversity.self_bleu([[1, 2], [1, 2, 3]], (2, 3)) == pytest.approx((there + back) / 2)
    # [1, 9] has no trigrams, so its BLEU-3 is the mean of two orders: 1/2 and 0.1/1.
    there = math.exp(-1) * math.sqrt(1 / 2 * 0.1)
    back = (1 / 4 * 0.1 / 3 * 0.1 / 2) ** (1 / 3)
    assert diversity.self_bleu([[1, 9], [1, 2, 3, 4]], (3,)) == pytest.approx((there + back) / 2)


def test_vendi_counts_effective_texts() -> None:
    assert diversity.vendi(np.eye(5)) == pytest.approx(5)
    assert diversity.vendi(np.ones((5, 5))) == pytest.approx(1)
    assert diversity.vendi(np.kron(np.eye(2), np.ones((3, 3)))) == pytest.approx(2)
    # Eigenvalues (1 +- s) / 2 for two texts of similarity s.
    half = math.exp(-(0.75 * math.log(0.75) + 0.25 * math.log(0.25)))
    assert diversity.vendi([[1, 0.5], [0.5, 1]]) == pytest.approx(half)


def test_kernels_by_hand() -> None:
    # Unigrams (1, 1, 0) and (1, 0, 1): cosine 1/2; bigrams differ: 0.
    kernel = diversity.ngram_kernel([[1, 2], [1, 3]])
    np.testing.assert_allclose(kernel, [[1, 0.25], [0.25, 1]])
    # One-token texts have no bigrams: alike in that, unlike the third.
    kernel = diversity.ngram_kernel([[1], [2], [1, 1]], orders=(2,))
    np.testing.assert_allclose(kernel, [[1, 1, 0], [1, 1, 0], [0, 0, 1]])
    np.testing.assert_allclose(
        diversity.embedding_kernel([[3, 4], [-3, -4], [4, -3]]),
        [[1, -1, 0], [-1, 1, 0], [0, 0, 1]],
        atol=1e-12,
    )
    assert diversity.ngram_vendi([[1, 2], [3, 4], [5, 6]]) == pytest.approx(3)
    assert diversity.embedding_vendi([[1, 0], [0, 1]]) == pytest.approx(2)


def test_embedding_diversity_by_hand() -> None:
    # Pairwise cosines -1, 0, 0.
    assert diversity.embedding_diversity([[3, 4], [-3, -4], [4, -3]]) == pytest.approx(4 / 3)
    assert diversity.embedding_diversity([[1, 1], [2, 2]]) == pytest.approx(0)


def test_compression_is_one_pass_over_sorted_texts() -> None:
    texts = [[3, 1, 70_000], [2]]
    raw = b"".join(t.to_bytes(4, "little") for t in [2, 3, 1, 70_000])
    wanted = len(zlib.compress(raw, 9)) / len(raw)
    assert diversity.compression_ratio(texts) == wanted
    assert diversity.compression_ratio(texts[::-1]) == wanted


def test_bad_input_is_refused() -> None:
    with pytest.raises(ConfigError, match="at least 2 texts, got 1"):
        diversity.self_bleu([[1, 2]])
    with pytest.raises(ConfigError, match="at least 1 texts, got 0"):
        diversity.distinct_n([])
    with pytest.raises(ConfigError, match="order must be >= 1, got 0"):
        diversity.distinct_n([[1]], 0)
    with pytest.raises(ConfigError, match="vocabulary of at least 2"):
        diversity.ead([[1]], 1)
    with pytest.raises(ConfigError, match="at least one token"):
        diversity.compression_ratio([[], []])
    with pytest.raises(ConfigError, match="at least 2"):
        diversity.embedding_diversity([[1.0, 2.0]])
    with pytest.raises(ValueError, match="zero or not finite"):
        diversity.embedding_vendi([[0.0, 0.0], [1.0, 0.0]])
    with pytest.raises(ValueError, match="symmetric"):
        diversity.vendi([[1, 0], [1, 1]])
    with pytest.raises(ValueError, match="shape"):
        diversity.embedding_kernel([1.0, 2.0])


def bag(texts: Texts) -> np.ndarray[Any, Any]:
    """A toy embedding: the counts of the twelve tokens."""
    return np.stack([np.bincount(text, minlength=12) for text in texts])


QUALIFIED: dict[str, Callable[[Texts], float]] = {
    "distinct_1": lambda t: diversity.distinct_n(t, 1),
    "distinct_2": lambda t: diversity.distinct_n(t, 2),
    "ead": lambda t: diversity.ead(t, 12),
    "self_bleu_diversity": diversity.self_bleu_diversity,
    "vendi_ngram": diversity.ngram_vendi,
    "vendi_embedding": lambda t: diversity.embedding_vendi(bag(t)),
    "embedding_diversity": lambda t: diversity.embedding_diversity(bag(t)),
    "compression": diversity.compression_ratio,
    "unique_rate": lambda t: 1 - responses.duplicate_rate(t),
}


def sample(temperature: float, prompts: int = 30, k: int = 8, length: int = 10) -> list[Texts]:
    """Texts of a categorical policy over twelve tokens with logits 0, -1, ..., -11."""
    p = np.exp(-np.arange(12) / temperature)
    tokens = np.random.default_rng(0).choice(12, size=(prompts, k, length), p=p / p.sum())
    texts: list[Texts] = tokens.tolist()
    return texts


@pytest.mark.parametrize("name", QUALIFIED)
def test_falls_with_temperature(name: str) -> None:
    temperatures = (4.0, 2.0, 1.0, 0.5, 0.25)
    values = [sets.per_input(QUALIFIED[name], sample(t)) for t in temperatures]
    if name == "unique_rate":
        # Ten hot tokens hardly ever repeat as a whole: there it cannot tell, and must not rise.
        assert values == sorted(values, reverse=True)
        assert values[0] > values[-1]
    else:
        assert all(hot > cold for hot, cold in itertools.pairwise(values))


@pytest.mark.parametrize("name", QUALIFIED)
def test_falls_as_responses_become_copies(name: str) -> None:
    groups = sample(2.0)
    halves = [group[:4] + [group[0]] * 4 for group in groups]
    copies = [[group[0]] * 8 for group in groups]
    values = [sets.per_input(QUALIFIED[name], s) for s in (groups, halves, copies)]
    assert values[0] > values[1] > values[2]


@pytest.mark.parametrize("name", QUALIFIED)
def test_order_of_texts_changes_nothing(name: str) -> None:
    group = sample(1.0, prompts=1)[0]
    assert QUALIFIED[name](group[::-1]) == pytest.approx(QUALIFIED[name](group))


def test_every_registered_metric_loads() -> None:
    assert all(callable(METRICS.load(name)) for name in METRICS)
