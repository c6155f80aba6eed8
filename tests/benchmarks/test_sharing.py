"""Runs that share a folder, and processes that are killed."""

from __future__ import annotations

import collections
import dataclasses
import io
import json
import os
import pickle
import signal
import subprocess
import sys
import time
from pathlib import Path

import pandas as pd
import pytest
import sharing_plugins
from rich.console import Console

from textgym.benchmarks.cell import ERROR, RESULT
from textgym.benchmarks.locks import held, make_once
from textgym.benchmarks.preflight import preflight
from textgym.benchmarks.runner import run_suite
from textgym.benchmarks.suite import Evaluation, Spec, Suite
from textgym.benchmarks.workbench import Workbench
from textgym.benchmarks.workers import worker_context
from textgym.errors import BusyError, ConfigError, ResultsError

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="kills by signals")
PLUGINS = Path(sharing_plugins.__file__)
ENVIRONMENT = {**os.environ, "PYTHONPATH": str(PLUGINS.parent)}
# A shell starts what it runs in the background deaf to Ctrl-C, and so these tests.
COMMAND = "import signal; signal.signal(signal.SIGINT, signal.default_int_handler)\n"
COMMAND += "from textgym.benchmarks.cli import main; main()"


class Stage:
    """A folder, a log that plug-ins write and a file that holds them."""

    def __init__(self, folder, model):
        self.out, self.log, self.hold = folder / "out", folder / "log", folder / "hold"
        self.folder, self.model = folder, str(model)
        self.processes = []
        self.log.touch()

    def tells(self, label, then="end", **options):
        options = {"log": str(self.log), "then": then, **options}
        return Spec(f"{PLUGINS}:Tell", options, label)

    def suite(self, *agents, task=None, **changes):
        suite = Suite(
            "test",
            tasks=(task or Spec(f"{PLUGINS.with_name('plugins.py')}:Letters", label="letters"),),
            agents=agents,
            model=self.model,
            budget=16,
            evaluation=Evaluation(prompts=3, samples_per_prompt=2, frontier_samples=0),
            sft={"steps": 1},
        )
        return dataclasses.replace(suite, **changes)

    def held_task(self, at):
        options = {"log": str(self.log), "hold": str(self.hold), "at": at}
        return Spec(f"{PLUGINS}:Held", options, "letters")

    def told(self):
        return collections.Counter(line.split()[0] for line in self.log.read_text().splitlines())

    def pids(self):
        return {int(line.split()[1]) for line in self.log.read_text().splitlines()}

    def run(self, suite, jobs):
        console, bench = Console(file=io.StringIO(), width=200), Workbench(self.out)
        models = preflight(bench, suite, print)
        return run_suite(suite, bench, models, jobs, console), console.file.getvalue()

    def start(self, suite, name):
        """Starts a run in another process; returns it and the file with what it shows."""
        shown = self.folder / name
        shown.touch()
        process = worker_context().Process(
            target=sharing_plugins.bench, args=(suite, self.out, shown)
        )
        process.start()
        self.processes.append(process)
        return process, shown

    def whole(self):
        """The agents whose results are there, every one of them complete."""
        for path in self.out.glob("letters/*/seed-*"):
            if (path / RESULT).is_file():
                assert json.loads((path / RESULT).read_text())["metrics"]
                for table in ("samples", "prompts", "curve"):
                    pd.read_parquet(path / f"{table}.parquet")
        assert not list(self.out.glob("**/.*.tmp"))
        return sorted(p.parts[-3] for p in self.out.glob(f"letters/*/seed-*/{RESULT}"))


@pytest.fixture
def stage(tmp_path, model):
    stage = Stage(tmp_path, model)
    yield stage
    for process in stage.processes:
        process.kill()
        process.join()


def until(condition, process=None):
    for _ in range(3000):
        if condition():
            return
        if process is not None and process.poll() is not None:
            break
        time.sleep(0.02)
    raise AssertionError("it never came")


