"""Adapters on a frozen base: peft's numbers, the base's memory, and nothing else trained."""

import copy
import sys
import warnings

import pytest
import torch
from policy_support import FAMILIES, CountTask, make_policy

from textgym.agents.base import enumerated
from textgym.agents.identity import make_pretrained, make_setup
from textgym.agents.ppo import PPO, PPOConfig
from textgym.agents.reinforce import Reinforce, ReinforceConfig
from textgym.agents.sft import SFT, SFTConfig
from textgym.errors import ConfigError, ModelError
from textgym.models import lora
from textgym.models.linear import AdaptedLinear, Linear, SplitLinear, StackedLinear
from textgym.models.lora import adapted, is_adapted, is_plain_adapter, merged, save_adapters
from textgym.models.policy import Policy, load_policy
from textgym.models.value_head import ValueModel
from textgym.models.vllm import _weights
from textgym.rollout import rollout
from textgym.tasks import load_task

TASK = CountTask()
RANK = 3
CLOSE = {"atol": 1e-5, "rtol": 1e-5}

INNER = {
    # Of one block, inputs + outputs of each linear layer, at width 16, inner width 24 (GPT-2: 64),
    # two heads of 8, and one key and value head where the family has fewer.
    "llama": [16 + 16, 16 + 8, 16 + 8, 16 + 16, 16 + 24, 16 + 24, 24 + 16],
    "qwen2": [16 + 16, 16 + 8, 16 + 8, 16 + 16, 16 + 24, 16 + 24, 24 + 16],
    "qwen3": [16 + 16, 16 + 8, 16 + 8, 16 + 16, 16 + 24, 16 + 24, 24 + 16],
    "gpt2": [16 + 48, 16 + 16, 16 + 64, 64 + 16],
    "gpt_neox": [16 + 48, 16 + 16, 16 + 24, 24 + 16],
}


def seeded(seed=0):
    return torch.Generator().manual_seed(seed)


def sample(policy, seed=0):
    rows = TASK.prompts("train")
    return rollout(policy, TASK, rows, samples_per_prompt=3, generator=seeded(seed))


def move(policy, seed=5):
    """Sets the adapters to something that says other things than the base."""
    generator = seeded(seed)
    with torch.no_grad():
        for parameter in policy.parameters():
            parameter.copy_(0.3 * torch.randn(parameter.shape, generator=generator))
    return policy


def weights(model):
    return {name: (p.data_ptr(), p.detach().clone()) for name, p in model.named_parameters()}


def assert_untouched(model, before):
    for name, p in model.named_parameters():
        assert p.data_ptr() == before[name][0]
        assert torch.equal(p, before[name][1]), name


@pytest.fixture(params=FAMILIES, scope="module")
def base(request):
    return make_policy(request.param)


@pytest.fixture(scope="module")
def reference():
    """Has learned to say a letter."""
    setup, _ = make_setup(make_pretrained(), make_pretrained(), budget=0)
    SFT(SFTConfig(steps=120, batch_size=20, lr=5e-3)).train(setup)
    return setup.policy.freeze()


# --- what the adapted policy is ------------------------------------------------------------------


def test_it_begins_as_the_base_to_the_bit(base):
    policy, samples = adapted(base, RANK, seeded()), sample(base)
    assert policy.decoder() is not None, "weights are still read directly"
    with torch.no_grad():
        assert torch.equal(policy.logprobs(samples), base.logprobs(samples))
        assert torch.equal(policy.embed(samples), base.embed(samples))
    again = sample(policy)
    assert torch.equal(again.response_ids, samples.response_ids)
    # With gradients, W x and B A x are apart: zero is added.
    torch.testing.assert_close(policy.logprobs(samples), base.logprobs(samples), **CLOSE)


def test_as_many_numbers_are_trained_as_adapters_have(base):
    policy = adapted(base, RANK, seeded())
    assert sum(p.numel() for p in policy.parameters()) == 2 * RANK * sum(INNER[base.name])
    trained = [n for n, p in policy.model.named_parameters() if p.requires_grad]
    assert len(trained) == 2 * 2 * len(INNER[base.name])
    assert all(".lora_A." in n or ".lora_B." in n for n in trained)
    assert not any("lm_head" in n for n in trained)


def test_the_base_shares_its_memory_and_stays_as_it_was(base):
    before = weights(base.model)
    flags = [p.requires_grad for p in base.model.parameters()]
    policy = move(adapted(base, RANK, seeded()))
    of_base = {p.data_ptr() for p in base.model.parameters()}
    own = {p.data_ptr() for p in policy.parameters()}
    assert {p.data_ptr() for p in policy.model.parameters()} == of_base | own
    assert not of_base & own
    assert flags == [p.requires_grad for p in base.model.parameters()]
    assert not is_adapted(base.model)
    assert_untouched(base.model, before)


