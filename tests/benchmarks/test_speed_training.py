"""The comparison with TRL's training steps on a model so small that it takes seconds."""

import builtins
import io
import json
import math
import os
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

from textgym.benchmarks.speed import training, trl_ppo
from textgym.benchmarks.speed.models import make_model
from textgym.benchmarks.speed.sampling import Load
from textgym.benchmarks.speed.training import Count, our_run
from textgym.errors import ConfigError, UnknownNameError
from textgym.models.tokenize import quiet

LOAD = Load(2, samples=2, prompt_tokens=6, response_tokens=5)
SMALL = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 1, "vocab_size": 64}


def need_ppo():
    """Skips where TRL, or the older one with PPO, is not installed."""
    pytest.importorskip("trl")
    try:
        trl_ppo.require_installed()
    except ConfigError as error:
        pytest.skip(str(error))


@pytest.mark.slow
@pytest.mark.parametrize(("precision", "rows"), [("float32", 3), ("auto", 6)])
def test_every_row_has_numbers_and_equal_work(precision, rows, capfd):
    need_ppo()
    state = torch.random.get_rng_state()
    measured = training.measure(1, precision, model="1m", load=LOAD)
    assert torch.equal(state, torch.random.get_rng_state())
    assert len({row.name for row in measured}) == rows
    for row in measured:
        for number in (row.ours, row.peer, row.ratio, row.low, row.high, row.goal):
            assert math.isfinite(number)
            assert number > 0
        assert row.ratio == pytest.approx(row.peer / row.ours)
        done = training.STEPS * LOAD.rows
        assert row.detail["completions"] == row.detail["peer_completions"] == done
        assert row.detail["tokens"] == row.detail["peer_tokens"] == done * 5
        assert row.detail["tokens_per_second"] == pytest.approx(LOAD.tokens / row.ours)
        assert row.detail["peer_tokens_per_second"] == pytest.approx(LOAD.tokens / row.peer)
    assert capfd.readouterr().out == ""


@pytest.mark.parametrize("agent", ["rloo", "grpo", "ppo"])
def test_our_run_takes_one_optimiser_step_per_batch(agent, monkeypatch):
    steps = []
    step = torch.optim.AdamW.step

    def counting(optimizer, *args, **kwargs):
        steps.append(sum(p.numel() for group in optimizer.param_groups for p in group["params"]))
        return step(optimizer, *args, **kwargs)

    monkeypatch.setattr(torch.optim.AdamW, "step", counting)
    start = make_model("1m")
    before = [p.clone() for p in start.parameters()]
    run = our_run(agent, start, LOAD, "float32", steps=3)
    policy = sum(p.numel() for p in start.parameters())
    # PPO's value model is the trunk, the policy's whole self where embeddings are tied, and a head.
    value = [policy + 128 + 1] if agent == "ppo" else []
    assert steps == [*value, policy] * 3
    assert (run.completions, run.tokens, len(run.ends)) == (12, 60, 3)
    assert run.seconds > 0
    assert all(map(torch.equal, before, start.parameters()))


def test_the_task_fills_its_window():
    from textgym.benchmarks.speed.models import endless_tokenizer

    task = Count(Load(4, prompt_tokens=6), 64)
    lengths = [
        len(ids) for ids in endless_tokenizer(64)(task.prompts("train")["prompt"][:])["input_ids"]
    ]
    assert max(lengths) == task.max_prompt_tokens == 6
    assert task.reward([], ["w7 w71", "w1", "w77"]) == [2.0, 0.0, 2.0]


def test_a_step_is_timed_from_the_end_of_the_first():
    run = training.Run(ends=[10.0, 11.0, 14.0])
    assert run.seconds == 2.0


def test_ratios_are_of_pairs():
    ours = [training.Run([0.0, 1.0], 8, 40), training.Run([0.0, 2.0], 8, 40)]
    peer = [training.Run([0.0, 3.0], 8, 40), training.Run([0.0, 10.0], 8, 40)]
    row = training._row("step", ours, peer, 5.0)
    assert (row.low, row.ratio, row.high) == (3.0, 4.0, 5.0)
    assert (row.ours, row.peer, row.goal) == (1.5, 6.5, 5.0)


def test_a_missing_peer_is_named_with_its_remedy(monkeypatch):
    real = builtins.__import__

    def without(name, *args, **kwargs):
        if name == "trl":
            raise ImportError(name)
        return real(name, *args, **kwargs)

    monkeypatch.setattr(builtins, "__import__", without)
    with pytest.raises(ConfigError, match=r"pip install 'textgym\[peers\]'"):
        training.measure(1)


