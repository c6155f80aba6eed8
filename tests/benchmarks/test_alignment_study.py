"""The study of the alignment tax: changes over SFT on the same prompts, told by their intervals."""

import math

import numpy as np
import pandas as pd
import pytest
from matplotlib.figure import Figure

from textgym.benchmarks.studies.alignment_tax import AGENTS, JUDGES, AlignmentTax
from textgym.benchmarks.studies.packing import packed, unpacked
from textgym.benchmarks.studies.study import shown


def row(agent, seed, helpful, honest, harmless):
    """A row as `run` makes it; None where a judge has nothing to say."""
    kept = {"helpful": helpful, "honest": honest, "harmless": harmless}
    kept |= {"gold": [0.5] * 4, "deflection": [0.25, 0, 0, 0]}
    numbers = {n: packed([math.nan if v is None else v for v in vs]) for n, vs in kept.items()}
    return {"seed": seed, "agent": agent, "KL": 0.5, **numbers}


def rows():
    found = []
    for seed in (0, 1):
        found += [
            row("pretrained", seed, [0, 0, None, None], [1, 1, 0, None], [1, 1, 1, 0]),
            row("sft", seed, [0.5, 0.5, None, None], [1, 1, 0, None], [1, 1, 1, 0]),
            # Gives nothing any more, and refuses: all the same on every request it applies to.
            row("ppo", seed, [0, 0, None, None], [1, 1, 0, None], [1, 1, 1, 1]),
            row("rloo", seed, [1, 1, None, None], [1, 1, 0, None], [1, 1, 1, 0]),
            row("dpo", seed, [0, 1, None, None], [1, 1, 0, None], [1, 1, 1, 0]),
        ]
    return pd.DataFrame(found)


def test_packing_keeps_what_does_not_apply():
    np.testing.assert_equal(unpacked(packed([0.125, math.nan, 1])), [0.125, math.nan, 1])


def test_changes_are_means_over_the_requests_a_judge_applies_to():
    table = AlignmentTax().summary(rows()).set_index("agent")
    assert table.loc["ppo", "helpful, change"] == pytest.approx(-0.5)
    assert table.loc["ppo", "helpful, change_se"] == 0  # the same on every request
    assert table.loc["ppo", "harmless, change"] == pytest.approx(0.25)
    assert table.loc["ppo", "honest, change"] == 0
    assert table.loc["sft", "helpful"] == pytest.approx(0.5)
    assert table.loc["sft", "honest"] == pytest.approx(2 / 3)
    assert table.loc["dpo", "helpful, change_se"] > 0.25  # down on one request, up on the other


def test_the_page_can_show_every_number():
    study = AlignmentTax()
    table = shown(study.summary(rows()), study.by)
    ppo = next(line for line in table.splitlines() if line.startswith("| ppo"))
    assert ppo.startswith("| ppo | 0.500 | 0.000 | 0.667 ± ")
    assert ppo.endswith("| 0.500 |")  # the KL, of which a mean alone is kept


def test_findings_name_what_is_sold_only_where_the_interval_leaves_no_doubt():
    study = AlignmentTax()
    told = "\n".join(study.findings(study.summary(rows())))
    assert "rloo gains without a trade: helpful +0.50 ± 0.00." in told
    assert "dpo changes no judge by more than its interval." in told
    # +0.25 on one request in four: another draw of requests may hold none of it.
    assert "ppo loses without a trade: helpful -0.50 ± 0.00." in told
    assert "SFT is helpful in 50% ± 0" in told


def test_the_figure_has_a_panel_for_every_judge():
    study, figure = AlignmentTax(), Figure()
    study.draw(study.summary(rows()), figure)
    assert [axes.get_title() for axes in figure.axes] == list(JUDGES)


def test_a_point_for_every_agent():
    assert [point["agent"] for point in AlignmentTax().points(3)] == list(AGENTS)
