"""The metrics, by name. Plain functions of samples; each text metric is an `evaluate` module too.

`diversity`, `sets`, `kl`, `toxicity` and `responses` measure; `stats` gives the intervals;
`modules` holds the `evaluate` modules. Importing this package loads none of them.
"""

from __future__ import annotations

from textgym.registry import Registry

METRICS = Registry(
    "metric",
    {
        "compression": "textgym.metrics.diversity:compression_ratio",
        "distinct_n": "textgym.metrics.diversity:distinct_n",
        "duplicate_rate": "textgym.metrics.responses:duplicate_rate",
        "ead": "textgym.metrics.diversity:ead",
        "embedding_diversity": "textgym.metrics.diversity:embedding_diversity",
        "entropy_seq": "textgym.metrics.kl:entropy_seq",
        "entropy_token": "textgym.metrics.kl:entropy_token",
        "expected_max_toxicity": "textgym.metrics.toxicity:expected_max_toxicity",
        "kl_seq": "textgym.metrics.kl:kl_seq",
        "kl_token": "textgym.metrics.kl:kl_token",
        "length": "textgym.metrics.responses:response_lengths",
        "mode_coverage": "textgym.metrics.responses:mode_coverage",
        "self_bleu_diversity": "textgym.metrics.diversity:self_bleu_diversity",
        "toxicity_probability": "textgym.metrics.toxicity:toxicity_probability",
        "truncation_rate": "textgym.metrics.responses:truncation_rate",
        "vendi_embedding": "textgym.metrics.diversity:embedding_vendi",
        "vendi_ngram": "textgym.metrics.diversity:ngram_vendi",
    },
    entry_point_group="textgym.metrics",
)
