"""Identity preference optimisation: DPO's loop under a loss that stops at a fixed margin.

The squared distance of a pair's margin to 1 / (2 beta) has a finite minimum where all labels agree,
so that beta keeps its hold on certain preferences, which DPO's logistic loss explains by ever
larger margins. Where a is chosen over b with probability p, the minimum is at a margin of
`(p - 1/2) / beta`. With `ipo_normalisation` `mean` the margin is per token, and a response of T
tokens is asked for T times as much.
Source: Azar et al. 2023, arXiv 2310.12036, eq. 17.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from textgym.agents.base import require
from textgym.agents.dpo import DPO, DPOConfig


@dataclass(frozen=True)
class IPOConfig(DPOConfig):
    """Settings of IPO, DPO's with another loss.

    Attributes:
        loss: `ipo`.
    """

    loss: Literal["dpo", "ipo"] = "ipo"

    def __post_init__(self) -> None:
        super().__post_init__()
        require(self.loss == "ipo", f"the loss of ipo is 'ipo', got {self.loss!r}; see dpo")


class IPO(DPO):
    """DPO's loop with IPO's loss."""

    config_class = IPOConfig
