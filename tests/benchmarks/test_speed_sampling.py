from __future__ import annotations

import math

import pandas as pd
import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from textgym.benchmarks.speed import limits, sampling, scaling
from textgym.benchmarks.speed.models import FAMILY, YARDSTICK, make_model, make_policy
from textgym.benchmarks.speed.sampling import Case, Load
from textgym.errors import UnknownNameError
from textgym.models import precision
from textgym.models.linear import has_onednn
from textgym.models.sampling import sample_tokens
from textgym.types import Sampling

TINY = {
    "vocab_size": 10,
    "hidden_size": 4,
    "intermediate_size": 6,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "num_key_value_heads": 1,
}
# Per layer 4*4 queries, 2*4 keys, 2*4 values, 4*4 outputs and three times 4*6; and the head, 10*4.
TINY_WEIGHTS = 2 * (16 + 8 + 8 + 16 + 3 * 24) + 40


@pytest.fixture
def tiny():
    return make_model("1m", **TINY)


@pytest.mark.parametrize(
    ("name", "millions"),
    [("1m", 1), (YARDSTICK, 3.5), ("10m", 10), ("30m", 30), ("100m", 100), ("0.5b", 500)],
)
def test_models_are_as_large_as_they_are_called(name, millions):
    with torch.device("meta"):
        model = make_model(name)
    assert model.num_parameters() == pytest.approx(millions * 1e6, rel=0.15)
    assert name in FAMILY or name == "0.5b"


def test_a_model_follows_from_its_seed_alone():
    before = torch.get_rng_state()
    first, same, other = (make_model("1m", seed=seed, **TINY) for seed in (1, 1, 2))
    assert torch.equal(torch.get_rng_state(), before)
    weights = [m.lm_head.weight for m in (first, same, other)]
    assert torch.equal(weights[0], weights[1])
    assert not torch.equal(weights[0], weights[2])
    with pytest.raises(UnknownNameError, match="did you mean 'yardstick'"):
        make_model("yardstik")


def test_eos_is_never_drawn_by_any_uniform_or_copy(tiny):
    policy = make_policy(tiny).copy()
    ids, mask = sampling.random_prompts(Load(4, prompt_tokens=3), policy.vocab_size)
    uniforms = torch.linspace(0, 1 - 1e-9, 4 * 2 * 6, dtype=torch.float64).view(8, 6)
    sampled = sample_tokens(policy, ids, mask, uniforms, Sampling())
    assert sampled.mask.all()
    # All rows of the head have been drawn: the one that EOS would have had is no exception.
    assert sampled.ids.unique().tolist() == list(range(10))
    assert policy.eos_token_id == 10


def test_prompts_have_from_all_tokens_down_to_half_and_are_left_padded():
    ids, mask = sampling.random_prompts(Load(3, prompt_tokens=4), vocab_size=10)
    assert mask.int().tolist() == [[1, 1, 1, 1], [0, 1, 1, 1], [0, 0, 1, 1]]
    assert (ids != 0).equal(mask)
    assert ids.max() < 9


def test_generate_draws_all_tokens_from_the_whole_softmax():
    model = make_model("1m", num_hidden_layers=1, hidden_size=16, intermediate_size=16)
    load = Load(2, samples=300, prompt_tokens=4, response_tokens=3)
    before = torch.get_rng_state()
    with sampling.own_randomness():
        drawn = sampling.generate_run(model, load)()
    assert torch.equal(torch.get_rng_state(), before)
    assert drawn.shape == (600, 4 + 3)
    ids, _ = sampling.random_prompts(load, 2048)
    assert drawn[:, :4].equal(ids.repeat_interleave(300, dim=0))
    # By default `transformers` would draw from the 50 most likely tokens.
    assert len(drawn[:300, 4].unique()) > 100


def test_ours_draws_the_same_load(tiny):
    load = Load(2, samples=3, prompt_tokens=4, response_tokens=5)
    run = sampling.sample_run(make_policy(tiny), load)
    first, second = run(), run()
    assert first.ids.shape == (6, 5)
    assert first.mask.all()
    assert not first.ids.equal(second.ids)
    assert (load.rows, load.tokens, str(load)) == (6, 30, "2 prompts x 3 samples, 4 + 5 tokens")


