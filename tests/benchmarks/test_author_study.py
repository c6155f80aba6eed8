"""The study of author and searcher, on numbers worked by hand."""

import math
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
from matplotlib.figure import Figure

from textgym.agents.base import make_config
from textgym.benchmarks.intervals import SET
from textgym.benchmarks.studies import author_shown as shown
from textgym.benchmarks.studies import author_told as told
from textgym.benchmarks.studies.author_searcher import WAYS, AuthorSearcher
from textgym.benchmarks.studies.packing import packed, unpacked
from textgym.benchmarks.studies.study import point_name
from textgym.benchmarks.studies.study import shown as page_table
from textgym.benchmarks.workbench import load_agent_class


def row(algorithm, seed, searcher, author, good, new, kl=(0, 0, 0, 0), setting=""):
    values = {"searcher": searcher, "author": author, told.GOOD: good, told.NEW: new, told.KL: kl}
    values = {name: packed(np.array(v, float)) for name, v in values.items()}
    return {"algorithm": algorithm, "setting": setting, "seed": seed, **values}


NAN = math.nan
# Two stories and two questions per seed; no idea is good of a question.
ROWS = [
    row("sft", 1, (0.4, 0.6, 0.5, 0.5), (0.8, 1, 1, 1), (1, 3, NAN, NAN), (0, 1, NAN, NAN)),
    row("sft", 0, (0.2, 0.4, 0.1, 0.5), (0.6, 1, 0, 1), (0, 2, NAN, NAN), (0, 1, NAN, NAN)),
    row("rloo", 0, (0.8, 0.8, 0.1, 0.5), (0.8, 0.8, 0, 1), (0, 0, NAN, NAN), (0, 0, NAN, NAN),
        (1, 1, 2, 2), "KL price 0.05"),
    row("rloo", 1, (0.8, 0.8, 0.5, 0.5), (0.8, 0.8, 1, 1), (0, 0, NAN, NAN), (0, 0, NAN, NAN),
        (1, 1, 2, 2), "KL price 0.05"),
    row("rloo + novelty", 0, (0.8, 0.8, 0.1, 0.5), (1, 1, 0, 1), (3, 5, NAN, NAN),
        (3, 1, NAN, NAN), (1, 1, 2, 2), "KL price 0.05"),
    row("rloo + novelty", 1, (0.8, 0.8, 0.5, 0.5), (1, 1, 1, 1), (3, 5, NAN, NAN),
        (3, 1, NAN, NAN), (1, 1, 2, 2), "KL price 0.05"),
    row("dpo", 0, (1, 1, 1, 1), (1, 1, 1, 1), (1, 1, NAN, NAN), (0, 0, NAN, NAN)),
]  # fmt: skip
ORDER = [
    ("sft", ""),
    ("dpo", ""),
    ("rloo", "KL price 0.05"),
    ("rloo + novelty", "KL price 0.05"),
]


@pytest.fixture
def ways():
    return told.read_ways(pd.DataFrame(ROWS), ORDER)


def test_what_is_packed_comes_back_in_thousandths():
    text = packed([0.1234, NAN, 2])
    assert text == "123 - 2000"
    assert unpacked(text).tolist()[::2] == [0.123, 2]
    assert math.isnan(unpacked(text)[1])


def test_a_row_keeps_what_was_seen_of_every_prompt():
    table = pd.DataFrame(
        {
            "kl_seq": [1.0, 3.0],
            SET + "searcher": [0.5, 0.25],
            SET + "author": [1.0, 0.5],
            SET + "good_ideas": [4.0, NAN],
            SET + "novel_ideas": [0.25, NAN],
        }
    )
    kept = told.packed_row(SimpleNamespace(prompts=table, kl=2.0))
    assert kept["searcher"] == "500 250"
    assert kept[told.GOOD] == "4000 -"
    assert kept[told.NEW] == "1000 -"  # a quarter of four
    assert kept[told.KL] == "1000 3000"
    none_good = table.assign(**{SET + "good_ideas": [0.0, NAN], SET + "novel_ideas": [NAN, NAN]})
    kept = told.packed_row(SimpleNamespace(prompts=none_good, kl=2.0))
    assert kept[told.NEW] == "0 -"
    # What no policy scores has the agent's estimate.
    kept = told.packed_row(SimpleNamespace(prompts=table.drop(columns="kl_seq"), kl=0.7))
    assert kept[told.KL] == "700 700"


