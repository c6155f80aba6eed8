"""NLPO: everything that samples, scores, enumerates and measures sees one masked distribution."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from textgym.agents.base import Setup, enumerated, make_config
from textgym.agents.nlpo import NLPO, NLPOConfig
from textgym.agents.ppo import PPO, PPOConfig
from textgym.benchmarks.measure import measure
from textgym.errors import ConfigError
from textgym.models.enumeration import sequence_logprobs
from textgym.models.masked_policy import MaskedPolicy, MaskMemory, kept_tokens, numbered
from textgym.models.policy import Policy, load_policy
from textgym.models.tokenize import encode_prompts
from textgym.rollout import rollout
from textgym.seeding import Streams
from textgym.tasks import load_task
from textgym.types import Budget

TOP_P = 0.7
FAST = {"prompts_per_step": 16, "lr": 3e-3, "value_lr": 3e-3}


@pytest.fixture(scope="module")
def task():
    return load_task("known-frontier")


@pytest.fixture(scope="module")
def reference(task):
    return load_policy(task.language_model()).freeze()


def jolted(policy, size=0.3):
    """A policy with other weights, so that its own likely tokens are not those of the mask."""
    other, generator = policy.copy(), torch.Generator().manual_seed(5)
    with torch.no_grad():
        for parameter in other.model.parameters():
            parameter += size * parameter.std() * torch.randn(parameter.shape, generator=generator)
    return other


def train(task, reference, config, budget=16 * 5, seed=0, log=lambda step, metrics: None):
    setup = Setup(task, reference.copy(), reference, Budget(budget), Streams(seed), log)
    agent = (NLPO if isinstance(config, NLPOConfig) else PPO)(config)
    agent.train(setup)
    return agent, setup


def masked_by_hand(policy, masking, task, top_p):
    """[N, L]: every response's probability, from next-token softmaxes cut one prefix at a time."""
    eos, table = policy.eos_token_id, np.zeros((len(task.asked), len(task.tree)))

    def following(of, ids):
        ids = torch.tensor([ids])
        return Policy.next_logits(of, ids, torch.ones_like(ids))[0].softmax(-1).tolist()

    for n, prompt in enumerate(task.asked):
        start = encode_prompts(policy.tokenizer, [prompt], 8)[0][0].tolist()
        for i, (ids, mask) in enumerate(zip(task.tree.ids, task.tree.mask, strict=True)):
            probability, prefix = 1.0, list(start)
            for token in ids[mask].tolist():
                likely, kept, total = following(masking, prefix), {eos}, 0.0
                for best in sorted(range(len(likely)), key=lambda v: -likely[v]):
                    if total >= top_p:
                        break
                    kept.add(best)
                    total += likely[best]
                own = following(policy, prefix)
                share = own[token] / sum(own[v] for v in kept)
                probability *= share if token in kept else 0.0
                prefix.append(token)
            table[n, i] = probability
    return table


def test_the_kept_tokens_are_the_fewest_that_reach_p_and_eos():
    logits = torch.tensor([[0.5, 0.3, 0.15, 0.05], [0.05, 0.15, 0.3, 0.5]]).log()
    keeps = [kept_tokens(logits, p, eos_token_id=3).int().tolist() for p in (0.4, 0.6, 0.81, 1.0)]
    assert keeps[0] == [[1, 0, 0, 1], [0, 0, 0, 1]]
    assert keeps[1] == [[1, 1, 0, 1], [0, 0, 1, 1]]
    assert keeps[2] == [[1, 1, 1, 1], [0, 1, 1, 1]]
    assert keeps[3] == [[1, 1, 1, 1], [1, 1, 1, 1]]


def test_log_probabilities_are_those_of_the_masked_softmax(task, reference):
    masked = MaskedPolicy(jolted(reference), TOP_P, reference)
    expected = masked_by_hand(masked, reference, task, TOP_P)
    assert np.allclose(expected.sum(1), 1, atol=1e-6)
    assert 0.2 < (expected == 0).mean() < 0.9
    with torch.no_grad():
        found = sequence_logprobs(masked, task.tree, task.asked).double().exp().numpy()
    assert np.allclose(found, expected, atol=1e-6)
    assert ((found == 0) == (expected == 0)).all()
    # The unmasked policy is far from it, and so is a mask taken of the policy itself.
    for other in (Policy.copy(masked), MaskedPolicy(masked.copy(), TOP_P)):
        assert np.abs(enumerated(other, task, task.asked) - expected).max() > 0.05


