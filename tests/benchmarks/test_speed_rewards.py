import pytest

from textgym.benchmarks.speed import rewards
from textgym.errors import DataError
from textgym.rewards.detoxify import Toxicity
from textgym.rewards.learned import RewardModel


def test_texts_are_distinct_and_belong_to_their_prompts():
    prompts, texts = rewards.distinct_texts("toxicity", 20)
    assert len(prompts) == len(set(texts)) == 20
    from textgym.tasks import load_task

    rows = load_task("toxicity").prompts("train")
    pairs = set(zip(rows["prompt"], rows["reference"], strict=True))
    assert set(zip(prompts, texts, strict=True)) <= pairs
    with pytest.raises(DataError, match="expected 10000000 distinct references"):
        rewards.distinct_texts("toxicity", 10_000_000)


def test_every_way_scores_the_same_texts(monkeypatch):
    monkeypatch.setattr(rewards, "COMPLETIONS", 6)
    scored, read = [], []
    raw_scores, predict = RewardModel.raw_scores, Toxicity._predict
    monkeypatch.setattr(
        RewardModel, "raw_scores", lambda self, rows: scored.append(rows) or raw_scores(self, rows)
    )
    monkeypatch.setattr(
        Toxicity, "_predict", lambda self, texts: read.append(texts) or predict(self, texts)
    )
    batched, single, classifier = rewards.measure(repeats=1)
    assert {row.goal for row in (batched, single, classifier)} == {None}
    assert all(row.ratio > 0 for row in (batched, single, classifier))
    assert (batched.detail["peer_calls"], single.detail["peer_calls"]) == (1, 6)
    # Two runs each, the first to warm up: ours, one batch in order of arrival, ours, one by one.
    ours, arrival = scored[0], scored[1]
    assert len(ours) == len(arrival) == 6
    assert ours != arrival
    assert set(ours) == set(arrival)
    singles = [rows for rows in scored if len(rows) == 1]
    assert len(singles) == 2 * 6
    assert [rows[0] for rows in singles[:6]] == list(arrival)
    assert [len(texts) for texts in read] == [6, 6]
