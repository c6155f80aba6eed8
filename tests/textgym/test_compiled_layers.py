"""Compiled steps give what their definitions give in float64: values and gradients."""

from functools import partial

import pytest
import torch
from decoder_support import MODELS, SPANS, batch, random_model

from textgym.models import families
from textgym.models.branches import branch, states_before
from textgym.models.compiled import layers, library
from textgym.models.compiled.layers import add_norm, selected_logprobs, swiglu

pytestmark = pytest.mark.skipif(library.library() is None, reason="no C++ compiler was found")

EPSILON = 1e-5
DTYPES = (torch.float32, torch.bfloat16)


@pytest.fixture
def generator():
    return torch.Generator().manual_seed(0)


def normal(generator, *shape, dtype=torch.float32):
    return torch.randn(shape, generator=generator).to(dtype).requires_grad_()


def close(actual, expected):
    """Equal but for float32's rounding, or for bfloat16's, once."""
    relative = 1e-5 if actual.dtype == torch.float32 else 2**-8
    torch.testing.assert_close(actual.double(), expected.double(), rtol=relative, atol=1e-5)


def outputs_of(step, inputs):
    outputs = step(*inputs)
    return outputs if isinstance(outputs, tuple) else (outputs,)


def random_weights(step, inputs, generator):
    """Of a step's outputs, in their types."""
    outputs = outputs_of(step, inputs)
    return [torch.randn(y.shape, generator=generator).to(y.dtype) for y in outputs]


def values_and_slopes(step, inputs, given):
    """A step's outputs, then the gradients of their sum, weighted by `given`."""
    outputs = outputs_of(step, inputs)
    given = [g.to(y.dtype) for g, y in zip(given, outputs, strict=True)]
    trained = [x for x in inputs if x is not None]
    return *outputs, *torch.autograd.grad(outputs, trained, given)


def found_and_true(compiled, plain, inputs, generator):
    """Pairs of values and gradients: the step's, and its definition's in float64."""
    given = random_weights(compiled, inputs, generator)
    exact = [None if x is None else x.detach().double().requires_grad_() for x in inputs]
    found = values_and_slopes(compiled, inputs, given)
    return list(zip(found, values_and_slopes(plain, exact, given), strict=True))


# --- definitions -------------------------------------------------------------------------------


def plain_add_norm(hidden, more, weight, bias):
    total = hidden if more is None else hidden + more
    if bias is None:
        return total, total / (total.square().mean(-1, keepdim=True) + EPSILON).sqrt() * weight
    rest = total - total.mean(-1, keepdim=True)
    return total, rest / (rest.square().mean(-1, keepdim=True) + EPSILON).sqrt() * weight + bias


def plain_swiglu(both):
    gate, up = both.chunk(2, dim=-1)
    return gate * torch.sigmoid(gate) * up


def plain_selected_logprobs(logits, ids):
    return logits.log_softmax(-1)[torch.arange(len(ids)), ids]


# --- a step of each kind -----------------------------------------------------------------------

ADDED = ("root mean square", "layer norm", "float32 added", "nothing added")
STEPS = (*ADDED, "swiglu", "logprobs")


def example(name, dtype, generator, rows=150, width=64):
    """A step, its definition and inputs whose gradients are asked for."""
    if name in ADDED:
        kind = torch.float32 if name == "float32 added" else dtype
        more = None if name == "nothing added" else normal(generator, rows, width, dtype=kind)
        bias = normal(generator, width) if name == "layer norm" else None
        inputs = (normal(generator, rows, width), more, normal(generator, width), bias)
        return partial(add_norm, epsilon=EPSILON, dtype=dtype), plain_add_norm, inputs
    inputs = (normal(generator, rows, 2 * width, dtype=dtype),)
    if name == "swiglu":
        return swiglu, plain_swiglu, inputs
    ids = torch.randint(2 * width, (rows,), generator=generator)
    return *(partial(f, ids=ids) for f in (selected_logprobs, plain_selected_logprobs)), inputs


# --- values and gradients ----------------------------------------------------------------------


