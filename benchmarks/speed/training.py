"""A whole training step beside TRL's trainers: sample, score, reference, loss, backward, optimiser.

Both start from the same weights and take the same number of optimiser steps on batches of the same
size, one step per batch, with the KL to a reference in it. Nothing is logged, saved or evaluated,
no activation is checkpointed, no response ends early (see `endless_tokenizer`), and the reward
counts a character or, in TRL's PPO, an id. PPO trains a value model as large as the policy on both
sides, in one epoch over one minibatch.

What is left unequal is how the work is done. TRL samples each of a prompt's completions apart from
the prompt on, where ours reads a prompt once, and all its trainers compute an entropy. Its RLOO
scores its samples once more for the old log-probabilities, which ours keeps from sampling, as its
PPO does by keeping the logits of every token. Its PPO computes logits at the prompts' tokens too,
does not decode the responses or clip gradients, as ours does, collects garbage twice per step, and
steps policy and value model with one optimiser. It is of an older TRL, in a process of its own (see
`trl_ppo`), and in bfloat16 it uses that in the training pass alone: samples, reference and old
values stay float32.
"""

from __future__ import annotations

import copy
import statistics
import tempfile
import time
import warnings
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from typing import TYPE_CHECKING, Any, ClassVar

from textgym.agents import AGENTS
from textgym.agents.base import Setup, make_config
from textgym.benchmarks.speed import trl_ppo
from textgym.benchmarks.speed.models import YARDSTICK, endless_tokenizer, make_model, make_policy
from textgym.benchmarks.speed.sampling import Load, own_randomness, random_prompts
from textgym.benchmarks.speed.timing import Ratio
from textgym.errors import ConfigError
from textgym.models.precision import AUTO
from textgym.models.tokenize import quiet
from textgym.registry import unknown_name
from textgym.seeding import Streams
from textgym.tasks.base import Task
from textgym.types import Budget

if TYPE_CHECKING:
    from datasets import Dataset
    from transformers import LlamaForCausalLM

STEPS = 3
"""Of one run; the first, in which memory and kernels are warmed up, is not timed."""

LR, KL_COEF = 1e-5, 0.05

PEERS = {"rloo": "RLOO", "grpo": "GRPO", "ppo": "PPO"}
"""Our agents and TRL's trainers. The installed TRL has no PPO any more: that one is an older TRL's,
`trl_ppo.VERSION`."""

OPTIONS: dict[str, dict[str, Any]] = {
    "rloo": {},
    "grpo": {},
    "ppo": {"epochs": 1, "minibatches": 1, "value_warmup": 0, "value_lr": LR},
}

PRECISIONS: dict[str, dict[str, float]] = {
    "float32": {"float32": 2.5},
    "bfloat16": {"bfloat16": 2.5},
    AUTO: {"float32": 5.0, "bfloat16": 5.0},
}
"""Our precision -> those of TRL that it is compared with, and the goals. TRL's bfloat16, its own
default, is mixed: autocast over float32 weights."""


@dataclass
class Run:
    """What one run of some trainer did.

    Attributes:
        ends: when each step was over, seconds.
        completions: sampled and scored.
        tokens: response tokens sampled.
    """

    ends: list[float] = field(default_factory=list)
    completions: int = 0
    tokens: int = 0

    @property
    def seconds(self) -> float:
        """Mean time of a step after the first."""
        return (self.ends[-1] - self.ends[0]) / (len(self.ends) - 1)


class Count(Task):
    """Prompts of random words, and a reward that costs nothing: the sevens in a response."""

    name: ClassVar[str] = "count"
    question: ClassVar[str] = "What does a training step cost when its reward costs nothing?"

    def __init__(self, load: Load, vocab_size: int) -> None:
        self.max_prompt_tokens = load.prompt_tokens
        self.max_response_tokens = load.response_tokens
        ids, mask = random_prompts(load, vocab_size)
        rows = zip(ids, mask, strict=True)
        self._prompts = [" ".join(f"w{i}" for i in row[keep].tolist()) for row, keep in rows]

    def prompts(self, split: str) -> Dataset:
        """Returns the N prompts of one batch."""
        from datasets import Dataset

        return Dataset.from_dict({"prompt": self._prompts})

    def demonstrations(self) -> Dataset:
        """Returns the prompts as their own completions; nothing learns from them."""
        return self.prompts("train").add_column("completion", self._prompts)

    def reward(
        self, prompts: list[str], completions: list[str], **columns: list[Any]
    ) -> list[float]:
        """Returns how many sevens each response has."""
        return [float(text.count("7")) for text in completions]


