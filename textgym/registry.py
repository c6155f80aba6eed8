"""Names -> "module:Object" strings, resolved on first use, with suggestions for misspelt names."""

from __future__ import annotations

import difflib
import importlib
import importlib.metadata
import importlib.util
import sys
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from textgym.errors import PluginError, UnknownNameError


def unknown_name(kind: str, name: str, known: Iterable[str]) -> UnknownNameError:
    """Returns the error for a name that is not known, with the nearest known names.

    >>> str(unknown_name("agent", "pppo", ["ppo", "sft"]))
    "unknown agent 'pppo'; did you mean 'ppo'? (known: ppo, sft)"
    """
    names = sorted(known)
    near = difflib.get_close_matches(name, names, n=1, cutoff=0.5)
    hint = f"; did you mean {near[0]!r}?" if near else ""
    return UnknownNameError(f"unknown {kind} {name!r}{hint} (known: {', '.join(names)})")


class Registry:
    """A table of names and the "module:Object" strings they stand for.

    Nothing is imported until a name is used, so that listing names is instant. Entries come from
    the table given here, from `register`, and from the entry points of installed packages.
    """

    def __init__(self, kind: str, table: dict[str, str], entry_point_group: str) -> None:
        self.kind = kind
        self.entry_point_group = entry_point_group
        self._table = dict(table)
        self._entry_points_read = False

    def register(self, name: str, target: str) -> None:
        """Adds a name; `target` is "module:Object"."""
        self._table[name] = target

    def __iter__(self) -> Iterator[str]:
        self._read_entry_points()
        return iter(sorted(self._table))

    def __contains__(self, name: object) -> bool:
        self._read_entry_points()
        return name in self._table

    def target(self, name: str) -> str:
        """Returns the "module:Object" string of a name. Raises: UnknownNameError."""
        self._read_entry_points()
        if name not in self._table:
            raise unknown_name(self.kind, name, self._table)
        return self._table[name]

    def load(self, name: str) -> Any:
        """Returns the object that a name, or `path/to/file.py:Object`, stands for.

        Raises:
            UnknownNameError: no such name.
            PluginError: the module cannot be imported or has no such object.
        """
        if ".py:" in name:
            return _load_from_file(name)
        module_name, _, attribute = self.target(name).partition(":")
        return _attribute(importlib.import_module(module_name), attribute, name)

    def _read_entry_points(self) -> None:
        if self._entry_points_read:
            return
        self._entry_points_read = True
        for entry in importlib.metadata.entry_points(group=self.entry_point_group):
            self._table.setdefault(entry.name, entry.value)


def _load_from_file(spec: str) -> Any:
    file, _, attribute = spec.rpartition(":")
    path = Path(file)
    if not path.is_file():
        raise PluginError(f"plug-in {spec!r}: no file {file!r}")
    module_spec = importlib.util.spec_from_file_location(f"textgym_plugin_{path.stem}", path)
    if module_spec is None or module_spec.loader is None:
        raise PluginError(f"plug-in {spec!r}: {file!r} is not a Python file")
    module = importlib.util.module_from_spec(module_spec)
    sys.modules[module_spec.name] = module  # dataclasses look their module up while it is executed
    try:
        module_spec.loader.exec_module(module)
    except Exception as error:
        raise PluginError(
            f"plug-in {spec!r} could not be imported: {type(error).__name__}: {error}"
        ) from error
    return _attribute(module, attribute, spec)


def _attribute(module: Any, attribute: str, name: str) -> Any:
    if not hasattr(module, attribute):
        raise PluginError(f"{name!r}: module {module.__name__!r} has no {attribute!r}")
    return getattr(module, attribute)
