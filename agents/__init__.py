"""The agents: one file each, one line of the table below."""

from __future__ import annotations

from textgym.registry import Registry

AGENTS = Registry(
    "agent",
    {
        "human": "textgym.agents.reference:Human",
        "pretrained": "textgym.agents.reference:Pretrained",
        "reference": "textgym.agents.reference:Reference",
        "sft": "textgym.agents.sft:SFT",
        "best_of_n": "textgym.agents.best_of_n:BestOfN",
        "reinforce": "textgym.agents.reinforce:Reinforce",
        "rloo": "textgym.agents.rloo:RLOO",
        "ppo": "textgym.agents.ppo:PPO",
        "grpo": "textgym.agents.grpo:GRPO",
        "dpo": "textgym.agents.dpo:DPO",
    },
    entry_point_group="textgym.agents",
)
