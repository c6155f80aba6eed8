"""The `evaluate` modules: they compute, collect, combine, and leave nothing on disk."""

from __future__ import annotations

import math
import subprocess
import sys
from pathlib import Path

import evaluate
import numpy as np
import pytest

from textgym.errors import ConfigError
from textgym.metrics import diversity, modules, sets

TEXTS = ["a b c d", "a b c e", "x y z w", "x y z w"]
GROUPS = [[text.split() for text in TEXTS[:2]], [text.split() for text in TEXTS[2:]]]


def letters(texts: list[str]) -> np.ndarray[tuple[int, int], np.dtype[np.float64]]:
    return np.array([[float(text.count(c)) for c in "abcdexyzw"] for text in texts])


MODULES: dict[str, modules.SetMetric] = {
    "distinct_2": modules.DistinctN(2),
    "ead": modules.EAD(2, vocabulary=10),
    "self_bleu_diversity": modules.SelfBLEU(2),
    "compression": modules.Compression(2),
    "vendi": modules.Vendi(2),
    "duplicate_rate": modules.DuplicateRate(2),
    "embedding_diversity": modules.EmbeddingDiversity(2, embed=letters),
    "vendi_embedding": modules.EmbeddingVendi(2, embed=letters),
}


def test_values_are_the_functions() -> None:
    result = modules.DistinctN(2).compute(predictions=TEXTS)
    assert result == {"distinct_2_per_input": (4 / 6 + 3 / 6) / 2, "distinct_2_across_input": 1}
    result = modules.EAD(2, vocabulary=10).compute(predictions=TEXTS)
    wanted = sets.per_input(lambda t: diversity.ead(t, 10), GROUPS)
    assert result["ead_per_input"] == pytest.approx(wanted)
    result = modules.EmbeddingDiversity(2, embed=letters).compute(predictions=TEXTS)
    # Three of four letters shared; then none of them, for both choices.
    assert result["embedding_diversity_per_input"] == pytest.approx((0.25 + 0) / 2)
    assert result["embedding_diversity_across_input"] == pytest.approx(1)


@pytest.mark.parametrize("name", MODULES)
def test_batches_give_what_one_call_gives(name: str) -> None:
    module = MODULES[name]
    whole = module.compute(predictions=TEXTS)
    assert set(whole) == {f"{name}_per_input", f"{name}_across_input"}
    assert all(math.isfinite(value) for value in whole.values())
    module.add_batch(predictions=TEXTS[:3])
    module.add_batch(predictions=TEXTS[3:])
    assert module.compute() == whole
    for text in TEXTS:
        module.add(prediction=text)
    assert module.compute() == whole


@pytest.mark.parametrize("name", MODULES)
def test_less_diverse_predictions_score_lower(name: str) -> None:
    copies = MODULES[name].compute(predictions=[TEXTS[0]] * 4)
    varied = MODULES[name].compute(predictions=TEXTS)
    sign = -1 if name == "duplicate_rate" else 1
    assert all(sign * copies[key] < sign * varied[key] for key in varied)


def test_combine() -> None:
    everything = evaluate.combine(
        [*MODULES.values(), modules.Toxicity(2, score=lambda t: [0.4] * len(t))]
    )
    everything.add_batch(predictions=TEXTS)
    result = everything.compute()
    assert len(result) == 2 * len(MODULES) + 2
    assert (
        result["vendi_per_input"] == MODULES["vendi"].compute(predictions=TEXTS)["vendi_per_input"]
    )


def test_arguments_at_compute() -> None:
    module = modules.DistinctN(n=1)
    one = module.compute(predictions=TEXTS, samples_per_prompt=4)
    assert one["distinct_1_per_input"] == 9 / 16
    short = module.compute(predictions=TEXTS, samples_per_prompt=4, length=1)
    assert short["distinct_1_per_input"] == 2 / 4
    characters = modules.DistinctN(4, n=1, tokenize=list).compute(
        predictions=["ab", "aa", "b", "b"]
    )
    assert characters["distinct_1_per_input"] == 2 / 6


def test_too_few_texts_to_tell_is_nan() -> None:
    within = modules.SelfBLEU(4).compute(predictions=TEXTS)
    assert within["self_bleu_diversity_per_input"] > 0
    assert math.isnan(within["self_bleu_diversity_across_input"])
    across = modules.SelfBLEU().compute(predictions=TEXTS)
    assert math.isnan(across["self_bleu_diversity_per_input"])


def test_toxicity() -> None:
    module = modules.Toxicity(2, score=lambda texts: [0.9 if "a" in t else 0.2 for t in texts])
    result = module.compute(predictions=TEXTS)
    assert result["expected_max_toxicity"] == pytest.approx(0.55)
    assert result["toxicity_probability"] == 0.5


def test_bad_input_is_refused() -> None:
    module = modules.DistinctN(3)
    with pytest.raises(ValueError, match="4 samples are no multiple of 3"):
        module.compute(predictions=TEXTS)
    with pytest.raises(ConfigError, match=">= 1, got 0"):
        module.compute(predictions=TEXTS, samples_per_prompt=0)
    with pytest.raises(ValueError, match="no samples"):
        module.compute(predictions=[])
    with pytest.raises(ConfigError, match="whole texts"):
        modules.EmbeddingVendi(2, embed=letters).compute(predictions=TEXTS, length=3)


def test_nothing_is_written(tmp_path: Path) -> None:
    module = modules.Vendi(2, cache_dir=str(tmp_path))
    module.compute(predictions=TEXTS)
    assert not list(tmp_path.iterdir())
    spilling = modules.Vendi(2, cache_dir=str(tmp_path), keep_in_memory=False)
    assert spilling.compute(predictions=TEXTS) == module.compute(predictions=TEXTS)


def test_listing_metrics_is_light() -> None:
    code = (
        "import sys, textgym.metrics as m; assert 'kl_seq' in m.METRICS;"
        "assert not {'torch', 'transformers', 'evaluate', 'datasets', 'scipy'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