@pytest.mark.parametrize("remembers", [True, False])
def test_samples_stay_in_the_mask_and_come_as_often_as_it_says(remembers, task, reference):
    memory = MaskMemory() if remembers else None
    masked = MaskedPolicy(jolted(reference), TOP_P, reference, memory)
    k, rows = 1000, task.prompts("test")
    generator = torch.Generator().manual_seed(0)
    samples = rollout(masked, task, rows, samples_per_prompt=k, generator=generator)
    expected = masked_by_hand(masked, reference, task, TOP_P)
    found = np.zeros(expected.shape)
    for prompt, text in zip(samples.prompts, samples.completions, strict=True):
        found[task.asked.index(prompt), task.texts.index(text)] += 1 / k
    assert found[expected == 0].sum() == 0
    assert (np.abs(found - expected) <= 4 * np.sqrt(expected / k) + 1 / k).all()
    # Sampler, scorer and one step at a time agree.
    with torch.no_grad():
        scored = masked.logprobs(samples)
        first = masked.next_logits(samples.prompt_ids, samples.prompt_mask).log_softmax(-1)
    assert torch.allclose(samples.policy_logprobs, scored, atol=1e-5)
    assert torch.equal(samples.policy_logprobs, samples.sampling_logprobs)
    chosen = first.gather(1, samples.response_ids[:, :1])[:, 0]
    assert torch.allclose(chosen, scored[:, 0], atol=1e-5)


def test_a_token_is_scored_under_the_mask_it_was_drawn_under(task, reference):
    # As if the scorer's rounding moved every edge: a mask from other weights altogether.
    masked = MaskedPolicy(reference.copy(), TOP_P, memory=MaskMemory())
    rows, generator = task.prompts("test"), torch.Generator().manual_seed(0)
    samples = rollout(masked, task, rows, samples_per_prompt=50, generator=generator)
    masked.masking = jolted(reference, 3.0).freeze()
    shuffled = samples.select(torch.randperm(len(samples), generator=generator))
    with torch.no_grad():
        remembered = masked.logprobs(shuffled)
        masked.memory.clear()
        anew = masked.logprobs(shuffled)
    assert torch.allclose(remembered, shuffled.policy_logprobs, atol=1e-5)
    assert torch.isinf(anew).any()


def test_a_prefix_has_one_number_however_it_is_padded():
    ids = torch.tensor([[9, 9, 1, 2], [1, 9, 2, 9], [9, 9, 2, 1], [9, 9, 0, 1]])
    mask = torch.tensor([[0, 0, 1, 1], [1, 0, 1, 0], [0, 0, 1, 1], [0, 0, 1, 1]]).bool()
    first, second, swapped, other = numbered(ids, mask).tolist()
    assert first == second
    assert len({first, swapped, other}) == 3
    many = torch.cartesian_prod(*[torch.arange(40)] * 3)
    assert len(numbered(many, torch.ones_like(many)).unique()) == 40**3


def test_gradients_reach_kept_tokens_alone(task, reference):
    masked = MaskedPolicy(jolted(reference), TOP_P, reference)
    ids, mask = encode_prompts(masked.tokenizer, task.asked[:1], 8)
    with torch.no_grad():
        kept = masked.next_logits(ids, mask)[0].isfinite()
    assert not kept.all()
    logits = masked.next_logits(ids, mask)[0]
    token = int(kept.nonzero()[-1])
    logits.log_softmax(-1)[token].backward()
    head = masked.model.get_output_embeddings().weight
    hidden = head.grad[token] / (1 - logits.softmax(-1)[token].detach())
    # d log p(a) / d logit(v) = [a = v] - p(v), of the distribution over what is kept.
    coefficients = (head.grad @ hidden) / (hidden @ hidden)
    expected = torch.zeros(masked.vocab_size)
    own = Policy.next_logits(masked, ids, mask)[0].detach()
    expected[kept] = -own[kept].softmax(-1)
    expected[token] += 1
    assert torch.allclose(coefficients, expected, atol=1e-5)
    assert (head.grad[~kept] == 0).all()
    assert all(p.grad is None for p in masked.masking.model.parameters())


@pytest.mark.parametrize("options", [{}, {"minibatches": 2, "kl_placement": "loss"}])
def test_with_top_p_1_it_is_ppo_to_the_bit(options, task, reference):
    logs = {"ppo": [], "nlpo": []}
    mine, _ = train(
        task,
        reference,
        NLPOConfig(top_p=1.0, mask_refresh=2, **FAST, **options),
        log=lambda step, metrics: logs["nlpo"].append(metrics),
    )
    theirs, _ = train(
        task,
        reference,
        PPOConfig(**FAST, **options),
        log=lambda step, metrics: logs["ppo"].append(metrics),
    )
    assert len(logs["ppo"]) == 5
    # Explained variance is nan where all returns are equal.
    assert all(map(lambda a, b: repr(a) == repr(b), logs["nlpo"], logs["ppo"]))
    pairs = zip(mine.policy.model.parameters(), theirs.policy.model.parameters(), strict=True)
    assert all(torch.equal(a, b) for a, b in pairs)


