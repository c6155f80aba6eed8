"""Matching a distribution known up to a constant, from K samples of each prompt.

The target is `p = P / Z`; only `P(y|x)` is known, such as `pi_ref(y|x) exp(r(x, y) / beta)`. Three
log-probabilities of each sample are asked for, nats per response, prompt-major: `log_target` log P,
`log_policy` log pi of the policy in training and `log_proposal` log q of what it was drawn from.
They may be off by a constant of the prompt and hundreds of nats apart: ratios stay in logarithms.

Importance weights are divided by their sum over the prompt's samples, under the target as under the
policy. That costs a bias of order 1 / K, and keeps every weight between 0 and K whatever the
ratios: there is nothing to clip.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor
from torch.nn.functional import softplus

from textgym.errors import ConfigError
from textgym.functional.advantages import _groups
from textgym.registry import unknown_name

TIE = 1e-4
"""Policy and target that are this near, nats, count as equal where only the sign would be seen."""


def log_partition(log_target: Tensor, log_policy: Tensor, log_proposal: Tensor, k: int) -> Tensor:
    """Returns [N], the estimate `log (sum_i P_i / q_i) - log (sum_i pi_i / q_i)` of log Z, nats.

    The second sum is K in expectation. Dividing by it and not by K costs a bias of order 1 / K, and
    leaves no variance where pi is the target.

    Args:
        log_target: [B].
        log_policy: [B].
        log_proposal: [B].
        k: samples per prompt, >= 1.

    Raises:
        ConfigError: k < 1.
        ValueError: not [B] with B a multiple of k.

    >>> p, pi, q = torch.tensor([0.2, 0.6]), torch.tensor([0.3, 0.7]), torch.tensor([0.5, 0.5])
    >>> [round(float(log_z.exp()), 6) for log_z in log_partition(p.log(), pi.log(), q.log(), k=2)]
    [0.8]
    """
    target = _groups(log_target - log_proposal, k, at_least=1)
    policy = _groups(log_policy - log_proposal, k, at_least=1)
    return target.logsumexp(dim=1) - policy.logsumexp(dim=1)


def effective_sample_size(log_weights: Tensor, k: int) -> Tensor:
    """Returns [N], `(sum_i w_i)^2 / sum_i w_i^2`: 1 where one sample has it all, K where all alike.

    Args:
        log_weights: [B], nats.
        k: samples per prompt, >= 1.

    Raises:
        ConfigError: k < 1.
        ValueError: not [B] with B a multiple of k.

    Source: Kong 1992; Owen 2013, Monte Carlo theory, methods and examples, eq. 9.13.
    """
    return 1 / _groups(log_weights, k, at_least=1).softmax(dim=1).square().sum(dim=1)


def target_kl(log_target: Tensor, log_policy: Tensor, log_proposal: Tensor, k: int) -> Tensor:
    """Returns [N], an estimate of KL(p || pi), nats: `sum_i w_i log(w_i / v_i)`, >= 0.

    `w` are the self-normalised weights of the samples under the target, `v` under the policy: both
    are distributions over the K samples. With pi = q it is at most log K, which a target farther
    than that cannot show.

    Arguments and errors as `log_partition`.

    Source: Khalifa et al. 2021, arXiv 2012.11635, there with a moving average for Z.
    """
    log_w = _groups(log_target - log_proposal, k, at_least=1).log_softmax(dim=1)
    log_v = _groups(log_policy - log_proposal, k, at_least=1).log_softmax(dim=1)
    # Rounding may leave a hair below 0. A weight may be so small that it is 0: its term is, too.
    return (log_w.exp() * (log_w - log_v)).sum(dim=1).clamp(min=0)


def _total_variation(log_t: Tensor) -> Tensor:
    return torch.where(log_t.abs() > TIE, -log_t.sign() / 2, 0)


PSEUDO_REWARDS: dict[str, Callable[[Tensor], Tensor]] = {
    "reverse_kl": lambda log_t: -1 - log_t,
    "js": lambda log_t: softplus(-log_t) - math.log(2),
    "total_variation": _total_variation,
}
"""`-f'(t)` by the divergence's name, of `log t = log(pi / p)`.

- `forward_kl`, KL(p || pi), f = -log t: `1 / t`. Times rho it is `P / (Z q)`, the weight of
  distributional policy gradients, at most K; by itself it might overflow, so it is not here.
- `reverse_kl`, KL(pi || p), f = t log t: `-1 - log t`. With fresh samples and the baseline that is
  REINFORCE with the KL in the reward, divided by beta.
