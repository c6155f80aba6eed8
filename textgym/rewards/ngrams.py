"""A classifier of single texts from few labels: naive Bayes and logistic regression on n-grams."""

from __future__ import annotations

import json
import zlib
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
from safetensors.numpy import load_file, save_file
from scipy.optimize import minimize
from scipy.sparse import csr_matrix, diags
from scipy.special import expit

from textgym.errors import ConfigError, DataError, ModelError
from textgym.metrics.sets import FloatArray
from textgym.rewards.rules import words

WEIGHTS, CONFIG = "ngrams.safetensors", "ngrams.json"


@dataclass(frozen=True)
class NgramConfig:
    """What the classifier reads and how it is fitted.

    Attributes:
        word_ngrams: longest run of words that counts.
        characters: shortest and longest run of characters inside a word that counts, its
            boundaries among them; they let it guess at words that it never met.
        buckets: n-grams are hashed to this many.
        smoothing: added to every count of the naive Bayes.
        penalty: half of it times the squared length of the weights is added to the summed loss.
    """

    word_ngrams: int = 2
    characters: tuple[int, int] = (3, 5)
    buckets: int = 2**18
    smoothing: float = 1.0
    penalty: float = 0.1

    def __post_init__(self) -> None:
        low, high = self.characters
        if not 1 <= low <= high:
            raise ConfigError(f"characters must be 1 <= shortest <= longest, got {low} and {high}")
        for name in ("word_ngrams", "buckets"):
            if getattr(self, name) < 1:
                raise ConfigError(f"{name} must be >= 1, got {getattr(self, name)}")
        for name in ("smoothing", "penalty"):
            if not getattr(self, name) > 0:
                raise ConfigError(f"{name} must be > 0, got {getattr(self, name)}")


def ngrams(text: str, config: NgramConfig) -> set[str]:
    """Returns a text's runs of words, and of characters inside its words.

    >>> sorted(ngrams("Not bad", NgramConfig(characters=(5, 5))))
    ['#<bad>', '#<not>', 'bad', 'not', 'not bad']
    """
    said = words(text)
    runs = range(1, config.word_ngrams + 1)
    found = {" ".join(said[i : i + n]) for n in runs for i in range(len(said) - n + 1)}
    low, high = config.characters
    for word in said:
        marked = f"<{word}>"
        for n in range(low, high + 1):
            found |= {"#" + marked[i : i + n] for i in range(len(marked) - n + 1)}
    return found


class NgramClassifier:
    """The probability of label 1 for a text, whatever its length.

    Which n-grams are there counts, not how often, so that a word said twice says no more. Each is
    scaled by its log-odds in the training texts, and logistic regression weighs them (Wang and
    Manning 2012, "Baselines and Bigrams: Simple, Good Sentiment and Topic Classification"); the sum
    is divided by the square root of their number. It is convex, so no seed enters.

    Attributes:
        weights: [buckets], what each n-gram adds to the log-odds, before the division.
        bias: log-odds of a text without n-grams.
        config: what it reads.
    """

    def __init__(self, weights: FloatArray, bias: float, config: NgramConfig) -> None:
        self.weights = weights
        self.bias = bias
        self.config = config

    def scores(self, texts: Sequence[str]) -> list[float]:
        """Returns each text's probability of label 1, in [0, 1]."""
        if not texts:
            return []
        found: list[float] = expit(
            _features(texts, self.config) @ self.weights + self.bias
        ).tolist()
        return found

    def save(self, folder: str | Path) -> None:
        """Writes weights and configuration."""
        Path(folder).mkdir(parents=True, exist_ok=True)
        tensors = {"weights": self.weights, "bias": np.array([self.bias])}
        save_file(tensors, str(Path(folder, WEIGHTS)))
        Path(folder, CONFIG).write_text(json.dumps(asdict(self.config), indent=2) + "\n")


def load_ngrams(folder: str | Path) -> NgramClassifier:
    """Returns the classifier that `save` wrote. Raises: ModelError where there is none."""
    try:
        tensors = load_file(str(Path(folder, WEIGHTS)))
        settings = json.loads(Path(folder, CONFIG).read_text())
    except OSError as error:
        raise ModelError(f"no n-gram classifier in {folder}: {error.strerror}") from error
    config = NgramConfig(**{**settings, "characters": tuple(settings["characters"])})
    return NgramClassifier(tensors["weights"], float(tensors["bias"][0]), config)


def train_ngrams(
    texts: Sequence[str], labels: Sequence[int], config: NgramConfig | None = None
) -> NgramClassifier:
    """Fits the classifier, a quarter of a minute for 3,500 sentences.

    Args:
        texts: what to classify.
        labels: 1 or 0, one per text.
        config: how.

    Raises:
        DataError: labels of another number, or of one class only.
    """
    if len(texts) != len(labels):
        raise DataError(f"{len(labels)} labels for {len(texts)} texts")
    if set(labels) != {0, 1}:
        raise DataError("a classifier needs texts labelled 0 and texts labelled 1")
    config = config or NgramConfig()
    there = _features(texts, config)
    positive = np.array(labels) == 1
    scale = _log_odds(there, positive, config.smoothing)
    weights, bias = _logistic(csr_matrix(there @ diags(scale)), positive, config.penalty)
    return NgramClassifier(weights * scale, bias, config)


def _features(texts: Sequence[str], config: NgramConfig) -> csr_matrix:
    """Returns [N, buckets]: 1 over the root of their number where a text has an n-gram, else 0."""
    rows = [
        sorted({zlib.crc32(gram.encode()) % config.buckets for gram in ngrams(text, config)})
        for text in texts
    ]
    lengths = np.array([len(row) for row in rows])
    columns = np.array([column for row in rows for column in row], dtype=np.int64)
    values = np.repeat(1.0 / np.sqrt(np.maximum(lengths, 1)), lengths)
    ends = np.concatenate([[0], np.cumsum(lengths)])
    return csr_matrix((values, columns, ends), shape=(len(texts), config.buckets))


def _log_odds(there: csr_matrix, positive: np.ndarray, smoothing: float) -> FloatArray:
    """Returns [buckets], the naive Bayes' log ratio of each n-gram's shares in the two classes."""
    shares = []
    for rows in (there[positive], there[~positive]):
        counts = np.asarray((rows > 0).sum(axis=0))[0] + smoothing
        shares.append(np.log(counts / counts.sum()))
    odds: FloatArray = shares[0] - shares[1]
    # An n-gram that was never met says nothing, rather than what the classes' sizes say.
    odds[np.asarray((there > 0).sum(axis=0))[0] == 0] = 0.0
    return odds


def _logistic(
    features: csr_matrix, positive: np.ndarray, penalty: float
) -> tuple[FloatArray, float]:
    """Returns weights and bias of least penalised loss, by L-BFGS."""
    sign = np.where(positive, 1.0, -1.0)

    def loss(parameters: FloatArray) -> tuple[float, FloatArray]:
        weights, bias = parameters[:-1], parameters[-1]
        margin = sign * (features @ weights + bias)
        slope = -sign * expit(-margin)
        gradient = np.append(features.T @ slope + penalty * weights, slope.sum())
        return np.logaddexp(0.0, -margin).sum() + penalty * (weights @ weights) / 2, gradient

    start = np.zeros(features.shape[1] + 1)
    found = minimize(loss, start, jac=True, method="L-BFGS-B", options={"maxiter": 300}).x
    return found[:-1], float(found[-1])
