from __future__ import annotations

import io
import json
import shutil
from collections.abc import Callable

import numpy as np
import pandas as pd
import pytest
from rich.console import Console

from textgym.benchmarks import cli
from textgym.benchmarks.cell import sweep
from textgym.benchmarks.leaderboard import build, read_entries
from textgym.benchmarks.preflight import preflight
from textgym.benchmarks.report import markdown
from textgym.benchmarks.rescoring import rewards
from textgym.benchmarks.rescoring.archive import OWN_SAMPLES, Archive
from textgym.benchmarks.rescoring.kept import Kept
from textgym.benchmarks.rescoring.records import notes
from textgym.benchmarks.rescoring.rescore import make_scorer, rescore
from textgym.benchmarks.runner import run_suite
from textgym.benchmarks.suite import Evaluation, Spec, Suite
from textgym.benchmarks.workbench import Workbench
from textgym.errors import (
    ConfigError,
    ModelError,
    PluginError,
    ResultsError,
    RewardError,
    UnknownNameError,
)

SCORERS = """
import pandas as pd

def size(prompts, completions, **columns):
    return [float(len(text)) for text in completions]

def human(prompts, completions, reference, weight=1.0, **columns):
    return [weight * (text == "a a") for text in reference]

class Tripled:
    def __init__(self, times=3.0):
        self.times = times

    def __call__(self, prompts, completions, **columns):
        return [self.times * len(text) for text in completions]

def broken(prompts, completions, **columns):
    raise KeyError("nothing\\nhere")

def nan(prompts, completions, **columns):
    return [float("nan")] * len(completions)

def first(rows: pd.DataFrame, plus: float = 0.0) -> float:
    return len(rows["response"].iloc[0]) + len(rows) + plus

text = "no function"
"""

MODULE = """
import datasets
import evaluate

class Count(evaluate.Metric):
    def _info(self):
        text = datasets.Value("string")
        return evaluate.MetricInfo(
            description="", citation="", inputs_description="",
            features=datasets.Features({"predictions": text, "references": text}),
        )

    def _compute(self, predictions, references):
        return {"texts": len(predictions), "letters": sum(map(len, references)), "word": "a"}
"""


@pytest.fixture(scope="module")
def made(plugin, model, tmp_path_factory):
    """Results of four agents and two seeds, five prompts each."""
    out = tmp_path_factory.mktemp("results")
    suite = Suite(
        "test",
        tasks=(Spec(plugin("Letters"), label="letters"),),
        agents=(
            Spec("human"),
            Spec("sft"),
            Spec("best_of_n", {"n": 2}, "best"),
            Spec(plugin("Nudge"), label="nudge"),
        ),
        model=str(model),
        seeds=(0, 1),
        budget=16,
        evaluation=Evaluation(prompts=5, samples_per_prompt=3, frontier_samples=0),
        sft={"steps": 2},
    )
    bench = Workbench(out)
    models = preflight(bench, suite, print)
    outcomes = run_suite(suite, bench, models, 1, Console(file=io.StringIO()))
    assert not [outcome.error for outcome in outcomes if outcome.error]
    return out


@pytest.fixture
def out(made, tmp_path):
    return shutil.copytree(made, tmp_path / "results")


@pytest.fixture
def scorers(tmp_path):
    path = tmp_path / "scorers.py"
    path.write_text(SCORERS)
    return path


def run(out, force=False, **options):
    """Rescores; returns what was shown."""
    options = {"metric": None, "reward": None, "toxicity": None, "column": None} | options
    console = Console(file=io.StringIO(), width=500)
    assert rescore(out, make_scorer(*options.values()), force, console) == 0
    return console.file.getvalue()


def read(out, agent, seed=0):
    folder = out / "letters" / agent / f"seed-{seed}"
    tables = (pd.read_parquet(folder / f"{name}.parquet") for name in ("samples", "prompts"))
    return (json.loads((folder / "result.json").read_text()), *tables)


