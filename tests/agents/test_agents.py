"""Agents on a task so small that the right answer is known: repeat the letter you are told."""

import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from datasets import Dataset

from textgym.agents import AGENTS, ppo
from textgym.agents.base import Setup, enumerated, make_config, prompt_batches
from textgym.agents.best_of_n import BestOfN
from textgym.agents.identity import Identity, make_reference, make_setup, right_answer
from textgym.agents.ppo import PPO, PPOConfig
from textgym.agents.reference import Human, Reference
from textgym.agents.reinforce import Reinforce, ReinforceConfig
from textgym.errors import BudgetError, ConfigError, DataError, TrainingError
from textgym.functional import best_of_n_kl
from textgym.models.policy import load_policy
from textgym.models.value_head import ValueModel
from textgym.rollout import rollout, score
from textgym.seeding import Streams
from textgym.tasks import load_task
from textgym.types import Budget


@pytest.fixture(scope="module", autouse=True)
def _one_thread():
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="module")
def reference():
    return make_reference()


FAST = {
    "reinforce": Reinforce(ReinforceConfig(lr=1e-3, kl_coef=0.0, prompts_per_step=32)),
    "ppo": PPO(PPOConfig(lr=1e-3, value_lr=3e-3, kl_coef=0.0, prompts_per_step=32)),
}


def test_sft_matches_the_demonstrations_distribution(reference):
    # Cross-entropy matches distributions: it does not seek the most frequent letter.
    assert right_answer(reference) == pytest.approx(0.4, abs=0.05)


@pytest.mark.parametrize("name", ["reinforce", "ppo"])
def test_learns_the_identity(name, reference):
    setup, logs = make_setup(reference, reference, budget=64 * 60)
    agent = type(FAST[name])(replace(FAST[name].config, prompts_per_step=64))
    agent.train(setup)
    assert right_answer(agent.policy) > 0.85
    assert logs[-1]["reward"] > 0.8 > 0.6 > logs[0]["reward"]
    assert logs[-1]["kl_seq"] > 0.3  # towards -log 0.4 = 0.92 nats


@pytest.mark.parametrize("baseline", ["batch", "moving", "none"])
def test_every_baseline_learns(baseline, reference):
    setup, _ = make_setup(reference, reference, budget=64 * 30)
    agent = Reinforce(ReinforceConfig(lr=1e-3, kl_coef=0.0, baseline=baseline))
    agent.train(setup)
    assert right_answer(agent.policy) > 0.6 > 0.45 > right_answer(reference)


@pytest.mark.parametrize("name", ["reinforce", "ppo"])
def test_settles_where_the_regularised_optimum_is(name, reference):
    # pi* is pi_ref exp(r / beta) / Z: with beta = 1 and pi_ref = p, p e / (p e + 1 - p). A wrong
    # sign, place or scale of the KL penalty settles elsewhere (without it, above 0.9).
    p = right_answer(reference)
    optimum = p * math.e / (p * math.e + 1 - p)
    setup, _ = make_setup(reference, reference, budget=64 * 60)
    config = replace(FAST[name].config, kl_coef=1.0, prompts_per_step=64)
    agent = type(FAST[name])(config)
    agent.train(setup)
    assert optimum == pytest.approx(0.644, abs=0.05)
    assert right_answer(agent.policy) == pytest.approx(optimum, abs=0.06)


def test_ppos_adaptive_coefficient_steers_toward_its_target(reference):
    setup, logs = make_setup(reference, reference, budget=64 * 60)
    config = replace(FAST["ppo"].config, prompts_per_step=64, kl_target=0.2, kl_horizon=100.0)
    PPO(replace(config, kl_coef=0.1)).train(setup)
    coefficients = [log["kl_coef"] for log in logs]
    # Beyond the target the price of KL rises, by at most 0.2 * 64 / 100 of itself a step.
    assert coefficients[1] == pytest.approx(0.1 * (1 - 0.2 * 64 / 100))
    assert max(coefficients) > 0.3
    # Without the controller it ends near 0.9 nats.
    late = [log["kl_seq"] for log in logs[-20:]]
    assert sum(late) / len(late) == pytest.approx(0.2, abs=0.12)


@pytest.mark.parametrize(("minibatches", "passes"), [(1, 2), (2, 5)])
def test_ppo_reads_its_values_no_more_often_than_they_change(
    minibatches, passes, reference, monkeypatch
):
    """Of one batch in two epochs: the old values are the first step's where it is on all rows."""
    calls, seen = [], []
    forward, value_loss = ValueModel.forward, ppo.ppo_value_loss

    def counted(self, samples):
        calls.append(len(samples))
        return forward(self, samples)

    def spy(values, old_values, *rest):
        seen.append((values, old_values))
        return value_loss(values, old_values, *rest)

    monkeypatch.setattr(ValueModel, "forward", counted)
    monkeypatch.setattr(ppo, "ppo_value_loss", spy)
    setup, _ = make_setup(reference, reference, budget=32)
    PPO(replace(FAST["ppo"].config, minibatches=minibatches)).train(setup)
    assert len(calls) == passes
    assert len(seen) == 2 * minibatches
    assert all(values.requires_grad and not old.requires_grad for values, old in seen)
    torch.testing.assert_close(*seen[0], atol=1e-5, rtol=1e-5)
    later = seen[-1]
    assert not torch.allclose(*later, atol=1e-3), "after a step the values are others"


