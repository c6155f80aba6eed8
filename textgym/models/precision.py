"""Which number format a model computes in: what the machine does fast, unless one is named."""

from __future__ import annotations

from typing import Any

import torch

from textgym.errors import ConfigError
from textgym.registry import unknown_name

AUTO = "auto"
PRECISIONS: dict[str, torch.dtype] = {"float32": torch.float32, "bfloat16": torch.bfloat16}
"""What can be named beside `auto`."""

WIDE = 128
"""From this hidden width on products outweigh the casts between the formats: training gains, and
sampling does not lose (`benchmarks/speed/README.md`, what each change gave)."""


def resolve(precision: str, model: Any) -> torch.dtype:
    """Returns what a model's matrix products are computed in.

    Weights that are not float32 are computed with as they are. `auto` is bfloat16 for models at
    least WIDE wide on a machine that multiplies it fast, else float32.

    Args:
        precision: "auto", "float32" or "bfloat16".
        model: gives weights, width and device.

    Raises:
        ConfigError: another precision.
    """
    if precision != AUTO and precision not in PRECISIONS:
        raise ConfigError(str(unknown_name("precision", precision, [AUTO, *PRECISIONS])))
    weights = next(model.parameters())
    if weights.dtype != torch.float32:
        dtype: torch.dtype = weights.dtype
        return dtype
    if precision != AUTO:
        return PRECISIONS[precision]
    wide = model.config.hidden_size >= WIDE
    return torch.bfloat16 if wide and multiplies_bfloat16(weights.device) else torch.float32


def multiplies_bfloat16(device: torch.device) -> bool:
    """Returns whether the device has instructions for products of bfloat16."""
    if device.type == "cuda":
        return torch.cuda.get_device_capability(device) >= (8, 0)
    capabilities: dict[str, Any] = getattr(torch.cpu, "get_capabilities", dict)()
    return any(capabilities.get(name, False) for name in ("amx_bf16", "avx512_bf16"))


def describe(dtype: torch.dtype) -> str:
    """Returns a type's name.

    >>> describe(torch.bfloat16)
    'bfloat16'
    """
    return str(dtype).removeprefix("torch.")