def rows(out):
    table = build(read_entries(out))
    return {str(row["agent"]): row for row in table.to_dict("records")}


def test_a_reward_becomes_a_column_and_nothing_else_changes(made, out, scorers, capsys):
    shown = run(out, reward=f"{scorers}:size")
    assert "size by reward scorers.py:size\n" in shown
    for agent in ("human", "sft", "best", "nudge"):
        result, samples, prompts = read(out, agent)
        before, old_samples, old_prompts = read(made, agent)
        k = 1 if agent == "human" else 3
        assert samples["size"].tolist() == [float(len(text)) for text in samples["response"]]
        assert prompts["size"].tolist() == [
            pytest.approx(np.mean(samples["size"][i : i + k])) for i in range(0, 5 * k, k)
        ]
        found = result["metrics"].pop("size")
        assert found["value"] == pytest.approx(prompts["size"].mean())
        assert found["low"] <= found["value"] <= found["high"]
        record = result.pop("rescored")["size"]
        assert record["columns"] == record["metrics"] == record["shown"] == ["size"]
        assert len(record["sha256"]) == 64
        assert str(scorers.parent) not in json.dumps(record)
        assert {"commit", "time", "versions", "options"} <= set(record)
        assert result == before
        pd.testing.assert_frame_equal(samples.drop(columns="size"), old_samples)
        pd.testing.assert_frame_equal(prompts.drop(columns="size"), old_prompts)
        curves = [f / "letters" / agent / "seed-0/curve.parquet" for f in (made, out)]
        assert curves[0].read_bytes() == curves[1].read_bytes()

    text = (out / "leaderboard.md").read_text()
    header, _, *table = [line for line in text.splitlines() if line.startswith("|")]
    assert header.endswith("| size |")
    assert all(" ± " in line.rsplit("|", 2)[1] for line in table)
    assert "size computed later, from the kept samples, by reward scorers.py:size (" in text
    assert "letters, added later" in capsys.readouterr().out


def test_rewards_get_the_columns_of_the_data(out, scorers):
    run(out, reward=f"{scorers}:human@weight=0.5")
    result, samples, _ = read(out, "nudge", seed=1)
    record = result["rescored"]["human@weight=0.5"]
    assert samples["human@weight=0.5"].tolist() == [0.5] * 15
    assert record["columns_given"] == ["reference"]
    assert record["options"] == {"weight": 0.5}
    run(out, reward=f"{scorers}:Tripled", column="x3")
    _, samples, _ = read(out, "nudge", seed=1)
    assert samples["x3"].tolist() == [3.0 * len(text) for text in samples["response"]]


def test_the_tasks_own_reward_gives_the_stored_one(out):
    run(out, reward="task", column="again")
    for agent in ("human", "best", "nudge"):
        result, samples, _ = read(out, agent)
        assert samples["again"].tolist() == pytest.approx(samples["reward"], abs=1e-6)
        assert result["metrics"]["again"] == pytest.approx(result["metrics"]["reward"], abs=1e-6)


@pytest.mark.parametrize(
    ("metric", "native"),
    [
        ("ead", "diversity/ead"),
        ("distinct_n@n=1", "diversity/distinct_1"),
        ("self_bleu_diversity", "diversity/self_bleu"),
        ("vendi_ngram", "diversity/vendi_ngram"),
        ("compression", "diversity/compression"),
        ("mode_coverage", "diversity/mode_entropy"),
        ("duplicate_rate", "duplicate_rate"),
        ("length", "length"),
        ("truncation_rate", "truncation_rate"),
    ],
)
def test_metrics_give_what_the_benchmark_gave(made, metric, native):
    archive, scorer = Archive(made), make_scorer(metric, None, None, None)
    assert scorer.column == native
    for cell in (c for c in archive.cells if c.seed == 1):
        scored = scorer.compute(archive.kept(cell, scorer.needs))
        stored = cell.prompts()
        assert set(scored.prompts) == {native} & set(stored)
        for name, values in scored.prompts.items():
            np.testing.assert_allclose(values, stored[name], rtol=1e-6)  # in single precision
        for name, value in scored.metrics.items():
            assert value == pytest.approx(cell.result["metrics"][name]["value"])


