"""Registered metrics, `evaluate` modules and plug-in functions as scorers of kept samples."""

from __future__ import annotations

import inspect
import math
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from textgym.benchmarks.intervals import DIVERSITY
from textgym.benchmarks.measure import ACROSS
from textgym.benchmarks.rescoring.archive import COLUMNS, LENGTH, TOKENS
from textgym.benchmarks.rescoring.kept import Kept
from textgym.benchmarks.rescoring.scorer import (
    Scored,
    Scorer,
    default_column,
    digest,
    named,
    per_response,
    plain_errors,
)
from textgym.benchmarks.suite import Options, Spec, default_label
from textgym.errors import ConfigError, PluginError
from textgym.metrics import METRICS, responses, sets
from textgym.registry import unknown_name

TOKEN_SETS = {
    "compression": "compression",
    "distinct_n": "distinct_{n}",
    "ead": "ead",
    "self_bleu_diversity": "self_bleu",
    "vendi_ngram": "vendi_ngram",
}
"""Registered metrics of a set of token lists, higher for more diverse sets, and what the benchmark
calls them."""


def metric_scorer(spec: Spec, column: str | None) -> Scorer:
    """Returns what computes a metric of the K responses to each prompt.

    Args:
        spec: a registered metric, the folder of an `evaluate` module, or a function of a prompt's
            rows of `samples.parquet`: `file.py:function`, or registered by another package.
        column: what it is called, by default as the benchmark does.

    Raises:
        ConfigError: a metric that kept samples do not tell, or an option outside its domain.
        UnknownNameError: no such metric or option.
        PluginError: a file without that function, or a folder without a module.
    """
    if ".py:" in spec.name or (spec.name in METRICS and not _is_ours(spec.name)):
        return _function_scorer(spec, column)
    if spec.name not in METRICS and Path(spec.name).is_dir():
        return _module_scorer(spec, column)
    METRICS.target(spec.name)  # says which names there are
    if spec.name in TOKEN_SETS:
        return _token_scorer(spec, column)
    if spec.name not in PLAIN:
        hint = "--toxicity CLASSIFIER gives it" if "toxicity" in spec.name else "it needs a policy"
        known = ", ".join(sorted([*TOKEN_SETS, *PLAIN]))
        raise ConfigError(f"kept samples do not tell {spec.name}: {hint}; they tell {known}")
    if spec.options:
        raise ConfigError(f"metric {spec.name} takes no options, got {spec.options}")
    stem, needs, compute = PLAIN[spec.name]
    name = _diversity(column) if column and stem.startswith(DIVERSITY) else column or stem
    score = partial(compute, name)
    return Scorer(named("metric", spec), name, score, needs, sha256=digest(spec, METRICS))


def _is_ours(name: str) -> bool:
    return METRICS.target(name).startswith("textgym.")


def _diversity(column: str) -> str:
    return DIVERSITY + column.removeprefix(DIVERSITY)


def _token_scorer(spec: Spec, column: str | None) -> Scorer:
    function, options = METRICS.load(spec.name), dict(spec.options)
    length = options.pop("length", None)
    if length is not None and not (isinstance(length, int) and length >= 1):
        raise ConfigError(f"length must be a number of tokens >= 1, got {length!r}")
    given = ("texts", "vocabulary")
    parameters = inspect.signature(function).parameters.items()
    known = {name: p.default for name, p in parameters if name not in given}
    for option, value in options.items():
        if option not in known:
            raise unknown_name(f"option of {spec.name}", option, [*known, "length"])
        options[option] = (value,) if option == "orders" else value
    pattern = TOKEN_SETS[spec.name]
    apart = {name: v for name, v in spec.options.items() if f"{{{name}}}" not in pattern}
    stem = default_label(pattern.format(**known | options), apart)
    name = _diversity(column or stem)
    return Scorer(
        by=named("metric", spec),
        column=name,
        compute=partial(_of_tokens, name, spec.name, function, options, length),
        needs=frozenset({TOKENS} if length else {TOKENS, LENGTH}),
        options=spec.options,
        sha256=digest(spec, METRICS),
    )


def _of_tokens(
    column: str,
    metric: str,
    function: Callable[..., float],
    options: Options,
    length: int | None,
    kept: Kept,
) -> Scored:
    assert kept.tokenizer is not None, "the scorer needs tokens"
    if metric == "ead":
        options = {"vocabulary": len(kept.tokenizer), **options}
    cut = length or kept.length
    assert cut is not None, "the scorer needs a length"

    def measure(texts: Sequence[Sequence[int]]) -> float:
        nothing = metric == "compression" and not any(texts)
        return math.nan if nothing else function(texts, **options)

    with plain_errors(f"metric {metric!r}"):
        return _both_ways(column, measure, sets.cut(kept.tokens, cut), kept.k)


