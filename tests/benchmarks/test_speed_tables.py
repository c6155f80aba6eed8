"""What a speed run writes and shows, and what its command says of mistakes."""

import json
import sys

import pandas as pd
import pytest

from textgym.benchmarks.speed import __main__ as command
from textgym.benchmarks.speed import tables, timing
from textgym.benchmarks.speed.timing import Ratio, compare
from textgym.errors import ConfigError

ROW = Ratio("64 rows", 0.0125, 2.5, 200.0, 150.0, 210.25, goal=100.0, detail={"tokens": 3})
OTHER = Ratio("8 rows", 2e-6, 3e-6, 1.5, 1.25, 1.75)


def test_ratios_by_hand(monkeypatch):
    """Pairs of 2 and 6, 4 and 4, 1 and 5 seconds after a pair that warms up."""
    times = iter([9.0, 9.0, 2.0, 6.0, 4.0, 4.0, 1.0, 5.0])
    monkeypatch.setattr(timing, "seconds", lambda run: next(times))
    found = compare("a row", str, str, repeats=3, goal=2.0, rows=64)
    assert (found.ours, found.peer) == (2.0, 5.0)
    assert (found.ratio, found.low, found.high) == (3.0, 1.0, 5.0)
    assert (found.goal, found.detail) == (2.0, {"rows": 64})


def test_tables_by_hand(tmp_path):
    frame = pd.DataFrame({"what": ["a", "b"], "share": [0.25, float("nan")], "each": [[1.0], []]})
    tables.write(tmp_path, "steps", {"token steps": [ROW, OTHER], "shares": frame})
    written = json.loads((tmp_path / "steps.json").read_text())
    assert written["tables"]["token steps"][0]["detail"] == {"tokens": 3}
    assert written["tables"]["shares"][1] == {"what": "b", "share": None, "each": []}
    assert {"machine", "threads", "versions", "commit"} <= set(written)
    assert tables.markdown(tmp_path / "steps.json").splitlines() == [
        "| token steps | TextGym | peer | ratio | least to greatest | goal |",
        "| --- | --: | --: | --: | --- | --: |",
        "| 64 rows | 12.5 ms | 2.50 s | **200** | 150 to 210 | 100 |",
        "| 8 rows | 2 us | 3 us | **1.50** | 1.25 to 1.75 |  |",
        "",
        "*shares*",
        "",
        "| what | share |",
        "| --- | --- |",
        "| a | 0.25 |",
        "| b |  |",
    ]


def test_a_document_shows_what_was_written(tmp_path):
    tables.write(tmp_path, "steps", {"token steps": [OTHER]})
    document = tmp_path / "README.md"
    document.write_text("Before.\n<!-- speed:steps -->\nold\n<!-- /speed:steps -->\nAfter.\n")
    assert tables.show(document, tmp_path) == ["steps"]
    once = document.read_text()
    table = tables.markdown(tmp_path / "steps.json")
    block = f"<!-- speed:steps -->\n{table}\n<!-- /speed:steps -->"
    assert once == f"Before.\n{block}\nAfter.\n"
    tables.show(document, tmp_path)
    assert document.read_text() == once


def run(monkeypatch, *arguments):
    monkeypatch.setattr(sys, "argv", ["speed", *arguments])
    return command.main()


def test_a_section_is_written_and_printed(monkeypatch, tmp_path, capsys):
    monkeypatch.setitem(command.SECTIONS, "rewards", lambda options: {"rewards": [OTHER]})
    assert run(monkeypatch, "rewards", "--out", str(tmp_path)) == 0
    assert "| 8 rows | 2 us | 3 us | **1.50** |" in capsys.readouterr().out
    assert (tmp_path / "rewards.json").is_file()


def test_mistakes_are_told_in_a_line(monkeypatch, tmp_path, capsys):
    def fails(options):
        raise ConfigError("no TRL; pip install 'textgym[peers]'")

    monkeypatch.setitem(command.SECTIONS, "training", fails)
    assert run(monkeypatch, "training", "--out", str(tmp_path)) == 2
    assert capsys.readouterr().err == "training: no TRL; pip install 'textgym[peers]'\n"
    for arguments, message in (
        (["trainin"], "no section 'trainin'"),
        (["training", "--repeats", "0"], "--repeats must be >= 1, got 0"),
        (["--show", str(tmp_path / "none.md")], "none.md: No such file"),
    ):
        with pytest.raises(SystemExit, match="2"):
            run(monkeypatch, *arguments)
        assert message in capsys.readouterr().err
