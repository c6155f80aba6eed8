"""TRL's trainers as agents: the same prompts, tokens, rewards and losses as ours, and no trace."""

import copy
import math
import os
import random
import subprocess
import sys
import tempfile

import numpy as np
import pytest
import torch
from datasets import Dataset

from textgym.agents import AGENTS
from textgym.agents.base import Setup, enumerated, make_config, prompt_batches
from textgym.agents.trl import NAMES, readable_prompts, renamed, shell
from textgym.agents.trl_offline import with_other_responses
from textgym.errors import ConfigError, PluginError, PromptTooLongError, RewardError, TrainingError
from textgym.functional import dpo_loss, kto_loss
from textgym.metrics.exact import regret, tilted
from textgym.models.policy import load_policy
from textgym.rollout import rollout
from textgym.seeding import Streams
from textgym.tasks import load_task
from textgym.tasks.base import Task
from textgym.types import Budget

pytest.importorskip("trl")

ONLINE, OFFLINE = ("trl:grpo", "trl:rloo"), ("trl:dpo", "trl:kto")
SIZES = {"prompts_per_step": 2, "samples_per_prompt": 4}


class Letters(Task):
    """Says how many b's a text has; keeps what it was asked to score."""

    name = "letters"
    question = "What does the trainer show to the reward?"
    max_prompt_tokens = 12
    max_response_tokens = 5

    def __init__(self):
        self.seen = []

    def prompts(self, split):
        texts = [f"say {x}: " for x in "1234567"]
        # Columns that TRL would take for its own.
        return Dataset.from_dict(
            {"prompt": texts, "completion": list("abcdefg"), "images": list(range(7))}
        )

    def demonstrations(self):
        raise NotImplementedError

    def reward(self, prompts, completions, **columns):
        self.seen += zip(prompts, completions, *columns.values(), strict=True)
        self.columns = list(columns)
        return [math.sqrt(text.count("b")) + len(text) % 3 for text in completions]


@pytest.fixture(scope="module")
def reference(model):
    """Weights large enough that responses differ, and an EOS drawn now and then."""
    policy = load_policy(model)
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for parameter in policy.model.parameters():
            parameter += 0.2 * torch.randn(parameter.shape, generator=generator)
        rows = Letters().prompts("train")
        samples = rollout(policy, Letters(), rows, samples_per_prompt=8, generator=generator)
        state = policy.embed(samples).mean(0)
        head = policy.model.get_output_embeddings().weight
        head[policy.eos_token_id] = state * (math.log(len(head) / 8) / state.dot(state))
    return policy.freeze()


def make_setup(reference, budget=16, seed=0, task=None, policy=None):
    logs = []
    setup = Setup(
        task=Letters() if task is None else task,
        policy=reference.copy() if policy is None else policy,
        reference=reference,
        budget=Budget(budget),
        streams=Streams(seed),
        log=lambda step, metrics: logs.append({"step": step, **metrics}),
    )
    return setup, logs


def train(name, setup, **options):
    agent_class = AGENTS.load(name)
    agent = agent_class(make_config(agent_class.config_class, {**SIZES, **options}))
    agent.train(setup)
    return agent


def unpadded(ids, mask):
    return [
        [int(token) for token, keep in zip(row, kept, strict=True) if keep]
        for row, kept in zip(ids, mask, strict=True)
    ]


def numpy_state():
    return np.random.get_state()[1].tolist()  # noqa: NPY002


def weights(policy):
    return torch.cat([p.detach().flatten() for p in policy.model.parameters()])


