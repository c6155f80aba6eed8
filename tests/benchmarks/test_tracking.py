from __future__ import annotations

import io
import json
import sys
from types import SimpleNamespace

import pandas as pd
import pytest
from rich.console import Console

from textgym.benchmarks import cli, tracking
from textgym.benchmarks.preflight import preflight
from textgym.benchmarks.runner import run_suite
from textgym.benchmarks.suite import Evaluation, Spec, Suite
from textgym.benchmarks.tracking import Tracking, choose_trackers
from textgym.benchmarks.workbench import Workbench
from textgym.errors import ConfigError, UnknownNameError


@pytest.fixture
def suite(plugin, model):
    return Suite(
        "test",
        tasks=(Spec(plugin("Letters"), label="letters"),),
        agents=(
            Spec(plugin("Nudge"), label="nudge"),
            Spec(plugin("Nudge"), {"fail_at": 1}, "diverges"),
        ),
        model=str(model),
        reference="pretrained",
        budget=16,
        evaluation=Evaluation(prompts=4, samples_per_prompt=2, frontier_samples=0),
    )


def run(suite, out, *trackers, jobs=1):
    bench = Workbench(out, Tracking(trackers, suite.name))
    console = Console(file=io.StringIO())
    return run_suite(suite, bench, preflight(bench, suite, print), jobs, console)


def only(suite, label):
    return suite.replace(agents=tuple(a for a in suite.agents if a.label == label))


def scalars(folder):
    """Tag -> [(step, value)] of every event file in the folder, and the texts."""
    accumulator = pytest.importorskip(
        "tensorboard.backend.event_processing.event_accumulator"
    ).EventAccumulator(str(folder))
    accumulator.Reload()
    tags = accumulator.Tags()
    numbers = {t: [(e.step, e.value) for e in accumulator.Scalars(t)] for t in tags["scalars"]}
    texts = [e.tensor_proto.string_val[0].decode() for t in tags["tensors"] if t.startswith("conf")
             for e in accumulator.Tensors(t)]  # fmt: skip
    return numbers, texts


@pytest.fixture
def recorded(monkeypatch):
    """A stand-in for Trackio: a module of three functions that note what they are told."""
    told = []
    module = SimpleNamespace(
        init=lambda **options: told.append(("init", options)),
        log=lambda metrics, step: told.append(("log", step, metrics)),
        finish=lambda: told.append(("finish",)),
    )
    monkeypatch.setitem(sys.modules, "trackio", module)
    return told, module


def test_event_files_hold_what_the_results_hold(suite, tmp_path):
    """Two jobs, so that the choice has to reach the workers."""
    pytest.importorskip("tensorboard")
    run(suite, tmp_path, "tensorboard", jobs=2)
    cell, folder = "letters/nudge/seed-0", tmp_path / "tensorboard"
    numbers, texts = scalars(folder / cell)
    curve = pd.read_parquet(tmp_path / cell / "curve.parquet")
    assert len(curve) == 2
    for name in curve.columns.drop("step"):
        assert numbers[name] == [
            (step, pytest.approx(value))
            for step, value in zip(curve["step"], curve[name], strict=True)
        ]
    result = json.loads((tmp_path / cell / "result.json").read_text())
    reward = result["metrics"]["reward"]
    for tag, end in (("reward", "value"), ("reward_low", "low"), ("reward_high", "high")):
        assert numbers[f"final/{tag}"] == [(1, pytest.approx(reward[end]))]
    known = {n for n, m in result["metrics"].items() if m["value"] is not None}
    assert {f"final/{name}" for name in known} <= set(numbers)
    written = "".join(line.removeprefix("    ") for line in texts[0].splitlines(keepends=True))
    assert json.loads(written) == result["config"]
    assert (folder / ".gitignore").read_text() == "*\n"

    numbers, _ = scalars(folder / "letters/diverges/seed-0")
    assert set(numbers) == {"reward"}
    assert len(numbers["reward"]) == 1


def test_a_cell_that_is_run_again_begins_its_folder_anew(suite, tmp_path):
    pytest.importorskip("tensorboard")
    suite = only(suite, "diverges")
    for _ in range(2):
        run(suite, tmp_path, "tensorboard")
    folder = tmp_path / "tensorboard/letters/diverges/seed-0"
    assert len(list(folder.iterdir())) == 1
    assert len(scalars(folder)[0]["reward"]) == 1


def test_trackers_are_no_part_of_a_result(suite, tmp_path, recorded):
    suite, told = only(suite, "nudge"), recorded[0]
    run(suite, tmp_path / "with", "trackio")
    run(suite, tmp_path / "without")
    assert told
    first, second = (
        json.loads((tmp_path / out / "letters/nudge/seed-0/result.json").read_text())
        for out in ("with", "without")
    )
    assert first["metrics"] == second["metrics"]
    assert first["config"] == second["config"]
    told.clear()
    assert run(suite, tmp_path / "without", "trackio") == []
    assert told == []


