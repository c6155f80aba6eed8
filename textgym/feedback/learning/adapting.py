"""A new annotator's embedding from a handful of comparisons: a small convex problem."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn.functional import logsigmoid

RIDGE = 0.1
"""Added to the prior's variances, as a share of their mean: annotators are never all alike."""


def gaussian_prior(embeddings: Tensor) -> tuple[Tensor, Tensor]:
    """Returns the mean [E] and precision [E, E] of the Gaussian of known embeddings [A, E].

    The covariance is that of the known ones and `RIDGE` times their mean variance in every
    direction. Of one annotator, or of equal ones, the prior is all but a point.
    """
    mean = embeddings.mean(0)
    centred = embeddings - mean
    covariance = centred.T @ centred / len(embeddings)
    spread = RIDGE * covariance.diagonal().mean() + 1e-6
    eye = torch.eye(len(mean), dtype=embeddings.dtype)
    return mean, torch.linalg.inv(covariance + spread * eye)


def fit_embedding(
    features: Tensor,
    offsets: Tensor,
    labels: Tensor,
    mean: Tensor,
    precision: Tensor,
    steps: int = 50,
) -> Tensor:
    """Returns the embedding [E] of the greatest posterior, by damped Newton steps.

    Maximises `sum_i y_i log sigmoid(s_i) + (1 - y_i) log sigmoid(-s_i) - (e - m)^T P (e - m) / 2`
    with `s = Z e + o`, which is strictly concave.

    Args:
        features: Z [n, E] float64, what each number of the embedding adds to a comparison's logit.
        offsets: o [n], the logits at e = 0.
        labels: y [n], share of the preference for the first.
        mean: m [E], of the prior.
        precision: P [E, E], the inverse of its covariance, positive definite.
        steps: at most; a step that would not gain is halved.
    """

    def posterior(e: Tensor) -> Tensor:
        s = features @ e + offsets
        likelihood = labels * logsigmoid(s) + (1 - labels) * logsigmoid(-s)
        return likelihood.sum() - (e - mean) @ precision @ (e - mean) / 2

    e = mean.clone()
    for _ in range(steps):
        p = torch.sigmoid(features @ e + offsets)
        gradient = features.T @ (labels - p) - precision @ (e - mean)
        curvature = (features.T * (p * (1 - p))) @ features + precision
        step = torch.linalg.solve(curvature, gradient)
        gain = float(gradient @ step)
        if gain < 1e-20:
            break
        while posterior(e + step) < posterior(e) and float(step.abs().max()) > 1e-12:
            step = step / 2
        e = e + step
    return e