def test_initialisation_is_the_generators(base):
    state = torch.get_rng_state()
    first, same, other = (adapted(base, RANK, seeded(s)) for s in (1, 1, 2))
    assert torch.equal(state, torch.get_rng_state())
    for a, b, c in zip(first.parameters(), same.parameters(), other.parameters(), strict=True):
        assert torch.equal(a, b)
        if a.abs().sum() > 0:
            assert not torch.equal(a, c)
            assert a.abs().max() <= a.shape[1] ** -0.5  # A: [r, inputs]
            assert len(a) == RANK


def test_it_computes_what_peft_does(base, monkeypatch):
    policy = move(adapted(base, RANK, seeded()))
    samples = sample(base)
    (sampled,) = {type(block.qkv) for block in policy_blocks(policy)}
    assert sampled in (AdaptedLinear, SplitLinear)
    trained = policy.logprobs(samples)
    trained.sum().backward()
    gradients = [p.grad for p in policy.parameters()]
    with torch.no_grad():
        scored, embedded = policy.logprobs(samples), policy.embed(samples)
        assert {type(block.qkv) for block in policy_blocks(policy)} <= {Linear, StackedLinear}
    policy.model.zero_grad(set_to_none=True)
    monkeypatch.setattr("textgym.models.policy.read", lambda model: None)
    monkeypatch.setattr("textgym.models.trunk.read", lambda model: None)
    expected = policy.logprobs(samples)
    expected.sum().backward()
    assert (expected - base.logprobs(samples)).abs().max() > 1, "the adapters should matter"
    torch.testing.assert_close(trained, expected, **CLOSE)
    torch.testing.assert_close(scored, expected.detach(), **CLOSE)
    torch.testing.assert_close(embedded, policy.embed(samples), **CLOSE)
    for p, gradient in zip(policy.parameters(), gradients, strict=True):
        scale = p.grad.abs().max()
        torch.testing.assert_close(gradient / scale, p.grad / scale, atol=1e-4, rtol=0)
    assert all(p.grad is None for p in policy.model.parameters() if not p.requires_grad)


def policy_blocks(policy):
    return policy.decoder().blocks


def test_fresh_samples_have_the_scorers_logprobs(base):
    policy = move(adapted(base, RANK, seeded()))
    samples = sample(policy)
    torch.testing.assert_close(policy.logprobs(samples), samples.policy_logprobs, atol=1e-4, rtol=0)


def test_training_keeps_no_copy_of_the_weights():
    # Of what the backward pass holds, all that is as large as a weight lies in the base. The tokens
    # are few, so that activations are smaller.
    base = make_policy("llama")
    policy, samples = adapted(base, 2, seeded()), sample(base).select(torch.tensor([4]))
    smallest = 16 * 8
    samples.response_ids = samples.response_ids[:, :2]
    samples.response_mask = samples.response_mask[:, :2]
    inside = {p.data_ptr() for p in base.model.parameters()}
    held = []

    def keep(tensor):
        if tensor.dim() == 2 and tensor.shape[0] * tensor.shape[1] >= smallest:
            held.append(tensor)
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        policy.logprobs(samples).sum().backward()
    assert len([t for t in held if t.data_ptr() in inside]) >= 7
    outside = [t for t in held if t.data_ptr() not in inside]
    assert [t.shape for t in outside if t.shape[0] in (8, 16, 24) and t.shape[1] in (16, 24)] == []


def test_a_layer_by_hand():
    base = Linear(torch.tensor([[1.0, 2.0], [0.0, 1.0], [3.0, 0.0]]), torch.tensor([0.0, 1.0, 0.0]))
    layer = AdaptedLinear(base, torch.tensor([[1.0, -1.0]]), torch.tensor([[2.0], [0.0], [1.0]]), 3)
    x = torch.tensor([[2.0, 5.0]])
    # W x + b = (12, 6, 6); A x = -3; 3 B A x = (-18, 0, -9).
    assert layer(x).tolist() == [[-6, 6, -3]]
    # 3 B A = ((6, -6), (0, 0), (3, -3)).
    assert layer.merged().weight.tolist() == [[7, -4], [0, 1], [6, -3]]
    assert layer.packed(1)(x).tolist() == [[-6, 6, -3]]
    both = SplitLinear([layer, Linear(base.weight[:1], torch.tensor([0.5]))])
    assert both(x).tolist() == [[-6, 6, -3, 12.5]]
    assert both.packed(1)(x).tolist() == [[-6, 6, -3, 12.5]]
    short = both.to(torch.bfloat16)
    assert short.dtype == short(x).dtype == torch.bfloat16
    assert short(x).tolist() == [[-6, 6, -3, 12.5]]


