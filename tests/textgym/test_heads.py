"""Queries, keys and values, taken apart and turned: compiled, plain and by complex numbers."""

import pytest
import torch

from textgym.models import heads as heads_module
from textgym.models.compiled.library import library
from textgym.models.heads import Heads, Rotation

ROTARY = {"turned": 1.0, "partly turned": 0.5, "not turned": 0.0}


def rotation_of(angles):
    return Rotation(angles.cos(), angles.sin()) if angles.shape[1] else None


def example(rotary, rows=150, width=64, dtype=torch.float32):
    """Heads of four queries and two keys and values, and their angles."""
    generator = torch.Generator().manual_seed(rows + width)
    angles = 10 * torch.rand((rows, int(rotary * (width // 2))), generator=generator)
    together = torch.randn((rows, 8, width), generator=generator).to(dtype).requires_grad_()
    return Heads(together, 2, torch.float32, rotation_of(angles)), angles


def definition(together, angles):
    """Pairs of coordinates as complex numbers, turned by multiplying."""
    queries, keys, values = torch.split(together.double(), [4, 2, 2], dim=1)
    half = angles.shape[1]
    turn = torch.polar(torch.ones_like(angles).double(), angles.double()).unsqueeze(1)

    def turned(x):
        pairs = torch.complex(x[..., :half], x[..., half : 2 * half]) * turn
        return torch.cat([pairs.real, pairs.imag, x[..., 2 * half :]], dim=-1)

    return turned(queries), turned(keys), values


def assert_as_defined(heads, angles):
    for found, true in zip(heads.split(), definition(heads.together, angles), strict=True):
        assert found.dtype == torch.float32
        torch.testing.assert_close(found.double(), true, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("rows", [0, 1, 150])
@pytest.mark.parametrize("width", [19, 64])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("rotary", ROTARY.values(), ids=ROTARY)
def test_heads_are_those_of_the_definition(rotary, dtype, width, rows, monkeypatch):
    heads, angles = example(rotary, rows, width, dtype)
    assert_as_defined(heads, angles)
    with torch.no_grad():
        assert_as_defined(heads, angles)
        monkeypatch.setattr(heads_module, "knows", lambda together: False)
        assert_as_defined(heads, angles)


@pytest.mark.parametrize("rotary", ROTARY.values(), ids=ROTARY)
def test_gradients_are_those_of_the_definition(rotary):
    heads, angles = example(rotary)
    exact = heads.together.detach().double().requires_grad_()
    parts, true = heads.split(), definition(exact, angles)
    generator = torch.Generator().manual_seed(1)
    given = [torch.randn(x.shape, generator=generator) for x in parts]
    (found,) = torch.autograd.grad(parts, heads.together, given)
    (expected,) = torch.autograd.grad(true, exact, [x.double() for x in given])
    torch.testing.assert_close(found.double(), expected, rtol=1e-5, atol=1e-5)


@pytest.mark.skipif(library() is None, reason="no C++ compiler was found")
@pytest.mark.parametrize("rotary", ROTARY.values(), ids=ROTARY)
@torch.no_grad()
def test_compiled_heads(rotary, monkeypatch):
    """They are compiled without gradients; threads and what lies between numbers change no bit."""
    heads, _ = example(rotary, rows=1000)
    monkeypatch.setattr(Rotation, "turn", None)
    alone = heads.split()
    monkeypatch.setattr(torch, "get_num_threads", lambda: 2)  # compiled steps use so many
    assert all(map(torch.equal, alone, heads.split()))
    strided = torch.stack([heads.together] * 2, dim=-1)[..., 0]
    assert not strided.is_contiguous()
    heads.together = strided
    assert all(map(torch.equal, alone, heads.split()))


def test_other_types_of_attention():
    heads, angles = example(1.0)
    heads.dtype = torch.bfloat16
    for found, true in zip(heads.split(), definition(heads.together, angles), strict=True):
        assert found.dtype == torch.bfloat16
        torch.testing.assert_close(found.double(), true, rtol=2**-6, atol=2**-6)


def test_angles_by_hand():
    """Two frequencies, 1 and 1/100: at place 3 the angles are 3 and 0.03."""
    rotation = Rotation.of(torch.tensor([0, 3]), torch.tensor([1.0, 0.01]))
    expected = torch.tensor([[0.0, 0.0], [3.0, 0.03]])
    torch.testing.assert_close(rotation.cosines, expected.cos())
    torch.testing.assert_close(rotation.sines, expected.sin())
    turned = rotation.turn(torch.tensor([[[1.0, 0.0, 0.0, 1.0]]] * 2))
    torch.testing.assert_close(turned[0, 0], torch.tensor([1.0, 0.0, 0.0, 1.0]))
    by_hand = torch.tensor([-0.9899925, -0.0299955, 0.1411200, 0.9995500])
    torch.testing.assert_close(turned[1, 0], by_hand, atol=1e-6, rtol=1e-6)
