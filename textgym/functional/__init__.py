"""Pure functions of tensors: masked statistics, KL estimators, advantages, losses, best-of-n.

Shapes follow the legend in `textgym.types`. No function writes into its arguments, and none looks
at values where a mask is False: padding may hold anything, NaN included.
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
    best_of_n_kl,
    best_of_n_kl_bound,
    best_of_n_kl_estimate,
    expected_best_of_n,
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
    policy_gradient_loss,
    ppo_policy_loss,
    ppo_value_loss,
)
from textgym.functional.masked import (
    aggregate,
    masked_mean,
    masked_whiten,
    rewards_on_last_token,
)

__all__ = [
    "adaptive_kl_step",
    "aggregate",
    "best_of_n_kl",
    "best_of_n_kl_bound",
    "best_of_n_kl_estimate",
    "bradley_terry_loss",
    "dr_grpo_advantages",
    "entropy",
    "expected_best_of_n",
    "full_kl",
    "gae",
    "gather_logprobs",
    "grpo_advantages",
    "kl_k1",
    "kl_k2",
    "kl_k3",
    "masked_mean",
    "masked_whiten",
    "policy_gradient_loss",
    "ppo_policy_loss",
    "ppo_value_loss",
    "returns_to_go",
    "rewards_on_last_token",
    "rloo_advantages",
    "zero_variance_share",
]