def test_ppo_stops_when_sampler_and_scorer_disagree(reference, monkeypatch):
    from textgym.agents import base

    def off(*args, **kwargs):
        samples = rollout(*args, **kwargs)
        return replace(samples, policy_logprobs=samples.policy_logprobs - 0.1)

    monkeypatch.setattr(base, "rollout", off)
    setup, _ = make_setup(reference, reference, budget=96)
    with pytest.raises(TrainingError, match=r"step 0: importance ratio is off 1 by 0\.1"):
        PPO(replace(FAST["ppo"].config, value_warmup=0)).train(setup)


@pytest.mark.parametrize("name", ["reinforce", "ppo"])
def test_a_loss_that_is_not_finite_is_named_with_its_step(name, reference, monkeypatch):
    setup, _ = make_setup(reference, reference, budget=320)
    agent = type(FAST[name])(FAST[name].config)
    seen = 0

    def poison(step, metrics):
        nonlocal seen
        seen = step
        if step == 2:
            with torch.no_grad():
                setup.reference.model.get_input_embeddings().weight.fill_(float("nan"))

    setup.log = poison
    setup.reference = reference.copy()
    with pytest.raises(TrainingError, match="step 3: loss is nan"):
        agent.train(setup)
    assert seen == 2


@pytest.mark.parametrize("n", [1, 2, 5])
def test_best_of_n_reaches_its_expected_reward_and_spends_n_per_sample(n, reference):
    setup, _ = make_setup(reference, reference, budget=0)
    agent = BestOfN(make_config(BestOfN.config_class, {"n": n}))
    agent.train(setup)
    rows = setup.task.prompts("test")
    samples = agent.sample(rows, 200, torch.Generator().manual_seed(0))
    p = right_answer(reference)
    exact = 1 - (1 - p) ** n
    error = math.sqrt(exact * (1 - exact) / len(samples))
    assert samples.rewards.mean().item() == pytest.approx(exact, abs=4 * error)
    assert setup.task.scored == 4 * 200 * n
    assert len(samples) == 800
    assert samples.samples_per_prompt == 200
    estimates = agent.kl_estimates()
    assert estimates["kl_bound"] == pytest.approx(math.log(n) - (n - 1) / n)
    assert estimates["kl_estimate"] == pytest.approx(best_of_n_kl([1 - p, p], [0, 1], n), abs=0.08)
    assert estimates["kl_estimate"] <= estimates["kl_bound"] + 1e-9


def test_best_of_n_takes_the_best_of_each_disjoint_group(reference, monkeypatch):
    from textgym.agents import best_of_n

    setup, _ = make_setup(reference, reference, budget=0)
    agent = BestOfN(make_config(BestOfN.config_class, {"n": 3}))
    agent.train(setup)
    rows = setup.task.prompts("test").select([0])
    # Groups (0, 5, 1), (2, 2, 1): ties go to the first.
    rewards = torch.tensor([0.0, 5.0, 1.0, 2.0, 2.0, 1.0])
    monkeypatch.setattr(best_of_n, "score", lambda pool, task: replace(pool, rewards=rewards))
    pool = rollout(
        reference,
        setup.task,
        rows,
        samples_per_prompt=6,
        generator=torch.Generator().manual_seed(7),
    )
    samples = agent.sample(rows, 2, torch.Generator().manual_seed(7))
    assert samples.rewards.tolist() == [5.0, 2.0]
    assert samples.completions == [pool.completions[1], pool.completions[3]]


@pytest.mark.parametrize(("name", "n"), [("credit", 3), ("known-frontier", 8), ("noisy-reward", 8)])
def test_best_of_n_knows_its_own_distribution(name, n):
    task = load_task(name)
    policy = load_policy(task.language_model()).freeze()
    agent = BestOfN(make_config(BestOfN.config_class, {"n": n}))
    agent.train(Setup(task, policy, policy, Budget(0), Streams(0), lambda *_: None))
    rows, k = task.prompts("test").select([0]), 4000
    samples = agent.sample(rows, k, torch.Generator().manual_seed(0))
    found = np.bincount([task.texts.index(text) for text in samples.completions])
    found = np.pad(found, (0, len(task.texts) - len(found))) / k
    expected = agent.distribution(task, rows["prompt"][:])
    assert expected.shape == (1, len(task.texts))
    assert expected.sum() == pytest.approx(1)
    error = np.sqrt(expected[0] * (1 - expected[0]) / k)
    assert (np.abs(found - expected[0]) <= 4 * error + 1 / k).all()
    # It is far from the reference's.
    assert np.abs(found - enumerated(policy, task, rows["prompt"][:])[0]).max() > 0.05


