"""A results folder made by hand, small enough to know every number of."""

from __future__ import annotations

import dataclasses
import json

import numpy as np
import pandas as pd

from textgym.benchmarks.cell import Cell, write_cell, write_error
from textgym.benchmarks.pools import pool_file
from textgym.benchmarks.suite import Evaluation, Spec

EVIL = "<script>alert(1)</script></script><img src=x onerror=alert(2)>\u2028&"
"""Text that a page must show and never run."""
PROMPTS = 2
SPECS = {
    "sft": Spec("sft"),
    "ppo": Spec("ppo"),
    "best of 4": Spec("best_of_n", {"n": 4}, "best of 4"),
    EVIL: Spec("mine.py:Mine", {}, EVIL),
}


def make_cell(agent, seed=0, task="summarize", **changes):
    cell = Cell(
        task=task if isinstance(task, Spec) else Spec(task),
        agent=SPECS.get(agent, Spec(agent)),
        seed=seed,
        model="tiny",
        fingerprint="f" * 64,
        reference="sft",
        precision="auto",
        sft={},
        budget=8,
        evaluation=Evaluation(prompts=PROMPTS, samples_per_prompt=2),
    )
    return dataclasses.replace(cell, **changes)


def store(out, cell, *, reward, gold=None, kl=1.0, kept=0.5, tables=None, seconds=2.0, **changes):
    """Writes a finished cell of two prompts; `reward` and `gold` are one number per prompt."""
    gold = reward if gold is None else gold
    ead = 0.8
    prompts = pd.DataFrame(
        {
            "reward": reward,
            "gold": gold,
            "kl_seq": kl,
            "diversity/ead": np.multiply(kept, ead),
            "reference/ead": ead,
        }
    )
    if cell.agent.name == "best_of_n":
        prompts = prompts.drop(columns="kl_seq")
    shares = {"concise": float(np.mean(kept)), "lead": 1 - float(np.mean(kept))}
    metrics = {
        "kl_estimate": 0.6,
        "reward": float(np.mean(reward)),
        **{f"mode_share/{name}": share for name, share in shares.items()},
    }
    result = {
        "config": cell.config,
        "seed": cell.seed,
        "precision": "float32",
        "budget": {"completions": 8, "used": 8, "scored": 8, "logged_steps": 2},
        "evaluation": {"prompts": PROMPTS, "samples_per_prompt": 2},
        "seconds": {"train": 1.0, "total": seconds},
        "metrics": {name: {"value": value} for name, value in metrics.items()},
        "versions": {"python": "3.11.7", "torch": "2.0"},
        "commit": "0123456789abcdef",
        "machine": {"system": "Linux", "cores": 2, "processor": "a processor"},
        **changes,
    }
    write_cell(out / cell.name, result, {"prompts": prompts, **(tables or {})})


def fail(out, cell):
    error = {
        "config": cell.config,
        "seed": cell.seed,
        "error": "TrainingError",
        "step": 3,
        "cause": "the loss is NaN",
    }
    write_error(out / cell.name, error)


def samples_table(rewards, responses=("a b", "c d"), ids=None):
    """Returns samples: `rewards` is [prompts][samples]."""
    flat = [reward for row in rewards for reward in row]
    k = len(rewards[0])
    texts = [responses[i % len(responses)] for i in range(len(flat))]
    table = {
        "prompt_index": np.repeat(np.arange(len(rewards)), k),
        "prompt": [f"{EVIL} {i // k}" for i in range(len(flat))],
        "response": texts,
        "reward": flat,
        "gold": flat,
        "length": [3.0] * len(flat),
        "mode": ["concise"] * len(flat),
    }
    if ids is not None:
        table["response_ids"] = [list(ids[text]) for text in texts]
        table["reference_logprobs"] = [[-1.0] * len(ids[text]) for text in texts]
        table["policy_logprobs"] = [[-0.25] * len(ids[text]) for text in texts]
    return pd.DataFrame(table)


def checkpoints_table(points):
    """Returns checkpoints: (step, completions, kl, reward, gold, ead) each, on all prompts."""
    names = ("step", "completions", "kl_seq", "reward", "gold", "diversity/ead")
    rows = [dict(zip(names, point, strict=True)) for point in points for _ in range(PROMPTS)]
    table = pd.DataFrame(rows)
    table.insert(2, "prompt_index", list(range(PROMPTS)) * len(points))
    return table


def store_pool(out, cell, rewards, gold=None, ead=0.8):
    """Writes what is known of the reference: `rewards` is [prompts][samples]."""
    path = pool_file(out, cell)
    path.parent.mkdir(parents=True, exist_ok=True)
    scores = np.array(rewards, float)
    table = {"prompt": np.repeat(np.arange(len(scores)), scores.shape[1]), "reward": scores.ravel()}
    table["gold"] = scores.ravel() if gold is None else np.array(gold, float).ravel()
    pd.DataFrame(table).to_parquet(path)
    start = pd.DataFrame({"diversity/ead": [ead] * PROMPTS, "reward": 0.5, "gold": 0.5})
    start.assign(kl_seq=0.0).to_parquet(path.with_name(f"start-{path.name}"))
    optima = {"kl": [0.0, 1.0], "reward": [0.5, 1.0], "gold": [0.5, 0.9], "diversity": [0.8, 0.4]}
    pd.DataFrame(optima).to_parquet(path.with_name(f"optima-{path.name}"))


def store_suite(out, suite):
    (out / "suite.json").write_text(json.dumps({"suite": suite, "cells": []}))


TRAINING = [(0, 0, 0.0, 0.5, 0.5, 0.8), (2, 4, 1.0, 0.7, 0.6, 0.6), (4, 6, 2.0, 0.9, 0.7, 0.5),
            (8, 8, 4.0, 1.0, 0.6, 0.4)]  # fmt: skip
"""Checkpoints of a path that over-optimizes."""


def make_results(out, ids=None):
    """Writes two seeds of three agents and one of a hostile name, a failure, and all tables."""
    for seed in (0, 1):
        rewards = [[0.0, 1.0], [0.5, 0.5 + seed]]
        tables = {"samples": samples_table(rewards, ids=ids)}
        store(out, make_cell("sft", seed), reward=[0.4, 0.6], kl=0.0, kept=1.0, tables=tables)
        store_pool(out, make_cell("sft", seed), [[0, 1, 0.5, 0.5], [0.2, 0.8, 0.5, 0.5]])
        shifted = [(s, c, k, r + 0.1 * seed, g, e) for s, c, k, r, g, e in TRAINING]
        curve = pd.DataFrame({"step": [0, 1], "reward": [0.5, 0.9 + 0.2 * seed]})
        trained = {"checkpoints": checkpoints_table(shifted), "curve": curve}
        moved = {"reward": [1.0, 1.1], "kl": 4.0, "kept": [0.4, 0.6], "tables": tables | trained}
        store(out, make_cell("ppo", seed), **moved)
        store(out, make_cell("best of 4", seed), reward=[0.8, 0.9], kept=0.9, tables=tables)
    hostile = samples_table([[0.0, 1.0], [0.5, 1.5]], (EVIL, "</script>"))
    health = [{"check": "ratio", "cause": EVIL, "hint": "a hint"}]
    cell = make_cell(EVIL)
    store(out, cell, reward=[0.1, 0.2], kept=0.7, tables={"samples": hostile}, health=health)
    fail(out, make_cell(EVIL, 1))
    return out
