"""Agents are looked at while they train, and it changes nothing."""

import dataclasses
import io
import json

import pandas as pd
import pytest
from rich.console import Console

from textgym.benchmarks.cell import cells
from textgym.benchmarks.preflight import preflight
from textgym.benchmarks.runner import run_suite
from textgym.benchmarks.suite import Evaluation, Spec, Suite
from textgym.benchmarks.workbench import Workbench
from textgym.errors import ConfigError

FEW = {"prompts_per_step": 4, "lr": 1e-2}
EVALUATION = Evaluation(prompts=4, samples_per_prompt=3, frontier_samples=4)
LOOKS = dataclasses.replace(EVALUATION, checkpoint_prompts=3, checkpoint_samples=2)


@pytest.fixture(scope="module")
def suite(plugin, model):
    return Suite(
        "test",
        tasks=(Spec(plugin("Letters"), label="letters"),),
        agents=(
            Spec("reinforce", FEW, "reinforce"),
            Spec("nlpo", {**FEW, "value_warmup": 0}, "nlpo"),
            Spec("sft"),
            Spec("sft", {"steps": 3}, "warm"),
            Spec("best_of_n", {"n": 2}, "best"),
            Spec("human"),
            Spec(plugin("Nudge"), label="nudge"),
        ),
        model=str(model),
        budget=40,
        evaluation=LOOKS,
        sft={"steps": 2},
    )


@pytest.fixture(scope="module")
def out(suite, tmp_path_factory):
    out = tmp_path_factory.mktemp("looked-at")
    assert [o.error for o in run(suite, out)] == [""] * 7
    return out


def run(suite, out):
    bench, console = Workbench(out), Console(file=io.StringIO(), width=200)
    return run_suite(suite, bench, preflight(bench, suite, print), 1, console)


def result(out, agent):
    return json.loads((out / "letters" / agent / "seed-0" / "result.json").read_text())


def looks(out, agent):
    return pd.read_parquet(out / "letters" / agent / "seed-0" / "checkpoints.parquet")


def test_looking_changes_no_number(suite, out, tmp_path):
    plain = dataclasses.replace(
        suite, agents=suite.agents[:2], evaluation=dataclasses.replace(EVALUATION)
    )
    run(plain, tmp_path)
    for agent in ("reinforce", "nlpo"):
        with_looks, without = result(out, agent), result(tmp_path, agent)
        assert with_looks["metrics"] == without["metrics"]
        assert with_looks["budget"] == without["budget"]
        assert not (tmp_path / "letters" / agent / "seed-0" / "checkpoints.parquet").exists()


def test_training_is_seen_from_the_reference_on(out):
    table = looks(out, "reinforce")
    steps = table.groupby("step")["completions"].first()
    # Ten batches of four: the start, 2, 4, 8 and the end.
    assert steps.to_dict() == {0: 0, 2: 8, 4: 16, 8: 32, 10: 40}
    assert table["prompt_index"].tolist() == [0, 1, 2] * 5
    kl = table.groupby("step")["kl_seq"].mean()
    assert kl[0] == 0
    assert kl[2] > 0
    assert {"reward", "diversity/ead", "length"} <= set(table)


def test_what_was_seen_joins_the_curve(out):
    curve = pd.read_parquet(out / "letters/reinforce/seed-0/curve.parquet")
    seen = curve["checkpoint/kl_seq"].dropna()
    assert (seen.index + 1).tolist() == [2, 4, 8]
    table = looks(out, "reinforce").groupby("step")["kl_seq"].mean()
    assert seen.tolist() == pytest.approx(table[[2, 4, 8]].tolist(), rel=1e-5)


def test_who_does_not_train_is_seen_once(out):
    for agent in ("sft", "best"):
        assert set(looks(out, agent)["step"]) == {0}, agent
    assert (looks(out, "sft")["kl_seq"] == 0).all()
    assert "kl_seq" not in looks(out, "best")
    assert not (out / "letters/human/seed-0/checkpoints.parquet").exists()


def test_who_starts_elsewhere_has_not_been_at_the_reference(out):
    # `warm` is tuned from the pretrained model: three logged steps.
    assert set(looks(out, "warm")["step"]) == {3}


def test_a_policy_named_only_at_the_end_is_seen_at_the_end(out):
    assert set(looks(out, "nudge")["step"]) == {0, 2}


def test_pools_hold_the_references_numbers_without_its_texts(out):
    folder = out / "pools" / "letters"
    assert sorted(path.name for path in folder.iterdir()) == [
        "optima-seed-0.parquet",
        "seed-0.parquet",
        "start-seed-0.parquet",
    ]
    scores = pd.read_parquet(folder / "seed-0.parquet")
    assert set(scores) == {"prompt", "reward", "gold"}
    assert len(scores) == 4 * 4
    start = pd.read_parquet(folder / "start-seed-0.parquet")
    assert len(start) == 3
    seen = looks(out, "reinforce").query("step == 0")
    assert seen["diversity/ead"].tolist() == start["diversity/ead"].tolist()
    optima = pd.read_parquet(folder / "optima-seed-0.parquet")
    assert optima["kl"].is_monotonic_increasing
    assert optima["reward"].is_monotonic_increasing
    assert optima["reward"][0] == pytest.approx(scores["reward"].mean(), rel=1e-5)


def test_results_from_before_there_were_checkpoints_still_count(suite, out):
    bench = Workbench(out)
    (cell, *_) = cells(suite, preflight(bench, suite, print))
    assert cell.is_finished(out)
    no_looks = dataclasses.replace(cell, evaluation=EVALUATION)
    assert not no_looks.is_finished(out), "it was run with looks"
    path = out / cell.name / "result.json"
    record = json.loads(path.read_text())
    whole = path.read_text()
    for name in ("checkpoint_prompts", "checkpoint_samples"):
        del record["config"]["evaluation"][name]
    path.write_text(json.dumps(record))
    assert not cell.is_finished(out)
    assert dataclasses.replace(cell, evaluation=EVALUATION).is_finished(out)
    path.write_text(whole)


@pytest.mark.parametrize(("name", "value"), [("checkpoint_prompts", -1), ("checkpoint_samples", 1)])
def test_what_cannot_be_asked_is_refused(name, value):
    with pytest.raises(ConfigError, match=f"{name} must be >= "):
        Evaluation(**{name: value})