def alive(pid):
    status = Path(f"/proc/{pid}/stat")
    return status.exists() and status.read_text().rpartition(")")[2].split()[0] != "Z"


def test_a_lock_is_held_once_and_names_what_is_made(tmp_path):
    target = tmp_path / "letters" / "sft" / "seed-0"
    with held(tmp_path, target, wait=False):
        with pytest.raises(BusyError, match="letters/sft/seed-0 is being made by another"):
            held(tmp_path, target, wait=False).__enter__()
        with held(tmp_path, target.with_name("seed-1"), wait=False):
            pass
    with held(tmp_path, target, wait=True):
        pass
    assert (tmp_path / ".locks" / ".gitignore").read_text() == "*\n"
    (tmp_path / "file").touch()
    with pytest.raises(ResultsError, match="cannot lock"):
        held(tmp_path / "file", tmp_path / "file" / "x", wait=False).__enter__()


def test_what_another_process_made_is_not_made_again(tmp_path):
    made = []

    def make():
        made.append(1)
        (tmp_path / "reference").mkdir()

    make_once(tmp_path, tmp_path / "reference", make, wait=False)
    make_once(tmp_path, tmp_path / "reference", make, wait=False)
    assert made == [1]


def test_jobs_are_at_least_one_and_at_most_the_cells(stage):
    suite = stage.suite(stage.tells("a"))
    with pytest.raises(ConfigError, match="jobs must be >= 1, got 0"):
        stage.run(suite, jobs=0)
    outcomes, shown = stage.run(suite, jobs=5)
    assert [o.error for o in outcomes] == [""]
    assert "1 cells to run, 1 at a time" in shown
    assert stage.run(suite, jobs=5)[0] == []


def test_a_cell_that_kills_its_process_is_recorded_and_the_others_go_on(stage):
    deaths = [stage.tells(then, then) for then in ("kill", "exit", "leave", "crash")]
    suite = stage.suite(*deaths, *(stage.tells(name) for name in "abc"))
    outcomes, shown = stage.run(suite, jobs=2)
    errors = {o.cell.split("/")[1]: o.error for o in outcomes}
    assert errors == {
        "kill": "its process was killed by signal 9 (out of memory?)",
        "exit": "its process ended with status 3",
        "leave": "SystemExit: enough",
        "crash": "ZeroDivisionError: division by zero",
        **dict.fromkeys("abc", ""),
    }
    assert not any(o.bad_input or o.elsewhere for o in outcomes)
    assert "[7/7" in shown
    for name in ("kill", "exit"):
        record = json.loads((stage.out / "letters" / name / "seed-0" / ERROR).read_text())
        assert (record["cause"], record["error"]) == (errors[name], "ProcessDiedError")
    assert stage.whole() == ["a", "b", "c"]
    assert stage.told() == {
        **{f"begin-{then}": 1 for then in ("kill", "exit", "leave", "crash")},
        "begin-end": 3,
        "end-end": 3,
    }
    # Alone, it still must not take the command with it.
    one = dataclasses.replace(suite, agents=suite.agents[:1])
    assert [o.error for o in stage.run(one, jobs=2)[0]] == [errors["kill"]]


def test_two_runs_at_once_do_every_cell_once(stage):
    agents = [stage.tells(name, seconds=0.1) for name in "abcdef"]
    suite = stage.suite(*agents, stage.tells("crash", "crash"))
    # The second asks for fewer cells, and for one of its own.
    other = dataclasses.replace(suite, agents=(*suite.agents[2:], stage.tells("own")))
    runs = [stage.start(suite, "first"), stage.start(other, "second")]
    for process, _ in runs:
        process.join()
    told = stage.told()
    assert told == {"begin-end": 7, "end-end": 7, "begin-crash": 1}
    assert stage.whole() == ["a", "b", "c", "d", "e", "f", "own"]
    shown = [path.read_text() for _, path in runs]
    for text, planned in zip(shown, ("abcdef", "cdef"), strict=True):
        found = [line.split()[1:] for line in text.splitlines() if line.startswith("outcome")]
        names = [*planned, "crash", *(["own"] if planned == "cdef" else [])]
        assert [cell for cell, *_ in found] == [f"letters/{name}/seed-0" for name in sorted(names)]
        assert [cell for cell, *error in found if error != ["fine"]] == ["letters/crash/seed-0"]
    assert any("by another process" in text for text in shown)
    # References were trained once, and both runs measured against the same.
    assert len(list(stage.out.glob("references/*/policy"))) == 1


