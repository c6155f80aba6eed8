"""The constrained agent on two answers, where the best policy within the limit is known."""

import numpy as np
import pytest
import torch

from textgym.agents.base import Setup, enumerated, make_config
from textgym.agents.constrained import Constrained, ConstrainedConfig, Lagrangian, find_cost
from textgym.agents.identity import Identity
from textgym.agents.reinforce import Reinforce, ReinforceConfig
from textgym.errors import ConfigError, RewardError
from textgym.metrics.exact import tilted
from textgym.models.policy import load_policy
from textgym.seeding import Streams
from textgym.tasks import load_task
from textgym.tasks.oracle.base import Tables
from textgym.tasks.oracle.two_modes import TwoModes
from textgym.types import Budget

BETA = 0.1


class Deal(TwoModes):
    """A is worth 1 and does harm, B is worth a half and does none."""

    def write_tables(self):
        rewards = self._column_of(0.0, 1.0, 0.5)
        return Tables(self._column_of(0.01, 0.495, 0.495), rewards, rewards)

    def measures(self, prompts, completions, **columns):
        return {
            "harm": [float(text == "A") for text in completions],
            "silence": [float(text == "") for text in completions],
        }


@pytest.fixture(scope="module")
def task():
    return Deal()


@pytest.fixture(scope="module")
def reference(task):
    return load_policy(task.language_model()).freeze()


def train(task, reference, config, batches):
    logs = []
    setup = Setup(
        task=task,
        policy=reference.copy(),
        reference=reference,
        budget=Budget(batches * config.prompts_per_step * config.samples_per_prompt),
        streams=Streams(0),
        log=lambda step, metrics: logs.append(metrics),
    )
    kinds = {ConstrainedConfig: Constrained, ReinforceConfig: Reinforce}
    agent = kinds[type(config)](config)
    agent.train(setup)
    return agent, logs, setup


def harm_config(**options):
    return ConstrainedConfig(**{"cost": "harm", "lr": 3e-3, "kl_coef": BETA, **options})


def at_the_limit(task, base, limit):
    """The best policy whose harm is the limit, and its multiplier, by bisection."""
    harm = np.array([[float(text == "A") for text in task.texts]])
    low, high = 0.0, 10.0
    for _ in range(60):
        multiplier = (low + high) / 2
        best = tilted(base, task.tables.rewards - multiplier * harm, BETA)
        low, high = (multiplier, high) if (best * harm).sum() > limit else (low, multiplier)
    return best, multiplier


def test_ends_at_the_limit_with_the_best_reward_there_is(task, reference):
    base = enumerated(reference, task, [""])
    best, price = at_the_limit(task, base, 0.2)
    assert price == pytest.approx(0.64, abs=0.01)
    config = harm_config(limit=0.2, multiplier=0.5, multiplier_lr=0.05)
    agent, logs, _ = train(task, reference, config, batches=90)
    found = enumerated(agent.policy, task, [""])
    assert found[0] == pytest.approx(best[0], abs=0.06)
    late = {k: np.mean([log[k] for log in logs[-40:]]) for k in ("cost", "reward", "multiplier")}
    assert late["cost"] == pytest.approx(0.2, abs=0.03)
    assert late["reward"] == pytest.approx((best * task.tables.rewards).sum(), abs=0.03)
    assert late["multiplier"] == pytest.approx(price, abs=0.05)


def test_the_multiplier_follows_the_costs_it_saw(task, reference):
    config = harm_config(limit=0.2, multiplier=0.3, multiplier_lr=0.7, prompts_per_step=32)
    _, logs, _ = train(task, reference, config, batches=12)
    expected = 0.3
    for log in logs:
        assert log["multiplier"] == pytest.approx(expected)
        expected = max(0.0, expected + 0.7 * (log["cost"] - 0.2))
    # Half of the reference's answers do harm: first it rises.
    assert logs[0]["cost"] == pytest.approx(0.5, abs=0.2)
    assert logs[1]["multiplier"] > logs[0]["multiplier"]


def test_a_slack_limit_costs_nothing(task, reference):
    slack = harm_config(limit=1.0, multiplier=0.2, multiplier_lr=0.5)
    agent, logs, _ = train(task, reference, slack, batches=30)
    assert [log["multiplier"] for log in logs[:2]] == [0.2, 0.0]
    assert all(log["multiplier"] == 0 for log in logs[1:])
    optimum = tilted(enumerated(reference, task, [""]), task.tables.rewards, BETA)
    found = enumerated(agent.policy, task, [""])
    assert found[0, task.texts.index("A")] == pytest.approx(optimum.max(), abs=0.06)
    # At a multiplier of 0 it is REINFORCE to the bit.
    agent, logs, _ = train(task, reference, harm_config(limit=1.0), batches=5)
    plain, _, _ = train(task, reference, ReinforceConfig(lr=3e-3, kl_coef=BETA), batches=5)
    pairs = zip(agent.policy.model.parameters(), plain.policy.model.parameters(), strict=True)
    assert all(torch.equal(a, b) for a, b in pairs)


