"""`--lora`: every agent of a suite trains adapters, and what is stored says so."""

import dataclasses
import io
import json
import sys

import pytest
from rich.console import Console
from typer.testing import CliRunner

from textgym.benchmarks import commands
from textgym.benchmarks.cell import cells
from textgym.benchmarks.cli import app
from textgym.benchmarks.leaderboard import build, read_entries
from textgym.benchmarks.preflight import preflight
from textgym.benchmarks.report import markdown
from textgym.benchmarks.runner import run_suite
from textgym.benchmarks.suite import Evaluation, Spec, Suite, parse_suite
from textgym.benchmarks.workbench import Workbench
from textgym.errors import ConfigError
from textgym.models.lora import is_adapted
from textgym.models.policy import load_policy
from textgym.seeding import Streams

FEW = {"prompts_per_step": 8, "lr": 1e-2}


@pytest.fixture
def suite(plugin, model):
    return Suite(
        "test",
        tasks=(Spec(plugin("Letters"), label="letters"),),
        agents=(
            Spec("sft"),
            Spec("pretrained"),
            Spec("sft", {"steps": 3, "lr": 1e-2}, "warm"),
            Spec(plugin("Nudge"), label="nudge"),
            Spec("reinforce", FEW, "reinforce"),
            Spec("ppo", {**FEW, "value_warmup": 0}, "ppo"),
            Spec("best_of_n", {"n": 2}, "best"),
        ),
        model=str(model),
        budget=16,
        evaluation=Evaluation(prompts=4, samples_per_prompt=3, frontier_samples=0),
        sft={"steps": 2},
        lora=2,
    )


def run(suite, out):
    bench, console = Workbench(out), Console(file=io.StringIO(), width=200)
    return run_suite(suite, bench, preflight(bench, suite, print), 1, console)


def results(out):
    found = sorted(out.glob("letters/*/seed-*/result.json"))
    return {path.parts[-3]: json.loads(path.read_text()) for path in found}


def test_every_agent_trains_adapters(suite, tmp_path):
    assert [o.error for o in run(suite, tmp_path)] == [""] * 7
    found = results(tmp_path)
    assert {r["config"]["lora"] for r in found.values()} == {2}
    kl = {name: r["metrics"].get("kl_seq", {}).get("value") for name, r in found.items()}
    assert kl["sft"] == 0
    assert min(kl[name] for name in ("pretrained", "warm", "nudge", "reinforce", "ppo")) > 0
    # The reference is stored as plain weights, and once.
    (folder,) = tmp_path.glob("references/*/policy")
    assert not is_adapted(load_policy(folder).model)
    # Nothing is left to do, and nothing of it counts where every weight is trained.
    assert run(suite, tmp_path) == []
    few = dataclasses.replace(suite, agents=suite.agents[3:4], lora=None)
    assert [o.error for o in run(few, tmp_path)] == [""]
    whole = results(tmp_path)["nudge"]
    assert whole["config"]["lora"] is None
    assert whole["metrics"] != found["nudge"]["metrics"]
    assert len(list(tmp_path.glob("references/*/policy"))) == 2
    text = markdown(build(read_entries(tmp_path)))
    assert "Not a fair comparison: rows differ in lora: 2, none." in text


def test_results_follow_the_seed(suite, tmp_path):
    few = dataclasses.replace(suite, agents=suite.agents[3:6])
    metrics = []
    for out in (tmp_path / "one", tmp_path / "two"):
        run(few, out)
        metrics.append({name: r["metrics"] for name, r in results(out).items()})
    assert len(metrics[0]) == 3
    assert metrics[0] == metrics[1]


def test_what_is_handed_out_shares_the_weights(suite, tmp_path):
    bench = Workbench(tmp_path)
    cell, *_ = cells(suite, preflight(bench, suite, print))
    reference = bench.reference(cell)
    policy, again = (bench.trainable(reference, cell, Streams(cell.seed)) for _ in range(2))
    assert is_adapted(policy.model)
    own = {p.data_ptr() for p in policy.parameters()}
    of_reference = {p.data_ptr() for p in reference.model.parameters()}
    assert {p.data_ptr() for p in policy.model.parameters()} == own | of_reference
    assert all((p == q).all() for p, q in zip(policy.parameters(), again.parameters(), strict=True))
    whole = bench.trainable(reference, dataclasses.replace(cell, lora=None), Streams(cell.seed))
    assert not of_reference & {p.data_ptr() for p in whole.model.parameters()}
    assert len(whole.parameters()) == len(list(reference.model.parameters()))


def test_references_that_are_not_trained_are_the_same(suite, tmp_path):
    bench = Workbench(tmp_path)
    cell, *_ = cells(suite, preflight(bench, suite, print))
    plain = dataclasses.replace(cell, lora=None)
    assert bench.reference_folder(cell) != bench.reference_folder(plain)
    cell, plain = (dataclasses.replace(c, reference="pretrained") for c in (cell, plain))
    assert bench.reference_folder(cell) == bench.reference_folder(plain)


def test_results_of_before_there_was_a_choice_trained_everything(suite, tmp_path):
    bench = Workbench(tmp_path)
    suite = dataclasses.replace(suite, lora=None)
    cell, *_ = cells(suite, preflight(bench, suite, print))
    config = {key: value for key, value in cell.config.items() if key != "lora"}
    assert len(config) == len(cell.config) - 1
    path = tmp_path / cell.name / "result.json"
    path.parent.mkdir(parents=True)
    path.write_text(json.dumps({"config": config}))
    assert cell.is_finished(tmp_path)
    assert not dataclasses.replace(cell, lora=2).is_finished(tmp_path)
    path.write_text(json.dumps({"config": config | {"lora": 2}}))
    assert not cell.is_finished(tmp_path)
    assert dataclasses.replace(cell, lora=2).is_finished(tmp_path)
    assert not dataclasses.replace(cell, lora=4).is_finished(tmp_path)


def test_the_command_line_and_a_file_set_the_rank(plugin, monkeypatch, tmp_path):
    asked = []
    monkeypatch.setattr(commands, "bench", lambda suite, *_: asked.append(suite.lora) or 0)
    for more in ([], ["--lora", "8"]):
        arguments = ["bench", "--tasks", plugin("Letters"), "--out", str(tmp_path), *more]
        assert CliRunner().invoke(app, arguments).exit_code == 0
    assert asked == [None, 8]
    text = 'tasks = ["summarize"]\nagents = ["sft"]\n'
    assert parse_suite("mine", text).lora is None
    assert parse_suite("mine", text + "lora = 16").lora == 16


@pytest.mark.parametrize("lora", ["0", "-1", "true", '"16"', "2.5"])
def test_a_rank_is_a_whole_number(lora):
    text = f'tasks = ["summarize"]\nagents = ["sft"]\nlora = {lora}\n'
    with pytest.raises(ConfigError, match="lora must be a rank >= 1, got"):
        parse_suite("mine", text)


def test_without_peft_nothing_begins(suite, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "peft", None)
    with pytest.raises(ConfigError, match=r"^--lora needs peft: pip install 'textgym\[lora\]'$"):
        run(suite, tmp_path)
    assert list(tmp_path.iterdir()) == []
