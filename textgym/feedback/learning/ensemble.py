"""Several reward models as one: where they disagree, none of them is to be trusted."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from textgym.errors import ConfigError, DataError, FeedbackError
from textgym.feedback.learning.links import BradleyTerry
from textgym.feedback.learning.training import (
    LearningConfig,
    Start,
    encoder_of,
    fit_answers,
    require_objectives,
    reward_model_of,
    seeded,
    split_by_prompt,
)
from textgym.feedback.records import PAIRWISE, Feedback
from textgym.registry import unknown_name
from textgym.rewards import load_reward
from textgym.rewards.learned import RewardModel, TokenRow
from textgym.rewards.saving import CONSTANTS, read_constants, written_whole

if TYPE_CHECKING:
    from textgym.types import Log

COMBINATIONS = ("mean", "worst", "uncertainty")


def combine(scores: Tensor, how: str = "mean", penalty: float = 1.0) -> Tensor:
    """Returns one reward [B] of the members' [A, B].

    `mean`; `worst`, the least; `uncertainty`, `mean - penalty * deviation` over the members, in
    the reward's own unit where the paper takes the variance away.

    Raises:
        ConfigError: an unknown combination, or penalty < 0.

    Source: Coste et al. 2023, arXiv 2310.02743.

    >>> combine(torch.tensor([[1.0, 0.0], [3.0, 0.0]]), "uncertainty", penalty=0.5).tolist()
    [1.5, 0.0]
    """
    if how not in COMBINATIONS:
        raise ConfigError(str(unknown_name("combination", how, COMBINATIONS)))
    if not penalty >= 0:
        raise ConfigError(f"penalty must be >= 0, got {penalty}")
    if how == "worst":
        return scores.amin(0)
    mean = scores.mean(0)
    return mean - penalty * scores.std(0, correction=0) if how == "uncertainty" else mean


class RewardEnsemble:
    """A reward function of several reward models that read the same tokens.

    Texts are tokenized once for all members.

    Attributes:
        members: the reward models.
        how: one of `COMBINATIONS`.
        penalty: of a deviation of 1 between members, for `uncertainty`.
        mean, std: of the combination on the samples given to `normalise`; 0 and 1 before.

    Raises:
        ConfigError: on construction, no members, members that read texts differently, or settings
            that `combine` does not take.
    """

    def __init__(
        self, members: Sequence[RewardModel], how: str = "mean", penalty: float = 1.0
    ) -> None:
        if not members:
            raise ConfigError("an ensemble needs at least one member")
        if any(_reads(member) != _reads(members[0]) for member in members):
            raise ConfigError("the members of an ensemble must share tokenizer and window")
        combine(torch.zeros(1, 1), how, penalty)
        self.members = list(members)
        self.how = how
        self.penalty = penalty
        self.mean = 0.0
        self.std = 1.0

    def member_scores(self, prompts: Sequence[str], completions: Sequence[str]) -> Tensor:
        """Returns each member's normalised scores, [A, B] float64."""
        rows = self.members[0].encode(prompts, completions)
        return torch.stack([_normalised(member, rows) for member in self.members])

    def uncertainty(self, prompts: Sequence[str], completions: Sequence[str]) -> list[float]:
        """Returns by how much the members disagree: the deviation of their normalised scores."""
        spread = self.member_scores(prompts, completions).std(0, correction=0)
        return [float(x) for x in spread]

    def __call__(
        self, prompts: list[str], completions: list[str], **columns: list[Any]
    ) -> list[float]:
        """Returns each completion's normalised score."""
        scores = combine(self.member_scores(prompts, completions), self.how, self.penalty)
        return [(float(score) - self.mean) / self.std for score in scores]

    def normalise(self, prompts: Sequence[str], completions: Sequence[str]) -> None:
        """Makes these samples score 0 on average with deviation 1: each member's, then together.

        Raises: DataError for fewer than two samples or samples that all score alike.
        """
        for member in self.members:
            member.normalise(prompts, completions)
        scores = combine(self.member_scores(prompts, completions), self.how, self.penalty)
        mean, std = float(scores.mean()), float(scores.std(correction=0))
        if not std > 0:
            raise DataError(f"cannot normalise a reward on {len(scores)} samples of equal score")
        self.mean, self.std = mean, std

    def save(self, out: str | Path) -> None:
        """Writes a folder with one folder per member. Raises: ModelError when it cannot."""
        constants = {
            "kind": "ensemble",
            "members": len(self.members),
            "how": self.how,
            "penalty": self.penalty,
            "mean": self.mean,
            "std": self.std,
        }
        with written_whole(out) as folder:
            for number, member in enumerate(self.members):
                member.save(folder / str(number))
            (folder / CONSTANTS).write_text(json.dumps(constants, indent=2) + "\n")


