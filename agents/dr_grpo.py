"""Dr. GRPO: GRPO done right, without the two divisions that bias it.

GRPO divides a response's advantage by the standard deviation within its prompt, which makes
prompts that are nearly always or nearly never solved count most, and its loss by the response's own
length, which makes each token of a long failure cost less. Here rewards are only centred and the
loss is divided by a constant, the task's response limit.
Source: Liu et al. 2025, arXiv 2503.20783, section 3.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from textgym.agents.conventions import Conventions
from textgym.agents.grpo import GRPO, GRPOConfig, Scale


@dataclass(frozen=True)
class DrGRPOConfig(GRPOConfig):
    """Settings of Dr. GRPO: those of GRPO, with `scale` at `none` and aggregation `constant`.

    Attributes:
        scale: `none` only centres the rewards: a nat of KL costs `kl_coef` units of reward.
    """

    scale: Scale | None = "none"

    defaults: ClassVar[Conventions] = Conventions(
        kl_placement="loss", kl_estimator="k3", kl_ratio_correction=True, aggregation="constant"
    )


class DrGRPO(GRPO):
    """Clipped policy steps on rewards centred within each prompt's samples."""

    config_class = DrGRPOConfig
