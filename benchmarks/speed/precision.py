"""What a short number format does to training: regret, and how far the sampler is from the scorer.

REINFORCE is trained on the oracle task known-frontier, with the settings of the suite `oracle`, in
float32, in bfloat16 with importance weights, and in bfloat16 without. Two models start it: the
task's own, so narrow that `auto` stays float32, and a random Llama of the width from which `auto`
is bfloat16, with longer responses. All ways have the same seeds, so that what differs is the
format.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pandas as pd
import torch
from numpy.typing import NDArray
from torch import Tensor

from textgym.agents import AGENTS
from textgym.agents.base import Setup, enumerated, make_config
from textgym.benchmarks.exact import REGRET, exact_columns, oracle
from textgym.benchmarks.speed.models import YARDSTICK, make_model, make_policy
from textgym.benchmarks.speed.sampling import Load, random_prompts
from textgym.benchmarks.suite import load_suite
from textgym.metrics import exact
from textgym.models.policy import Policy, load_policy
from textgym.models.precision import WIDE
from textgym.models.pretrain import PretrainConfig, make_llama
from textgym.models.sampling import sample_tokens
from textgym.rollout import rollout
from textgym.seeding import Streams
from textgym.tasks import load_task
from textgym.tasks.oracle.base import OracleTask, Table
from textgym.types import Budget, Rollout, Sampling

TASK, AGENT = "known-frontier", "reinforce"

WAYS: dict[str, tuple[str, dict[str, Any]]] = {
    "float32": ("float32", {}),
    "bfloat16": ("bfloat16", {}),
    "bfloat16, not corrected": ("bfloat16", {"importance_cap": None}),
}
"""Precision and options of the agent, by what the tables call them; the first is held against."""


@dataclass(frozen=True)
class Case:
    """What is trained.

    Attributes:
        name: what the tables call it.
        options: of the task.
        width: of a random Llama of two layers to start from; None: the task's own model.
        lr: learning rate; None: the suite's.
        share: of the suite's budget that is spent.
        samples: K, per prompt, that the trained policy is looked at with.
    """

    name: str
    options: dict[str, Any] = field(default_factory=dict)
    width: int | None = None
    lr: float | None = None
    share: float = 1.0
    samples: int = 2048


CASES = (
    Case("the task's own model"),
    Case(f"width {WIDE}", {"vocabulary": 5, "horizon": 5}, WIDE, 2.5e-4, share=0.5, samples=512),
)
"""Eight times as wide as the task's own model takes an eighth of the suite's learning rate."""
SHARPNESS = 3.0
"""The factor on a random model's matrices: as initialised its predictions are nearly flat."""


@dataclass
class Run:
    """One trained policy.

    Attributes:
        regret: KL(pi||pi*), nats per response, mean over the prompts, as float32 computes it.
        measured: the same as the run's own precision computes it: what a benchmark reports.
        kl: KL(pi||pi_ref), nats per response, as float32 computes it.
        gaps: what the scorer's log-probability of each token is above the sampler's, nats.
        kl_errors: per response, nats; their mean is the bias of the sampled KL.
    """

    regret: float
    measured: float
    kl: float
    gaps: NDArray[np.float64]
    kl_errors: NDArray[np.float64]


def measure(seeds: int = 12, cases: Iterable[Case] = CASES) -> pd.DataFrame:
    """Trains in every way on the same seeds, and measures regret, gap and bias.

    Args:
        seeds: how many, from 0 on; at least 2, or there are no standard errors.
        cases: what to train.

    Returns:
        A row per case and way: `regrets` (by seed), `regret` and `regret_se` (mean and standard
        error), `excess` and `excess_se` (over the first way, paired by seed), all nats per response
        and computed in float32; `measured` (the mean regret that the run's own precision gives);
        over the tokens of all seeds `gap_mean`, `gap_std` and `gap_max` (of the absolute) of the
        scorer's log-probability minus the sampler's, nats; `kl` (the exact KL to the reference),
        and `kl_bias` and `kl_bias_se`, how far the expectation of the sampled sequence KL is off.
    """
    rows = []
    for case in cases:
        runs = {way: [train(case, way, seed) for seed in range(seeds)] for way in WAYS}
        first = np.array([run.regret for run in next(iter(runs.values()))])
        rows += [_row(case.name, way, found, first) for way, found in runs.items()]
    return pd.DataFrame(rows)