@pytest.mark.parametrize("sizes", [TINY, TINY | {"num_key_value_heads": 2}, {}])
def test_flops_are_those_of_a_real_forward_pass(sizes):
    model = make_model("1m", **sizes)
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        model(torch.tensor([[1]]))
    products = counter.get_flop_counts()["Global"][torch.ops.aten.mm]
    assert limits.flops_per_token(model.config) == products


def test_flops_of_a_configuration_worked_by_hand(tiny):
    assert limits.flops_per_token(tiny.config) == 2 * TINY_WEIGHTS == 560


def test_every_layout_multiplies_the_same():
    weights = [torch.tensor([[1.0, 2.0], [3.0, 4.0], [0.0, 1.0]]), torch.tensor([[1.0, 0.0, 2.0]])]
    inputs = {2: torch.tensor([[1.0, 1.0], [2.0, 0.0]]), 3: torch.tensor([[1.0, 2.0, 3.0]] * 2)}
    rows, columns, *packed = (step() for step in limits._layouts(weights, inputs))
    expected = [[[3.0, 7.0, 1.0], [2.0, 6.0, 0.0]], [[7.0], [7.0]]]
    assert [y.tolist() for y in rows] == expected
    assert [y.t().tolist() for y in columns] == expected
    assert len(packed) == has_onednn()
    for products in packed:
        assert [y.tolist() for y in products] == expected


def test_rates_are_work_over_the_fastest_run(tiny, monkeypatch):
    times = iter([7.0, 4.0, 5.0] * 3)
    monkeypatch.setattr(limits, "seconds", lambda run: next(times))
    assert limits.matmul_flops(3, tiny, torch.float32) == 3 * 560 / 4
    monkeypatch.setattr(limits, "COPIED", {"cpu": 1000})
    monkeypatch.setattr(limits, "seconds", lambda run: 0.5)
    assert limits.copy_bandwidth() == 2 * 1000 / 0.5


def test_bytes_of_a_step_worked_by_hand(tiny):
    # Two prompts of mean length 3 and six responses of mean length 1; keys and values of width 2
    # in two layers.
    load = Load(2, samples=3, prompt_tokens=4, response_tokens=2)
    elements = TINY_WEIGHTS + (2 * 3 + 6 * 1) * 2 * 2 * 2
    assert sampling.step_bytes(tiny.config, load, torch.bfloat16) == 2 * elements
    assert sampling.step_bytes(tiny.config, load, torch.float32) == 4 * elements


def rows_of(cases):
    rows = sampling.measure(1, model="1m", cases=cases)
    for row, case in zip(rows, cases, strict=False):
        figures = [row.ours, row.peer, row.ratio, *row.detail.values()]
        assert all(math.isfinite(x) and x > 0 for x in figures)
        load = case.load
        assert row.detail["tokens_per_second"] == pytest.approx(load.tokens / row.ours)
        assert row.detail["peer_step_ms"] == pytest.approx(1e3 * row.peer / load.response_tokens)
    return {row.name: row.goal for row in rows}


SHORT = Load(2, prompt_tokens=4, response_tokens=3)
SHORT_CASES = (
    Case(SHORT, "float32", goal=2.0),
    Case(SHORT, "auto", goal=4.0),
    Case(SHORT, "auto", "float32", goal=3.0),
)


def test_rows_of_a_default_of_bfloat16(monkeypatch):
    monkeypatch.setattr(precision, "WIDE", 1)
    monkeypatch.setattr(precision, "multiplies_bfloat16", lambda device: True)
    assert rows_of(SHORT_CASES) == {
        "2 prompts, 4 + 3 tokens, float32": 2.0,
        "2 prompts, 4 + 3 tokens, bfloat16 (the default here)": 4.0,
        "2 prompts, 4 + 3 tokens, bfloat16 (the default here) against float32": 3.0,
    }


def test_rows_of_a_default_of_float32_are_there_once(monkeypatch):
    monkeypatch.setattr(precision, "multiplies_bfloat16", lambda device: False)
    name = "2 prompts, 4 + 3 tokens, float32 (the default here)"
    assert rows_of(SHORT_CASES) == {name: 2.0}


