"""KTO: its marks and mismatched answers by hand, its loss, and where it ends."""

import math
from dataclasses import replace

import pytest
import torch
from test_agents import make_reference, make_setup, right_answer

from textgym.agents import kto
from textgym.agents.kto import KTO, KTOConfig, marked_loss, marks, mismatched
from textgym.errors import ConfigError
from textgym.models.policy import load_policy
from textgym.rollout import rollout
from textgym.tasks.oracle.two_modes import TwoModes

FAST = {"lr": 1e-3, "prompts_per_step": 16, "samples_per_prompt": 4}


@pytest.fixture(scope="module")
def reference():
    return make_reference()


def test_marks_are_above_or_below_the_others_mean():
    rewards = torch.tensor([1.0, 3.0, 2.0, 7.0, 7.0, 7.0, 0.0, -1.0, -1.0])
    rows, good = marks(rewards, 3)
    assert rows.tolist() == [0, 1, 6, 7, 8]  # 2 is the others' mean; of the 7s none stands out
    assert good.tolist() == [False, True, True, False, False]


@pytest.mark.parametrize("k", range(2, 20))
def test_rounding_marks_nothing(k):
    equal, _ = marks(torch.full((k,), 0.1), k)
    assert equal.tolist() == []
    middle, good = marks(torch.tensor([0.1, 0.2, 0.3]), 3)
    assert middle.tolist() == [0, 2]
    assert good.tolist() == [False, True]


def test_an_annotator_marks_everyone_as_often_as_the_rewards_say():
    prompts = 4000
    rewards = torch.tensor([0.0, 3.0, 3.0]).repeat(prompts)
    rows, good = marks(rewards, 3, torch.Generator().manual_seed(0))
    assert torch.equal(rows, torch.arange(3 * prompts))
    # 0 against a mean of 3, 3 against 1.5; within 4 standard errors.
    wanted = [1 / (1 + math.exp(3)), *[1 / (1 + math.exp(-1.5))] * 2]
    assert good.reshape(prompts, 3).double().mean(0).tolist() == pytest.approx(wanted, abs=0.03)


def test_mismatched_answers_stand_behind_the_next_prompt(reference):
    setup, _ = make_setup(reference, reference, budget=0)
    rows = setup.task.prompts("train")
    samples = rollout(
        reference,
        setup.task,
        rows,
        samples_per_prompt=2,
        generator=torch.Generator().manual_seed(0),
    )
    others = mismatched(samples)
    order = [2, 3, 4, 5, 6, 7, 0, 1]
    assert others.prompts == [samples.prompts[i] for i in order]
    assert not any(a == b for a, b in zip(others.prompts, samples.prompts, strict=True))
    assert torch.equal(others.prompt_ids, samples.prompt_ids[order])
    assert torch.equal(others.prompt_mask, samples.prompt_mask[order])
    assert torch.equal(others.response_ids, samples.response_ids)
    with torch.no_grad():
        one = reference.token_logprobs(
            samples.prompt_ids[2:3],
            samples.prompt_mask[2:3],
            samples.response_ids[1:2],
            samples.response_mask[1:2],
        )
        torch.testing.assert_close(reference.logprobs(others)[1:2], one, atol=1e-5, rtol=0)


def test_the_reference_point_is_that_of_the_policy_as_it_is(reference, monkeypatch):
    """z0 is the mean over the whole batch, marked or not, of answers behind another prompt."""
    seen = []

    def spy(config, logprobs, reference_logprobs, desirable, elsewhere):
        seen.append(elsewhere)
        return marked_loss(config, logprobs, reference_logprobs, desirable, elsewhere)

    monkeypatch.setattr(kto, "marked_loss", spy)
    moved = reference.copy()
    with torch.no_grad():
        for parameter in moved.model.parameters():
            parameter += 0.1 * torch.randn(
                parameter.shape, generator=torch.Generator().manual_seed(parameter.numel())
            )
    setup, logs = make_setup(moved, reference, budget=16)
    drawn = []
    draw = kto.draw_scored
    monkeypatch.setattr(kto, "draw_scored", lambda *a: drawn.append(draw(*a)) or drawn[-1])
    KTO(KTOConfig(lr=1e-9, prompts_per_step=4, samples_per_prompt=4, epochs=2)).train(setup)
    (samples,) = drawn
    wanted = []
    for i in range(16):
        j = (i + 4) % 16
        given = (
            samples.prompt_ids[j : j + 1],
            samples.prompt_mask[j : j + 1],
            samples.response_ids[i : i + 1],
            samples.response_mask[i : i + 1],
        )
        with torch.no_grad():
            ratio = moved.token_logprobs(*given) - reference.token_logprobs(*given)
        wanted.append(ratio.sum().item())
    assert len(seen) == 2
    assert seen[0].tolist() == pytest.approx(wanted, abs=1e-4)
    assert logs[0]["z0"] == pytest.approx(max(0, sum(wanted) / 16), abs=1e-4)


# Log-ratios 3, -1 and 1 nats; z0 = 1; beta 1/2: gains of 1, -1 and 0.
LOGPROBS = torch.tensor([[-1.0, -1.0], [-3.0, 0.0], [-1.0, -2.0]])
REFERENCE = torch.tensor([[-3.0, -2.0], [-2.0, 0.0], [-2.0, -2.0]])
ELSEWHERE = torch.tensor([4.0, -2.0])
HIGH, LOW = 1 / (1 + math.exp(-1)), 1 / (1 + math.e)


