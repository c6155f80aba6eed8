"""The vLLM sampler: on a stand-in that keeps vLLM's rules, and on vLLM where it is installed."""

import os
import random
import sys
import types
from dataclasses import dataclass

import numpy as np
import pytest
import torch
from policy_support import (
    PROMPTS,
    WINDOW,
    CountTask,
    make_policy,
    plain_logprobs,
    prompt_tokens,
    response_tokens,
    tokenizer,
)
from scipy.stats import chi2_contingency
from transformers import AutoConfig, AutoModelForCausalLM, LlamaConfig, LlamaForCausalLM

from textgym.errors import ConfigError, ModelError
from textgym.models import vllm
from textgym.models.policy import Policy
from textgym.models.sampling import sample_tokens, sampling_distribution
from textgym.models.tokenize import encode_prompts
from textgym.models.training import adamw
from textgym.models.vllm import VLLMSampler
from textgym.rollout import rollout
from textgym.types import Sampling

TASK = CountTask()
ROWS = TASK.prompts("train")
WARPED = Sampling(temperature=0.5, top_k=4)
SWITCH = "VLLM_ENABLE_V1_MULTIPROCESSING"
NUMPY = np.random.mtrand._rand  # the generator behind np.random.rand and its like


# --- a stand-in for vLLM, as far as it is used -------------------------------------------------


@dataclass
class SamplingParams:
    """vLLM's defaults, and its silent rise of low temperatures."""

    temperature: float = 1.0
    top_k: int = 0
    top_p: float = 1.0
    seed: int | None = None
    max_tokens: int = 16
    logprobs: int | None = None
    stop_token_ids: tuple[int, ...] = ()
    ignore_eos: bool = False
    detokenize: bool = True

    def __post_init__(self):
        self.temperature = max(self.temperature, 0.01)


class VLLMModel(torch.nn.Module):
    """A model built from a config alone, whose weights are junk until they are loaded."""

    def __init__(self, folder):
        super().__init__()
        config = AutoConfig.from_pretrained(folder)
        self.net = AutoModelForCausalLM.from_config(config).eval()
        assert type(self.net).__name__ in config.architectures
        self.eos_token_id = config.eos_token_id
        self.unknown = ()

    @torch.no_grad()
    def load_weights(self, weights):
        own = dict(self.net.named_parameters())
        loaded = set()
        for name, weight in weights:
            assert own[name].shape == weight.shape
            own[name].copy_(weight)
            assert f"net.{name}" not in loaded
            loaded.add(f"net.{name}")
        return loaded - set(self.unknown)

    def logits(self, tokens):
        return self.net(input_ids=torch.tensor([tokens])).logits[0, -1]


class LLM:
    """Draws token by token without a cache, but for a prompt's last logits, which it keeps."""

    def __init__(self, model, load_format, dtype, logprobs_mode="raw_logprobs", **options):
        assert load_format == "dummy"
        assert os.environ[SWITCH] == "0"
        random.seed(0)
        NUMPY.seed(0)
        torch.manual_seed(0)
        self.options = options | {"dtype": dtype}
        self.model = VLLMModel(model).to(getattr(torch, dtype))
        self.processed = logprobs_mode == "processed_logprobs"
        self.kept = {}
        self.prompts = []
        self.busy = False

    def apply_model(self, function):
        return [function(self.model)]

    def reset_prefix_cache(self):
        if self.busy:
            return False
        self.kept.clear()
        return True

    @torch.no_grad()
    def generate(self, prompts, requests, use_tqdm=True):
        assert not use_tqdm
        assert len(prompts) == len(requests)
        self.prompts = [prompt["prompt_token_ids"] for prompt in prompts]
        pairs = zip(self.prompts, requests, strict=True)
        return [types.SimpleNamespace(outputs=[self._respond(*pair)]) for pair in pairs]

    def _respond(self, prompt, request):
        if tuple(prompt) not in self.kept:
            self.kept[tuple(prompt)] = self.model.logits(prompt)
        logits = self.kept[tuple(prompt)]
        generator = torch.Generator().manual_seed(request.seed)
        sampling = Sampling(request.temperature, request.top_k, request.top_p)
        stops = {*request.stop_token_ids}
        if not request.ignore_eos:
            stops.add(self.model.eos_token_id)
        tokens, logprobs = [], []
        while not tokens or (tokens[-1] not in stops and len(tokens) < request.max_tokens):
            raw = logits.float().log_softmax(-1)
            drawn_from = sampling_distribution(raw.unsqueeze(0), sampling)[0]
            token = int(torch.multinomial(drawn_from.exp(), 1, generator=generator))
            given = drawn_from if self.processed else raw
            tokens.append(token)
            logprobs.append({token: types.SimpleNamespace(logprob=given[token].item())})
            logits = self.model.logits([*prompt, *tokens])
        found = None if request.logprobs is None else logprobs
        return types.SimpleNamespace(token_ids=tuple(tokens), logprobs=found)


