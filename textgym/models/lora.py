"""Low-rank adapters on a frozen base, for models that are too large to train whole.

`W x` becomes `W x + (alpha / r) B A x`; A and B are trained, W is not (LoRA, Hu et al. 2021,
arXiv 2106.09685, eq. 3). The layers are peft's (https://huggingface.co/docs/peft), put into a model
whose other tensors are those of the base: the base stays a policy of its own, without adapters, at
no further memory, and is the reference. `textgym.models.families` reads the layers directly.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from textgym.errors import ConfigError

if TYPE_CHECKING:
    from textgym.models.policy import Policy

ALPHA = 2
"""alpha / r: what the adapters' product counts, whatever their rank."""
ADAPTER = "default"
"""peft's name of an adapter that is given none."""
PLAIN = ("peft.tuners.lora.layer", "Linear")
"""Module and name of peft's class for linear layers."""


def adapted(policy: Policy, rank: int, generator: torch.Generator) -> Policy:
    """Returns a policy that trains adapters on the weights of another, which it shares.

    All linear layers but the output head get one (peft's "all-linear"). B begins at 0, so that both
    policies say the same; A is uniform in +-1 / sqrt(inputs), as peft draws it.

    Args:
        policy: the base, itself without adapters; nothing of it changes.
        rank: r, >= 1; alpha is ALPHA r.
        generator: initialises A; on the CPU.

    Raises:
        ConfigError: peft is not installed, a rank below 1, or a policy that has adapters.
    """
    peft = import_peft()
    if rank < 1:
        raise ConfigError(f"the rank of adapters must be >= 1, got {rank}")
    if is_adapted(policy.model):
        raise ConfigError(f"{policy.name} has adapters; give adapters to its base")
    model = _sharing(policy.model)
    turned = any(type(module).__name__ == "Conv1D" for module in model.modules())
    config = peft.LoraConfig(
        r=rank,
        lora_alpha=ALPHA * rank,
        lora_dropout=0.0,
        target_modules="all-linear",
        fan_in_fan_out=turned,
        base_model_name_or_path=policy.name,
    )
    # peft initialises from the global generator; the fork gives it back untouched.
    with torch.random.fork_rng(devices=[]):
        peft.inject_adapter_in_model(config, model, ADAPTER)
    with torch.no_grad():
        for layer in _layers(model):
            weight = layer.lora_A[ADAPTER].weight
            bound = weight.shape[1] ** -0.5
            weight.copy_(torch.empty(weight.shape).uniform_(-bound, bound, generator=generator))
    return policy.of(model)


def import_peft() -> Any:
    """Returns peft. Raises: ConfigError when it is not installed."""
    try:
        import peft
    except ImportError as error:
        raise ConfigError("--lora needs peft: pip install 'textgym[lora]'") from error
    return peft


def is_adapted(model: nn.Module) -> bool:
    """Returns whether some layer has a LoRA adapter."""
    return any(True for _ in _layers(model))


def is_plain_adapter(module: nn.Module) -> bool:
    """Returns whether a layer computes `W x + b + s B A x`: peft's, with one adapter that is on."""
    kind = type(module)
    if (kind.__module__, kind.__name__) != PLAIN:
        return False
    layer: Any = module
    active = layer.active_adapters
    return (
        len(active) == 1
        and active[0] in layer.lora_A
        and not (layer.merged or layer.disable_adapters)
        and not (getattr(layer, "lora_variant", {}) or len(layer.lora_magnitude_vector))
        and layer.lora_B[active[0]].bias is None
        and isinstance(layer.lora_dropout[active[0]], nn.Identity)
        and type(layer.base_layer).__name__ in ("Linear", "Conv1D")
    )


def trainable_copy(model: Any) -> Any:
    """Returns a copy that can be trained: all of it, or its own adapters on the same base."""
    if not is_adapted(model):
        return copy.deepcopy(model).requires_grad_(True)
    other = _sharing(model)
    for parameter in _adapter_parameters(other):
        parameter.requires_grad_(True)
    return other


def merged(model: Any) -> Any:
    """Returns a model without adapters that computes the same: `W + (alpha / r) B A` for W.

    The model itself where it has none; what no adapter changes is shared. Sampling merges in the
    same way, so it goes on as before; training keeps W x and B A x apart, which rounds elsewhere.
    """
    if not is_adapted(model):
        return model
    plain = _sharing(model)
    for name, layer in list(plain.named_modules()):
        if _has_adapter(layer):
            base = layer.base_layer
            with torch.no_grad():
                change = sum(layer.get_delta_weight(active) for active in layer.active_adapters)
                weight = (base.weight + change).to(base.weight.dtype)
                base.weight = nn.Parameter(weight, requires_grad=False)
            parent, _, child = name.rpartition(".")
            setattr(plain.get_submodule(parent), child, base)
    if hasattr(plain, "peft_config"):
        del plain.peft_config
    return plain


def save_adapters(policy: Policy, path: str | Path) -> None:
    """Writes the adapters alone, as `peft.PeftModel.from_pretrained(base, path)` reads them.

    Raises: ConfigError when the policy has none.
    """
    from safetensors.torch import save_file

    peft = import_peft()
    if not is_adapted(policy.model):
        raise ConfigError(f"{policy.name} has no adapters to save")
    tensors: dict[str, Tensor] = peft.get_peft_model_state_dict(
        policy.model, save_embedding_layers=False
    )
    Path(path).mkdir(parents=True, exist_ok=True)
    named = {f"base_model.model.{name}": tensor.contiguous() for name, tensor in tensors.items()}
    save_file(named, str(Path(path, "adapter_model.safetensors")))
    policy.model.peft_config[ADAPTER].save_pretrained(str(path))


def _has_adapter(module: Any) -> bool:
    return hasattr(module, "lora_A") and hasattr(module, "base_layer")


def _layers(model: nn.Module) -> Iterator[Any]:
    """Yields the layers with adapters."""
    return filter(_has_adapter, model.modules())


def _adapter_parameters(model: nn.Module) -> Iterator[nn.Parameter]:
    for layer in _layers(model):
        of_base = {id(parameter) for parameter in layer.base_layer.parameters()}
        yield from (p for p in layer.parameters() if id(p) not in of_base)


def _sharing(model: Any) -> Any:
    """Returns a copy whose tensors, but for adapters, lie where the model's do, and are frozen."""
    own = {id(parameter) for parameter in _adapter_parameters(model)}
    shared: dict[int, Any] = {
        id(parameter): nn.Parameter(parameter.detach(), requires_grad=False)
        for parameter in model.parameters()
        if id(parameter) not in own
    }
    shared |= {id(buffer): buffer for buffer in model.buffers()}
    return copy.deepcopy(model, shared)
