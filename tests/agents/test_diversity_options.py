"""What pays for diversity: by hand, by enumeration, and where it leaves a policy that has no KL."""

import math
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from test_conventions import make_samples

from textgym.agents import AGENTS, diversity
from textgym.agents.base import Setup, make_config
from textgym.agents.conventions import eos_adjusted
from textgym.agents.diversity import (
    DiversityOptions,
    batch_diversity,
    mean_entropy,
    next_entropy_coef,
    novelty,
    responses,
    with_bonus,
    with_entropy,
)
from textgym.agents.ppo import PPOConfig
from textgym.errors import ConfigError
from textgym.functional import adaptive_entropy_step
from textgym.metrics.exact import entropy as exact_entropy
from textgym.models import pieces
from textgym.models.enumeration import sequence_logprobs
from textgym.models.policy import load_policy
from textgym.rollout import rollout
from textgym.seeding import Streams
from textgym.tasks import load_task
from textgym.types import Budget

AGENTS_WITH_OPTIONS = ["reinforce", "rloo", "reinforce_pp", "ppo", "a2c", "grpo", "dr_grpo", "dapo"]
EOS = 9


@pytest.fixture(autouse=True)
def _one_thread():
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="module")
def two_modes():
    return load_task("two-modes")


@pytest.fixture(scope="module")
def many():
    return load_task("many-good-answers")


def perturbed(task, size=0.3):
    policy, generator = load_policy(task.language_model()).copy(), torch.Generator().manual_seed(5)
    with torch.no_grad():
        for parameter in policy.parameters():
            parameter += size * torch.randn(parameter.shape, generator=generator)
    return policy


def drawn(policy, task, k=8):
    generator = torch.Generator().manual_seed(0)
    rows = task.prompts("train")
    return rollout(policy, task, rows, samples_per_prompt=k, generator=generator)


def told(texts, k=1, rewards=None):
    """A rollout of these token ids, the rest of each row garbage."""
    width = max(map(len, texts)) + 1
    mask = torch.tensor([[t < len(text) for t in range(width)] for text in texts])
    ids = torch.tensor([[*text, *[3] * (width - len(text))] for text in texts])
    samples = make_samples(mask, rewards or (0.0,) * len(texts), k=k)
    return replace(samples, response_ids=ids, truncated=torch.zeros(len(texts), dtype=torch.bool))


def trained(name, task, batches, seed=0, reward=None, **options):
    """The agent and its logs after some batches of 64 without a price on KL."""
    agent_class = AGENTS.load(name)
    config = make_config(agent_class.config_class, {"kl_coef": 0.0, **options})
    reference, logs = load_policy(task.language_model()).freeze(), []
    agent = agent_class(config)
    if reward is not None:
        task = SimpleNamespace(**{n: getattr(task, n) for n in dir(task) if n[:2] != "__"})
        task.reward = lambda prompts, completions, **_: [reward] * len(completions)
    size = config.prompts_per_step * config.samples_per_prompt
    budget, streams = Budget(size * batches), Streams(seed)
    log = lambda _, metrics: logs.append(dict(metrics))  # noqa: E731
    agent.train(Setup(task, reference.copy(), reference, budget, streams, log))
    assert budget.left == 0
    return agent, logs


# The entropy


def test_the_adaptive_weight_by_hand():
    # Half the entropy wanted: the error 0.5 is cut to 0.2, times 100 of 200 completions.
    assert adaptive_entropy_step(0.1, 0.5, 1.0, 100, 200) == pytest.approx(0.1 * math.exp(0.1))
    assert adaptive_entropy_step(0.1, 1.9, 2.0, 300, 100) == pytest.approx(0.1 * math.exp(0.15))
    assert adaptive_entropy_step(0.1, 2.0, 2.0, 300, 100) == 0.1
    assert adaptive_entropy_step(0.1, 9.0, 2.0, 100, 200) == pytest.approx(0.1 * math.exp(-0.1))
    # However large the step, the weight stays a weight.
    assert 0 < adaptive_entropy_step(0.1, 9.0, 2.0, 10000, 100) < 1e-9
    for bad in ((0.0, 1.0, 1.0, 1, 1), (0.1, 1.0, 0.0, 1, 1), (0.1, 1.0, 1.0, 1, 0)):
        with pytest.raises(ConfigError, match="must be > 0, got"):
            adaptive_entropy_step(*bad)


def test_the_weight_moves_only_if_it_has_a_target():
    fixed, steered = PPOConfig(entropy_coef=0.1), PPOConfig(entropy_coef=0.1, entropy_target=1.0)
    assert next_entropy_coef(fixed, 0.1, {"entropy": 0.5}, 64) == 0.1
    assert next_entropy_coef(steered, 0.1, {}, 64) == 0.1
    wanted = 0.1 * math.exp(0.2 * 64 / 200)
    assert next_entropy_coef(steered, 0.1, {"entropy": 0.5}, 64) == pytest.approx(wanted)


