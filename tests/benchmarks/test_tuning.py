"""The search: as many trials for every agent, from its stated space, and the best is kept."""

from __future__ import annotations

import math

import pandas as pd
import pytest

from textgym.benchmarks import tuning
from textgym.benchmarks.cli import main
from textgym.benchmarks.suite import Evaluation, Spec, Suite, load_suite, parse_suite, part_names
from textgym.errors import ConfigError

pytest.importorskip("optuna")

REINFORCE = Spec("reinforce", {"lr": 1e-3, "kl_coef": 0.2})


def test_points_start_from_the_defaults_and_stay_inside():
    space = {"lr": [1e-4, 1e-2], "prompts_per_step": [8, 64], "whitening": ["none", "masked"]}
    agent = Spec("reinforce", {"lr": 5e-3})  # an earlier search's
    points = tuning.points(agent, space, 17, seed=0)
    assert points[0] == {"lr": 3e-4, "prompts_per_step": 64, "whitening": "none"}
    assert len(points) == 17
    assert all(1e-4 <= p["lr"] <= 1e-2 for p in points)
    assert all(isinstance(p["prompts_per_step"], int) for p in points)
    assert {p["whitening"] for p in points} == {"none", "masked"}
    # Even on a logarithmic scale: of the sixteen others half lie below the geometric mean.
    assert sum(p["lr"] < 1e-3 for p in points[1:]) == 8
    assert points == tuning.points(agent, space, 17, seed=0)
    assert points != tuning.points(agent, space, 17, seed=1)
    # More trials are the same ones and further ones.
    assert tuning.points(agent, space, 5, seed=0) == points[:5]


@pytest.mark.parametrize(
    ("space", "says"),
    [
        ({"lr": [1e-2, 1e-4]}, "lr must go from low to high"),
        ({"lr": 1e-2}, r"lr must be \[low, high\] or choices"),
        ({"lr": [1e-5, 1e-4]}, "is not in the search"),
        ({"lrr": [1e-5, 1e-4]}, "is not in the search"),
    ],
)
def test_a_space_that_is_none_is_refused(space, says):
    with pytest.raises(ConfigError, match=says):
        tuning.points(REINFORCE, space, 3, seed=0)


def make_suite(plugin, model, **changes):
    agents = (
        Spec(plugin("Nudge"), {"fail_at": -1}, "nudge"),
        Spec(plugin("Nudge"), {"strength": 2.0}, "other"),
        Spec("sft"),
    )
    suite = Suite(
        "test",
        tasks=(Spec(plugin("Letters"), label="letters"),),
        agents=agents,
        model=str(model),
        budget=16,
        evaluation=Evaluation(prompts=8, samples_per_prompt=40),
        sft={"steps": 2},
        search={"nudge": {"fail_at": [-1, 1]}, "other": {"strength": [0.5, 8.0]}},
    )
    return suite.replace(**changes)


def test_the_best_trial_is_kept(plugin, model, tmp_path, capsys):
    suite = make_suite(plugin, model)
    # Some trials of `nudge` fail at their second step: recorded, and never chosen.
    assert tuning.tune(suite, tmp_path, trials=4, seed=9, jobs=1) == tuning.FAILED
    table = pd.read_csv(tmp_path / tuning.TRIALS)
    assert table.groupby("agent")["trial"].apply(list).to_dict() == {
        "nudge": [0, 1, 2, 3],
        "other": [0, 1, 2, 3],
    }
    assert table["score"].equals(table["letters"])
    failing = table["options"].str.contains("fail_at=[01]")
    assert table["score"].isna().tolist() == failing.tolist()
    assert 0 < failing.sum() < 4
    # What the leaderboard ranks by here is gold, of prompts and a seed of their own.
    others = table[table["agent"] == "other"].sort_values("score")
    assert others["score"].iloc[-1] > others["score"].iloc[-2]
    best = others.iloc[-1]
    tuned = load_suite(str(tmp_path / tuning.TUNED))
    options = {spec.label: spec.options for spec in tuned.agents}
    assert best["options"] == f"strength={options['other']['strength']}"
    assert options["nudge"] == {"fail_at": -1}
    assert options["sft"] == {}
    assert tuned == suite.replace(name="tuned", agents=tuned.agents)

    capsys.readouterr()
    tuning.tune(suite, tmp_path, trials=4, seed=9, jobs=1)
    shown = capsys.readouterr().out
    assert f"{8 - failing.sum()} of 8 cells were finished before" in shown
    assert pd.read_csv(tmp_path / tuning.TRIALS).equals(table)


def test_a_failed_task_is_no_score(plugin, model):
    suite = make_suite(plugin, model)
    planned = tuning.plan(suite, 2, 9)
    search = tuning.as_suite(suite, planned, 9)
    assert (search.evaluation.split, search.seeds) == ("validation", (9,))
    values = iter([0.5, math.nan, 0.1, 0.2])
    scores = {f"letters/{spec.label}": next(values) for spec in search.agents}
    table = tuning.tabulate(search, planned, scores, 9)
    assert tuning.chosen(planned, table) == {
        "nudge": planned["nudge"][0].options,
        "other": planned["other"][1].options,
    }
    # If all trials failed, the defaults stand.
    table["score"] = math.nan
    assert tuning.chosen(planned, table)["other"] == {"strength": 1.0}


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["--suite", "quick"], "suite 'quick' has no search for ppo, "),
        (["--suite", "algorithms"], "suite 'algorithms' has parts: tune core or"),
        (["--suite", "core", "--seed", "1"], "seed 1 is one that suite"),
        (["--suite", "algorthms-oracle"], "did you mean 'algorithms-oracle'"),
    ],
)
def test_what_cannot_be_tuned_is_said_in_a_line(arguments, says, tmp_path, capsys):
    with pytest.raises(SystemExit) as stopped:
        main(["tune", "--out", str(tmp_path / "out"), *arguments])
    assert stopped.value.code == 2
    error = capsys.readouterr().err
    assert says in error
    assert error.count("\n") == 1
    assert not (tmp_path / "out").exists()


def test_a_suite_of_parts_stands_for_them():
    assert part_names("quick") == {"": "quick"}
    assert part_names("algorithms") == {"core": "core", "oracle": "algorithms-oracle"}
    with pytest.raises(ConfigError, match="choose tasks of core or algorithms-oracle"):
        part_names("algorithms", tasks="toxicity")
    with pytest.raises(ConfigError, match="has parts, and so no tasks"):
        parse_suite("s", "parts = ['quick']\nagents = ['sft']")


@pytest.mark.parametrize("name", ["core", "algorithms-oracle"])
def test_every_search_holds_its_agents_defaults(name):
    suite = load_suite(name)
    assert set(suite.search) <= {spec.label for spec in suite.agents}
    planned = tuning.plan(suite, 2, 1000)
    assert set(map(len, planned.values())) == {2}
