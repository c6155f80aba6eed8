"""Log-probabilities of given tokens and the products behind them: values and gradients."""

import pytest
import torch

from textgym.models import likelihood, linear
from textgym.models.likelihood import token_logprobs


def test_logprobs_by_hand():
    logits = torch.tensor([[0.0, 0.0], [1.0, 3.0]]).requires_grad_()
    found = token_logprobs(logits, torch.tensor([0, 1]))
    expected = [-0.6931472, -0.1269280]  # log 1/2, and -log(1 + e^-2)
    torch.testing.assert_close(found, torch.tensor(expected))
    (found * torch.tensor([1.0, 10.0])).sum().backward()
    # (one at the token, less the softmax) times what is asked for
    expected = torch.tensor([[0.5, -0.5], [-1.1920292, 1.1920292]])
    torch.testing.assert_close(logits.grad, expected)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16])
def test_gradients_are_those_of_log_softmax(dtype, monkeypatch):
    monkeypatch.setattr(likelihood, "PIECE", 64)  # several pieces
    generator = torch.Generator().manual_seed(0)
    logits = torch.randn((3, 5, 17), generator=generator).to(dtype).requires_grad_()
    ids = torch.randint(17, (3, 5), generator=generator)
    weights = torch.randn((3, 5), generator=generator)
    found = token_logprobs(logits, ids)
    assert found.dtype == torch.float32
    expected = logits.float().log_softmax(-1).gather(-1, ids.unsqueeze(-1)).squeeze(-1)
    torch.testing.assert_close(found, expected)
    slopes = [torch.autograd.grad((x * weights).sum(), logits)[0] for x in (expected, found)]
    loose = 2e-2 if dtype == torch.bfloat16 else 1e-5
    torch.testing.assert_close(slopes[1], slopes[0], atol=loose, rtol=loose)


@pytest.mark.skipif(not linear.has_onednn(), reason="this PyTorch has no oneDNN products")
@pytest.mark.parametrize("bias", [False, True])
def test_onednn_gives_values_and_gradients_of_a_linear_layer(bias, monkeypatch):
    monkeypatch.setattr(linear, "MANY_FLOATS", 1)
    generator = torch.Generator().manual_seed(0)
    shapes = [(6, 5), (7, 5), *([(7,)] if bias else [])]
    tensors = [torch.randn(shape, generator=generator).requires_grad_() for shape in shapes]
    weights = torch.randn((6, 7), generator=generator)
    expected = torch.nn.functional.linear(*tensors)
    actual = linear.linear(*tensors)
    assert "OneDNN" in type(actual.grad_fn).__name__
    torch.testing.assert_close(actual, expected)
    packed = linear.Linear(*[x.detach() for x in tensors[1:]]).packed(6)
    assert isinstance(packed, linear.PackedLinear)
    torch.testing.assert_close(packed(tensors[0].detach()), expected.detach())
    slopes = [torch.autograd.grad((x * weights).sum(), tensors) for x in (expected, actual)]
    for slope, expected_slope in zip(slopes[1], slopes[0], strict=True):
        torch.testing.assert_close(slope, expected_slope)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_layers_side_by_side_are_one_product(dtype):
    generator = torch.Generator().manual_seed(0)
    shapes = [(3, 4), (5, 4)]
    weights = [torch.randn(shape, generator=generator).requires_grad_() for shape in shapes]
    inputs = torch.randn((6, 4), generator=generator)
    together = linear.StackedLinear([linear.Linear(weight) for weight in weights])
    layer = together if dtype == torch.float32 else together.to(dtype)
    found = layer(inputs)
    apart = [inputs.to(dtype) @ weight.to(dtype).t() for weight in weights]
    torch.testing.assert_close(found, torch.cat(apart, dim=1))
    assert (together.inputs, layer.dtype, layer.merged().weight.shape) == (4, dtype, (8, 4))
    slopes = [torch.autograd.grad(x.sum(), weights) for x in (found, torch.cat(apart, dim=1))]
    for slope, expected in zip(*slopes, strict=True):
        torch.testing.assert_close(slope, expected)