def test_the_entropy_by_hand():
    # Three tokens: log 2, 0 and log 4, over four tokens of vocabulary.
    uniform, sure = [0.25] * 4, [0.0, 1.0, 0.0, 0.0]
    logits = torch.tensor([[0.5, 0.5, 0.0, 0.0], sure, uniform]).log()
    policy = SimpleNamespace(
        response_logits=lambda *_: logits,
        chunks=lambda samples: [torch.arange(len(samples))],
        device=torch.device("cpu"),
    )
    samples = make_samples()
    assert samples.response_mask.sum() == 3
    assert mean_entropy(policy, samples).item() == pytest.approx(math.log(2))
    loss, log = with_entropy(torch.tensor(5.0), 0.5, policy, samples)
    assert loss.item() == pytest.approx(5 - 0.5 * math.log(2))
    assert log == {"entropy": pytest.approx(math.log(2)), "entropy_coef": 0.5}


def test_tokens_that_cannot_be_drawn_have_no_part_in_the_entropy():
    # As a mask leaves them. dH/dz = -p (log p + H), here over three rows of which two are sure.
    sure = [-math.inf, 0.0, -math.inf]
    logits = torch.tensor([[math.log(0.25), math.log(0.75), -math.inf], sure, sure])
    logits.requires_grad_()
    policy = SimpleNamespace(
        response_logits=lambda *_: logits,
        chunks=lambda samples: [torch.arange(len(samples))],
        device=torch.device("cpu"),
    )
    value = mean_entropy(policy, make_samples())
    whole = -(0.25 * math.log(0.25) + 0.75 * math.log(0.75))
    assert value.item() == pytest.approx(whole / 3)
    (gradient,) = torch.autograd.grad(value, logits)
    slopes = [-p * (math.log(p) + whole) / 3 for p in (0.25, 0.75)]
    assert gradient.flatten().tolist() == pytest.approx([*slopes, *[0.0] * 7], abs=1e-7)


def test_the_gradient_is_that_of_the_enumerated_entropy(two_modes):
    # Answers of one token to one prompt: the entropy of the next token is that of the answer.
    policy = perturbed(two_modes)
    samples = drawn(policy, two_modes)
    loss, _ = with_entropy(torch.zeros(()), 0.5, policy, samples)
    log_pi = sequence_logprobs(policy, two_modes.tree, [""])
    enumerated = 0.5 * (log_pi.exp() * log_pi).sum()
    torch.testing.assert_close(loss, enumerated)
    parameters = policy.parameters()
    wanted = torch.autograd.grad(enumerated, parameters)
    found = torch.autograd.grad(loss, parameters)
    assert max(g.abs().max() for g in wanted) > 0.01
    for mine, theirs in zip(found, wanted, strict=True):
        torch.testing.assert_close(mine, theirs, atol=1e-6, rtol=1e-4)


def test_pieces_padding_and_order_do_not_change_the_entropy(many, monkeypatch):
    policy = perturbed(many)
    samples = drawn(policy, many)
    samples.response_mask[::3, 1] = False
    pad = torch.nn.functional.pad
    padded = replace(
        samples,
        response_ids=pad(samples.response_ids, (0, 2), value=3),
        response_mask=pad(samples.response_mask, (0, 2), value=False),
    )

    def outcome(some):
        value = mean_entropy(policy, some)
        return [value, *torch.autograd.grad(value, policy.parameters())]

    whole = outcome(samples)
    others = [outcome(padded), outcome(samples.select(torch.arange(len(samples)).flip(0), 1))]
    monkeypatch.setattr(pieces, "CHUNK_TOKENS", 20)
    assert len(policy.chunks(samples)) > 3
    others.append(outcome(samples))
    for other in others:
        for mine, theirs in zip(other, whole, strict=True):
            torch.testing.assert_close(mine, theirs, atol=1e-6, rtol=1e-4)


# The bonuses


def test_novelty_by_hand():
    # Of [1, 2] and [1, 3] one of two words is shared and no pair: (1/2 + 0) / 2 alike.
    samples = told([[1, 2, EOS], [1, 3], [1, 2], [4, 4], [4, 4, EOS], [4, 4]], k=3)
    similarity = diversity._ngram_similarity(setup_of(), samples)
    wanted = [0.375, 0.75, 0.375, 0, 0, 0]
    assert novelty(similarity, 3).tolist() == pytest.approx(wanted, abs=1e-12)
    # Nothing at all is unlike everything, but for nothing.
    silent = told([[EOS], [5, 6], [EOS]], k=3)
    assert novelty(diversity._ngram_similarity(setup_of(), silent), 3).tolist() == pytest.approx(
        [0.5, 1, 0.5]
    )


