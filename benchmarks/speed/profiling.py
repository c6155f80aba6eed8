"""Where the time of sampling and of a training step goes: in transformers, and here.

Sampling is `generate` beside `sample_tokens`; a training step is the passes of a policy gradient
step (`training_run`) through the model's own forward over padded rows, with the log-softmax of all
tokens, beside ours.
"""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from typing import Any
from unittest import mock

import pandas as pd
import torch
from torch import Tensor
from torch.nn import functional
from torch.profiler import ProfilerActivity, profile, record_function

from textgym.benchmarks.speed.ablation import (
    LOAD,
    log_softmax_gather,
    no_decoder,
    random_rollout,
    sampling_run,
    training_run,
    uniform_numbers,
    without,
)
from textgym.benchmarks.speed.models import YARDSTICK, make_model, make_policy
from textgym.benchmarks.speed.sampling import Load, generate_run, own_randomness, random_prompts
from textgym.models import sampling
from textgym.models.compiled.decoding import CompiledDecoding
from textgym.models.compiled.library import Step

PRODUCTS = "matrix products"
ATTENTION = "attention"
ELEMENTWISE = "norms and elementwise"
COPIES = "copies and layout"
DRAWING = "drawing tokens"
REST = "rest"
BETWEEN = "between operations"
STEP = "a compiled step of decoding"

KINDS = {
    kind: frozenset(names.split())
    for kind, names in {
        PRODUCTS: "mm addmm linear linear_pointwise reorder_linear_weight",
        ATTENTION: "bmm baddbmm softmax scaled_dot_product_attention "
        "scaled_dot_product_flash_attention_for_cpu branch_attention",
        ELEMENTWISE: "add addcmul amax aminmax cos div exp fused_rms_norm log log_softmax "
        "log_softmax_backward_data logsumexp masked_fill mean mul neg pow rms_norm roll rsqrt "
        "sigmoid silu sin sub sum where add_norm swiglu split_heads selected_logprobs",
        COPIES: "arange as_strided cat clone constant_pad_nd contiguous copy embedding "
        "embedding_dense empty empty_like empty_strided expand fill flatten gather index index_add "
        "index_copy index_put_impl index_select masked_scatter masked_select narrow ones_like pad "
        "repeat_interleave reshape reshape_alias scatter_add select slice split split_with_sizes "
        "stack t tensor_split to to_copy transpose unflatten unsafe_view unsqueeze view zero zeros "
        "zeros_like",
    }.items()
}
"""Operations by kind, compiled steps among them; names are without their library, underscores and
`_backward`. What else runs is of the kind `REST`, and the time in which no operation runs, Python's
own, of the kind `BETWEEN`. A compiled step of decoding books its time by kind itself."""

DRAWN_BY = ((sampling, "draw"), (functional, "softmax"), (torch, "multinomial"))
"""What runs within these is drawing: ours, and what `generate` calls once it has its logits."""


def profiles(model: str = YARDSTICK, load: Load = LOAD) -> pd.DataFrame:
    """Profiles one run of each way on the CPU, after one to warm up.

    The profiler adds some microseconds to every operation, most to what has many small ones.

    Args:
        model: one of `textgym.benchmarks.speed.models.SIZES`.
        load: of sampling and of a training step.

    Returns:
        Columns `what` ("sampling", "training step"), `way` ("transformers", "textgym float32",
        "textgym bfloat16"), `kind` of operation, `milliseconds` in it and not in another within it,
        and its `share` of the run; kinds that take no time are left out.
    """
    rows = []
    with own_randomness():
        for (what, way), run in _runs(model, load).items():
            run()
            times = time_by_kind(run)
            total = sum(times.values())
            for kind in (*KINDS, DRAWING, REST, BETWEEN):
                row = {"what": what, "way": way, "kind": kind}
                if times[kind] > 0:
                    rows.append({**row, "milliseconds": times[kind], "share": times[kind] / total})
    return pd.DataFrame(rows)


def _runs(name: str, load: Load) -> dict[tuple[str, str], Callable[[], Any]]:
    model = make_model(name)
    ways = {f"textgym {kind}": make_policy(model, kind) for kind in ("float32", "bfloat16")}
    exact = ways["textgym float32"]
    rollout = random_rollout(load, exact.vocab_size)
    prompts, uniforms = random_prompts(load, exact.vocab_size), uniform_numbers(load)
    padded = without("policy.read", no_decoder, training_run(exact, rollout))
    padded = without("policy.token_logprobs", log_softmax_gather, padded)
    return {
        ("sampling", "transformers"): generate_run(model, load),
        **{("sampling", way): sampling_run(p, prompts, uniforms) for way, p in ways.items()},
        ("training step", "transformers"): padded,
        **{("training step", way): training_run(p, rollout) for way, p in ways.items()},
    }


def time_by_kind(run: Callable[[], object]) -> Counter[str]:
    """Returns the milliseconds that each kind of operation took in one run.

    They sum to the run's whole time.
    """
    # The profiler's library writes to stderr when it starts and stops, unless told not to.
    quiet = mock.patch.dict(os.environ, {"KINETO_LOG_LEVEL": "9"})
    profiling: Any = profile(activities=[ProfilerActivity.CPU])
    within = torch.zeros(3, dtype=torch.float64)
    booked = mock.patch.object(CompiledDecoding, "seconds", within)
    with quiet, booked, _marked(), profiling, record_function(BETWEEN):
        run()
    times: Counter[str] = Counter()
    for event in profiling.events() or ():
        times[_kind(event)] += event.self_cpu_time_total / 1000
    return _within_steps(times, within)


def _within_steps(times: Counter[str], seconds: Tensor) -> Counter[str]:
    """Returns the times, that of whole steps of decoding shared out among what they are made of.

    Args:
        times: milliseconds by kind, `STEP` among them.
        seconds: [3] of products, attention and the rest, as the steps themselves booked it.
    """
    whole, shares = times.pop(STEP, 0.0), seconds / seconds.sum().clamp(min=1e-12)
    for kind, share in zip((PRODUCTS, ATTENTION, ELEMENTWISE), shares.tolist(), strict=True):
        times[kind] += whole * share
    return times


def _kind(event: Any) -> str:
    if event.name == BETWEEN:
        return BETWEEN
    within = event
    while within is not None:
        if within.name == DRAWING:
            return DRAWING
        within = within.cpu_parent
    return kind_of(event.name)


def kind_of(operation: str) -> str:
    """Returns the kind of an operation that draws no token, by the name the profiler gives it.

    >>> kind_of("aten::_scaled_dot_product_flash_attention_for_cpu_backward")
    'attention'
    >>> kind_of("aten::add_")
    'norms and elementwise'
    """
    if operation == "compiled::step":
        return STEP
    name = operation.rpartition("::")[2].removesuffix("_backward").strip("_")
    return next((kind for kind, names in KINDS.items() if name in names), REST)


@contextmanager
def _marked() -> Iterator[None]:
    """Lets the profiler see compiled steps, and all that draws a token within one named range."""
    call = Step.__call__

    def seen(step: Step, *arguments: Any) -> None:
        with record_function(f"compiled::{step.name}"):
            call(step, *arguments)

    with ExitStack() as stack:
        stack.enter_context(mock.patch.object(Step, "__call__", seen))
        for module, name in DRAWN_BY:
            marked = record_function(DRAWING)(getattr(module, name))
            stack.enter_context(mock.patch.object(module, name, marked))
        yield