def test_diversity_is_held_against_the_harness_s_samples_of_the_reference(out):
    run(out, metric="ead", column="again")
    for agent in ("sft", "best", "nudge"):
        result, _, prompts = read(out, agent)
        metrics, record = result["metrics"], result["rescored"]["diversity/again"]
        assert record["held_against"] == OWN_SAMPLES
        assert record["common_length"] == result["common_length"]
        assert prompts["reference/again"].tolist() == pytest.approx(
            prompts["reference/ead"].tolist()
        )
        for name in ("diversity_loss/again", "across/again"):
            assert metrics[name] == pytest.approx(metrics[name.replace("again", "ead")])
    # One human text per prompt has no diversity per input.
    result, _, prompts = read(out, "human")
    assert "diversity/again" not in prompts
    assert list(result["rescored"]) == ["diversity/again"]
    row = rows(out)["nudge"]
    assert row["diversity_loss/again"] == pytest.approx(row["diversity_loss/ead"])
    assert row["diversity_loss/again_low"] == pytest.approx(row["diversity_loss/ead_low"])
    assert "| again | again loss |" in (out / "leaderboard.md").read_text()


def test_without_them_it_is_held_against_the_row_that_is_the_reference(out):
    shutil.rmtree(out / "references")
    run(out, metric="ead", column="again")
    _, _, own = read(out, "sft")
    assert "reference/again" not in own, "its loss would be 0 by construction"
    result, _, prompts = read(out, "nudge")
    assert prompts["reference/again"].tolist() == own["diversity/again"].tolist()
    loss = 1 - prompts["diversity/again"].sum() / own["diversity/again"].sum()
    assert result["metrics"]["diversity_loss/again"]["value"] == pytest.approx(loss)
    assert result["rescored"]["diversity/again"]["held_against"] == "sft"
    assert pd.isna(rows(out)["sft"]["diversity_loss/again"])


def test_results_that_do_not_name_the_common_length_tell_it_by_their_ead(out):
    noted = {(c.task, c.seed): c.result["common_length"] for c in Archive(out).cells}
    for path in out.glob("letters/*/*/result.json"):
        result = json.loads(path.read_text())
        del result["common_length"]
        path.write_text(json.dumps(result))
    archive = Archive(out)
    for cell in archive.cells:
        # A longer cut is the same where no text is longer.
        longest = max(
            len(ids)
            for c in archive.cells
            if c.seed == cell.seed and c.k > 1
            for ids in archive.kept(c, {"tokens"}).tokens
        )
        assert archive.common_length(cell) in (noted[cell.task, cell.seed], longest)
    for path in out.glob("letters/*/seed-1/prompts.parquet"):
        path.write_bytes(
            pd.read_parquet(path).drop(columns="diversity/ead", errors="ignore").to_parquet()
        )
    with pytest.raises(ResultsError, match=r"letters, seed 1: the common .* as in ead@"):
        Archive(out).common_length(next(c for c in archive.cells if c.seed == 1))
    run(out, metric="ead@length=2", column="short")
    assert read(out, "nudge")[0]["rescored"]["diversity/short"]["options"] == {"length": 2}


class Characters:
    """A tokenizer of single characters, a to e."""

    eos_token_id = 0

    def __len__(self):
        return 5

    def __call__(self, texts, add_special_tokens):
        return {"input_ids": [[ord(letter) for letter in text] for text in texts]}


def kept(*texts, k, **columns):
    table = pd.DataFrame({"prompt": "p", "response": texts, **columns})
    return Kept(table, k, lambda: None, tokenizer=Characters())


