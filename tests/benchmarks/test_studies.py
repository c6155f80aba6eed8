"""Studies: points run once, pages made of what they found."""

import json
import math
import os
import signal
import subprocess
import sys
import time

import pandas as pd
import pytest
from rich.console import Console

from textgym.benchmarks.studies import running, world
from textgym.benchmarks.studies.study import STUDIES, Study, point_name, read_rows, shown
from textgym.errors import ConfigError, ResultsError, UnknownNameError
from textgym.models.policy import load_policy

NAMES = list(STUDIES)


class Squares(Study):
    """Numbers and their squares."""

    question = "How do squares grow?"
    seeds = 2
    by = ("side",)
    defaults = {"unit": 1.0}  # noqa: RUF012
    ran = []  # noqa: RUF012

    def points(self, seed):
        return [{"side": side, "seed": seed} for side in (3, 2)]

    def run(self, point, cache):
        Squares.ran.append(point_name(point))
        if point["side"] == 13:
            raise ValueError("unlucky")
        return [{"side": point["side"], "area": point["side"] ** 2 + 2.0 * point["seed"]}]

    def draw(self, summary, figure):
        figure.subplots().plot(summary["side"], summary["area"])

    def findings(self, summary):
        return [f"Side {row['side']:g} has area {row['area']:g}." for _, row in summary.iterrows()]


@pytest.fixture
def squares(monkeypatch):
    monkeypatch.setitem(STUDIES._table, "squares", "test_studies:Squares")
    monkeypatch.setitem(sys.modules, "test_studies", sys.modules[__name__])
    Squares.ran = []
    return Squares


def run(out, seeds=None, **options):
    running.run_study("squares", out, seeds, 1, Console(quiet=True), **options)


def test_the_page_has_table_picture_and_findings(squares, tmp_path):
    run(tmp_path)
    page = (tmp_path / "study.md").read_text()
    # Areas 9 and 11 of seeds 0 and 1: mean 10, standard error sqrt(2) / sqrt(2) = 1.
    assert "| 3 | 10.000 ± 1.000 |" in page
    assert "- Side 3 has area 10." in page
    assert "over 2 seeds" in page
    assert "Settings: unit = 1." in page
    assert (tmp_path / "study.png").stat().st_size > 1000
    rows = pd.read_csv(tmp_path / "rows.csv").sort_values(["seed", "side"])
    assert rows["area"].tolist() == [4, 9, 6, 11]


def test_finished_points_are_not_run_again(squares, tmp_path):
    run(tmp_path, seeds=1)
    run(tmp_path, seeds=2)
    assert sorted(squares.ran) == [
        "side-2_seed-0",
        "side-2_seed-1",
        "side-3_seed-0",
        "side-3_seed-1",
    ]
    (tmp_path / "points" / "side-2_seed-1.json").unlink()
    run(tmp_path)
    assert squares.ran[4:] == ["side-2_seed-1"]


def test_a_point_that_fails_leaves_the_others(squares, tmp_path, monkeypatch):
    monkeypatch.setattr(
        squares, "points", lambda self, seed: [{"side": s, "seed": 0} for s in (2, 13)]
    )
    with pytest.raises(ValueError, match="unlucky"):
        run(tmp_path, seeds=1)
    assert [p.name for p in (tmp_path / "points").iterdir()] == ["side-2_seed-0.json"]


SLEEPER = """
import os, time
from pathlib import Path
from textgym.benchmarks.studies.study import Study

class Sleeper(Study):
    question, seeds, by = "Who wakes up?", 1, ("who",)
    def points(self, seed):
        return [{"who": who, "seed": seed} for who in (1, 2)]
    def run(self, point, cache):
        Path(os.environ["AWAKE"], str(os.getpid())).touch()
        time.sleep(600)
    def draw(self, summary, figure): ...
    def findings(self, summary): return []
"""