@pytest.fixture
def fake(monkeypatch):
    module = types.SimpleNamespace(LLM=LLM, SamplingParams=SamplingParams)
    monkeypatch.setitem(sys.modules, "vllm", module)
    platform = types.SimpleNamespace(is_cpu=lambda: False)
    platforms = types.SimpleNamespace(current_platform=platform)
    monkeypatch.setitem(sys.modules, "vllm.platforms", platforms)
    return platform


def sampled_by_vllm(policy, **options):
    policy.sampler = VLLMSampler(policy, **options)
    return policy


@pytest.fixture
def policy(fake):
    return sampled_by_vllm(make_policy("llama"))


def sample(policy, seed=0, k=3, **options):
    generator = torch.Generator().manual_seed(seed)
    return rollout(policy, TASK, ROWS, samples_per_prompt=k, generator=generator, **options)


def expected_logprobs(policy, samples, row):
    """[n] from one unpadded forward pass of the bare model."""
    response = response_tokens(samples, row)
    found = plain_logprobs(policy, prompt_tokens(samples, row), response)
    return found[torch.arange(len(response)), response]


def assert_logprobs_are_the_policys(policy, samples, atol=1e-5):
    for row in range(len(samples)):
        found = samples.policy_logprobs[row][samples.response_mask[row]]
        expected = expected_logprobs(policy, samples, row)
        torch.testing.assert_close(found, expected, atol=atol, rtol=0)


# --- what is asked of vLLM, and what is made of its answers ------------------------------------


def test_prompts_arrive_unpadded_and_prompt_major(policy):
    samples = sample(policy)
    encoded = [policy.tokenizer(p)["input_ids"] for p in PROMPTS for _ in range(3)]
    assert policy.sampler.engine.prompts == encoded
    assert [prompt_tokens(samples, row) for row in range(12)] == encoded
    assert len({tuple(response_tokens(samples, i)) for i in range(3)}) == 3


def test_the_engine_is_asked_for_the_policys_window_and_precision(fake):
    policy = make_policy("llama")
    options = sampled_by_vllm(policy, max_num_seqs=7).sampler.engine.options
    assert options["max_model_len"] == WINDOW
    assert options["dtype"] == "float32"
    assert options["enable_prefix_caching"]
    assert options["max_num_seqs"] == 7
    policy.asked_precision = "bfloat16"
    options = sampled_by_vllm(policy, max_model_len=32).sampler.engine.options
    assert options["max_model_len"] == 32
    assert options["dtype"] == "bfloat16"


def test_rows_end_with_eos_or_at_the_limit_and_are_padded_right(policy):
    samples = sample(policy, k=8)
    lengths = samples.response_mask.sum(1)
    assert samples.truncated.any()
    assert lengths.unique().numel() > 4
    for row, length in enumerate(lengths.tolist()):
        tokens = samples.response_ids[row].tolist()
        assert samples.response_mask[row, :length].all()
        assert set(tokens[length:]) <= {policy.pad_token_id}
        assert policy.eos_token_id not in tokens[: length - 1]
        assert (tokens[length - 1] == policy.eos_token_id) != samples.truncated[row]
        assert length == TASK.max_response_tokens or not samples.truncated[row]
        assert not samples.policy_logprobs[row, length:].any()
        assert not samples.sampling_logprobs[row, length:].any()


def test_a_token_equal_to_the_pad_is_part_of_the_response(policy):
    """Only the policy's EOS ends a response, whatever its config says or the pad is."""
    policy.eos_token_id, policy.pad_token_id = -1, policy.eos_token_id
    samples = sample(policy, k=8)
    assert samples.response_mask.all()
    assert (samples.response_ids == policy.pad_token_id).any()
    assert samples.truncated.all()


def test_nothing_to_sample_is_nothing(policy):
    ids, mask = encode_prompts(policy.tokenizer, PROMPTS, WINDOW)
    empty = torch.zeros((8, 0), dtype=torch.float64)
    assert sample_tokens(policy, ids, mask, empty, Sampling()).ids.shape == (8, 0)
    none = torch.zeros((0, 5), dtype=torch.float64)
    assert sample_tokens(policy, ids[:0], mask[:0], none, Sampling()).mask.shape == (0, 5)


# --- log-probabilities -------------------------------------------------------------------------


@pytest.mark.parametrize("family", ["llama", "gpt2", "qwen2", "gpt_neox"])
@pytest.mark.parametrize("tied", [True, False])
def test_default_logprobs_are_the_policys(fake, family, tied):
    policy = sampled_by_vllm(make_policy(family, tied=tied))
    samples = sample(policy)
    assert torch.equal(samples.policy_logprobs, samples.sampling_logprobs)
    assert_logprobs_are_the_policys(policy, samples)


