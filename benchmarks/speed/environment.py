"""How fast the environments step, reward excluded, and beside an environment that re-decodes.

Every run has a constant reward, uniformly random actions and everything a real run pays for: action
checks, fresh observation arrays, the decoding of finished responses, infos, and the drawing and
placing of the next prompts. All of it runs in one thread.
"""

from __future__ import annotations

import copy
import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from typing import TYPE_CHECKING, Any, ClassVar

import gymnasium
import numpy as np
import torch
from numpy.typing import NDArray
from rich.table import Table
from torch import Tensor

from textgym.benchmarks.speed.timing import Ratio, compare
from textgym.envs.policy_wrappers import token_actions
from textgym.models.tokenize import train_tokenizer
from textgym.tasks.base import Task

if TYPE_CHECKING:
    from datasets import Dataset
    from transformers import PreTrainedTokenizerBase

GOAL = 100.0
WINDOWS = ((32, 16), (128, 48), (512, 128))
"""(prompt, response) tokens; the middle one is about the size of the embedded tasks."""

ROWS = 64
STEPS = 48
"""Steps of one run of the peer, or as many as the longest response takes."""
PASSES = 50
"""How often one run of ours takes the same steps: once is over in milliseconds."""

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


def speed_tokenizer() -> PreTrainedTokenizerBase:
    """Returns a byte-level BPE tokenizer in which each of the words is one token."""
    return train_tokenizer([f" {word}" for word in WORDS] * 2 + [*WORDS] * 2, VOCAB_SIZE)


@dataclass(frozen=True)
class Redecoded:
    """One response in progress, as an environment that re-decodes holds it.

    Attributes:
        prompt_ids, prompt_mask: [1, P] int64, left-padded.
        response_ids, response_mask: [1, T] int64, left-padded.
        ids, mask: [1, P + T] int64, prompt and response side by side, left-padded.
        text: the response so far.
        tokens: the response so far, token by token.
    """

    prompt_ids: Tensor
    prompt_mask: Tensor
    response_ids: Tensor
    response_mask: Tensor
    ids: Tensor
    mask: Tensor
    text: str = ""
    tokens: list[str] = field(default_factory=list)


@dataclass
class RedecodingEnv:
    """The work per token of the environment of RL4LMs (Ramamurthy et al. 2022, arXiv 2210.01241).

    Each step deep-copies the list of tokens so far and the response's padded ids and mask, shifts
    both left by one, decodes the whole response anew, picks the tokens of prompt and response out
    of their padding, writes them into a newly padded context with its mask, and copies six arrays
    out. A new prompt is tokenized and padded each time that it is drawn. All are PyTorch tensors
    with a leading dimension of one, as they are there.

    Left out, in the peer's favour: weighted drawing of prompts, the tokenizing of an empty
    response, the reward's call in every step, the references and metadata that infos carry along,
    and what a vector of such environments adds: stacked arrays, copied buffers, processes.

    Attributes:
        tokenizer: pads on the left.
        prompts: texts to draw from.
        max_prompt_tokens: P.
        max_response_tokens: T.
        generator: draws the prompts.
    """

    tokenizer: PreTrainedTokenizerBase
    prompts: Sequence[str]
    max_prompt_tokens: int
    max_response_tokens: int
    generator: np.random.Generator

    def reset(self) -> dict[str, NDArray[Any]]:
        """Draws a prompt and returns the arrays of an empty response."""
        prompt = self.tokenizer(
            self.prompts[int(self.generator.integers(len(self.prompts)))],
            padding="max_length",
            truncation=True,
            max_length=self.max_prompt_tokens,
            return_tensors="pt",
        )
        pads = torch.full((1, self.max_response_tokens), self.tokenizer.pad_token_id)
        parts = prompt["input_ids"], prompt["attention_mask"], pads, torch.zeros_like(pads)
        self._state = Redecoded(*parts, *self._context(*parts))
        return _arrays(self._state)

    def step(self, token: int) -> tuple[dict[str, NDArray[Any]], float, bool, dict[str, Any]]:
        """Appends a token; returns the arrays, a reward of 0, whether it was the last, infos."""
        before = self._state
        tokens = copy.deepcopy(before.tokens)
        tokens.append(self.tokenizer.convert_ids_to_tokens(token))
        ids = _shifted(before.response_ids, token)
        mask = _shifted(before.response_mask, 1)
        text = self.tokenizer.decode(ids.flatten(), skip_special_tokens=True)
        prompt = before.prompt_ids, before.prompt_mask
        context = self._context(*prompt, ids, mask)
        self._state = Redecoded(*prompt, ids, mask, *context, text, tokens)
        done = token == self.tokenizer.eos_token_id or len(tokens) == self.max_response_tokens
        info = {"output": text, "tokens": tokens, "previous_output": before.text}
        return _arrays(self._state), 0.0, done, info

    def _context(
        self, prompt_ids: Tensor, prompt_mask: Tensor, response_ids: Tensor, response_mask: Tensor
    ) -> tuple[Tensor, Tensor]:
        """Returns ids and mask [1, P + T] of a prompt and a response without the pads between."""
        prompt = prompt_ids[:, prompt_mask.flatten().bool().tolist()]
        response = response_ids[:, response_mask.flatten().bool().tolist()]
        width = prompt_ids.shape[1] + response_ids.shape[1]
        start = width - prompt.shape[1] - response.shape[1]
        ids = torch.full((1, width), self.tokenizer.pad_token_id)
        mask = torch.zeros((1, width), dtype=torch.int64)
        ids[:, start:] = torch.cat([prompt, response], dim=1)
        mask[:, start:] = 1
        return ids, mask


