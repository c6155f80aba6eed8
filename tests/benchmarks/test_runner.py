from __future__ import annotations

import dataclasses
import io
import json
import math
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pandas as pd
import pytest
from rich.console import Console

from textgym.benchmarks.cell import OWN_MODEL
from textgym.benchmarks.preflight import preflight
from textgym.benchmarks.reachable import ReferencePool
from textgym.benchmarks.runner import run_suite
from textgym.benchmarks.suite import Evaluation, Spec, Suite
from textgym.benchmarks.workbench import Workbench
from textgym.cache import cache_root


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


def test_a_run_says_what_it_computed_in_and_shares_no_reference(suite, tmp_path):
    few = dataclasses.replace(suite, agents=(suite.agents[2], suite.agents[4]))
    run(few, tmp_path)
    found = results(tmp_path)
    asked = {(r["config"]["precision"], r["precision"]) for r in found.values()}
    assert asked == {("auto", "float32")}
    # Named, it is the same cells and references.
    assert run(dataclasses.replace(few, precision="float32"), tmp_path)[0] == []
    references = set(tmp_path.glob("references/*/policy"))
    outcomes, _ = run(dataclasses.replace(few, precision="bfloat16"), tmp_path)
    assert [o.error for o in outcomes] == ["", ""]
    changed = results(tmp_path)
    asked = {(r["config"]["precision"], r["precision"]) for r in changed.values()}
    assert asked == {("bfloat16", "bfloat16")}
    assert changed["nudge"]["metrics"] != found["nudge"]["metrics"]
    fresh = set(tmp_path.glob("references/*/policy")) - references
    assert [len(references), len(fresh)] == [1, 1]


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


def test_cells_are_held_against_what_was_reachable(suite, tmp_path):
    agents = (suite.agents[2], suite.agents[3], suite.agents[4])
    wide = dataclasses.replace(suite, agents=agents, evaluation=Evaluation(5, 3, "test", 32))
    run(wide, tmp_path / "wide")
    found = results(tmp_path / "wide")
    nudge = found["nudge"]["metrics"]
    assert 0.01 < nudge["kl_seq"]["value"] < math.log(32 / 3), "else this shows nothing"
    prompts = pd.read_parquet(tmp_path / "wide/letters/nudge/seed-0/prompts.parquet")
    assert (prompts["frontier/reward"] >= prompts["frontier/reference_reward"]).all()
    assert nudge["frontier_efficiency"]["value"] == pytest.approx(
        (prompts["reward"] - prompts["frontier/reference_reward"]).sum()
        / (prompts["frontier/reward"] - prompts["frontier/reference_reward"]).sum()
    )
    assert "loss_beyond_optimum/ead" in nudge
    # Best-of-n's place is where its own estimate says; the reference has not moved.
    assert "frontier_efficiency" in found["best"]["metrics"]
    assert "frontier_efficiency" not in found["sft"]["metrics"]
    pools = list((tmp_path / "wide/references").glob("*/seed-0-*/pool.parquet"))
    assert len(pools) == 1
    assert ReferencePool.load(pools[0]).rewards.shape == (5, 32)

    without = dataclasses.replace(wide, evaluation=Evaluation(5, 3, "test", 0))
    run(without, tmp_path / "without")
    metrics = results(tmp_path / "without")["nudge"]["metrics"]
    assert not [name for name in metrics if "frontier" in name or "beyond" in name]
    # Drawing the pool changes nothing else.
    assert metrics.items() <= nudge.items()


@pytest.fixture
def oracle():
    few = {"prompts_per_step": 4, "samples_per_prompt": 4, "lr": 3e-3}
    return Suite(
        "oracle",
        tasks=(Spec("two-modes"), Spec("noisy-reward"), Spec("tic-tac-toe")),
        agents=(
            Spec("reference"),
            Spec("best_of_n", {"n": 4}),
            Spec("reinforce", few, "reinforce"),
        ),
        reference="pretrained",
        model="no such model",
        budget=16 * 7,
        evaluation=Evaluation(prompts=3, samples_per_prompt=4),
    )