@pytest.mark.parametrize("name", ONLINE)
def test_our_prompts_columns_and_decoding(name, reference):
    setup, logs = make_setup(reference, budget=27)
    train(name, setup)
    assert setup.budget.used == 24
    rows = prompt_batches(Letters().prompts("train"), 2, Streams(0).numpy("prompts"))
    asked = [prompt for _ in range(3) for prompt in next(rows)["prompt"] for _ in range(4)]
    assert [prompt for prompt, *_ in setup.task.seen] == asked
    where = dict(zip("1234567", zip("abcdefg", range(7), strict=True), strict=True))
    assert sorted(setup.task.columns) == ["completion", "images"]
    for prompt, text, *columns in setup.task.seen:
        assert sorted(map(str, columns)) == sorted(map(str, where[prompt[4]]))
        assert "<|" not in text, "special tokens are removed"
    # What is logged is what the task said.
    assert [log["step"] for log in logs] == [0, 1, 2]
    texts = [text for _, text, *_ in setup.task.seen]
    rewards = np.array([math.sqrt(t.count("b")) + len(t) % 3 for t in texts]).reshape(3, 8)
    assert [log["reward"] for log in logs] == pytest.approx(rewards.mean(1).tolist(), abs=1e-5)
    assert [log["reward_std"] for log in logs] == pytest.approx(rewards.std(1).tolist(), abs=1e-5)
    assert 0 < np.mean([log["truncated"] for log in logs]) < 1
    assert all(1 <= log["length"] <= 5 for log in logs)
    assert not {"step_time", "epoch", "learning_rate"} & set(logs[0])


@pytest.mark.parametrize("name", [*ONLINE, *OFFLINE])
def test_no_trace(name, reference, monkeypatch, tmp_path, capfd):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    monkeypatch.setattr(tempfile, "tempdir", None)
    setup, _ = make_setup(reference)
    config, modules = copy.deepcopy(setup.policy.model.config.to_dict()), dict(os.environ)
    before = weights(reference)
    random.random(), np.random.random()  # noqa: NPY002 (no state that a seed alone gives)
    states = torch.get_rng_state(), numpy_state(), random.getstate()
    agent = train(name, setup)
    assert torch.equal(torch.get_rng_state(), states[0])
    assert numpy_state() == states[1]
    assert random.getstate() == states[2]
    assert dict(os.environ) == modules
    assert list(tmp_path.iterdir()) == []
    assert capfd.readouterr() == ("", "")
    # The policy is a plain model, in evaluation mode, with nothing new but its weights.
    assert agent.policy is setup.policy
    assert not agent.policy.model.training
    assert agent.policy.decoder() is not None
    assert agent.policy.model.config.to_dict() == config
    assert not torch.equal(weights(agent.policy), before)
    assert torch.equal(weights(reference), before)


class One(Letters):
    def prompts(self, split):
        return super().prompts(split).select([0])


def test_the_seed_decides(reference):
    def run(seed):
        # One prompt, so that the seed can only decide what is sampled.
        setup, logs = make_setup(reference, seed=seed, task=One())
        torch.rand(3)  # what was drawn before does not count
        return weights(train("trl:grpo", setup).policy), logs

    (first, logs), (second, again), (third, _) = run(0), run(0), run(1)
    assert torch.equal(first, second)
    assert logs == again
    assert not torch.equal(first, third)


def test_grpo_and_rloo_take_the_step_that_ours_takes(reference, monkeypatch):
    """Where TRL is given our samples, the trained weights are the same."""
    for name, options in (
        ("grpo", {"kl_coef": 0.3}),
        ("rloo", {"kl_coef": 0.3}),
    ):
        task = Letters()
        start = reference.copy()
        with torch.no_grad():
            for parameter in start.model.parameters():
                parameter += 0.05 * torch.randn(
                    parameter.shape, generator=torch.Generator().manual_seed(3)
                )
        extra = {"kl_ratio_correction": True} if name == "grpo" else {}
        setup, _ = make_setup(reference, budget=8, policy=start.copy(), task=task)
        ours = train(name, setup, **options, **extra)

        rows = next(prompt_batches(task.prompts("train"), 2, Streams(0).numpy("prompts")))
        samples = rollout(
            start,
            task,
            rows,
            samples_per_prompt=4,
            generator=Streams(0).torch("sampling"),
        )
        ids = unpadded(samples.response_ids, samples.response_mask)
        import trl

        trainer = getattr(trl, f"{name.upper()}Trainer")
        given = ids if name == "rloo" else (ids, None)
        monkeypatch.setattr(trainer, "_generate_single_turn", lambda *_, given=given: given)
        setup, _ = make_setup(reference, budget=8, policy=start.copy())
        theirs = train(f"trl:{name}", setup, **options)
        moved = weights(ours.policy) - weights(start)
        assert moved.abs().max() > 1e-4
        # Adam's first step is the gradient's sign, so few weights may be off, where it is near 0.
        off = (weights(theirs.policy) - weights(ours.policy)).abs() > 2e-5
        assert off.float().mean() < 0.01