def _shifted(row: Tensor, last: int) -> Tensor:
    """Returns a copy of [1, T] moved left by one, with `last` in the last column."""
    moved = copy.deepcopy(row)
    moved[:, :-1] = moved[:, 1:].clone()
    moved[:, -1] = last
    return moved


def _arrays(state: Redecoded) -> dict[str, NDArray[Any]]:
    names = ("prompt_ids", "prompt_mask", "response_ids", "response_mask", "ids", "mask")
    return {name: getattr(state, name).numpy().flatten() for name in names}


def measure(repeats: int = 5) -> list[Ratio]:
    """Compares `TextVectorEnv` with as many re-decoding environments, per window.

    Both take the same actions; the peer's environments are stepped in a plain loop. Ours take them
    `PASSES` times and their seconds are divided by that, so that both are seconds of equal work.
    The detail holds the token steps per second of each.

    Args:
        repeats: pairs of timed runs per window.
    """
    return [_compare(window, repeats) for window in WINDOWS]


def _compare(window: tuple[int, int], repeats: int) -> Ratio:
    task = SpeedTask(*window)
    vector = _make_vector(task)
    vector.reset(seed=0)
    tokenizer, prompts = speed_tokenizer(), list(task.prompts("train")["prompt"])
    draws = map(np.random.default_rng, range(ROWS))
    singles = [RedecodingEnv(tokenizer, prompts, *window, draw) for draw in draws]
    for single in singles:
        single.reset()
    shape = (max(STEPS, window[1]), ROWS)
    actions = np.random.default_rng(0).integers(0, len(tokenizer), shape)
    row = compare(
        f"token steps, {ROWS} rows, {window[0]} + {window[1]} tokens, to a re-decoding environment",
        ours=partial(_step_vector, vector, actions, PASSES),
        peer=partial(_step_singles, singles, actions),
        repeats=repeats,
        goal=GOAL,
    )
    return replace(
        row,
        ours=row.ours / PASSES,
        **{name: getattr(row, name) * PASSES for name in ("ratio", "low", "high")},
        detail={
            "ours token steps/s": PASSES * actions.size / row.ours,
            "peer token steps/s": actions.size / row.peer,
        },
    )


def _make_vector(task: SpeedTask) -> gymnasium.vector.VectorEnv[Any, Any, Any]:
    return gymnasium.make_vec(
        "textgym/Text-v0", num_envs=ROWS, task=task, tokenizer=speed_tokenizer()
    )


def _step_vector(
    env: gymnasium.vector.VectorEnv[Any, Any, Any], actions: NDArray[np.int64], passes: int
) -> None:
    for _ in range(passes):
        for row in actions:
            env.step(row)


def _step_singles(envs: Sequence[RedecodingEnv], actions: NDArray[np.int64]) -> None:
    for row in actions.tolist():
        for env, token in zip(envs, row, strict=True):
            if env.step(token)[2]:
                env.reset()


def speeds(steps: int = 100_000, repeats: int = 7) -> Table:
    """Returns a table of token steps per second, over all windows and ways to step.

    Time is the process's CPU time, so that other work on the machine is not measured. "as made" is
    what `gym.make` returns, with the checker that it wraps around an environment; "bare" is the
    environment itself, which is also what `gym.make_vec` returns.

    Args:
        steps: token steps of one run, resets included.
        repeats: runs per row, of which the median, the least and the greatest are shown.
    """
    table = Table("environment", "window", "steps/s", "least", "greatest")
    for window in WINDOWS:
        task = SpeedTask(*window)
        made = gymnasium.make("textgym/Text-v0", task=task, tokenizer=speed_tokenizer())
        rows: dict[str, Callable[[], float]] = {
            "TextEnv, bare": partial(single_speed, made.unwrapped, steps),
            "TextEnv, as made": partial(single_speed, made, steps),
            f"TextVectorEnv, {ROWS}": partial(vector_speed, _make_vector(task), steps // ROWS),
        }
        for name, run in rows.items():
            run()
            found = [run() for _ in range(repeats)]
            shown = (statistics.median(found), min(found), max(found))
            table.add_row(name, f"{window[0]} + {window[1]}", *(f"{s:,.0f}" for s in shown))
    return table


def single_speed(env: gymnasium.Env[Any, Any], steps: int) -> float:
    """Returns steps per second of one environment, resets included."""
    actions = np.random.default_rng(0).integers(0, token_actions(env.action_space), steps)
    env.reset(seed=0)
    start = time.process_time()
    for action in actions:
        _, _, terminated, truncated, _ = env.step(action)
        if terminated or truncated:
            env.reset()
    return steps / (time.process_time() - start)


def vector_speed(env: gymnasium.vector.VectorEnv[Any, Any, Any], steps: int) -> float:
    """Returns token steps per second (vector steps per second times rows), resets included."""
    tokens = token_actions(env.single_action_space)
    actions = np.random.default_rng(0).integers(0, tokens, (steps, env.num_envs))
    env.reset(seed=0)
    start = time.process_time()
    _step_vector(env, actions, passes=1)
    return steps * env.num_envs / (time.process_time() - start)