def test_the_three_functions_are_told_of_a_cell_from_start_to_end(suite, tmp_path, recorded):
    run(suite, tmp_path, "trackio")
    calls = recorded[0]
    begun, steps, closed = ["init"], ["log", "log"], ["finish"]
    succeeds, fails = begun + steps + ["log"] + closed, begun + steps[:1] + closed
    assert [call[0] for call in calls] == succeeds + fails
    options = calls[0][1]
    curve = pd.read_parquet(tmp_path / "letters/nudge/seed-0/curve.parquet")
    result = json.loads((tmp_path / "letters/nudge/seed-0/result.json").read_text())
    named = {"project": "textgym", "group": "test", "name": "letters/nudge/seed-0"}
    assert options == {**named, "config": result["config"]}
    assert [call[1:] for call in calls[1:3]] == [
        (0, {"reward": curve["reward"][0]}),
        (1, {"reward": curve["reward"][1]}),
    ]
    assert calls[3][1] == 1
    assert calls[3][2]["final/kl_seq"] == result["metrics"]["kl_seq"]["value"]
    assert calls[3][2]["final/kl_seq_high"] == result["metrics"]["kl_seq"]["high"]


@pytest.mark.parametrize("fails", ["init", "log", "finish"])
def test_a_tracker_that_fails_ends_nothing(suite, tmp_path, recorded, capfd, fails):
    told, module = recorded
    cell = "letters/nudge/seed-0"

    def broken(*arguments, **options):
        told.append((fails,))
        raise OSError("no route\nto host")

    setattr(module, fails, broken)
    outcomes = run(only(suite, "nudge"), tmp_path, "trackio")
    assert [outcome.error for outcome in outcomes] == [""]
    shown = capfd.readouterr().err.splitlines()
    line = f"warning: {cell}: trackio is told no more: OSError: no route to host"
    assert [text for text in shown if text.startswith("warning")] == [line]
    calls = [call[0] for call in told]
    # One that fails is asked to close, and nothing else.
    assert (
        calls
        == {
            "init": ["init"],
            "log": ["init", "log", "finish"],
            "finish": ["init", "log", "log", "log", "finish", "finish"],
        }[fails]
    )


def test_weights_and_biases_keeps_a_run_offline(suite, tmp_path, monkeypatch, capfd):
    pytest.importorskip("wandb")
    monkeypatch.delenv("WANDB_MODE", raising=False)
    run(only(suite, "nudge"), tmp_path, "wandb")
    assert "warning: letters" not in capfd.readouterr().err
    (written,) = (tmp_path / "wandb").glob("offline-run-*/*.wandb")
    content = written.read_bytes()
    curve = pd.read_parquet(tmp_path / "letters/nudge/seed-0/curve.parquet")
    for value in curve["reward"]:
        assert json.dumps(value).encode() in content
    assert b"letters/nudge/seed-0" in content
    assert b"final/kl_seq" in content
    assert (tmp_path / "wandb/.gitignore").read_text() == "*\n"


def test_which_trackers_are_meant(monkeypatch):
    there = {"tensorboard", "wandb"}
    monkeypatch.setattr(tracking, "_is_installed", there.__contains__)
    assert choose_trackers(None) == choose_trackers([]) == ("tensorboard",)
    assert choose_trackers(["none"]) == ()
    assert choose_trackers(["wandb", "tensorboard", "wandb"]) == ("wandb", "tensorboard")
    with pytest.raises(ConfigError, match=r"^trackio is not installed; pip install 'textgym\[tra"):
        choose_trackers(["tensorboard", "trackio"])
    with pytest.raises(ConfigError, match="'none' stands alone"):
        choose_trackers(["none", "wandb"])
    with pytest.raises(UnknownNameError, match=r"'wnadb'; did you mean 'wandb'\?"):
        choose_trackers(["wnadb"])
    there.clear()
    assert choose_trackers(None) == ()


def test_a_folder_of_runs_is_no_tracker(tmp_path, monkeypatch):
    (tmp_path / "trackio_runs").mkdir()
    monkeypatch.syspath_prepend(tmp_path)
    assert not tracking._is_installed("trackio_runs")
    assert tracking._is_installed("json")


def test_one_that_is_missing_is_said_before_anything_is_done(monkeypatch, tmp_path, capsys):
    monkeypatch.setattr(tracking, "_is_installed", lambda name: False)
    with pytest.raises(SystemExit) as end:
        cli.main(["bench", "--track", "wandb", "--out", str(tmp_path / "out")])
    assert end.value.code == 2
    error = capsys.readouterr().err
    assert error == "error: wandb is not installed; pip install 'textgym[wandb]'\n"
    assert not (tmp_path / "out").exists()
