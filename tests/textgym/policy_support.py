"""Tiny random policies of several families, a task to sample for, and plain forward passes."""

import torch
from datasets import Dataset
from transformers import (
    GPT2Config,
    GPT2LMHeadModel,
    GPTNeoXConfig,
    GPTNeoXForCausalLM,
    LlamaConfig,
    LlamaForCausalLM,
    Qwen2Config,
    Qwen2ForCausalLM,
    Qwen3Config,
    Qwen3ForCausalLM,
)

from textgym.models.hugging_face import hidden_states
from textgym.models.policy import Policy
from textgym.models.tokenize import encode_prompts, train_tokenizer
from textgym.tasks.base import Task

torch.set_num_threads(1)  # the models are too small to share among threads

WINDOW = 64
PROMPTS = ["The boat", "A", "The old boat came in late on a windy day:", "rain"]
TEXTS = [
    f"The {a} {b} came in late on a windy day." for a in ("old", "red") for b in ("boat", "car")
]


def tokenizer(pad_is_eos=False):
    made = train_tokenizer(TEXTS * 5, 290)
    if pad_is_eos:
        made.pad_token = made.eos_token
    return made


def _llama(size, **common):
    return LlamaForCausalLM(LlamaConfig(vocab_size=size, num_key_value_heads=1, **common))


def _gpt2(size, **common):
    return GPT2LMHeadModel(
        GPT2Config(vocab_size=size, n_embd=16, n_layer=2, n_head=2, n_positions=WINDOW)
    )


def _qwen2(size, **common):
    return Qwen2ForCausalLM(Qwen2Config(vocab_size=size, num_key_value_heads=1, **common))


def _qwen3(size, **common):
    return Qwen3ForCausalLM(
        Qwen3Config(vocab_size=size, num_key_value_heads=1, head_dim=8, **common)
    )


def _neox(size, **common):
    return GPTNeoXForCausalLM(GPTNeoXConfig(vocab_size=size, **common))


FAMILIES = {"llama": _llama, "gpt2": _gpt2, "qwen2": _qwen2, "qwen3": _qwen3, "gpt_neox": _neox}


def make_policy(family="llama", *, extra_rows=0, tied=True):
    """A random policy whose distribution is not flat and whose responses end at various times."""
    made = tokenizer()
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(1)
        model = FAMILIES[family](
            len(made) + extra_rows,
            hidden_size=16,
            intermediate_size=24,
            num_hidden_layers=2,
            num_attention_heads=2,
            max_position_embeddings=WINDOW,
            tie_word_embeddings=tied,
            bos_token_id=None,
            eos_token_id=made.eos_token_id,
            pad_token_id=made.pad_token_id,
        )
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.dim() > 1:
                parameter.mul_(6.0)
    policy = Policy(model, made, family)
    _make_eos_likely(policy)
    return policy


@torch.no_grad()
def _make_eos_likely(policy):
    """Points EOS's output row along the mean state, so that its probability is around e^-2."""
    ids, mask = encode_prompts(policy.tokenizer, PROMPTS, WINDOW)
    mean = hidden_states(policy.model.base_model, ids, mask)[mask].mean(0)
    level = policy.next_logits(ids, mask).logsumexp(-1).mean() - 2
    policy.model.get_output_embeddings().weight[policy.eos_token_id] = mean * level / mean.dot(mean)


@torch.no_grad()
def plain_logprobs(policy, prompt, response):
    """[n, V] log-probabilities by one unpadded forward pass of the bare model, no masks at all."""
    ids = torch.tensor([[*prompt, *response]])
    logits = policy.model(input_ids=ids).logits[0, len(prompt) - 1 : -1]
    return logits[:, : len(policy.tokenizer)].log_softmax(-1)


def prompt_tokens(rollout, row):
    return rollout.prompt_ids[row][rollout.prompt_mask[row]].tolist()


def response_tokens(rollout, row):
    return rollout.response_ids[row][rollout.response_mask[row]].tolist()


class CountTask(Task):
    """Rewards length; a per-row bonus column shows that columns reach the reward."""

    name = "count"
    question = "Does anyone count?"
    max_prompt_tokens = 24
    max_response_tokens = 12

    def prompts(self, split):
        return Dataset.from_dict({"prompt": PROMPTS, "bonus": [1.0, 2.0, 3.0, 4.0]})

    def demonstrations(self):
        return Dataset.from_dict({"prompt": ["The boat", "A"], "completion": [" came", " day."]})

    def reward(self, prompts, completions, **columns):
        return [len(c) / 10 + b for c, b in zip(completions, columns["bonus"], strict=True)]
