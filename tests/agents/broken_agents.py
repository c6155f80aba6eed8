"""Agents that each break one rule of the interface, and what the check of that rule says."""

import random
from dataclasses import dataclass, replace

import numpy as np
import torch

from textgym.agents.base import Agent
from textgym.benchmarks.templates.agent import MyAgent, MyAgentConfig
from textgym.rollout import rollout
from textgym.seeding import Streams


class OnItsOwn(MyAgent):
    """The template, whose `after` breaks something once it is trained."""

    def train(self, setup):
        super().train(setup)
        self.after(setup)

    def after(self, setup):
        pass


class ScoresMore(OnItsOwn):
    def after(self, setup):
        rows = setup.task.prompts("train")
        setup.task.reward(rows["prompt"], [""] * len(rows), letter=rows["letter"])


class TakesMore(OnItsOwn):
    def train(self, setup):
        setup.budget.completions += 100
        super().train(setup)


class Overdraws(OnItsOwn):
    def after(self, setup):
        setup.budget.spend(setup.budget.left + 1)


class TrainsTheReference(OnItsOwn):
    def after(self, setup):
        with torch.no_grad():
            next(setup.reference.model.parameters()).mul_(1.0001)


class UnfreezesTheReference(OnItsOwn):
    def after(self, setup):
        setup.reference.model.requires_grad_(True)


class TurnsTheTokenizer(OnItsOwn):
    def after(self, setup):
        setup.reference.tokenizer.padding_side = "right"


class FormatsTheTask(OnItsOwn):
    def after(self, setup):
        setup.task.prompts("train").set_format("numpy")


class WritesIntoTheTask(OnItsOwn):
    def after(self, setup):
        setup.task.max_response_tokens = 2


class GlobalTorch(OnItsOwn):
    def after(self, setup):
        torch.rand(1)


class GlobalNumpy(OnItsOwn):
    def after(self, setup):
        np.random.rand()  # noqa: NPY002


class GlobalRandom(OnItsOwn):
    def after(self, setup):
        random.seed(0)


class Unseeded(MyAgent):
    def train(self, setup):
        own = np.random.default_rng().integers(2**31)
        super().train(replace(setup, streams=Streams(int(own))))


class IgnoresTheSeed(MyAgent):
    def train(self, setup):
        super().train(replace(setup, streams=Streams(0)))


class IgnoresTheGenerator(MyAgent):
    def sample(self, rows, samples_per_prompt, generator):
        return super().sample(rows, samples_per_prompt, torch.Generator().manual_seed(0))


class LogsNaN(OnItsOwn):
    def after(self, setup):
        setup.log(1000, {"loss": float("nan")})


class LogsTensors(OnItsOwn):
    def after(self, setup):
        setup.log(1000, {"loss": torch.zeros(())})


class RepeatsAStep(OnItsOwn):
    def after(self, setup):
        setup.log(0, {"loss": 0.0})


class Changed(MyAgent):
    """The template, whose samples are changed by `change`."""

    def sample(self, rows, samples_per_prompt, generator):
        return self.change(super().sample(rows, samples_per_prompt, generator))


class OneTooFew(MyAgent):
    def sample(self, rows, samples_per_prompt, generator):
        return super().sample(rows, max(1, samples_per_prompt - 1), generator)


class SampleMajor(Changed):
    def change(self, given):
        order = torch.arange(len(given)).reshape(-1, given.samples_per_prompt).T.reshape(-1)
        return given.select(order)


class OtherTexts(Changed):
    def change(self, given):
        return replace(given, completions=given.completions[::-1])


class MaskWithoutEOS(Changed):
    def change(self, given):
        eos = self.policy.eos_token_id
        first = torch.arange(given.response_mask.shape[1]) == 0
        mask = given.response_mask & ((given.response_ids != eos) | first)
        return replace(given, response_mask=mask)


class MaskWithPads(Changed):
    def change(self, given):
        # A response that is its EOS alone goes on.
        ids, mask = given.response_ids.clone(), torch.ones_like(given.response_mask)
        ids[:, 0] = self.policy.eos_token_id
        return replace(given, response_ids=ids, response_mask=mask)


class FiniteNowhere(Changed):
    def change(self, given):
        return replace(given, policy_logprobs=given.policy_logprobs - torch.inf)


class OtherRewards(Changed):
    def change(self, given):
        return replace(given, rewards=torch.full((len(given),), 0.5))


class SamplesTheReference(OnItsOwn):
    def after(self, setup):
        self.reference = setup.reference

    def sample(self, rows, samples_per_prompt, generator):
        if self.task is None:
            return super().sample(rows, samples_per_prompt, generator)
        k = samples_per_prompt
        return rollout(self.reference, self.task, rows, samples_per_prompt=k, generator=generator)


class KeepsStateElsewhere(OnItsOwn):
    def after(self, setup):
        self.trained = self.policy

    def sample(self, rows, samples_per_prompt, generator):
        if self.policy is not None and self.policy is not self.trained:
            generator = torch.Generator().manual_seed(7)
        return super().sample(rows, samples_per_prompt, generator)