def test_oracle_cells_bring_their_own_model_and_their_exact_numbers(oracle, tmp_path):
    outcomes, _ = run(oracle, tmp_path)
    assert not [o.error for o in outcomes if o.error]
    for path in tmp_path.glob("*/*/seed-0/result.json"):
        text = path.read_text()
        assert json.loads(text)["config"]["model"] == OWN_MODEL
        for folder in (str(cache_root()), str(tmp_path), str(Path.home()), "no such model"):
            assert folder not in text
        prompts = pd.read_parquet(path.with_name("prompts.parquet"))
        assert prompts["regret"].notna().all()
    assert len(list(tmp_path.glob("*/*/seed-0/result.json"))) == 9

    two = tmp_path / "two-modes"
    curve = pd.read_parquet(two / "reinforce/seed-0/curve.parquet")
    assert curve["exact/regret"].notna().tolist() == [True, *[False] * 4, True, False]
    assert {"exact/reward", "exact/kl_seq", "exact/entropy_kept", "exact/p_a"} <= set(curve)
    metrics = json.loads((two / "best_of_n@n=4/seed-0/result.json").read_text())["metrics"]
    # Four draws from halves, less the silence that is never right: an A but for (0.505)^4.
    assert metrics["p_a"]["value"] == pytest.approx(1 - 0.505**4, abs=2e-3)
    assert metrics["regret"]["low"] == metrics["regret"]["value"] == metrics["regret"]["high"]
    assert "frontier_efficiency" in metrics
    games = tmp_path / "tic-tac-toe/reinforce/seed-0/result.json"
    assert {"games/random", "games/perfect", "legal"} <= set(
        json.loads(games.read_text())["metrics"]
    )
    assert not list(tmp_path.glob("references/**/pool.parquet")), "nothing is estimated"


def test_oracle_numbers_follow_the_seed_whatever_ran_before(oracle, tmp_path):
    run(oracle, tmp_path / "all")
    alone = dataclasses.replace(oracle, tasks=oracle.tasks[1:2], agents=oracle.agents[2:])
    run(alone, tmp_path / "alone")
    run(dataclasses.replace(alone, seeds=(1,)), tmp_path / "alone")
    cell = "noisy-reward/reinforce"
    first, second, other = (
        json.loads((tmp_path / path / "result.json").read_text())["metrics"]
        for path in (f"all/{cell}/seed-0", f"alone/{cell}/seed-0", f"alone/{cell}/seed-1")
    )
    assert first == second
    assert first["regret"] != other["regret"]
    curves = [
        pd.read_parquet(tmp_path / out / cell / "seed-0" / "curve.parquet")
        for out in ("all", "alone")
    ]
    pd.testing.assert_frame_equal(*curves)


def test_ctrl_c_keeps_finished_cells_and_leaves_no_half(plugin, model, tmp_path):
    began, out = tmp_path / "began", tmp_path / "out"
    arguments = ["bench", "--tasks", plugin("Letters"), "--seeds", "0", "--out", str(out)]
    arguments += ["--agents", f"sft,{plugin('Wait')}", "--model", str(model), "--jobs", "2"]
    # A shell starts what it runs in the background deaf to Ctrl-C, and so these tests.
    script = "import signal, sys\nsignal.signal(signal.SIGINT, signal.default_int_handler)\n"
    script += "from textgym.benchmarks.cli import main\nmain(sys.argv[1:])"
    process = subprocess.Popen(
        [sys.executable, "-c", script, *arguments],
        env={**os.environ, "TEXTGYM_TEST_BEGAN": str(began)},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    try:
        finished = out / "Letters" / "sft" / "seed-0" / "result.json"
        while process.poll() is None and not (began.exists() and finished.exists()):
            time.sleep(0.1)
        os.killpg(process.pid, signal.SIGINT)
        shown, complaints = process.communicate()
    finally:
        process.kill()
    assert process.returncode == 130
    assert "run the same command again to go on" in shown
    assert "Traceback" not in shown + complaints
    assert [p.name for p in out.glob("Letters/*/*")] == ["seed-0"]
    assert list(out.glob("**/.*.tmp")) == []
