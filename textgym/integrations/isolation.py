"""Running a library that seeds, logs and warns globally, and leaving no trace of it."""

from __future__ import annotations

import importlib.util
import logging
import os
import random
import warnings
from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
import torch

from textgym.errors import PluginError
from textgym.models.tokenize import quiet

LIBRARIES = ("transformers", "trl", "accelerate", "datasets")
"""Loggers that are held to errors."""


def require_trl(what: str) -> None:
    """Raises PluginError unless TRL is installed; imports nothing.

    Args:
        what: needs it, for the error message: "agent 'trl:grpo'".
    """
    if importlib.util.find_spec("trl") is None:
        raise PluginError(f"{what} needs TRL: pip install 'textgym[trl]'")


@contextmanager
def isolated() -> Iterator[None]:
    """Gives back all global random state and the environment as they were, and keeps quiet.

    Within, the generators of torch, NumPy and Python may be seeded and drawn from at will. Warnings
    of what the next version of a library drops, log lines below errors and progress bars are
    hidden.
    """
    states = random.getstate(), np.random.get_state(legacy=True)  # noqa: NPY002
    environment = dict(os.environ)
    cards = range(torch.cuda.device_count())
    with torch.random.fork_rng(devices=cards), quiet(), _silence(), warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)
        try:
            yield
        finally:
            random.setstate(states[0])
            np.random.set_state(states[1])  # noqa: NPY002
            os.environ.clear()
            os.environ.update(environment)


@contextmanager
def _silence() -> Iterator[None]:
    """Holds the libraries' loggers to errors and hides the progress bars of `datasets`."""
    import datasets

    loggers = [logging.getLogger(name) for name in LIBRARIES]
    levels = [logger.level for logger in loggers]
    hidden = datasets.are_progress_bars_disabled()
    datasets.disable_progress_bars()
    for logger in loggers:
        logger.setLevel(logging.ERROR)
    try:
        yield
    finally:
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)
        if not hidden:
            datasets.enable_progress_bars()
