"""A judge without instructions: which of two completions would this language model rather write?"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch

from textgym.errors import ConfigError, PromptTooLongError
from textgym.feedback.annotators.base import gold_scores, require_pairs
from textgym.feedback.records import Feedback, Question
from textgym.models.policy import Policy
from textgym.models.tokenize import completion_token_ids, pad, prompt_token_ids
from textgym.rewards.batching import buckets

BATCH_TOKENS = 2**13
"""Tokens that are scored at once, padding and all."""


class Likelihood:
    """A reward: the mean log-probability of a completion's tokens and its EOS, nats per token.

    It says how probable a language model finds a text, not how good anyone finds it.
    """

    def __init__(self, policy: Policy) -> None:
        """Takes the language model, from `load_policy`."""
        self.policy = policy

    @torch.no_grad()
    def __call__(
        self, prompts: list[str], completions: list[str], **columns: list[Any]
    ) -> list[float]:
        """Scores each completion.

        Raises:
            PromptTooLongError: a prompt and completion that do not fit the window together.
        """
        policy = self.policy
        asked = prompt_token_ids(policy.tokenizer, prompts)
        given = completion_token_ids(policy.tokenizer, completions)
        lengths = [len(p) + len(c) for p, c in zip(asked, given, strict=True)]
        for i, length in enumerate(lengths):
            # EOS is predicted but never read.
            if length - 1 > policy.max_length:
                raise PromptTooLongError(
                    f"prompt and completion {i} have {length} tokens, {policy.name} reads "
                    f"{policy.max_length} and predicts one more"
                )
        scores = [0.0] * len(prompts)
        for batch in buckets(
            sorted(range(len(prompts)), key=lengths.__getitem__), lengths, BATCH_TOKENS
        ):
            prompt = pad([asked[i] for i in batch], policy.pad_token_id, side="left")
            ids, mask = pad([given[i] for i in batch], policy.pad_token_id, side="right")
            logprobs = policy.token_logprobs(*prompt, ids, mask).double().cpu()
            for i, mean in zip(batch, (logprobs.sum(1) / mask.sum(1)).tolist(), strict=True):
                scores[i] = mean
        return scores


class LikelihoodJudge:
    """Prefers the completion that a language model finds likelier per token, its EOS included.

    The stand-in for AI feedback where no model that follows instructions is at hand, as offline
    with the packaged one. It is no judge of quality: it likes what is common in the model's
    training. It reads each completion alone, so there is no place to be biased for.

    Attributes:
        name, group: as the store knows them.
        likelihood: its reward.
        tie_threshold: means that differ by at most this are a tie, nats per token.
    """

    def __init__(
        self,
        policy: Policy,
        name: str = "likelihood",
        group: str = "",
        *,
        tie_threshold: float = 0.0,
    ) -> None:
        """Takes the language model. Raises: ConfigError for no name or a negative threshold."""
        if not name:
            raise ConfigError("an annotator needs a name")
        if not tie_threshold >= 0:
            raise ConfigError(f"tie_threshold must be >= 0, got {tie_threshold}")
        self.likelihood = Likelihood(policy)
        self.name = name
        self.group = group
        self.tie_threshold = tie_threshold

    def label(self, questions: Sequence[Question]) -> list[Feedback]:
        """Answers the pairs.

        Raises:
            FeedbackError: a question that is no pair.
            PromptTooLongError: a completion that does not fit the window with its prompt.
        """
        require_pairs(questions, "a judge by likelihood")
        scores = gold_scores(self.likelihood, questions)
        return [
            Feedback(question, self._verdict(a - b), self.name, self.group)
            for question, (a, b) in zip(questions, scores, strict=True)
        ]

    def _verdict(self, margin: float) -> float:
        return 0.5 if abs(margin) <= self.tie_threshold else float(margin > 0)