def drawn_probability(raw, token, sampling):
    """A token's share of what temperature, top-k and top-p leave; `raw` are [V] nats."""
    weights = (raw.double() / sampling.temperature).exp()
    ordered = weights.sort(descending=True).values[: sampling.top_k or None]
    shares = ordered.cumsum(0) / ordered.sum()
    size = 1 + int((shares < sampling.top_p).sum())
    assert weights[token] >= ordered[:size].min()
    return weights[token] / ordered[:size].sum()


@pytest.mark.parametrize("chunk", [1, vllm.CHUNK_FLOATS])
@pytest.mark.parametrize("sampling", [WARPED, Sampling(top_p=0.5), Sampling(2.0, 5, 0.7)])
def test_warped_sampling_keeps_both_sets_of_logprobs(policy, monkeypatch, sampling, chunk):
    monkeypatch.setattr(vllm, "CHUNK_FLOATS", chunk)
    samples = sample(policy, sampling=sampling)
    assert_logprobs_are_the_policys(policy, samples)
    for row in range(len(samples)):
        response = response_tokens(samples, row)
        raw = plain_logprobs(policy, prompt_tokens(samples, row), response)
        for t, token in enumerate(response):
            expected = drawn_probability(raw[t], token, sampling).log().item()
            assert samples.sampling_logprobs[row, t].item() == pytest.approx(expected, abs=1e-4)


def test_rows_of_the_head_without_a_token_are_never_drawn(fake):
    policy = make_policy("llama", extra_rows=6, tied=False)
    with torch.no_grad():
        policy.model.get_output_embeddings().weight[policy.vocab_size :] = 1e3
    samples = sample(sampled_by_vllm(policy))
    assert int(samples.response_ids.max()) < policy.vocab_size
    for row in range(len(samples)):
        response = response_tokens(samples, row)
        ids = torch.tensor([[*prompt_tokens(samples, row), *response]])
        logits = policy.model(input_ids=ids).logits[0, -len(response) - 1 : -1]
        raw = logits[:, : policy.vocab_size].log_softmax(-1)
        found = samples.policy_logprobs[row][samples.response_mask[row]]
        expected = raw[torch.arange(len(response)), response]
        torch.testing.assert_close(found, expected.detach(), atol=1e-5, rtol=0)


# --- weights -----------------------------------------------------------------------------------


def train_fused(policy, lr=0.1):
    """The optimiser that agents train with; it leaves the parameters' version counters alone."""
    for parameter in policy.parameters():
        parameter.grad = torch.ones_like(parameter)
    adamw(policy.parameters(), lr=lr).step()


def write_behind_torch(policy):
    weight = policy.model.get_output_embeddings().weight
    weight.data.numpy()[:] *= 0.5


@pytest.mark.parametrize("change", [train_fused, write_behind_torch])
def test_every_change_of_the_weights_reaches_the_next_sample(policy, change):
    before = sample(policy)
    change(policy)
    after = sample(policy)
    assert_logprobs_are_the_policys(policy, after)
    width = min(before.response_ids.shape[1], after.response_ids.shape[1])
    same = before.policy_logprobs[:, :width] == after.policy_logprobs[:, :width]
    assert not (same & before.response_mask[:, :width] & after.response_mask[:, :width]).any()


def test_sampling_leaves_the_policys_weights_and_gradients_alone(policy):
    before = [(p.clone(), p.requires_grad) for p in policy.model.parameters()]
    sample(policy, sampling=WARPED)
    for parameter, (value, requires_grad) in zip(policy.model.parameters(), before, strict=True):
        assert torch.equal(parameter, value)
        assert parameter.requires_grad == requires_grad
        assert parameter.grad is None


def test_a_weight_that_the_policy_lacks_is_an_error(policy):
    policy.sampler.engine.model.unknown = ("net.lm_head.weight", "net.model.norm.weight")
    with pytest.raises(ModelError, match=r"no values for 1 of .* 'net\.model\.norm\.weight'"):
        sample(policy)


def test_a_prefix_cache_that_stays_is_an_error(policy):
    policy.sampler.engine.busy = True
    with pytest.raises(RuntimeError, match="keys and values of old weights"):
        sample(policy)


# --- randomness --------------------------------------------------------------------------------


def test_the_same_seed_gives_the_same_tokens_whatever_the_batch(policy):
    first, again, split = sample(policy), sample(policy), sample(policy, batch_size=3)
    assert torch.equal(first.response_ids, again.response_ids)
    assert torch.equal(first.response_ids, split.response_ids)
    assert sample(policy, seed=1).completions != first.completions