def test_sets_are_cut_and_counted_by_hand():
    scorer = make_scorer("distinct_n@n=2,length=3", None, None, None)
    assert scorer.column == "diversity/distinct_2@length=3"
    # Cut to three letters: ab ba | ab bc, three of four distinct; then aa aa | aa aa, one of four.
    scored = scorer.compute(kept("abab", "abcd", "aaaa", "aaaa", k=2))
    assert scored.prompts[scorer.column].tolist() == [0.75, 0.25]
    # One text per prompt: ab ba | aa aa, then ab bc | aa aa; three of four both times.
    assert scored.metrics == {"across/distinct_2@length=3": 0.75}


def test_toxicity_by_hand(monkeypatch):
    class Classifier:
        name = "stub"

        def __init__(self, checkpoint, **options):
            assert (checkpoint, options) == ("folder", {"trust_checkpoint": True})

        def scores(self, texts):
            return [len(text) / 10 for text in texts]

    monkeypatch.setattr(rewards, "Toxicity", Classifier)
    scorer = make_scorer(None, None, "folder@trust_checkpoint=true", "rude")
    scored = scorer.compute(kept("a", "a" * 7, "aa", "a" * 4, k=2))
    assert scored.samples["rude"].tolist() == [0.1, 0.7, 0.2, 0.4]
    assert scored.prompts["rude"].tolist() == pytest.approx([0.4, 0.3])
    assert scored.prompts["expected_max_rude"].tolist() == [0.7, 0.4]
    assert scored.prompts["rude_probability"].tolist() == [1, 0]
    assert scorer.in_tables == ("rude", "expected_max_rude")


def test_a_plug_in_metric_sees_the_rows_of_a_prompt(out, scorers):
    run(out, metric=f"{scorers}:first@plus=10")
    _, samples, prompts = read(out, "nudge")
    firsts = samples["response"][::3].str.len()
    assert prompts["first@plus=10"].tolist() == [n + 13 for n in firsts]
    # One that is called diversity is held against the reference's.
    run(out, metric=f"{scorers}:first", column="diversity/first")
    assert "diversity_loss/first" in read(out, "nudge")[0]["metrics"]


def test_an_evaluate_module_is_asked_prompt_by_prompt(out, tmp_path, monkeypatch):
    monkeypatch.setenv("HF_MODULES_CACHE", str(tmp_path / "modules"))
    folder = tmp_path / "count"
    folder.mkdir()
    (folder / "count.py").write_text(MODULE)
    run(out, metric=str(folder))
    _, _, prompts = read(out, "nudge")
    assert prompts["count/texts"].tolist() == [3.0] * 5
    assert prompts["count/letters"].tolist() == [9.0] * 5  # of "a a", three times
    row = rows(out)["nudge"]
    assert (row["count/texts"], row["count/letters"]) == (3, 9)
    text = (out / "leaderboard.md").read_text()
    assert "count/texts" in text


def test_it_goes_on_where_it_was_stopped(out, scorers, monkeypatch):
    scorer = make_scorer(None, f"{scorers}:size", None, None)
    calls: list[str] = []

    def stopped(compute: Callable[[Kept], object], after: int):
        def counted(samples):
            if len(calls) == after:
                raise KeyboardInterrupt
            calls.append("")
            return compute(samples)

        return counted

    compute = scorer.compute
    console = Console(file=io.StringIO())
    object.__setattr__(scorer, "compute", stopped(compute, 3))
    assert rescore(out, scorer, False, console) == 130
    has = [("rescored" in json.loads(p.read_text())) for p in out.glob("letters/*/*/result.json")]
    assert has.count(True) == 3
    assert not list(out.glob("letters/*/.*"))
    object.__setattr__(scorer, "compute", stopped(compute, 99))
    assert rescore(out, scorer, False, console) == 0
    assert len(calls) == 8
    assert "3 cells have it already" in console.file.getvalue()
    assert rescore(out, scorer, False, console) == 0
    assert len(calls) == 8


def test_a_replacement_that_was_killed_half_way_is_undone(out):
    cell = out / "letters/nudge/seed-0"
    left = cell.with_name(".seed-0.1-old.tmp")
    cell.rename(left)
    (cell.with_name(".seed-0.1.tmp")).mkdir()
    sweep(out)
    assert (cell / "samples.parquet").is_file()
    assert not list(cell.parent.glob(".*"))