def _both_ways(
    column: str, measure: Callable[[Any], float], items: Sequence[Any], k: int
) -> Scored:
    """Returns per-input diversity where there are several samples, and across-input diversity."""
    found = Scored()
    if k > 1:
        found.prompts[column] = sets.per_prompt(measure, items, k)
    if len(items) > k:
        across = ACROSS + column.removeprefix(DIVERSITY)
        found.metrics[across] = sets.across_input(measure, items, k)
    return found


def _lengths(column: str, kept: Kept) -> Scored:
    return per_response(column, [len(ids) for ids in kept.table["response_ids"]], kept.k)


def _truncation(column: str, kept: Kept) -> Scored:
    assert kept.tokenizer is not None, "the scorer needs tokens"
    end = kept.tokenizer.eos_token_id
    cut = [end not in list(ids) for ids in kept.table["response_ids"]]
    return per_response(column, cut, kept.k)


def _duplicates(column: str, kept: Kept) -> Scored:
    if kept.k == 1:
        return Scored()
    return Scored({}, {column: sets.per_prompt(responses.duplicate_rate, kept.responses, kept.k)})


def _modes(column: str, kept: Kept) -> Scored:
    if "mode" not in kept.table:
        return Scored()
    modes = list(kept.table["mode"])
    return _both_ways(column, lambda group: responses.mode_coverage(group).entropy, modes, kept.k)


PLAIN: dict[str, tuple[str, frozenset[str], Callable[[str, Kept], Scored]]] = {
    "duplicate_rate": ("duplicate_rate", frozenset(), _duplicates),
    "length": ("length", frozenset(), _lengths),
    "mode_coverage": (f"{DIVERSITY}mode_entropy", frozenset(), _modes),
    "truncation_rate": ("truncation_rate", frozenset({TOKENS}), _truncation),
}
"""Other registered metrics: what the benchmark calls them, what they need, how they are had."""


def _function_scorer(spec: Spec, column: str | None) -> Scorer:
    """Returns the scorer of a function: one prompt's rows of `samples.parquet` to one number."""
    function, name = METRICS.load(spec.name), column or default_column(spec)
    if not callable(function):
        raise PluginError(f"metric {spec.name!r} is a {type(function).__name__}, not a function")

    def compute(kept: Kept) -> Scored:
        with plain_errors(f"metric {name!r}"):
            values = [float(function(rows, **spec.options)) for rows in kept.groups()]
        return Scored({}, {name: np.array(values)})

    by, source = named("metric", spec), digest(spec, METRICS)
    return Scorer(by, name, compute, options=spec.options, sha256=source)


def _module_scorer(spec: Spec, column: str | None) -> Scorer:
    """Returns the scorer of an `evaluate` module, asked prompt by prompt."""
    import evaluate

    name = column or default_column(spec)
    with plain_errors(f"no evaluate module in {spec.name!r}"):
        module = evaluate.load(spec.name, keep_in_memory=True)

    def compute(kept: Kept) -> Scored:
        found: dict[str, list[float]] = {}
        for start in range(0, len(kept.table), kept.k):
            with plain_errors(f"metric {name!r}"):
                inputs = _inputs(module, kept, slice(start, start + kept.k))
                numbers = _numbers(module.compute(**inputs, **spec.options))
            for key, value in numbers.items():
                found.setdefault(key, []).append(value)
        if not found:
            raise PluginError(f"metric {name!r} returned no number")
        names = {key: name if len(found) == 1 else f"{name}/{key}" for key in found}
        return Scored({}, {names[key]: np.array(values) for key, values in found.items()})

    by, source = named("metric", spec), digest(spec, METRICS)
    return Scorer(by, name, compute, frozenset({COLUMNS}), spec.options, source)


def _inputs(module: Any, kept: Kept, rows: slice) -> dict[str, Any]:
    """Returns a prompt's responses and, for a module that asks, the data's references."""
    features = module.features[0] if isinstance(module.features, list) else module.features
    inputs: dict[str, Any] = {"predictions": kept.responses[rows]}
    references = kept.columns.get("references", kept.columns.get("reference"))
    if "references" in features and references is not None:
        inputs["references"] = references[rows]
    return inputs


def _numbers(result: Any) -> dict[str, float]:
    found = result.items() if isinstance(result, dict) else ()
    return {str(key): float(v) for key, v in found if isinstance(v, int | float | np.number)}