def load_ensemble(path: str | Path) -> RewardEnsemble:
    """Loads what `RewardEnsemble.save` wrote. Raises: ModelError when the folder holds none."""
    constants = read_constants(path, ("members", "how", "penalty", "mean", "std"))
    members: list[Any] = [load_reward(Path(path, str(i))) for i in range(constants["members"])]
    ensemble = RewardEnsemble(members, constants["how"], constants["penalty"])
    ensemble.mean, ensemble.std = constants["mean"], constants["std"]
    return ensemble


def train_ensemble(
    start: Start,
    feedback: Sequence[Feedback],
    config: LearningConfig | None = None,
    generator: torch.Generator | None = None,
    log: Log | None = None,
    *,
    members: int = 3,
    bootstrap: bool = False,
    how: str = "mean",
    penalty: float = 1.0,
) -> tuple[RewardEnsemble, dict[str, float]]:
    """Fits several reward models that differ in their heads' first weights and the order of data.

    Args:
        start: see `train_reward`.
        feedback: the answers; the same prompts are held out from all members.
        config: how each is trained.
        generator: everything random follows from it; None begins at seed 0.
        log: see `train_reward`; the members' steps are counted on.
        members: how many.
        bootstrap: whether each learns from its own resample of the answers, with replacement.
        how: see `RewardEnsemble`.
        penalty: see `RewardEnsemble`.

    Returns:
        The ensemble, not yet normalised, and the means of the members' reports, with
        `ensemble_accuracy`: the share of held-out pairs that the combination orders rightly.

    Raises:
        ConfigError: members < 1.
        As `train_reward`.
    """
    if members < 1:
        raise ConfigError(f"members must be >= 1, got {members}")
    config, generator = config or LearningConfig(), generator or seeded()
    require_objectives(feedback, config)
    train, held = split_by_prompt(feedback, config.held_out, generator)
    models, reports, steps = [], [], 0

    def count(step: int, metrics: dict[str, float]) -> None:
        nonlocal steps
        if log is not None:
            log(steps, metrics)
        steps += 1

    for seed in torch.randint(2**62, (members,), generator=generator).tolist():
        own = seeded(seed)
        model = reward_model_of(start, config, own)
        picked = torch.randint(len(train), (len(train),), generator=own).tolist()
        sample = [train[i] for i in picked] if bootstrap else train
        reports.append(fit_answers(model, encoder_of(model), sample, held, config, own, count))
        models.append(model)
    ensemble = RewardEnsemble(models, how, penalty)
    names = set.intersection(*(set(report) for report in reports))
    report = {name: sum(r[name] for r in reports) / members for name in sorted(names)}
    return ensemble, {**report, "ensemble_accuracy": pair_accuracy(ensemble, held)}


def pair_accuracy(reward: Any, feedback: Sequence[Feedback]) -> float:
    """Returns the share of decided pairs whose preferred completion a reward scores higher.

    Equal scores count as half.

    Args:
        reward: a reward function.
        feedback: answers; other kinds and ties are left out. NaN when none is left.

    Raises:
        FeedbackError: a score for each completion did not come back.
    """
    pairs = [f for f in feedback if f.question.kind == PAIRWISE]
    prompts = [f.question.prompt for f in pairs for _ in range(2)]
    texts = [text for f in pairs for text in f.question.completions]
    columns = {"annotator": [f.annotator for f in pairs for _ in range(2)]}
    columns["group"] = [f.group for f in pairs for _ in range(2)]
    scores = torch.tensor(reward(prompts, texts, **columns), dtype=torch.float64)
    if len(scores) != len(texts):
        raise FeedbackError(f"{len(scores)} scores for {len(texts)} completions")
    labels = torch.tensor([f.label for f in pairs], dtype=torch.float64)
    return float(BradleyTerry(labels).right(scores.reshape(-1, 2), labels).mean())


def _normalised(member: RewardModel, rows: Sequence[TokenRow]) -> Tensor:
    return (member.score_rows(rows).double() - member.mean) / member.std


def _reads(member: RewardModel) -> tuple[Any, ...]:
    """Returns what decides a member's rows."""
    return type(member), member.max_tokens, member.tokenizer.get_vocab()
