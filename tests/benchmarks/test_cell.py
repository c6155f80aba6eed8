from __future__ import annotations

import dataclasses
import json
import os

import pandas as pd
import pytest

from textgym.benchmarks.cell import (
    OWN_MODEL,
    Cell,
    require_writable,
    sweep,
    whole_directory,
    write_cell,
    write_error,
)
from textgym.benchmarks.suite import PRECISIONS, Evaluation, Spec
from textgym.errors import ResultsError

CELL = Cell(
    task=Spec("summarize"),
    agent=Spec("best_of_n", {"n": 4}),
    seed=1,
    model="tiny",
    fingerprint="abc",
    reference="sft",
    precision="auto",
    sft={},
    budget=8,
    evaluation=Evaluation(),
)


def files(folder):
    return sorted(p.relative_to(folder).as_posix() for p in folder.rglob("*"))


def test_a_cell_is_finished_only_with_the_same_config(tmp_path):
    assert not CELL.is_finished(tmp_path)
    write_cell(tmp_path / CELL.name, {"config": CELL.config}, {"curve": pd.DataFrame({"x": [1]})})
    assert CELL.is_finished(tmp_path)
    assert files(tmp_path / CELL.name) == ["curve.parquet", "result.json"]
    changes = [{"budget": 9}, {"fingerprint": "abd"}, {"model": OWN_MODEL}]
    changes += [{"evaluation": e} for e in (Evaluation(prompts=1), Evaluation(frontier_samples=0))]
    for change in changes:
        assert not dataclasses.replace(CELL, **change).is_finished(tmp_path)


@pytest.mark.parametrize(
    ("made", "finished"),
    [
        ({"asked": "auto", "used": "bfloat16"}, {"auto", "bfloat16"}),
        ({"asked": "auto", "used": "float32"}, {"auto", "float32"}),
        ({"asked": "bfloat16", "used": "bfloat16"}, {"bfloat16"}),
        ({}, {"auto", "float32"}),
    ],
    ids=["auto came to bfloat16", "auto came to float32", "bfloat16", "before there was a choice"],
)
def test_a_result_is_of_the_precision_asked_for_and_of_the_one_used(made, finished, tmp_path):
    config = {key: value for key, value in CELL.config.items() if key != "precision"}
    result = {"config": config}
    if made:
        result = {"config": config | {"precision": made["asked"]}, "precision": made["used"]}
    write_cell(tmp_path / CELL.name, result, {})
    again = [dataclasses.replace(CELL, precision=name) for name in PRECISIONS]
    assert {cell.precision for cell in again if cell.is_finished(tmp_path)} == finished
    assert not any(dataclasses.replace(c, budget=9).is_finished(tmp_path) for c in again)


def test_writing_is_all_or_nothing(tmp_path):
    write_cell(tmp_path / "cell", {"old": True}, {})

    def write_and_stop():
        with whole_directory(tmp_path / "cell") as temporary:
            (temporary / "half").write_text("half")
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        write_and_stop()
    assert files(tmp_path) == ["cell", "cell/result.json"]
    assert json.loads((tmp_path / "cell" / "result.json").read_text()) == {"old": True}


def test_nan_never_reaches_json(tmp_path):
    with pytest.raises(ValueError, match="JSON"):
        write_cell(tmp_path / "cell", {"x": float("nan")}, {})
    assert files(tmp_path) == []


def test_a_later_success_replaces_an_error(tmp_path):
    write_error(tmp_path / CELL.name, {"cause": "loss is nan"})
    assert not CELL.is_finished(tmp_path)
    write_cell(tmp_path / CELL.name, {"config": CELL.config}, {})
    assert files(tmp_path / CELL.name) == ["result.json"]


def test_sweep_removes_what_a_killed_process_left(tmp_path):
    left = tmp_path / "summarize" / "ppo" / ".seed-0.123.tmp"
    left.mkdir(parents=True)
    (left / "curve.parquet").touch()
    sweep(tmp_path)
    assert files(tmp_path) == ["summarize", "summarize/ppo"]


def test_unwritable_folder(tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(ResultsError, match="not writable"):
        require_writable(tmp_path / "file" / "results")
    require_writable(tmp_path / "new" / "results")
    assert files(tmp_path) == ["file", "new", "new/results"]


@pytest.mark.skipif(not hasattr(os, "geteuid") or os.geteuid() == 0, reason="root writes anywhere")
def test_read_only_folder(tmp_path):
    tmp_path.chmod(0o500)
    with pytest.raises(ResultsError, match="not writable"):
        require_writable(tmp_path)
