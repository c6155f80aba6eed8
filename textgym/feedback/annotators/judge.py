"""A language model as judge: which of two completions does it say is better?"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from textgym.errors import ConfigError, FeedbackError, PromptTooLongError
from textgym.feedback.annotators.base import require_pairs
from textgym.feedback.annotators.template import JudgeTemplate, read_template
from textgym.feedback.records import Feedback, Question
from textgym.models.policy import Policy
from textgym.models.tokenize import pad, prompt_token_ids
from textgym.rewards.batching import buckets

BATCH_TOKENS = 2**13
"""Tokens that the judge reads at once, padding and all."""
ORDERS = ((0, 1), (1, 0))
ON_NEITHER = ("raise", "skip")


class JudgeAnnotator:
    """Answers pairs by the verdict that a causal language model would say next.

    Every pair is asked in both orders. With d = log P(first) - log P(second) of the verdict's next
    token, the completions' combined log-odds is (d of the one order - d of the other) / 2, in which
    a liking for either place cancels. No text is sampled or parsed (Zheng et al. 2023, arXiv
    2306.05685, on judges and their position bias). The same questions get the same answers.

    A verdict of several tokens is known by its first one.

    Attributes:
        name, group: as the store knows them.
        policy: the judge.
        template: what it is asked.
        verdict_ids: the tokens of the verdicts, for the first and for the second.
        skipped: questions left out so far, for the judge gave neither verdict.
    """

    def __init__(
        self,
        policy: Policy,
        template: JudgeTemplate | None = None,
        name: str = "judge",
        group: str = "",
        *,
        tie_threshold: float = 0.0,
        least_mass: float = 0.1,
        on_neither: str = "raise",
    ) -> None:
        """Takes the judge and how it is heard.

        Args:
            policy: from `load_policy`; one that follows instructions, for `LikelihoodJudge` needs
                none.
            template: from `read_template`; by default the packaged one.
            name: must not be empty.
            group: which group it belongs to.
            tie_threshold: combined log-odds of at most this, in either direction, is a tie; nats.
            least_mass: probability that the two verdicts must have together, in either order.
            on_neither: what a pair below it does: "raise", or "skip" to be left out and counted.

        Raises:
            ConfigError: a value outside its domain.
            FeedbackError: verdicts that begin with the same token, or with none.
        """
        if not name:
            raise ConfigError("an annotator needs a name")
        if not tie_threshold >= 0:
            raise ConfigError(f"tie_threshold must be >= 0, got {tie_threshold}")
        if not 0 <= least_mass <= 1:
            raise ConfigError(f"least_mass must be in [0, 1], got {least_mass}")
        if on_neither not in ON_NEITHER:
            raise ConfigError(f"on_neither must be one of {ON_NEITHER}, got {on_neither!r}")
        self.policy = policy
        self.template = template or read_template()
        self.name = name
        self.group = group
        self.tie_threshold = tie_threshold
        self.least_mass = least_mass
        self.on_neither = on_neither
        self.verdict_ids = _verdict_ids(policy, self.template)
        self.skipped = 0

    def label(self, questions: Sequence[Question]) -> list[Feedback]:
        """Answers the pairs; those with neither verdict are an error, or left out.

        Raises:
            FeedbackError: a question that is no pair, or a pair with neither verdict.
            PromptTooLongError: a pair that does not fit the judge's window.
        """
        heard, odds = self._ask(questions)
        self.skipped += len(questions) - len(heard)
        combined = ((odds[:, 0] - odds[:, 1]) / 2).tolist()
        return [
            Feedback(question, self._verdict(log_odds), self.name, self.group)
            for question, log_odds in zip(heard, combined, strict=True)
        ]

    def audit(self, questions: Sequence[Question]) -> dict[str, float]:
        """Returns how much the judge goes by the place rather than by the text.

        Returns:
            `questions` (asked), `neither` (of them, without a verdict), and over the others, each
            in both orders: `first_wins` (share of verdicts for the completion shown first, equal
            ones half; 0.5 is fair), `first_log_odds` (mean, nats; 0 is fair), `consistent` (share
            of pairs in which both orders name the same completion).

        Raises:
            FeedbackError: as `label`, or no question with a verdict.
            PromptTooLongError: as `label`.
        """
        heard, odds = self._ask(questions)
        if not heard:
            raise FeedbackError(f"the judge gave no verdict on any of {len(questions)} questions")
        return {
            "questions": len(questions),
            "neither": len(questions) - len(heard),
            "first_wins": ((odds.sign() + 1) / 2).mean().item(),
            "first_log_odds": odds.mean().item(),
            "consistent": (odds[:, 0].sign() == -odds[:, 1].sign()).double().mean().item(),
        }

    def _verdict(self, log_odds: float) -> float:
        return 0.5 if abs(log_odds) <= self.tie_threshold else float(log_odds > 0)

    def _ask(self, questions: Sequence[Question]) -> tuple[list[Question], Tensor]:
        """Returns the M questions with a verdict, and what is said of the completion shown first.

        That is [M, 2] log-odds, nats, one for each of `ORDERS`.
        """
        require_pairs(questions, "a judge")
        texts = [self.template.fill(question, order) for question in questions for order in ORDERS]
        logprobs = self._verdict_logprobs(texts).view(-1, 2, 2)
        mass = logprobs.exp().sum(-1).amin(1)
        heard = mass >= self.least_mass
        if self.on_neither == "raise" and not heard.all():
            i = int((~heard).nonzero()[0])
            raise FeedbackError(
                f"the judge gives neither verdict on question {i} "
                f"({questions[i].prompt[:40]!r}): {self.template.first!r} and "
                f"{self.template.second!r} have probability {mass[i]:.2g}, expected at least "
                f"{self.least_mass:g}"
            )
        odds = logprobs[heard, :, 0] - logprobs[heard, :, 1]
        return [question for question, ok in zip(questions, heard, strict=True) if ok], odds

    @torch.no_grad()
    def _verdict_logprobs(self, texts: list[str]) -> Tensor:
        """Returns [R, 2] float64 log-probabilities of the two verdicts after each of R texts."""
        rows = prompt_token_ids(self.policy.tokenizer, texts)
        lengths = [len(row) for row in rows]
        # The verdict itself is read, not fed in: the whole window may be the question's.
        for i, length in enumerate(lengths):
            if length > self.policy.max_length:
                raise PromptTooLongError(
                    f"question {i // 2} fills {length} tokens of the judge's template, "
                    f"{self.policy.name} reads {self.policy.max_length}"
                )
        found = torch.zeros((len(rows), 2), dtype=torch.float64)
        for batch in buckets(
            sorted(range(len(rows)), key=lengths.__getitem__), lengths, BATCH_TOKENS
        ):
            ids, mask = pad([rows[i] for i in batch], self.policy.pad_token_id, side="left")
            logprobs = self.policy.next_logits(ids, mask).double().log_softmax(-1).cpu()
            found[batch] = logprobs[:, list(self.verdict_ids)]
        return found


def _verdict_ids(policy: Policy, template: JudgeTemplate) -> tuple[int, int]:
    """Returns the first token of each verdict, which must differ."""
    verdicts = [template.first, template.second]
    rows = policy.tokenizer(verdicts, add_special_tokens=False)["input_ids"]
    for verdict, row in zip(verdicts, rows, strict=True):
        if not row:
            raise FeedbackError(f"the verdict {verdict!r} is no token of {policy.name}")
    if rows[0][0] == rows[1][0]:
        shared = policy.tokenizer.decode(rows[0][:1])
        raise FeedbackError(
            f"the verdicts {verdicts[0]!r} and {verdicts[1]!r} begin with the same token of "
            f"{policy.name}, {shared!r}; name others in the first line of the template"
        )
    return rows[0][0], rows[1][0]
