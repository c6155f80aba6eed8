"""What the machine can do at best: the rate of a model's own matrix products, and of copying."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from textgym.benchmarks.speed.timing import seconds
from textgym.models.linear import has_onednn

ENOUGH = 0.3
"""Seconds that each way to multiply is tried for."""
COPIED = {"cpu": 2**28, "cuda": 2**30}
"""Bytes of the buffer that is copied: far more than any cache holds."""


def product_shapes(config: Any) -> list[tuple[int, int]]:
    """Returns (outputs, inputs) of every matrix that one token is multiplied with, in order.

    Matrices that read the same input are one here (queries, keys and values; gate and up): fewer
    and larger products are never slower. Attention's products over earlier tokens are left out:
    they grow with the length and belong to no matrix of the model.

    Args:
        config: of a Llama.
    """
    hidden: int = config.hidden_size
    inner: int = config.intermediate_size
    width: int = getattr(config, "head_dim", None) or hidden // config.num_attention_heads
    queries: int = width * config.num_attention_heads
    keys: int = width * config.num_key_value_heads
    layer = [(queries + 2 * keys, hidden), (hidden, queries), (2 * inner, hidden), (hidden, inner)]
    return [*(layer * config.num_hidden_layers), (config.vocab_size, hidden)]


def flops_per_token(config: Any) -> int:
    """Returns the floating-point operations of the matrix products of one token.

    Two, a product and a sum, per entry of each matrix of `product_shapes`.
    """
    return 2 * sum(outputs * inputs for outputs, inputs in product_shapes(config))


def matmul_flops(rows: int, model: Any, dtype: torch.dtype) -> float:
    """Returns FLOP/s of the matrix products of one decoding step, and of nothing else.

    All matrices of the model take their turn, as in a step, so that the weights of one do not stay
    in the innermost cache. Several memory layouts of the weights are tried and the fastest run of
    the fastest layout counts: this is a limit, not a mean. On a GPU it includes the launching of
    each product, which matters where they are small.

    Args:
        rows: B, tokens that a step reads.
        model: a Llama; its sizes and its device matter, its weights do not.
        dtype: of weights and activations.
    """
    shapes = product_shapes(model.config)
    generator = torch.Generator().manual_seed(0)
    inputs = {
        width: torch.randn((rows, width), generator=generator).to(model.device, dtype)
        for width in {inputs for _, inputs in shapes}
    }
    # One drawn matrix per shape; clones are as far apart in memory as a model's own.
    drawn = {s: torch.randn(s, generator=generator).to(model.device, dtype) for s in set(shapes)}
    with torch.inference_mode():
        layouts = _layouts([drawn[s].clone() for s in shapes], inputs)
        fastest = min(_fastest(step) for step in layouts)
    return rows * flops_per_token(model.config) / fastest


def _layouts(
    weights: list[Tensor], inputs: dict[int, Tensor]
) -> Iterator[Callable[[], list[Tensor]]]:
    """Yields a step for each layout of weights [outputs, inputs] and activations [B, inputs]."""
    yield lambda: [functional.linear(inputs[w.shape[1]], w) for w in weights]
    columns = {width: x.t().contiguous() for width, x in inputs.items()}
    yield lambda: [w @ columns[w.shape[1]] for w in weights]
    rows = next(iter(inputs.values()))
    if rows.device.type == "cpu" and _packs(rows.dtype):
        ops = torch.ops.mkldnn
        packed = [
            (inputs[w.shape[1]], ops._reorder_linear_weight(w, rows.shape[0])) for w in weights
        ]
        yield lambda: [ops._linear_pointwise(x, w, None, "none", [], "") for x, w in packed]


def _packs(dtype: torch.dtype) -> bool:
    """Returns whether weights can be laid out as oneDNN, the processor's library, likes them."""
    if dtype == torch.bfloat16 and has_onednn():
        fast: bool = torch.ops.mkldnn._is_mkldnn_bf16_supported()
        return fast
    return dtype == torch.float32 and has_onednn()


def copy_bandwidth(device: str | torch.device = "cpu") -> float:
    """Returns bytes/s that the memory of a device moves, reads and writes counted both.

    Measured as the fastest copy of a buffer that no cache holds.
    """
    device = torch.device(device)
    size = COPIED[device.type]
    source = torch.ones(size // 4, device=device)
    target = torch.empty_like(source)
    return 2 * size / _fastest(lambda: target.copy_(source))


def _fastest(run: Callable[[], object]) -> float:
    """Returns the seconds of the fastest of many runs, at least three."""
    run()
    times = [seconds(run) for _ in range(3)]
    while sum(times) < ENOUGH:
        times.append(seconds(run))
    return min(times)
