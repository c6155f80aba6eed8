"""Agents that are wrong in one way each, for the health checks."""

from __future__ import annotations

import dataclasses

import torch
from plugins import Nudge

from textgym.agents.base import Agent
from textgym.rollout import rollout
from textgym.types import Sampling


class Tempered(Agent):
    """Draws at half the temperature that it says."""

    def train(self, setup):
        self.task, self.policy = setup.task, setup.policy

    def sample(self, rows, samples_per_prompt, generator):
        self.sampling = Sampling(temperature=0.5)
        drawn = super().sample(rows, samples_per_prompt, generator)
        return dataclasses.replace(drawn, sampling=Sampling())


class Stale(Nudge):
    """Moves its policy, and goes on sampling from the reference."""

    def train(self, setup):
        super().train(setup)
        self._reference = setup.reference

    def sample(self, rows, samples_per_prompt, generator):
        return rollout(
            self._reference,
            self.task,
            rows,
            samples_per_prompt=samples_per_prompt,
            generator=generator,
        )


class OneAnswer(Agent):
    """Sharpens its policy until it has one answer left."""

    def train(self, setup):
        with torch.no_grad():
            setup.policy.model.lm_head.weight.mul_(1000)
        self.task, self.policy = setup.task, setup.policy


class BadLogs(Agent):
    """Reports a training that went wrong."""

    def train(self, setup):
        for step in range(6):
            late = step >= 4
            setup.log(
                step,
                {
                    "first_ratio_deviation": 0.3 if step == 2 else 0.0,
                    "truncated": 0.9 if late else 0.1,
                    "zero_variance_share": 1.0 if late else 0.0,
                    "value_loss": 20.0 if late else 1.0,
                    "nll": 1.0 if late else 50.0,
                    "length": 5.0,
                },
            )
        self.task, self.policy = setup.task, setup.policy
