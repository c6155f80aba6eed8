"""The state of an interrupted training run, in one safetensors file."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from textgym.errors import ConfigError


def save_training_state(
    path: Path, model: Any, optimizer: torch.optim.Optimizer, progress: dict[str, Any]
) -> None:
    """Writes weights, optimiser state and `progress` (JSON values), whole or not at all."""
    from safetensors.torch import save_file

    tensors = {f"model.{name}": p.detach() for name, p in model.named_parameters()}
    for index, state in optimizer.state_dict()["state"].items():
        for key, value in state.items():
            tensors[f"optimizer.{index}.{key}"] = value
    temporary = path.with_name(path.name + ".partial")
    save_file(tensors, temporary, metadata={"progress": json.dumps(progress)})
    temporary.rename(path)


def load_training_state(
    path: Path, model: Any, optimizer: torch.optim.Optimizer, config: dict[str, Any]
) -> dict[str, Any]:
    """Takes over weights and optimiser state, and returns the progress.

    Raises: ConfigError when the progress's `config` is not this one.
    """
    from safetensors import safe_open
    from safetensors.torch import load_file

    with safe_open(path, framework="pt") as file:
        progress: dict[str, Any] = json.loads((file.metadata() or {}).get("progress", "{}"))
    if progress.get("config") != json.loads(json.dumps(config)):
        raise ConfigError(f"{path} is of a run with other settings; remove it first")
    tensors = load_file(path)
    states: dict[int, dict[str, Tensor]] = {}
    for name, tensor in tensors.items():
        kind, _, rest = name.partition(".")
        if kind == "optimizer":
            index, _, key = rest.partition(".")
            states.setdefault(int(index), {})[key] = tensor
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            parameter.copy_(tensors[f"model.{name}"])
    groups = optimizer.state_dict()["param_groups"]
    optimizer.load_state_dict({"state": states, "param_groups": groups})
    return progress
