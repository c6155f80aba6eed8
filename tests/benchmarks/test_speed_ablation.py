"""What each change gives, and where the time goes, on a model so small that it takes seconds."""

import math
import time
from collections import Counter
from operator import attrgetter
from unittest import mock

import pytest
import torch
from torch.nn import functional

import textgym.models.sampling
from textgym.benchmarks.speed import ablation, profiling
from textgym.benchmarks.speed.models import make_model, make_policy
from textgym.benchmarks.speed.sampling import Load, own_randomness
from textgym.models.compiled.decoding import CompiledDecoding
from textgym.models.compiled.library import library
from textgym.models.compiled.products import multiplies
from textgym.models.linear import has_onednn

LOAD = Load(4, samples=4, prompt_tokens=6, response_tokens=6)
PROMPT_TOKENS = [6, 5, 4, 3]
DIRECT = "float32: weights read directly, not through transformers"
ALONE = f"{DIRECT}, with nothing shared or padded, PyTorch's products"
BY_ONEDNN = "oneDNN's products, not PyTorch's own"
ONCE = "float32: prompts of 6 tokens read once, not per sample"
LONG = "float32: prompts of 48 tokens read once, not per sample"
PLAINLY = "float32, with PyTorch's steps"
OF_SAMPLING, OF_TRAINING = f"{PLAINLY}: {BY_ONEDNN}", f"float32: {BY_ONEDNN}"
DRAWN = f"{PLAINLY}: a token drawn with one random number, not one per word of the vocabulary"
LEAVE = "float32, unequal lengths: rows that have ended leave the batch"
SELECTED = "float32: log-probabilities without a second copy of the logits"
UNPADDED = "float32, unequal lengths: padding left out, not read like text"
PIECES = (
    "float32, with PyTorch's steps, unequal lengths: attention in pieces of like length, not in one"
)
COMPILED = "float32: steps between products compiled, not PyTorch's"
ONE_CALL = "float32: a step of all layers in one compiled call, not PyTorch's"
SHORT = "width 64: products in bfloat16, not float32"
DECODING = "decoding.Decoding"
LAID_OUT = "decoding.lay_out_prompts"
if multiplies(torch.float32):
    DECODING, LAID_OUT = "compiled.decoding.CompiledDecoding", f"compiled.{LAID_OUT}"
OF_COMPILED = () if library() is None else (COMPILED,)
OF_STEP = (ONE_CALL,) if multiplies(torch.float32) else ()
NAMES = [
    *(f"Sampling, {name}" for name in (DIRECT, ALONE, ONCE, LONG)),
    *(f"Sampling, {name}" for name in (*OF_STEP, OF_SAMPLING, DRAWN, LEAVE)),
    *(f"Training step, {name}" for name in (DIRECT, ALONE, OF_TRAINING, *OF_COMPILED, ONCE)),
    *(f"Training step, {name}" for name in (SELECTED, UNPADDED, PIECES)),
    *(f"{work}, {SHORT}" for work in ("Sampling", "Training step")),
]
# One product for the head and four in each of four layers; oneDNN also makes the gradients of what
# goes into them.
PRODUCTS = 4 * 4 + 1
CALLS = {
    f"Sampling, {DIRECT}": ("hugging_face.forward", 0, 6),
    f"Sampling, {ALONE}": ("hugging_face.forward", 0, 2),
    f"Sampling, {OF_SAMPLING}": ("linear._product", 6 * PRODUCTS, 0),
    f"Sampling, {DRAWN}": ("sampling.inverse_cdf", 6, 0),
    f"Training step, {DIRECT}": ("hugging_face.forward", 0, 2),
    f"Training step, {ALONE}": ("hugging_face.forward", 0, 2),
    f"Training step, {OF_TRAINING}": ("linear._product", 3 * PRODUCTS, 0),
    f"Training step, {SELECTED}": ("policy.token_logprobs", 2, 0),
    f"Training step, {PIECES}": ("attention._mask", 2 * 3, 2),
    f"Sampling, {SHORT}": ("decoder.Decoder.to", 1, 0),
    f"Training step, {SHORT}": ("decoder.Decoder.to", 2, 0),
}
"""What is called how often with a change, and without. A step scores twice: reference and policy.
Sampling reads the prompts and five of six tokens; lone rows have a third of the tokens. A quarter
of the unequal lengths is one token, which is never read: three pieces are left."""


