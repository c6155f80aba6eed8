"""Personal rewards: one model of what texts are like, and a few numbers on what each one likes.

`r_a(x, y) = (w + U e_a) . h(x, y) + b`: h [D] is the mean state of the completion's tokens, w and b
are the head's, e_a [E] is the annotator's embedding and U [D, E] says what its numbers mean.
A linear form, as in low-rank reward modelling (Bose et al. 2025, arXiv 2504.14439), keeps learning
of a new annotator from a handful of comparisons a convex problem of E numbers.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from textgym.errors import ConfigError, DataError, FeedbackError
from textgym.feedback.learning.adapting import fit_embedding, gaussian_prior
from textgym.feedback.records import PAIRWISE, Feedback
from textgym.registry import unknown_name
from textgym.rewards import load_reward
from textgym.rewards.learned import RewardModel, TokenRow
from textgym.rewards.saving import CONSTANTS, read_constants, written_whole

if TYPE_CHECKING:
    from textgym.types import RewardFunction

PERSONAL = "personal.safetensors"
BASE = "base"


class PersonalRow(NamedTuple):
    """A text as tokens, and who reads it; an unknown name stands for the mean annotator."""

    text: TokenRow
    annotator: str | None


class PersonalRewardModel:
    """A reward function of text and annotator.

    Attributes:
        base: what reads texts; its head is the mean annotator's where embeddings are 0.
        names: the A annotators that it was trained on.
        embeddings: [A, E], theirs.
        directions: U, [D, E].
        adapted: annotator -> embedding [E] that `adapt` has fitted.
        reference: mean [D] and covariance [D, D] of the states of the samples given to
            `normalise`, from which everyone's mean score and deviation follow; None before.
    """

    def __init__(
        self, base: RewardModel, names: Sequence[str], embeddings: Tensor, directions: Tensor
    ) -> None:
        if not names or len(names) != len(embeddings):
            raise ConfigError(f"{len(embeddings)} embeddings for {len(names)} annotators")
        self.base = base
        self.names = list(names)
        self.embeddings = nn.Parameter(embeddings)
        self.directions = nn.Parameter(directions)
        self.adapted: dict[str, Tensor] = {}
        self.reference: tuple[Tensor, Tensor] | None = None

    @classmethod
    def around(
        cls, base: RewardModel, names: Sequence[str], width: int, generator: torch.Generator
    ) -> PersonalRewardModel:
        """Returns an untrained model whose annotators all score as the base does.

        Args:
            base: taken over, not copied.
            names: A annotators.
            width: E, numbers per annotator.
            generator: draws the directions.

        Raises: ConfigError for a width below 1.
        """
        if width < 1:
            raise ConfigError(f"width must be >= 1, got {width}")
        size = len(base.head.weight)
        directions = torch.empty(size, width).normal_(0.0, size**-0.5, generator=generator)
        device = base.head.weight.device
        return cls(base, names, torch.zeros(len(names), width).to(device), directions.to(device))

    def parameters(self) -> list[nn.Parameter]:
        """Returns the weights, without the embeddings."""
        return [*self.base.parameters(), self.directions]

    def encode(
        self,
        prompts: Sequence[str],
        completions: Sequence[str],
        annotators: Sequence[str | None],
    ) -> list[PersonalRow]:
        """Returns B rows."""
        rows = self.base.encode(prompts, completions)
        return [PersonalRow(row, name) for row, name in zip(rows, annotators, strict=True)]

    def raw_scores(self, rows: Sequence[PersonalRow]) -> Tensor:
        """Returns scores [B] before normalisation, with their gradient."""
        states = self.base.pooled([row.text for row in rows])
        return self._score(states, [row.annotator for row in rows])

    @torch.no_grad()
    def score_rows(self, rows: Sequence[PersonalRow]) -> Tensor:
        """Returns the raw scores [B] of any number of rows; equal texts are read once."""
        states = self.base.pool_rows([row.text for row in rows])
        scores = self._score(states.to(self.embeddings.device), [row.annotator for row in rows])
        return scores.float().cpu()

    def _score(self, states: Tensor, annotators: Sequence[str | None]) -> Tensor:
        return (states * self.weights(annotators)).sum(-1) + self.base.head.bias

    def weights(self, annotators: Sequence[str | None]) -> Tensor:
        """Returns `w + U e_a` [B, D] of each; an unknown name or None has the mean embedding."""
        mean = self.embeddings.mean(0, keepdim=True)
        table = torch.cat([self.embeddings, mean, *(e[None] for e in self.adapted.values())])
        names = [*self.names, None, *self.adapted]
        place: dict[str | None, int] = {name: i for i, name in enumerate(names)}
        index = torch.tensor(
            [place.get(name, len(self.names)) for name in annotators], dtype=torch.int64
        )
        return self.base.head.weight + table[index] @ self.directions.T

    @torch.no_grad()
    def __call__(
        self, prompts: list[str], completions: list[str], **columns: list[Any]
    ) -> list[float]:
        """Returns each completion's normalised score to the annotator in column `annotator`.

        Without that column, and for a name that is not known, it is the mean annotator's.
        """
        annotators = columns.get("annotator", [None] * len(prompts))
        raw = self.score_rows(self.encode(prompts, completions, annotators)).double()
        return [float(x) for x in (raw - self._mean(annotators)) / self._std(annotators)]

    def for_annotator(self, name: str | None = None) -> RewardFunction:
        """Returns one annotator's reward function; None for the mean annotator's.

        Raises: FeedbackError for a name that is not known.
        """
        if name is not None:
            self._require_known(name)
        return partial(_for_one, self, name)

    def adapt(self, feedback: Sequence[Feedback], name: str) -> None:
        """Learns a new annotator's embedding, and nothing else, from a handful of comparisons.

        The maximum a posteriori of Bradley-Terry (a tie is half a win for each) under the Gaussian
        of the known annotators' embeddings; again for the same name, it starts afresh.

        Args:
            feedback: comparisons; whose they are is not looked at.
            name: the new annotator's.

        Raises:
            FeedbackError: none, another kind of feedback, or an annotator of the training.
        """
        if name in self.names:
            raise FeedbackError(f"the annotator {name!r} is known from training")
        if other := next((f for f in feedback if f.question.kind != PAIRWISE), None):
            raise FeedbackError(f"an annotator is learned from pairs, got {other.question.kind}")
        if not feedback:
            raise FeedbackError(f"no comparison to learn the annotator {name!r} from")
        rows = self.base.encode(
            [f.question.prompt for f in feedback for _ in range(2)],
            [text for f in feedback for text in f.question.completions],
        )
        states = self.base.pool_rows(rows).double()
        difference = states[::2] - states[1::2]
        known = [x.detach().cpu().double() for x in (self.base.head.weight, self.directions)]
        labels = torch.tensor([f.label for f in feedback], dtype=torch.float64)
        prior = gaussian_prior(self.embeddings.detach().cpu().double())
        found = fit_embedding(difference @ known[1], difference @ known[0], labels, *prior)
        self.adapted[name] = found.to(self.embeddings)

    def normalise(self, prompts: Sequence[str], completions: Sequence[str]) -> None:
        """Makes these samples score 0 on average with deviation 1 to everyone, also to come.

        Raises: DataError for fewer than two samples or samples that all score alike to someone.
        """
        states = self.base.pool_rows(self.base.encode(prompts, completions)).double()
        if len(states) < 2:
            raise DataError(f"cannot normalise a reward on {len(states)} samples")
        centred = states - states.mean(0)
        before = self.reference
        self.reference = states.mean(0), centred.T @ centred / len(states)
        everyone = [*self.names, None, *self.adapted]
        if not bool((self._std(everyone) > 1e-9).all()):
            self.reference = before
            raise DataError(f"cannot normalise a reward on {len(states)} samples of equal score")

    def _mean(self, annotators: Sequence[str | None]) -> Tensor:
        """Returns everyone's mean raw score [B] on the reference samples."""
        if self.reference is None:
            return torch.zeros(len(annotators), dtype=torch.float64)
        weights = self.weights(annotators).detach().cpu().double()
        return weights @ self.reference[0] + self.base.head.bias.item()

    def _std(self, annotators: Sequence[str | None]) -> Tensor:
        if self.reference is None:
            return torch.ones(len(annotators), dtype=torch.float64)
        weights = self.weights(annotators).detach().cpu().double()
        variance = torch.einsum("bd,de,be->b", weights, self.reference[1], weights)
        return variance.clamp(min=0).sqrt()

    def _require_known(self, name: str) -> None:
        if name not in self.names and name not in self.adapted:
            raise FeedbackError(str(unknown_name("annotator", name, [*self.names, *self.adapted])))

    def save(self, out: str | Path) -> None:
        """Writes a folder, the base in a folder inside. Raises: ModelError when it cannot."""
        tensors = {
            "embeddings": self.embeddings.detach(),
            "directions": self.directions.detach(),
            "adapted": torch.stack([torch.zeros_like(self.embeddings[0]), *self.adapted.values()]),
        }
        if self.reference is not None:
            tensors["reference_mean"], tensors["reference_covariance"] = self.reference
        constants = {"kind": "personal", "names": self.names, "adapted": list(self.adapted)}
        with written_whole(out) as folder:
            self.base.save(folder / BASE)
            save_file({k: x.contiguous().cpu() for k, x in tensors.items()}, folder / PERSONAL)
            (folder / CONSTANTS).write_text(json.dumps(constants, indent=2) + "\n")


def load_personal(path: str | Path) -> PersonalRewardModel:
    """Loads what `PersonalRewardModel.save` wrote. Raises: ModelError for a folder without one."""
    constants = read_constants(path, ("names", "adapted"), (CONSTANTS, PERSONAL))
    tensors = load_file(Path(path, PERSONAL))
    base: Any = load_reward(Path(path, BASE))
    model = PersonalRewardModel(
        base, constants["names"], tensors["embeddings"], tensors["directions"]
    )
    model.adapted = dict(zip(constants["adapted"], tensors["adapted"][1:], strict=True))
    if "reference_mean" in tensors:
        model.reference = tensors["reference_mean"], tensors["reference_covariance"]
    return model


def _for_one(
    model: PersonalRewardModel,
    name: str | None,
    prompts: list[str],
    completions: list[str],
    **columns: list[Any],
) -> list[float]:
    return model(prompts, completions, annotator=[name] * len(prompts))
