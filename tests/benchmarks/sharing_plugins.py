"""A task and agents that tell when they are used, wait to be let go, and kill their process."""

from __future__ import annotations

import os
import signal
import time
from dataclasses import dataclass
from pathlib import Path

from plugins import Letters
from rich.console import Console

from textgym.agents.base import Agent, Setup
from textgym.benchmarks.preflight import preflight
from textgym.benchmarks.runner import run_suite
from textgym.benchmarks.suite import Suite
from textgym.benchmarks.workbench import Workbench


def tell(log: str, line: str) -> None:
    """Appends a line, whole, whoever else is writing."""
    with Path(log).open("a") as file:
        file.write(f"{line} {os.getpid()}\n")


def wait_while(hold: str) -> None:
    """Returns when the file is gone."""
    while Path(hold).is_file():
        time.sleep(0.02)


class Held(Letters):
    """Letters whose prompts or rewards wait."""

    def __init__(self, log: str, hold: str, at: str = "reward") -> None:
        super().__init__()
        self.log, self.hold, self.at = log, hold, at

    def prompts(self, split):
        if self.at == "prompts":
            tell(self.log, "prompts")
            wait_while(self.hold)
        return super().prompts(split)

    def reward(self, prompts, completions, **columns):
        if self.at == "reward" and len(prompts) > 2:  # a look before anything runs asks two
            tell(self.log, "reward")
            wait_while(self.hold)
        return super().reward(prompts, completions, **columns)


@dataclass(frozen=True)
class TellConfig:
    """Options of Tell."""

    log: str = ""
    hold: str = ""
    then: str = "end"
    seconds: float = 0.0


class Tell(Agent):
    """Tells when its training begins and ends, or does not get there."""

    config_class = TellConfig

    def train(self, setup: Setup) -> None:
        config = self.config
        tell(config.log, f"begin-{config.then}")
        wait_while(config.hold)
        time.sleep(config.seconds)
        match config.then:
            case "kill":
                os.kill(os.getpid(), signal.SIGKILL)
            case "exit":
                os._exit(3)
            case "leave":
                raise SystemExit("enough")
            case "crash":
                raise ZeroDivisionError("division by zero")
        self.task, self.policy = setup.task, setup.policy
        tell(config.log, f"end-{config.then}")


def bench(suite: Suite, out: Path, shown: Path) -> None:
    """Runs a suite in this process and writes what it shows."""
    with shown.open("w", buffering=1) as file:
        console = Console(file=file, width=200)
        workbench = Workbench(out)
        outcomes = run_suite(suite, workbench, preflight(workbench, suite, print), 1, console)
        for outcome in sorted(outcomes, key=lambda o: o.cell):
            console.print(f"outcome {outcome.cell} {outcome.error or 'fine'}")
