"""What the agents that wrap TRL's trainers share: settings, arguments, isolation, logs.

A trainer gets the task's prompts and rewards, the reference and the seed that our own agents get,
and is judged by the same harness. What differs from our agent of the same name is TRL's. AdamW has
the betas of our agents, (0.9, 0.95), and no weight decay; the learning rate is constant. Where the
policy computes in bfloat16, TRL does so by autocast over weights as they are; otherwise in float32.
"""

from __future__ import annotations

import copy
import math
import re
import tempfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch

from textgym.agents.base import Setup, require
from textgym.errors import ConfigError, PromptTooLongError, TrainingError
from textgym.integrations.isolation import isolated, require_trl
from textgym.models.tokenize import encode_prompts, prompt_token_ids

NAMES = {
    "completions/mean_length": "length",
    "completions/clipped_ratio": "truncated",
    "frac_reward_zero_std": "zero_variance_share",
    "clip_ratio/region_mean": "clip_fraction",
    "rewards/accuracies": "accuracy",
    "logps/chosen": "chosen_logprob",
    "logps/rejected": "rejected_logprob",
}
"""TRL's metrics that are ours by another name."""

DROPPED = re.compile("epoch|learning_rate|step_time|rewards/task_reward/.*")
"""What is constant, depends on the machine, or is logged by another name."""


@dataclass(frozen=True)
class TRLConfig:
    """Settings that all agents with a trainer of TRL's have.

    Attributes:
        lr: learning rate of AdamW, constant.
        prompts_per_step: N, prompts per batch of fresh samples.
        samples_per_prompt: K, samples per prompt, >= 2.
        max_grad_norm: the gradient's global norm is clipped to this.
    """

    lr: float = 3e-4
    prompts_per_step: int = 8
    samples_per_prompt: int = 8
    max_grad_norm: float = 1.0

    def __post_init__(self) -> None:
        require(self.lr > 0, f"lr must be > 0, got {self.lr}")
        require(
            self.prompts_per_step >= 1,
            f"prompts_per_step must be >= 1, got {self.prompts_per_step}",
        )
        require(
            self.samples_per_prompt >= 2,
            f"samples_per_prompt must be >= 2 to compare, got {self.samples_per_prompt}",
        )
        require(self.max_grad_norm > 0, f"max_grad_norm must be > 0, got {self.max_grad_norm}")

    @property
    def batch(self) -> int:
        """Completions of one batch of fresh samples."""
        return self.prompts_per_step * self.samples_per_prompt


@dataclass
class Workplace:
    """What a trainer is made of, inside `run`.

    Attributes:
        trl: the library.
        model: shares its parameters with the policy in training, see `shell`.
        reference: a model of the reference's weights.
        arguments: of the trainer's configuration, shared by all of them.
    """

    trl: Any
    model: Any
    reference: Any
    arguments: dict[str, Any]


def run(
    name: str,
    setup: Setup,
    config: TRLConfig,
    make_trainer: Callable[[Workplace], Any],
    first_step: int = 0,
    names: Mapping[str, str] = NAMES,
) -> None:
    """Trains `setup.policy` with one of TRL's trainers, with no trace but the trained weights.

    Args:
        name: the agent's, for errors.
        setup: gives everything but the settings; TRL's seed comes from the stream `sampling`.
        config: the agent's.
        make_trainer: returns the trainer.
        first_step: number of the first optimiser step in the log.
        names: TRL's metrics -> ours.

    Raises:
        PluginError: TRL is not installed.
        TrainingError: a loss or gradient norm that is not finite.
    """
    require_trl(f"agent {name!r}")
    with tempfile.TemporaryDirectory(prefix="textgym-trl-") as folder, isolated():
        import trl
        from transformers import PrinterCallback

        reference = shell(setup.reference.model)
        # GRPO and RLOO read their reference from where the model says that it came from.
        setup.reference.save(Path(folder, "reference"))
        model = shell(setup.policy.model)
        model.config._name_or_path = str(Path(folder, "reference"))
        arguments = _arguments(setup, config, str(Path(folder, "out")))
        trainer = make_trainer(Workplace(trl, model, reference, arguments))
        log = partial(renamed, names=names, batch=config.batch)
        trainer.add_callback(_log_callback(setup, first_step, log))
        trainer.remove_callback(PrinterCallback)
        trainer.train()


