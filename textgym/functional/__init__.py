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
    expected_best_of_n,
    noisy_best_of_n_distribution,
)
from textgym.functional.divergence import (
    adaptive_kl_step,
    entropy,
    full_kl,
    gather_logprobs,
    kl_k1,
    kl_k2,
    kl_k3,
)
from textgym.functional.losses import (
    bradley_terry_loss,
    dpo_loss,
    ipo_loss,
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

__all__ = [
    "adaptive_kl_step",
    "aggregate",
    "best_of_n_distribution",
    "best_of_n_kl",
    "best_of_n_kl_bound",
    "best_of_n_kl_estimate",
    "bradley_terry_loss",
    "dpo_loss",
    "dr_grpo_advantages",
    "entropy",
    "expected_best_of_n",
    "extend_mask",
    "full_kl",
    "gae",
    "gather_logprobs",
    "grpo_advantages",
    "ipo_loss",
    "kl_k1",
    "kl_k2",
    "kl_k3",
    "masked_mean",
    "masked_whiten",
    "noisy_best_of_n_distribution",
    "policy_gradient_loss",
    "ppo_policy_loss",
    "ppo_value_loss",
    "returns_to_go",
    "rewards_on_last_token",
    "rloo_advantages",
    "unmasked_whiten",
    "zero_variance_share",
]
