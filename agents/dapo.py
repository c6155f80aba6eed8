"""DAPO: GRPO whose ratios may rise further than they may fall, over tokens, without a price on KL.

A bound on the ratio above holds back unlikely tokens most: at 0.2 a token of probability 0.01 gets
to 0.012. The higher bound (clip-higher) is meant to keep the policy's entropy from collapsing.
Groups of one reward are left out of the loss. The paper samples until the batch is full again;
here, where every completion is booked, nothing takes their place. Its penalty on overlong responses
is `eos_rule=subtract`, off by default: tasks whose every answer is cut at the limit have no other.
Source: Yu et al. 2025, arXiv 2503.14476, section 3.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from textgym.agents.conventions import Conventions
from textgym.agents.grpo import GRPO, GRPOConfig


@dataclass(frozen=True)
class DAPOConfig(GRPOConfig):
    """Settings of DAPO: those of GRPO, with other defaults and the aggregation `token`.

    Attributes:
        kl_coef: beta, the weight of the KL in the loss, advantage per nat; >= 0. The paper has no
            KL.
        clip_high: importance ratios are clipped from above to 1 + this; None: as `clip`.
        epochs: passes over a batch: in the first minibatch of the first every ratio is 1, so that
            one pass of one minibatch never meets the clip.
        drop_zero_variance: whether prompts whose samples all have one reward are left out.
    """

    kl_coef: float = 0.0
    clip_high: float | None = 0.28
    epochs: int = 2
    drop_zero_variance: bool = True

    defaults: ClassVar[Conventions] = Conventions(
        kl_placement="loss", kl_estimator="k3", kl_ratio_correction=True, aggregation="token"
    )


class DAPO(GRPO):
    """Clipped policy steps, more freely upward, on the prompts whose samples differ in reward."""

    config_class = DAPOConfig