if OF_COMPILED:
    CALLS[f"Training step, {COMPILED}"] = ("likelihood.selected_logprobs", 2, 0)
if OF_STEP:
    CALLS[f"Sampling, {ONE_CALL}"] = ("compiled.decoding.CompiledDecoding.step", 5, 0)


@pytest.fixture(scope="module")
def model():
    return make_model("1m")


@pytest.fixture(scope="module")
def runs(model):
    changes = [
        *ablation.sampling_changes(model, LOAD),
        *ablation.training_changes(model, LOAD),
        *ablation.precision_changes(64, LOAD),
    ]
    return {name: (ours, peer) for name, ours, peer in changes}


def calls(target, run):
    """Returns the arguments of every call of something under `textgym.models` in a run."""
    real = attrgetter(target)(textgym.models)
    with mock.patch(f"textgym.models.{target}", autospec=True, side_effect=real) as spy:
        run()
    return [call.args for call in spy.call_args_list]


@pytest.mark.parametrize("name", CALLS)
def test_what_a_change_hangs_on_is_replaced(runs, name):
    target, *expected = CALLS[name]
    if target == "linear._product" and not has_onednn():
        pytest.skip("this build of PyTorch has no oneDNN")
    assert [len(calls(target, run)) for run in runs[name]] == expected


@pytest.mark.parametrize("work", ["Sampling", "Training step"])
def test_lone_rows_are_without_onednn_on_both_sides(runs, work):
    for run in runs[f"{work}, {ALONE}"]:
        assert calls("linear._product", run) == []


@pytest.mark.parametrize(
    ("name", "target"),
    [
        (f"Sampling, {ONCE}", LAID_OUT),
        (f"Sampling, {LONG}", LAID_OUT),
        (f"Training step, {ONCE}", "branches.lay_out_prompts"),
    ],
)
def test_prompts_are_read_once_or_for_every_sample(runs, name, target):
    once, each = ([len(ids) for ids, _ in calls(target, run)] for run in runs[name])
    assert set(once) == {4}
    assert set(each) == {16}


def test_padding_is_left_out_or_read(runs):
    ours, peer = runs[f"Training step, {UNPADDED}"]
    lengths = ablation.unequal_lengths(LOAD)
    # A response's last token is predicted, never read.
    least, most = sum(PROMPT_TOKENS) + int((lengths - 1).sum()), 4 * 6 + 16 * 5
    assert least < most
    assert [len(ids) for _, ids, *_ in calls("branches.run", ours)] == [least] * 2
    assert [len(ids) for _, ids, *_ in calls("branches.run", peer)] == [most] * 2


def test_rows_that_have_ended_leave_or_stay(runs):
    ours, peer = runs[f"Sampling, {LEAVE}"]
    read = [sum(len(t) for _, t in calls(f"{DECODING}.step", run)) for run in (ours, peer)]
    # All but the longest stay for nothing where they stay.
    longest = int(ablation.unequal_lengths(LOAD).max())
    assert read[0] < read[1] == 16 * (longest - 1)
    for run in (ours, peer):
        assert run().mask.sum(1).equal(ablation.unequal_lengths(LOAD))


