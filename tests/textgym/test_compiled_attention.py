"""Compiled attention gives what its definition gives: values, gradients, whatever the shapes."""

import pytest
import torch
from decoder_support import SPANS, batch, random_model

from textgym.models import branches, families
from textgym.models.branches import branch, lay_out_prompts, states_before
from textgym.models.compiled import attention
from textgym.models.compiled.attention import branch_attention, lay_out
from textgym.models.compiled.library import library
from textgym.models.decoder import logits

pytestmark = pytest.mark.skipif(library() is None, reason="there is no C++ compiler")

# Prompts' tokens, each response's prompt, responses' tokens.
LAYOUTS = {
    "mixed": ([3, 20, 1], [0, 0, 1, 2, 2], [2, 5, 17, 33, 40]),
    "prompts of one token": ([1, 1], [0, 1, 1], [1, 4, 9]),
    "responses of none and one token": ([4, 2], [1, 0, 0, 1], [0, 0, 1, 1]),
    "prompts without responses": ([5, 17, 2], [1], [3]),
    "no response": ([5, 18], [], []),
    "one prompt": ([6], [0, 0, 0], [7, 16, 31]),
    "prompts out of order": ([2, 3, 4], [2, 0, 1, 2, 0], [1, 2, 3, 4, 5]),
}
LONG = ([150, 129], [0, 1, 0], [128, 130, 300])  # beyond one run of 128 keys, also by one


def tensors(tokens, heads=4, kv_heads=2, width=8, scale=1.0):
    generator = torch.Generator().manual_seed(tokens + width)
    shapes = [(tokens, heads, width), *[(tokens, kv_heads, width)] * 2, (tokens, heads * width)]
    queries, keys, values, slope = (torch.randn(shape, generator=generator) for shape in shapes)
    return queries * scale, keys, values, slope


def visible(prompt_lengths, prompt_of, lengths):
    """[M, M]: which token sees which, counted token by token."""
    tokens = [
        (prompt, None, place) for prompt, n in enumerate(prompt_lengths) for place in range(n)
    ]
    for response, (prompt, n) in enumerate(zip(prompt_of, lengths, strict=True)):
        tokens += [(prompt, response, place) for place in range(n)]

    def sees(one, other):
        if other[1] is None and one[1] is not None:
            return one[0] == other[0]
        return one[:2] == other[:2] and other[2] <= one[2]

    return torch.tensor([[sees(x, y) for y in tokens] for x in tokens]).view(len(tokens), -1)


def definition(queries, keys, values, mask):
    groups, width = queries.shape[1] // keys.shape[1], queries.shape[2]
    keys, values = (x.repeat_interleave(groups, dim=1) for x in (keys, values))
    scores = torch.einsum("qhw,khw->hqk", queries, keys) / width**0.5
    weights = scores.masked_fill(~mask, -torch.inf).softmax(-1)
    return torch.einsum("hqk,khw->qhw", weights, values).flatten(1)


def layout_of(lengths):
    return lay_out(*(torch.tensor(x, dtype=torch.int64) for x in lengths))


def assert_as_defined(lengths, tolerance=1e-5, change=lambda x: x, **sizes):
    queries, keys, values, slope = tensors(sum(lengths[0]) + sum(lengths[2]), **sizes)
    leaves = [x.requires_grad_() for x in (queries, keys, values)]
    exact = [x.detach().double().requires_grad_() for x in leaves]
    expected = definition(*exact, visible(*lengths))
    actual = branch_attention(*map(change, leaves), layout_of(lengths))
    close = {"atol": tolerance, "rtol": tolerance, "check_dtype": False}
    torch.testing.assert_close(actual, expected, **close)
    expected_slopes = torch.autograd.grad(expected, exact, slope.double())
    for found, wanted in zip(
        torch.autograd.grad(actual, leaves, slope), expected_slopes, strict=True
    ):
        torch.testing.assert_close(found, wanted, **close)


@pytest.mark.parametrize("heads", [(1, 1), (4, 4), (4, 2), (6, 1), (40, 2)])
@pytest.mark.parametrize("lengths", LAYOUTS.values(), ids=LAYOUTS)
def test_values_and_gradients_are_those_of_the_definition(lengths, heads):
    assert_as_defined(lengths, heads=heads[0], kv_heads=heads[1])


