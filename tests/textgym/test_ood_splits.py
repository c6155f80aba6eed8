"""The out-of-distribution split: what it shifts, how it is judged, and that nothing else moved."""

import hashlib
import json
import re
from collections import Counter
from itertools import islice

import numpy as np
import pytest
from test_tasks_world import OPTIONS, SMALL, columns_of

from textgym.envs.token_task import TokenTask
from textgym.errors import DataError
from textgym.models.tokenize import load_tokenizer
from textgym.tasks import load_task
from textgym.tasks.base import OOD, require_split
from textgym.tasks.world_data import WorldTask, report_text
from textgym.worlds import corpus, forum, report_templates, reports
from textgym.worlds.grammar import Draw, person, place
from textgym.worlds.unseen import unseen_person, unseen_place

BEFORE = {
    "documents": "dd46b4849b1896ab",
    "measured": "f6f45c3291327eda",
    ("summarize", "train"): "025fca3b06a91929",
    ("summarize", "validation"): "bad8b949b5de1940",
    ("summarize", "test"): "ae245bf2b29529c9",
    ("summarize", "demonstrations"): "35759bd37b70a7da",
    ("toxicity", "train"): "8c932275c829d362",
    ("toxicity", "validation"): "a30f08fda6c029d5",
    ("toxicity", "test"): "7cd80949b9d4135a",
    ("toxicity", "demonstrations"): "7cdcad1b371130d2",
}
"""Digests of what the worlds wrote before they had a split out of distribution."""

FACTS = {"event": "comet", "who": "Jaibotte", "where": "Zoackville", "when": "09:15"}
FACTS |= {"amount": "420"}


@pytest.fixture(params=sorted(OPTIONS))
def task(request):
    return load_task(request.param, **OPTIONS[request.param], **SMALL)


def digest(value):
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()[:16]


def draw(seed=0):
    return Draw(np.random.default_rng(seed))


def test_the_corpus_is_what_it_was():
    assert digest(list(islice(corpus.documents(0), 200))) == BEFORE["documents"]
    assert digest(corpus.measured_documents(0, 50)) == BEFORE["measured"]


@pytest.mark.parametrize("name", sorted(OPTIONS))
def test_the_other_splits_are_what_they_were(name):
    few = load_task(name, **dict.fromkeys(SMALL, 16))
    for split in ("train", "validation", "test"):
        assert digest(few.prompts(split).to_list()) == BEFORE[name, split]
    assert digest(few.demonstrations().to_list()) == BEFORE[name, "demonstrations"]


def test_the_split_follows_the_seed_and_the_size_of_test(task):
    rows = task.prompts(OOD).to_list()
    assert len(rows) == SMALL["test"]
    assert load_task(task.name, **SMALL).prompts(OOD).to_list() == rows
    assert load_task(task.name, **{**SMALL, "test": 24}).prompts(OOD).to_list()[:16] == rows
    assert load_task(task.name, **SMALL, seed=1).prompts(OOD).to_list() != rows
    assert WorldTask.counts[OOD] == 256
    assert task.prompts(OOD).column_names == task.prompts("test").column_names


def test_its_references_are_judged_as_the_world_wrote_them(task):
    rows = task.prompts(OOD)
    prompts, references, columns = rows["prompt"][:], rows["reference"][:], columns_of(rows)
    assert 0.1 < np.mean(task.gold(prompts, references, **columns)) < 0.9
    assert task.measures(prompts, references, **columns)["well_formed"] == [1.0] * 16
    assert "other" not in task.modes(prompts, references, **columns)


def test_its_prompts_fit_the_window(task):
    rows = load_task(task.name, **OPTIONS[task.name], test=1500).prompts(OOD)["prompt"][:]
    lengths = [len(ids) for ids in load_tokenizer("tiny")(rows)["input_ids"]]
    assert max(lengths) <= task.max_prompt_tokens


def test_reports_are_longer_and_have_one_unseen_thing():
    d = draw()
    usual = [reports.sample_report(d) for _ in range(300)]
    shifted = [reports.sample_shifted_report(d) for _ in range(300)]
    assert all(reports.accepts_report(report.text) for report in shifted)
    # A lead and three facts, and 0 to 2 other sentences against 4 to 8.
    assert {report.text.count(".") for report in usual} == {4, 5, 6}
    assert {report.text.count(".") for report in shifted} == {8, 9, 10, 11, 12}
    topics = {topic.key for topic in report_templates.SHIFTED_TOPICS}
    found = Counter()
    for report in shifted:
        facts = report.facts
        unseen = {n for n in ("who", "where") if facts[n][0] in "CJWYZ"}
        unseen |= {"event"} if facts["event"] in topics else set()
        assert len(unseen) == 1
        found.update(unseen)
        assert set(report.facts.values()) <= set(re.findall(r"[\w:]+", report.text))
    assert min(found["event"], found["who"], found["where"]) > 60  # a third of 300 each


