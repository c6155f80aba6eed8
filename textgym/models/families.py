"""Reading a Hugging Face model's weights into a `Decoder`: Llama, Qwen2, Qwen3, GPT-2, GPT-NeoX.

The modules' own parameters are read at each call, so training, copying, freezing and saving go on
as before, and gradients flow back to them.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from functools import cache
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from textgym.models.decoder import Block, Decoder, Norm, gelu_tanh
from textgym.models.linear import AdaptedLinear, Layer, Linear, SplitLinear, StackedLinear
from textgym.models.lora import is_plain_adapter

ACTIVATIONS: dict[str, Callable[[Tensor], Tensor]] = {
    "silu": functional.silu,
    "relu": functional.relu,
    "gelu": functional.gelu,
    "gelu_new": gelu_tanh,
    "gelu_pytorch_tanh": gelu_tanh,
}
"""Feed-forward activations by their name in `transformers`."""

OWN_CLASSES = (
    "torch.nn.modules.",
    "transformers.models.",
    "transformers.activations",
    "transformers.pytorch_utils",
)
"""Where the classes of a plain model's modules are defined."""


def read(model: Any) -> Decoder | None:
    """Returns a model's weights, or None where its family or some module is not known here.

    Known are the causal language models of five families and their trunks, in evaluation mode
    (`training` False) and with every module the plain one: no quantised layer, hook or replaced
    `forward`, no adapter but the plain ones of `textgym.models.lora` below the head, no weights
    spread over devices, no sliding windows, no scaled rotary positions. Which models are not is
    said once for each class.
    """
    reader = READERS.get(type(model).__name__)
    if reader is None or not _is_plain(model):
        _say_once(type(model).__name__)
        return None
    decoder = reader(model)
    if decoder is None:
        _say_once(type(model).__name__)
    return decoder


@cache
def _say_once(name: str) -> None:
    logging.getLogger(__name__).warning(
        "%s is not read directly here: its own forward pass is used, which is slower", name
    )


def _is_plain(model: Any) -> bool:
    """Returns whether every module computes what its class in `transformers` does."""
    config = model.config
    return (
        not model.training
        and config._attn_implementation in ("eager", "sdpa")
        and getattr(model, "_tp_size", None) is None
        and not is_plain_adapter(getattr(model, "lm_head", model))
        and all(map(_is_untouched, model.modules()))
    )


def _is_untouched(module: torch.nn.Module) -> bool:
    return (
        (type(module).__module__.startswith(OWN_CLASSES) or is_plain_adapter(module))
        and not module._forward_hooks
        and not module._forward_pre_hooks
        and "forward" not in module.__dict__
    )


def _llama(model: Any) -> Decoder | None:
    """Reads Llama (arXiv 2302.13971), Qwen2 (arXiv 2407.10671) and Qwen3 (arXiv 2505.09388)."""
    trunk, config = getattr(model, "model", model), model.config
    windows = set(getattr(config, "layer_types", None) or ()) - {"full_attention"}
    plain = trunk.rotary_emb.rope_type == "default" and config.hidden_act in ACTIVATIONS
    if windows or not plain:
        return None
    blocks = []
    for layer in trunk.layers[: config.num_hidden_layers]:
        attention, mlp = layer.self_attn, layer.mlp
        blocks.append(
            Block(
                attention_norm=_rms_norm(layer.input_layernorm),
                qkv=_stack(attention.q_proj, attention.k_proj, attention.v_proj),
                output=_stack(attention.o_proj),
                mlp_norm=_rms_norm(layer.post_attention_layernorm),
                up=_stack(mlp.gate_proj, mlp.up_proj),
                down=_stack(mlp.down_proj),
                query_norm=_rms_norm(attention.q_norm) if hasattr(attention, "q_norm") else None,
                key_norm=_rms_norm(attention.k_norm) if hasattr(attention, "k_norm") else None,
            )
        )
    head_dim = trunk.layers[0].self_attn.head_dim
    return Decoder(
        embedding=trunk.embed_tokens.weight,
        blocks=blocks,
        norm=_rms_norm(trunk.norm),
        head=_stack(model.lm_head) if hasattr(model, "lm_head") else None,
        heads=config.num_attention_heads,
        kv_heads=config.num_key_value_heads,
        head_dim=head_dim,
        activation=ACTIVATIONS[config.hidden_act],
        gated=True,
        mixing=trunk.embed_tokens.weight.dtype,
        padding=trunk.embed_tokens.padding_idx,
        frequencies=trunk.rotary_emb.inv_freq,
    )