class Unwilling(MyAgent):
    def train(self, setup):
        if setup.budget.completions < 32:
            raise ValueError("too small a budget")
        super().train(setup)


class ForgetsItsPolicy(MyAgent):
    def train(self, setup):
        if setup.budget.completions >= 32:
            super().train(setup)


class MendsRewards(OnItsOwn):
    def train(self, setup):
        reward = setup.task.reward

        def mended(prompts, completions, **columns):
            values = reward(prompts, completions, **columns)
            values += [0.0] * (len(completions) - len(values))
            return [v if v == v else 0.0 for v in values]

        setup.task.reward = mended
        super().train(setup)
        del setup.task.reward


class Backwards(MyAgent):
    def train(self, setup):
        reward = setup.task.reward
        setup.task.reward = lambda *texts, **columns: [-r for r in reward(*texts, **columns)]
        super().train(setup)
        del setup.task.reward


class Crashes(OnItsOwn):
    def after(self, setup):
        raise ZeroDivisionError("division by zero")


class GivesNothing(MyAgent):
    def sample(self, rows, samples_per_prompt, generator):
        return None if self.task else super().sample(rows, samples_per_prompt, generator)


class SamplesUntrained(MyAgent):
    def sample(self, rows, samples_per_prompt, generator):
        assert self.policy is not None
        return super().sample(rows, samples_per_prompt, generator)


@dataclass(frozen=True)
class Careless:
    """Takes anything.

    Attributes:
        lr: learning rate.
        kl_coef: price of KL.
        prompts_per_step, samples_per_prompt: the batch.
    """

    lr: float = 3e-4
    kl_coef: float = 0.05
    prompts_per_step: int = 32
    samples_per_prompt: int = 2


class TakesNonsense(MyAgent):
    config_class = Careless


@dataclass(frozen=True)
class Undocumented(MyAgentConfig):
    width: int = 1


class SaysNothing(MyAgent):
    config_class = Undocumented


@dataclass
class Thawed:
    """Its fields can be set.

    Attributes:
        lr: learning rate.
    """

    lr: float = 3e-4

    def __post_init__(self):
        MyAgentConfig(lr=self.lr)


class NotFrozen(Agent):
    config_class = Thawed

    def train(self, setup):
        self.task, self.policy = setup.task, setup.policy


BROKEN = [
    (SaysNothing, "construction", "no docstring of the config says what 'width' is"),
    (NotFrozen, "construction", "Thawed is not frozen"),
    (TakesNonsense, "nonsense", "was taken"),
    (SamplesUntrained, "untrained", "it ends in AssertionError"),
    (Crashes, "training", "ZeroDivisionError: division by zero"),
    (GivesNothing, "training", "sample returned NoneType"),
    (ScoresMore, "budget", "scored 196 completions and booked 192"),
    (TakesMore, "budget", "used 288 of 200"),
    (Overdraws, "budget", "BudgetError: asked for 9 completions with 8 left"),
    (Unwilling, "small budget", "with a budget of 0: ValueError: too small a budget"),
    (ForgetsItsPolicy, "small budget", "sample called before train"),
    (TrainsTheReference, "reference", "changed weights "),
    (UnfreezesTheReference, "reference", "changed requires_grad"),
    (TurnsTheTokenizer, "reference", "changed tokenizer sides"),
    (FormatsTheTask, "task", "changed prompts train"),
    (WritesIntoTheTask, "task", "changed attributes"),
    (GlobalTorch, "global randomness", "generator of torch$"),
    (GlobalNumpy, "global randomness", "generator of numpy$"),
    (GlobalRandom, "global randomness", "generator of random$"),
    (Unseeded, "same seed", "the logs differ"),
    (IgnoresTheSeed, "other seed", "another seed gives the same logs and weights"),
    (IgnoresTheGenerator, "other seed", "another generator gives the same samples"),
    (LogsNaN, "logs", "'loss' at step 1000 is nan"),
    (LogsTensors, "logs", "'loss' at step 1000 is a Tensor"),
    (RepeatsAStep, "logs", "the steps are"),
    (OneTooFew, "samples", "16 samples; expected 4 prompts x 5"),
    (SampleMajor, "samples", "the column 'prompt' is not that of the prompts in order"),
    (OtherTexts, "samples", "the completions are not the texts of the tokens"),
    (MaskWithoutEOS, "samples", "truncated is not where there is no EOS"),
    (MaskWithPads, "samples", "goes on after its EOS"),
    (FiniteNowhere, "samples", "policy_logprobs are not all finite"),
    (OtherRewards, "samples", "the rewards are not those of the texts"),
    (SamplesTheReference, "likelihood", "off by up to"),
    (KeepsStateElsewhere, "saving", "the samples differ"),
    (MendsRewards, "broken reward", "a NaN reward was taken"),
    (Backwards, "learning", r"the right letter went from 0\.4\d to 0\.[0-3]"),
]
SLOW = {"small budget", "same seed", "other seed", "saving", "broken reward", "learning"}
"""Checks that train again or write: left out where another is to fail."""
ALSO = {
    Overdraws: {"training"},
    FiniteNowhere: {"likelihood"},
    MaskWithPads: {"likelihood"},
}
"""What else is wrong with some of them."""
