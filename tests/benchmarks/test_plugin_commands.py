"""New plug-ins run and conform as they are written; what cannot be leaves nothing behind."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from textgym.benchmarks.cli import main
from textgym.benchmarks.templates import agent as template
from textgym.rewards import load_reward
from textgym.tasks import load_task


@pytest.fixture(scope="module", autouse=True)
def _threads():
    before = torch.get_num_threads()
    yield
    torch.set_num_threads(before)


@pytest.fixture
def run(capsys):
    """Runs the command line in this process -> (exit status, stdout, stderr)."""

    def call(*arguments):
        try:
            main([str(argument) for argument in arguments])
        except SystemExit as stopped:
            status = stopped.code or 0
        captured = capsys.readouterr()
        assert "Traceback" not in captured.err
        return status, captured.out, captured.err

    return call


@pytest.fixture
def here(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_a_new_agent_conforms(run, here):
    status, told, _ = run("new", "agent", "my_idea")
    assert status == 0
    assert "textgym check agent ./my_idea.py:MyIdea\n" in told
    assert "textgym bench --tasks two-modes --agents reference,./my_idea.py:MyIdea" in told
    text = (here / "my_idea.py").read_text()
    assert "class MyIdeaConfig:" in text
    assert "my_agent" not in text.lower().replace("myagent", "my_agent")
    status, told, _ = run("check", "agent", "./my_idea.py:MyIdea@kl_coef=0")
    assert status == 0
    lines = told.splitlines()
    assert all(line.startswith("passed ") for line in lines[:-1])
    assert f"MyIdea@kl_coef=0: {len(lines) - 1} passed, 0 failed, 0 not applicable" in lines[-1]


@pytest.mark.parametrize("kind", ["agent", "task"])
def test_a_new_agent_and_task_run_at_once(kind, run, here, plugin, model):
    assert run("new", kind, "idea", "--out", "mine")[0] == 0
    chosen = {"agent": "reference", "task": plugin("Letters"), kind: "mine/idea.py:Idea"}
    options = "@prompts_per_step=8" if kind == "agent" else ""
    where = ("--tasks", chosen["task"], "--agents", chosen["agent"] + options, "--out", "out")
    size = ("--budget", 16, "--seeds", 0, "--prompts", 2, "--samples", 2, "--jobs", 1)
    status, _, errors = run("bench", "--model", model, *where, *size)
    assert (status, errors) == (0, "")
    (result,) = here.glob("out/*/*/seed-0/result.json")
    assert result.parts[-4 if kind == "task" else -3].startswith("Idea")
    assert json.loads(result.read_text())["budget"]["used"] == (16 if kind == "agent" else 0)


def test_a_new_tasks_reward_counts_different_words(run, here):
    run("new", "task", "words")
    task = load_task("words.py:Words", words=4)
    assert task.reward(["", "", ""], [" a b a", " a b c d e", ""]) == [0.5, 1.0, 0.0]
    prompts = [set(task.prompts(split)["prompt"]) for split in ("train", "test")]
    assert not prompts[0] & prompts[1]


def test_a_new_reward_is_one_that_tasks_take(run, here):
    status, told, _ = run("new", "reward", "once")
    assert status == 0
    assert "--tasks summarize@reward=./once.py:Once" in told
    reward = load_reward("once.py:Once", floor=-1.0)
    # a twice, b and c once each: two of four words.
    assert reward(["", ""], ["a b A c", " "]) == [0.5, -1.0]
    task = load_task("summarize", reward="once.py:Once")
    assert task.reward([""], ["a b"]) == [1.0]


@pytest.mark.parametrize(
    ("name", "cause"),
    [
        ("my idea", "'my idea' cannot be a module's name; try 'my_idea'"),
        ("2much", "try 'my_2much'"),
        ("class", "try 'my_class'"),
        ("../idea", "try 'idea'"),
        ("_", "try 'plugin'"),
        ("idée", "try 'id_e'"),
        ("random", "'random' is the name of a module that is installed; try 'my_random'"),
        ("agent", "class Agent would hide what it is made of; try 'my_agent'"),
    ],
)
def test_a_name_that_will_not_do_gets_another(name, cause, run, here):
    status, _, error = run("new", "agent", name)
    assert status == 2
    assert cause in error
    assert error.count("\n") == 1
    assert list(here.iterdir()) == []
    better = error.rpartition("try '")[2].partition("'")[0]
    assert run("new", "agent", better)[0] == 0


def test_nothing_is_overwritten_and_nothing_half_written(run, here, monkeypatch):
    assert run("new", "agent", "idea")[0] == 0
    (here / "idea.py").write_text("mine")
    status, _, error = run("new", "task", "idea")
    assert status == 2
    assert "idea.py is there already" in error
    assert (here / "idea.py").read_text() == "mine"
    status, _, error = run("new", "agent", "other", "--out", here / "idea.py")
    assert status == 2
    assert "cannot write" in error

    def fails(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("pathlib.Path.rename", fails)
    status, _, error = run("new", "agent", "third")
    assert status == 2
    assert "No space left on device" in error
    assert [path.name for path in here.iterdir()] == ["idea.py"]


BROKEN = """
import torch
from textgym.benchmarks.templates.agent import MyAgent