@pytest.mark.parametrize("name", [n for n in NAMES if n.startswith("Sampling") and SHORT not in n])
def test_what_is_sampled_stays_the_same_without(runs, name):
    ours, peer = (run() for run in runs[name])
    assert ours.mask.equal(peer.mask)
    if DRAWN in name:
        # Other random numbers: other tokens, of the same vocabulary.
        assert not ours.ids.equal(peer.ids)
        assert 0 <= peer.ids.min() <= peer.ids.max() < 2048
    else:
        assert ours.ids.equal(peer.ids)
        torch.testing.assert_close(ours.policy_logprobs, peer.policy_logprobs)


@pytest.mark.parametrize(
    "name", [n for n in NAMES if n.startswith("Training") and n[15:] not in (UNPADDED, SHORT)]
)
def test_log_probabilities_and_gradients_stay_the_same_without(runs, model, name):
    found = [[run(), *(p.grad.clone() for p in model.parameters())] for run in runs[name]]
    assert found[0][1].abs().max() > 0
    for ours, peer in zip(*found, strict=True):
        torch.testing.assert_close(ours, peer, atol=1e-6, rtol=1e-4)


def test_short_products_are_near_and_not_the_same(runs):
    ours, peer = (run() for run in runs[f"Training step, {SHORT}"])
    assert not ours.equal(peer)
    torch.testing.assert_close(ours, peer, atol=0.05, rtol=0)


def test_every_row_has_numbers():
    rows = ablation.measure(1, "1m", LOAD, widths=(64,))
    assert [row.name for row in rows] == NAMES
    for row in rows:
        assert all(math.isfinite(x) and x > 0 for x in (row.ours, row.peer, row.ratio))


def test_a_name_that_is_not_there_is_no_change():
    run = ablation.without("attention.PEACES", 1, lambda: None)
    with pytest.raises(AttributeError, match="PEACES"):
        run()


def test_a_name_stands_for_something_else_only_while_a_run_lasts():
    real = textgym.models.sampling.KEPT_SHARE
    run = ablation.without("sampling.KEPT_SHARE", 0.0, lambda: textgym.models.sampling.KEPT_SHARE)
    assert run() == 0.0
    assert real == textgym.models.sampling.KEPT_SHARE == 0.75


def test_lengths_are_geometric_and_cut():
    lengths = ablation.unequal_lengths(Load(100, samples=100)).double()
    assert lengths.min() == 1
    assert lengths.max() == 48
    # The mean of a geometric length cut at 48 is that of being still there, summed over the tokens.
    assert lengths.mean().item() == pytest.approx(
        sum((1 - 2 / 48) ** t for t in range(48)), rel=0.05
    )


def test_greatest_uniforms_are_at_the_ends():
    uniforms = torch.full((2, 3), 0.5, dtype=torch.float64)
    ending = ablation.ending_uniforms(uniforms, torch.tensor([1, 3]))
    assert ending[[0, 1], [0, 2]].min() > 0.999999
    assert ending.tolist()[0][1:] == ending.tolist()[1][:2] == [0.495, 0.495]


def test_a_made_up_rollout_has_the_given_lengths():
    lengths = torch.arange(16) % 6 + 1
    rollout = ablation.random_rollout(LOAD, 64, lengths)
    assert rollout.response_mask.sum(1).equal(lengths)
    assert rollout.prompt_mask.sum(1).tolist() == [n for n in PROMPT_TOKENS for _ in range(4)]
    assert rollout.response_ids.max() < 64
    full = ablation.filled(rollout)
    assert full.response_mask.all()
    assert full.prompt_mask.all()
    assert full.prompt_ids.equal(rollout.prompt_ids)


@pytest.mark.parametrize(
    ("operation", "kind"),
    [
        ("aten::mm", profiling.PRODUCTS),
        ("mkldnn::_linear_pointwise", profiling.PRODUCTS),
        ("aten::baddbmm", profiling.ATTENTION),
        ("aten::_scaled_dot_product_flash_attention_for_cpu_backward", profiling.ATTENTION),
        ("aten::_fused_rms_norm", profiling.ELEMENTWISE),
        ("aten::silu_backward", profiling.ELEMENTWISE),
        ("aten::exp_", profiling.ELEMENTWISE),
        ("aten::index_add_", profiling.COPIES),
        ("aten::copy_", profiling.COPIES),
        ("autograd::engine::evaluate_function: MulBackward0", profiling.REST),
        ("aten::unique_dim", profiling.REST),
    ],
)
def test_operations_have_kinds(operation, kind):
    assert profiling.kind_of(operation) == kind