def test_names_are_not_taken_from_others(out, scorers):
    with pytest.raises(ResultsError, match="best/seed-0 has a 'gold' that did not come from this"):
        run(out, reward=f"{scorers}:size", column="gold")
    with pytest.raises(ResultsError, match="'diversity/ead'"):
        run(out, metric="ead", force=True)
    with pytest.raises(ResultsError, match="'kl_seq'"):
        run(out, reward=f"{scorers}:size", column="kl_seq")
    for name in ("reference/x", "across/x", " "):
        with pytest.raises(ConfigError, match="cannot be called"):
            run(out, reward=f"{scorers}:size", column=name)


def test_another_scorer_or_version_is_refused_unless_forced(out, scorers):
    run(out, reward=f"{scorers}:size")
    scorers.write_text(SCORERS.replace("float(len(text)) for", "1 + float(len(text)) for"))
    with pytest.raises(ResultsError, match=r"8 cells of letters have 'size' .* \(sha256 \w+ there"):
        run(out, reward=f"{scorers}:size")
    with pytest.raises(
        ResultsError, match=r"\(by reward scorers.py:size there, reward scorers.py:Tripled now"
    ):
        run(out, reward=f"{scorers}:Tripled", column="size")
    before = read(out, "nudge")[1]["size"]
    assert "8 cells rescored" in run(out, reward=f"{scorers}:size", force=True)
    result, samples, _ = read(out, "nudge")
    assert samples["size"].tolist() == (1 + before).tolist()
    assert list(result["rescored"]) == ["size"]
    # A column of the name that leaves fewer numbers leaves none of the old ones.
    run(out, metric=f"{scorers}:first", column="size", force=True)
    result, samples, prompts = read(out, "nudge")
    assert "size" not in samples
    assert "size" in prompts
    assert result["rescored"]["size"]["by"] == "metric scorers.py:first"


def change(out, agent, seed, **changes):
    path = out / "letters" / agent / f"seed-{seed}" / "result.json"
    result = json.loads(path.read_text())
    result["rescored"]["size"] |= changes
    path.write_text(json.dumps(result))


def test_other_versions_are_named_and_rows_that_differ_are_marked(out, scorers):
    run(out, reward=f"{scorers}:size")
    versions = read(out, "best")[0]["rescored"]["size"]["versions"]
    now, older = versions["torch"], {"versions": versions | {"torch": "1.0"}}
    change(out, "best", 0, **older)
    change(out, "best", 1, **older)
    with pytest.raises(ResultsError, match=r"^2 cells of letters .*\(torch 1.0 there, ") as raised:
        run(out, reward=f"{scorers}:size")
    assert f"there, {now} now); --force" in str(raised.value)
    text = markdown(build(read_entries(out)))
    assert "Not a fair comparison: size of different scorers or versions: reward scorers.py" in text
    assert "): best;" in text or "): best." in text
    assert rows(out)["best"]["size"] > 0

    # No mean over seeds of different versions.
    change(out, "nudge", 1, sha256="other")
    row = rows(out)["nudge"]
    assert pd.isna(row["size"])
    assert pd.isna(row["size_low"])


def test_a_cell_without_samples_is_named_and_leaves_a_hole(out, scorers):
    (out / "letters/nudge/seed-1/samples.parquet").unlink()
    shown = run(out, reward=f"{scorers}:size")
    line = "1 of 8 cells kept no samples and get no number: letters/nudge/seed-1\n"
    assert line in shown
    found = rows(out)
    assert pd.isna(found["nudge"]["size"])
    assert found["best"]["size"] > 0
    table = (out / "leaderboard.md").read_text().splitlines()
    assert next(line for line in table if "| nudge |" in line).endswith("| – |")
    for path in out.glob("letters/*/*/samples.parquet"):
        path.unlink()
    with pytest.raises(ResultsError, match=r"no cell of .* has kept its samples"):
        run(out, reward=f"{scorers}:size")