def measure(
    repeats: int = 5,
    precision: str = "float32",
    model: str = YARDSTICK,
    load: Load | None = None,
) -> list[Ratio]:
    """Compares a training step of our agents with one of TRL's trainers, on the CPU.

    Everything compared runs once per repeat, in turn, so that the machine's mood cancels.

    Args:
        repeats: runs of every trainer, of STEPS steps each.
        precision: ours; see PRECISIONS for TRL's.
        model: one of `textgym.benchmarks.speed.models.SIZES`.
        load: of one step; by default 8 prompts x 8 samples of 48 tokens.

    Returns:
        A row per agent and precision of TRL. Its detail has both sides' completions and response
        tokens of one run, and response tokens per second of whole steps.

    Raises:
        ConfigError: TRL is not installed, or not the older one with PPO, or that one failed.
        UnknownNameError: no such precision or model.
    """
    if precision not in PRECISIONS:
        raise unknown_name("precision", precision, PRECISIONS)
    _import_trl()
    trl_ppo.require_installed()
    load = Load(8, samples=8) if load is None else load
    goals = PRECISIONS[precision]
    with tempfile.TemporaryDirectory() as folder, quiet(), own_randomness():
        start = make_model(model)
        start.save_pretrained(folder)  # TRL's trainers read their reference from a folder
        ours = {name: partial(our_run, name, start, load, precision) for name in PEERS}
        theirs = {
            (trainer, kind): partial(trl_run, trainer, folder, load, kind == "bfloat16")
            for trainer in PEERS.values()
            for kind in goals
        }
        runs = _take_turns({**ours, **theirs}, repeats)
    return [
        _row(
            f"{name} step, {load}, {precision} against {_title(PEERS[name])} in {kind}",
            runs[name],
            runs[PEERS[name], kind],
            goal,
        )
        for name in PEERS
        for kind, goal in goals.items()
    ]


def _title(trainer: str) -> str:
    """Returns TRL's trainer as the rows call it, with its version where it is an older one."""
    return f"TRL {trl_ppo.VERSION}'s PPO" if trainer == "PPO" else f"TRL's {trainer}"


def _take_turns(runs: dict[Any, Callable[[], Run]], repeats: int) -> dict[Any, list[Run]]:
    """Returns `repeats` runs of each, made one after the other in every repeat."""
    done: dict[Any, list[Run]] = {name: [] for name in runs}
    for _ in range(repeats):
        for name, run in runs.items():
            done[name].append(run())
    return done


def _row(name: str, ours: list[Run], peer: list[Run], goal: float) -> Ratio:
    ratios = [theirs.seconds / own.seconds for own, theirs in zip(ours, peer, strict=True)]
    seconds, peer_seconds = (statistics.median(r.seconds for r in runs) for runs in (ours, peer))
    detail: dict[str, Any] = {}
    for prefix, run, each in (("", ours[0], seconds), ("peer_", peer[0], peer_seconds)):
        detail[f"{prefix}completions"], detail[f"{prefix}tokens"] = run.completions, run.tokens
        detail[f"{prefix}tokens_per_second"] = run.tokens / len(run.ends) / each
    ratio = statistics.median(ratios)
    return Ratio(name, seconds, peer_seconds, ratio, min(ratios), max(ratios), goal, detail)


