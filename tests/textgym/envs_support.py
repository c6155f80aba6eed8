"""A tokenizer of nine words, a task over it, and policies whose numbers are written down."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from datasets import Dataset
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast

from textgym.tasks.base import Task

WORDS = ["<eos>", "<pad>", "<unk>", "rain", "fell", "sun", "shone", "wind", "blew"]
EOS, PAD, UNK, RAIN, FELL, SUN, SHONE, WIND, BLEW = range(9)
PROMPTS = ["rain fell", "sun", "wind blew rain fell", "sun shone rain"]


def word_tokenizer(pad: bool = True) -> PreTrainedTokenizerFast:
    vocabulary = {word: i for i, word in enumerate(WORDS)}
    tokenizer = Tokenizer(models.WordLevel(vocabulary, unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        eos_token="<eos>",
        unk_token="<unk>",
        pad_token="<pad>" if pad else None,
        clean_up_tokenization_spaces=False,
    )


class WordTask(Task):
    """Prompts of at most 4 tokens; the reward is the share of the reference's words."""

    name = "word"
    question = "does the response say what the reference says?"
    max_prompt_tokens = 4
    max_response_tokens = 3

    def __init__(self) -> None:
        self.calls: list[tuple[list[str], list[str], dict[str, list[Any]]]] = []

    def prompts(self, split: str) -> Dataset:
        if split == "test":
            return Dataset.from_dict({"prompt": []})
        if split == "validation":
            return Dataset.from_dict({"text": ["rain"], "label": [1]})
        references = ["fell", "shone", "blew", "rain"]
        return Dataset.from_dict({"prompt": PROMPTS, "reference": references})

    def demonstrations(self) -> Dataset:
        return Dataset.from_dict({"prompt": PROMPTS, "completion": PROMPTS})

    def reward(
        self, prompts: list[str], completions: list[str], **columns: list[Any]
    ) -> list[float]:
        self.calls.append((prompts, completions, columns))
        references = columns.get("reference", [None] * len(prompts))
        return [
            completion.split().count(reference) / max(len(completion.split()), 1)
            for completion, reference in zip(completions, references, strict=True)
        ]


class Bigram:
    """A policy whose next-token distribution depends on the last token alone."""

    def __init__(self, probabilities: Callable[[int], list[float]]) -> None:
        table = [probabilities(last) for last in range(len(WORDS))]
        self.logits = torch.tensor(table).log()
        self.seen: list[tuple[torch.Tensor, torch.Tensor]] = []

    def next_logits(self, input_ids: torch.Tensor, attention_mask: torch.Tensor) -> torch.Tensor:
        self.seen.append((input_ids, attention_mask))
        return self.logits[input_ids[:, -1]]