def test_ways_are_read_in_order_with_their_seeds_and_without_holes(ways):
    # dpo has one seed of two.
    assert [way.algorithm for way in ways] == ["sft", "rloo", "rloo + novelty"]
    assert ways[0].values["searcher"][:, 0].tolist() == [0.2, 0.4]
    assert ways[1].name == "rloo, KL price 0.05"


def test_gains_by_hand(ways):
    start, rloo, novelty = ways
    # Stories: 0.6, 0.4, 0.4, 0.2; questions: nothing.
    assert rloo.gain(start, "searcher").estimate == pytest.approx(0.2)
    assert rloo.gain(start, "searcher", told.STORIES).estimate == pytest.approx(0.4)
    assert rloo.gain(start, "searcher", told.QUESTIONS).estimate == 0
    # Stories: 0.2, -0.2, 0, -0.2.
    assert rloo.gain(start, "author", told.STORIES).estimate == pytest.approx(-0.05)
    assert rloo.searchers_lead(start).estimate == pytest.approx(0.2 - -0.025)
    assert rloo.mean(told.GOOD).estimate == 0
    assert rloo.gain(start, told.GOOD).estimate == -1.5
    assert novelty.gain(rloo, told.GOOD).estimate == 4
    assert rloo.mean(told.KL).estimate == 1.5


def test_gains_are_paired(ways):
    start, rloo, _ = ways
    found = rloo.gain(start, "searcher", told.QUESTIONS)
    assert (found.low, found.high) == (0, 0)  # though questions differ much from each other
    assert start.mean("searcher").low < start.mean("searcher").high


def test_the_novel_share_is_of_the_good_ideas(ways):
    start, rloo, novelty = ways
    assert start.novel_share().estimate == pytest.approx(2 / 6)
    assert novelty.novel_share().estimate == pytest.approx(8 / 16)
    assert math.isnan(rloo.novel_share().estimate)


def test_the_summary_is_told_and_drawn(ways):
    summary = told.summary(ways)
    first = summary.iloc[1]
    assert first["searcher's gain, stories"] == pytest.approx(0.4)
    interval = ways[1].gain(ways[0], "searcher", told.STORIES)
    assert first["searcher's gain, stories_se"] == pytest.approx((interval.high - interval.low) / 2)
    table = page_table(summary, AuthorSearcher.by)
    assert "| rloo | KL price 0.05 |" in table
    assert "nan" not in table
    figure = Figure()
    shown.draw(summary, figure)
    assert len(figure.axes) == 4


def test_findings_count_what_intervals_tell(ways):
    found = shown.findings(told.summary(ways))
    text = "\n".join(found)
    assert "SFT gives the searcher 0.40" in text
    assert "On all prompts, of 2 tuned settings the searcher gains from 2" in text
    # The author's loss with rloo is not beyond doubt, the gain with novelty is 0.15 on stories.
    assert "On stories, of 2 tuned settings the searcher gains from 2 and loses from 0" in text
    assert "On questions, of 2 tuned settings the searcher gains from 0 and loses from 0" in text
    assert "most are in rloo + novelty, KL price 0.05: 4.00" in text
    assert "A reward for novelty changes rloo, KL price 0.05: searcher +0.00" in text
    assert "nan" not in text


def test_points_have_names_of_their_own_and_agents_there_are():
    points = AuthorSearcher().points(1)
    names = {point_name(point) for point in points}
    assert len(names) == len(points) == len(WAYS)
    assert "way-rloo-novelty-kl-price-0.05_seed-1" in names
    assert points[-1] == {"way": "sft", "seed": 1}
    for way in WAYS:
        make_config(load_agent_class(way.agent).config_class, way.options)
