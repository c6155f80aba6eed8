from __future__ import annotations

import io
import math
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
from rich.console import Console

from textgym.benchmarks import oracle_figures, oracle_looks
from textgym.benchmarks import oracle_panels as data
from textgym.benchmarks.cell import write_cell
from textgym.benchmarks.oracle_panels import Panel, Runs
from textgym.benchmarks.preflight import preflight
from textgym.benchmarks.runner import run_suite
from textgym.benchmarks.suite import Evaluation, Spec, Suite
from textgym.benchmarks.workbench import Workbench
from textgym.tasks import load_task

pytest.importorskip("matplotlib")

REINFORCE = {"prompts_per_step": 4, "samples_per_prompt": 4, "kl_coef": 0.1}


def bare_panel(reference, rewards):
    """One prompt of which only the reference and the rewards are known."""
    tables = SimpleNamespace(rewards=np.array([rewards], float))
    task = SimpleNamespace(tables=tables, rows_of=lambda asked: [0] * len(asked))
    return Panel("bare", task, [""], np.array([reference], float), [])


def known_panel(name):
    """An oracle task whose reference is what its language model is pretrained to."""
    task = load_task(name)
    return Panel(name, task, task.asked, task.tables.known, [])


def runs_of(panel, policy, agent):
    """An agent of one seed that did not train."""
    return Runs(Spec(agent), [panel.measured(policy)], [pd.DataFrame({"step": []})])


def binary_entropy(p):
    return -p * math.log(p) - (1 - p) * math.log(1 - p)


def test_the_reference_overtakes_at_the_first_k_where_it_is_above():
    reference = pd.Series({1: 0.4, 2: 0.5, 4: 0.7, 8: 0.9})
    assert data.overtaken(pd.Series({1: 0.5, 2: 0.6, 4: 0.6, 8: 0.6}), reference) == 4
    assert data.overtaken(pd.Series({8: 0.5, 4: 0.5, 2: 0.4, 1: 0.3}), reference) == 1
    assert data.overtaken(reference + 0.01, reference) is None
    assert data.overtaken(reference - 1e-13, reference) is None


def test_a_path_runs_from_the_reference_over_the_exact_rows_to_the_end():
    curve = pd.DataFrame(
        {
            "step": range(7),
            "reward": 9.0,
            "exact/reward": [0.2, np.nan, np.nan, np.nan, np.nan, 0.6, 0.7],
            "exact/entropy_kept": [0.9, np.nan, np.nan, np.nan, np.nan, 0.5, 0.4],
        }
    )
    start, end = {"reward": 0.1, "entropy_kept": 1.0}, {"reward": 0.8, "entropy_kept": 0.3}
    way = data.path(curve, start, end)
    # The look after the seventh and last step is the evaluation's, not the curve's.
    assert way["step"].tolist() == [0, 1, 6, 7]
    assert way["reward"].tolist() == [0.1, 0.2, 0.6, 0.8]
    assert way["entropy_kept"].tolist() == [1.0, 0.9, 0.5, 0.3]
    assert len(data.path(pd.DataFrame({"step": []}), start, end)) == 0


def test_the_optimum_says_a_as_the_closed_form_has_it():
    panel = known_panel("two-modes")
    betas = [math.inf, 1.0, 0.2, 0.02, 0.0]
    curve = data.along_beta(panel, betas)
    expected = []
    for beta in betas[1:-1]:
        a, b, silence = 0.495 * math.exp(0.51 / beta), 0.495 * math.exp(0.49 / beta), 0.01
        expected.append(a / (a + b + silence))
    assert curve["beta"].tolist() == betas
    np.testing.assert_allclose(curve["p_a"], [0.495, *expected, 1.0], rtol=1e-9)
    np.testing.assert_allclose(curve["entropy_kept"].iloc[[0, -1]], [1, 0], atol=1e-12)


def test_the_frontier_keeps_the_references_ratios_and_the_most_entropy_makes_them_even():
    # At reward R the worthless answers have 1 - R between them: 3 to 1 as in the reference, or
    # evenly.
    panel = bare_panel([0.6, 0.2, 0.2], [0, 0, 1])
    full = binary_entropy(0.2) + 0.8 * binary_entropy(0.25)
    for curve, least, rest in (
        (data.frontier(panel), 0.2, binary_entropy(0.25)),
        (data.most_entropy(panel), 1 / 3, math.log(2)),
    ):
        inside = curve[(curve["reward"] > 0) & (curve["reward"] < 1 - 1e-9)]
        assert len(inside) > 20
        assert inside["reward"].min() == pytest.approx(least)
        kept = [(binary_entropy(r) + (1 - r) * rest) / full for r in inside["reward"]]
        np.testing.assert_allclose(inside["entropy_kept"], kept, rtol=1e-6)


