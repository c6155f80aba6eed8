"""The four steps of feedback on the command line, with what goes wrong in each."""

import json

import pytest

from textgym.benchmarks.cli import main
from textgym.feedback.formats import read_feedback
from textgym.rewards import load_reward


def run(*arguments):
    try:
        main([str(a) for a in arguments])
    except SystemExit as stop:
        return stop.code or 0
    return 0


def collect(tmp_path, *more):
    common = ("feedback", "collect", "--policy", "tiny", "--prompts", 12)
    return run(*common, "--store", tmp_path / "f.db", *more)


def test_collect_export_learn_and_report(tmp_path, capsys):
    assert collect(tmp_path, "--set", "flips=0.1") == 0
    assert (
        run("feedback", "export", "--feedback", tmp_path / "f.db", "--out", tmp_path / "f.jsonl")
        == 0
    )
    answers = read_feedback(tmp_path / "f.jsonl")
    assert len(answers) == 12
    assert {a.annotator for a in answers} == {"simulated"}
    reward = tmp_path / "reward"
    trained = ("reward", "train", "--feedback", tmp_path / "f.jsonl", "--out", reward)
    assert run(*trained, "--set", "epochs=1") == 0
    held = {a.question.prompt for a in read_feedback(reward / "held_out.jsonl")}
    assert held < {a.question.prompt for a in answers}
    assert json.loads((reward / "training.json").read_text())["report"]["pairs"] < 12
    assert len(load_reward(reward)(["p", "q"], ["a", "b"])) == 2
    assert run(*trained) == 2
    assert "is not empty" in capsys.readouterr().err
    report = ("reward", "report", "--reward", reward, "--out", tmp_path / "report")
    assert run(*report, "--gold", "summarize", "--off", f"all={tmp_path / 'f.db'}") == 0
    assert (tmp_path / "report" / "report.html").is_file()
    assert "as good on 'all'" in (tmp_path / "report" / "report.md").read_text()


def test_a_judge_by_likelihood_says_how_far_it_agrees(tmp_path, capsys):
    assert collect(tmp_path, "--by", "likelihood") == 0
    told = capsys.readouterr().out
    assert "12 answers by likelihood stored" in told
    assert "agreement with simulated people" in told


def test_collecting_again_asks_nothing_twice(tmp_path, capsys):
    assert collect(tmp_path) == 0
    assert collect(tmp_path) == 0
    assert "0 answers by simulated stored" in capsys.readouterr().out


def test_human_choices_are_imported_once(tmp_path, capsys):
    data = tmp_path / "data"
    data.mkdir()
    rows = [{"prompt": f"p{i}", "chosen": "a", "rejected": "b"} for i in range(30)]
    (data / "train.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    counts = []
    for _ in range(2):
        assert run("feedback", "import", data, "--store", tmp_path / "f.db") == 0
        counts.append(int(capsys.readouterr().out.split()[0]))
    # What the data do not split themselves is split off train.
    assert 20 < counts[0] < 30
    assert counts[1] == 0


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (
            ["feedback", "collect", "--policy", "tiny", "--by", "simulate"],
            "did you mean 'simulated'",
        ),
        (["feedback", "collect", "--policy", "tiny", "--set", "flip=1"], "did you mean 'flips'"),
        (["feedback", "export", "--feedback", "no.db", "--out", "x.jsonl"], "no feedback at no.db"),
        (["reward", "train", "--feedback", "no.jsonl", "--out", "r"], "no.jsonl cannot be read"),
        (["reward", "report", "--reward", "no", "--out", "r"], "kept no answers back"),
        (["study", "label-nose"], "did you mean 'label-noise'"),
        (["label", "--policy", "tiny", "--store", "empty.db"], "is empty"),
    ],
)
def test_what_goes_wrong_is_one_line(arguments, message, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert run(*arguments) == 2
    error = capsys.readouterr().err
    assert message in error
    assert error.count("\n") == 1