class Loud(MyAgent):
    def train(self, setup):
        print("training")
        torch.rand(1)
        super().train(setup)


class Needy(MyAgent):
    def __init__(self, config):
        super().__init__(config)


class Helper:
    def train(self, setup):
        pass
"""


def test_a_check_that_fails_is_told_and_is_exit_status_1(run, here):
    (here / "broken.py").write_text(BROKEN)
    status, told, errors = run("check", "agent", "broken.py:Loud", "--json")
    assert status == 1
    assert "training" in errors  # what an agent prints is not part of the JSON
    told = json.loads(told)
    assert (told["agent"], told["failed"], told["not applicable"]) == ("Loud", 1, 0)
    assert told["passed"] == len(told["checks"]) - 1
    assert [c for c in told["checks"] if c["status"] == "failed"] == [
        {
            "check": "global randomness",
            "status": "failed",
            "claim": "Draws nothing from the global generators of torch, numpy and random.",
            "cause": "touched the global generator of torch",
        }
    ]


def test_an_agent_that_trains_nothing_is_told_what_does_not_apply(run):
    status, told, _ = run("check", "agent", "human")
    assert status == 0
    assert "not applicable  saving: it has no policy to save\n" in told
    assert "0 failed" in told


def test_bad_input_is_one_line_and_exit_status_2(run, here):
    (here / "broken.py").write_text(BROKEN)
    for agent, cause in (
        ("reinforc", "did you mean 'reinforce'"),
        ("ppo@kl_cof=1", "did you mean 'kl_coef'"),
        ("ppo@kl_coef=-1", "kl_coef must be >= 0"),
        ("none.py:Loud", "no file 'none.py'"),
        ("broken.py:Quiet", "has no 'Quiet'"),
        ("broken.py:Helper", "has no method sample"),
        ("broken.py:BROKEN", "has no 'BROKEN'"),
        ("broken.py:torch", "not a class"),
    ):
        status, told, error = run("check", "agent", agent)
        assert (status, told) == (2, "")
        assert cause in error
        assert error.count("\n") == 1
    for command in ("check", "new"):
        status, _, error = run(command, "agnt", "x")
        assert status == 2
        assert "Did you mean 'agent'?" in error


def test_help_says_what_is_checked(run):
    status, told, _ = run("check", "agent", "--help")
    assert status == 0
    assert "Exit status 1" in " ".join(told.split())
    assert "forty lines" in run("new", "--help")[1]


def test_the_template_is_what_is_written(run, here):
    run("new", "agent", "mimic")
    written = (here / "mimic.py").read_text()
    original = Path(template.__file__).read_text()
    assert written.replace("Mimic", "MyAgent").replace("mimic", "my_agent") == original
    # It needs nothing but the library.
    script = [sys.executable, "-c", "import mimic; print(mimic.Mimic().config.lr)"]
    told = subprocess.run(script, capture_output=True, text=True, check=True)
    assert told.stdout == "0.0003\n"
