"""Losses on what people prefer: of scores, of pairs of responses, of single ones.

`l` is a response's log-ratio `log pi(y|x) - log pi_ref(y|x)`, the sum over its tokens, nats.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor
from torch.nn.functional import logsigmoid

from textgym.errors import ConfigError
from textgym.registry import unknown_name

DIVERGENCES = ("reverse_kl", "forward_kl", "js", "alpha")
LARGEST_EXPONENT = 30.0
"""Beyond it `implicit_reward` goes on as its tangent: single precision ends at e^88, and the
squares of a gradient's norm at half of that."""


def bradley_terry_loss(
    chosen: Tensor, rejected: Tensor, margin: float | Tensor = 0.0, centering: float = 0.0
) -> Tensor:
    """Returns the reward model's loss, `-log sigmoid(r_c - r_r - margin)`, mean over the pairs.

    Scores are only fixed up to a shift; `centering * mean((r_c + r_r)^2)` pulls them to 0.

    Args:
        chosen: [B] scores of the preferred completions.
        rejected: [B] scores of the others.
        margin: by how much the chosen should lead; a number or [B].
        centering: weight of the shift penalty, >= 0.

    Returns:
        A scalar, nats per comparison.

    Raises:
        ConfigError: centering < 0.
        ValueError: shapes differ.

    Sources: Stiennon et al. 2020, arXiv 2009.01325; the margin, Touvron et al. 2023,
    arXiv 2307.09288, eq. 2; centring, Eisenstein et al. 2023, arXiv 2312.09244.
    """
    _check_pairs(chosen, rejected)
    if centering < 0:
        raise ConfigError(f"centering must be >= 0, got {centering}")
    loss = -logsigmoid(chosen - rejected - margin).mean()
    if centering:
        loss = loss + centering * (chosen + rejected).square().mean()
    return loss


def dpo_loss(
    chosen: Tensor, rejected: Tensor, beta: float = 0.1, label_smoothing: float = 0.0
) -> Tensor:
    """Returns direct preference optimisation's loss, `-log sigmoid(beta (l_w - l_l))`, mean.

    The Bradley-Terry loss of the implicit reward `beta l`, whose optimal policy is the
    KL-regularised one. Conservative DPO takes a share e of the labels for wrong and adds the loss
    of the pair turned round: `(1 - e) L(w, l) + e L(l, w)`. Its minimum is at the finite margin
    `log((1 - e) / e) / beta`.

    Args:
        chosen: [B] log-ratios of the preferred responses, nats; or, for another price than reverse
            KL, their `implicit_reward`.
        rejected: [B] of the others.
        beta: the price of a nat of KL in units of reward, > 0.
        label_smoothing: e, in [0, 1/2).

    Returns:
        A scalar, nats per comparison.

    Raises:
        ConfigError: beta <= 0, or label_smoothing outside its domain.
        ValueError: shapes differ.

    Sources: Rafailov et al. 2023, arXiv 2305.18290, eq. 7; Mitchell 2023, "A note on DPO with noisy
    preferences and relationship to IPO".
    """
    _check_beta(beta)
    if not 0 <= label_smoothing < 0.5:
        raise ConfigError(f"label_smoothing must be in [0, 0.5), got {label_smoothing}")
    loss = bradley_terry_loss(beta * chosen, beta * rejected)
    if label_smoothing:
        turned = bradley_terry_loss(beta * rejected, beta * chosen)
        loss = (1 - label_smoothing) * loss + label_smoothing * turned
    return loss


