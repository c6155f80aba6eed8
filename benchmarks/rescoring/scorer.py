"""What a scorer of kept samples is, and what the kinds of scorers share."""

from __future__ import annotations

import hashlib
import inspect
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from textgym.benchmarks.intervals import DIVERSITY, LOSS
from textgym.benchmarks.rescoring.kept import Kept
from textgym.benchmarks.suite import Options, Spec, default_label
from textgym.errors import PluginError, TextGymError
from textgym.registry import Registry
from textgym.rewards.detoxify import sha256

Numbers = NDArray[np.float64]


@dataclass
class Scored:
    """New numbers of one cell: [B] per response, [N] per prompt, and single ones, by name."""

    samples: dict[str, Numbers] = field(default_factory=dict)
    prompts: dict[str, Numbers] = field(default_factory=dict)
    metrics: dict[str, float] = field(default_factory=dict)


@dataclass(frozen=True)
class Scorer:
    """What computes a column.

    Attributes:
        by: what it is, such as `reward rouge@kind=rouge1`.
        column: what it is called; `diversity/...` is held against the reference's.
        compute: the numbers of one cell.
        needs: of `TOKENS`, `LENGTH` and `COLUMNS`.
        options: it was made with.
        sha256: of the file, the source or the weights behind it.
        also: further columns that it is sure to write.
        shown: further metrics that tables show.
    """

    by: str
    column: str
    compute: Callable[[Kept], Scored]
    needs: frozenset[str] = frozenset()
    options: Options = field(default_factory=dict)
    sha256: str | None = None
    also: tuple[str, ...] = ()
    shown: tuple[str, ...] = ()

    @property
    def columns(self) -> tuple[str, ...]:
        """The columns of samples and prompts that it is sure to write."""
        return (self.column, *self.also)

    @property
    def is_diversity(self) -> bool:
        """Whether the column is held against the reference's."""
        return self.column.startswith(DIVERSITY)

    @property
    def in_tables(self) -> tuple[str, ...]:
        """The metrics that tables show, where a cell has them."""
        loss = (LOSS + self.column.removeprefix(DIVERSITY),) if self.is_diversity else ()
        return (self.column, *loss, *self.shown)


def named(kind: str, spec: Spec) -> str:
    """Returns what a scorer is, without the folders it lies in: they are one machine's affair.

    >>> named("reward", Spec("some/where/mine.py:Mine", {"floor": 1}))
    'reward mine.py:Mine@floor=1'
    """
    return f"{kind} {Path(spec.name).name}{default_label('', spec.options)}"


def default_column(spec: Spec) -> str:
    """Returns what a column is called that nobody named.

    >>> default_column(Spec("some/where/mine.py:Mine", {"floor": 1}))
    'Mine@floor=1'
    """
    return default_label(Path(spec.name).name, spec.options)


def per_response(column: str, values: Sequence[float] | Numbers, k: int) -> Scored:
    """Returns a number per response [B] and its mean per prompt [N]."""
    array = np.asarray(values, float)
    return Scored({column: array}, {column: array.reshape(-1, k).mean(axis=1)})


def digest(spec: Spec, registry: Registry) -> str | None:
    """Returns the SHA-256 of what a name stands for: its source, its file or its folder."""
    if spec.name in registry:
        source = inspect.getsourcefile(registry.load(spec.name))
        return None if source is None else sha256(Path(source))
    return digest_of(Path(spec.name.rpartition(":")[0] if ".py:" in spec.name else spec.name))


def digest_of(path: Path) -> str | None:
    """Returns the SHA-256 of a file, or of a folder's files and their names; None for neither."""
    if not path.is_dir():
        return sha256(path) if path.is_file() else None
    files = sorted(p for p in path.rglob("*") if p.is_file() and "__pycache__" not in p.parts)
    lines = (f"{file.relative_to(path).as_posix()} {sha256(file)}\n" for file in files)
    return hashlib.sha256("".join(lines).encode()).hexdigest()


@contextmanager
def plain_errors(what: str) -> Iterator[None]:
    """Makes one line of whatever a plug-in raises. Raises: PluginError."""
    try:
        yield
    except TextGymError:
        raise
    except Exception as error:
        cause = " ".join(f"{type(error).__name__}: {error}".split())[:300]
        raise PluginError(f"{what}: {cause}") from error