def our_run(
    agent: str, start: LlamaForCausalLM, load: Load, precision: str, steps: int = STEPS
) -> Run:
    """Trains one of our agents for a few steps by its own `train`.

    Args:
        agent: one of PEERS.
        start: the weights to start from, copied; the reference's too.
        load: of one step.
        precision: of policy and reference.
        steps: at least 2.
    """
    run = Run()

    def log(step: int, metrics: dict[str, float]) -> None:
        run.ends.append(time.perf_counter())
        run.tokens += round(metrics["length"] * load.rows)

    agent_class = AGENTS.load(agent)
    sizes = {"prompts_per_step": load.prompts, "samples_per_prompt": load.samples}
    options = {"lr": LR, "kl_coef": KL_COEF, **sizes, **OPTIONS[agent]}
    setup = Setup(
        task=Count(load, start.config.vocab_size),
        policy=make_policy(copy.deepcopy(start), precision),
        reference=make_policy(copy.deepcopy(start), precision).freeze(),
        budget=Budget(steps * load.rows),
        streams=Streams(0),
        log=log,
    )
    agent_class(make_config(agent_class.config_class, options)).train(setup)
    run.completions = setup.budget.used
    return run


def trl_run(trainer: str, folder: str, load: Load, mixed: bool, steps: int = STEPS) -> Run:
    """Trains with one of TRL's trainers for a few steps.

    Args:
        trainer: RLOO, GRPO or PPO.
        folder: holds the weights to start from.
        load: of one step.
        mixed: bfloat16 autocast over float32 weights; else float32.
        steps: at least 2.
    """
    if trainer == "PPO":
        return _trl_ppo_run(folder, load, mixed, steps)
    trl = _import_trl()
    from transformers import LlamaForCausalLM, PrinterCallback, TrainerCallback

    run = Run()

    class Clock(TrainerCallback):  # type: ignore[misc]
        def on_step_end(self, *args: Any, **kwargs: Any) -> None:
            run.ends.append(time.perf_counter())

    def reward(completions: list[str], completion_ids: list[list[int]], **_: Any) -> list[float]:
        run.completions += len(completions)
        run.tokens += sum(map(len, completion_ids))
        return task.reward([], completions)

    model = LlamaForCausalLM.from_pretrained(folder)
    task, tokenizer = (
        Count(load, model.config.vocab_size),
        endless_tokenizer(model.config.vocab_size),
    )
    model.config.eos_token_id = model.generation_config.eos_token_id = tokenizer.eos_token_id
    with warnings.catch_warnings():
        # TRL asks transformers by names that the next version of transformers drops.
        warnings.simplefilter("ignore", FutureWarning)
        training = getattr(trl, f"{trainer}Trainer")(
            model,
            reward,
            _arguments(getattr(trl, f"{trainer}Config"), folder, load, mixed, steps),
            task.prompts("train"),
            processing_class=tokenizer,
            callbacks=[Clock()],
        )
        training.remove_callback(PrinterCallback)
        training.train()
    return run


def _trl_ppo_run(folder: str, load: Load, mixed: bool, steps: int) -> Run:
    """Trains with the PPO of an older TRL, whose value model starts from the weights too."""
    from transformers import LlamaConfig

    task = Count(load, LlamaConfig.from_pretrained(folder).vocab_size)
    job = {
        "model": folder,
        "prompts": task.prompts("train")["prompt"][:] * load.samples,
        "response_tokens": load.response_tokens,
        "mixed": mixed,
        "steps": steps,
        "lr": LR,
        "kl_coef": KL_COEF,
    }
    return Run(**trl_ppo.run_apart(job))


def _arguments(config_class: Any, folder: str, load: Load, mixed: bool, steps: int) -> Any:
    """Returns TRL's configuration of equal work; its other defaults are left as they are."""
    return config_class(
        output_dir=folder,
        max_steps=steps,
        per_device_train_batch_size=load.rows,
        num_generations=load.samples,
        max_completion_length=load.response_tokens,
        beta=KL_COEF,
        learning_rate=LR,
        bf16=mixed,
        activation_checkpointing=False,
        dataloader_num_workers=0,
        **trl_ppo.SETTINGS,
    )


def _import_trl() -> Any:
    """Returns the module. Raises: ConfigError where it is not installed."""
    try:
        import trl
    except ImportError as error:
        raise ConfigError("TRL is not installed: pip install 'textgym[peers]'") from error
    return trl