@pytest.mark.parametrize(("refresh", "after"), [(2, [2, 4]), (3, [3]), (5, []), (1, [1, 2, 3, 4])])
def test_the_mask_is_refreshed_when_it_should_be(refresh, after, task, reference, monkeypatch):
    # Five batches of 16. The mask changes before the batches named, and never after the last.
    masks, weights = [], []
    original = MaskedPolicy.decoding

    def watched(self, *args):
        own = self.model.get_output_embeddings().weight
        masks.append(self.masking.model.get_output_embeddings().weight.clone())
        weights.append(own.detach().clone())
        return original(self, *args)

    monkeypatch.setattr(MaskedPolicy, "decoding", watched)
    agent, setup = train(
        task, reference, NLPOConfig(top_p=TOP_P, mask_refresh=refresh, value_warmup=0, **FAST)
    )
    assert len(masks) == 5
    assert setup.policy is agent.policy
    lagged = 0
    for batch, mask in enumerate(masks):
        lagged = batch if batch in after else lagged
        assert torch.equal(mask, weights[lagged])
        assert lagged == 0 or not torch.equal(mask, weights[0])
    last = agent.policy.masking.model.get_output_embeddings().weight
    assert torch.equal(last, masks[-1])


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"entropy_coef": 0.01},
        {"kl_placement": "loss", "kl_estimator": "full", "minibatches": 3},
    ],
)
def test_trains_on_what_it_samples_and_is_measured_by_it(options, task, reference):
    # PPO raises where a fresh token's importance ratio is off 1.
    logs = []
    agent, _ = train(
        task,
        reference,
        NLPOConfig(top_p=TOP_P, mask_refresh=2, value_warmup=0, **FAST, **options),
        log=lambda step, metrics: logs.append(metrics),
    )
    for log in logs:
        finite = {k: v for k, v in log.items() if k != "explained_variance"}
        assert np.isfinite(list(finite.values())).all()
        assert 1 <= log["kept_tokens"] < task.tree.vocab_size
        assert 0 < log["kept_mass"] < 1
    assert logs[0]["kept_mass"] >= TOP_P, "before any step mask and policy are one"
    rows = task.prompts("test")
    samples = agent.sample(rows, 200, torch.Generator().manual_seed(0))
    measured = measure(samples, task, agent.policy, reference)
    exact = agent.distribution(task, task.asked)
    base = enumerated(reference, task, task.asked)
    assert (exact == 0).any()
    ratio = np.log(np.where(exact > 0, exact, 1) / np.where(exact > 0, base, 1))
    kl = (exact * ratio).sum(1).mean()
    # The full-vocabulary KL of the visited prefixes: no more noise than which were visited.
    assert measured.metrics["kl_seq"]["value"] == pytest.approx(kl, abs=0.05)


def test_a_saved_policy_keeps_its_mask(task, reference, tmp_path):
    agent, _ = train(task, reference, NLPOConfig(top_p=TOP_P, mask_refresh=2, **FAST))
    agent.policy.save(tmp_path)
    loaded = load_policy(tmp_path)
    expected = enumerated(agent.policy, task, task.asked)
    assert (enumerated(loaded, task, task.asked) == expected).all()
    assert (enumerated(agent.policy.copy(), task, task.asked) == expected).all()
    assert (expected == 0).any()


def test_learns_under_the_mask(task, reference):
    config = replace(NLPOConfig(top_p=0.9, mask_refresh=5, **FAST), prompts_per_step=64)
    agent, _ = train(task, reference, config, budget=64 * 25)
    before = enumerated(reference, task, task.asked)
    after = enumerated(agent.policy, task, task.asked)
    rewards = task.tables.rewards

    def value(table):
        return (table * rewards).sum(1).mean()

    assert value(before) < 0.55
    assert value(after) > value(before) + 0.15


def test_settings_outside_their_domain_are_refused(reference):
    for options, message in [
        ({"top_p": 0}, "top_p must be in"),
        ({"top_p": 1.1}, "top_p must be in"),
        ({"mask_refresh": 0}, "mask_refresh must be >= 1"),
        ({"clip": 0}, "clip must be > 0"),
    ]:
        with pytest.raises(ConfigError, match=message):
            make_config(NLPOConfig, options)
    with pytest.raises(ConfigError, match="top_p must be in"):
        MaskedPolicy(reference, 0.0)


@torch.no_grad()
def test_rows_that_are_left_out_take_their_prefixes_with_them(task, reference):
    masked = MaskedPolicy(jolted(reference), TOP_P, reference, MaskMemory())
    ids, mask = encode_prompts(masked.tokenizer, task.asked, 8)
    decoding = masked.decoding(ids, mask, 1, 2)
    rows, tokens = torch.tensor([1, 3]), torch.tensor([2, 1])
    decoding.keep(rows)
    decoding.step(tokens)
    read = torch.cat([ids[rows], tokens[:, None]], dim=1)
    known, kept = masked.memory.find(numbered(read, torch.ones_like(read)), masked.vocab_size)
    assert known.all()
    assert torch.equal(kept, decoding.logits.isfinite())
    expected = masked.next_logits(read, torch.ones_like(read)).log_softmax(-1)
    assert torch.allclose(decoding.logits.log_softmax(-1), expected, atol=1e-5)
