"""What pretraining shows and leaves to look at: a progress bar, a loss curve."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any


def write_curve(curve: list[dict[str, float]], out: Path) -> None:
    """Writes `loss.csv`, and `loss.png` where matplotlib is installed."""
    import pandas as pd

    table = pd.DataFrame(curve)
    table.to_csv(out / "loss.csv", index=False)
    try:
        from matplotlib.figure import Figure
    except ImportError:
        return
    figure = Figure(figsize=(7, 4), layout="constrained")
    axes = figure.subplots()
    smooth = table["loss"].ewm(halflife=max(1, len(table) / 100)).mean()
    axes.plot(table["tokens"], smooth, label="training")
    if "held_out" in table:
        held_out = table.dropna(subset=["held_out"])
        axes.plot(held_out["tokens"], held_out["held_out"], "o-", label="held out")
    axes.set(xlabel="training tokens", ylabel="loss, nats per token")
    axes.legend()
    figure.savefig(out / "loss.png", dpi=120)


class Bar:
    """A rich progress bar, or nothing at all."""

    def __init__(self, progress: Any, task: Any) -> None:
        self._progress = progress
        self._task = task

    def show(self, tokens: int, loss: float, speed: float) -> None:
        """Moves the bar to `tokens` and shows the loss and the tokens per second."""
        if self._progress is not None:
            self._progress.update(
                self._task, completed=tokens, loss=f"{loss:.3f}", speed=f"{speed:,.0f}"
            )

    def print(self, text: str) -> None:
        """Prints a line above the bar."""
        if self._progress is not None:
            self._progress.console.print(text, markup=False, highlight=False)


@contextmanager
def progress_bar(total: int, enabled: bool) -> Iterator[Bar]:
    """Opens a bar of `total` tokens, or a silent stand-in."""
    if not enabled:
        yield Bar(None, None)
        return
    from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn

    with Progress(
        TextColumn("pretraining"),
        BarColumn(),
        TextColumn("loss {task.fields[loss]}"),
        TextColumn("{task.fields[speed]} tokens/s"),
        TimeRemainingColumn(),
    ) as progress:
        yield Bar(progress, progress.add_task("", total=total, loss="-", speed="-"))
