"""What stands between scores and answers: an objective and the few numbers it learns beside."""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar

import torch
from torch import Tensor, nn

from textgym.feedback.learning.objectives import (
    davidson_loss,
    pairwise_loss,
    rating_logprobs,
    rating_loss,
    verdict_loss,
)
from textgym.feedback.records import BINARY, LABELS, PAIRWISE, RATING


class Link(nn.Module):
    """One objective: from scores [B, C] of the completions shown to a loss.

    Attributes:
        kind: of the answers that it takes.
    """

    kind: ClassVar[str]

    def __init__(self, labels: Tensor, centering: float = 0.0) -> None:
        """Starts what is learned from the labels' shares.

        Args:
            labels: [B] of the training answers.
            centering: see `pairwise_loss`; other kinds have an origin.
        """
        super().__init__()
        self.centering = centering

    def loss(self, scores: Tensor, labels: Tensor, margins: Tensor) -> Tensor:
        """Returns the mean loss of answers, nats.

        Args:
            scores: [B, C].
            labels: [B].
            margins: [B], of comparisons.
        """
        raise NotImplementedError

    def right(self, scores: Tensor, labels: Tensor) -> Tensor:
        """Returns 1 for each answer that the scores foretell, 0 for each that they do not."""
        raise NotImplementedError

    def numbers(self) -> dict[str, float]:
        """Returns what was learned beside the scores, by name."""
        return {}


class BradleyTerry(Link):
    """Comparisons; a tie is half a win for each."""

    kind = PAIRWISE

    def loss(self, scores: Tensor, labels: Tensor, margins: Tensor) -> Tensor:
        """Returns `pairwise_loss`."""
        return pairwise_loss(scores[:, 0], scores[:, 1], labels, margins, self.centering)

    def right(self, scores: Tensor, labels: Tensor) -> Tensor:
        """Returns whether the preferred scores higher, half for equal scores; ties are left out."""
        decided = labels != 0.5
        lead = (scores[:, 0] - scores[:, 1])[decided] * (2 * labels[decided] - 1)
        return (lead.sign() + 1) / 2


class Davidson(BradleyTerry):
    """Comparisons with ties of learned width. Margins do not enter."""

    def __init__(self, labels: Tensor, centering: float = 0.0) -> None:
        super().__init__(labels, centering)
        share = _share(labels == 0.5)
        # The width at which equal scores tie as often as the labels do.
        self.log_tie = nn.Parameter((2 * share / (1 - share)).log())

    def loss(self, scores: Tensor, labels: Tensor, margins: Tensor) -> Tensor:
        """Returns `davidson_loss`."""
        return davidson_loss(scores[:, 0], scores[:, 1], labels, self.log_tie, self.centering)

    def numbers(self) -> dict[str, float]:
        """Returns `tie_width`, Davidson's nu."""
        return {"tie_width": self.log_tie.exp().item()}


class Ordinal(Link):
    """Ratings. The thresholds start where the labels' shares put them for a score of 0."""

    kind = RATING

    def __init__(self, labels: Tensor, centering: float = 0.0) -> None:
        super().__init__(labels, centering)
        shares = torch.stack([_share(labels <= k) for k in LABELS[RATING][:-1]])
        # A rating that no one gave leaves two thresholds on one spot.
        start = shares.logit() + 0.01 * torch.arange(len(shares))
        self.lowest = nn.Parameter(start[0])
        self.log_gaps = nn.Parameter(start.diff().log())

    @property
    def thresholds(self) -> Tensor:
        """Returns the ascending thresholds [4]."""
        steps = torch.cat([self.log_gaps.new_zeros(1), self.log_gaps.exp().cumsum(0)])
        return self.lowest + steps

    def loss(self, scores: Tensor, labels: Tensor, margins: Tensor) -> Tensor:
        """Returns `rating_loss`."""
        return rating_loss(scores[:, 0], labels, self.thresholds)

    def right(self, scores: Tensor, labels: Tensor) -> Tensor:
        """Returns whether the likeliest rating is the one given."""
        likeliest = rating_logprobs(scores[:, 0], self.thresholds).argmax(-1) + 1
        return (likeliest == labels).float()

    def numbers(self) -> dict[str, float]:
        """Returns `threshold_1` to `threshold_4`: between a rating and the next, in raw score."""
        return {f"threshold_{k}": x for k, x in enumerate(self.thresholds.tolist(), 1)}


class Logistic(Link):
    """Good or bad. The cut starts where the share of good puts it for a score of 0."""

    kind = BINARY

    def __init__(self, labels: Tensor, centering: float = 0.0) -> None:
        super().__init__(labels, centering)
        self.cut = nn.Parameter(-_share(labels == 1).logit())

    def loss(self, scores: Tensor, labels: Tensor, margins: Tensor) -> Tensor:
        """Returns `verdict_loss`."""
        return verdict_loss(scores[:, 0], labels, self.cut)

    def right(self, scores: Tensor, labels: Tensor) -> Tensor:
        """Returns whether the score lies on the verdict's side of the cut."""
        return ((scores[:, 0] > self.cut) == (labels == 1)).float()

    def numbers(self) -> dict[str, float]:
        """Returns `cut`, in raw score."""
        return {"cut": self.cut.item()}


OBJECTIVES: dict[str, type[Link]] = {
    "bradley_terry": BradleyTerry,
    "davidson": Davidson,
    "logistic": Logistic,
    "ordinal": Ordinal,
}
"""The objectives by name."""


def make_links(
    objectives: Sequence[str], kinds: Sequence[str], labels: Sequence[float], centering: float
) -> dict[str, Link]:
    """Returns the link of each kind that is among the training answers.

    Args:
        objectives: names in `OBJECTIVES`, one per kind.
        kinds: of each answer.
        labels: of each answer.
        centering: see `pairwise_loss`.
    """
    made = {}
    for link in (OBJECTIVES[name] for name in objectives):
        if own := [y for kind, y in zip(kinds, labels, strict=True) if kind == link.kind]:
            made[link.kind] = link(torch.tensor(own), centering)
    return made


def _share(which: Tensor) -> Tensor:
    """Returns the share of True, half an answer added to either side so that it is never 0 or 1."""
    return (which.sum() + 0.5) / (len(which) + 1)