def test_tokenizers_are_not_mixed(out, other_model, model, tmp_path):
    def rename(agent, name):
        for seed in (0, 1):
            path = out / "letters" / agent / f"seed-{seed}/result.json"
            result = json.loads(path.read_text())
            result["config"]["model"] = str(name)
            path.write_text(json.dumps(result))

    rename("nudge", other_model)
    with pytest.raises(ResultsError, match="nudge/seed-0: its responses were not written with"):
        run(out, metric="ead", column="again")
    # One that reads the kept tokens alike, and has one token more.
    larger = shutil.copytree(model, tmp_path / "larger")
    from textgym.models.tokenize import load_tokenizer

    tokenizer = load_tokenizer(larger)
    tokenizer.add_tokens(["unheard of"])
    tokenizer.save_pretrained(larger)
    rename("nudge", larger)
    with pytest.raises(ResultsError, match=r"letters: .*several tokenizers: .*sft.*nudge"):
        run(out, metric="ead", column="again", force=True)
    assert "rescored" not in read(out, "best")[0]


def test_what_cannot_be_computed_is_said_in_one_line(out, scorers, tmp_path):
    def refused(error, match, **options):
        with pytest.raises(error, match=match) as raised:
            run(out, **options)
        assert "\n" not in str(raised.value)

    refused(ConfigError, "expected one of --metric, --reward, --toxicity, got none")
    refused(ConfigError, "got 2", metric="ead", reward="task")
    refused(ConfigError, "do not tell kl_seq: it needs a policy", metric="kl_seq")
    refused(ConfigError, "--toxicity CLASS", metric="toxicity_probability")
    refused(UnknownNameError, "did you mean 'ead'", metric="eadd")
    refused(UnknownNameError, "unknown option of distinct_n 'm'", metric="distinct_n@m=2")
    refused(ConfigError, "takes no options", metric="length@n=2")
    refused(ConfigError, "order must be >= 1", metric="distinct_n@n=0")
    refused(ConfigError, "length must be a number of tokens", metric="ead@length=0")
    refused(UnknownNameError, "unknown reward 'nothing'", reward="nothing")
    refused(PluginError, "has no 'nowhere'", reward=f"{scorers}:nowhere")
    refused(PluginError, "is a str, not a function", metric=f"{scorers}:text")
    refused(PluginError, "reward 'broken': KeyError: 'nothing", reward=f"{scorers}:broken")
    refused(RewardError, "returned nan", reward=f"{scorers}:nan")
    refused(PluginError, "unexpected keyword", reward=f"{scorers}:Tripled@thrice=1")
    refused(ModelError, "has no toxicity.ckpt", toxicity=str(tmp_path))
    refused(PluginError, "no evaluate module in", metric=str(tmp_path / "results"))
    assert "rescored" not in read(out, "best")[0]
    with pytest.raises(ResultsError, match="no results folder"):
        run(tmp_path / "none", reward="task")
    assert not (tmp_path / "none").exists()


def test_the_command_shows_the_column(out, scorers, capsys):
    with pytest.raises(SystemExit) as end:
        cli.main(["rescore", str(out), "--reward", f"{scorers}:size", "--as", "letters"])
    assert end.value.code == 0
    shown = capsys.readouterr().out
    assert "8 cells rescored" in shown
    assert "letters, added later" in shown
    with pytest.raises(SystemExit) as end:
        cli.main(["rescore", str(out), "--metric", "ead"])
    assert end.value.code == 2
    assert "name the new one with --as" in capsys.readouterr().err


def test_another_tasks_column_needs_no_note():
    by = "reward size (1a2b3c4d)"
    rows = [{"agent": "ppo", "rescored/x": float("nan"), "rescored/y": by}, {"agent": "sft"}]
    assert notes(rows) == [f"y computed later, from the kept samples, by {by}."]
