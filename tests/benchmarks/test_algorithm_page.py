"""The page on the algorithms: what stands between its markers is made, not written."""

from __future__ import annotations

from dataclasses import dataclass

import pandas as pd
import pytest

from textgym.agents import AGENTS
from textgym.benchmarks import algorithm_figures, algorithm_page
from textgym.benchmarks.suite import load_suite
from textgym.errors import ConfigError

WORLD = {
    "task": ["toxicity", "toxicity"],
    "rank": [1, 2],
    "agent": ["ppo", "best of 4"],
    "seeds": [3, 3],
    "reward": [0.9, 0.8],
    "reward_low": [0.85, 0.7],
    "reward_high": [0.95, 0.9],
    "gold": [0.6, 0.5],
    "gold_low": [0.5, 0.45],
    "gold_high": [0.7, 0.55],
    "kl_seq": [1.5, float("nan")],
    "kl_estimate": [float("nan"), 0.62],
    "diversity_loss/ead": [0.25, 0.125],
}
ORACLE = {
    "task": ["two-modes", "all tasks", "two-modes", "all tasks"],
    "rank": [1, 1, 2, 2],
    "agent": ["ppo", "ppo", "dpo", "dpo"],
    "seeds": [3, 3, 3, 3],
    "regret": [0.5, 0.25, 0.75, 2.0],
}


@pytest.fixture
def results(tmp_path):
    for part, columns in {"core": WORLD, "algorithms/oracle": ORACLE}.items():
        (tmp_path / part).mkdir(parents=True)
        pd.DataFrame(columns).to_csv(tmp_path / part / "leaderboard.csv", index=False)
    return tmp_path


def test_markers_are_filled_and_prose_is_left(results):
    page = (
        "# Page\nprose\n<!-- results:ppo -->\nstale\n<!-- /results:ppo -->\nmore\n"
        "<!-- results:best_of_n -->\n<!-- /results:best_of_n -->\n"
        "<!-- settings:best_of_n -->\n<!-- /settings:best_of_n -->\nend\n"
    )
    filled = algorithm_page.fill(page, results)
    assert "stale" not in filled
    assert filled.startswith("# Page\nprose\n<!-- results:ppo -->\n| on | agent | rank | reward |")
    assert "| toxicity | ppo | 1 | 0.900 ± 0.050 | 0.600 ± 0.100 | 1.50 | 25.0% | – |" in filled
    assert "| all tasks | ppo | 1 | 0.250 |" in filled
    assert "| two-modes | ppo" not in filled
    assert "| toxicity | best of 4 | 2 | 0.800 ± 0.100 | 0.500 ± 0.050 | ~0.62 |" in filled
    assert "`best of 4`: `n=4`" in filled
    assert (
        "| `n` | `8` | samples drawn for each one kept; n = 1 is the reference itself. |" in filled
    )
    assert filled.endswith("end\n")
    assert algorithm_page.fill(filled, results) == filled


@pytest.mark.parametrize("marker", ["<!-- results:ppo -->", "<!-- settings:ppo -->\n"])
def test_an_open_marker_is_refused(marker, results):
    with pytest.raises(ConfigError, match="not closed"):
        algorithm_page.fill(f"{marker}\nprose", results)


def test_an_unknown_agent_is_refused(results):
    page = "<!-- settings:pppo -->\n<!-- /settings:pppo -->"
    with pytest.raises(Exception, match="did you mean 'ppo'"):
        algorithm_page.fill(page, results)


def test_field_sentences_are_read_from_a_config_and_its_bases():
    @dataclass
    class Base:
        """Base.

        Attributes:
            lr: step size; over
                two lines.
            first, second: a pair.
        """

    @dataclass
    class Own(Base):
        """Own.

        Attributes:
            second: its own.
        """

    assert algorithm_page.field_sentences(Own) == {
        "lr": "step size; over two lines.",
        "first": "a pair.",
        "second": "its own.",
    }


@pytest.mark.parametrize("name", list(AGENTS))
def test_every_setting_of_every_agent_has_its_sentence(name):
    lines = algorithm_page.settings(name).splitlines()
    assert [line for line in lines[2:] if line.endswith("|  |")] == []


def test_the_figures_are_drawn(results):
    pytest.importorskip("matplotlib")
    files = algorithm_figures.draw(results)
    assert [file.name for file in files] == ["toxicity.png", "regret.png"]
    assert all(file.read_bytes().startswith(b"\x89PNG") for file in files)


def test_a_dot_stands_at_its_number_in_its_familys_colour():
    pyplot = pytest.importorskip("matplotlib.pyplot")
    kinds = algorithm_figures.families(load_suite("core"))
    figure = algorithm_figures.trade(pd.DataFrame(WORLD), kinds)
    gold = figure.axes[0]
    assert [text.get_text() for text in gold.get_yticklabels()] == ["best of 4", "ppo"]
    drawn = {
        line.get_color(): line.get_xydata().tolist() for line in gold.lines if len(line.get_xdata())
    }
    assert drawn[algorithm_figures.COLOURS["policy gradient"]] == [[0.6, 1.0]]
    assert drawn[algorithm_figures.COLOURS["selection"]] == [[0.5, 0.0]]
    pyplot.close(figure)


def test_a_heat_map_shows_every_regret_best_first():
    pyplot = pytest.importorskip("matplotlib.pyplot")
    figure = algorithm_figures.regrets(pd.DataFrame(ORACLE))
    (axes,) = figure.axes
    assert [text.get_text() for text in axes.get_yticklabels()] == ["ppo", "dpo"]
    assert [text.get_text() for text in axes.texts] == ["0.50", "0.25", "0.75", "2.00"]
    pyplot.close(figure)
