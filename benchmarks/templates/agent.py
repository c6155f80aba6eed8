"""MyAgent: REINFORCE with the batch's mean return as baseline and a price on the KL.

Check it:  textgym check agent ./my_agent.py:MyAgent
Run it:    textgym bench --tasks two-modes --agents reference,./my_agent.py:MyAgent
"""

from __future__ import annotations

from dataclasses import dataclass

from textgym.agents.base import Agent, Setup, collect, prompt_batches, require, rollout_metrics
from textgym.models.training import adamw, optimiser_step


# Every field is an option on the command line: ./my_agent.py:MyAgent@lr=1e-3,kl_coef=0
@dataclass(frozen=True)
class MyAgentConfig:
    """Settings of MyAgent.

    Attributes:
        lr: learning rate of AdamW, constant.
        kl_coef: the price of a nat of KL to the reference, in units of reward; >= 0.
        prompts_per_step: N, prompts per optimiser step.
        samples_per_prompt: K, samples per prompt.
    """

    lr: float = 3e-4
    kl_coef: float = 0.05
    prompts_per_step: int = 32
    samples_per_prompt: int = 2

    def __post_init__(self) -> None:
        # `require` raises a ConfigError, which the command line shows as one line.
        require(self.lr > 0, f"lr must be > 0, got {self.lr}")
        require(self.kl_coef >= 0, f"kl_coef must be >= 0, got {self.kl_coef}")
        require(
            self.prompts_per_step >= 1 and self.samples_per_prompt >= 1,
            "prompts_per_step and samples_per_prompt must be >= 1, got "
            f"{self.prompts_per_step} and {self.samples_per_prompt}",
        )


class MyAgent(Agent):
    """One gradient step per batch of fresh samples."""

    config_class = MyAgentConfig

    # `sample`, the other method of an agent, is inherited: it draws from self.policy.
    def train(self, setup: Setup) -> None:
        """Spends the budget in whole batches; logs `rollout_metrics`, `loss` and `grad_norm`."""
        config: MyAgentConfig = self.config
        # setup.policy is a copy of the reference, there to be trained; leave setup.reference alone.
        self.task, self.policy = setup.task, setup.policy
        # All randomness comes from setup.streams, so that a seed gives the same run again.
        prompts = prompt_batches(
            setup.task.prompts("train"), config.prompts_per_step, setup.streams.numpy("prompts")
        )
        sampling = setup.streams.torch("sampling")
        optimizer = adamw(setup.policy.parameters(), config.lr)
        batch = config.prompts_per_step * config.samples_per_prompt

        step = 0
        while setup.budget.left >= batch:
            # Samples, has them scored, and books them: B = N * K responses of up to T tokens.
            samples, reference_logprobs = collect(
                setup, next(prompts), config.samples_per_prompt, sampling
            )
            assert samples.rewards is not None, "collect() scores"
            # Log-probabilities are [B, T], nats, and 0 after a response's end: they can be summed.
            kl = (samples.policy_logprobs - reference_logprobs).sum(1)
            returns = samples.rewards - config.kl_coef * kl
            advantages = returns - returns.mean()
            # The same tokens again, now with a gradient.
            logprobs = setup.policy.logprobs(samples).sum(1)
            loss = -(advantages * logprobs).mean()
            grad_norm = optimiser_step(optimizer, loss, step)
            metrics = rollout_metrics(samples, reference_logprobs)
            setup.log(step, {**metrics, "loss": loss.item(), "grad_norm": grad_norm})
            step += 1
