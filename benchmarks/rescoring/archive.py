"""A results folder: its finished cells, and what it takes to read their samples again."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Collection, Sequence
from functools import cache, partial
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

from textgym.benchmarks.cell import OWN_MODEL, RESULT, read_json
from textgym.benchmarks.intervals import BASELINE, DIVERSITY
from textgym.benchmarks.measure import HEADLINE
from textgym.benchmarks.rescoring.kept import (
    PROMPTS,
    Columns,
    Kept,
    OldCell,
    in_tokens,
    read_table,
)
from textgym.benchmarks.suite import Evaluation, Spec, folder_name
from textgym.benchmarks.workbench import SAMPLES, Workbench, evaluation_rows
from textgym.errors import ResultsError, TextGymError
from textgym.metrics import diversity, sets
from textgym.models.tokenize import load_tokenizer
from textgym.seeding import Streams

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

    from textgym.tasks.base import Task

TOKENS, LENGTH, COLUMNS = "tokens", "length", "columns"
"""What a scorer may need beside the samples: the tokenizer, the common length of the responses, the
data's other columns."""
REFERENCES = "references"
EAD = DIVERSITY + HEADLINE
LOOKED_AT = 64
"""Responses that must read the same, to tell that a tokenizer is the one they were written with."""
SINGLE = 1e-6
"""How far off a number may be that was stored in single precision; another length or other texts
change an EAD by more."""
OWN_SAMPLES = "the harness's samples"
"""What the reference's diversity is taken from where the harness has kept its samples."""


