"""Statistics over the True elements of a mask."""

from __future__ import annotations

import torch
from torch import Tensor

from textgym.errors import ConfigError
from textgym.registry import unknown_name

AGGREGATIONS = ("token", "sequence", "constant", "sum")


def check_mask(mask: Tensor, *tensors: Tensor) -> None:
    """Raises ValueError unless `mask` is bool and every tensor has its shape."""
    if mask.dtype != torch.bool:
        raise ValueError(f"the mask must be bool, got {mask.dtype}")
    for tensor in tensors:
        if tensor.shape != mask.shape:
            raise ValueError(f"expected shape {list(mask.shape)}, got {list(tensor.shape)}")


def check_no_empty_row(mask: Tensor) -> None:
    """Raises ValueError if a row of `mask` [B, T] is False throughout."""
    empty = (~mask.any(dim=-1)).nonzero().flatten().tolist()
    if empty:
        raise ValueError(f"the mask of row {empty[0]} selects no token")


def masked_mean(x: Tensor, mask: Tensor) -> Tensor:
    """Returns the mean of the elements of `x` where `mask` is True, `sum(m x) / sum(m)`.

    Args:
        x: any shape, any unit.
        mask: bool, the same shape.

    Raises:
        ValueError: shapes differ, the mask is not bool, or it selects nothing.
    """
    check_mask(mask, x)
    if not mask.any():
        raise ValueError("the mask selects no element")
    return torch.where(mask, x, 0).sum() / mask.sum()


def masked_whiten(x: Tensor, mask: Tensor, shift_mean: bool = True, eps: float = 1e-8) -> Tensor:
    """Scales `x` to masked variance 1 and, with `shift_mean`, to masked mean 0.

    `(x - mean) / sqrt(var + eps)`, mean and (population) variance over all True elements of the
    batch; with `shift_mean=False` the mean is added back and stays what it was.

    Args:
        x: [B, T].
        mask: [B, T] bool.
        shift_mean: True centres.
        eps: added to the variance, in units of x squared.

    Returns:
        [B, T], 0 where the mask is False.

    Raises:
        ValueError: as `masked_mean`.
    """
    mean = masked_mean(x, mask)
    centred = torch.where(mask, x - mean, 0)
    variance = masked_mean(centred.square(), mask)
    whitened = centred * torch.rsqrt(variance + eps)
    return whitened if shift_mean else torch.where(mask, whitened + mean, 0)


def unmasked_whiten(x: Tensor, mask: Tensor, eps: float = 1e-8) -> Tensor:
    """Whitens with the mean and variance over all elements, pads included: a named bias.

    Response tokens are then neither centred nor of unit variance, by how much depends on the
    padding. The one function that looks at values where the mask is False; there to be compared.

    Args:
        x: [B, T]; pads count with the value they hold.
        mask: [B, T] bool.
        eps: added to the variance, in units of x squared.

    Returns:
        [B, T], 0 where the mask is False.

    Raises:
        ValueError: shapes differ or the mask is not bool.
    """
    check_mask(mask, x)
    whitened = (x - x.mean()) * torch.rsqrt(x.var(correction=0) + eps)
    return torch.where(mask, whitened, 0)


def extend_mask(mask: Tensor, rows: Tensor) -> Tensor:
    """Returns the mask [B, T + 1] with the position after the last True added to some rows.

    >>> mask = torch.tensor([[True, False], [True, True]])
    >>> extend_mask(mask, torch.tensor([True, False])).int()
    tensor([[1, 1, 0],
            [1, 1, 0]], dtype=torch.int32)

    Args:
        mask: [B, T] bool.
        rows: [B] bool, True where a position is added.

    Raises:
        ValueError: the mask is not bool, or `rows` not of shape [B].
    """
    check_mask(mask)
    check_mask(rows, mask[:, 0])
    wide = torch.nn.functional.pad(mask, (0, 1))
    added = _last(mask) + 1 == torch.arange(wide.shape[1], device=mask.device)
    return wide | (added & rows[:, None])


def _last(mask: Tensor) -> Tensor:
    """Returns [B, 1], the column of each row's last True, -1 where there is none."""
    steps = torch.arange(mask.shape[1], device=mask.device)
    return torch.where(mask, steps, -1).amax(dim=1, keepdim=True)


def rewards_on_last_token(rewards: Tensor, mask: Tensor) -> Tensor:
    """Places each response's reward on its last token: the last True of its mask row, never a pad.

    Args:
        rewards: [B].
        mask: [B, T] bool.

    Returns:
        [B, T], 0 everywhere else.

    Raises:
        ValueError: a response without tokens, or rewards not of shape [B].
    """
    check_mask(mask)
    check_no_empty_row(mask)
    if rewards.shape != mask.shape[:1]:
        raise ValueError(f"expected rewards of shape {[len(mask)]}, got {list(rewards.shape)}")
    steps = torch.arange(mask.shape[1], device=mask.device)
    return torch.where(steps == _last(mask), rewards[:, None], 0)


def aggregate(
    per_token: Tensor, mask: Tensor, how: str = "token", max_tokens: int | None = None
) -> Tensor:
    """Reduces a per-token quantity to one number.

    - `token`: `sum(m x) / sum(m)`; long responses weigh more, and each token's weight depends on
      the other responses of the (mini)batch.
    - `sequence`: mean over responses of `sum_t m x / sum_t m`; a token of a long response weighs
      less (GRPO, arXiv 2402.03300, eq. 3).
    - `constant`: mean over responses of `sum_t m x / max_tokens` (Dr. GRPO, arXiv 2503.20783).
    - `sum`: mean over responses of `sum_t m x`, the policy gradient as derived (Williams 1992).

    Args:
        per_token: [B, T].
        mask: [B, T] bool.
        how: one of the four names.
        max_tokens: the constant; a setting such as the response limit, never the padded width T.
            The other three do without.

    Returns:
        A scalar.

    Raises:
        ConfigError: an unknown name, or `constant` without max_tokens >= 1.
        ValueError: as `masked_mean`; with `sequence`, a response without tokens.
    """
    if how == "token":
        return masked_mean(per_token, mask)
    check_mask(mask, per_token)
    sums = torch.where(mask, per_token, 0).sum(dim=-1)
    if how == "sequence":
        check_no_empty_row(mask)
        return (sums / mask.sum(dim=-1)).mean()
    if how == "sum":
        return sums.mean()
    if how == "constant":
        if max_tokens is None or max_tokens < 1:
            raise ConfigError(f"aggregation 'constant' needs max_tokens >= 1, got {max_tokens}")
        return sums.mean() / max_tokens
    raise ConfigError(str(unknown_name("aggregation", how, AGGREGATIONS)))