@pytest.mark.parametrize("name", ONLINE)
def test_kl_is_measured_from_the_reference(name, reference):
    start = reference.copy()
    with torch.no_grad():
        for parameter in start.model.parameters():
            parameter += 0.1
    _, logs = at_start(name, reference, reference.copy())
    assert logs[0]["kl"] == pytest.approx(0, abs=1e-6)
    _, logs = at_start(name, reference, start)
    assert logs[0]["kl"] > 1e-3


def at_start(name, reference, policy):
    setup, logs = make_setup(reference, budget=8, policy=policy)
    return train(name, setup), logs


@pytest.mark.parametrize("name", OFFLINE)
def test_offline_tokens_are_those_sampled(name, reference, monkeypatch):
    seen = []
    import trl

    trainer = getattr(trl, f"{name[4:].upper()}Trainer")
    compute = trainer.compute_loss

    def spy(self, model, inputs, *args, **kwargs):
        seen.append({key: value.clone() for key, value in inputs.items()})
        return compute(self, model, inputs, *args, **kwargs)

    monkeypatch.setattr(trainer, "compute_loss", spy)
    setup, logs = make_setup(reference, budget=24)
    train(name, setup, epochs=1)
    assert setup.budget.used == 24
    # The samples of our own agents' streams.
    sampling, sampled, by_prompt, decided = Streams(0).torch("sampling"), {}, {}, 0
    rows = prompt_batches(Letters().prompts("train"), 2, Streams(0).numpy("prompts"))
    for _ in range(3):
        samples = rollout(
            reference, Letters(), next(rows), samples_per_prompt=4, generator=sampling
        )
        rewards = Letters().reward(samples.prompts, samples.completions)
        prompts = unpadded(samples.prompt_ids, samples.prompt_mask)
        responses = unpadded(samples.response_ids, samples.response_mask)
        for prompt, response, reward in zip(prompts, responses, rewards, strict=True):
            sampled[*prompt, -1, *response] = reward
            by_prompt.setdefault(tuple(prompt), []).append(reward)
        groups = torch.tensor(rewards).reshape(2, 4)
        decided += int((groups.amax(1) > groups.amin(1)).sum())
    eos = reference.eos_token_id
    assert {key[-1] == eos for key in sampled} == {True, False}, "some are cut, some are not"
    found = [
        (tuple(ids[(keep == 1) & (mask == 0)].tolist()), tuple(ids[mask == 1].tolist()))
        for batch in seen
        for ids, keep, mask in zip(
            batch["input_ids"], batch["attention_mask"], batch["completion_mask"], strict=True
        )
    ]
    assert {(*p, -1, *r) for p, r in found} <= sampled.keys()
    scored = [sampled[*p, -1, *r] for p, r in found]
    if name == "trl:dpo":
        assert logs[0]["pairs"] == decided > 3
        assert len(found) == 2 * decided
        start = 0
        for batch in seen:  # the chosen, then the rejected
            better, worse = np.split(np.array(scored[start : start + len(batch["input_ids"])]), 2)
            assert (better > worse).all()
            start += len(batch["input_ids"])
    else:
        labels = torch.cat([torch.as_tensor(batch["label"]) for batch in seen]).bool().tolist()
        means = [np.mean(by_prompt[p]) for p, _ in found]
        assert labels == [bool(r > m) for r, m in zip(scored, means, strict=True)]
        assert all(r != m for r, m in zip(scored, means, strict=True))
        assert logs[0]["examples"] == len(found) > 8


