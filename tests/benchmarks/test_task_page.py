"""The page on the tasks, and documents whose numbers are put between markers."""

import pandas as pd
import pytest

from textgym.benchmarks import filling
from textgym.benchmarks.task_page import OWN, WORLD_TASKS, facts, main, results_of
from textgym.errors import ConfigError


def test_what_stands_between_markers_is_made_anew_and_the_rest_is_kept():
    text = "a\n<!-- up:x -->\nold\n<!-- /up:x -->\nb\n<!-- up:y -->\n<!-- /up:y -->\n"
    filled = filling.fill(text, {"up": str.upper})
    assert filled == "a\n<!-- up:x -->\nX\n<!-- /up:x -->\nb\n<!-- up:y -->\nY\n<!-- /up:y -->\n"
    assert filling.fill(filled, {"up": str.upper}) == filled


def test_a_marker_that_is_not_closed_is_named():
    with pytest.raises(ConfigError, match=r"not closed: \['x'\]"):
        filling.fill("<!-- up:x -->\nold\n", {"up": str.upper})


def test_a_task_tells_its_question_splits_and_range():
    told = facts("caveats")
    assert "2048 train, 256 validation, 256 test, 256 ood" in told
    assert "floor 0, ceiling 1" in told
    assert "80 + 48 tokens" in told


def test_agents_are_shown_the_best_gold_first_with_the_tasks_own_numbers():
    rows = [
        {"task": "caveats", "agent": "low", "gold": 0.25, "gold_low": 0.2, "gold_high": 0.3},
        {"task": "caveats", "agent": "high", "gold": 0.5, "caveat_due": 0.75},
        {"task": "other", "agent": "none", "gold": 1.0},
    ]
    table = results_of("caveats", [pd.DataFrame(rows[:1]), pd.DataFrame(rows[1:])]).splitlines()
    assert [line.split(" | ")[0] for line in table[2:]] == ["| high", "| low"]
    assert table[0].endswith("caveat where due | where not | facts kept |")
    assert "0.250 ± 0.050" in table[3]
    assert "| 0.75 |" in table[2]


def test_every_world_task_has_columns_of_its_own():
    assert set(OWN) == set(WORLD_TASKS)


def test_a_page_that_is_not_there_is_one_clear_line(capsys):
    assert main(["nowhere.md"]) == 2
    assert capsys.readouterr().err.startswith("error: ")