def test_an_unknown_precision_is_refused():
    with pytest.raises(UnknownNameError, match="did you mean 'float32'"):
        training.measure(1, "float3")


def test_each_agent_is_compared_with_its_own_kin(monkeypatch):
    asked = []

    def peer_run(trainer, folder, load, mixed):
        asked.append((trainer, mixed))
        return training.Run([0.0, 3.0 if trainer == "PPO" else 2.0], 8, 40)

    monkeypatch.setattr(training, "_import_trl", lambda: None)
    monkeypatch.setattr(trl_ppo, "require_installed", lambda: None)
    monkeypatch.setattr(training, "our_run", lambda *_: training.Run([0.0, 1.0], 8, 40))
    monkeypatch.setattr(training, "trl_run", peer_run)
    rows = training.measure(1, "auto", model="1m", load=LOAD)
    assert sorted(asked) == [(name, kind) for name in ("GRPO", "PPO", "RLOO") for kind in (0, 1)]
    found = {row.name.split(" against ")[1]: (row.name[:4], row.ratio, row.goal) for row in rows}
    assert found == {
        f"{title} in {kind}": (name, ratio, 5.0)
        for title, name, ratio in (
            ("TRL's RLOO", "rloo", 2.0),
            ("TRL's GRPO", "grpo", 2.0),
            ("TRL 1.12.0's PPO", "ppo ", 3.0),
        )
        for kind in ("float32", "bfloat16")
    }


@pytest.mark.slow
@pytest.mark.parametrize("mixed", [False, True])
def test_both_ppos_do_equal_work(mixed, tmp_path, capfd):
    need_ppo()
    load = Load(2, samples=2, prompt_tokens=6, response_tokens=4)
    start = make_model("1m", **SMALL)
    with quiet():
        start.save_pretrained(tmp_path)
        peer = training.trl_run("PPO", str(tmp_path), load, mixed, steps=2)
    ours = our_run("ppo", start, load, "float32", steps=2)
    for run in (ours, peer):
        assert (run.completions, run.tokens, len(run.ends)) == (8, 32, 2)
        assert run.seconds > 0
    assert capfd.readouterr().out == ""


def test_the_ppo_apart_is_told_the_same_work(monkeypatch, tmp_path):
    jobs = []

    def run_apart(job):
        jobs.append(job)
        return {"ends": [1.0, 3.0], "completions": 8, "tokens": 40}

    monkeypatch.setattr(trl_ppo, "run_apart", run_apart)
    start = make_model("1m", **SMALL)
    start.config.save_pretrained(tmp_path)
    run = training.trl_run("PPO", str(tmp_path), LOAD, mixed=True, steps=3)
    assert run == training.Run([1.0, 3.0], 8, 40)
    prompts = Count(LOAD, 64).prompts("train")["prompt"][:]
    assert [sorted(job.pop("prompts")) for job in jobs] == [sorted(prompts * 2)]
    assert jobs == [
        {
            "model": str(tmp_path),
            "response_tokens": 5,
            "mixed": True,
            "steps": 3,
            "lr": training.LR,
            "kl_coef": training.KL_COEF,
        }
    ]


