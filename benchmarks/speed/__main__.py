"""`python -m textgym.benchmarks.speed [SECTION ...]`: measures, writes and prints.

Every section runs in a process of its own, so that none inherits another's memory or threads.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

import pandas as pd

from textgym.benchmarks.speed import tables
from textgym.benchmarks.speed.timing import Ratio
from textgym.errors import TextGymError

Tables = dict[str, Sequence[Ratio] | pd.DataFrame]


def sampling(options: argparse.Namespace) -> Tables:
    """Measures tokens per second beside `generate`."""
    from textgym.benchmarks.speed.sampling import measure

    return {"sampling": measure(options.repeats, options.device, options.model)}


def training(options: argparse.Namespace) -> Tables:
    """Measures whole training steps beside TRL's trainers."""
    from textgym.benchmarks.speed.training import measure

    rows = measure(options.repeats, "auto", options.model)
    rows += measure(options.repeats, "float32", options.model)
    return {"a training step": list({row.name: row for row in rows}.values())}


def environment(options: argparse.Namespace) -> Tables:
    """Measures token steps of the vector environment beside RL4LMs' way."""
    from textgym.benchmarks.speed.environment import measure

    return {"64 token steps, one per row": measure(options.repeats)}


def rewards(options: argparse.Namespace) -> Tables:
    """Measures rewards in buckets beside other batches."""
    from textgym.benchmarks.speed.rewards import measure

    return {"rewards of 256 completions": measure(options.repeats)}


def ablation(options: argparse.Namespace) -> Tables:
    """Takes each change back, one at a time."""
    from textgym.benchmarks.speed.ablation import measure

    return {"with, beside without": measure(options.repeats)}


def profile(options: argparse.Namespace) -> Tables:
    """Says where the time goes, before and after."""
    from textgym.benchmarks.speed.profiling import profiles

    return {"where the time goes": profiles()}


def scaling(options: argparse.Namespace) -> Tables:
    """Measures growth with batch, length and model, and draws it."""
    from textgym.benchmarks.speed.scaling import figure, growth, measure

    frame = measure(min(options.repeats, 3))
    figure(frame, options.out / "scaling.png")
    return {
        "growth": pd.DataFrame([growth(frame)]),
        "tokens per second": frame,
    }


def precision(options: argparse.Namespace) -> Tables:
    """Measures what lower precision does to training on an oracle task."""
    from textgym.benchmarks.speed.precision import gaps, measure

    return {"training": measure(), "scorer against sampler": gaps()}


SECTIONS: dict[str, Callable[[argparse.Namespace], Tables]] = {
    section.__name__: section
    for section in (
        sampling,
        training,
        environment,
        rewards,
        ablation,
        profile,
        scaling,
        precision,
    )
}


def main() -> int:
    """Runs the sections that were asked for; returns the exit status."""
    parser = argparse.ArgumentParser(prog="python -m textgym.benchmarks.speed")
    parser.description = "How fast TextGym is beside what people use, as ratios within one run."
    parser.add_argument("sections", nargs="*", help=f"any of {', '.join(SECTIONS)}; all by default")
    parser.add_argument("--out", type=Path, default=Path("runs/speed"), help="where files go")
    parser.add_argument("--repeats", type=int, default=5, help="pairs of timed runs per row")
    parser.add_argument("--device", default="cpu", help="of sampling: cpu or cuda")
    parser.add_argument("--model", default="yardstick", help="of sampling and training")
    parser.add_argument("--show", type=Path, help="only put what --out holds into this document")
    options = parser.parse_args()
    if unknown := [name for name in options.sections if name not in SECTIONS]:
        parser.error(f"no section {unknown[0]!r}; there are {', '.join(SECTIONS)}")
    if options.repeats < 1:
        parser.error(f"--repeats must be >= 1, got {options.repeats}")
    if options.show is not None:
        try:
            print(f"{options.show}: {', '.join(tables.show(options.show, options.out))}")
        except OSError as error:
            parser.error(f"cannot read {error.filename}: {error.strerror}")
        return 0
    if len(options.sections) == 1:
        return _run(options.sections[0], options)
    return max(_alone(name, options) for name in options.sections or SECTIONS)


def _run(section: str, options: argparse.Namespace) -> int:
    options.out.mkdir(parents=True, exist_ok=True)
    try:
        tables.write(options.out, section, SECTIONS[section](options))
    except TextGymError as error:
        print(f"{section}: {error}", file=sys.stderr)
        return 2
    print(f"\n## {section}\n\n{tables.markdown(options.out / f'{section}.json')}", flush=True)
    return 0


def _alone(section: str, options: argparse.Namespace) -> int:
    settings = {
        name: value for name, value in vars(options).items() if name not in ("sections", "show")
    }
    arguments = [f"--{name}={value}" for name, value in settings.items()]
    command = [sys.executable, "-m", "textgym.benchmarks.speed", section, *arguments]
    return subprocess.run(command, check=False).returncode


if __name__ == "__main__":
    sys.exit(main())