def test_dpo_and_kto_losses_at_the_start(reference):
    """On the reference every log-ratio is 0: log 2 for DPO, 1/2 for KTO."""
    for name, value in (("trl:dpo", math.log(2)), ("trl:kto", 0.5)):
        setup, logs = make_setup(reference, budget=16)
        train(name, setup)
        assert logs[1]["loss"] == pytest.approx(value, abs=1e-5)
        assert logs[1]["step"] == 1
        zero = torch.zeros(3)
        ours = (
            dpo_loss(zero, zero, 0.1)
            if name == "trl:dpo"
            else kto_loss(zero, torch.tensor([True, False, True]), zero[0], 0.1)
        )
        assert ours.item() == pytest.approx(value)
        # And training moves what is chosen away from what is rejected.
        assert logs[-1]["rewards/margins"] > 0


def test_other_responses_stay_within_their_batch():
    rows = [{"completion_ids": [i]} for i in range(5)]
    paired = with_other_responses(rows, 3)
    assert [row["KL_completion_ids"] for row in paired] == [[2], [0], [1], [4], [3]]
    assert [row["completion_ids"] for row in paired] == [[i] for i in range(5)]


def test_metrics_by_our_names():
    logs = {"reward_std": 2.0, "completions/clipped_ratio": 0.5, "kl": 0.1, "other": None}
    assert renamed(logs, NAMES, 4) == {
        "reward_std": pytest.approx(math.sqrt(3)),
        "truncated": 0.5,
        "kl": 0.1,
    }


def test_a_shell_shares_the_weights_and_nothing_else(reference):
    policy = reference.copy()
    twin = shell(policy.model)
    assert all(a is b for a, b in zip(twin.parameters(), policy.model.parameters(), strict=True))
    twin.train()
    twin.config.pad_token_id = 7
    twin.forward = None
    assert not policy.model.training
    assert policy.model.config.pad_token_id != 7
    assert "forward" not in policy.model.__dict__


def test_prompts_that_trl_would_read_otherwise(reference, monkeypatch):
    setup, _ = make_setup(reference)
    tokenizer = copy.deepcopy(setup.policy.tokenizer)
    setup.policy.tokenizer = tokenizer
    texts = readable_prompts(setup, ["say 1: ", ""])
    assert texts == ["say 1: ", "<|endoftext|>"]
    assert tokenizer(texts)["input_ids"][1] == [setup.policy.eos_token_id]
    with pytest.raises(PromptTooLongError, match="limit is 12"):
        readable_prompts(setup, ["say " * 20])
    setup.policy.max_length = 8
    with pytest.raises(PromptTooLongError, match="window"):
        readable_prompts(setup, ["say 1: "])
    setup.policy.max_length = 64
    from tokenizers.processors import TemplateProcessing

    eos = ("<|endoftext|>", setup.policy.eos_token_id)
    tokenizer.backend_tokenizer.post_processor = TemplateProcessing(
        single="$A <|endoftext|>", special_tokens=[eos]
    )
    with pytest.raises(ConfigError, match="adds an end to every text"):
        readable_prompts(setup, ["say 1: "])


class Broken(Letters):
    def reward(self, prompts, completions, **columns):
        return [math.nan] * len(completions)


class Huge(Letters):
    def reward(self, prompts, completions, **columns):
        return [3e38 * (-1) ** i for i in range(len(completions))]