@pytest.mark.skipif(sys.platform == "win32", reason="kills by signals")
def test_workers_end_with_a_command_that_is_killed(tmp_path):
    (tmp_path / "sleeper.py").write_text(SLEEPER)
    awake = tmp_path / "awake"
    awake.mkdir()
    command = [sys.executable, "-c", "from textgym.benchmarks.cli import main; main()", "study"]
    command += [f"{tmp_path}/sleeper.py:Sleeper", "--out", str(tmp_path / "out"), "--jobs", "2"]
    with subprocess.Popen(command, env={**os.environ, "AWAKE": str(awake)}) as process:
        _until(lambda: len(list(awake.iterdir())) == 2)
        process.send_signal(signal.SIGKILL)
    workers = [int(path.name) for path in awake.iterdir()]
    _until(lambda: not any(map(_lives, workers)))


def _until(true, seconds=120):
    end = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < end, "it did not come true"
        time.sleep(0.1)


def _lives(pid):
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    # What has ended and was not asked after yet is no longer at work.
    state = subprocess.run(["ps", "-o", "stat=", "-p", str(pid)], capture_output=True, text=True)
    return bool(state.stdout.strip()) and not state.stdout.startswith("Z")


def test_settings_are_named(squares, tmp_path):
    run(tmp_path, settings={"unit": 2.0})
    assert "Settings: unit = 2." in (tmp_path / "study.md").read_text()
    with pytest.raises(UnknownNameError, match="did you mean 'unit'"):
        run(tmp_path, settings={"units": 2.0})


def test_bad_input_is_one_line(squares, tmp_path):
    with pytest.raises(UnknownNameError, match="did you mean 'squares'"):
        running.run_study("square", tmp_path, 1, 1, Console(quiet=True))
    with pytest.raises(ConfigError, match="seeds must be >= 1, got 0"):
        run(tmp_path, seeds=0)
    with pytest.raises(ResultsError, match="holds no points"):
        running.write_page("squares", tmp_path)
    run(tmp_path, seeds=1)
    path = tmp_path / "points" / "side-2_seed-0.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "study": "circles"}))
    with pytest.raises(ResultsError, match="holds points of 'circles', not of 'squares'"):
        run(tmp_path, seeds=1)


def test_a_missing_number_is_a_dash():
    summary = pd.DataFrame({"by": ["x"], "n": [math.nan], "n_se": [0.0]})
    assert shown(summary, ["by"]).splitlines()[-1] == "| x | – |"


@pytest.mark.parametrize("name", NAMES)
def test_points_of_every_study_are_told_apart(name):
    study = STUDIES.load(name)()
    names = [point_name(p) for seed in range(3) for p in study.points(seed)]
    assert len(set(names)) == len(names) >= 6


@pytest.mark.parametrize("name", NAMES)
def test_committed_pages_follow_from_their_points(name, request):
    folder = request.config.rootpath / "results" / name
    study = STUDIES.load(name)()
    rows = read_rows(folder)
    assert rows["seed"].nunique() >= study.seeds
    page = (folder / "study.md").read_text()
    summary = study.summary(rows)
    assert shown(summary, study.by) in page
    for finding in study.findings(summary):
        assert f"- {finding}" in page


def test_questions_are_pairs_with_facts_and_follow_from_the_seed():
    policy = load_policy("tiny")
    found = world.questions(policy, 0, 12)
    assert len(found) == 12
    assert found == world.questions(policy, 0, 12)
    assert found != world.questions(policy, 1, 12)
    assert all(json.loads(q.columns["facts"]) for q in found)
    scores = world.gold(
        [found[0].prompt], [found[0].completions[0]], facts=[found[0].columns["facts"]]
    )
    assert 0 <= scores[0] <= 1


@pytest.mark.slow
def test_a_study_runs_end_to_end(tmp_path):
    study = STUDIES.load("amount-of-data")()
    (row,) = study.run({"comparisons": 64, "seed": 0}, tmp_path)
    assert 0 < row["accuracy"] < 1
    assert 0 <= row["gold"] <= 1
