import json

import pytest
import torch
from policy_support import FAMILIES, CountTask, make_policy
from transformers import BertConfig, BertLMHeadModel

from textgym.errors import ModelError
from textgym.models.policy import Policy, load_policy
from textgym.models.value_head import ValueModel
from textgym.rollout import rollout

TASK = CountTask()


def sample(policy):
    return rollout(
        policy,
        TASK,
        TASK.prompts("train"),
        samples_per_prompt=2,
        generator=torch.Generator().manual_seed(0),
    )


@pytest.mark.parametrize("tied", [True, False])
@pytest.mark.parametrize("family", FAMILIES)
def test_a_saved_policy_samples_the_same(family, tied, tmp_path):
    policy = make_policy(family, tied=tied)
    policy.save(tmp_path)
    loaded = load_policy(tmp_path)
    ends = loaded.model.get_input_embeddings().weight, loaded.model.get_output_embeddings().weight
    assert (ends[0] is ends[1]) == (tied or family == "gpt2")
    first, second = sample(policy), sample(loaded)
    assert torch.equal(first.response_ids, second.response_ids)
    assert torch.equal(first.policy_logprobs, second.policy_logprobs)
    assert not loaded.model.training
    assert loaded.name == str(tmp_path)


def test_tied_weights_stay_tied_in_a_copy():
    copied = make_policy("llama", tied=True).copy()
    assert copied.model.get_input_embeddings().weight is copied.model.get_output_embeddings().weight


def test_generation_defaults_of_the_checkpoint_are_dropped(tmp_path):
    policy = make_policy("llama")
    policy.save(tmp_path)
    defaults = {"temperature": 0.1, "top_k": 1, "do_sample": True, "repetition_penalty": 9.0}
    (tmp_path / "generation_config.json").write_text(json.dumps(defaults))
    loaded = load_policy(tmp_path)
    assert torch.equal(sample(loaded).response_ids, sample(policy).response_ids)
    loaded.save(tmp_path / "again")
    kept = json.loads((tmp_path / "again" / "generation_config.json").read_text())
    assert not set(defaults) & set(kept)


def test_weights_stored_in_half_precision_load_as_float32(tmp_path):
    policy = make_policy("llama")
    policy.model.to(torch.bfloat16)
    policy.save(tmp_path)
    assert load_policy(tmp_path).dtype == torch.float32
    assert load_policy(tmp_path, dtype=torch.bfloat16).dtype == torch.bfloat16


def test_the_window_is_the_models():
    assert make_policy("llama").max_length == make_policy("gpt2").max_length == 64


def test_a_folder_that_is_no_model_is_an_error(tmp_path):
    (tmp_path / "junk").mkdir()
    (tmp_path / "junk" / "config.json").write_text("{}")
    for path in (tmp_path, tmp_path / "nothing", tmp_path / "junk"):
        with pytest.raises(ModelError) as caught:
            load_policy(path)
        assert "\n" not in str(caught.value)


def test_incomplete_weights_are_an_error(tmp_path):
    from safetensors.torch import load_file, save_file

    make_policy("llama").save(tmp_path)
    weights = load_file(tmp_path / "model.safetensors")
    del weights["model.layers.1.mlp.up_proj.weight"]
    save_file(weights, tmp_path / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(ModelError, match=r"incomplete: 1 are missing, such as .*up_proj"):
        load_policy(tmp_path)


def test_a_model_that_sees_the_future_is_an_error(tmp_path):
    policy = make_policy("llama")
    config = BertConfig(
        vocab_size=len(policy.tokenizer),
        hidden_size=16,
        num_hidden_layers=2,
        num_attention_heads=2,
        intermediate_size=24,
        initializer_range=0.5,
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        BertLMHeadModel(config).save_pretrained(tmp_path)
    policy.tokenizer.save_pretrained(tmp_path)
    with pytest.raises(ModelError, match="no causal model"):
        load_policy(tmp_path)


def test_a_tokenizer_larger_than_the_model_is_an_error():
    policy = make_policy("llama")
    rows = len(policy.tokenizer)
    policy.tokenizer.add_tokens(["new"])
    with pytest.raises(ModelError, match=f"{rows + 1} tokens, the model embeds {rows}"):
        Policy(policy.model, policy.tokenizer)


def test_a_value_model_is_saved_and_loaded(tmp_path):
    policy = make_policy("llama")
    samples = sample(policy)
    first = ValueModel(policy, torch.Generator().manual_seed(0))
    assert (ValueModel(policy)(samples) == 0).all(), "without a generator values begin at 0"
    first.save(tmp_path)
    second = ValueModel(policy.copy(), torch.Generator().manual_seed(1))
    assert not torch.equal(second(samples), first(samples))
    assert torch.equal(second.load(tmp_path)(samples), first(samples))
    with pytest.raises(ModelError, match="no value model"):
        second.load(tmp_path / "nothing")