def test_small_steps_are_not_lost_to_bfloat16():
    # 1 + 2^-10 is 1 in bfloat16: adapters are added to the weights before these are rounded.
    base = make_policy("llama")
    base.asked_precision = "bfloat16"
    policy = adapted(base, 1, seeded())
    layer = policy.model.model.layers[0].self_attn.o_proj
    with torch.no_grad():
        layer.base_layer.weight.fill_(1 + 2**-8)
        layer.lora_A.default.weight.fill_(1.0)
        layer.lora_B.default.weight.fill_(2**-11)  # twice that is added
        found = policy.decoder().blocks[0].output.weight
    assert found.dtype == torch.bfloat16
    assert (found == 1 + 2**-7).all(), "1 + 2^-8 alone is a tie that falls to 1"


# --- copies, value models, files -----------------------------------------------------------------


def test_a_copy_trains_adapters_of_its_own(base):
    policy = move(adapted(base, RANK, seeded()))
    samples = sample(policy)
    frozen = policy.copy().freeze()
    assert frozen.parameters() == []
    other = frozen.copy()
    sizes = [p.numel() for p in policy.parameters()]
    assert [p.numel() for p in other.parameters()] == sizes
    everything = {p.data_ptr() for p in policy.model.parameters()}
    own = {p.data_ptr() for p in other.parameters()}
    assert len(own) == len(sizes)
    assert not own & everything
    assert {p.data_ptr() for p in other.model.parameters()} - own <= everything
    move(other, seed=6)
    with torch.no_grad():
        said = policy.logprobs(samples)
        torch.testing.assert_close(said, samples.policy_logprobs, **CLOSE)
        assert torch.equal(frozen.logprobs(samples), said)
        assert (other.logprobs(samples) - said).abs().max() > 1


def test_a_value_model_has_adapters_and_a_head(base, tmp_path):
    policy = move(adapted(base, RANK, seeded()))
    samples = sample(policy)
    before = weights(policy.model)
    value_model = ValueModel(policy, seeded())
    trained = [p for p in value_model.parameters() if p.requires_grad]
    assert sum(p.numel() for p in trained) == 2 * RANK * sum(INNER[base.name]) + 16 + 1
    inside = {p.data_ptr() for p in base.model.parameters()}
    assert all(p.data_ptr() in inside for p in value_model.parameters() if not p.requires_grad)
    values = value_model(samples)
    optimizer = torch.optim.SGD(trained, lr=1e-5)
    values.square().sum().backward()
    optimizer.step()
    assert_untouched(policy.model, before)
    after = value_model(samples).detach()
    assert not torch.allclose(after, values)
    value_model.save(tmp_path)
    plain = ValueModel(base, seeded(1)).load(tmp_path)
    torch.testing.assert_close(plain(samples).detach(), after, atol=1e-4, rtol=1e-4)
    with pytest.raises(ModelError, match="another shape"):
        value_model.load(tmp_path)


def test_saving_merges(base, tmp_path):
    policy = move(adapted(base, RANK, seeded()))
    before = weights(policy.model)
    samples = sample(policy)
    policy.save(tmp_path)
    loaded = load_policy(tmp_path)
    assert not is_adapted(loaded.model)
    again = sample(loaded)
    assert torch.equal(again.response_ids, samples.response_ids)
    torch.testing.assert_close(again.policy_logprobs, samples.policy_logprobs, **CLOSE)
    assert_untouched(policy.model, before)
    assert is_adapted(policy.model)
    assert merged(base.model) is base.model


def test_adapters_alone_are_small_and_pefts(base, tmp_path):
    import peft

    policy = move(adapted(base, RANK, seeded()))
    save_adapters(policy, tmp_path / "adapters")
    size = (tmp_path / "adapters" / "adapter_model.safetensors").stat().st_size
    assert size < 4 * 2 * RANK * sum(INNER[base.name]) + 8192
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # what transformers says of what peft asks it
        theirs = peft.PeftModel.from_pretrained(copy.deepcopy(base.model), tmp_path / "adapters")
    ids = torch.tensor([[40, 50, 60, 70]])
    with torch.no_grad():
        torch.testing.assert_close(theirs(ids).logits, policy.model(ids).logits, **CLOSE)
    with pytest.raises(ConfigError, match="no adapters"):
        save_adapters(base, tmp_path)


def test_vllm_is_handed_merged_weights(base):
    policy = move(adapted(base, RANK, seeded()))
    handed = dict(_weights(policy))
    assert set(handed) == {name for name, _ in base.model.named_parameters()}
    plain = copy.deepcopy(base.model)
    plain.load_state_dict(handed, strict=False)
    samples = sample(policy)
    with torch.no_grad():
        said = Policy(plain, base.tokenizer).logprobs(samples)
    torch.testing.assert_close(said, samples.policy_logprobs, **CLOSE)


