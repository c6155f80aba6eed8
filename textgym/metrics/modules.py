"""The text metrics as `evaluate` modules: made directly, without a network, combined as any other.

    DistinctN(n=2, samples_per_prompt=8).compute(predictions=texts)
    evaluate.combine([SelfBLEU(samples_per_prompt=8), Vendi(samples_per_prompt=8)])

`predictions` are B texts, prompt-major: the K = `samples_per_prompt` responses to the first prompt,
then those to the second. `samples_per_prompt` and `length` may be given to `compute` too. Each
diversity module returns `<name>_per_input` and `<name>_across_input`; NaN where the set in
question (K responses, or N prompts) has too few texts to tell.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import datasets
import evaluate
import numpy as np
from numpy.typing import ArrayLike

from textgym.errors import ConfigError
from textgym.metrics import diversity, responses, sets, toxicity

Tokenize = Callable[[str], Sequence[Any]]
"""Splits a text into tokens, such as `str.split` or a tokenizer's `encode`."""

Embed = Callable[[list[str]], ArrayLike]
"""Maps B texts to [B, d] embeddings."""

Score = Callable[[list[str]], Sequence[float]]
"""Maps B texts to B toxicity scores in [0, 1]."""


class TextMetric(evaluate.Metric):
    """Base of the modules: a flat list of texts in, a dictionary of numbers out.

    Args:
        samples_per_prompt: K; the predictions are N * K texts, prompt-major.
        keep_in_memory: False lets `evaluate` spill the texts into its cache directory.
        **options: of `evaluate.Metric`.
    """

    description = ""
    citation = ""

    def __init__(
        self, samples_per_prompt: int = 1, *, keep_in_memory: bool = True, **options: Any
    ) -> None:
        self.samples_per_prompt = samples_per_prompt
        super().__init__(keep_in_memory=keep_in_memory, **options)

    def _info(self) -> evaluate.MetricInfo:
        return evaluate.MetricInfo(
            description=self.description,
            citation=self.citation,
            inputs_description="predictions: N * K texts, prompt-major.",
            features=datasets.Features({"predictions": datasets.Value("string")}),
        )

    def _build_data_dir(self) -> str:
        # In memory nothing is ever read or written there, so no folder should appear either.
        return "" if self.keep_in_memory else str(super()._build_data_dir())


class SetMetric(TextMetric):
    """A diversity metric, per input and across input.

    Args:
        samples_per_prompt: K.
        tokenize: how texts become tokens; on whitespace by default, in a comparison the reference
            policy's tokenizer.
        length: tokens that every text is cut to before measuring; None cuts nothing.
        **options: of `TextMetric`.
    """

    key = ""
    at_least = 1

    def __init__(
        self,
        samples_per_prompt: int = 1,
        *,
        tokenize: Tokenize = str.split,
        length: int | None = None,
        **options: Any,
    ) -> None:
        self.tokenize = tokenize
        self.length = length
        super().__init__(samples_per_prompt, **options)

    def _samples(self, texts: list[str], length: int | None) -> Sequence[Any]:
        tokens = [self.tokenize(text) for text in texts]
        return tokens if length is None else sets.cut(tokens, length)

    def _measure(self, samples: Any) -> float:
        raise NotImplementedError

    def _compute(
        self,
        predictions: Sequence[str],
        samples_per_prompt: int | None = None,
        length: int | None = None,
    ) -> dict[str, float]:
        k = self.samples_per_prompt if samples_per_prompt is None else samples_per_prompt
        samples = self._samples(list(predictions), self.length if length is None else length)
        groups = sets.by_prompt(samples, k)
        nan = float("nan")
        within = sets.per_input(self._measure, groups) if k >= self.at_least else nan
        across = sets.across_input(self._measure, groups) if len(groups) >= self.at_least else nan
        return {f"{self.key}_per_input": within, f"{self.key}_across_input": across}


class DistinctN(SetMetric):
    """Distinct-n: unique / total n-grams (`diversity.distinct_n`)."""

    description = "Share of unique n-grams among all n-grams of a set of texts."
    citation = "Li et al. 2016, arXiv 1510.03055"

    def __init__(self, samples_per_prompt: int = 1, *, n: int = 2, **options: Any) -> None:
        self.n = n
        self.key = f"distinct_{n}"
        super().__init__(samples_per_prompt, **options)

    def _measure(self, samples: Any) -> float:
        return diversity.distinct_n(samples, self.n)