def test_most_entropy_is_the_best_split_of_reward_between_prompts():
    # Two coins that pay 1 for heads; the first is a loaded one. For each mean reward all ways to
    # share it between the two are tried.
    reference = np.array([[0.05, 0.95], [0.5, 0.5]])
    tables = SimpleNamespace(rewards=np.array([[0.0, 1.0], [0.0, 1.0]]))
    task = SimpleNamespace(tables=tables, rows_of=lambda asked: [0, 1])
    curve = data.most_entropy(Panel("coins", task, ["a", "b"], reference, []))
    curve = curve.query("reward < 0.999")
    for reward, kept in curve.iloc[:: len(curve) // 10].to_numpy():
        tried = []
        for first in np.linspace(2 * reward - 1, 1, 2001)[1:-1]:
            second = 2 * reward - first
            loaded = binary_entropy(first) / binary_entropy(0.05)
            tried.append((loaded + binary_entropy(second) / math.log(2)) / 2)
        assert kept == pytest.approx(max(tried), abs=1e-5)


def test_agents_without_a_price_stand_where_the_optimum_spends_their_kl():
    panel = known_panel("two-modes")
    assert data.price(Spec("ppo", {"kl_coef": 0.3})) == 0.3
    optimal = panel.optimum(0.07)
    best_of_n = Runs(Spec("best_of_n", {"n": 4}), [optimal], [])
    assert data.price_or_equivalent(panel, best_of_n) == pytest.approx(0.07, rel=1e-6)
    paying = Runs(Spec("dpo", {"beta": 0.5}), [optimal], [])
    assert data.price_or_equivalent(panel, paying) == 0.5
    assert data.price_or_equivalent(panel, runs_of(panel, panel.reference, agent="sft")) is None


def test_points_are_sorted_by_price_with_their_range():
    def at(beta, *values):
        tables = [pd.DataFrame({"p_a": [value]}) for value in values]
        return Runs(Spec("ppo", {"kl_coef": beta}), tables, [])

    table = data.by_price(known_panel("two-modes"), [at(0.2, 0.5, 0.7), at(0.0, 1.0, 1.0)], "p_a")
    assert table.index.tolist() == [0.0, 0.2]
    np.testing.assert_allclose(table.loc[0.2], [0.6, 0.5, 0.7])


@pytest.fixture
def stones():
    panel = known_panel("stepping-stones")
    high = {"best_of/1": 0.6, "best_of/16": 0.65, "best_of/1024": 0.7}
    better = pd.DataFrame([high | {"best_of/1024": 0.8}])
    panel.runs.append(runs_of(panel, panel.reference, agent="reference"))
    panel.runs.append(Runs(Spec("ppo"), [pd.DataFrame([high]), better], []))
    return panel


def test_overtaking_is_a_row_per_agent(stones, tmp_path):
    table = data.overtaking(stones).set_index("agent")
    assert table.index.tolist() == ["reference", "ppo", "optimum"]
    # The reference has 0.45 for one draw, 0.68 for 16 and 0.98 for 1,024.
    assert table["overtaken_at"].fillna(0).tolist()[:2] == [0, 16]
    assert table.loc["ppo", "best_of_1024"] == pytest.approx(0.75)
    assert table.loc["optimum", "best_of_1"] > table.loc["reference", "best_of_1"]
    assert table.loc["optimum", "best_of_1024"] < table.loc["reference", "best_of_1024"]
    lines = list(oracle_figures.draw(tmp_path, [stones]))
    assert "credit.png skipped: no results of credit" in lines
    assert (tmp_path / "stepping_stones.csv").read_text().splitlines()[2] == "ppo,16,0.6000,0.7500"


def drawn(figure, axes=0):
    """Lines with a label, as lists."""
    return {
        line.get_label(): (list(line.get_xdata()), list(line.get_ydata()))
        for line in figure.axes[axes].lines
        if not line.get_label().startswith("_")
    }


def test_credit_shows_regret_at_each_horizon():
    panel = known_panel("credit")
    panel.runs.append(runs_of(panel, panel.reference, agent="reference"))
    figure = oracle_figures.credit(panel, oracle_looks.looks([panel]))
    horizons, regrets = drawn(figure)["reference"]
    assert horizons == [1, 2, 4, 8]
    # KL of a fair coin from one with odds exp(1 / 0.2), whatever follows.
    p = 1 / (1 + math.exp(-5))
    expected = 0.5 * math.log(0.5 / p) + 0.5 * math.log(0.5 / (1 - p))
    np.testing.assert_allclose(regrets, expected, rtol=1e-6)


def test_many_good_answers_shows_coverage_and_probability_by_k():
    panel = known_panel("many-good-answers")
    panel.runs.append(runs_of(panel, panel.reference, agent="reference"))
    figure = oracle_figures.many_good_answers(panel, oracle_looks.looks([panel]))
    ks = [1, 2, 4, 8, 16, 32]
    xs, coverage = drawn(figure)["reference"]
    assert xs == ks
    np.testing.assert_allclose(coverage, 1)
    np.testing.assert_allclose(drawn(figure, 1)["reference"][1], np.array(ks) / 64)
    odds = np.array(ks) * math.exp(5) / (64 - np.array(ks))
    optimum = drawn(figure, 1)[oracle_looks.AT_THE_PRICE["label"]]
    np.testing.assert_allclose(optimum[1], odds / (1 + odds))


def test_an_agent_keeps_its_look_and_algorithms_their_colour():
    panel = known_panel("two-modes")
    agents = [Spec("best_of_n", {"n": n}) for n in (4, 16)]
    agents += [Spec("reference"), Spec("reference", {"temperature": 0.5}), Spec("mine.py:A")]
    panel.runs.extend(Runs(agent, [], []) for agent in agents)
    found = oracle_looks.looks([panel, panel])
    four, sixteen, reference, colder, mine = found.values()
    assert four.color == sixteen.color
    assert len({look.marker for look in found.values()}) == 5
    assert len({look.color for look in (four, reference, colder, mine)}) == 4


@pytest.fixture(scope="module")
def results(tmp_path_factory):
    """A folder of a small suite, and the cache with its language models."""
    out = tmp_path_factory.mktemp("results")
    suite = Suite(
        "small",
        tasks=(Spec("two-modes"), Spec("known-frontier")),
        agents=(Spec("reference"), Spec("reinforce", REINFORCE, "reinforce")),
        reference="pretrained",
        budget=16 * 7,
        seeds=(0, 1),
        evaluation=Evaluation(prompts=2),
    )
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("TEXTGYM_CACHE", str(tmp_path_factory.mktemp("cache")))
        bench = Workbench(out)
        console = Console(file=io.StringIO())
        outcomes = run_suite(suite, bench, preflight(bench, suite, print), 1, console)
        assert not [outcome.error for outcome in outcomes if outcome.error]
        yield out


def test_panels_hold_each_seeds_prompts_and_the_reference_that_was_measured(results):
    known, two = data.read_panels(results)
    assert (known.label, two.label) == ("known-frontier", "two-modes")
    reference, reinforce = known.runs
    assert (reference.agent.label, len(reinforce.curves)) == ("reference", 2)
    # Each seed is asked two of the four prompts.
    assert len(known.asked) == 4
    kept = [prompt for table in reference.prompts for prompt in table["prompt"]]
    assert kept == known.asked
    rewards = np.concatenate([table["reward"] for table in reference.prompts])
    np.testing.assert_allclose(known.measured(known.reference)["reward"], rewards, rtol=1e-6)
    ways = data.paths(known, reinforce, ["reward"])
    assert [way["step"].tolist() for way in ways] == [[0, 1, 6, 7]] * 2
    for way, table in zip(ways, reinforce.prompts, strict=True):
        assert way["reward"].iloc[-1] == table["reward"].mean()
    assert data.paths(known, reference, ["reward"]) == []


def test_the_command_draws_what_there_is(results, tmp_path, capsys):
    oracle_figures.main([str(results), "--out", str(tmp_path), "--betas", str(results)])
    said = capsys.readouterr().out
    for name in ("credit", "stepping-stones", "many-good-answers"):
        assert f"{name.replace('-', '_')}.png skipped: no results of {name}" in said
    assert sorted(p.name for p in tmp_path.iterdir()) == ["mode_seeking.png", "two_modes.png"]
    for picture in tmp_path.iterdir():
        assert picture.read_bytes().startswith(b"\x89PNG")
        assert picture.stat().st_size > 20_000


def test_mode_seeking_shows_each_agent_at_its_mean(results):
    panels = data.read_panels(results)
    figure = oracle_figures.mode_seeking(panels[::-1], oracle_looks.looks(panels))
    assert [axes.get_title() for axes in figure.axes] == ["known-frontier", "two-modes"]
    (x,), (y,) = drawn(figure)["reinforce"]
    assert x == pytest.approx(panels[0].runs[1].seed_means("reward").mean())
    assert y == pytest.approx(panels[0].runs[1].seed_means("entropy_kept").mean())


def put(out, task, reference="pretrained"):
    config = {"task": {"name": task, "options": {}, "label": task}, "reference": reference}
    config |= {"agent": {"name": "a", "options": {}, "label": "a"}, "seed": 0, "evaluation": {}}
    tables = {"prompts": pd.DataFrame({"reward": [1.0]}), "curve": pd.DataFrame({"step": []})}
    write_cell(out / "task" / "a" / "seed-0", {"config": config}, tables)


def test_a_folder_without_such_results_is_one_line_and_status_2(tmp_path, plugin, capsys):
    def said(out):
        with pytest.raises(SystemExit) as stop:
            oracle_figures.main([str(out)])
        assert stop.value.code == 2
        shown = capsys.readouterr().err
        assert shown.count("\n") == 1
        return shown

    assert "no results folder" in said(tmp_path / "absent")
    put(tmp_path / "letters", plugin("Letters"))
    assert "holds no results of oracle tasks" in said(tmp_path / "letters")
    put(tmp_path / "tuned", "two-modes", reference="sft")
    assert "expected the reference 'pretrained', got 'sft'" in said(tmp_path / "tuned")
    assert not list(tmp_path.glob("**/*.png"))