def _gpt2(model: Any) -> Decoder | None:
    """Reads GPT-2 (Radford et al. 2019)."""
    trunk, config = getattr(model, "transformer", model), model.config
    odd = (
        config.add_cross_attention
        or not config.scale_attn_weights
        or config.scale_attn_by_inverse_layer_idx
        or config.reorder_and_upcast_attn
    )
    if odd or config.activation_function not in ACTIVATIONS:
        return None
    blocks = [
        Block(
            attention_norm=_layer_norm(layer.ln_1),
            qkv=_transposed(layer.attn.c_attn),
            output=_transposed(layer.attn.c_proj),
            mlp_norm=_layer_norm(layer.ln_2),
            up=_transposed(layer.mlp.c_fc),
            down=_transposed(layer.mlp.c_proj),
        )
        for layer in trunk.h
    ]
    return Decoder(
        embedding=trunk.wte.weight,
        blocks=blocks,
        norm=_layer_norm(trunk.ln_f),
        head=_stack(model.lm_head) if hasattr(model, "lm_head") else None,
        heads=config.n_head,
        kv_heads=config.n_head,
        head_dim=config.n_embd // config.n_head,
        activation=ACTIVATIONS[config.activation_function],
        gated=False,
        mixing=trunk.wte.weight.dtype,
        padding=trunk.wte.padding_idx,
        places=trunk.wpe.weight,
    )


def _gpt_neox(model: Any) -> Decoder | None:
    """Reads GPT-NeoX (arXiv 2204.06745), which Pythia is."""
    trunk, config = getattr(model, "gpt_neox", model), model.config
    if trunk.rotary_emb.rope_type != "default" or config.hidden_act not in ACTIVATIONS:
        return None
    heads = config.num_attention_heads
    blocks = [
        Block(
            attention_norm=_layer_norm(layer.input_layernorm),
            qkv=_by_kind(layer.attention.query_key_value, heads),
            output=_stack(layer.attention.dense),
            mlp_norm=_layer_norm(layer.post_attention_layernorm),
            up=_stack(layer.mlp.dense_h_to_4h),
            down=_stack(layer.mlp.dense_4h_to_h),
        )
        for layer in trunk.layers
    ]
    return Decoder(
        embedding=trunk.embed_in.weight,
        blocks=blocks,
        norm=_layer_norm(trunk.final_layer_norm),
        head=_stack(model.lm_head) if hasattr(model, "lm_head") else None,
        heads=heads,
        kv_heads=heads,
        head_dim=config.hidden_size // heads,
        activation=ACTIVATIONS[config.hidden_act],
        gated=False,
        mixing=trunk.embed_in.weight.dtype,
        padding=trunk.embed_in.padding_idx,
        parallel=config.use_parallel_residual,
        frequencies=trunk.rotary_emb.inv_freq,
    )


READERS: dict[str, Callable[[Any], Decoder | None]] = {
    "LlamaForCausalLM": _llama,
    "LlamaModel": _llama,
    "Qwen2ForCausalLM": _llama,
    "Qwen2Model": _llama,
    "Qwen3ForCausalLM": _llama,
    "Qwen3Model": _llama,
    "GPT2LMHeadModel": _gpt2,
    "GPT2Model": _gpt2,
    "GPTNeoXForCausalLM": _gpt_neox,
    "GPTNeoXModel": _gpt_neox,
}
"""What reads each class of `transformers`."""


def _rms_norm(module: Any) -> Norm:
    return Norm(module.weight, module.variance_epsilon)


def _layer_norm(module: Any) -> Norm:
    return Norm(module.weight, module.eps, module.bias)


def _stack(*modules: Any) -> Layer:
    """Returns several linear layers of the same input as one."""
    layers = [_linear(module) for module in modules]
    if len(layers) == 1:
        return layers[0]
    plain = [layer for layer in layers if isinstance(layer, Linear)]
    return StackedLinear(plain) if len(plain) == len(layers) else SplitLinear(layers)


def _transposed(module: Any) -> Layer:
    """Returns GPT-2's layers, which keep their weights input by output."""
    return _linear(module, turned=True)


def _by_kind(module: Any, heads: int) -> Layer:
    """Returns GPT-NeoX's [each head's query, key and value] as [queries, keys, values]."""

    def arrange(rows: Any) -> Tensor:
        by_kind: Tensor = rows.unflatten(0, (heads, 3, -1)).transpose(0, 1)
        return by_kind.flatten(0, 2)

    return _linear(module, arrange)


def _linear(
    module: Any,
    arrange: Callable[[Tensor], Tensor] = lambda rows: rows,
    *,
    turned: bool = False,
) -> Linear | AdaptedLinear:
    """Returns a linear layer; with an adapter as one product where the adapter is not trained.

    Args:
        module: the layer, or peft's around it.
        arrange: puts outputs in order, along the first dimension.
        turned: whether its weights lie input by output.
    """
    base = module.base_layer if is_plain_adapter(module) else module
    weight, bias = base.weight.t() if turned else base.weight, base.bias
    plain = Linear(arrange(weight), None if bias is None else arrange(bias))
    if base is module:
        return plain
    (name,) = module.active_adapters
    a, b = module.lora_A[name].weight, module.lora_B[name].weight
    layer = AdaptedLinear(plain, a, arrange(b), module.scaling[name])
    trained = torch.is_grad_enabled() and (a.requires_grad or b.requires_grad)
    return layer if trained else layer.merged()