class EAD(SetMetric):
    """Expectation-adjusted distinct (`diversity.ead`); `vocabulary` is the tokenizer's size."""

    key = "ead"
    description = "Distinct n-grams over the number expected of equally likely ones."
    citation = "Liu et al. 2022, arXiv 2202.13587"

    def __init__(self, samples_per_prompt: int = 1, *, vocabulary: int, **options: Any) -> None:
        self.vocabulary = vocabulary
        super().__init__(samples_per_prompt, **options)

    def _measure(self, samples: Any) -> float:
        return diversity.ead(samples, self.vocabulary)


class SelfBLEU(SetMetric):
    """1 - self-BLEU, higher for more diverse sets (`diversity.self_bleu_diversity`)."""

    key = "self_bleu_diversity"
    at_least = 2
    description = "1 minus the mean BLEU-2..5 of each text against the others."
    citation = "Zhu et al. 2018, arXiv 1802.01886"

    def _measure(self, samples: Any) -> float:
        return diversity.self_bleu_diversity(samples)


class Compression(SetMetric):
    """Compressed / raw bytes (`diversity.compression_ratio`); words are numbered as they come."""

    key = "compression"
    description = "Compressed over raw bytes of a set of texts."
    citation = "Shaib et al. 2024, arXiv 2403.00553"

    def _samples(self, texts: list[str], length: int | None) -> Sequence[Any]:
        ids: dict[Any, int] = {}
        samples = super()._samples(texts, length)
        return [[ids.setdefault(token, len(ids)) for token in text] for text in samples]

    def _measure(self, samples: Any) -> float:
        return diversity.compression_ratio(samples)


class Vendi(SetMetric):
    """Vendi score divided by the size of the set, under the n-gram kernel."""

    key = "vendi"
    description = "Effective number of different texts over their number, n-gram kernel."
    citation = "Friedman and Dieng 2023, arXiv 2210.02410"

    def _measure(self, samples: Any) -> float:
        return diversity.ngram_vendi(samples) / len(samples)


class DuplicateRate(SetMetric):
    """Share of texts that repeat an earlier one (`responses.duplicate_rate`)."""

    key = "duplicate_rate"
    description = "Share of texts that repeat an earlier text of the set."

    def _measure(self, samples: Any) -> float:
        return responses.duplicate_rate(samples)


class EmbeddingMetric(SetMetric):
    """A diversity metric of embeddings; `embed` maps a list of texts to [B, d]."""

    def __init__(self, samples_per_prompt: int = 1, *, embed: Embed, **options: Any) -> None:
        self.embed = embed
        super().__init__(samples_per_prompt, **options)

    def _samples(self, texts: list[str], length: int | None) -> Sequence[Any]:
        if length is not None:
            raise ConfigError("embedding metrics take whole texts; cut them before embedding")
        return list(np.asarray(self.embed(texts), float))


class EmbeddingDiversity(EmbeddingMetric):
    """1 - mean pairwise cosine of the texts' embeddings (`diversity.embedding_diversity`)."""

    key = "embedding_diversity"
    at_least = 2
    description = "1 minus the mean pairwise cosine similarity of embeddings."
    citation = "Tevet and Berant 2021, arXiv 2004.02990"

    def _measure(self, samples: Any) -> float:
        return diversity.embedding_diversity(samples)


class EmbeddingVendi(EmbeddingMetric):
    """Vendi score divided by the size of the set, under the cosine kernel of embeddings."""

    key = "vendi_embedding"
    description = "Effective number of different texts over their number, embedding kernel."
    citation = "Friedman and Dieng 2023, arXiv 2210.02410"

    def _measure(self, samples: Any) -> float:
        return diversity.embedding_vendi(samples) / len(samples)


class Toxicity(TextMetric):
    """Expected maximum toxicity and toxicity probability under a named scorer.

    Args:
        samples_per_prompt: K; RealToxicityPrompts takes 25.
        score: maps texts to toxicities in [0, 1], such as Detoxify's.
        **options: of `TextMetric`.
    """

    description = "Expected maximum toxicity and toxicity probability over K continuations."
    citation = "Gehman et al. 2020, arXiv 2009.11462"

    def __init__(self, samples_per_prompt: int = 25, *, score: Score, **options: Any) -> None:
        self.score = score
        super().__init__(samples_per_prompt, **options)

    def _compute(
        self, predictions: Sequence[str], samples_per_prompt: int | None = None
    ) -> dict[str, float]:
        k = self.samples_per_prompt if samples_per_prompt is None else samples_per_prompt
        scores = sets.by_prompt(list(self.score(list(predictions))), k)
        return {
            "expected_max_toxicity": toxicity.expected_max_toxicity(scores),
            "toxicity_probability": toxicity.toxicity_probability(scores),
        }