def test_time_goes_to_the_kind_that_takes_it(capfd):
    x = torch.rand((1500, 1500))

    def kinds(run):
        times = profiling.time_by_kind(run)
        assert times.total() > 0
        return times.most_common(1)[0][0], {kind for kind, ms in times.items() if ms > 0}

    assert kinds(lambda: x @ x)[0] == profiling.PRODUCTS
    assert kinds(lambda: x.softmax(-1))[0] == profiling.ATTENTION
    assert kinds(lambda: x.exp())[0] == profiling.ELEMENTWISE
    assert kinds(lambda: x.t().contiguous())[0] == profiling.COPIES
    drawn, all_kinds = kinds(lambda: functional.softmax(x, -1))
    assert drawn == profiling.DRAWING
    assert profiling.ATTENTION not in all_kinds
    assert profiling.time_by_kind(lambda: time.sleep(0.05))[profiling.BETWEEN] >= 50
    assert capfd.readouterr().out == ""


def test_all_time_of_a_run_is_told():
    weights, uniforms = torch.rand((512, 4096)), torch.rand(512, dtype=torch.float64)

    def run():
        start = time.perf_counter()
        with own_randomness():
            textgym.models.sampling.draw(weights, uniforms, textgym.models.sampling.Sampling())
            torch.multinomial(weights, 1)
        spent.append(1000 * (time.perf_counter() - start))

    spent = []
    times = profiling.time_by_kind(run)
    assert times.total() == pytest.approx(spent[0], rel=0.2)
    assert times.most_common(1)[0][0] == profiling.DRAWING


@pytest.mark.skipif(not OF_STEP, reason="no step of decoding is compiled here")
def test_a_compiled_step_of_decoding_is_told_apart():
    """Of what the profiler sees as one operation, as the step's own clock divides it."""
    prompts = ablation.random_prompts(LOAD, 2048)
    policy = make_policy(make_model("1m"), "float32")
    run = ablation.sampling_run(policy, prompts, ablation.uniform_numbers(LOAD))
    run()
    times = profiling.time_by_kind(run)
    assert profiling.STEP not in times
    seconds = torch.tensor([3.0, 1.0, 0.0], dtype=torch.float64)
    shared = profiling._within_steps(Counter({profiling.STEP: 8.0, profiling.COPIES: 1.0}), seconds)
    kinds = (profiling.PRODUCTS, profiling.ATTENTION, profiling.ELEMENTWISE, profiling.COPIES)
    assert [shared[kind] for kind in kinds] == [6, 2, 0, 1]
    assert CompiledDecoding.seconds is None


def test_profiles_tell_every_way():
    frame = profiling.profiles("1m", LOAD)
    assert list(frame) == ["what", "way", "kind", "milliseconds", "share"]
    groups = frame.groupby(["what", "way"])
    ways = ["transformers", "textgym float32", "textgym bfloat16"]
    works = ["sampling", "training step"]
    assert set(groups.groups) == {(work, way) for work in works for way in ways}
    assert groups["share"].sum().tolist() == pytest.approx([1] * 6)
    assert (frame["milliseconds"] > 0).all()
    always = {profiling.PRODUCTS, profiling.ATTENTION, profiling.ELEMENTWISE, profiling.COPIES}
    for (work, _), group in groups:
        kinds = set(group["kind"])
        assert kinds >= always | {profiling.BETWEEN}
        assert (profiling.DRAWING in kinds) == (work == "sampling")
