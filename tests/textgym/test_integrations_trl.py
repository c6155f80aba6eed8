"""A task in TRL's hands: what its trainers are given, what the judge says, and the example."""

import logging
import math
import os
import random
import runpy
import sys
import warnings
from pathlib import Path

import numpy as np
import pytest
import torch

from textgym.errors import ConfigError, PluginError, RewardError, UnknownNameError
from textgym.integrations.isolation import isolated, require_trl
from textgym.integrations.trl import for_trl
from textgym.metrics.exact import kl as exact_kl
from textgym.models.enumeration import sequence_logprobs
from textgym.models.policy import load_policy
from textgym.tasks import load_task

pytest.importorskip("trl")
# TRL asks transformers by names that the next version of transformers drops.
pytestmark = pytest.mark.filterwarnings("ignore::FutureWarning")

EXAMPLE = Path(__file__).parents[2] / "examples" / "grpo_trainer.py"


@pytest.fixture(scope="module")
def task():
    return load_task("two-modes")


def test_the_bundle_is_the_tasks(task):
    bundle = for_trl(task)
    assert bundle.task is task
    assert bundle.model == str(task.language_model())
    assert bundle.max_completion_length == task.max_response_tokens
    assert bundle.processing_class.pad_token_id is not None
    assert bundle.train_dataset[:] == task.prompts("train")[:]
    (reward,) = bundle.reward_funcs
    texts = task.tree.texts(bundle.processing_class)[:2]
    given = reward(
        prompts=["", ""],
        completions=texts,
        completion_ids=[[1], [2]],
        trainer_state=None,
        log_extra=print,
        log_metric=print,
    )
    assert given == task.reward(["", ""], texts)


def test_columns_reach_the_reward():
    bundle = for_trl("summarize", prompts=3)
    rows = bundle.train_dataset.select(range(2))
    columns = {name: rows[name][:] for name in rows.column_names if name != "prompt"}
    assert columns
    texts = ["A man sold his bike.", "They met."]
    (reward,) = bundle.reward_funcs
    assert reward(list(rows["prompt"]), texts, **columns, trainer_state=None) == pytest.approx(
        bundle.task.reward(list(rows["prompt"]), texts, **columns)
    )


def test_a_reward_that_is_no_number(task, monkeypatch):
    monkeypatch.setattr(task, "reward", lambda *_, **__: [math.nan])
    with pytest.raises(RewardError, match="returned nan"):
        for_trl(task).reward_funcs[0](prompts=[""], completions=["a"])


def test_the_judge_against_what_is_enumerated(task):
    bundle = for_trl(task, samples_per_prompt=400, seed=1)
    model = load_policy(bundle.model).model
    torch.manual_seed(0)
    generator = torch.Generator().manual_seed(2)
    assert bundle.judge(model)["kl_seq"] == pytest.approx(0, abs=1e-6)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter += 0.05 * torch.randn(parameter.shape, generator=generator)
    model.train()  # as a trainer has it
    state = torch.get_rng_state()
    judged = bundle.judge(model)
    assert torch.equal(torch.get_rng_state(), state)
    assert model.training
    assert judged == bundle.judge(model)
    policy = bundle.reference.copy()
    policy.model.load_state_dict(model.state_dict())
    p, q = (
        sequence_logprobs(x, task.tree, [""]).detach().double().exp().numpy()
        for x in (policy, bundle.reference)
    )
    p, q = p / p.sum(1, keepdims=True), q / q.sum(1, keepdims=True)
    assert judged["kl_seq"] == pytest.approx(exact_kl(p, q)[0], rel=0.2)
    assert judged["reward"] == pytest.approx((p * task.tables.rewards).sum(), abs=0.01)
    assert 0 < judged["ead"] < 1
    assert 0 < judged["length"] <= task.max_response_tokens


def test_a_trainer_of_two_lines(task, tmp_path):
    from transformers import PrinterCallback
    from trl import GRPOConfig, GRPOTrainer

    bundle = for_trl("two-modes")
    with isolated():
        trainer = GRPOTrainer(
            model=bundle.model,
            reward_funcs=bundle.reward_funcs,
            args=GRPOConfig(
                output_dir=str(tmp_path),
                max_steps=2,
                per_device_train_batch_size=8,
                per_device_eval_batch_size=8,
                max_completion_length=bundle.max_completion_length,
                learning_rate=1e-2,
                bf16=False,
                use_cpu=True,
                report_to="none",
                save_strategy="no",
                disable_tqdm=True,
            ),
            train_dataset=bundle.train_dataset.select([0] * 16),
            eval_dataset=bundle.eval_dataset,
            processing_class=bundle.processing_class,
            callbacks=[bundle.callback],
        )
        trainer.remove_callback(PrinterCallback)
        trainer.train()
        metrics = trainer.evaluate()
    judged = bundle.judge(trainer.model)
    assert judged["kl_seq"] > 1e-4
    found = {name: metrics[f"eval_textgym_{name}"] for name in judged}
    assert found == judged
    assert trainer.state.log_history[-1]["eval_textgym_reward"] == judged["reward"]


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"task": "two-mods"}, UnknownNameError, "did you mean 'two-modes'"),
        ({"task": "two-modes", "prompts": 0}, ConfigError, "prompts must be >= 1"),
        ({"task": "two-modes", "samples_per_prompt": 1}, ConfigError, "samples_per_prompt >= 2"),
    ],
)
def test_nonsense(options, error, message):
    with pytest.raises(error, match=message):
        for_trl(**options)


def test_without_trl(task, monkeypatch):
    monkeypatch.setitem(sys.modules, "trl", None)
    with pytest.raises(PluginError, match=r"x needs TRL: pip install 'textgym\[trl\]'"):
        require_trl("x")
    with pytest.raises(PluginError, match="needs TRL"):
        _ = for_trl(task).callback


def leave_traces():
    torch.manual_seed(7)
    np.random.seed(7)  # noqa: NPY002
    random.seed(7)
    os.environ["ACCELERATE_MIXED_PRECISION"] = "bf16"
    logging.getLogger("trl").warning("not shown")
    warnings.warn("not raised", FutureWarning, stacklevel=1)
    raise RuntimeError


def global_state():
    numpy_state = np.random.get_state()[1].tolist()  # noqa: NPY002
    torch_state = torch.get_rng_state().tolist()
    level = logging.getLogger("trl").level
    return torch_state, numpy_state, random.getstate(), level, dict(os.environ)


def test_isolation_gives_back_what_an_error_left(capfd):
    before = global_state()
    with pytest.raises(RuntimeError), isolated():
        leave_traces()
    assert global_state() == before
    assert capfd.readouterr() == ("", "")


def test_the_example_runs(capsys):
    main = runpy.run_path(str(EXAMPLE))["main"]
    small = ["--steps", "2", "--prompts", "2", "--samples", "2", "--judged", "2"]
    with isolated():
        main(small)
    out = capsys.readouterr().out
    assert "step    1  reward" in out
    assert "step    2  reward" in out
    for name in ("reward", "gold", "kl_seq", "ead", "length"):
        assert name in out