def _row(case: str, way: str, runs: list[Run], first: NDArray[np.float64]) -> dict[str, Any]:
    regrets = np.array([run.regret for run in runs])
    gaps = np.concatenate([run.gaps for run in runs])
    errors = np.concatenate([run.kl_errors for run in runs])
    row: dict[str, Any] = {"case": case, "way": way, "regrets": regrets.tolist()}
    row |= _with_error("regret", regrets) | _with_error("excess", regrets - first)
    row["measured"] = np.mean([run.measured for run in runs])
    row |= {"gap_mean": gaps.mean(), "gap_std": gaps.std(), "gap_max": np.abs(gaps).max()}
    row["kl"] = np.mean([run.kl for run in runs])
    return row | _with_error("kl_bias", errors)


def _with_error(name: str, values: NDArray[np.float64]) -> dict[str, float]:
    """Returns the mean and its standard error."""
    error = float(values.std(ddof=1) / np.sqrt(len(values)))
    return {name: float(values.mean()), f"{name}_se": error}


def start(case: Case, task: OracleTask, precision: str) -> Policy:
    """Returns the frozen policy that a case's runs begin with, and that is their reference."""
    if case.width is None:
        return load_policy(task.language_model(), precision=precision).freeze()
    config = PretrainConfig(
        width=case.width,
        layers=2,
        heads=4,
        kv_heads=4,
        intermediate=2 * case.width,
        tied=False,
        context=task.max_prompt_tokens + task.max_response_tokens,
    )
    model = make_llama(config, task.tokenizer())
    _sharpen(model, SHARPNESS)
    return Policy(model, task.tokenizer(), case.name, precision).freeze()


@torch.no_grad()
def _sharpen(model: Any, factor: float) -> None:
    for weights in model.parameters():
        if weights.dim() > 1:
            weights *= factor


def train(case: Case, way: str, seed: int) -> Run:
    """Trains one policy and looks at it.

    Args:
        case: task, model and budget.
        way: one of WAYS.
        seed: of every random stream.
    """
    precision, options = WAYS[way]
    suite = load_suite("oracle")
    spec = next(spec for spec in suite.agents if spec.name == AGENT)
    task = oracle(load_task(TASK, **case.options))
    assert task is not None, "it can be enumerated"
    reference = start(case, task, precision)
    streams = Streams(seed)
    setup = Setup(
        task=task.for_run(streams),
        policy=reference.copy(),
        reference=reference,
        budget=Budget(round(case.share * suite.budget)),
        streams=streams,
        log=lambda step, metrics: None,
    )
    given = {**spec.options, **options} | ({} if case.lr is None else {"lr": case.lr})
    agent_class = AGENTS.load(spec.name)
    agent_class(make_config(agent_class.config_class, given)).train(setup)
    return look(setup, task, case.samples)


@torch.no_grad()
def look(setup: Setup, task: OracleTask, samples: int) -> Run:
    """Returns what a trained policy is worth, and how its sampler and its scorer differ.

    Args:
        setup: holds policy and reference.
        task: whose responses can be enumerated.
        samples: K, drawn per prompt.
    """
    drawn = rollout(
        setup.policy,
        task,
        task.prompts("test"),
        samples_per_prompt=samples,
        generator=setup.streams.torch("evaluation"),
    )
    policy, reference = (_in_float32(model) for model in (setup.policy, setup.reference))
    p, p_ref = (enumerated(model, task, task.asked) for model in (policy, reference))
    own, own_ref = (enumerated(m, task, task.asked) for m in (setup.policy, setup.reference))
    gaps = (setup.policy.logprobs(drawn) - drawn.sampling_logprobs)[drawn.response_mask]
    return Run(
        regret=float(exact_columns(p, p_ref, task, task.asked)[REGRET].mean()),
        measured=float(exact_columns(own, own_ref, task, task.asked)[REGRET].mean()),
        kl=float(exact.kl(p, p_ref).mean()),
        gaps=gaps.double().numpy(),
        kl_errors=kl_errors(drawn, setup.reference.logprobs(drawn), p, p_ref, task),
    )


