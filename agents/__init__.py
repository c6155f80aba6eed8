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
        "soft_best_of_n": "textgym.agents.soft_best_of_n:SoftBestOfN",
        "diverse_best_of_n": "textgym.agents.diverse_best_of_n:DiverseBestOfN",
        "raft": "textgym.agents.raft:RAFT",
        "bond": "textgym.agents.bond:BOND",
        "reinforce": "textgym.agents.reinforce:Reinforce",
        "rloo": "textgym.agents.rloo:RLOO",
        "reinforce_pp": "textgym.agents.reinforce_pp:ReinforcePP",
        "a2c": "textgym.agents.a2c:A2C",
        "ppo": "textgym.agents.ppo:PPO",
        "nlpo": "textgym.agents.nlpo:NLPO",
        "grpo": "textgym.agents.grpo:GRPO",
        "dr_grpo": "textgym.agents.dr_grpo:DrGRPO",
        "dapo": "textgym.agents.dapo:DAPO",
        "constrained": "textgym.agents.constrained:Constrained",
        "dpo": "textgym.agents.dpo:DPO",
        "ipo": "textgym.agents.ipo:IPO",
        "kto": "textgym.agents.kto:KTO",
        "online_dpo": "textgym.agents.online_dpo:OnlineDPO",
        "gdc": "textgym.agents.gdc:GDC",
        "trajectory_balance": "textgym.agents.trajectory_balance:TrajectoryBalance",
        "trl:grpo": "textgym.agents.trl_online:TRLGRPO",
        "trl:rloo": "textgym.agents.trl_online:TRLRLOO",
        "trl:dpo": "textgym.agents.trl_offline:TRLDPO",
        "trl:kto": "textgym.agents.trl_offline:TRLKTO",
    },
    entry_point_group="textgym.agents",
)