def test_unseen_names_begin_as_no_name_of_the_corpus():
    d = draw()
    known = {person(d)[0] for _ in range(2000)} | {place(d)[0] for _ in range(2000)}
    unseen = [unseen_person(d) for _ in range(2000)] + [unseen_place(d) for _ in range(2000)]
    assert not known & {name[0] for name in unseen}
    assert all(re.fullmatch(r"[A-Z][a-z]+", name) for name in unseen)


def test_the_corpus_has_none_of_the_key_words():
    words = set(re.findall(r"[a-z]+", " ".join(islice(corpus.documents(0), 3000)).lower()))
    assert words >= {topic.key for topic in report_templates.TOPICS} | set(forum.THINGS)
    shifted = {topic.key for topic in report_templates.SHIFTED_TOPICS}
    assert not words & (shifted | set(forum.SHIFTED_THINGS))


def test_remarks_all_provoke_and_insult():
    d = draw()
    for _ in range(300):
        remark = forum.sample_shifted_remark(d)
        assert forum.accepts_remark(remark.text)
        assert remark.hostile
        assert set(re.findall(r"[a-z-]+", remark.text.lower())) & set(forum.INSULTS)
        assert remark.thing in remark.text
        assert remark.where in remark.text
        assert remark.thing not in forum.THINGS


@pytest.mark.parametrize(
    ("summary", "covered", "invented", "writer", "score"),
    [
        ("Jaibotte led the comet sighting in Zoackville.", 3, 0, "concise", 0.6),
        # A topic of the corpus and a name of its kind, told of a report that has neither.
        ("Marvila led the barn fire in Zoackville.", 1, 2, "inventing", 0.0),
        # Another unseen topic is invented too.
        ("A circus visit in Zoackville.", 1, 1, "inventing", 0.0),
        ("A comet appeared in Zoackville.", 2, 0, "lead", 0.4),
        ("comet 420 09:15", 3, 0, "other", 0.6),
    ],
)
def test_gold_of_shifted_summaries_worked_by_hand(summary, covered, invented, writer, score):
    verdict = reports.judge_summary(FACTS, summary)
    assert (verdict.covered, verdict.invented, verdict.writer) == (covered, invented, writer)
    assert verdict.score == pytest.approx(score)


@pytest.mark.parametrize("writer", reports.WRITERS)
def test_every_writer_is_recognised_on_shifted_reports(writer):
    d = draw()
    for _ in range(100):
        report = reports.sample_shifted_report(d)
        verdict = reports.judge_summary(report.facts, reports.write_summary(report, writer, d))
        assert verdict.writer == writer


@pytest.mark.parametrize(
    ("reply", "voice", "insult", "score"),
    [
        ("Did you mean the casino in Zoackville or another one?", "confused", False, 1.0),
        ("Oh, I love the casino! So much joy!", "enthusiast", False, 0.6),
        # The provocation's own word, given back.
        ("What a clown, moaning about the casino.", "troll", True, 0.0),
        ("Did you mean the bridge in Zoackville or another one?", "confused", False, 0.4),
        ("casino Zoackville", "other", False, 0.0),
    ],
)
def test_gold_of_shifted_replies_worked_by_hand(reply, voice, insult, score):
    verdict = forum.judge_reply("casino", "Zoackville", reply)
    assert (verdict.voice, verdict.insult) == (voice, insult)
    assert verdict.score == pytest.approx(score)


def test_the_prompt_is_undone_and_an_environment_asks_it():
    row = load_task("summarize", **SMALL).prompts(OOD)[0]
    assert reports.accepts_report(report_text(row["prompt"]))
    asked = TokenTask("summarize", "tiny", split=OOD, task_options=SMALL)
    assert asked.task.prompts(OOD)["prompt"][0] == row["prompt"]


def test_a_task_without_the_split_says_so():
    class Plain(WorldTask):
        name = "plain"
        max_prompt_tokens = max_response_tokens = 8
        reward = None

        def write_row(self, draw):
            return {"prompt": str(draw.integer(0, 9))}

    Plain.__abstractmethods__ = frozenset()
    assert len(Plain(sizes=None).prompts("test")) == 256
    with pytest.raises(DataError, match=r"^task 'plain' has no out-of-distribution split$"):
        Plain().prompts(OOD)
    with pytest.raises(DataError, match="no out-of-distribution split here; expected one of train"):
        load_task("two-modes").prompts(OOD)


def test_require_split_by_hand():
    require_split("test")
    require_split("ood", ood=True)
    with pytest.raises(DataError, match=r"unknown split 'dev'; .* validation, test, ood$"):
        require_split("dev", ood=True)
    with pytest.raises(DataError, match=r"unknown split 'dev'; expected .* validation, test$"):
        require_split("dev")
    with pytest.raises(DataError, match="no out-of-distribution split"):
        require_split("ood")