def _in_float32(policy: Policy) -> Policy:
    return Policy(policy.model, policy.tokenizer, policy.name, "float32")


def kl_errors(
    samples: Rollout, reference_logprobs: Tensor, probabilities: Table, reference: Table, task: Any
) -> NDArray[np.float64]:
    """Returns a number per sample, [B] nats, whose mean is the bias of the sampled sequence KL.

    The sampled KL is the mean of `log q(y) - log ref(y)` over y drawn from q, the sampler's own
    distribution. With p the exact one, `log q/ref - (p/q) log p/pi_ref` has the expectation
    `E_q[log q/ref] - KL(p||pi_ref)`: the bias. The two terms nearly cancel in every sample, so that
    the noise of sampling, which would hide it, is gone.

    Args:
        samples: B responses, with the sampler's log-probabilities.
        reference_logprobs: [B, T], what the reference's scorer says of them.
        probabilities: [N, L], p.
        reference: [N, L], pi_ref.
        task: says which prompt and response each sample is.
    """
    columns = {text: i for i, text in enumerate(task.texts)}
    at = (task.rows_of(samples.prompts), [columns[text] for text in samples.completions])
    log_p, log_ref = np.log(probabilities[at]), np.log(reference[at])
    sums = (samples.sampling_logprobs, samples.sampling_logprobs - reference_logprobs)
    log_q, sampled = (x.double().sum(1).numpy() for x in sums)
    return np.asarray(sampled - np.exp(log_p - log_q) * (log_p - log_ref))


def gaps(
    model: str = YARDSTICK,
    load: Load | None = None,
    sharpness: Iterable[float] = (1.0, 4.0, 8.0),
) -> pd.DataFrame:
    """Measures how far the scorer is from the sampler on random Llamas, nothing being trained.

    Args:
        model: one of `textgym.benchmarks.speed.models.SIZES`.
        load: how much is sampled; by default 8 prompts x 32 samples of 48 tokens.
        sharpness: factors on the matrices of the random model.

    Returns:
        A row per sharpness and precision: `nll` (nats per token, of the sampler), `gap_mean`,
        `gap_std`, `gap_max` as in `measure`, and `ratio_deviation`, the largest `|rho - 1|`: what
        `textgym.agents.base.require_on_policy` looks at.
    """
    load = Load(8, samples=32) if load is None else load
    return pd.DataFrame(
        {"model": model, "sharpness": factor, "precision": precision}
        | _gap(model, load, factor, precision)
        for factor in sharpness
        for precision in ("float32", "bfloat16")
    )


@torch.no_grad()
def _gap(model: str, load: Load, factor: float, precision: str) -> dict[str, float]:
    random = make_model(model)
    _sharpen(random, factor)
    policy = make_policy(random, precision)
    ids, mask = random_prompts(load, random.config.vocab_size)
    generator = torch.Generator().manual_seed(0)
    shape = (load.rows, load.response_tokens)
    uniforms = torch.rand(shape, generator=generator, dtype=torch.float64)
    drawn = sample_tokens(policy, ids, mask, uniforms, Sampling())
    ids, mask = (x.repeat_interleave(load.samples, dim=0) for x in (ids, mask))
    scored = policy.token_logprobs(ids, mask, drawn.ids, drawn.mask)
    gap = (scored - drawn.sampling_logprobs)[drawn.mask].double()
    return {
        "nll": -drawn.policy_logprobs[drawn.mask].mean().item(),
        "gap_mean": gap.mean().item(),
        "gap_std": gap.std(correction=0).item(),
        "gap_max": gap.abs().max().item(),
        "ratio_deviation": (gap.exp() - 1).abs().max().item(),
    }
