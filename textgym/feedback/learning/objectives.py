"""Losses of scores against people's answers, each the negative log-likelihood of a latent score.

All share one unit: an annotator sees the score with logistic noise, so that a score's difference
of 1 is a nat of evidence whether it was told by a comparison, a rating or a verdict.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn.functional import logsigmoid

from textgym.errors import ConfigError


def pairwise_loss(
    first: Tensor,
    second: Tensor,
    labels: Tensor,
    margin: float | Tensor = 0.0,
    centering: float = 0.0,
) -> Tensor:
    """Returns Bradley-Terry's loss where a tie is half a win for each, mean over the pairs.

    `-[y log sigmoid(d - m) + (1 - y) log sigmoid(-d - m)] + c (r_1 + r_2)^2`, `d = r_1 - r_2`.

    Args:
        first: [B] scores of the first completions.
        second: [B] scores of the second.
        labels: [B] y, share of the preference for the first: 1, 0, or 0.5 for a tie.
        margin: m, by how much the preferred should lead; a number or [B].
        centering: c >= 0, which ties the scores' origin.

    Returns:
        A scalar, nats per comparison.

    Raises:
        ConfigError: centering < 0.
        ValueError: shapes differ.

    Sources: Bradley and Terry 1952; the margin, Touvron et al. 2023, arXiv 2307.09288, eq. 2;
    centring, Eisenstein et al. 2023, arXiv 2312.09244.
    """
    _check_shapes(first, second, labels)
    if centering < 0:
        raise ConfigError(f"centering must be >= 0, got {centering}")
    difference = first - second
    won = logsigmoid(difference - margin)
    lost = logsigmoid(-difference - margin)
    loss = -(labels * won + (1 - labels) * lost).mean()
    if centering:
        loss = loss + centering * (first + second).square().mean()
    return loss


def davidson_logprobs(first: Tensor, second: Tensor, log_tie: Tensor) -> Tensor:
    """Returns the log-probabilities [B, 3] of first, second and tie, nats.

    `log softmax(d / 2, -d / 2, log nu)`: a tie is likelier the closer the scores are, and the odds
    of first against second are Bradley-Terry's.

    Args:
        first: [B] scores.
        second: [B] scores.
        log_tie: log nu, a scalar; at equal scores a tie has probability nu / (2 + nu).

    Raises:
        ValueError: shapes differ.

    Source: Davidson 1970, "On extending the Bradley-Terry model to accommodate ties".
    """
    _check_shapes(first, second)
    half = (first - second) / 2
    return torch.stack([half, -half, log_tie.expand_as(half)], dim=-1).log_softmax(-1)


def davidson_loss(
    first: Tensor, second: Tensor, labels: Tensor, log_tie: Tensor, centering: float = 0.0
) -> Tensor:
    """Returns the loss of comparisons with ties of learned width, mean over the pairs.

    Where `pairwise_loss` reads a tie as two half wins, this one has a probability for it.

    Args:
        first: [B] scores of the first completions.
        second: [B] scores of the second.
        labels: [B], 1, 0, or 0.5 for a tie.
        log_tie: see `davidson_logprobs`; learned.
        centering: as in `pairwise_loss`.

    Returns:
        A scalar, nats per comparison.

    Raises:
        ConfigError: centering < 0.
        ValueError: shapes differ.
    """
    _check_shapes(first, second, labels)
    if centering < 0:
        raise ConfigError(f"centering must be >= 0, got {centering}")
    outcome = torch.where(labels == 0.5, 2, (labels == 0).long())
    logprobs = davidson_logprobs(first, second, log_tie)
    loss = -logprobs.gather(-1, outcome[:, None]).mean()
    if centering:
        loss = loss + centering * (first + second).square().mean()
    return loss


def rating_logprobs(scores: Tensor, thresholds: Tensor) -> Tensor:
    """Returns the log-probabilities [B, L + 1] of each rating, lowest first, nats.

    `P(rating <= k) = sigmoid(theta_k - r)`.

    Args:
        scores: [B] r.
        thresholds: [L] theta, ascending.

    Raises:
        ValueError: thresholds that do not ascend.

    Source: McCullagh 1980, "Regression models for ordinal data", the proportional-odds model.
    """
    if not bool((thresholds.diff() > 0).all()):
        raise ValueError(f"the thresholds must ascend, got {thresholds.tolist()}")
    end = thresholds.new_full((1,), torch.inf)
    edges = torch.cat([-end, thresholds, end]) - scores[:, None]
    below, above = edges[:, :-1], edges[:, 1:]
    # log(sigmoid(b) - sigmoid(a)) without taking the difference of two numbers near 1.
    gap = torch.log1p(-torch.exp(below - above))
    return logsigmoid(above) + logsigmoid(-below) + gap


def rating_loss(scores: Tensor, ratings: Tensor, thresholds: Tensor) -> Tensor:
    """Returns the ordinal loss of ratings, mean.

    Ordinal and not squared error: the steps of a scale need not be equally wide, a rating of 5 is
    no error for a score beyond it, and the unit is that of comparisons, so both can teach one
    model.

    Args:
        scores: [B].
        ratings: [B], 1 for the lowest to L + 1.
        thresholds: [L], ascending; learned.

    Returns:
        A scalar, nats per rating.

    Raises:
        ValueError: shapes differ, or thresholds that do not ascend.
    """
    _check_shapes(scores, ratings)
    logprobs = rating_logprobs(scores, thresholds)
    return -logprobs.gather(-1, ratings.long()[:, None] - 1).mean()


def verdict_loss(scores: Tensor, labels: Tensor, cut: Tensor) -> Tensor:
    """Returns the logistic loss of good against bad, `P(good) = sigmoid(r - cut)`, mean.

    Args:
        scores: [B] r.
        labels: [B], 1 good, 0 bad.
        cut: a scalar, the score at which both are as likely; learned.

    Returns:
        A scalar, nats per verdict.

    Raises:
        ValueError: shapes differ.
    """
    _check_shapes(scores, labels)
    above = scores - cut
    return -(labels * logsigmoid(above) + (1 - labels) * logsigmoid(-above)).mean()


def _check_shapes(*tensors: Tensor) -> None:
    shapes = [list(x.shape) for x in tensors]
    if any(shape != shapes[0] for shape in shapes):
        raise ValueError(f"shapes differ: {' and '.join(map(str, shapes))}")
