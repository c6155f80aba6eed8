"""Pure functions of tensors: masked statistics, KL estimators, advantages, losses, best-of-n.

Shapes follow the legend in `textgym.types`. No function writes into its arguments, and none looks
at values where a mask is False: padding may hold anything, NaN included. (`unmasked_whiten` does,
as its name says.)
"""

from textgym.functional.advantages import (
    dr_grpo_advantages,
    gae,
    grpo_advantages,
    returns_to_go,
    rloo_advantages,
    zero_variance_share,
)
from textgym.functional.best_of_n import (
    best_of_n_distribution,
    best_of_n_kl,
    best_of_n_kl_bound,
    best_of_n_kl_estimate,
    best_of_n_log_ratio,
    best_of_n_weights,
    expected_best_of_n,
    noisy_best_of_n_distribution,
)
from textgym.functional.divergence import (
    adaptive_entropy_step,
    adaptive_kl_step,
    entropy,
    full_kl,
    gather_logprobs,
    kl_k1,
    kl_k2,
    kl_k3,
)
from textgym.functional.losses import (
    policy_gradient_loss,
    ppo_policy_loss,
    ppo_value_loss,
)
from textgym.functional.masked import (
    aggregate,
    extend_mask,
    masked_mean,
    masked_whiten,
    rewards_on_last_token,
    unmasked_whiten,
)
from textgym.functional.matching import (
    effective_sample_size,
    log_partition,
    matching_weights,
    target_kl,
    trajectory_balance_loss,
)
from textgym.functional.preference import (
    bradley_terry_loss,
    dpo_loss,
    implicit_reward,
    ipo_loss,
    kto_loss,
    kto_reference_point,
)
from textgym.functional.soft_best_of_n import soft_best_of_n_distribution, soft_best_of_n_kl

__all__ = [
    "adaptive_entropy_step",
    "adaptive_kl_step",
    "aggregate",
    "best_of_n_distribution",
    "best_of_n_kl",
    "best_of_n_kl_bound",
    "best_of_n_kl_estimate",
    "best_of_n_log_ratio",
    "best_of_n_weights",
    "bradley_terry_loss",
    "dpo_loss",
    "dr_grpo_advantages",
    "effective_sample_size",
    "entropy",
    "expected_best_of_n",
    "extend_mask",
    "full_kl",
    "gae",
    "gather_logprobs",
    "grpo_advantages",
    "implicit_reward",
    "ipo_loss",
    "kl_k1",
    "kl_k2",
    "kl_k3",
    "kto_loss",
    "kto_reference_point",
    "log_partition",
    "masked_mean",
    "masked_whiten",
    "matching_weights",
    "noisy_best_of_n_distribution",
    "policy_gradient_loss",
    "ppo_policy_loss",
    "ppo_value_loss",
    "returns_to_go",
    "rewards_on_last_token",
    "rloo_advantages",
    "soft_best_of_n_distribution",
    "soft_best_of_n_kl",
    "target_kl",
    "trajectory_balance_loss",
    "unmasked_whiten",
    "zero_variance_share",
]
