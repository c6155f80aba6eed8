"""NLPO: PPO that is only offered the tokens an older self finds likely.

A text policy chooses among thousands of actions, nearly all of them wrong. Natural language policy
optimisation keeps a masking policy, a copy of the policy that lags behind, and cuts every
distribution to the smallest set of tokens whose probability under the masking policy reaches p (the
top-p set of Holtzman et al. 2020). Sampling, PPO's ratios, the KL and what is measured in the end
are all of the masked, renormalised distribution; the reference is never masked.
Source: Ramamurthy et al. 2022, arXiv 2210.01241, algorithm 1.

Where the paper's own code (RL4LMs) does otherwise: its KL takes the policy without its mask, which
is not what it samples from.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from textgym.agents.base import Setup, require
from textgym.agents.ppo import PPO, PPOConfig
from textgym.models.masked_policy import MaskedPolicy, MaskMemory

if TYPE_CHECKING:
    import torch
    from datasets import Dataset

    from textgym.types import Rollout


@dataclass(frozen=True)
class NLPOConfig(PPOConfig):
    """Settings of NLPO: those of PPO, and of the mask.

    Attributes:
        top_p: p, in (0, 1]: the masking policy's probability that a mask keeps. EOS is kept
            besides, wherever it ranks. 1 masks nothing: PPO.
        mask_refresh: batches after which the masking policy is made a copy of the policy; until
            then it is the policy that training began with. Tokens that are cut get no gradient of
            their own and drift, the longer the further, and at this learning rate a mask ten
            batches old lets in, once it is renewed, what no one has trained: the KL jumps
            (`textgym bench --tasks toxicity --agents nlpo,nlpo@mask_refresh=10`). The paper's
            longer lags belong to learning rates a hundred times smaller.
    """

    top_p: float = 0.9
    mask_refresh: int = 1

    def __post_init__(self) -> None:
        super().__post_init__()
        require(0 < self.top_p <= 1, f"top_p must be in (0, 1], got {self.top_p}")
        require(self.mask_refresh >= 1, f"mask_refresh must be >= 1, got {self.mask_refresh}")


class NLPO(PPO):
    """PPO under a mask that follows the policy from a distance.

    The trained policy keeps its last mask: `sample`, the harness's KL, the enumerated distribution
    and a saved copy are all of the distribution that was trained. In training each token is scored
    under the very mask it was drawn under.
    """

    config_class = NLPOConfig

    def train(self, setup: Setup) -> None:
        """Spends the budget in whole batches.

        Logs what PPO does, and `kept_tokens` (how many a mask keeps) and `kept_mass` (how much of
        the policy's own probability lies on them), means over the tokens sampled.

        Raises:
            TrainingError: as PPO.
        """
        config: NLPOConfig = self.config
        memory = MaskMemory()
        setup.policy = masked = MaskedPolicy(setup.policy, config.top_p, memory=memory)
        batch = config.prompts_per_step * config.samples_per_prompt

        def after_batch(step: int, metrics: dict[str, float]) -> None:
            # PPO reports a batch when it is done with it.
            setup.log(step, {**metrics, **memory.means()})
            memory.clear()
            if (step + 1) % config.mask_refresh == 0 and setup.budget.left >= batch:
                masked.refresh()

        super().train(replace(setup, log=after_batch))

    def sample(self, rows: Dataset, samples_per_prompt: int, generator: torch.Generator) -> Rollout:
        """Returns K samples for each row's prompt, drawn under the last mask."""
        if isinstance(self.policy, MaskedPolicy) and self.policy.memory is not None:
            self.policy.memory.clear()
        return super().sample(rows, samples_per_prompt, generator)
