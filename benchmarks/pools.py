"""What samples of the reference tell of a task, kept beside the cells without their texts."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import pandas as pd

from textgym.benchmarks.cell import Cell, whole_file, write_table
from textgym.benchmarks.measure import HEADLINE
from textgym.benchmarks.reachable import ReferencePool
from textgym.benchmarks.sample_numbers import TOKEN_METRICS, of_tokens
from textgym.benchmarks.suite import folder_name

if TYPE_CHECKING:
    from textgym.models.policy import Policy

POOLS = "pools"
"""Folder inside a results folder: a folder per task, up to three files per seed."""
OPTIMA, START = "optima", "start"
"""The best policies that follow from the samples, and the reference's own numbers at the start of
every agent's training."""


def pool_file(out: Path, cell: Cell) -> Path:
    """Returns where the scores of a cell's reference samples are kept."""
    return out / POOLS / folder_name(cell.task.label) / f"seed-{cell.seed}.parquet"


def beside(path: Path, what: str) -> Path:
    """Returns where something else of the same seed is kept, by the path of its scores.

    >>> beside(Path("seed-0.parquet"), "start").name
    'start-seed-0.parquet'
    """
    return path.with_name(f"{what}-{path.name}")


def save_pool(
    pool: ReferencePool, path: Path, k: int, common_length: int, reference: Policy
) -> None:
    """Writes the scores of a pool, and what the best policies have that follow from it.

    Args:
        pool: samples of the reference.
        path: of the scores; the optima lie beside it.
        k: K, samples that diversity is measured on.
        common_length: tokens that responses are cut to for diversity.
        reference: its vocabulary counts.
    """
    write(pool.scores().astype({"prompt": "int16"}), path)
    if 2 <= k <= pool.rewards.shape[1]:
        metric = partial(of_tokens, TOKEN_METRICS[HEADLINE], len(reference.tokenizer))
        write(pool.optima(k, metric, common_length), beside(path, OPTIMA))


def write(table: pd.DataFrame, path: Path) -> None:
    """Writes a table whole or not at all."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with whole_file(path) as temporary:
        write_table(table, temporary)
