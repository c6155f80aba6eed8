"""TRL's PPO trainer, in a process of its own: the last TRL that has one, in a folder beside ours.

TRL 1.13 dropped PPO, and one process imports one version of a package. So `run_apart` starts this
module with that folder first on the path, tells it on standard input what to train, and reads a
line of JSON from its standard output.
"""

from __future__ import annotations

import json
import os
import shlex
import subprocess
import sys
import time
from contextlib import redirect_stdout
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import torch
from torch import Tensor, nn

from textgym.benchmarks.speed.models import endless_tokenizer
from textgym.errors import ConfigError

VERSION = "1.12.0"
"""The last TRL with `trl.experimental.ppo`; the Makefile installs it."""

SETTINGS: dict[str, Any] = {
    "lr_scheduler_type": "constant",
    "use_cpu": True,
    "dataloader_pin_memory": False,
    "logging_strategy": "no",
    "save_strategy": "no",
    "eval_strategy": "no",
    "report_to": "none",
    "disable_tqdm": True,
}
"""Of all of TRL's trainers that are compared: nothing but training."""


def folder() -> Path:
    """Returns where that TRL is installed, out of the way of the TRL that everything else uses."""
    return Path(sys.prefix) / "trl-ppo"


def require_installed() -> None:
    """Raises: ConfigError when that TRL is not where it should be."""
    if not (folder() / "trl" / "experimental" / "ppo").is_dir():
        where = shlex.quote(str(folder()))
        raise ConfigError(
            f"TRL {VERSION}, the last with PPO, is not installed: "
            f"pip install --no-deps --target {where} trl=={VERSION}"
        )


def run_apart(job: dict[str, Any]) -> dict[str, Any]:
    """Trains in a process of its own, with as many threads as this one.

    Args:
        job: the arguments of `train`, which says what is returned.

    Raises:
        ConfigError: that TRL is not installed, or the process failed; with the last line it said.
    """
    require_installed()
    path = os.pathsep.join(filter(None, [str(folder()), os.environ.get("PYTHONPATH")]))
    # The trainer's Accelerator learns device and precision from the environment, as `accelerate
    # launch` sets it, and not from the configuration.
    precision = "bf16" if job["mixed"] else "no"
    settings = {"ACCELERATE_USE_CPU": "true", "ACCELERATE_MIXED_PRECISION": precision}
    done = subprocess.run(
        [sys.executable, "-m", "textgym.benchmarks.speed.trl_ppo"],
        input=json.dumps({"threads": torch.get_num_threads(), **job}),
        env={**os.environ, "PYTHONPATH": path, **settings},
        capture_output=True,
        text=True,
        check=False,
    )
    return outcome(done)


def outcome(done: subprocess.CompletedProcess[str]) -> dict[str, Any]:
    """Returns the last line that the process printed. Raises: ConfigError where it failed."""
    said, complaints = done.stdout.splitlines(), done.stderr.strip().splitlines()
    if done.returncode != 0 or not said:
        why = complaints[-1].strip() if complaints else "it said nothing"
        raise ConfigError(f"PPO of TRL {VERSION} ended with status {done.returncode}: {why}")
    found: dict[str, Any] = json.loads(said[-1])
    return found


class SevensReward(nn.Module):
    """A reward that costs nothing, in a transformer's shape: the ids of a row that end in 7."""

    base_model_prefix = "backbone"

    def __init__(self) -> None:
        super().__init__()
        self.score = nn.Identity()
        self.scored = 0

    def backbone(self, input_ids: Tensor, **_: Any) -> SimpleNamespace:
        """Returns an output whose last hidden states [B, S, 1] are the counts so far."""
        self.scored += len(input_ids)
        counts = (input_ids % 10 == 7).cumsum(1)
        return SimpleNamespace(hidden_states=[counts[..., None].float()])


def train(
    model: str,
    prompts: list[str],
    response_tokens: int,
    mixed: bool,
    steps: int,
    lr: float,
    kl_coef: float,
) -> dict[str, Any]:
    """Trains for a few steps: one epoch over one minibatch of all prompts, each sampled once.

    Args:
        model: a folder with the weights that policy, reference and value model start from.
        prompts: of one step.
        response_tokens: of each response; none ends early.
        mixed: bfloat16 autocast in the training pass; else float32.
        steps: how many.
        lr: of policy and value model.
        kl_coef: the price of a nat of KL.

    Returns:
        The fields of `textgym.benchmarks.speed.training.Run`.
    """
    from datasets import Dataset
    from transformers import (
        LlamaForCausalLM,
        LlamaForSequenceClassification,
        PrinterCallback,
        TrainerCallback,
    )
    from trl.experimental.ppo import PPOConfig, PPOTrainer

    policy = LlamaForCausalLM.from_pretrained(model)
    tokenizer = endless_tokenizer(policy.config.vocab_size)
    # Padding that the policy could draw would end a response for this trainer.
    tokenizer.pad_token = tokenizer.eos_token
    ends: list[float] = []
    tokens = 0
    generate = policy.generate

    def counting(*args: Any, **options: Any) -> Any:
        nonlocal tokens
        drawn = generate(*args, **options)
        tokens += drawn.sequences.numel() - options["input_ids"].numel()
        return drawn

    policy.generate = counting
    clock = TrainerCallback()
    clock.on_step_end = lambda *_, **__: ends.append(time.perf_counter())
    reward = SevensReward()
    rows = len(prompts)
    training = PPOTrainer(
        args=PPOConfig(
            output_dir=model,
            total_episodes=steps * rows,
            per_device_train_batch_size=rows,
            local_rollout_forward_batch_size=rows,
            num_mini_batches=1,
            num_ppo_epochs=1,
            response_length=response_tokens,
            temperature=1.0,
            kl_coef=kl_coef,
            learning_rate=lr,
            bf16=mixed,
            gradient_checkpointing=False,
            num_sample_generations=0,
            **SETTINGS,
        ),
        processing_class=tokenizer,
        model=policy,
        ref_model=LlamaForCausalLM.from_pretrained(model),
        reward_model=reward,
        value_model=LlamaForSequenceClassification.from_pretrained(model, num_labels=1),
        train_dataset=Dataset.from_dict({"input_ids": tokenizer(prompts)["input_ids"]}),
        callbacks=[clock],
    )
    training.remove_callback(PrinterCallback)
    training.train()
    return {"ends": ends, "completions": reward.scored, "tokens": tokens}


def main() -> None:
    """Trains what standard input says; prints what came of it."""
    job = json.load(sys.stdin)
    torch.set_num_threads(job.pop("threads"))
    with redirect_stdout(sys.stderr):  # where the trainer's own lines go
        found = train(**job)
    print(json.dumps(found))


if __name__ == "__main__":
    main()
