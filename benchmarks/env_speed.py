"""How fast the environments step, reward excluded: `python -m textgym.benchmarks.env_speed`.

Every row is the median of several repeats in one thread, with a constant reward, uniformly random
actions and everything a real run pays for: action checks, fresh observation arrays, the decoding of
finished responses, infos, and the drawing and placing of the next prompts (each encoded once, in
the first run, which is not counted). Time is the process's CPU time, so that other work on the
machine is not measured. "as made" is what `gym.make` returns, with the checker that it wraps around
an environment; "bare" is the environment itself, which is also what `gym.make_vec` returns.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING, Any, ClassVar

import gymnasium
import numpy as np
import torch
from rich.console import Console
from rich.table import Table

from textgym.envs.policy_wrappers import token_actions
from textgym.models.tokenize import train_tokenizer
from textgym.tasks.base import Task

if TYPE_CHECKING:
    from datasets import Dataset
    from transformers import PreTrainedTokenizerBase

WINDOWS = ((32, 16), (128, 48), (512, 128))
"""(prompt, response) tokens; the middle one is about the size of the embedded tasks."""

ROWS = 64
VOCAB_SIZE = 512
WORDS = ("report", "says", "rain", "fell", "on", "hills", "near", "town", "while", "wind", "blew")


class SpeedTask(Task):
    """Prompts of random words that fill three quarters of the window, and a constant reward."""

    name: ClassVar[str] = "speed"
    question: ClassVar[str] = "What does a step cost when its reward costs nothing?"

    def __init__(self, max_prompt_tokens: int, max_response_tokens: int, seed: int = 0) -> None:
        self.max_prompt_tokens = max_prompt_tokens
        self.max_response_tokens = max_response_tokens
        self._seed = seed

    def prompts(self, split: str) -> Dataset:
        """Returns 1,000 prompts."""
        from datasets import Dataset

        generator = np.random.default_rng(self._seed)
        words = generator.choice(WORDS, (1000, self.max_prompt_tokens * 3 // 4))
        return Dataset.from_dict({"prompt": [" ".join(row) for row in words]})

    def demonstrations(self) -> Dataset:
        """Returns the prompts as their own completions; nothing learns from them."""
        return self.prompts("train").map(lambda row: {"completion": row["prompt"]})

    def reward(
        self, prompts: list[str], completions: list[str], **columns: list[Any]
    ) -> list[float]:
        """Returns 0 for every completion."""
        return [0.0] * len(completions)


def make_options(window: tuple[int, int]) -> dict[str, Any]:
    """Returns what makes a speed environment with such (prompt, response) tokens."""
    return {"task": SpeedTask(*window), "tokenizer": speed_tokenizer()}


def speed_tokenizer() -> PreTrainedTokenizerBase:
    """Returns a byte-level BPE tokenizer in which each of the words is one token."""
    return train_tokenizer([" ".join(WORDS)] * 2 + [f"{word} " for word in WORDS], VOCAB_SIZE)


def run_single(env: gymnasium.Env[Any, Any], steps: int) -> float:
    """Returns steps/s of one environment, resets included."""
    actions = np.random.default_rng(0).integers(0, token_actions(env.action_space), steps)
    env.reset(seed=0)
    start = time.process_time()
    for action in actions:
        _, _, terminated, truncated, _ = env.step(action)
        if terminated or truncated:
            env.reset()
    return steps / (time.process_time() - start)


def run_vector(env: gymnasium.vector.VectorEnv[Any, Any, Any], steps: int) -> float:
    """Returns token steps/s (vector steps/s times rows), resets included."""
    tokens = token_actions(env.single_action_space)
    actions = np.random.default_rng(0).integers(0, tokens, (steps, env.num_envs))
    env.reset(seed=0)
    start = time.process_time()
    for row in actions:
        env.step(row)
    return steps * env.num_envs / (time.process_time() - start)


def median_speed(run: Callable[[], float], repeats: int) -> tuple[float, float, float]:
    """Returns the median, least and greatest of `repeats` runs, after one that warms up."""
    run()
    speeds = [run() for _ in range(repeats)]
    return statistics.median(speeds), min(speeds), max(speeds)


def measure(steps: int, repeats: int) -> Table:
    """Returns the table of all windows and ways to step.

    Args:
        steps: token steps of one run.
        repeats: runs per row.
    """
    table = Table("environment", "window", "steps/s", "least", "greatest")
    for window in WINDOWS:
        options = make_options(window)
        made = gymnasium.make("textgym/Text-v0", **options)
        vector = gymnasium.make_vec("textgym/Text-v0", num_envs=ROWS, **options)
        rows: dict[str, Callable[[], float]] = {
            "TextEnv, bare": partial(run_single, made.unwrapped, steps),
            "TextEnv, as made": partial(run_single, made, steps),
            f"TextVectorEnv, {ROWS}": partial(run_vector, vector, steps // ROWS),
        }
        for name, run in rows.items():
            speeds = median_speed(run, repeats)
            table.add_row(name, f"{window[0]} + {window[1]}", *(f"{s:,.0f}" for s in speeds))
    return table


def main() -> None:
    """Measures and prints."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--steps", type=int, default=100_000, help="token steps of one run")
    parser.add_argument("--repeats", type=int, default=7, help="runs per row")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    Console().print(measure(arguments.steps, arguments.repeats))


if __name__ == "__main__":
    main()