- `js`, twice the Jensen-Shannon divergence, f = t log(2 t / (t + 1)) + log(2 / (t + 1)):
  `log(1 + 1 / t) - log 2`.
- `total_variation`, f = |t - 1| / 2: 1/2 where t < 1, -1/2 where t > 1.
"""

DIVERGENCES = ("forward_kl", *PSEUDO_REWARDS)


def matching_weights(
    log_target: Tensor,
    log_policy: Tensor,
    log_proposal: Tensor,
    k: int,
    divergence: str = "forward_kl",
    baseline: bool = True,
) -> Tensor:
    """Returns the weight of each sample's `grad log pi` in minus the gradient of a divergence.

    `D_f(pi || p) = E_p f(pi / p)` has the gradient `E_pi f'(pi / p) grad log pi`, a policy gradient
    whose reward is `-f'`. Samples of a proposal weigh `rho (-f'(t) - b)`, with `rho` proportional
    to `pi / q` and `t = pi / p` with the Z of `log_partition`. `PSEUDO_REWARDS` has each `-f'`.

    Args:
        log_target: [B].
        log_policy: [B]; no gradient flows into the weights.
        log_proposal: [B].
        k: samples per prompt, >= 1.
        divergence: one of the four names.
        baseline: subtract the prompt's `b = sum_i rho_i (-f'(t_i)) / K`; for the forward KL that
            is 1. `E_q[rho grad log pi] = 0`, so b takes noise away: for the two KLs all of it
            where pi is the target; the other pseudo-rewards are 0 there by themselves. That b
            holds the sample itself shrinks the gradient, near the target by (K - 1) / K.

    Returns:
        [B]; with the baseline they sum to 0 for each prompt.

    Raises:
        ConfigError: k < 1, or an unknown divergence.
        ValueError: not [B] with B a multiple of k.

    Sources: Khalifa et al. 2021, arXiv 2012.11635, algorithm 1; Z per prompt, Korbak et al. 2022,
    arXiv 2112.00791; other divergences, Go et al. 2023, arXiv 2302.08215, theorem 1 and table 1;
    the baseline, Korbak et al. 2022, arXiv 2206.00761.
    """
    if divergence not in DIVERGENCES:
        raise ConfigError(str(unknown_name("divergence", divergence, DIVERGENCES)))
    log_target, log_policy, log_proposal = (
        x.detach() for x in (log_target, log_policy, log_proposal)
    )
    rho = k * _groups(log_policy - log_proposal, k, at_least=1).softmax(dim=1)
    if divergence == "forward_kl":
        weights = k * _groups(log_target - log_proposal, k, at_least=1).softmax(dim=1)
    else:
        log_z = log_partition(log_target, log_policy, log_proposal, k)
        log_t = _groups(log_policy - log_target, k, at_least=1) + log_z[:, None]
        weights = rho * PSEUDO_REWARDS[divergence](log_t)
    if baseline:
        weights = weights - rho * weights.mean(dim=1, keepdim=True)
    return weights.flatten()


def trajectory_balance_loss(residuals: Tensor, k: int, beta: float = 1.0) -> Tensor:
    """Returns `beta / 2` times the variance within each prompt of the residuals, mean over prompts.

    The residual of a sample is `log pi(y|x) - log P(y|x)`; where pi is the target all residuals of
    a prompt are `-log Z(x)`, whatever the samples were drawn from. The squared error
    `(log Z + residual)^2` takes for log Z the group's mean, so that its mean is the variance. (Its
    gradient is the same whether or not one flows through that mean: deviations sum to 0.)

    The variance is the unbiased one, divisor K - 1. Then `beta / 2` makes the gradient on samples
    of pi itself that of RLOO with the KL at the price beta in the reward: with
    `R_i = r_i - beta log(pi / pi_ref)_i = -beta residual_i`, both are
    `beta / (K - 1) sum_i (residual_i - mean) grad log pi_i`, in units of reward.

    Args:
        residuals: [B], nats per response, prompt-major.
        k: samples per prompt, >= 2.
        beta: the price of a nat of KL in units of reward, > 0.

    Returns:
        A scalar, reward times nats.

    Raises:
        ConfigError: k < 2, or beta <= 0.
        ValueError: not [B] with B a multiple of k.

    Sources: Malkin et al. 2022, arXiv 2201.13259, eq. 14; log Z from the batch, Richter et al.
    2020, arXiv 2010.10436; for language models Bartoldson et al. 2025, arXiv 2503.18929.
    """
    if not beta > 0:
        raise ConfigError(f"beta must be > 0, got {beta}")
    return beta / 2 * _groups(residuals, k, at_least=2).var(dim=1).mean()
