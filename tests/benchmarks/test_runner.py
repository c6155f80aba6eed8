from __future__ import annotations

import dataclasses
import io
import json
import os
import signal
import subprocess
import sys
import time

import pandas as pd
import pytest
from rich.console import Console

from textgym.benchmarks.preflight import preflight
from textgym.benchmarks.runner import run_suite
from textgym.benchmarks.suite import Evaluation, Spec, Suite
from textgym.benchmarks.workbench import Workbench


@pytest.fixture
def suite(plugin, model):
    return Suite(
        "test",
        tasks=(Spec(plugin("Letters"), label="letters"),),
        agents=(
            Spec("human"),
            Spec("pretrained"),
            Spec("sft"),
            Spec("best_of_n", {"n": 3}, "best"),
            Spec(plugin("Nudge"), label="nudge"),
            Spec(plugin("Nudge"), {"fail_at": 1}, "diverges"),
        ),
        model=str(model),
        budget=16,
        evaluation=Evaluation(prompts=5, samples_per_prompt=3),
        sft={"steps": 2},
    )


def run(suite, out, jobs=1):
    console = Console(file=io.StringIO(), width=200)
    bench = Workbench(out)
    outcomes = run_suite(suite, bench, preflight(bench, suite, print), jobs, console)
    return outcomes, console.file.getvalue()


def results(out):
    found = sorted(out.glob("letters/*/seed-*/result.json"))
    return {path.parts[-3]: json.loads(path.read_text()) for path in found}


def test_a_run_writes_whole_cells(suite, tmp_path):
    outcomes, shown = run(suite, tmp_path)
    assert [o.cell.split("/")[1] for o in outcomes if o.error] == ["diverges"]
    assert "FAILED letters/diverges/seed-0: step 1: loss is nan" in shown
    assert shown.count("letters/") == 6
    found = results(tmp_path)
    assert set(found) == {"human", "pretrained", "sft", "best", "nudge"}

    nudge = found["nudge"]
    # Two rounds of eight prompts, counted by the agent's budget and by the harness alike.
    assert (nudge["budget"]["used"], nudge["budget"]["scored"]) == (16, 16)
    assert nudge["evaluation"] == {"prompts": 5, "samples_per_prompt": 3}
    assert nudge["metrics"]["kl_seq"]["value"] > 0
    assert {"torch", "textgym"} <= set(nudge["versions"])
    assert pd.read_parquet(tmp_path / "letters/nudge/seed-0/curve.parquet")["step"].tolist() == [
        0,
        1,
    ]
    samples = pd.read_parquet(tmp_path / "letters/nudge/seed-0/samples.parquet")
    assert len(samples) == 15
    assert samples["prompt"].nunique() == 5

    # The fine-tuned policy is the reference, so its KL is nothing; the pretrained one's is not.
    assert found["sft"]["metrics"]["kl_seq"]["value"] == 0
    assert found["pretrained"]["metrics"]["kl_seq"]["value"] > 0
    # Neither people nor best-of-n have a policy, and people wrote one text per prompt.
    assert "kl_seq" not in found["human"]["metrics"]
    assert "kl_bound" in found["best"]["metrics"]
    assert found["human"]["evaluation"]["samples_per_prompt"] == 1
    assert "diversity_loss/ead" not in found["human"]["metrics"]
    # Best-of-n asks the task for rewards while it is measured; that is no training.
    assert found["best"]["budget"]["scored"] == 0


def test_every_agent_of_a_seed_is_asked_the_same_prompts(suite, tmp_path):
    run(suite, tmp_path)
    asked = {
        tuple(pd.read_parquet(path)["prompt"].unique())
        for path in tmp_path.glob("letters/*/seed-0/samples.parquet")
    }
    assert len(asked) == 1


def test_a_second_run_does_only_what_is_missing(suite, tmp_path):
    run(suite, tmp_path)
    before = {path: path.stat().st_mtime_ns for path in tmp_path.glob("letters/*/*/result.json")}
    outcomes, shown = run(suite, tmp_path)
    assert [o.cell for o in outcomes] == ["letters/diverges/seed-0"]
    assert "5 of 6 cells were finished before" in shown
    assert before == {path: path.stat().st_mtime_ns for path in before}
    # Another budget is another cell.
    changed = dataclasses.replace(suite, agents=suite.agents[4:5], budget=32)
    assert len(run(changed, tmp_path)[0]) == 1


def test_metrics_depend_on_the_seed_and_not_on_the_processes(suite, tmp_path):
    here = dataclasses.replace(suite, seeds=(0, 1))
    run(here, tmp_path / "one", jobs=1)
    run(here, tmp_path / "two", jobs=2)
    compared = 0
    for path in (tmp_path / "one").glob("letters/*/seed-*/result.json"):
        other = tmp_path / "two" / path.relative_to(tmp_path / "one")
        first, second = (json.loads(p.read_text())["metrics"] for p in (path, other))
        assert first == second
        compared += 1
    assert compared == 10
    seeds = [results_of(tmp_path / "one", seed) for seed in (0, 1)]
    assert seeds[0]["reward"] != seeds[1]["reward"]


def results_of(out, seed):
    return json.loads((out / f"letters/nudge/seed-{seed}/result.json").read_text())["metrics"]


def test_ctrl_c_keeps_finished_cells_and_leaves_no_half(plugin, model, tmp_path):
    began, out = tmp_path / "began", tmp_path / "out"
    arguments = ["bench", "--tasks", plugin("Letters"), "--seeds", "0", "--out", str(out)]
    arguments += ["--agents", f"sft,{plugin('Wait')}", "--model", str(model), "--jobs", "2"]
    script = "import sys\nfrom textgym.benchmarks.cli import main\nmain(sys.argv[1:])"
    process = subprocess.Popen(
        [sys.executable, "-c", script, *arguments],
        env={**os.environ, "TEXTGYM_TEST_BEGAN": str(began)},
        stdout=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    try:
        finished = out / "Letters" / "sft" / "seed-0" / "result.json"
        while process.poll() is None and not (began.exists() and finished.exists()):
            time.sleep(0.1)
        os.killpg(process.pid, signal.SIGINT)
        shown, _ = process.communicate()
    finally:
        process.kill()
    assert process.returncode == 130
    assert "run the same command again to go on" in shown
    assert [p.name for p in out.glob("Letters/*/*")] == ["seed-0"]
    assert list(out.glob("**/.*.tmp")) == []