def test_growth_finds_slopes_that_are_known():
    def points(axis, steps):
        return [{"axis": axis, "x": x, "step_ms": ms} for x, ms in steps.items()]

    frame = pd.DataFrame(
        points("length", {1024: 3.0, 16: 100.0, 64: 2.0, 256: 9.0})
        + points("batch", {4: 10.0, 1: 5.0, 16: 20.0})  # doubles where the batch quadruples
        + points("size", {100: 1.0, 10_000: 1.0, 1_000_000: 100.0})  # flat, then linear
    )
    assert scaling.growth(frame) == pytest.approx(
        {"length": 1.5, "batch": 0.5, "batch_end": 0.5, "size": 0.5, "size_end": 1.0}
    )


SHORT_POINTS = [
    ("batch", "1m", Load(1, 1, 4, 4)),
    ("batch", "1m", Load(4, 1, 4, 4)),
    ("length", "1m", Load(2, 1, 4, 2)),
    ("length", "1m", Load(2, 1, 4, 64)),
    ("size", "1m", Load(2, 1, 4, 2)),
    ("size", YARDSTICK, Load(2, 1, 4, 2)),
]


@pytest.fixture(scope="module")
def frame():
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(limits, "ENOUGH", 0.0)
        return scaling.measure(1, "float32", SHORT_POINTS)


def test_scaling_measures_every_point(frame):
    assert frame["axis"].tolist() == [axis for axis, _, _ in SHORT_POINTS]
    assert frame["x"].tolist() == [1, 4, 2, 64, 1_016_960, 3_541_248]
    numbers = frame[["tokens_per_second", "limit", "generate", "step_ms"]].to_numpy()
    assert (numbers > 0).all()
    assert math.isfinite(numbers.sum())
    rows = [load.rows for _, _, load in SHORT_POINTS]
    assert (frame["tokens_per_second"] * frame["step_ms"]).tolist() == pytest.approx(
        [1000 * r for r in rows]
    )
    assert set(frame["precision"]) == {"float32"}
    assert frame["held"].tolist()[0] == "4 new tokens, 1,016,960 parameters"
    assert frame["held"].tolist()[-1] == "2 rows, 2 new tokens"
    # The same products have one limit, whatever the length.
    assert frame["limit"][2] == frame["limit"][3] == frame["limit"][4]
    assert frame["limit"][4] != frame["limit"][5]


def test_generate_is_left_out_where_it_would_take_long(monkeypatch):
    monkeypatch.setattr(limits, "ENOUGH", 0.0)
    monkeypatch.setattr(scaling, "ENOUGH", 0.0)
    frame = scaling.measure(3, "float32", SHORT_POINTS[:1])
    assert frame["generate"].isna().all()
    assert (frame["tokens_per_second"] > 0).all()


def test_the_axes_go_as_far_as_the_question():
    reached = {axis: [] for axis in scaling.AXES}
    for axis, model, load in scaling.loads():
        x = {"batch": load.rows, "length": load.response_tokens, "size": model}
        reached[axis].append(x[axis])
    assert {axis: (found[0], found[-1]) for axis, found in reached.items()} == {
        "batch": (1, 512),
        "length": (16, 1024),
        "size": ("1m", "100m"),
    }


def test_the_figure_shows_three_panels_of_every_curve(frame, tmp_path, monkeypatch):
    pytest.importorskip("matplotlib")
    drawn = []
    finish = scaling.style.finish
    monkeypatch.setattr(
        scaling.style, "finish", lambda canvas, n: (drawn.append(canvas), finish(canvas, n))
    )
    mixed = frame.assign(precision=["bfloat16"] * 5 + ["float32"])
    scaling.figure(mixed, tmp_path / "scaling.png")
    assert (tmp_path / "scaling.png").read_bytes().startswith(b"\x89PNG")
    (canvas,) = drawn
    assert [len(axes.lines) for axes in canvas.axes] == [3, 3, 4]
    for axes, axis in zip(canvas.axes, ("batch", "length", "size"), strict=True):
        assert (axes.get_xscale(), axes.get_yscale()) == ("log", "log")
        rows = frame[frame["axis"] == axis]
        for line, column in zip(axes.lines, scaling.CURVES, strict=False):
            assert list(line.get_ydata()) == rows[column].tolist()
    assert canvas.axes[2].lines[3].get_label() == "hollow: float32"