def shell(model: Any) -> Any:
    """Returns a copy of a model's modules and configuration over the very same parameters.

    TRL puts the model in training mode, replaces its `forward` and writes into its configuration;
    the policy is to have nothing but the new weights.
    """
    return copy.deepcopy(model, {id(p): p for p in model.parameters()})


def _arguments(setup: Setup, config: TRLConfig, folder: str) -> dict[str, Any]:
    """Returns the arguments of every trainer's configuration."""
    return {
        "output_dir": folder,
        "learning_rate": config.lr,
        "lr_scheduler_type": "constant",
        "adam_beta2": 0.95,
        "weight_decay": 0.0,
        "max_grad_norm": config.max_grad_norm,
        "gradient_accumulation_steps": 1,
        "gradient_checkpointing": False,
        # As our policies, which are always in evaluation mode.
        "disable_dropout": True,
        "bf16": setup.policy.precision == torch.bfloat16,
        "use_cpu": setup.policy.device.type == "cpu",
        "seed": int(setup.streams.numpy("sampling").integers(2**31)),
        "dataloader_num_workers": 0,
        "dataloader_pin_memory": False,
        "logging_strategy": "steps",
        "logging_steps": 1,
        "logging_nan_inf_filter": False,
        "save_strategy": "no",
        "eval_strategy": "no",
        "report_to": "none",
        "disable_tqdm": True,
    }


def _log_callback(
    setup: Setup, first_step: int, ours: Callable[[dict[str, Any]], dict[str, float]]
) -> Any:
    """Returns the callback that hands each step's numbers, made ours, to `setup.log`."""
    from transformers import TrainerCallback

    class Logging(TrainerCallback):  # type: ignore[misc]
        def on_log(self, args: Any, state: Any, control: Any, logs: Any = None, **_: Any) -> None:
            if "train_runtime" in logs:  # the summary of the whole run
                return
            step = state.global_step - 1 + first_step
            for key in ("loss", "grad_norm"):
                if not math.isfinite(logs.get(key, 0.0)):
                    raise TrainingError(step, f"{key.replace('_', ' ')} is {logs[key]}")
            setup.log(step, ours(logs))

    return Logging()


def renamed(logs: dict[str, Any], names: Mapping[str, str], batch: int) -> dict[str, float]:
    """Returns TRL's metrics by our names where they mean the same, else by their own.

    >>> renamed({"reward_std": 2.0, "completions/mean_length": 3.0, "epoch": 1.0}, NAMES, batch=4)
    {'reward_std': 1.7320508075688772, 'length': 3.0}

    Args:
        logs: of one step.
        names: TRL's -> ours.
        batch: completions per batch. TRL divides a variance by one less, we do not.
    """
    metrics = {
        names.get(name, name): float(value)
        for name, value in logs.items()
        if not DROPPED.fullmatch(name) and isinstance(value, (int, float))
    }
    if "reward_std" in metrics:
        metrics["reward_std"] *= math.sqrt((batch - 1) / batch)
    return metrics


def readable_prompts(setup: Setup, prompts: list[str]) -> list[str]:
    """Returns the texts that TRL reads as the tokens that the policy reads for these prompts.

    TRL gives a prompt to the tokenizer as it is. Where that makes no token of an empty one, a
    policy is given its start token.

    Raises:
        PromptTooLongError: a prompt over the task's limit, or too long for the policy's window.
        ConfigError: a tokenizer that adds an end to each text, which TRL would leave there.
    """
    tokenizer, task = setup.policy.tokenizer, setup.task
    width = encode_prompts(tokenizer, prompts, task.max_prompt_tokens)[0].shape[1]
    if width + task.max_response_tokens > setup.policy.max_length:
        raise PromptTooLongError(
            f"a prompt of {width} tokens and a response of {task.max_response_tokens} "
            f"exceed the window of {setup.policy.name}, {setup.policy.max_length} tokens"
        )
    start = tokenizer.bos_token or tokenizer.eos_token
    alone = tokenizer(prompts)["input_ids"]
    texts = [prompt if ids else start for prompt, ids in zip(prompts, alone, strict=True)]
    if list(tokenizer(texts)["input_ids"]) != prompt_token_ids(tokenizer, prompts):
        raise ConfigError(
            f"TRL would read other prompt tokens than {setup.policy.name} does: its tokenizer adds "
            "an end to every text; use one that does not"
        )
    return texts