def test_a_policy_knows_its_own_distribution_as_it_samples():
    task = load_task("known-frontier")
    policy = load_policy(task.language_model()).freeze()
    agent = Reference(make_config(Reference.config_class, {"temperature": 0.5, "top_k": 3}))
    assert agent.distribution(task, task.asked) is None
    agent.train(Setup(task, policy, policy, Budget(0), Streams(0), lambda *_: None))
    samples = agent.sample(task.prompts("test"), 2000, torch.Generator().manual_seed(0))
    expected = agent.distribution(task, task.asked)
    found = np.zeros(expected.shape)
    for prompt, text in zip(samples.prompts, samples.completions, strict=True):
        found[task.asked.index(prompt), task.texts.index(text)] += 1 / 2000
    assert (np.abs(found - expected) <= 4 * np.sqrt(expected / 2000) + 1 / 2000).all()
    assert (expected == 0).sum() > 0, "top_k cuts"
    human = Human()
    human.train(Setup(task, policy, policy, Budget(0), Streams(0), lambda *_: None))
    assert human.distribution(task, task.asked) is None


def test_a_cold_reference_is_sharper_and_says_so(reference):
    setup, _ = make_setup(reference, reference, budget=0)
    agent = Reference(make_config(Reference.config_class, {"temperature": 0.1}))
    agent.train(setup)
    samples = agent.sample(setup.task.prompts("test"), 50, torch.Generator().manual_seed(0))
    assert samples.sampling.temperature == 0.1
    assert samples.sampling_logprobs.sum() > samples.policy_logprobs.sum()


def test_human_texts_are_given_as_they_are(reference):
    setup, _ = make_setup(reference, reference, budget=0)
    agent = Human()
    agent.train(setup)
    one = Dataset.from_dict({"prompt": ["say a:", "say b:"], "reference": [" a", " c"]})
    samples = agent.sample(one, 2, torch.Generator())
    assert samples.completions == [" a", " a", " c", " c"]
    several = Dataset.from_dict({"prompt": ["say a:"], "reference": [[" a", " b"]]})
    assert agent.sample(several, 3, torch.Generator()).completions == [" a", " b", " a"]
    with pytest.raises(DataError, match="no column 'reference'"):
        agent.sample(one.remove_columns("reference"), 1, torch.Generator())


def test_prompt_batches_go_through_all_rows_before_any_repeats():
    rows = Dataset.from_dict({"prompt": list("abcde")})
    batches = prompt_batches(rows, 2, np.random.default_rng(0))
    seen = [prompt for _ in range(5) for prompt in next(batches)["prompt"]]
    assert sorted(seen[:5]) == sorted(seen[5:]) == list("abcde")


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("best_of_n", {"n": 0}, "n must be >= 1, got 0"),
        ("reinforce", {"kl_coef": -0.1}, "kl_coef must be >= 0, got -0.1"),
        ("reinforce", {"baseline": "bach"}, "unknown baseline 'bach'; did you mean 'batch'"),
        ("ppo", {"kl_coef": -1}, "kl_coef must be >= 0, got -1"),
        ("ppo", {"clip": 0}, "clip must be > 0"),
        ("ppo", {"kl_cof": 0.1}, "unknown option 'kl_cof'; did you mean 'kl_coef'"),
        ("sft", {"lr": 0}, "lr must be > 0"),
        ("reference", {"temperature": 0}, "temperature must be > 0"),
    ],
)
def test_settings_outside_their_domain_are_refused(name, options, message):
    with pytest.raises(ConfigError, match=message):
        make_config(AGENTS.load(name).config_class, options)


def test_the_budget_cannot_be_overdrawn():
    budget = Budget(10)
    budget.spend(8)
    with pytest.raises(BudgetError, match="asked for 4 completions with 2 left"):
        budget.spend(4)
    assert budget.used == 8


def test_score_uses_the_columns(reference):
    task = Identity()
    rows = task.prompts("train")
    samples = score(
        rollout(reference, task, rows, samples_per_prompt=3, generator=torch.Generator()), task
    )
    expected = [
        float(c == f" {x}") for c, x in zip(samples.completions, "aaabbbcccddd", strict=True)
    ]
    assert samples.rewards.tolist() == expected


def test_none_is_the_word_where_an_option_has_it():
    assert make_config(ReinforceConfig, {"baseline": None}).resolved().baseline == "none"
    assert make_config(ReinforceConfig, {}).resolved().baseline == "batch"
    assert make_config(PPOConfig, {"whitening": None, "kl_target": None}) == PPOConfig(
        whitening="none", kl_target=None
    )
