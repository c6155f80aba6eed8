"""Questions, gold rewards, and language models whose verdicts are set by hand."""

import torch
from policy_support import make_policy

from textgym.feedback.records import Feedback, Question
from textgym.models.policy import Policy


def pair(prompt="p", first="a", second="b", **columns):
    return Question(prompt, (first, second), columns=columns)


def single(kind, text="a", prompt="p", **columns):
    return Question(prompt, (text,), kind, columns=columns)


def answer(question, label, annotator="someone", **more):
    return Feedback(question, label, annotator, **more)


def worth(prompts, completions, **columns):
    """A gold reward written in the columns: `gold` maps each completion to its score."""
    return [scores[text] for scores, text in zip(columns["gold"], completions, strict=True)]


class SpokenPolicy(Policy):
    """Says next what `say` (text -> {verdict: probability}) tells it; the rest goes to EOS."""

    def __init__(self, say):
        made = make_policy()
        super().__init__(made.model, made.tokenizer, "spoken")
        self.max_length = 4096
        self.say = say
        self.heard = []

    def next_logits(self, input_ids, attention_mask):
        logits = torch.full((len(input_ids), self.vocab_size), -1e4)
        for row, (ids, mask) in enumerate(zip(input_ids, attention_mask, strict=True)):
            text = self.tokenizer.decode(ids[mask])
            self.heard.append(text)
            said = self.say(text)
            left = 1 - sum(said.values())
            logits[row, self.eos_token_id] = torch.tensor(left).clamp(min=1e-9).log()
            for verdict, probability in said.items():
                token = self.tokenizer(verdict)["input_ids"][0]
                logits[row, token] = torch.tensor(probability).log()
        return logits
