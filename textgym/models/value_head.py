"""A value model: a transformer trunk with a scalar head that predicts the return of each state."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from textgym.errors import ModelError
from textgym.models.lora import merged, trainable_copy
from textgym.models.pieces import in_pieces
from textgym.models.tokenize import load_pretrained, quiet
from textgym.models.trunk import states_before_responses

if TYPE_CHECKING:
    from textgym.models.policy import Policy
    from textgym.types import Rollout

HEAD = "value_head.safetensors"


class ScalarHead(nn.Module):
    """A linear read-out of hidden states: [..., D] to [...].

    Args:
        width: D.
        generator: draws weights of standard deviation 1 / sqrt(D), so that outputs begin at about
            unit scale; None begins at exactly 0.
    """

    def __init__(self, width: int, generator: torch.Generator | None = None) -> None:
        super().__init__()
        weight = torch.zeros(width)
        if generator is not None:
            weight.normal_(0.0, width**-0.5, generator=generator)
        self.weight = nn.Parameter(weight)
        self.bias = nn.Parameter(torch.zeros(()))

    def forward(self, hidden: Tensor) -> Tensor:
        """Returns the scalars."""
        return hidden @ self.weight + self.bias


class ValueModel(nn.Module):
    """Predicts what reward is still to come before each token of a response.

    The trunk is a trainable copy of a policy's, in evaluation mode like it (no dropout). A policy
    with adapters gives it adapters of its own, on the same base.

    Args:
        policy: its trunk is copied; its head is not needed.
        generator: initialises the head; None begins with all values 0.
    """

    def __init__(self, policy: Policy, generator: torch.Generator | None = None) -> None:
        super().__init__()
        self.trunk: Any = trainable_copy(policy.model.base_model).eval()
        head = ScalarHead(self.trunk.config.hidden_size, generator)
        self.precision = policy.precision
        self.head = head.to(device=policy.device, dtype=policy.dtype)

    def forward(self, rollout: Rollout) -> Tensor:
        """Returns [B, T] values: at t that of the state before response token t; 0 off the mask.

        Nothing at or after token t enters the value at t. Differentiable where gradients are
        enabled; a large batch is read in pieces.
        """
        if len(rollout) == 0:
            return torch.zeros(rollout.response_mask.shape, device=self.head.weight.device)
        return in_pieces(self._values, rollout, self.trunk.config, outputs=1)

    def _values(self, rollout: Rollout, rows: Tensor) -> Tensor:
        mask = rollout.response_mask[rows].to(self.head.weight.device)
        values = torch.zeros(mask.shape, device=mask.device)
        if not mask.any():
            return values
        hidden = states_before_responses(
            self.trunk,
            rollout.prompt_ids[rows],
            rollout.prompt_mask[rows],
            rollout.response_ids[rows],
            mask,
            self.precision,
        )
        return values.masked_scatter(mask, self.head(hidden).float())

    def save(self, path: str | Path) -> None:
        """Writes the trunk, adapters merged into it, and the head as safetensors."""
        from safetensors.torch import save_model

        with quiet():
            merged(self.trunk).save_pretrained(path)
        save_model(self.head, str(Path(path, HEAD)))

    def load(self, path: str | Path) -> ValueModel:
        """Takes over the weights that `save` wrote and returns the value model itself.

        Raises: ModelError when there is no value model of this shape, or this one has adapters.
        """
        from safetensors.torch import load_model
        from transformers import AutoModel

        if not Path(path, HEAD).is_file():
            raise ModelError(f"no value model in {path}: it has no {HEAD}")
        trunk = load_pretrained(AutoModel, path, "value model")
        try:
            self.trunk.load_state_dict(trunk.state_dict())
            load_model(self.head, str(Path(path, HEAD)))
        except RuntimeError as error:
            raise ModelError(
                f"the value model in {path} has another shape than this one"
            ) from error
        return self