def test_what_is_not_finite_raises(reference):
    setup, _ = make_setup(reference, task=Broken())
    with pytest.raises(RewardError, match="returned nan"):
        train("trl:grpo", setup)
    state = torch.get_rng_state()
    setup, _ = make_setup(reference, task=Huge())
    with pytest.raises(TrainingError, match=r"step 0: .* is (-?inf|nan)"):
        train("trl:rloo", setup)
    assert torch.equal(torch.get_rng_state(), state)


@pytest.mark.parametrize("name", [*ONLINE, *OFFLINE])
def test_a_budget_without_a_batch_changes_nothing(name, reference):
    setup, logs = make_setup(reference, budget=7)
    agent = train(name, setup)
    assert (setup.budget.used, logs) == (0, [])
    assert torch.equal(weights(agent.policy), weights(reference))
    assert agent.task is setup.task


def test_minibatches_and_epochs_are_trls(reference):
    setup, logs = make_setup(reference, budget=16)
    train("trl:grpo", setup, epochs=2, minibatches=2)
    assert setup.budget.used == 16
    assert len(logs) == 2 * 2 * 2
    assert ["reward" in log for log in logs] == [True, False, False, False] * 2


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("trl:grpo", {"minibatches": 3}, "must divide a batch of 8"),
        ("trl:grpo", {"loss_type": "gpro"}, "did you mean 'grpo'"),
        ("trl:grpo", {"scale": "grup"}, "did you mean 'group'"),
        ("trl:grpo", {"clip": 1.5}, "clip must be in"),
        ("trl:rloo", {"kl_coef": -1.0}, "kl_coef must be >= 0"),
        ("trl:rloo", {"samples_per_prompt": 1}, "samples_per_prompt must be >= 2"),
        ("trl:dpo", {"labels": "worst"}, "unknown labels"),
        ("trl:dpo", {"beta": 0.0}, "beta must be > 0"),
        ("trl:kto", {"prompts_per_step": 1}, "prompts_per_step must be >= 2"),
        ("trl:kto", {"undesirable_weight": 0.0}, "must be > 0"),
    ],
)
def test_nonsense_options(name, options, message):
    with pytest.raises(ConfigError, match=message):
        make_config(AGENTS.load(name).config_class, {**SIZES, **options})


@pytest.mark.parametrize("name", [*ONLINE, *OFFLINE])
def test_without_trl(name, reference, monkeypatch):
    monkeypatch.setitem(sys.modules, "trl", None)
    setup, _ = make_setup(reference)
    with pytest.raises(PluginError, match=rf"agent '{name}' needs TRL: pip install 'textgym\[trl"):
        train(name, setup)
    assert setup.budget.used == 0


def test_agents_are_listed_without_trl():
    code = (
        "import sys; sys.modules['trl'] = None\n"
        "from textgym.benchmarks.catalogue import catalogue\n"
        "print(catalogue('agents')['agents']['trl:grpo'])\n"
        "assert 'transformers' not in sys.modules"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert "GRPOTrainer" in done.stdout


@pytest.mark.parametrize(("name", "options"), [("trl:rloo", {}), ("trl:grpo", {"scale": "none"})])
def test_two_modes_against_its_optimum(name, options):
    """An oracle task, with its own tokenizer, model and empty prompt.

    Responses are of one token, so that KL in the loss and in the reward are priced alike.
    """
    task = load_task("two-modes")
    reference = load_policy(task.language_model()).freeze()
    rewards, beta = task.tables.rewards, 0.2
    start = enumerated(reference, task, [""])
    setup, _ = make_setup(reference, budget=40 * 64, task=task)
    sizes = {"prompts_per_step": 8, "samples_per_prompt": 8, "lr": 5e-3}
    agent = train(name, setup, kl_coef=beta, **sizes, **options)
    found = agent.distribution(task, [""])
    assert regret(start, start, rewards, beta)[0] > 3e-3
    assert regret(found, start, rewards, beta)[0] < 3e-4
    assert found == pytest.approx(tilted(start, rewards, beta), abs=0.03)
    assert found[0, 1] > found[0, 2]
