"""A tiny random language model in a folder, and small data sets laid out as the public ones."""

from __future__ import annotations

import gzip
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from transformers import LlamaConfig, LlamaForCausalLM

from textgym.models.policy import Policy
from textgym.models.tokenize import train_tokenizer

SENTENCES = [
    f"The {a} {b} sat by the {c}." for a in ("old", "red") for b in ("cat", "dog") for c in "xy"
]


def tiny_policy(
    texts: Sequence[str] = SENTENCES, vocab_size: int = 300, context: int = 128
) -> Policy:
    """A random Llama of two layers over a vocabulary learned from `texts`."""
    tokenizer = train_tokenizer(texts, vocab_size)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(3)
        model = LlamaForCausalLM(
            LlamaConfig(
                vocab_size=len(tokenizer),
                hidden_size=32,
                intermediate_size=48,
                num_hidden_layers=2,
                num_attention_heads=2,
                num_key_value_heads=2,
                max_position_embeddings=context,
                bos_token_id=None,
                eos_token_id=tokenizer.eos_token_id,
                pad_token_id=tokenizer.pad_token_id,
            )
        )
    return Policy(model, tokenizer, "tiny-random")


def write_jsonl(path: Path, rows: list[dict[str, Any]]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    text = "".join(json.dumps(row) + "\n" for row in rows)
    if path.suffix == ".gz":
        path.write_bytes(gzip.compress(text.encode()))
    else:
        path.write_text(text)


THINGS = ["boat", "tram", "mill", "choir", "barn", "ferry", "school", "market", "tower", "garden"]


def dialogsum_rows(count: int, references: int = 1, offset: int = 0) -> list[dict[str, Any]]:
    return [
        {
            "id": f"{i}_{r}",
            "dialogue": f"#Person1#: Where is the {THINGS[i % 10]} {i}?\n"
            f"#Person2#: It is near gate {i}.\n#Person1#: Thanks.",
            "summary": f"#Person1# asks for the {THINGS[i % 10]} {i}, number {r}.",
            "topic": THINGS[i % 10],
        }
        for i in range(offset, offset + count)
        for r in range(references)
    ]


def paradetox_rows(count: int, offset: int = 0) -> list[dict[str, Any]]:
    return [
        {
            "en_toxic_comment": f"i think the {THINGS[i % 10]} {i} is for silly clowns",
            "en_neutral_comment": f"I think the {THINGS[i % 10]} {i} is not for everyone",
            "more_neutral_comments": [],
        }
        for i in range(offset, offset + count)
    ]


def hh_rows(count: int, offset: int = 0) -> list[dict[str, Any]]:
    rows = []
    for i in range(offset, offset + count):
        thing = THINGS[i % 10]
        talk = f"\n\nHuman: Hello.\n\nAssistant: Hi there.\n\nHuman: Where is the {thing} {i}?"
        rows.append(
            {
                "chosen": f"{talk}\n\nAssistant: It is near gate {i}.",
                "rejected": f"{talk}\n\nAssistant: No idea.",
            }
        )
    return rows
