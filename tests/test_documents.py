"""What the documents show is what the results hold."""

import math
import re
from pathlib import Path

import pandas as pd
import pytest

from textgym.agents import AGENTS
from textgym.benchmarks import task_page
from textgym.benchmarks.algorithm_page import PARTS, fill
from textgym.benchmarks.speed.tables import markdown
from textgym.benchmarks.studies.readme import fill as studies_told
from textgym.benchmarks.studies.study import STUDIES
from textgym.benchmarks.suite import load_suite

ROOT = Path(__file__).parents[1]


@pytest.mark.parametrize("name", ["core", "real"])
def test_the_readme_shows_the_committed_leaderboards(name):
    shown = (ROOT / "README.md").read_text().split(f"<!-- leaderboard:{name} -->")[1]
    shown = shown.split(f"<!-- /leaderboard:{name} -->")[0]
    assert shown.strip() == (ROOT / f"results/{name}/leaderboard.md").read_text().strip()


def test_the_readme_shows_the_sum_of_the_oracle_suite():
    shown = (ROOT / "README.md").read_text().split("<!-- leaderboard:oracle -->")[1]
    shown = shown.split("<!-- /leaderboard:oracle -->")[0].strip()
    assert shown.startswith("### all tasks")
    assert (ROOT / "results/oracle/leaderboard.md").read_text().strip().endswith(shown)


def test_the_enumerated_suites_keep_their_promises():
    oracle = pd.read_csv(ROOT / "results/oracle/leaderboard.csv")
    known = oracle[oracle["task"] == "known-frontier"].set_index("agent")
    assert set(known["seeds"]) == {5}
    assert (known.loc[["reinforce", "ppo"], "regret"] < 0.05).all()
    modes = pd.read_csv(ROOT / "results/mode-seeking/leaderboard.csv").set_index("agent")
    for beta in (0.2, 0.05, 0.02, 0.005):
        optimum = 1 / (1 + math.exp(-0.02 / beta))
        for agent in ("reinforce", "ppo"):
            assert abs(modes.loc[f"{agent}, beta {beta:g}", "p_a"] - optimum) < 0.015


def test_the_speed_readme_shows_the_committed_measurements():
    text = (ROOT / "benchmarks/speed/README.md").read_text()
    sections = re.findall(r"<!-- speed:(\w+) -->", text)
    assert set(sections) == {path.stem for path in (ROOT / "results/speed").glob("*.json")}
    for section in sections:
        shown = text.split(f"<!-- speed:{section} -->\n")[1].split(f"\n<!-- /speed:{section}")[0]
        assert shown == markdown(ROOT / f"results/speed/{section}.json")


def test_the_real_results_hold_no_texts():
    files = {path.name for path in (ROOT / "results/real").rglob("*") if path.is_file()}
    numbers = {"result.json", "curve.parquet", "prompts.parquet"}
    assert files - numbers == {
        "leaderboard.csv",
        "leaderboard.md",
        "suite.json",
        "language_model.json",
    }


def test_ci_calls_the_readmes_test_command_and_nothing_else():
    lines = (ROOT / ".ci/run").read_text().splitlines()
    commands = [line for line in lines if line and not line.startswith(("#", "set ", "cd "))]
    assert commands == ["make test"]
    assert "make test" in (ROOT / "README.md").read_text()


def test_the_page_on_the_tasks_shows_the_tasks_and_the_committed_results():
    text = (ROOT / "docs/tasks.md").read_text()
    assert task_page.fill(text, ROOT / "results") == text
    for kind in ("facts", "results"):
        assert re.findall(rf"<!-- {kind}:(\S+) -->", text) == list(task_page.WORLD_TASKS)


def test_the_readme_tells_what_the_studies_found():
    text = (ROOT / "README.md").read_text()
    assert studies_told(text, ROOT / "results") == text
    assert all(f"[{name}](results/{name}/study.md)" in text for name in STUDIES)


def test_every_agent_has_its_section_with_its_settings_and_results():
    page = (ROOT / "docs/algorithms.md").read_text()
    assert re.findall(r"^## `(.*)`$", page, re.MULTILINE) != []
    assert set(re.findall(r"^## `(.*)`$", page, re.MULTILINE)) == set(AGENTS)
    for name in AGENTS:
        section = page.split(f"## `{name}`\n")[1].split("\n## ")[0]
        for part in ("**Equation.**", "**Paper.**", "**Logs.**", "**Signs of failure.**"):
            assert part in section, (name, part)
        assert f"<!-- settings:{name} -->" in section
        assert f"<!-- results:{name} -->" in section
    assert fill(page, ROOT / "results") == page


@pytest.mark.parametrize(("folder", "suite"), list(PARTS.items()))
def test_the_suite_of_algorithms_has_the_settings_that_the_search_chose(folder, suite):
    chosen = load_suite(suite)
    trials = pd.read_csv(ROOT / f"results/{folder}/trials.csv")
    assert set(trials["agent"]) == set(chosen.search)
    assert set(trials.groupby("agent")["trial"].count()) == {4}
    options = {spec.label: spec.options for spec in chosen.agents}
    for label, group in trials.groupby("agent"):
        best = group.loc[group["score"].idxmax(), "options"]
        assert best == " ".join(f"{k}={v}" for k, v in options[label].items())
    results = pd.read_csv(ROOT / f"results/{folder}/leaderboard.csv")
    assert set(results["agent"]) == set(options)
    assert set(results["seeds"]) == {len(chosen.seeds)}
    # Variants differ from what they vary in what they vary alone.
    for label, own in options.items():
        base, plus, _ = label.partition(" + ") if " + " in label else label.partition(", ")
        if plus and base in options and base != "sft":
            assert options[base].items() <= own.items(), label