class Trainer:
    """Samples, scores and ends steps as TRL's PPO does, and learns nothing."""

    def __init__(self, args, processing_class, model, reward_model, train_dataset, callbacks, **_):
        assert (args.num_ppo_epochs, args.num_mini_batches) == (1, 1)
        assert not args.gradient_checkpointing
        assert processing_class.pad_token_id >= model.config.vocab_size  # not to be drawn
        self.args, self.tokenizer, self.model = args, processing_class, model
        self.reward, self.ids, self.callbacks = reward_model, train_dataset["input_ids"], callbacks

    def remove_callback(self, callback):
        pass

    def train(self):
        print("===training policy===")
        batch = {"input_ids": self.ids[: self.args.per_device_train_batch_size]}
        padded = self.tokenizer.pad(batch, return_tensors="pt")["input_ids"]
        mask = padded != self.tokenizer.pad_token_id
        for _ in range(self.args.total_episodes // self.args.per_device_train_batch_size):
            drawn = self.model.generate(
                input_ids=padded.masked_fill(~mask, 0),
                attention_mask=mask,
                max_new_tokens=self.args.response_length,
                do_sample=True,
                return_dict_in_generate=True,
            ).sequences
            backbone = getattr(self.reward, self.reward.base_model_prefix)
            output = backbone(input_ids=drawn, attention_mask=drawn != 0, use_cache=False)
            scores = self.reward.score(output.hidden_states[-1])[:, -1, 0]
            assert torch.equal(scores, (drawn % 10 == 7).sum(1).float())
            for callback in self.callbacks:
                callback.on_step_end(self.args, None, None, model=self.model)


def test_the_ppo_apart_counts_what_it_sampled(monkeypatch, tmp_path, capsys):
    stub = SimpleNamespace(PPOTrainer=Trainer, PPOConfig=SimpleNamespace)
    for name in ("trl", "trl.experimental"):
        monkeypatch.setitem(sys.modules, name, SimpleNamespace())
    monkeypatch.setitem(sys.modules, "trl.experimental.ppo", stub)
    job = {
        "model": str(tmp_path),
        "prompts": ["w3 w17 w27", "w4"] * 2,
        "response_tokens": 4,
        "mixed": False,
        "steps": 2,
        "lr": 1e-5,
        "kl_coef": 0.05,
        "threads": torch.get_num_threads(),
    }
    monkeypatch.setattr(sys, "stdin", io.StringIO(json.dumps(job)))
    with quiet(), torch.random.fork_rng():
        make_model("1m", **SMALL).save_pretrained(tmp_path)
        capsys.readouterr()
        trl_ppo.main()
    found = json.loads(capsys.readouterr().out)
    assert (found["completions"], found["tokens"], len(found["ends"])) == (8, 32, 2)
    assert found["ends"] == sorted(found["ends"])


@pytest.fixture
def installed(monkeypatch, tmp_path):
    """A folder that looks like TRL's, with nothing in it."""
    (tmp_path / "trl" / "experimental" / "ppo").mkdir(parents=True)
    monkeypatch.setattr(trl_ppo, "folder", lambda: tmp_path)
    return tmp_path


@pytest.mark.parametrize(("mixed", "precision"), [(False, "no"), (True, "bf16")])
def test_the_ppo_apart_gets_its_own_trl_and_our_threads(mixed, precision, installed, monkeypatch):
    def run(command, *, input, env, **_):
        assert command == [sys.executable, "-m", "textgym.benchmarks.speed.trl_ppo"]
        assert json.loads(input) == {"mixed": mixed, "threads": torch.get_num_threads()}
        assert env["PYTHONPATH"] == os.pathsep.join([str(installed), "/elsewhere"])
        assert env["ACCELERATE_MIXED_PRECISION"] == precision
        return subprocess.CompletedProcess(command, 0, 'a warning\n{"tokens": 3}\n', "")

    monkeypatch.setenv("PYTHONPATH", "/elsewhere")
    monkeypatch.setattr(subprocess, "run", run)
    assert trl_ppo.run_apart({"mixed": mixed}) == {"tokens": 3}


def test_a_missing_ppo_is_named_with_its_remedy(monkeypatch, tmp_path):
    monkeypatch.setattr(trl_ppo, "folder", lambda: tmp_path / "trl ppo")
    monkeypatch.setattr(training, "_import_trl", lambda: None)
    remedy = f"pip install --no-deps --target '{tmp_path}/trl ppo' trl==1.12.0"
    for run in (lambda: training.measure(1), lambda: trl_ppo.run_apart({"mixed": False})):
        with pytest.raises(ConfigError) as raised:
            run()
        assert str(raised.value).endswith(f"is not installed: {remedy}")
        assert "\n" not in str(raised.value)


def test_make_installs_the_version_that_is_named():
    rules = (Path(__file__).parents[2] / "Makefile").read_text()
    assert f"--no-deps --upgrade --target $(VENV)/trl-ppo trl=={trl_ppo.VERSION}\n" in rules


@pytest.mark.usefixtures("installed")
def test_a_ppo_that_fails_says_its_last_line():
    """The process itself runs, and is told too little."""
    with pytest.raises(
        ConfigError, match=r"^PPO of TRL .* ended with status 1: TypeError: train"
    ) as e:
        trl_ppo.run_apart({"mixed": False})
    assert "\n" not in str(e.value)


@pytest.mark.parametrize(
    ("status", "out", "said", "told"),
    [
        (
            1,
            "",
            "Traceback:\n  File\nImportError: no such name\n\n",
            "1: ImportError: no such name",
        ),
        (-9, '{"tokens": 3}\n', "", "-9: it said nothing"),
        (0, "", "", "0: it said nothing"),
    ],
)
def test_a_failure_is_one_line(status, out, said, told):
    with pytest.raises(
        ConfigError, match=rf"^PPO of TRL {trl_ppo.VERSION} ended with status {told}$"
    ):
        trl_ppo.outcome(subprocess.CompletedProcess([], status, out, said))
