"""One seed, many named and independent random streams."""

from __future__ import annotations

import zlib
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    import torch


class Streams:
    """Named random generators that all follow from one seed.

    Streams of different names are independent, so that drawing more prompts never changes which
    tokens are sampled. The names in use: prompts, sampling, initialisation, adapters, minibatches,
    annotators, evaluation.
    """

    def __init__(self, seed: int) -> None:
        self.seed = seed

    def numpy(self, name: str) -> np.random.Generator:
        """Returns a fresh NumPy generator at the start of the stream called `name`."""
        return np.random.default_rng([self.seed, zlib.crc32(name.encode())])

    def torch(self, name: str) -> torch.Generator:
        """Returns a fresh CPU torch generator at the start of the stream called `name`."""
        import torch

        state = self.numpy(name).integers(0, 2**63 - 1)
        return torch.Generator().manual_seed(int(state))
