"""Bad input is one line and exit status 2, and leaves nothing behind."""

from __future__ import annotations

import json

import pytest

from textgym.benchmarks.cli import main


@pytest.fixture
def run(capsys):
    """Runs the command line in this process -> (exit status, stdout, stderr)."""

    def call(*arguments):
        with pytest.raises(SystemExit) as stopped:
            main([str(argument) for argument in arguments])
        captured = capsys.readouterr()
        return stopped.value.code or 0, captured.out, captured.err

    return call


@pytest.fixture
def bench(run, plugin, model, tmp_path):
    """Runs `textgym bench` on the plug-in task; `fails` also checks how it says no."""

    def call(*arguments, task="Letters", agents="sft"):
        defaults = {
            "--tasks": plugin(task),
            "--agents": agents,
            "--seeds": "0",
            "--model": model,
            "--out": tmp_path / "out",
            "--jobs": "1",
            "--budget": "16",
        }
        given = dict(zip(arguments[::2], arguments[1::2], strict=True))
        options = [part for pair in (defaults | given).items() for part in pair]
        return run("bench", *options)

    def fails(*arguments, **options):
        code, _, error = call(*arguments, **options)
        assert code == 2
        assert error.startswith("error: ")
        assert error.count("\n") == 1
        assert not (tmp_path / "out").exists()
        return error

    call.fails = fails
    return call


def test_unknown_names_have_a_suggestion(bench, run):
    assert "did you mean 'summarize'" in bench.fails("--tasks", "sumarize")
    assert "did you mean 'reinforce'" in bench.fails("--agents", "reinforc")
    assert "did you mean 'quick'" in bench.fails("--suite", "quik")
    assert "did you mean 'kl_coef'" in bench.fails("--agents", "ppo@kl_coeff=1")
    assert "did you mean 'Letters'" in bench.fails("--data", "Leters=x")
    assert "did you mean 'bfloat16'" in bench.fails("--precision", "bfloat")
    code, _, error = run("list", "agent")
    assert code == 2
    assert "did you mean 'agents'" in error
    code, _, error = run("leaderbord")
    assert code == 2
    assert "leaderboard" in error


def test_options_outside_their_domain(bench):
    assert "n must be >= 1, got 0" in bench.fails("--agents", "best_of_n@n=0")
    assert "kl_coef must be >= 0" in bench.fails("--agents", "ppo@kl_coef=-1")
    assert "kl_coef must be >= 0" in bench.fails("--agents", "reinforce@kl_coef=-0.1")
    assert "budget must be >= 0" in bench.fails("--budget", "-1")
    assert "seeds must be >= 0" in bench.fails("--seeds", "-1")


def test_a_folder_that_is_no_model(bench, tmp_path):
    (tmp_path / "empty").mkdir()
    assert str(tmp_path / "empty") in bench.fails("--model", tmp_path / "empty")


def test_data_without_the_needed_column(bench, tmp_path):
    data = tmp_path / "data"
    data.mkdir()
    rows = [json.dumps({"talk": f"talk {i}", "digest": "b"}) for i in range(100)]
    (data / "train.jsonl").write_text("\n".join(rows))
    error = bench.fails("--tasks", "summarize", "--data", data)
    assert "dialogue" in error
    assert "digest" in error
    assert "talk" in error


def test_an_empty_split(bench, plugin):
    error = bench.fails("--tasks", f"{plugin('Letters')}@broken=empty test")
    assert "split 'test' is empty" in error


def test_a_prompt_longer_than_the_window(bench, plugin):
    assert "tokens" in bench.fails("--tasks", f"{plugin('Letters')}@window=2")


@pytest.mark.parametrize(("broken", "says"), [("nan", "returned nan"), ("short", "1 values for")])
def test_a_broken_reward(bench, plugin, broken, says):
    assert says in bench.fails("--tasks", f"{plugin('Letters')}@broken={broken}")


def test_broken_plugins_name_what_is_missing(bench, plugin):
    assert "no method train" in bench.fails("--agents", plugin("NoTrain"))
    assert "no method sample" in bench.fails("--agents", plugin("NoSample"))
    assert "has no 'Nobody'" in bench.fails("--agents", plugin("Nobody"))
    assert "no file" in bench.fails("--agents", "nowhere.py:Agent")


def test_results_folder_that_cannot_be_written(bench, tmp_path):
    (tmp_path / "file").touch()
    code, _, error = bench("--out", tmp_path / "file" / "out")
    assert code == 2
    assert "not writable" in error
    assert error.count("\n") == 1


def test_failed_cells_are_recorded_and_the_others_go_on(bench, plugin, tmp_path):
    nudge = plugin("Nudge")
    code, out, _ = bench(agents=f"{nudge}@fail_at=1,{plugin('Crash')},{nudge}")
    assert code == 1
    assert "2 of 3 cells failed" in out
    cells = tmp_path / "out" / "Letters"
    error = json.loads((cells / "Nudge@fail_at=1" / "seed-0" / "error.json").read_text())
    assert (error["error"], error["step"], error["cause"]) == ("TrainingError", 1, "loss is nan")
    crash = json.loads((cells / "Crash" / "seed-0" / "error.json").read_text())
    assert (crash["error"], crash["step"]) == ("ZeroDivisionError", None)
    assert (cells / "Nudge" / "seed-0" / "result.json").is_file()