def implicit_reward(
    log_ratios: Tensor, divergence: str = "reverse_kl", alpha: float = 0.5
) -> Tensor:
    """Returns `f'(pi / pi_ref)`: what a policy that is optimal under a price says of the reward.

    The policy that maximises `E r - beta D_f(pi, pi_ref)`, with
    `D_f = E_{pi_ref} f(pi / pi_ref)`, has `beta f'(pi / pi_ref) = r` up to a constant of the
    prompt, so that differences go where DPO has those of log-ratios. With u = pi / pi_ref:

    - `reverse_kl`, KL(pi || pi_ref): `log u`;
    - `forward_kl`, KL(pi_ref || pi): `1 - 1 / u`;
    - `js`, twice the Jensen-Shannon divergence: `log(2 u / (1 + u))`;
    - `alpha`: `(1 - u^-alpha) / alpha`, forward KL at 1 and reverse KL in the limit of 0.

    Near u = 1 all have slope 1 in log u but `js`, which has 1/2: there beta must be doubled for the
    same price of a small step.

    >>> implicit_reward(torch.tensor([0.0]), "forward_kl")
    tensor([0.])

    Args:
        log_ratios: `log u`, any shape, nats.
        divergence: f.
        alpha: of the divergence `alpha`, in (0, 1].

    Raises:
        ConfigError: an unknown divergence, or alpha outside its domain.

    Source: Wang et al. 2023, arXiv 2309.16240, table 1.
    """
    if divergence not in DIVERGENCES:
        raise ConfigError(str(unknown_name("divergence", str(divergence), DIVERGENCES)))
    if not 0 < alpha <= 1:
        raise ConfigError(f"alpha must be in (0, 1], got {alpha}")
    if divergence == "reverse_kl":
        return log_ratios
    if divergence == "js":
        return math.log(2) + logsigmoid(log_ratios)
    power = 1.0 if divergence == "forward_kl" else alpha
    exponent = -power * log_ratios
    most = LARGEST_EXPONENT
    tangent = math.expm1(most) + math.exp(most) * (exponent - most)
    grown = torch.where(exponent > most, tangent, torch.expm1(exponent.clamp(max=most)))
    return -grown / power


def ipo_loss(chosen: Tensor, rejected: Tensor, beta: float = 0.1) -> Tensor:
    """Returns identity preference optimisation's loss, `(l_w - l_l - 1 / (2 beta))^2`, mean.

    It pulls the log-ratios of a pair to a fixed distance, where DPO's loss on pairs that always
    agree has its minimum at infinity.

    Args:
        chosen: [B] log-ratios of the preferred responses, nats; summed over tokens as in the
            paper, or their mean, with which beta asks for a distance that grows with the length.
        rejected: [B] of the others.
        beta: > 0; the paper's tau.

    Returns:
        A scalar, nats squared.

    Raises:
        ConfigError: beta <= 0.
        ValueError: shapes differ.

    Source: Azar et al. 2023, arXiv 2310.12036, eq. 17.
    """
    _check_beta(beta)
    _check_pairs(chosen, rejected)
    return (chosen - rejected - 1 / (2 * beta)).square().mean()


def kto_reference_point(log_ratios: Tensor) -> Tensor:
    """Returns KTO's z0, a scalar, nats: the mean of the log-ratios, at least 0, without gradient.

    Args:
        log_ratios: [B] of responses to other prompts than the one they are scored at.

    Source: Ethayarajh et al. 2024, arXiv 2402.01306, section 4.1.
    """
    return log_ratios.detach().mean().clamp(min=0)


def kto_loss(
    log_ratios: Tensor,
    desirable: Tensor,
    reference_point: Tensor,
    beta: float = 0.1,
    desirable_weight: float = 1.0,
    undesirable_weight: float = 1.0,
) -> Tensor:
    """Returns Kahneman-Tversky optimisation's loss, mean over the responses.

    `w_D (1 - sigmoid(beta (l - z0)))` of a desirable response,
    `w_U (1 - sigmoid(beta (z0 - l)))` of an undesirable one: what is lost of a value that
    saturates both ways, where DPO's logarithm goes on for ever on the losing side.

    Args:
        log_ratios: [B] l, nats.
        desirable: [B] bool.
        reference_point: z0, a scalar, nats; see `kto_reference_point`.
        beta: how fast the value saturates, per nat, > 0.
        desirable_weight: w_D, >= 0.
        undesirable_weight: w_U, >= 0.

    Returns:
        A scalar, in [0, max(w_D, w_U)].

    Raises:
        ConfigError: beta <= 0 or a negative weight.
        ValueError: shapes differ.

    Source: Ethayarajh et al. 2024, arXiv 2402.01306, eq. 8.
    """
    _check_beta(beta)
    if min(desirable_weight, undesirable_weight) < 0:
        raise ConfigError(f"weights must be >= 0, got {desirable_weight} and {undesirable_weight}")
    _check_pairs(log_ratios, desirable)
    gain = beta * (log_ratios - reference_point)
    lost = torch.sigmoid(torch.where(desirable, -gain, gain))
    return (torch.where(desirable, desirable_weight, undesirable_weight) * lost).mean()


def _check_beta(beta: float) -> None:
    """Raises ConfigError unless beta > 0."""
    if not beta > 0:
        raise ConfigError(f"beta must be > 0, got {beta}")


def _check_pairs(first: Tensor, second: Tensor) -> None:
    """Raises ValueError unless the shapes are the same."""
    if first.shape != second.shape:
        raise ValueError(f"shapes differ: {list(first.shape)} and {list(second.shape)}")
