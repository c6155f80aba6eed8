"""Log-probabilities, entropy and KL against sums written out, and estimators by enumeration."""

from __future__ import annotations

import math

import pytest
import torch

from textgym import functional
from textgym.errors import ConfigError
from textgym.functional import divergence

P = torch.tensor([0.5, 0.25, 0.25], dtype=torch.float64)
Q = torch.tensor([0.25, 0.25, 0.5], dtype=torch.float64)
KL_PQ = 0.5 * math.log(2) - 0.25 * math.log(2)


def test_full_kl_and_entropy_by_hand() -> None:
    assert float(functional.full_kl(P.log(), Q.log())) == pytest.approx(KL_PQ)
    # Logits may be shifted: only their differences count.
    assert float(functional.full_kl(P.log() + 100, Q.log() - 5)) == pytest.approx(KL_PQ)
    assert float(functional.entropy(P.log())) == pytest.approx(1.5 * math.log(2))
    assert functional.full_kl(P.log(), P.log()) == 0


def test_excluded_tokens() -> None:
    half = torch.tensor([0.5, 0.5, 0.0]).log()
    assert float(functional.full_kl(half, torch.zeros(3))) == pytest.approx(math.log(1.5))
    assert float(functional.full_kl(half, half)) == 0
    assert float(functional.full_kl(torch.zeros(3), half)) == math.inf
    assert float(functional.entropy(half)) == pytest.approx(math.log(2))


def test_gradients_with_excluded_tokens_are_finite() -> None:
    logits = torch.tensor([1.0, 0.0, -torch.inf], requires_grad=True)
    (
        functional.full_kl(logits, torch.tensor([0.0, 0.0, -torch.inf]))
        + functional.entropy(logits)
    ).backward()
    assert logits.grad is not None
    assert torch.isfinite(logits.grad).all()


def test_estimators_over_every_outcome() -> None:
    """k1 and k3 have the KL as their mean under pi; k2 and k3 are never negative."""
    logp, logq = P.log(), Q.log()
    assert float((P * functional.kl_k1(logp, logq)).sum()) == pytest.approx(KL_PQ)
    assert float((P * functional.kl_k3(logp, logq)).sum()) == pytest.approx(KL_PQ)
    assert (functional.kl_k3(logp, logq) >= 0).all()
    # By hand: l = log 2, 0, -log 2.
    assert functional.kl_k2(logp, logq).tolist() == pytest.approx(
        [math.log(2) ** 2 / 2, 0, math.log(2) ** 2 / 2]
    )
    assert functional.kl_k3(logp, logq).tolist() == pytest.approx(
        [math.log(2) - 0.5, 0, 1 - math.log(2)]
    )


@pytest.mark.parametrize("block", [1, 7, 2**22])
def test_shapes_and_values_do_not_depend_on_blocks(
    block: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(divergence, "_BLOCK", block)
    logits = torch.randn(2, 3, 5, generator=torch.Generator().manual_seed(0))
    other = torch.randn(2, 3, 5, generator=torch.Generator().manual_seed(1))
    ids = torch.tensor([[0, 1, 2], [3, 4, 0]])
    for b in range(2):
        for t in range(3):
            z = [math.exp(v) for v in logits[b, t].tolist()]
            p = [v / sum(z) for v in z]
            y = [math.exp(v) for v in other[b, t].tolist()]
            q = [v / sum(y) for v in y]
            chosen = functional.gather_logprobs(logits, ids)[b, t]
            assert float(chosen) == pytest.approx(math.log(p[int(ids[b, t])]), rel=1e-5)
            wanted = -sum(v * math.log(v) for v in p)
            assert float(functional.entropy(logits)[b, t]) == pytest.approx(wanted, rel=1e-5)
            wanted = sum(v * math.log(v / w) for v, w in zip(p, q, strict=True))
            assert float(functional.full_kl(logits, other)[b, t]) == pytest.approx(wanted, rel=1e-5)


def test_half_precision_is_computed_in_float32() -> None:
    logits = torch.tensor([[8.0, 0.0, 0.0]], dtype=torch.bfloat16)
    chosen = functional.gather_logprobs(logits, torch.tensor([0]))
    assert chosen.dtype == torch.float32
    assert float(chosen) == pytest.approx(-math.log(1 + 2 * math.exp(-8)), rel=1e-3)


def test_shapes_are_checked() -> None:
    with pytest.raises(ValueError, match="expected ids of shape"):
        functional.gather_logprobs(torch.zeros(2, 3, 5), torch.zeros(2, 4, dtype=torch.int64))
    with pytest.raises(ValueError, match="shapes differ"):
        functional.full_kl(torch.zeros(2, 5), torch.zeros(5))


def test_adaptive_coefficient() -> None:
    # On target nothing changes; the error is clipped at a fifth either way.
    assert functional.adaptive_kl_step(0.1, 6.0, 6.0, 64, 1000) == pytest.approx(0.1)
    assert functional.adaptive_kl_step(0.1, 6.6, 6.0, 100, 1000) == pytest.approx(0.1 * 1.01)
    assert functional.adaptive_kl_step(0.1, 60.0, 6.0, 100, 1000) == pytest.approx(0.1 * 1.02)
    assert functional.adaptive_kl_step(0.1, 0.0, 6.0, 100, 1000) == pytest.approx(0.1 * 0.98)
    with pytest.raises(ConfigError, match=">= 0, got -1"):
        functional.adaptive_kl_step(-1, 1, 1, 1, 1)
    with pytest.raises(ConfigError, match="must be > 0"):
        functional.adaptive_kl_step(0.1, 1, 0, 1, 1)