def test_no_global_random_state_or_setting_is_touched(fake, monkeypatch):
    policy = make_policy("llama")
    for value in (None, "1"):
        monkeypatch.delenv(SWITCH, raising=False)
        if value:
            monkeypatch.setenv(SWITCH, value)
        random.random(), NUMPY.random_sample(), torch.rand(())  # away from where a seed leads
        states = random.getstate(), NUMPY.get_state()[1].copy(), torch.get_rng_state()
        sample(sampled_by_vllm(policy))
        assert random.getstate() == states[0]
        assert (NUMPY.get_state()[1] == states[1]).all()
        assert torch.equal(torch.get_rng_state(), states[2])
        assert os.environ.get(SWITCH) == value


# --- what cannot be had ------------------------------------------------------------------------


def test_without_vllm_there_is_a_way_out(monkeypatch):
    monkeypatch.setitem(sys.modules, "vllm", None)
    with pytest.raises(ConfigError, match=r"pip install 'textgym\[vllm\]'"):
        VLLMSampler(make_policy("llama"))


def test_vllm_on_a_cpu_is_an_error(fake):
    fake.is_cpu = lambda: True
    with pytest.raises(ConfigError, match="use a GPU"):
        VLLMSampler(make_policy("llama"))


def test_several_gpus_are_an_error(fake):
    with pytest.raises(ConfigError, match="tensor_parallel_size must be 1, got 2"):
        VLLMSampler(make_policy("llama"), tensor_parallel_size=2)


def test_a_temperature_that_vllm_would_raise_is_an_error(policy):
    with pytest.raises(ConfigError, match=r"vLLM's temperature is >= 0\.01, got 0\.001"):
        sample(policy, sampling=Sampling(temperature=0.001))


# --- vLLM itself -------------------------------------------------------------------------------


def make_wide_policy():
    """A random Llama with heads as wide as vLLM's attention asks for, on the CPU."""
    made = tokenizer()
    config = LlamaConfig(
        vocab_size=len(made) + 5,
        hidden_size=128,
        intermediate_size=256,
        num_hidden_layers=2,
        num_attention_heads=2,
        num_key_value_heads=1,
        max_position_embeddings=WINDOW,
        tie_word_embeddings=False,
        eos_token_id=made.eos_token_id,
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(1)
        policy = Policy(LlamaForCausalLM(config), made, "wide")
    with torch.no_grad():
        policy.model.lm_head.weight.mul_(8.0)
    return policy


@pytest.fixture(scope="module")
def real():
    pytest.importorskip("vllm")
    if not torch.cuda.is_available():
        pytest.skip("needs a GPU")
    policy = make_wide_policy()
    policy.model.to("cuda")
    return sampled_by_vllm(policy, gpu_memory_utilization=0.2, enforce_eager=True)


def plain_copy(policy):
    copied = make_wide_policy()
    copied.model.load_state_dict(policy.model.state_dict())
    return copied


@pytest.mark.slow
@pytest.mark.parametrize("sampling", [Sampling(), WARPED])
def test_vllm_draws_as_the_plain_loop_does(real, sampling):
    both = (
        sample(real, k=500, sampling=sampling),
        sample(plain_copy(real), seed=1, k=500, sampling=sampling),
    )
    assert not torch.equal(both[0].response_ids, both[1].response_ids)
    for t in range(2):
        for start in range(0, 2000, 500):
            drawn = [x.response_ids[start : start + 500, t] for x in both]
            counts = torch.stack([x.bincount(minlength=real.vocab_size) for x in drawn])
            common = counts.sum(0) >= 20
            table = torch.cat([counts[:, common], counts[:, ~common].sum(1, keepdim=True)], 1)
            table = table[:, table.sum(0) > 0]
            assert table.shape[1] > 2
            assert chi2_contingency(table.numpy()).pvalue > 1e-4


@pytest.mark.slow
def test_vllm_gives_the_policys_logprobs_and_follows_its_weights(real):
    for _ in range(2):
        plain = plain_copy(real)
        samples, warped = sample(real), sample(real, sampling=WARPED)
        assert int(samples.response_ids.max()) < real.vocab_size
        assert_logprobs_are_the_policys(plain, samples, atol=1e-2)
        assert_logprobs_are_the_policys(plain, warped, atol=1e-2)
        for row in range(len(warped)):
            response = response_tokens(warped, row)
            raw = plain_logprobs(plain, prompt_tokens(warped, row), response)
            chosen = sampling_distribution(raw, WARPED)[torch.arange(len(response)), response]
            found = warped.sampling_logprobs[row][warped.response_mask[row]]
            torch.testing.assert_close(found, chosen, atol=2e-2, rtol=0)
        train_fused(real, lr=0.01)


@pytest.mark.slow
def test_vllm_repeats_itself(real):
    first, again = sample(real), sample(real)
    assert torch.equal(first.response_ids, again.response_ids)