@pytest.mark.parametrize("width", [1, 7, 16, 20, 33, 64, 128, 300])
def test_any_width(width):
    assert_as_defined(LAYOUTS["mixed"], width=width)


@pytest.mark.parametrize("heads", [(1, 1), (6, 2)])
def test_more_keys_than_are_held_at_once(heads):
    assert_as_defined(LONG, heads=heads[0], kv_heads=heads[1])


def test_large_scores():
    """Up to 60 and more on either side: weights of nearly 0 and 1."""
    queries, keys, *_ = tensors(121, scale=20)
    scores = torch.einsum("qhw,khw->hqk", queries[:, ::2], keys) / 8**0.5
    assert scores.max() > 60
    assert scores.min() < -60
    assert_as_defined(LAYOUTS["mixed"], tolerance=1e-4, scale=20)
    assert_as_defined(LONG, tolerance=5e-4, scale=20)  # gradients reach 90


def test_a_hidden_key_is_not_seen_even_where_it_would_win():
    queries, keys, values, _ = tensors(4, heads=1, kv_heads=1)
    first = branch_attention(queries, keys, values, layout_of(([2], [0], [2])))
    keys[3], values[3] = 100 * queries[2], 1e6
    second = branch_attention(queries, keys, values, layout_of(([2], [0], [2])))
    assert torch.equal(first[:3], second[:3])
    assert not torch.equal(first[3], second[3])


def test_gradients_of_a_prompt_by_hand():
    """Queries of 0 weigh all they see alike: 1, then 1/2, and 1/3 from each response."""
    zeros = torch.zeros(4, 1, 1)
    values = torch.zeros(4, 1, 1, requires_grad=True)
    out = branch_attention(zeros, zeros, values, layout_of(([2], [0, 0], [1, 1])))
    slope = torch.tensor([[1.0], [10.0], [300.0], [3000.0]])
    (found,) = torch.autograd.grad(out, values, slope)
    expected = [1 + 5 + 100 + 1000, 5 + 100 + 1000, 100, 1000]
    torch.testing.assert_close(found.flatten(), torch.tensor(expected, dtype=torch.float32))


@pytest.mark.parametrize(
    "change",
    [
        lambda x: torch.stack([x, x + 1], dim=2)[:, :, 0],
        lambda x: torch.cat([x, x + 1], dim=1)[:, : x.shape[1]],
        lambda x: torch.stack([x, x + 1], dim=3)[..., 0],
        lambda x: torch.stack([x, x + 1], dim=1)[:, 0],
    ],
    ids=["heads apart", "beside others", "coordinates apart", "tokens apart"],
)
def test_inputs_that_are_not_contiguous(change):
    assert_as_defined(LAYOUTS["mixed"], change=change)
    assert_as_defined(LAYOUTS["mixed"], change=change, heads=2, kv_heads=1)


def test_a_gradient_that_is_not_contiguous():
    queries, keys, values, slope = tensors(8)
    queries.requires_grad_()
    out = branch_attention(queries, keys, values, layout_of(([3], [0], [5])))
    apart = slope.t().contiguous().t()
    slopes = [torch.autograd.grad(out, queries, x, retain_graph=True)[0] for x in (slope, apart)]
    assert torch.equal(*slopes)


def test_no_token():
    queries, keys, values, slope = (x.requires_grad_() for x in tensors(0))
    out = branch_attention(queries, keys, values, layout_of(([], [], [])))
    assert out.shape == (0, 32)
    slopes = torch.autograd.grad(out, (queries, keys, values), slope.detach())
    assert [x.shape for x in slopes] == [(0, 4, 8), (0, 2, 8), (0, 2, 8)]


@pytest.mark.parametrize("wanted", range(3))
def test_frozen_inputs(wanted):
    inputs, slope = tensors(8)[:3], tensors(8)[3]
    layout = layout_of(([3], [0], [5]))
    all_of_them = [x.clone().requires_grad_() for x in inputs]
    expected = torch.autograd.grad(branch_attention(*all_of_them, layout), all_of_them, slope)
    inputs[wanted].requires_grad_()
    branch_attention(*inputs, layout).backward(slope)
    assert torch.equal(inputs[wanted].grad, expected[wanted])
    assert [x.grad is None for x in inputs].count(True) == 2