def test_an_oracle_task_runs_from_the_command_line(bench, tmp_path):
    """It brings its own language model, so that the one given, if any, decides nothing."""
    given = ("--suite", "oracle", "--tasks", "two-modes")
    code, out, error = bench(*given, agents="reference,best_of_n@n=4")
    assert (code, error) == (0, "")
    assert "regret" in out
    assert "entropy" in out
    assert "One seed" in out
    text = (tmp_path / "out" / "leaderboard.md").read_text("utf-8")
    title, _, first, second = text.splitlines()[2:6]
    assert title.startswith("| rank | agent | regret (nats) | reward | KL (nats) | entropy kept |")
    assert first.startswith("| 1 | reference | ")
    assert second.startswith("| 2 | best_of_n@n=4 | ")
    code, out, _ = bench(*given, "--model", "tiny", agents="reference,best_of_n@n=4")
    assert code == 0
    assert "2 of 2 cells were finished before" in out


def test_options_of_an_oracle_task(bench):
    assert "got 17" in bench.fails("--tasks", "known-frontier@vocabulary=17")
    assert "more than the 65536" in bench.fails("--tasks", "known-frontier@vocabulary=9,horizon=8")
    assert "did you mean 'perfect'" in bench.fails("--tasks", "tic-tac-toe@opponent=perfekt")


def test_a_misspelt_option_of_a_task(bench):
    assert "did you mean 'right'" in bench.fails("--tasks", "two-modes@rigth=0.6")


def test_data_for_a_task_that_takes_none(bench):
    assert "unknown option 'data'" in bench.fails("--tasks", "two-modes", "--data", "org/set")


def test_list_is_json_on_request(run):
    code, out, _ = run("list", "agents", "--json")
    assert code == 0
    assert {"ppo", "reinforce", "best_of_n", "sft", "human"} <= set(json.loads(out)["agents"])
    _, out, _ = run("list", "--json")
    kinds = ["tasks", "agents", "envs", "suites", "metrics", "rewards", "studies", "checks"]
    assert list(json.loads(out)) == kinds
    assert all(all(entries.values()) for entries in json.loads(out).values())


def test_sample_shows_policies_side_by_side(run, plugin, model):
    task = plugin("Letters")
    code, out, _ = run(
        "sample", "--policy", model, "--policy", model, "--task", task, "--prompts", 2
    )
    assert code == 0
    assert out.count("say ") == 2
    assert out.count("(reward ") == 8


def test_eval_measures_a_model_against_itself(run, plugin, model):
    code, out, _ = run(
        "eval", "--policy", model, "--reference", model, "--task", plugin("Letters"), "--json"
    )
    assert code == 0
    found = json.loads(out)
    assert found["policy"]["kl_seq"]["value"] == 0
    loss = found["policy"]["diversity_loss/distinct_1"]
    assert loss["low"] < loss["value"] < loss["high"]
    assert "diversity_loss/distinct_1" not in found["reference"]
    assert found["precision"] == {"policy": "float32", "reference": "float32"}


def test_eval_in_a_named_precision(run, plugin, model):
    given = ("--policy", model, "--reference", model, "--task", plugin("Letters"))
    code, out, _ = run("eval", *given, "--precision", "bfloat16", "--json")
    assert code == 0
    assert json.loads(out)["precision"] == {"policy": "bfloat16", "reference": "bfloat16"}
    code, _, error = run("eval", *given, "--precision", "float23")
    assert code == 2
    assert error.startswith("error: unknown precision 'float23'; did you mean 'float32'?")
    assert error.count("\n") == 1


def test_eval_needs_one_vocabulary(run, plugin, model, other_model):
    code, _, error = run(
        "eval", "--policy", model, "--reference", other_model, "--task", plugin("Letters")
    )
    assert code == 2
    assert "vocabular" in error


def test_sample_refuses_a_temperature_of_zero(run, plugin, model):
    code, _, error = run("sample", "--policy", model, "--temperature", 0)
    assert code == 2
    assert error == "error: temperature must be > 0, got 0.0\n"


def test_leaderboard_of_nothing(run, tmp_path):
    assert run("leaderboard", tmp_path / "none")[0] == 2


def test_pretrain_says_which_columns_there_are(run, tmp_path):
    (tmp_path / "train.jsonl").write_text('{"words": "a b c"}\n' * 20)
    code, _, error = run("pretrain", "--data", tmp_path, "--out", tmp_path / "model")
    assert code == 2
    assert "its columns are words" in error
    code, _, error = run("pretrain", "--out", tmp_path / "model", "--set", "widht=3")
    assert code == 2
    assert "did you mean 'width'" in error
    assert not (tmp_path / "model").exists()


def test_pretrain_on_texts_makes_a_model(run, tmp_path):
    for name in ("one", "two"):
        (tmp_path / name).mkdir()
        row = '{"words": "a b c d", "more": "e f g"}\n'
        (tmp_path / name / "train.jsonl").write_text(row * 20)
    settings = "tokens=2000,width=16,layers=1,heads=2,kv_heads=2,vocab_size=300,context=32"
    out = tmp_path / "model"
    data = ("--data", f"{tmp_path}/one@words+more", "--data", f"{tmp_path}:two@more")
    code, _, _ = run("pretrain", *data, "--out", out, "--set", settings)
    assert code == 0
    from textgym.models.policy import load_policy

    assert load_policy(out).max_length == 32