def loss_of(good, logprobs=LOGPROBS, reference=REFERENCE, elsewhere=ELSEWHERE, **options):
    config = KTOConfig(**{"beta": 0.5, **options})
    return marked_loss(config, logprobs, reference, torch.tensor(good), elsewhere)


def test_loss_and_metrics_by_hand():
    value, metrics = loss_of([True, False, False])
    assert value.item() == pytest.approx((LOW + LOW + 0.5) / 3)
    assert metrics == {
        "z0": 1,
        "accuracy": 1,
        "desirable_log_ratio": 3,
        "undesirable_log_ratio": 0,
        "margin": 3,
        "chosen_logprob": -2,
        "rejected_logprob": -3,
    }
    value, metrics = loss_of([False, True, True], desirable_weight=2.0, undesirable_weight=3.0)
    assert value.item() == pytest.approx((3 * HIGH + 2 * HIGH + 2 * 0.5) / 3)
    assert metrics["margin"] == -3
    assert metrics["accuracy"] == 0
    # Below 0 the mean counts as 0: gains of 3/2, -1/2 and 1/2.
    value, metrics = loss_of([True, True, True], elsewhere=-ELSEWHERE)
    assert metrics["z0"] == 0
    assert value.item() == pytest.approx(sum(1 / (1 + math.exp(x)) for x in (1.5, -0.5, 0.5)) / 3)
    assert not {"margin", "undesirable_log_ratio", "rejected_logprob"} & set(metrics)


def test_padding_and_the_order_of_responses_change_nothing():
    plain, metrics = loss_of([True, False, False])
    pad = torch.nn.functional.pad
    wide, its_metrics = loss_of([True, False, False], pad(LOGPROBS, (0, 3)), pad(REFERENCE, (0, 3)))
    turned, of_turned = loss_of(
        [False, True, False], LOGPROBS[[2, 0, 1]], REFERENCE[[2, 0, 1]], ELSEWHERE.flip(0)
    )
    assert wide == plain
    torch.testing.assert_close(turned, plain)
    assert metrics == its_metrics == pytest.approx(of_turned)


def test_kto_learns_the_identity(reference):
    setup, logs = make_setup(reference, reference, budget=64 * 40)
    agent = KTO(KTOConfig(**FAST))
    agent.train(setup)
    assert right_answer(agent.policy) > 0.8 > 0.45 > right_answer(reference)
    assert setup.budget.used == setup.task.scored == 64 * 40
    late = {name: sum(log[name] for log in logs[-10:]) / 10 for name in logs[-1]}
    assert late["accuracy"] > 0.9
    assert late["margin"] > 3 > 1 > logs[0]["margin"]
    assert late["desirable_log_ratio"] > 0.5 > -2 > late["undesirable_log_ratio"]
    # Offline: the data are the reference's to the end.
    assert abs(logs[-1]["reference_reward"] - right_answer(reference)) < 0.25


@pytest.mark.parametrize("labels", ["mean", "bradley_terry"])
def test_of_two_modes_kto_keeps_one(labels):
    # DPO on comparisons as noisy, at this beta, keeps a third of the mass on B.
    task = TwoModes(right=0.64)
    reference = load_policy(task.language_model()).freeze()
    setup, _ = make_setup(reference, reference, budget=256 * 60)
    agent = KTO(
        KTOConfig(lr=3e-3, beta=0.4, labels=labels, prompts_per_step=16, samples_per_prompt=16)
    )
    agent.train(replace(setup, task=task))
    assert agent.distribution(task, [""])[0][1] > 0.95


def test_a_batch_of_ties_is_logged_and_passed_over(reference):
    setup, logs = make_setup(reference, reference, budget=128)
    setup.task.reward = lambda prompts, completions, **columns: [0.1] * len(completions)
    agent = KTO(KTOConfig(**FAST))
    agent.train(setup)
    wanted = {"desirable": 0, "undesirable": 0, "reference_reward": pytest.approx(0.1)}
    assert logs == [{"step": i, **wanted} for i in (0, 1)]
    assert setup.budget.used == 128
    assert all(map(torch.equal, agent.policy.model.parameters(), reference.model.parameters()))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"labels": "means"}, "unknown labels 'means'; did you mean 'mean'"),
        ({"beta": 0}, "beta must be > 0, got 0"),
        ({"lr": 0}, "lr must be > 0"),
        ({"prompts_per_step": 1}, "prompts_per_step must be >= 2, got 1"),
        ({"samples_per_prompt": 1}, "samples_per_prompt must be >= 2, got 1"),
        ({"undesirable_weight": -1.0}, "not both 0, got 1.0 and -1.0"),
        ({"desirable_weight": 0.0, "undesirable_weight": 0.0}, "not both 0"),
        ({"epochs": 0}, "epochs must be >= 1, got 0"),
        ({"max_grad_norm": 0}, "max_grad_norm must be > 0"),
    ],
)
def test_settings_outside_their_domain_are_refused(options, message):
    with pytest.raises(ConfigError, match=message):
        KTOConfig(**options)
