"""A plain forward pass over the weights of a small Llama.

`transformers` prepares every call for much that small models never need, and on a model of one
layer that costs more than the arithmetic. The functions here read the modules' own parameters at
each call, so training, copying, freezing and saving go on as before.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

GROWTH = 64
"""Columns that a full cache grows by."""

OWN_CLASSES = ("torch.nn.modules.", "transformers.models.llama.", "transformers.activations")
"""Where the classes of a plain Llama's modules are defined."""


@dataclass
class Cache:
    """Keys and values of the tokens read so far, one pair of buffers per layer.

    The methods that sampling needs are named as those of the `transformers` cache.

    Attributes:
        length: tokens held, padding included.
        buffers: each layer's [2, B, heads, columns, head width], keys first; columns from
            `length` on are free.
    """

    length: int = 0
    buffers: list[Tensor] = field(default_factory=list)

    def update(self, layer: int, keys: Tensor, values: Tensor) -> tuple[Tensor, Tensor]:
        """Writes a layer's new columns [B, heads, L, head width] and returns all it holds."""
        if layer == len(self.buffers):
            self.buffers.append(torch.stack([keys, values]))
            return keys, values
        buffer, end = self.buffers[layer], self.length + keys.shape[2]
        if end > buffer.shape[3]:
            buffer = functional.pad(buffer, (0, 0, 0, end - buffer.shape[3] + GROWTH))
            self.buffers[layer] = buffer
        buffer[0, :, :, self.length : end] = keys
        buffer[1, :, :, self.length : end] = values
        return buffer[0, :, :, :end], buffer[1, :, :, :end]

    def batch_repeat_interleave(self, repeats: int) -> None:
        """Repeats every row, copies side by side."""
        self.buffers = [b.repeat_interleave(repeats, dim=1) for b in self.buffers]

    def batch_select_indices(self, rows: Tensor) -> None:
        """Keeps the given rows, [M] int64."""
        self.buffers = [b.index_select(1, rows) for b in self.buffers]


@dataclass
class Output:
    """What a forward pass gives, under the names that `transformers` uses.

    Attributes:
        logits: [B, keep, V].
        past_key_values: the cache, where one was asked for.
    """

    logits: Tensor
    past_key_values: Cache | None = None


def supports(model: Any) -> bool:
    """Returns whether the functions here compute what a model's own forward pass does.

    They do for `LlamaForCausalLM` and `LlamaModel` in evaluation mode with default rotary
    embeddings, no biases and SiLU, as long as every module is the plain one: no adapter, quantised
    layer, hook or replaced `forward`, and no weights spread over devices.
    """
    from transformers.models.llama import modeling_llama as llama

    if type(model) not in (llama.LlamaForCausalLM, llama.LlamaModel):
        return False
    config = model.config
    plain = (
        config.hidden_act == "silu"
        and getattr(model, "model", model).rotary_emb.rope_type == "default"
        and not (config.attention_bias or config.mlp_bias)
        and not model.training
        and config._attn_implementation in ("eager", "sdpa")
        and getattr(model, "_tp_size", None) is None
    )
    return plain and all(map(_is_untouched, model.modules()))


def _is_untouched(module: torch.nn.Module) -> bool:
    """Returns whether a module is of a Llama's own classes and computes what its class does."""
    own = type(module).__module__
    return (
        own.startswith(OWN_CLASSES)
        and not module._forward_hooks
        and not module._forward_pre_hooks
        and "forward" not in module.__dict__
    )


def forward(
    model: Any,
    input_ids: Tensor,
    attention_mask: Tensor,
    keep: int,
    cache: Cache | None = None,
) -> Output:
    """Runs a causal language model.

    Args:
        model: a `LlamaForCausalLM` that `supports` accepts.
        input_ids: [B, L] int64, tokens not in the cache yet.
        attention_mask: [B, M] bool, M = L plus what the cache holds.
        keep: how many of the last positions go through the head, at least 1.
        cache: is read and extended; only where no gradients are recorded.

    Returns:
        Logits [B, keep, V] and the cache.
    """
    hidden = hidden_states(model.model, input_ids, attention_mask, keep, cache)
    return Output(functional.linear(hidden, model.lm_head.weight), cache)