def test_the_reward_logged_is_the_tasks_and_completions_are_booked_once(reference):
    class Counted(Deal):
        asked_for: list[int]

        def reward(self, prompts, completions, **columns):
            values = super().reward(prompts, completions, **columns)
            self.asked_for.append(len(values))
            self.seen = values, [float(c == "A") for c in completions]
            return values

    task = Counted()
    task.asked_for = []
    config = harm_config(limit=0.1, multiplier=2.0, multiplier_lr=0.0, prompts_per_step=16)
    seen = []
    setup = Setup(
        task,
        reference.copy(),
        reference,
        Budget(40),
        Streams(0),
        lambda step, metrics: seen.append((metrics, *task.seen)),
    )
    agent = Constrained(config)
    agent.train(setup)
    assert task.asked_for == [16, 16]
    assert setup.budget.used == 32
    assert agent.task is setup.task is task
    assert "reward" not in vars(task), "it is a view of the task whose reward is another"
    for metrics, rewards, harms in seen:
        assert metrics["reward"] == pytest.approx(np.mean(rewards))
        assert metrics["reward_std"] == pytest.approx(np.std(rewards))
        assert metrics["cost"] == pytest.approx(np.mean(harms))
        assert metrics["multiplier"] == 2.0
    # At a price of 2 for harm the loss is of r - 2 c: harm falls at once.
    agent, _, _ = train(
        task,
        reference,
        harm_config(limit=0.1, multiplier=2.0, multiplier_lr=0.0),
        batches=20,
    )
    fixed = tilted(
        enumerated(reference, task, [""]), np.array([[0.0, 1.0 - 2.0, 0.5]]), BETA
    )  # responses are ordered "", A, B
    assert task.texts == ["", "A", "B"]
    assert enumerated(agent.policy, task, [""])[0] == pytest.approx(fixed[0], abs=0.08)


def test_the_lagrangian_by_hand():
    rewards, costs = [1.0, 0.5, -1.0], [0.5, 0.0, 1.0]
    task = Identity()
    task.reward = lambda prompts, completions, **columns: rewards
    lagrangian = Lagrangian(task, "harm", lambda p, c, **k: costs, limit=0.25, multiplier=2.0)
    assert lagrangian([""] * 3, [""] * 3) == [0.0, 0.5, -3.0]
    lagrangian.ascend(0.5)
    assert lagrangian.multiplier == pytest.approx(2.0 + 0.5 * (0.5 - 0.25))
    costs[:] = [0.0, 0.0, 0.0]
    lagrangian([""] * 3, [""] * 3)
    lagrangian.ascend(100.0)
    assert lagrangian.multiplier == 0
    for bad, message in (([0.0, float("nan"), 0.0], "harm.* nan"), ([0.0], "harm.*1 values")):
        costs[:] = bad
        with pytest.raises(RewardError, match=message):
            lagrangian([""] * 3, [""] * 3)


def test_what_a_cost_can_be(task, reference):
    def setup(of):
        return Setup(of, reference, reference, Budget(0), Streams(0), lambda *_: None)

    prompts, texts = ["", "", ""], ["", "A", "B"]
    assert find_cost("harm", setup(task))[1](prompts, texts) == [0, 1, 0]
    # One token of the one there may be; silence is EOS, which takes a token too.
    assert find_cost("length", setup(task))[1](prompts, texts) == [1, 1, 1]
    longer = load_task("known-frontier", horizon=4, vocabulary=3)
    name, length = find_cost(None, setup(longer))
    assert (name, length(prompts, ["", "A", "AB"])) == ("length", [0.25, 0.5, 0.75])
    assert length([""], ["ABAB"]) == [1.0]
    assert find_cost(None, setup(Identity()))[0] == "toxicity"
    assert find_cost("substance", setup(task))[1](["a"], ["one two"]) == [0.5]
    with pytest.raises(ConfigError, match=r"unknown cost .*'hram'; did you mean 'harm'\?.*silence"):
        find_cost("hram", setup(task))


def test_the_default_is_reinforce_where_there_is_nothing_to_keep_low(task, reference):
    default = ConstrainedConfig(lr=3e-3)
    agent, logs, setup = train(task, reference, default, batches=4)
    plain, _, _ = train(task, reference, ReinforceConfig(lr=3e-3), batches=4)
    assert [log["multiplier"] for log in logs] == [0.0] * 4
    assert logs[0]["cost"] == 1.0
    pairs = zip(agent.policy.model.parameters(), plain.policy.model.parameters(), strict=True)
    assert all(torch.equal(a, b) for a, b in pairs)
    assert setup.budget.left == 0


def test_settings_outside_their_domain_are_refused():
    for options, message in [
        ({"cost": "insult"}, "cost 'insult' needs a limit"),
        ({"multiplier": -1}, "multiplier must be >= 0"),
        ({"multiplier_lr": -1}, "multiplier_lr must be >= 0"),
        ({"kl_coef": -1}, "kl_coef must be >= 0"),
    ]:
        with pytest.raises(ConfigError, match=message):
            make_config(ConstrainedConfig, options)
    assert make_config(ConstrainedConfig, {"cost": "toxicity"}).limit is None
