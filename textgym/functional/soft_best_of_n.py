"""Soft best-of-n over outcomes that can be enumerated: its distribution and what it costs in KL."""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.special import rel_entr

from textgym.errors import ConfigError
from textgym.functional.best_of_n import check_n, check_outcomes

_STEP = 0.25
_REACH = 35.0
_ROWS = 2**20


def soft_best_of_n_distribution(
    probabilities: ArrayLike, rewards: ArrayLike, n: int, temperature: float, noise: float = 0.0
) -> NDArray[np.float64]:
    """Returns the distribution of one of n draws chosen with probability softmax(r / temperature).

    With `w = exp(r / temperature)` and S the sum of the other n - 1 draws' weights,
    `pi(y) = n p(y) E[w_y / (w_y + S)]`. Since `1 / a` is the integral of `exp(-t a)`,

        pi(y) = n p(y) int_0^inf w_y exp(-t w_y) M(t)^(n-1) dt,   M(t) = sum_z p(z) exp(-t w_z).

    In u = log t the integrand is analytic for |Im u| < pi / 2, so that the trapezoidal rule errs
    by less than 1e-13 of each probability. With noise every draw's reward is blurred by a normal,
    which is an outcome's being split into many; there too the trapezoidal rule does, at steps of
    half a temperature.

    Args:
        probabilities: [L], one per outcome, summing to 1.
        rewards: [L].
        n: draws, >= 1.
        temperature: in units of reward, > 0. Towards 0 this is best-of-n, towards infinity the
            reference; as n grows, `p exp(r / temperature) / Z`.
        noise: standard deviation of the noise on each draw's reward, >= 0. Memory and time grow
            with noise / temperature.

    Returns:
        [L].

    Raises:
        ConfigError: n < 1, temperature <= 0 or noise < 0.
        ValueError: lengths differ, or the probabilities are no distribution.

    Source: Verdun et al. 2025, arXiv 2505.03156; the quadrature, Trefethen and Weideman 2014,
    "The exponentially convergent trapezoidal rule", doi 10.1137/130932132.

    >>> soft_best_of_n_distribution([0.5, 0.5], [0, 1], 2, 1 / np.log(3)).round(6).tolist()
    [0.375, 0.625]
    """
    check_n(n)
    if not temperature > 0:
        raise ConfigError(f"temperature must be > 0, got {temperature}")
    if not noise >= 0:
        raise ConfigError(f"noise must be >= 0, got {noise}")
    p, r = check_outcomes(probabilities, rewards)
    if noise == 0:
        return _chosen(p, (r - r.max()) / temperature, n)
    points = int(np.ceil(17 * max(1.0, noise / temperature)))
    x = np.linspace(-8.5, 8.5, 2 * points + 1)
    weights = np.exp(-(x**2) / 2)
    split = p[:, None] * weights / weights.sum()
    blurred = (r[:, None] + noise * x) / temperature
    chosen = _chosen(split.ravel(), (blurred - blurred.max()).ravel(), n)
    return np.asarray(chosen.reshape(split.shape).sum(axis=1))


def _chosen(p: NDArray[np.float64], log_w: NDArray[np.float64], n: int) -> NDArray[np.float64]:
    """Returns [L] for log-weights whose greatest is 0; equal ones are taken as one."""
    log_w, classes = np.unique(log_w, return_inverse=True)
    mass = np.bincount(classes, weights=p)
    # Something happens only where t w is neither tiny nor huge for some outcome.
    near = np.arange(-(_REACH + np.log(n)) // _STEP, 5 // _STEP)
    nodes = np.unique(np.floor(-log_w / _STEP)[:, None] + near) * _STEP
    total = np.zeros_like(mass)
    with np.errstate(over="ignore"):
        for u in np.array_split(nodes, 1 + nodes.size * mass.size // _ROWS):
            log_tw = u[:, None] + log_w
            tw = np.exp(log_tw)
            moment = np.exp(-tw) @ mass
            total += moment ** (n - 1) @ np.exp(log_tw - tw)
    growth = n * _STEP * total
    return np.asarray(p * (growth / (mass @ growth))[classes])


def soft_best_of_n_kl(
    probabilities: ArrayLike, rewards: ArrayLike, n: int, temperature: float, noise: float = 0.0
) -> float:
    """Returns the exact KL(soft best-of-n || reference) over outcomes that can be enumerated.

    At most `best_of_n_kl_bound(n)`: to choose by softmax is to choose the greatest of
    `r / temperature` plus Gumbel noise, best-of-n over pairs of an outcome and its noise, none of
    which tie; dropping the noise does not raise the KL. Arguments and errors as
    `soft_best_of_n_distribution`.

    Returns:
        Nats per response.
    """
    chosen = soft_best_of_n_distribution(probabilities, rewards, n, temperature, noise)
    reference = check_outcomes(probabilities, rewards)[0]
    return max(0.0, float(rel_entr(chosen, reference).sum()))
