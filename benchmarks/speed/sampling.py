"""Sampling beside `generate` of transformers: the same weights, prompts and number of tokens.

Both draw from the raw softmax with a key-value cache and never meet an EOS, so the work is equal
but for two things. Ours also returns the log-probability of every token, where `generate` returns
ids alone; and ours reads each prompt once for its K samples.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any, Literal

import torch
from torch import Tensor

from textgym.benchmarks.speed.limits import copy_bandwidth, flops_per_token
from textgym.benchmarks.speed.models import YARDSTICK, make_model, make_policy
from textgym.benchmarks.speed.timing import Ratio, compare
from textgym.models.policy import Policy
from textgym.models.precision import AUTO, describe
from textgym.models.sampling import Sampled, sample_tokens
from textgym.types import Sampling


@dataclass(frozen=True)
class Load:
    """How much is sampled.

    Attributes:
        prompts: N, different ones.
        samples: K per prompt.
        prompt_tokens: P, of the longest prompt; the shortest has half.
        response_tokens: T.
    """

    prompts: int
    samples: int = 1
    prompt_tokens: int = 32
    response_tokens: int = 48

    def __str__(self) -> str:
        samples = "" if self.samples == 1 else f" x {self.samples} samples"
        window = f"{self.prompt_tokens} + {self.response_tokens} tokens"
        return f"{self.prompts} prompts{samples}, {window}"

    @property
    def rows(self) -> int:
        """B = N * K."""
        return self.prompts * self.samples

    @property
    def tokens(self) -> int:
        """Response tokens of all rows, B * T."""
        return self.rows * self.response_tokens


@dataclass(frozen=True)
class Case:
    """One comparison.

    Attributes:
        load: how much is sampled.
        precision: ours, by name; `auto` is the default.
        peer: that of `generate`: "same" as ours, or float32.
        goal: the ratio aimed at.
    """

    load: Load
    precision: str
    peer: Literal["same", "float32"] = "same"
    goal: float | None = None


CASES = (
    Case(Load(64), "float32", goal=2.5),
    Case(Load(64), AUTO, goal=4.0),
    Case(Load(64), AUTO, "float32", goal=4.0),
    Case(Load(8), "float32", goal=2.0),
    Case(Load(8), AUTO, goal=2.0),
    Case(Load(8, samples=8), "float32"),
    Case(Load(8, samples=8), AUTO),
    Case(Load(8, samples=8, prompt_tokens=256), AUTO),
)


def measure(
    repeats: int = 5,
    device: str = "cpu",
    model: str = YARDSTICK,
    cases: Sequence[Case] = CASES,
) -> list[Ratio]:
    """Compares sampling with `generate`, in float32 and in the default precision.

    `generate` runs in another precision with its weights cast to it. Where the default is float32,
    the rows say so, and what would be there twice is there once.

    Args:
        repeats: pairs of runs per row.
        device: where the models are.
        model: one of `textgym.benchmarks.speed.models.SIZES`.
        cases: what to compare.

    Returns:
        Rows whose detail has tokens/s and milliseconds per decoding step of both; the time in which
        the prompts are read is spread over the steps. On a GPU also the peak memory of both (the
        weights of all precisions compared included) and the share of the bandwidth limit: the time
        in which `step_bytes` could be read, divided by the time taken.
    """
    single = make_model(model).to(device)
    wanted = {AUTO, *(case.precision for case in cases)}
    policies = {precision: make_policy(single, precision, device) for precision in wanted}
    default = policies[AUTO].precision
    models = {torch.float32: single}
    bandwidth = copy_bandwidth(device) if torch.device(device).type == "cuda" else None
    rows: dict[str, Ratio] = {}
    with own_randomness():
        for case in cases:
            policy = policies[case.precision]
            theirs = policy.precision if case.peer == "same" else torch.float32
            name = f"{case.load}, {_precisions(policy.precision, theirs, default)}"
            if name in rows:
                continue
            if theirs not in models:
                models[theirs] = copy.deepcopy(single).to(theirs)
            rows[name] = _row(name, case, policy, models[theirs], repeats, bandwidth)
    return list(rows.values())


def _precisions(ours: torch.dtype, theirs: torch.dtype, default: torch.dtype) -> str:
    words = describe(ours) + (" (the default here)" if ours == default else "")
    return words if ours == theirs else f"{words} against {describe(theirs)}"


def _row(
    name: str, case: Case, policy: Policy, model: Any, repeats: int, bandwidth: float | None
) -> Ratio:
    load = case.load
    ours, peer = sample_run(policy, load), generate_run(model, load)
    ratio = compare(name, ours, peer, repeats=repeats, goal=case.goal)
    detail = {
        "tokens_per_second": load.tokens / ratio.ours,
        "peer_tokens_per_second": load.tokens / ratio.peer,
        "step_ms": 1000 * ratio.ours / load.response_tokens,
        "peer_step_ms": 1000 * ratio.peer / load.response_tokens,
    }
    if bandwidth is not None:
        least = load.response_tokens * step_bytes(model.config, load, policy.precision) / bandwidth
        detail["bandwidth_share"] = least / ratio.ours
        detail["peak_bytes"], detail["peer_peak_bytes"] = peak_bytes(ours), peak_bytes(peer)
    return replace(ratio, detail=detail)


def random_prompts(load: Load, vocab_size: int, seed: int = 0) -> tuple[Tensor, Tensor]:
    """Returns left-padded ids [N, P] int64 of random words and their mask [N, P] bool.

    Lengths are spread evenly from all of P to half of it. Padding has id 0, as in
    `endless_tokenizer`.
    """
    generator = torch.Generator().manual_seed(seed)
    width = load.prompt_tokens
    ids = torch.randint(1, vocab_size - 1, (load.prompts, width), generator=generator)
    lengths = torch.linspace(width, (width + 1) // 2, load.prompts).round()
    mask = torch.arange(width) >= width - lengths[:, None]
    return ids * mask, mask


def sample_run(policy: Policy, load: Load, seed: int = 0) -> Callable[[], Sampled]:
    """Returns a run of ours, the drawing of its uniform numbers included; each run draws anew."""
    ids, mask = random_prompts(load, policy.vocab_size, seed)
    generator = torch.Generator().manual_seed(seed)
    shape = (load.rows, load.response_tokens)

    def run() -> Sampled:
        uniforms = torch.rand(shape, generator=generator, dtype=torch.float64)
        return sample_tokens(policy, ids, mask, uniforms, Sampling())

    return run


def generate_run(model: Any, load: Load, seed: int = 0) -> Callable[[], Tensor]:
    """Returns a run of `generate`, which gives ids [B, P + T]: see `own_randomness`.

    Args:
        model: from `make_model`, which knows no EOS and so draws all T tokens.
        load: how much.
        seed: of the prompts.
    """
    ids, mask = (x.to(model.device) for x in random_prompts(load, model.config.vocab_size, seed))
    options = {
        "do_sample": True,
        "temperature": 1.0,
        "top_k": 0,
        "top_p": 1.0,
        "max_new_tokens": load.response_tokens,
        "min_new_tokens": load.response_tokens,
        "num_return_sequences": load.samples,
        "pad_token_id": 0,
    }

    def run() -> Tensor:
        with torch.inference_mode():
            drawn: Tensor = model.generate(ids, attention_mask=mask.long(), **options)
        return drawn

    return run


@contextmanager
def own_randomness(seed: int = 0) -> Iterator[None]:
    """Seeds the global generators, which `generate` draws from, and gives them back untouched."""
    with torch.random.fork_rng(devices=range(torch.cuda.device_count())):
        torch.manual_seed(seed)
        yield


def step_bytes(config: Any, load: Load, dtype: torch.dtype) -> float:
    """Returns the bytes that one decoding step must read: every weight once, and the cache.

    Keys and values are those of half-done responses, and of prompts of mean length, three quarters
    of P, each once for all its samples.

    Args:
        config: of a Llama with tied embeddings.
        load: how much is sampled.
        dtype: of weights and cache.
    """
    weights = flops_per_token(config) / 2
    held = 0.75 * load.prompts * load.prompt_tokens + 0.5 * load.rows * load.response_tokens
    width: int = config.hidden_size // config.num_attention_heads * config.num_key_value_heads
    keys_and_values: float = 2 * config.num_hidden_layers * width * held
    return dtype.itemsize * (weights + keys_and_values)


def peak_bytes(run: Callable[[], object]) -> int:
    """Returns the most GPU memory held at once in a run, with whatever was held before it."""
    torch.cuda.reset_peak_memory_stats()
    run()
    return torch.cuda.max_memory_allocated()
