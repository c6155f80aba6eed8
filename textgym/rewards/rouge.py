"""ROUGE, the overlap of a summary with human references (Lin 2004), by the rouge-score package."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from textgym.errors import ConfigError, RewardError

KINDS = ("rouge1", "rouge2", "rougeL")


def rouge_scores(
    completions: Sequence[str], references: Sequence[str | Sequence[str]]
) -> dict[str, list[float]]:
    """Returns ROUGE-1, ROUGE-2 and ROUGE-L F1 of each completion, in [0, 1], with stemming.

    With several references a completion gets its best F1 over them, per kind.

    Args:
        completions: B texts.
        references: B references, or B lists of references.

    Raises:
        RewardError: not one reference (or list of them) per completion.

    >>> rouge_scores(["the cat sat"], ["the cat ran"])["rouge2"]
    [0.5]
    """
    from rouge_score.rouge_scorer import RougeScorer

    if len(completions) != len(references):
        raise RewardError(f"{len(references)} references for {len(completions)} completions")
    scorer = RougeScorer(KINDS, use_stemmer=True)
    scores: dict[str, list[float]] = {kind: [] for kind in KINDS}
    for completion, reference in zip(completions, references, strict=True):
        several = [reference] if isinstance(reference, str) else list(reference)
        best = scorer.score_multi(several, completion)
        for kind in KINDS:
            scores[kind].append(float(best[kind].fmeasure))
    return scores


class Rouge:
    """ROUGE F1 against the column `references` or, without one, `reference`, as a reward."""

    def __init__(self, kind: str = "rougeL") -> None:
        """Takes one of rouge1, rouge2, rougeL. Raises: ConfigError for another kind."""
        if kind not in KINDS:
            raise ConfigError(f"unknown ROUGE kind {kind!r}; expected one of {', '.join(KINDS)}")
        self.kind = kind

    def __call__(
        self, prompts: list[str], completions: list[str], **columns: list[Any]
    ) -> list[float]:
        """Scores each completion. Raises: RewardError without a column of references."""
        references = columns.get("references", columns.get("reference"))
        if references is None:
            raise RewardError(
                "ROUGE needs a column 'reference' or 'references'; "
                f"the columns are {', '.join(sorted(columns)) or 'none'}"
            )
        return rouge_scores(completions, references)[self.kind]