@pytest.mark.parametrize("rows", [0, 1, 5, 150])
@pytest.mark.parametrize("width", [19, 64])
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("name", STEPS)
def test_values_and_gradients_are_those_of_the_definition(name, dtype, width, rows, generator):
    """150 rows are several chunks of a weight's gradient, the last not full."""
    compiled, plain, inputs = example(name, dtype, generator, rows, width)
    for found, true in found_and_true(compiled, plain, inputs, generator):
        close(found, true)
    wide = torch.float32
    types = {"swiglu": (dtype,), "logprobs": (wide,)}
    assert tuple(x.dtype for x in outputs_of(compiled, inputs)) == types.get(name, (wide, dtype))


@pytest.mark.parametrize("dtype", DTYPES)
def test_logprobs_of_extreme_logits(dtype):
    low = -torch.inf
    logits = torch.tensor([[80.0, -80.0, low, 0.0]] * 3 + [[low, low, -3.0, low]], dtype=dtype)
    logits.requires_grad_()
    found = selected_logprobs(logits, torch.tensor([0, 1, 2, 2]))
    assert found.tolist() == [0.0, -160.0, low, 0.0]
    (slope,) = torch.autograd.grad(found, logits, torch.tensor([1.0, 2.0, 3.0, 4.0]))
    # (one at the token, less the softmax, which is all on the highest) times what is given
    expected = [[0.0] * 4, [-2.0, 2.0, 0.0, 0.0], [-3.0, 0.0, 3.0, 0.0], [0.0] * 4]
    torch.testing.assert_close(slope.float(), torch.tensor(expected), rtol=0, atol=1e-30)


@pytest.mark.parametrize("dtype", DTYPES)
def test_gates_far_open_and_shut(dtype):
    both = torch.tensor([[100.0, -100.0, 1e30, -1e30, 3.0, 3.0, 1.0, 1.0]], dtype=dtype)
    both.requires_grad_()
    found = swiglu(both)
    (slope,) = torch.autograd.grad(found.sum(), both)
    # An open gate lets through gate * up, a shut one nothing.
    close(found, torch.tensor([[300.0, 0.0, both[0, 2].item(), 0.0]]))
    close(slope, torch.tensor([[3.0, 0.0, 1.0, 0.0, 100.0, 0.0, both[0, 2].item(), 0.0]]))


@pytest.mark.parametrize("name", STEPS)
def test_rounding_to_bfloat16_is_unbiased(name, generator):
    """Truncation would make numbers half a unit too small: of thousands, many deviations."""
    pairs = found_and_true(*example(name, torch.bfloat16, generator), generator)
    rounded = [(x, y) for x, y in pairs if x.dtype == torch.bfloat16]
    assert rounded
    for found, true in rounded:
        kept = true.abs() > 1e-3
        errors = found[kept] / true[kept] - 1
        assert errors.std() > 1e-4
        assert errors.mean().abs() < 4 * errors.std() / len(errors) ** 0.5


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("name", STEPS)
def test_threads_do_not_change_a_bit(name, dtype, generator, monkeypatch):
    compiled, _, inputs = example(name, dtype, generator, rows=1000)
    given = random_weights(compiled, inputs, generator)
    alone = values_and_slopes(compiled, inputs, given)
    monkeypatch.setattr(torch, "get_num_threads", lambda: 2)  # compiled steps use so many
    assert all(map(torch.equal, alone, values_and_slopes(compiled, inputs, given)))


@pytest.mark.parametrize("name", STEPS)
def test_inputs_need_not_be_contiguous(name, generator):
    compiled, plain, inputs = example(name, torch.float32, generator)
    strided = [x if x is None else torch.stack([x, x], dim=-1)[..., 0] for x in inputs]
    assert not any(x.is_contiguous() for x in strided if x is not None)
    for found, true in found_and_true(compiled, plain, strided, generator):
        close(found, true)


@pytest.mark.parametrize("name", STEPS[:-1])
def test_autograd_is_left_out_where_no_gradient_is_asked_for(name, generator, monkeypatch):
    compiled, _, inputs = example(name, torch.float32, generator)
    expected = compiled(*inputs)
    for function in (layers._AddNorm, layers._Swiglu):
        monkeypatch.setattr(function, "apply", None)
    with torch.no_grad():
        torch.testing.assert_close(compiled(*inputs), expected, rtol=0, atol=0)
    compiled(*(None if x is None else x.detach() for x in inputs))
    with pytest.raises(TypeError):
        compiled(*inputs)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("name", ADDED[:2])