def test_who_waits_for_a_killed_process_takes_up_its_work(stage):
    stage.hold.touch()
    suite = stage.suite(stage.tells("a"), stage.tells("b"), task=stage.held_task("reward"))
    first, _ = stage.start(suite, "first")
    until(lambda: stage.told()["reward"] == 1)  # it is measuring the reference
    second, shown = stage.start(suite, "second")
    until(lambda: "is at references of letters/a/seed-0" in shown.read_text())
    assert stage.told()["reward"] == 1
    os.kill(first.pid, signal.SIGKILL)
    stage.hold.unlink()
    second.join()
    first.join()
    assert second.exitcode == 0
    assert stage.whole() == ["a", "b"]
    assert stage.told()["begin-end"] == 2


def test_a_killed_command_leaves_no_worker_and_no_lock(stage):
    stage.hold.touch()
    agents = [stage.tells(name, hold=str(stage.hold)) for name in "abc"]
    suite = stage.suite(*agents)
    code = "import sys, pickle; from sharing_plugins import *; from rich.console import Console\n"
    code += "if __name__ == '__main__':\n"
    code += "    suite, out = pickle.load(sys.stdin.buffer); bench = Workbench(out)\n"
    code += "    run_suite(suite, bench, preflight(bench, suite, print), 2, Console())\n"
    script = stage.folder / "script.py"
    script.write_text(code)
    process = subprocess.Popen(
        [sys.executable, str(script)],
        stdin=subprocess.PIPE,
        stdout=subprocess.DEVNULL,
        env=ENVIRONMENT,
    )
    try:
        process.stdin.write(pickle.dumps((suite, stage.out)))
        process.stdin.close()
        until(lambda: stage.told()["begin-end"] == 2, process)
        workers = stage.pids()
        assert len(workers) == 2
        assert all(alive(pid) for pid in workers)
    finally:
        process.kill()
        process.wait()
    until(lambda: not any(alive(pid) for pid in workers))
    # What it may have been writing when it was killed.
    half = stage.out / "letters" / "a" / ".seed-0.1.tmp"
    half.mkdir(parents=True)
    (half / RESULT).write_text('{"config"')
    stage.hold.unlink()
    outcomes, _ = stage.run(suite, jobs=2)
    assert [o.error for o in outcomes] == ["", "", ""]
    assert stage.told() == {"begin-end": 5, "end-end": 3}
    assert stage.whole() == ["a", "b", "c"]


def test_ctrl_c_before_anything_runs_is_one_line(stage):
    stage.hold.touch()
    options = f"log={stage.log},hold={stage.hold},at=prompts"
    arguments = ["bench", "--tasks", f"{PLUGINS}:Held@{options}", "--seeds", "0", "--agents", "sft"]
    arguments += ["--model", stage.model, "--jobs", "2", "--out", str(stage.out)]
    process = subprocess.Popen(
        [sys.executable, "-c", COMMAND, *arguments],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        env=ENVIRONMENT,
        text=True,
        start_new_session=True,
    )
    try:
        until(lambda: stage.told()["prompts"], process)
        os.killpg(process.pid, signal.SIGINT)
        stage.hold.unlink()
    finally:
        stage.hold.unlink(missing_ok=True)
        shown, complaints = process.communicate()
    assert process.returncode == 130
    assert shown.split("\n", 1)[-1].strip().count("\n") == 0
    assert "run the same command again to go on" in shown
    assert "Traceback" not in complaints
    assert not stage.out.exists()
