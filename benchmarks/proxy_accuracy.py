"""How far real data's own rewards side with people: `python -m textgym.benchmarks.proxy_accuracy`.

A task on human-written data trains its proxy, and its gold judge where it has one, on the train
split. This asks them about the held-out split: about single sentences that people called positive
or negative, or about pairs of answers of which people chose one.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from textgym.benchmarks.cell import require_writable, write_json
from textgym.benchmarks.pretraining import show
from textgym.errors import ConfigError
from textgym.metrics.stats import bootstrap_mean
from textgym.seeding import Streams
from textgym.tasks import load_task


def proxy_accuracy(agreement: dict[str, list[float]], seed: int = 0) -> dict[str, Any]:
    """Returns each judge's share of held-out rows on which it sides with people.

    Args:
        agreement: by judge, 1 for a row on which it does, 0 where it does not, 0.5 for a tie.
        seed: of the bootstrap over rows.

    Returns:
        `rows`, and by judge `accuracy` and its 95% interval `low`, `high`.
    """
    found: dict[str, Any] = {"rows": len(next(iter(agreement.values())))}
    for name, right in agreement.items():
        mean = bootstrap_mean(right, Streams(seed).numpy(f"proxy-accuracy/{name}"))
        found[name] = {"accuracy": mean.estimate, "low": mean.low, "high": mean.high}
    return found


def measure(
    task: str, data: str, data_dir: str | None = None, backbone: str = "tiny", seed: int = 0
) -> dict[str, Any]:
    """Returns `proxy_accuracy` of a task on human-written data.

    Raises: ConfigError for a task whose judges people's own answers do not test.
    """
    made = load_task(task, data=data, data_dir=data_dir, backbone=backbone, seed=seed)
    agreement = getattr(made, "agreement", None)
    if agreement is None:
        raise ConfigError(f"task {task!r} on {data} has no held-out answers to test its judges by")
    return proxy_accuracy(agreement(), seed)


def main(arguments: Sequence[str] | None = None) -> None:
    """Measures, writes `<task>.json` and prints."""
    parser = argparse.ArgumentParser(description="How far a task's own rewards side with people.")
    parser.add_argument("--task", required=True, help="sentiment or assistant")
    parser.add_argument("--data", required=True, help="Hub id or folder")
    parser.add_argument("--data-dir", help="the folder inside it to read")
    parser.add_argument("--backbone", default="tiny", help="what a reward model starts from")
    parser.add_argument("--out", type=Path, default=Path("results/proxy-accuracy"))
    parser.add_argument("--seed", type=int, default=0)
    chosen = parser.parse_args(arguments)
    torch.set_num_threads(1)
    require_writable(chosen.out)
    found = measure(chosen.task, chosen.data, chosen.data_dir, chosen.backbone, chosen.seed)
    write_json(chosen.out / f"{chosen.task}.json", found)
    show(found, chosen.out)


if __name__ == "__main__":
    main()
