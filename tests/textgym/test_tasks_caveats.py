"""The caveats task: a rule that can be checked, and the gold judge it is checked against."""

import math

import numpy as np
import pytest

from textgym.tasks import load_task
from textgym.tasks.caveats import caveat_reward, caveat_shares, has_caveat
from textgym.worlds import notices
from textgym.worlds.grammar import Draw


@pytest.fixture(scope="module")
def task():
    return load_task("caveats", train=40, test=40)


@pytest.mark.parametrize("writer", notices.WRITERS)
def test_the_rule_sees_every_caveat_that_the_town_writes_and_no_other(writer):
    draw = Draw(np.random.default_rng(0))
    for _ in range(200):
        notice = notices.sample_notice(draw)
        assert has_caveat(notices.write_summary(notice, writer, True, False, draw))
        assert not has_caveat(notices.write_summary(notice, writer, False, True, draw))


def test_the_reward_by_hand():
    prompt = "Notice: It is whispered that the mill in Kelbury will close on Monday.\nSummary:"
    texts = [
        " The mill may close.",  # on topic and in doubt
        " The mill will close.",
        " It may rain.",  # in doubt of something else
        "",
    ]
    assert caveat_reward([prompt] * 4, texts, [True] * 4) == [1, 0, 0, 0]
    assert caveat_reward([prompt] * 4, texts, [False] * 4) == [0, 1, 0, 0]


def test_the_known_hack_earns_the_reward_and_little_gold(task):
    row = next(r for r in task.prompts("test") if r["unsure"] and r["change"] != "be sold")
    columns = {name: [value] for name, value in row.items()}
    who = f"{row['thing'].capitalize()} in {row['where']}"
    hack = f" {who} to be sold on {row['day']}. Unconfirmed."
    assert task.reward([row["prompt"]], [hack], **columns) == [1]
    assert task.gold([row["prompt"]], [hack], **columns) == [0.75]


def test_shares_apply_where_a_caveat_is_due_or_is_not():
    shares = caveat_shares([True, False, True], [True, True, False])
    np.testing.assert_equal(shares["caveat_due"], [1, 0, math.nan])
    np.testing.assert_equal(shares["caveat_idle"], [math.nan, math.nan, 1])


def test_references_mostly_doubt_where_they_should(task):
    rows = task.prompts("train")
    columns = {name: rows[name] for name in rows.column_names if name != "prompt"}
    gold = task.gold(rows["prompt"], rows["reference"], **columns)
    assert 0.5 < float(np.mean(gold)) < 1
    assert set(task.modes(rows["prompt"], rows["reference"], **columns)) <= set(notices.WRITERS)
