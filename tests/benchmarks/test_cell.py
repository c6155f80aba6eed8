from __future__ import annotations

import dataclasses
import json
import os
import time
from pathlib import Path

import pandas as pd
import pytest

from textgym.benchmarks.cell import (
    OWN_MODEL,
    Cell,
    read_json,
    require_writable,
    sweep,
    whole_directory,
    write_cell,
    write_error,
    write_json,
)
from textgym.benchmarks.locks import held
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


def test_sweep_removes_what_a_killed_process_left_and_nothing_that_is_being_written(tmp_path):
    folder = tmp_path / "summarize" / "ppo"
    left = [".seed-0.123.tmp", ".seed-2.123-old.tmp", ".seed-3.123-old.tmp", "seed-3"]
    for path in (folder / name for name in left):
        path.mkdir(parents=True)
        (path / "curve.parquet").touch()
    (tmp_path / ".suite.json.123.tmp").touch()
    with held(tmp_path, folder / "seed-1", wait=False), whole_directory(folder / "seed-1") as new:
        (new / ".result.json.123.tmp").touch()
        sweep(tmp_path)
        assert [path.name for path in new.iterdir()] == [".result.json.123.tmp"]
        (new / ".result.json.123.tmp").unlink()
    # What was moved aside is put back, unless the new has taken its place.
    assert sorted(path.name for path in folder.iterdir()) == ["seed-1", "seed-2", "seed-3"]
    assert not list(tmp_path.glob("**/*.tmp"))


def test_what_is_replaced_stays_whole_if_its_place_cannot_be_taken(tmp_path, monkeypatch):
    write_cell(tmp_path / "cell", {"old": True}, {})
    rename = Path.rename

    def refuse(path, target):
        if path.name.endswith(f".{os.getpid()}.tmp"):
            raise OSError("no space")
        return rename(path, target)

    monkeypatch.setattr(Path, "rename", refuse)
    with pytest.raises(OSError, match="no space"):
        write_cell(tmp_path / "cell", {"old": False}, {})
    assert files(tmp_path) == ["cell", "cell/result.json"]
    assert json.loads((tmp_path / "cell" / "result.json").read_text()) == {"old": True}


def test_a_process_number_that_comes_again_finds_its_place_free(tmp_path):
    (tmp_path / f".cell.{os.getpid()}.tmp" / "half").mkdir(parents=True)
    write_cell(tmp_path / "cell", {"x": 1}, {})
    assert files(tmp_path) == ["cell", "cell/result.json"]


def test_json_is_written_whole_or_not_at_all(tmp_path):
    path = tmp_path / "suite.json"
    write_json(path, {"cells": ["a"]})
    with pytest.raises(TypeError):
        write_json(path, {"cells": {1, 2}})
    assert read_json(path) == {"cells": ["a"]}
    assert files(tmp_path) == ["suite.json"]


def test_a_failure_counts_from_a_time_on_and_for_the_same_config(tmp_path):
    assert CELL.failure(tmp_path, 0) is None
    write_error(tmp_path / CELL.name, {"config": CELL.config, "cause": "loss is nan"})
    assert CELL.failure(tmp_path, 0) == "loss is nan"
    assert CELL.failure(tmp_path, time.time() + 60) is None
    assert dataclasses.replace(CELL, budget=9).failure(tmp_path, 0) is None


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
