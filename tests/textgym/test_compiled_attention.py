"""Compiled attention gives what its definition gives: values, gradients, whatever the shapes."""

import pytest
import torch
from decoder_support import SPANS, batch, random_model

from textgym.models import branches, families
from textgym.models.branches import branch, lay_out_prompts, states_before
from textgym.models.compiled import attention, layers
from textgym.models.compiled.attention import branch_attention, lay_out
from textgym.models.compiled.library import library
from textgym.models.decoder import logits
from textgym.models.heads import Heads, Rotation

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


def attend(queries, keys, values, lengths):
    """Compiled attention over heads that are not to be turned."""
    together = torch.cat([queries, keys, values], dim=1)
    return branch_attention(Heads(together, keys.shape[1], torch.float32), layout_of(lengths))


def assert_as_defined(lengths, tolerance=1e-5, **sizes):
    queries, keys, values, slope = tensors(sum(lengths[0]) + sum(lengths[2]), **sizes)
    leaves = [x.requires_grad_() for x in (queries, keys, values)]
    exact = [x.detach().double().requires_grad_() for x in leaves]
    expected = definition(*exact, visible(*lengths))
    actual = attend(*leaves, lengths)
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
    first = attend(queries, keys, values, ([2], [0], [2]))
    keys[3], values[3] = 100 * queries[2], 1e6
    second = attend(queries, keys, values, ([2], [0], [2]))
    assert torch.equal(first[:3], second[:3])
    assert not torch.equal(first[3], second[3])


def test_gradients_of_a_prompt_by_hand():
    """Queries of 0 weigh all they see alike: 1, then 1/2, and 1/3 from each response."""
    zeros = torch.zeros(4, 1, 1)
    values = torch.zeros(4, 1, 1, requires_grad=True)
    out = attend(zeros, zeros, values, ([2], [0, 0], [1, 1]))
    slope = torch.tensor([[1.0], [10.0], [300.0], [3000.0]])
    (found,) = torch.autograd.grad(out, values, slope)
    expected = [1 + 5 + 100 + 1000, 5 + 100 + 1000, 100, 1000]
    torch.testing.assert_close(found.flatten(), torch.tensor(expected, dtype=torch.float32))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize(("width", "rotary"), [(8, 8), (32, 32), (33, 16), (20, 10)])
@pytest.mark.parametrize("lengths", [LAYOUTS["mixed"], LONG], ids=["mixed", "long"])
def test_heads_turned_on_the_way(lengths, width, rotary, dtype):
    """As those that are turned before; gradients turn back. bfloat16 is rounded at the end."""
    queries, keys, values, slope = tensors(sum(lengths[0]) + sum(lengths[2]), width=width)
    together = torch.cat([queries, keys, values], dim=1).to(dtype).requires_grad_()
    angles = 10 * torch.rand(
        (len(together), rotary // 2), generator=torch.Generator().manual_seed(3)
    )
    heads = Heads(together, 2, torch.float32, Rotation(angles.cos(), angles.sin()))
    exact = together.detach().double().requires_grad_()
    cosines, sines = angles.double().cos(), angles.double().sin()
    parts = Heads(exact, 2, torch.float64, Rotation(cosines, sines)).split()
    expected = definition(*parts, visible(*lengths))
    actual = branch_attention(heads, layout_of(lengths))
    assert actual.dtype == dtype
    close = {"atol": 1e-5, "rtol": 1e-5 if dtype == torch.float32 else 2**-8}
    torch.testing.assert_close(actual.double(), expected, **close)
    slope = slope.to(dtype)
    (found,) = torch.autograd.grad(actual, together, slope)
    (wanted,) = torch.autograd.grad(expected, exact, slope.double())
    assert found.dtype == dtype
    if dtype == torch.bfloat16:
        close["atol"] = 0.01 * wanted.abs().max().item()  # what is subtracted was rounded too
    torch.testing.assert_close(found.double(), wanted, **close)


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
    queries, keys, values, slope = tensors(8)
    layout, found = layout_of(([3], [0], [5])), []
    together = torch.cat([queries, keys, values], dim=1).requires_grad_()
    for form in (change, torch.clone):
        mixed = branch_attention(Heads(form(together), 2, torch.float32), layout)
        found.append([mixed, *torch.autograd.grad(mixed, together, slope)])
    assert not change(together).is_contiguous()
    assert all(map(torch.equal, *found))


def test_a_gradient_that_is_not_contiguous():
    queries, keys, values, slope = tensors(8)
    queries.requires_grad_()
    out = attend(queries, keys, values, ([3], [0], [5]))
    apart = slope.t().contiguous().t()
    slopes = [torch.autograd.grad(out, queries, x, retain_graph=True)[0] for x in (slope, apart)]
    assert torch.equal(*slopes)


def test_no_token():
    queries, keys, values, slope = (x.requires_grad_() for x in tensors(0))
    out = attend(queries, keys, values, ([], [], []))
    assert out.shape == (0, 32)
    slopes = torch.autograd.grad(out, (queries, keys, values), slope.detach())
    assert [x.shape for x in slopes] == [(0, 4, 8), (0, 2, 8), (0, 2, 8)]


def test_the_number_of_threads_changes_no_bit():
    lengths = LAYOUTS["mixed"]
    inputs, slope = tensors(121)[:3], tensors(121)[3]
    leaves = [x.requires_grad_() for x in inputs]
    found, before = [], torch.get_num_threads()
    try:
        for threads in (1, 2, 3):
            torch.set_num_threads(threads)
            out = attend(*leaves, lengths)
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
        attend(*tensors(8)[:3], ([3], [0], [4]))


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
    monkeypatch.setattr(branches, "attends", lambda heads: False)
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
    for known in (attention.attends, lambda heads: False):
        monkeypatch.setattr(branches, "attends", known)
        reading = branches.PromptAttention(prompts)
        mixed.append(reading(0, Heads(torch.cat(inputs, dim=1), 2, torch.float32)))
        kept.append(reading.kept)
    torch.testing.assert_close(*mixed, atol=1e-6, rtol=1e-6)
    assert kept[0][0][0].shape == (3, 2, 5, 8)
    for of_mode in kept:
        flat = [x.transpose(1, 2).flatten(0, 1)[prompts.slots] for x in of_mode[0]]
        assert all(map(torch.equal, flat, inputs[1:]))


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16])
def test_other_types_are_left_to_pytorch(dtype):
    assert not attention.attends(Heads(torch.zeros(1, 3, 1), 1, dtype))
    assert not attention.attends(Heads(torch.zeros(1, 3, 1, dtype=torch.float64), 1, torch.float32))
    assert attention.attends(Heads(torch.zeros(1, 3, 1), 1, torch.float32))


def test_not_without_a_compiler(monkeypatch):
    monkeypatch.setattr(layers, "library", lambda: None)
    assert not attention.attends(Heads(torch.zeros(1, 3, 1), 1, torch.float32))