class Archive:
    """A results folder's cells, and what more than one of them needs.

    Attributes:
        out: the folder.
        cells: the finished ones, by name.
    """

    def __init__(self, out: Path) -> None:
        """Reads the folder. Raises: ResultsError when it holds no finished cell."""
        if not out.is_dir():
            raise ResultsError(f"no results folder {str(out)!r}")
        self.out = out
        self.cells = [
            OldCell(path.parent, path.parent.relative_to(out).as_posix(), read_json(path))
            for path in sorted(out.glob(f"*/*/seed-*/{RESULT}"))
            if path.relative_to(out).parts[0] != REFERENCES
        ]
        if not self.cells:
            raise ResultsError(f"{str(out)!r} holds no finished cell")
        self._bench = Workbench(out)
        self._rows: dict[tuple[str, int], Columns] = {}
        self._tokenizers: dict[tuple[str, str], PreTrainedTokenizerBase] = {}
        self._lengths: dict[tuple[str, int], int] = {}
        self._read: set[str] = set()

    def kept(self, cell: OldCell, needs: Collection[str]) -> Kept:
        """Returns a cell's samples with what a scorer needs (`scorer.TOKENS`, ...).

        Raises: ResultsError and ModelError for what cannot be had.
        """
        return self._kept(cell, cell.samples(), cell.k, needs)

    def _kept(self, cell: OldCell, table: pd.DataFrame, k: int, needs: Collection[str]) -> Kept:
        return Kept(
            table,
            k,
            partial(self.task, cell),
            self.columns(cell, table, k) if COLUMNS in needs else {},
            self.tokenizer(cell) if TOKENS in needs else None,
            self.common_length(cell) if LENGTH in needs else None,
        )

    def task(self, cell: OldCell) -> Task:
        """Returns the cell's task, as a training run of its seed meets it."""
        config = cell.result["config"]
        task = self._bench.task(Spec(**config["task"]), config["model"])
        return task.for_run(Streams(cell.seed))

    def columns(self, cell: OldCell, table: pd.DataFrame, k: int) -> Columns:
        """Returns the data's columns beside the prompt, [B] each.

        Empty where the task cannot be made any more, or its prompts are not those of the samples.
        """
        key = (cell.task, cell.seed)
        if key not in self._rows:
            asked = cell.result["config"]["evaluation"]
            evaluation = Evaluation(prompts=asked["prompts"], split=asked["split"])
            try:
                self._rows[key] = evaluation_rows(self.task(cell), evaluation, cell.seed)[:]
            except TextGymError:
                self._rows[key] = {"prompt": []}
        rows = {
            name: [v for v in values for _ in range(k)] for name, values in self._rows[key].items()
        }
        return rows if rows.pop("prompt") == list(table["prompt"]) else {}

    def tokenizer(self, cell: OldCell) -> PreTrainedTokenizerBase:
        """Returns the tokenizer that the cell's responses were written with.

        Raises:
            ModelError: no tokenizer where the cell's model was.
            ResultsError: it gives other texts for the kept tokens.
        """
        name = str(cell.result["config"]["model"])
        if (cell.task, name) not in self._tokenizers:
            own = self.task(cell).tokenizer() if name == OWN_MODEL else None
            self._tokenizers[cell.task, name] = own or load_tokenizer(name)
        tokenizer = self._tokenizers[cell.task, name]
        if cell.name in self._read:
            return tokenizer
        table = cell.samples().head(LOOKED_AT)
        for ids, text in zip(table["response_ids"], table["response"], strict=True):
            options = {"skip_special_tokens": True, "clean_up_tokenization_spaces": False}
            if tokenizer.decode([int(i) for i in ids], **options) != text:
                raise ResultsError(
                    f"{cell.name}: its responses were not written with the tokenizer that "
                    f"{name!r} has now"
                )
        self._read.add(cell.name)
        return tokenizer

    def common_length(self, cell: OldCell) -> int:
        """Returns the tokens that responses of the cell's task and seed were cut to.

        Results of the time before it was noted down tell it by their stored EAD.

        Raises: ResultsError when they do not.
        """
        key = (cell.task, cell.seed)
        if key not in self._lengths:
            others = [c for c in self.cells if (c.task, c.seed) == key]
            noted = {int(c.result["common_length"]) for c in others if "common_length" in c.result}
            found = noted or self._recovered(others)
            if not found or len(noted) > 1:
                raise ResultsError(
                    f"{cell.task}, seed {cell.seed}: the common length of its responses is not "
                    "known; name one for all, as in ead@length=32"
                )
            self._lengths[key] = max(found)
        return self._lengths[key]

    def _recovered(self, cells: Sequence[OldCell]) -> set[int]:
        """Returns the lengths that give every cell's stored EAD (all the same beyond the texts)."""
        fits: set[int] = set()
        for cell in (c for c in cells if c.has_samples):
            stored, tokenizer = cell.prompts(), self.tokenizer(cell)
            if EAD not in stored:
                continue
            ids = in_tokens(list(cell.samples()["response"]), tokenizer)
            candidates = sorted(fits) or range(1, max(map(len, ids)) + 1)
            known, vocabulary = stored[EAD].to_numpy(), len(tokenizer)
            fits = {n for n in candidates if _gives(ids, n, cell.k, vocabulary, known)}
            if len(fits) < 2:
                break
        return fits

    def held_against(self, task: str) -> str | None:
        """Returns where the reference's diversity comes from, for the cells of a task.

        From samples that the harness has kept for it where every cell of several samples per
        prompt has them, else from the row whose agent is the reference; None without either.
        """
        cells = [c for c in self.cells if c.task == task and c.has_samples]
        several = [cell for cell in cells if cell.k > 1]
        if several and all(self._own_samples(cell) is not None for cell in several):
            return OWN_SAMPLES
        return next((c.agent for c in cells if c.is_reference), None)

    def reference(self, cell: OldCell, source: str, needs: Collection[str]) -> Kept | None:
        """Returns samples of the cell's reference on its prompts, independent of the cell's own.

        Args:
            cell: whose reference.
            source: what `held_against` says.
            needs: as of `kept`.
        """
        if source == OWN_SAMPLES:
            own = self._own_samples(cell)
            k = 0 if own is None else len(own) // own["prompt_index"].nunique()
            return None if own is None else self._kept(cell, own, k, needs)
        asked = _asked(cell.samples())
        for other in self.cells:
            same = (other.task, other.seed, other.agent) == (cell.task, cell.seed, source)
            if same and other.name != cell.name and other.has_samples:
                table = other.samples()
                return self._kept(other, table, other.k, needs) if _asked(table) == asked else None
        return None

    def _own_samples(self, cell: OldCell) -> pd.DataFrame | None:
        """Returns what the harness has kept of the reference, known by the numbers it gave."""
        stored = cell.prompts()
        if BASELINE + HEADLINE not in stored:
            return None
        kind = f"{folder_name(cell.task)}-*/seed-{cell.seed}-*/{SAMPLES}"
        for path in sorted((self.out / REFERENCES).glob(kind)):
            known = read_table(path.with_name(PROMPTS))
            ours = stored[BASELINE + HEADLINE]
            same = EAD in known and len(known) == len(ours)
            if same and np.allclose(known[EAD], ours, rtol=0, atol=SINGLE, equal_nan=True):
                return read_table(path)
        return None


def _gives(ids: list[list[int]], length: int, k: int, vocabulary: int, known: np.ndarray) -> bool:
    groups = zip(sets.by_prompt(sets.cut(ids, length), k), known, strict=True)
    return all(abs(diversity.ead(group, vocabulary) - value) < SINGLE for group, value in groups)


def _asked(table: pd.DataFrame) -> list[str]:
    """Returns each prompt once, in order."""
    return list(table.drop_duplicates("prompt_index")["prompt"])


@cache
def tokenizer_digest(tokenizer: PreTrainedTokenizerBase) -> str:
    """Returns a digest of a tokenizer's vocabulary, equal for equal ones."""
    text = json.dumps(sorted(tokenizer.get_vocab().items()))
    return hashlib.sha256(text.encode()).hexdigest()[:12]
