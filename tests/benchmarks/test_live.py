from __future__ import annotations

import io
import time

import pytest
from made_results import make_cell
from rich.console import Console

from textgym.benchmarks.live import CELLS, Costs, View


def test_the_time_left_is_worked_by_hand():
    costs = Costs()
    assert costs.left([make_cell("ppo")], [], 2) is None
    costs.add(make_cell("ppo"), 100)
    costs.add(make_cell("ppo", 1), 140)
    costs.add(make_cell("sft"), 30)
    # Two known kinds, 120 and 30, and one that nobody has seen: the mean of all three cells, 90.
    waiting = [make_cell("ppo", 2), make_cell("sft", 1), make_cell("new")]
    assert costs.left(waiting, [], 1) == 120 + 30 + 90
    assert costs.left(waiting, [], 2) == (120 + 30 + 90) / 2
    # One that runs has the rest of its cost to go, and no less than none.
    assert costs.left(waiting[:1], [(make_cell("sft", 1), 20.0)], 1) == 120 + 10
    assert costs.left(waiting[:1], [(make_cell("sft", 1), 50.0)], 1) == 120
    # A single cell is not shared by four processes.
    assert costs.left(waiting[:1], [], 4) == 120


@pytest.fixture
def view():
    cells = [make_cell("ppo"), make_cell("sft"), make_cell("best")]
    costs = Costs()
    costs.add(make_cell("ppo", 1), 600)

    def make(**options):
        console = Console(file=io.StringIO(), width=120, **options)
        return cells, View(console, cells, 2, costs), console.file

    return make


def test_where_the_output_is_no_terminal_there_are_only_lines(view):
    (ppo, sft, best), shown, file = view()
    with shown:
        shown.stage(CELLS)
        shown.begin(ppo)
        shown.begin(sft)
        shown.put_off(sft)
        shown.begin(best)
        shown.end(ppo)
        # What is left: best and sft, at 600 s each, for two; nobody knows how far the other is.
        shown.finish(ppo, "ppo done", 600, failed=False)
        shown.end(best)
        shown.finish(best, "best FAILED", 3, failed=True)
        shown.waiting()
        shown.waiting()
        shown.end(sft)
        shown.finish(sft, "sft done", 20, failed=False)
    assert file.getvalue().splitlines() == [
        "[1/3, about 10 min left] ppo done",
        "[2/3, about 10 min left] best FAILED",
        "waiting for another process, which is at summarize/sft/seed-0",
        "[3/3] sft done",
    ]


def test_a_terminal_shows_what_runs(view):
    (ppo, sft, best), shown, file = view(force_terminal=True)
    with shown:
        shown.stage(CELLS)
        shown.begin(ppo)
        shown.begin(sft)
        shown.put_off(sft)
        shown.begin(best)
        shown.end(best)
        shown.finish(best, "best", 3, failed=True)
        console = Console(file=io.StringIO(), width=140)
        shown._running[ppo.name] = time.monotonic() - 65
        console.print(shown.render())
    text = console.file.getvalue()
    assert "cells 1/3 · 1 running · 1 failed · 1 at another process · 0:00:00" in text
    assert "about 9 min left" in text
    assert [line.split() for line in text.splitlines()[1:]] == [["summarize/ppo/seed-0", "0:01:05"]]
    assert "best" in file.getvalue()