def setup_of(embeddings=None):
    reference = SimpleNamespace(eos_token_id=EOS, embed=lambda _: torch.tensor(embeddings))
    return SimpleNamespace(reference=reference)


def test_novelty_of_embeddings_by_hand():
    embeddings = [[2.0, 0.0], [0.0, 0.5], [1.0, 0.0], [3.0, 3.0], [1.0, 1.0], [0.0, 1.0]]
    samples = told([[1], [2], [3], [4], [5], [6]], k=3)
    similarity = diversity._embedding_similarity(setup_of(embeddings), samples)
    far = 1 - 1 / math.sqrt(2)
    wanted = [0.5, 1, 0.5, far / 2, far / 2, far]
    assert novelty(similarity, 3).tolist() == pytest.approx(wanted)


def test_batch_diversity_is_what_leaves_with_the_response():
    texts = [[1, 2, 3], [1, 2], [4, 4, 4], [4, 4], [], [5], [5]]
    # Alone: of 1, 2, 3, 12, 23, 123 three; nothing; of 4, 44, 444 the last; nothing ...
    assert batch_diversity(texts).tolist() == pytest.approx([0.5, 0, 1 / 3, 0, 0, 0, 0])
    rng = np.random.default_rng(0)
    texts = [rng.integers(6, size=rng.integers(1, 6)).tolist() for _ in range(20)]

    def distinct(some):
        return len(
            {
                tuple(t[i:j])
                for t in some
                for i in range(len(t))
                for j in range(i + 1, i + 4)
                if j <= len(t)
            }
        )

    wanted = [
        (distinct(texts) - distinct(texts[:i] + texts[i + 1 :])) / distinct([text])
        for i, text in enumerate(texts)
    ]
    assert batch_diversity(texts).tolist() == pytest.approx(wanted)
    assert 0 < max(wanted) <= 1
    assert batch_diversity([[1, 2]]).tolist() == [1]


def test_the_bonuses_are_added_to_the_rewards():
    samples = told([[1, 2, EOS], [1, 3], [1, 2]], k=3, rewards=(1.0, 2.0, 3.0))
    options = {"samples_per_prompt": 3, "novelty_coef": 2.0, "batch_diversity_coef": 10.0}
    paid, log = with_bonus(setup_of(), PPOConfig(**options), samples)
    # [1, 3] alone has 3 and 13, two of its three.
    wanted = [1 + 0.75, 2 + 1.5 + 20 / 3, 3 + 0.75]
    assert paid.rewards.tolist() == pytest.approx(wanted)
    assert log == {"novelty": pytest.approx(0.5), "batch_diversity": pytest.approx(2 / 9)}
    assert samples.rewards.tolist() == [1, 2, 3]
    assert paid.rewards.dtype == torch.float32
    # A response that the EOS rule overrides has no bonus either.
    cut = replace(samples, truncated=torch.tensor([False, True, False]))
    config = PPOConfig(eos_rule="override", **options)
    adjusted = eos_adjusted(with_bonus(setup_of(), config, cut)[0], config.resolved())
    assert adjusted.tolist() == pytest.approx([wanted[0], -1, wanted[2]])


def test_tokens_end_before_eos_and_pads():
    samples = told([[1, 2, EOS], [EOS], [7]])
    assert responses(samples, EOS) == [[1, 2], [], [7]]


# In the agents


@pytest.mark.parametrize("name", AGENTS_WITH_OPTIONS)
def test_off_asks_for_nothing(name, two_modes, monkeypatch):
    for costly in ("mean_entropy", "novelty", "batch_diversity", "replace", "checkpoint"):
        monkeypatch.setattr(diversity, costly, None)
    _, logs = trained(name, two_modes, 1)
    assert not {"entropy", "entropy_coef", "novelty", "batch_diversity"} & set(logs[0])


@pytest.mark.parametrize("name", AGENTS_WITH_OPTIONS)
def test_every_agent_is_paid_in_its_loss_and_in_its_rewards(name, many):
    small = {"prompts_per_step": 6, "samples_per_prompt": 6, "lr": 3e-3}
    if name in ("ppo", "a2c"):
        small["value_warmup"] = 0
    if name == "dapo":
        # Where every answer is worth the same it would make no step.
        small["drop_zero_variance"] = False
    ends = {}
    for option in ("none", "entropy_coef", "novelty_coef", "batch_diversity_coef"):
        options = {} if option == "none" else {option: 2.0}
        agent, logs = trained(name, many, 2, reward=0.0, **small, **options)
        ends[option] = torch.cat([p.detach().flatten() for p in agent.policy.parameters()])
        measured = {"entropy", "novelty", "batch_diversity"} & set(logs[0])
        assert measured == ({option.removesuffix("_coef")} if options else set())
        # The log tells the task's reward.
        assert [log["reward"] for log in logs] == [0, 0]
    if name not in ("ppo", "a2c"):  # whose value model is not yet right
        start = load_policy(many.language_model())
        before = torch.cat([p.detach().flatten() for p in start.parameters()])
        assert (ends["none"] - before).abs().max() < 1e-6
    for option in ("entropy_coef", "novelty_coef", "batch_diversity_coef"):
        assert (ends[option] - ends["none"]).abs().max() > 1e-3


