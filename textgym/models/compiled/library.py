"""Compiling, once per machine, and calling."""

from __future__ import annotations

import ctypes
import logging
import os
import shlex
import shutil
import subprocess
from functools import cache
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from textgym.cache import cached
from textgym.errors import ConfigError

FOLDER = Path(__file__).parent
FLAGS = (
    "-O3",
    "-std=c++17",
    "-fno-math-errno",
    "-fno-trapping-math",
    "-Wno-psabi",
    "-shared",
    "-fPIC",
)
CHOICES = (("-march=native", "-fopenmp"), ("-fopenmp",), ("-march=native",), ())
"""Further flags: the first of these that the compiler takes."""
TYPES = {torch.float32: "float32", torch.bfloat16: "bfloat16"}
"""Number formats, by the ending of the functions that take them."""


ENABLED = os.environ.get("TEXTGYM_COMPILE") != "0"
"""Whether compiled steps are used where they can be had."""


def library() -> Any:
    """Returns the compiled library; None where it cannot be had or is not wanted."""
    return _loaded() if ENABLED else None


@cache
def _loaded() -> Any:
    """Returns the library, or None where it cannot be had, which is said once."""
    try:
        return ctypes.CDLL(str(_compiled(_compiler())))
    except (OSError, ConfigError, subprocess.SubprocessError) as error:
        logging.getLogger(__name__).warning("plain PyTorch is used, which is slower: %s", error)
        return None


def _compiler() -> list[str]:
    """Returns the command that compiles C++: $CXX, or what is there.

    Raises:
        ConfigError: nothing is.
    """
    if named := os.environ.get("CXX"):
        return shlex.split(named)
    for name in ("c++", "g++", "clang++"):
        if shutil.which(name):
            return [name]
    raise ConfigError("no C++ compiler was found (c++, g++, clang++)")


def _compiled(compiler: list[str]) -> Path:
    """Returns the shared library for this machine, compiled on first use."""
    version = subprocess.run([*compiler, "--version"], capture_output=True, text=True, check=True)
    sources = sorted(FOLDER.glob("*.cpp"))
    key = {
        "sources": {
            path.name: path.read_text() for path in [*sources, *sorted(FOLDER.glob("*.h"))]
        },
        "flags": [*FLAGS, *map(list, CHOICES)],
        "compiler": version.stdout,
        "processor": {name: str(x) for name, x in torch.cpu.get_capabilities().items()},
    }

    def build(folder: Path) -> dict[str, Any]:
        for choice in CHOICES:
            command = [*compiler, *FLAGS, *choice, "-o", str(folder / "steps.so")]
            done = subprocess.run(
                [*command, *map(str, sources)], capture_output=True, text=True, check=False
            )
            if done.returncode == 0:
                return {"command": command}
        raise ConfigError(f"{compiler[0]} failed: {done.stderr.strip()[-200:]}")

    return cached(None, "compiled", key, build) / "steps.so"


class Step:
    """A compiled function, in each number format.

    Args:
        name: without the format's ending.
        types: of its arguments; a last one, the number of threads, is added.
    """

    def __init__(self, name: str, *types: Any) -> None:
        self.name = name
        self._types = [*types, ctypes.c_int64]
        self._functions: dict[torch.dtype, Any] = {}

    def __call__(self, dtype: torch.dtype, *arguments: Any) -> None:
        """Runs it on arguments in `dtype`; tensors are passed by `pointer`."""
        function = self._functions.get(dtype)
        if function is None:
            function = getattr(library(), f"{self.name}_{TYPES[dtype]}")
            function.argtypes, function.restype = self._types, None
            self._functions[dtype] = function
        function(*arguments, torch.get_num_threads())


def pointer(tensor: Tensor | None) -> int | None:
    """Returns where a contiguous tensor's numbers lie."""
    return None if tensor is None else tensor.data_ptr()