# --- training ------------------------------------------------------------------------------------

AGENTS = {
    "reinforce": Reinforce(ReinforceConfig(lr=1e-2, kl_coef=0.0, prompts_per_step=32)),
    "ppo": PPO(PPOConfig(lr=1e-2, value_lr=1e-2, kl_coef=0.0, prompts_per_step=32)),
}


def train(agent, reference, seed, budget=96):
    policy = adapted(reference, 2, seeded(seed))
    setup, logs = make_setup(policy, reference, budget=budget, seed=seed)
    agent.train(setup)
    return setup.policy, logs


@pytest.mark.parametrize("name", AGENTS)
def test_agents_change_adapters_and_nothing_else(name, reference):
    before = weights(reference.model)
    (first, logs), (again, logs_again), (other, _) = (
        train(AGENTS[name], reference, seed) for seed in (3, 3, 4)
    )
    assert_untouched(reference.model, before)
    inside = {p.data_ptr() for p in reference.model.parameters()}
    assert all(p.data_ptr() in inside for p in first.model.parameters() if not p.requires_grad)
    start = adapted(reference, 2, seeded(3))
    pairs = zip(first.parameters(), start.parameters(), strict=True)
    assert not any(torch.equal(p, q) for p, q in pairs)
    assert logs == logs_again
    assert all(map(torch.equal, first.parameters(), again.parameters()))
    assert not any(map(torch.equal, first.parameters(), other.parameters()))
    # The first batch is the reference's own: no KL has been spent.
    assert logs[0]["kl_seq"] == pytest.approx(0, abs=1e-6)
    assert logs[-1]["kl_seq"] != pytest.approx(0, abs=1e-6)


def test_adapters_of_rank_two_learn_what_is_rewarded():
    task = load_task("known-frontier")
    reference = load_policy(str(task.language_model())).freeze()

    def reward(policy):
        table = enumerated(policy, task, task.asked[:16])
        return (table * task.tables.rewards[task.rows_of(task.asked[:16])]).sum(1).mean()

    policy = adapted(reference, 2, seeded())
    setup, _ = make_setup(policy, reference, budget=64 * 20, task=task)
    Reinforce(ReinforceConfig(lr=1e-2, kl_coef=0.0)).train(setup)
    assert reward(setup.policy) > 0.65 > 0.5 > reward(reference)


# --- what is not read directly, and errors -------------------------------------------------------


@pytest.mark.parametrize(
    "options",
    [{"lora_dropout": 0.5}, {"use_dora": True}, {"target_modules": ["lm_head"]}, "off", "two"],
    ids=str,
)
@pytest.mark.filterwarnings("ignore:Already found a `peft_config`")
def test_other_adapters_are_computed_by_peft(options):
    import peft

    base = make_policy("llama", tied=False)
    model = copy.deepcopy(base.model)
    more = options if isinstance(options, dict) else {}
    config = peft.LoraConfig(**{"r": 2, "target_modules": ["q_proj"], **more})
    with torch.random.fork_rng(devices=[]):
        peft.inject_adapter_in_model(config, model)
        if options == "two":
            peft.inject_adapter_in_model(copy.deepcopy(config), model, "second")
    layers = list(lora._layers(model))
    for layer in layers:
        if options == "off":
            layer.enable_adapters(False)
        elif options == "two":
            layer.set_adapter(["default", "second"])
    assert not any(map(is_plain_adapter, layers)) or "target_modules" in options
    policy = move(Policy(model, base.tokenizer))
    assert policy.decoder() is None
    samples = sample(base)
    ids = samples.prompt_ids[-1:]
    with torch.no_grad():
        expected = model(ids).logits[:, -1, : policy.vocab_size]
        torch.testing.assert_close(policy.next_logits(ids, ids >= 0), expected, **CLOSE)


def test_nonsense_is_refused():
    base = make_policy("llama")
    with pytest.raises(ConfigError, match="must be >= 1, got 0"):
        adapted(base, 0, seeded())
    with pytest.raises(ConfigError, match="llama has adapters"):
        adapted(adapted(base, 1, seeded()), 1, seeded())


def test_without_peft_there_is_a_way_out_and_everything_else(monkeypatch, tmp_path):
    monkeypatch.setitem(sys.modules, "peft", None)
    base = make_policy("llama")
    with pytest.raises(ConfigError, match=r"--lora needs peft: pip install 'textgym\[lora\]'"):
        adapted(base, 1, seeded())
    assert base.copy().decoder() is not None
    ValueModel(base).save(tmp_path)
    base.save(tmp_path)
