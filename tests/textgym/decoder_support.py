"""Random models of every family whose every weight matters, and batches with every padding."""

import torch
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

torch.set_num_threads(1)

VOCAB = 23
COMMON = {
    "vocab_size": VOCAB,
    "hidden_size": 24,
    "intermediate_size": 20,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "max_position_embeddings": 128,
    "bos_token_id": None,
    "eos_token_id": 2,
    "pad_token_id": 1,
}
GROUPED = {**COMMON, "num_key_value_heads": 2}
GPT2 = {"vocab_size": VOCAB, "n_embd": 24, "n_layer": 2, "n_head": 4, "n_positions": 128}
GPT2 |= {"bos_token_id": None, "eos_token_id": 2}

MODELS = {
    "llama": lambda: LlamaForCausalLM(LlamaConfig(**GROUPED, tie_word_embeddings=False)),
    "llama, one layer, tied": lambda: LlamaForCausalLM(
        LlamaConfig(**{**GROUPED, "num_hidden_layers": 1}, tie_word_embeddings=True)
    ),
    "llama, one key-value head": lambda: LlamaForCausalLM(
        LlamaConfig(**{**COMMON, "num_key_value_heads": 1})
    ),
    "llama, biases": lambda: LlamaForCausalLM(
        LlamaConfig(**GROUPED, attention_bias=True, mlp_bias=True)
    ),
    "qwen2": lambda: Qwen2ForCausalLM(Qwen2Config(**GROUPED)),
    "qwen3": lambda: Qwen3ForCausalLM(Qwen3Config(**GROUPED, head_dim=8)),
    "gpt2": lambda: GPT2LMHeadModel(GPT2Config(**GPT2)),
    "gpt-neox": lambda: GPTNeoXForCausalLM(GPTNeoXConfig(**COMMON)),
    "gpt-neox, one after the other": lambda: GPTNeoXForCausalLM(
        GPTNeoXConfig(**COMMON, use_parallel_residual=False)
    ),
}

# Prompts as (first, end) spans of their columns; responses as lengths.
SPANS = {
    "no padding": ([(0, 5), (0, 5), (0, 5)], [4, 4, 4]),
    "left": ([(3, 5), (0, 5), (4, 5)], [4, 1, 3]),
    "right": ([(0, 4), (0, 5), (0, 1)], [2, 4, 1]),
    "both sides": ([(2, 4), (0, 5), (3, 4)], [1, 2, 4]),
    "an empty response": ([(0, 5), (2, 5), (0, 3)], [3, 0, 2]),
    "one row": ([(2, 5)], [3]),
    "one token": ([(0, 1), (0, 1)], [1, 1]),
}


def random_model(name):
    """Norms are not 1, biases not 0, attention not flat."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = MODELS[name]().eval()
        with torch.no_grad():
            for parameter in model.parameters():
                parameter.add_(0.2 * torch.randn(parameter.shape))
    return model


def batch(spans, lengths, copies=1):
    """Prompt ids and mask, response ids and mask; each prompt `copies` times, other responses."""
    generator = torch.Generator().manual_seed(1)
    columns = torch.arange(max(end for _, end in spans))
    prompt_mask = torch.stack([(a <= columns) & (columns < b) for a, b in spans])
    prompt_ids = torch.randint(VOCAB, prompt_mask.shape, generator=generator)
    prompt_ids = prompt_ids.repeat_interleave(copies, dim=0)
    prompt_mask = prompt_mask.repeat_interleave(copies, dim=0)
    long = torch.tensor(lengths).repeat_interleave(copies)
    mask = torch.arange(max(lengths)) < long[:, None]
    ids = torch.randint(VOCAB, mask.shape, generator=generator)
    return prompt_ids, prompt_mask, ids, mask


def plain_logits(model, prompt_ids, prompt_mask, ids, mask):
    """[R, V] by the model's own forward pass, one row at a time, without padding."""
    rows = []
    for p, pm, r, rm in zip(prompt_ids, prompt_mask, ids, mask, strict=True):
        tokens = torch.cat([p[pm], r[rm]])
        logits = model(tokens[None], use_cache=False).logits[0]
        rows.append(logits[pm.sum() - 1 : len(tokens) - 1])
    return torch.cat(rows)