def hidden_states(
    trunk: Any,
    input_ids: Tensor,
    attention_mask: Tensor,
    keep: int | None = None,
    cache: Cache | None = None,
) -> Tensor:
    """Returns [B, keep, D] last hidden states, after the final norm; by default all L positions.

    Args:
        trunk: a `LlamaModel` that `supports` accepts.
        input_ids: [B, L] int64, tokens not in the cache yet.
        attention_mask: [B, M] bool, M = L plus what the cache holds. Positions count its real
            tokens.
        keep: how many of the last positions are wanted.
        cache: is read and extended; only where no gradients are recorded.
    """
    width = input_ids.shape[1]
    keep = width if keep is None else keep
    hidden: Tensor = trunk.embed_tokens(input_ids)
    geometry = _geometry(trunk, attention_mask.bool(), width, hidden.dtype)
    layers = trunk.layers[: trunk.config.num_hidden_layers]
    for index, layer in enumerate(layers):
        normed = _norm(layer.input_layernorm, hidden)
        hidden = hidden + _attention(layer.self_attn, normed, geometry, cache)
        if index + 1 == len(layers):
            hidden = hidden[:, -keep:]  # no later layer reads the others
        hidden = hidden + _mlp(layer.mlp, _norm(layer.post_attention_layernorm, hidden))
    if cache is not None:
        cache.length += width
    return _norm(trunk.norm, hidden)


def _geometry(
    trunk: Any, mask: Tensor, width: int, dtype: torch.dtype
) -> tuple[Tensor, Tensor, Tensor | None]:
    """Returns what all layers share: cosines and sines of the positions, and what each sees.

    Args:
        trunk: gives the frequencies.
        mask: [B, M] bool.
        width: L, the last columns, which are read now.
        dtype: of the results.

    Returns:
        Cosines and sines [1 or B, L, 1, head width], the first half of the sines negated; and
        [B, 1, L, M] to add to attention scores, 0 or -inf, or None where order alone decides.
    """
    columns = mask.shape[1]
    steps = torch.arange(columns, device=mask.device, dtype=torch.float32)
    angles = torch.outer(steps, trunk.rotary_emb.inv_freq.float())
    cos = torch.cat([angles.cos(), angles.cos()], dim=-1).to(dtype).unsqueeze(1)
    sin = torch.cat([-angles.sin(), angles.sin()], dim=-1).to(dtype).unsqueeze(1)
    # Padding that comes last is out of every real token's sight, and positions are columns.
    if width in (1, columns) and bool((mask[:, 1:] <= mask[:, :-1]).all()):
        return cos[None, -width:], sin[None, -width:], None
    positions = (mask.long().cumsum(-1) - 1).clamp(min=0)[:, -width:]
    earlier = mask.new_ones((width, columns)).tril(columns - width)
    itself = earlier.triu(columns - width)
    # Padding sees itself: a softmax over nothing is NaN.
    seen = earlier & mask[:, None, None, :] | itself
    visible = torch.zeros(seen.shape, dtype=dtype, device=mask.device).masked_fill(
        ~seen, -torch.inf
    )
    return cos[positions], sin[positions], visible


def _norm(module: Any, hidden: Tensor) -> Tensor:
    """Divides by the root mean square (arXiv 1910.07467) and scales."""
    return functional.rms_norm(hidden, module.weight.shape, module.weight, module.variance_epsilon)


def _attention(
    module: Any,
    hidden: Tensor,
    geometry: tuple[Tensor, Tensor, Tensor | None],
    cache: Cache | None,
) -> Tensor:
    """Attends with grouped keys and values (arXiv 2305.13245): [B, L, D] to [B, L, D]."""
    cos, sin, visible = geometry
    batch, width, _ = hidden.shape
    queries, keys, values = (
        functional.linear(hidden, projection.weight).view(batch, width, -1, module.head_dim)
        for projection in (module.q_proj, module.k_proj, module.v_proj)
    )
    queries = _rotate(queries, cos, sin).transpose(1, 2)
    keys, values = _rotate(keys, cos, sin).transpose(1, 2), values.transpose(1, 2)
    if cache is not None:
        keys, values = cache.update(module.layer_idx, keys, values)
    if module.num_key_value_groups > 1:
        keys = keys.repeat_interleave(module.num_key_value_groups, dim=1)
        values = values.repeat_interleave(module.num_key_value_groups, dim=1)
    mixed = functional.scaled_dot_product_attention(
        queries,
        keys,
        values,
        attn_mask=visible,
        is_causal=visible is None and width > 1,
    )
    return functional.linear(mixed.transpose(1, 2).flatten(2), module.o_proj.weight)


def _rotate(heads: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """Turns each pair of coordinates by its position's angle (RoPE, arXiv 2104.09864).

    Coordinate i is paired with i + half the width, so the partner is half a turn of the row away.
    """
    return heads * cos + heads.roll(heads.shape[-1] // 2, dims=-1) * sin


def _mlp(module: Any, hidden: Tensor) -> Tensor:
    """Applies the SiLU-gated layers (SwiGLU, arXiv 2002.05202)."""
    gate = functional.silu(functional.linear(hidden, module.gate_proj.weight))
    up = functional.linear(hidden, module.up_proj.weight)
    return functional.linear(gate * up, module.down_proj.weight)