def test_the_number_of_threads_changes_no_bit():
    lengths = LAYOUTS["mixed"]
    inputs, slope = tensors(121)[:3], tensors(121)[3]
    leaves = [x.requires_grad_() for x in inputs]
    found, before = [], torch.get_num_threads()
    try:
        for threads in (1, 2, 3):
            torch.set_num_threads(threads)
            out = branch_attention(*leaves, layout_of(lengths))
            found.append([out, *torch.autograd.grad(out, leaves, slope)])
    finally:
        torch.set_num_threads(before)
    for other in found[1:]:
        assert all(map(torch.equal, found[0], other))


def test_layout_by_hand():
    """Tokens 0-1 and 2-4 are prompts; 5, 6-7 and 8-10 responses to the second, first and second."""
    layout = layout_of(([2, 3], [1, 0, 1], [1, 2, 3]))
    assert layout.sequences.tolist() == [
        [0, 2, 0, 0],
        [6, 8, 0, 2],
        [2, 5, 0, 0],
        [5, 6, 2, 5],
        [8, 11, 2, 5],
    ]
    assert layout.families.tolist() == [0, 2, 5]
    assert layout.tokens == 11


def test_tokens_beyond_the_layout_are_refused():
    with pytest.raises(AssertionError, match="8 tokens, laid out for 7"):
        branch_attention(*tensors(8)[:3], layout_of(([3], [0], [4])))


# --- in a decoder --------------------------------------------------------------------------------


def scores_and_slopes(model, rows):
    decoder = families.read(model)
    found = logits(decoder, states_before(decoder, branch(*rows))).log_softmax(-1)
    weights = torch.randn(found.shape, generator=torch.Generator().manual_seed(2))
    return [found, *torch.autograd.grad((found * weights).sum(1).mean(), list(model.parameters()))]


@pytest.mark.parametrize("copies", [1, 8])
@pytest.mark.parametrize("spans", SPANS.values(), ids=SPANS)
def test_a_decoder_gives_the_same_without_it(spans, copies, monkeypatch):
    """Eight copies of uneven rows are cut into pieces by the plain twin."""
    model, rows = random_model("llama"), batch(*spans, copies)
    compiled = scores_and_slopes(model, rows)
    monkeypatch.setattr(branches, "attends", lambda queries: False)
    monkeypatch.setattr(branches, "branch_attention", None)
    for found, expected in zip(compiled, scores_and_slopes(model, rows), strict=True):
        torch.testing.assert_close(found, expected, atol=1e-5, rtol=1e-5)


def test_nothing_is_padded_where_it_applies(monkeypatch):
    monkeypatch.setattr(branches, "PaddedAttention", None)
    found, *_ = scores_and_slopes(random_model("llama"), batch(*SPANS["left"], 8))
    assert found.isfinite().all()


@torch.no_grad()
def test_prompts_keep_their_keys_and_values_with_and_without_it(monkeypatch):
    prompts = lay_out_prompts(*batch(*SPANS["both sides"])[:2])
    inputs, kept, mixed = tensors(len(prompts.ids))[:3], [], []
    for known in (attention.attends, lambda queries: False):
        monkeypatch.setattr(branches, "attends", known)
        attend = branches.PromptAttention(prompts)
        mixed.append(attend(0, *inputs))
        kept.append(attend.kept)
    torch.testing.assert_close(*mixed, atol=1e-6, rtol=1e-6)
    assert kept[0][0][0].shape == (3, 2, 5, 8)
    for of_mode in kept:
        flat = [x.transpose(1, 2).flatten(0, 1)[prompts.slots] for x in of_mode[0]]
        assert all(map(torch.equal, flat, inputs[1:]))


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16])
def test_other_types_are_left_to_pytorch(dtype):
    assert not attention.attends(torch.zeros(1, 1, 1, dtype=dtype))
    assert attention.attends(torch.zeros(1, 1, 1))


def test_not_without_a_compiler(monkeypatch):
    monkeypatch.setattr(attention, "library", lambda: None)
    assert not attention.attends(torch.zeros(1, 1, 1))
