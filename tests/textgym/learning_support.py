"""Feedback on a tiny synthetic language, by annotators whose tastes are known."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from reward_support import tiny_policy
from transformers import BertConfig, BertModel, PreTrainedTokenizerFast

from textgym.feedback.records import BINARY, PAIRWISE, RATING, Feedback, Question

NOUNS = ("cat", "dog", "fox", "owl", "hen")
VERBS = ("sat", "ran", "sang", "slept", "ate")
TEXTS = [f" The {noun} {verb}." for noun in NOUNS for verb in VERBS]
PROMPTS = [f"Tell tale {number}:" for number in range(40)]

Gold = Callable[[str], float]


def likes(word: str, strength: float = 1.0) -> Gold:
    """A taste: `strength` where the word occurs, else 0."""
    return lambda text: strength * (word in text)


def policy():
    """A random language model that has the language's words as tokens."""
    return tiny_policy([PROMPTS[0] + text for text in TEXTS] * 4, vocab_size=330, context=64)


def comparisons(
    gold: Gold,
    count: int,
    seed: int,
    annotator: str = "ann",
    group: str = "",
    rationality: float = 8.0,
) -> list[Feedback]:
    """Comparisons of random texts by Bradley-Terry, none of equal gold."""
    random = np.random.default_rng(seed)
    found: list[Feedback] = []
    while len(found) < count:
        prompt = PROMPTS[int(random.integers(len(PROMPTS)))]
        first, second = (TEXTS[i] for i in random.choice(len(TEXTS), 2, replace=False))
        margin = gold(first) - gold(second)
        if margin == 0:
            continue
        label = float(random.random() < 1 / (1 + np.exp(-rationality * margin)))
        found.append(Feedback(Question(prompt, (first, second)), label, annotator, group))
    return found


def ratings(gold: Gold, count: int, seed: int) -> list[Feedback]:
    """5 for what is liked, 2 for what is not."""
    return [_single(RATING, text, 5.0 if gold(text) else 2.0, i) for i, text in _some(count, seed)]


def verdicts(gold: Gold, count: int, seed: int) -> list[Feedback]:
    """Good for what is liked, bad for what is not."""
    return [_single(BINARY, text, float(gold(text) > 0), i) for i, text in _some(count, seed)]


def _some(count: int, seed: int):
    random = np.random.default_rng(seed)
    return enumerate(TEXTS[int(i)] for i in random.integers(len(TEXTS), size=count))


def _single(kind: str, text: str, label: float, number: int) -> Feedback:
    return Feedback(Question(PROMPTS[number % len(PROMPTS)], (text,), kind), label, "ann")


def agreement(reward, gold: Gold, prompt: str = "Tell tale 99:", **columns) -> float:
    """The share of all pairs of texts of unequal gold that a reward orders as gold does."""
    scores = reward(
        [prompt] * len(TEXTS), TEXTS, **{k: [v] * len(TEXTS) for k, v in columns.items()}
    )
    right = [
        (scores[i] > scores[j]) == (gold(a) > gold(b))
        for i, a in enumerate(TEXTS)
        for j, b in enumerate(TEXTS[:i])
        if gold(a) != gold(b)
    ]
    return float(np.mean(right))


def tiny_bert(folder: Path) -> Path:
    """A folder with a random BERT of two layers over the language's words."""
    from tokenizers import Tokenizer, models, pre_tokenizers, processors

    words = sorted({w for text in [*TEXTS, *PROMPTS] for w in text.replace(".", " .").split()})
    special = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
    vocabulary = {word: i for i, word in enumerate([*special, *words, ":"])}
    tokenizer = Tokenizer(models.WordLevel(vocabulary, unk_token="[UNK]"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]",
        pair="[CLS] $A [SEP] $B:1 [SEP]:1",
        special_tokens=[("[CLS]", 2), ("[SEP]", 3)],
    )
    PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        pad_token="[PAD]",
        unk_token="[UNK]",
        cls_token="[CLS]",
        sep_token="[SEP]",
        mask_token="[MASK]",
        model_max_length=48,
        model_input_names=["input_ids", "token_type_ids", "attention_mask"],
    ).save_pretrained(folder)
    config = BertConfig(
        vocab_size=len(vocabulary),
        hidden_size=32,
        num_hidden_layers=2,
        num_attention_heads=2,
        intermediate_size=48,
        max_position_embeddings=48,
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(5)
        model = BertModel(config)
    model.save_pretrained(folder)
    assert json.loads((folder / "config.json").read_text())["model_type"] == "bert"
    return folder


__all__ = [
    "PAIRWISE",
    "PROMPTS",
    "TEXTS",
    "agreement",
    "comparisons",
    "likes",
    "policy",
    "ratings",
    "tiny_bert",
    "verdicts",
]