def test_frozen_inputs_get_no_gradient_and_change_no_other(name, dtype, generator):
    compiled, _, inputs = example(name, dtype, generator)

    def gradients(trained):
        leaves = [
            None if x is None else x.detach().requires_grad_(index in trained)
            for index, x in enumerate(inputs)
        ]
        total, normed = compiled(*leaves)
        (total.square().sum() + normed.float().square().sum()).backward()
        return [None if x is None else x.grad for x in leaves]

    present = [index for index, x in enumerate(inputs) if x is not None]
    full = gradients(present)
    for trained in ([0], [1], [2], present[-1:], [0, 1], present[2:]):
        for index, slope in enumerate(gradients(trained)):
            if index in trained:
                torch.testing.assert_close(slope, full[index], rtol=0, atol=0)
            else:
                assert slope is None


def test_only_one_output_need_be_used(generator):
    hidden, weight = normal(generator, 5, 24), normal(generator, 24)
    total, _ = add_norm(hidden, None, weight, None, EPSILON, torch.float32)
    slope, of_weight = torch.autograd.grad(total.sum(), (hidden, weight))
    assert torch.equal(slope, torch.ones_like(hidden))
    assert torch.equal(of_weight, torch.zeros_like(weight))
    _, normed = add_norm(hidden, None, weight, None, EPSILON, torch.float32)
    (slope,) = torch.autograd.grad(normed.sum(), hidden)
    (expected,) = torch.autograd.grad(plain_add_norm(hidden, None, weight, None)[1].sum(), hidden)
    close(slope, expected)


@pytest.mark.parametrize("ids", [[0, 1, 5], [0, 1, -1], [0, 1], [0], [0, 1, 2, 3]])
def test_ids_that_do_not_fit_are_refused(ids):
    with pytest.raises(ValueError, match="expected 3 ids from 0 to 4"):
        selected_logprobs(torch.zeros((3, 5)), torch.tensor(ids))


# --- the forward pass --------------------------------------------------------------------------


def states_and_slopes(model, rows, dtype):
    decoder = families.read(model).to(dtype)
    states = states_before(decoder, branch(*rows))
    weights = torch.randn(states.shape, generator=torch.Generator().manual_seed(2))
    parameters = [p for p in model.base_model.parameters() if p.requires_grad]
    return states, torch.autograd.grad((states * weights).sum(), parameters)


def is_compiled(states):
    return "AddNorm" in states.grad_fn.next_functions[0][0].name()


@pytest.mark.parametrize("frozen", [False, True], ids=["trained", "norms and biases frozen"])
@pytest.mark.parametrize("name", MODELS)
def test_a_pass_is_the_plain_one(name, frozen, monkeypatch):
    model, rows = random_model(name), batch(*SPANS["both sides"], copies=5)
    for parameter in model.parameters():
        parameter.requires_grad_(not (frozen and parameter.dim() == 1))
    states, found = states_and_slopes(model, rows, torch.float32)
    assert is_compiled(states)
    monkeypatch.setattr(library, "ENABLED", False)
    plain_states, expected = states_and_slopes(model, rows, torch.float32)
    assert not is_compiled(plain_states)
    torch.testing.assert_close(states, plain_states, rtol=1e-5, atol=1e-5)
    for slope, plain_slope in zip(found, expected, strict=True):
        scale = plain_slope.abs().max().item()
        torch.testing.assert_close(slope, plain_slope, rtol=1e-5, atol=1e-5 * scale)


@pytest.mark.parametrize("name", MODELS)
def test_a_pass_in_bfloat16_is_as_near_to_the_truth_as_the_plain_one(name, monkeypatch):
    model, rows = random_model(name), batch(*SPANS["both sides"], copies=20)
    found = states_and_slopes(model, rows, torch.bfloat16)
    monkeypatch.setattr(library, "ENABLED", False)
    plain = states_and_slopes(model, rows, torch.bfloat16)
    truth = states_and_slopes(model, rows, torch.float32)

    def error(passed):
        pairs = zip((passed[0], *passed[1]), (truth[0], *truth[1]), strict=True)
        return sum((x - y).norm() / y.norm() for x, y in pairs)

    assert 0 < error(found) < 1.2 * error(plain)