def test_an_entropy_bonus_settles_at_its_own_optimum(two_modes):
    # Maximising E[r] + c H gives exp(r / c) / Z. Without the bonus the 51 takes all.
    c, rewards = 0.2, two_modes.tables.rewards[0]
    optimum = np.exp(rewards / c) / np.exp(rewards / c).sum()
    agent, logs = trained("rloo", two_modes, 35, lr=1e-2, entropy_coef=c, prompts_per_step=16)
    found = agent.distribution(two_modes, [""])[0]
    assert found == pytest.approx(optimum, abs=0.06)
    assert logs[-1]["entropy"] == pytest.approx(exact_entropy(optimum), abs=0.15)
    greedy, _ = trained("rloo", two_modes, 25, lr=1e-2)
    assert exact_entropy(greedy.distribution(two_modes, [""])[0]) < 0.1


def test_an_adaptive_weight_holds_its_target(two_modes):
    # It starts from 0.74 nats and, without a bonus, soon has next to none.
    options = {"entropy_coef": 0.05, "entropy_target": 0.9, "entropy_horizon": 100.0}
    _, logs = trained("rloo", two_modes, 45, lr=5e-3, **options)
    late = [log["entropy"] for log in logs[-20:]]
    assert sum(late) / len(late) == pytest.approx(0.9, abs=0.12)
    step = min(1 - logs[0]["entropy"] / 0.9, 0.2) * 64 / 100
    assert logs[1]["entropy_coef"] == pytest.approx(0.05 * math.exp(step))


@pytest.mark.parametrize("seed", [0, 1, 2])
@pytest.mark.parametrize("novel", ["ngram", "embedding"])
def test_novelty_keeps_both_answers(novel, seed, two_modes):
    coef = {"ngram": 0.4, "embedding": 4.0}[novel]
    agent, _ = trained("rloo", two_modes, 20, seed, lr=1e-2, novelty_coef=coef, novelty=novel)
    greedy, _ = trained("rloo", two_modes, 20, seed, lr=1e-2)
    kept, left = (exact_entropy(a.distribution(two_modes, [""])[0]) for a in (agent, greedy))
    assert kept > 0.55 > 0.25 > left


def test_novelty_and_the_batch_keep_more_good_answers(many):
    coverage = {}
    for name, options in {
        "none": {},
        "novelty": {"novelty_coef": 1.0},
        "batch": {"batch_diversity_coef": 1.0},
    }.items():
        agent, _ = trained("grpo", many, 20, lr=1e-2, **options)
        table = agent.distribution(many, many.asked)
        coverage[name] = many.exact_measures(table, many.asked)["coverage"].mean()
    assert coverage["novelty"] > coverage["none"] + 0.1
    assert coverage["batch"] > coverage["none"] + 0.05


# Settings


@pytest.mark.parametrize("name", AGENTS_WITH_OPTIONS)
@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"entropy_coef": -0.1}, "entropy_coef must be >= 0, got -0.1"),
        ({"entropy_target": 1.0}, "needs an entropy_coef > 0 to start from, got 1.0 and 0.0"),
        ({"entropy_target": 0.0, "entropy_coef": 0.1}, "entropy_target must be > 0"),
        ({"entropy_horizon": 0.0}, "entropy_horizon must be > 0, got 0.0"),
        ({"novelty_coef": -1.0}, "novelty_coef must be >= 0, got -1.0"),
        ({"batch_diversity_coef": -1.0}, "batch_diversity_coef must be >= 0, got -1.0"),
        ({"novelty": "ngrams"}, "unknown novelty 'ngrams'; did you mean 'ngram'"),
        ({"novelty_coef": 0.1, "samples_per_prompt": 1}, "samples_per_prompt must be|needs sampl"),
        ({"conventions": "tlr"}, "unknown conventions 'tlr'"),
    ],
)
def test_what_makes_no_sense_is_refused(name, options, message):
    with pytest.raises(ConfigError, match=message):
        make_config(AGENTS.load(name).config_class, options)


def test_the_options_are_off_by_default():
    for name in AGENTS_WITH_OPTIONS:
        config = AGENTS.load(name).config_class()
        assert isinstance(config, DiversityOptions)
        off = (config.entropy_coef, config.novelty_coef, config.batch_diversity_coef)
        assert off == (0, 0, 0)
        assert config.entropy_target is None
