"""The report's verdict, pages and pictures, and the command that makes them."""

from __future__ import annotations

import dataclasses
import json
import re
import shutil
import sys
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest
from report_support import (
    SCORES,
    TableReward,
    bradley_terry,
    four_ratings,
    pair,
    rng,
    single,
    six_pairs,
)

from textgym.errors import ConfigError, FeedbackError, ResultsError, StoreError
from textgym.feedback.formats import write_feedback
from textgym.feedback.records import BINARY, PAIRWISE
from textgym.feedback.report import writing
from textgym.feedback.report.command import run_report
from textgym.feedback.report.names import markdown_block, markdown_text, one_line
from textgym.feedback.report.numbers import Estimate
from textgym.feedback.report.report import RewardReport, measure_reward
from textgym.feedback.report.verdict import Verdict, shown, verdicts
from textgym.feedback.report.writing import write_report

SCRIPT = "<script>alert('x')</script>"
PNG = b"\x89PNG\r\n\x1a\n"


def report_of(feedback: Any = None, **options: Any) -> RewardReport:
    answers = six_pairs() if feedback is None else feedback
    options = {"generator": rng(), "resamples": 50, "reward": TableReward(SCORES)} | options
    return measure_reward(options.pop("reward"), answers, **options)


def verdict_on(report: RewardReport, beginning: str) -> Verdict:
    (found,) = [v for v in verdicts(report) if v.question.startswith(beginning)]
    return found


def with_kind(**changes: Any) -> RewardReport:
    report = report_of()
    kind = dataclasses.replace(report.kinds[PAIRWISE], **changes)
    return dataclasses.replace(report, kinds={PAIRWISE: kind})


def test_numbers_in_words() -> None:
    assert shown(Estimate(0.714, 0.66, 0.761), "accuracy") == "71% [66, 76]"
    assert shown(Estimate(-0.001, -0.5, 0.5)) == "0.00 [-0.50, 0.50]"
    assert shown(Estimate(0.1), "accuracy", sign="+") == "+10 points"
    assert shown(Estimate(None, missing="no pairs")) == "missing: no pairs"


@pytest.mark.parametrize(
    ("low", "high", "answer", "good"),
    [
        (0.51, 0.9, "yes", True),
        (0.5, 0.9, "unclear", None),
        (0.2, 0.5, "no", False),
        (None, None, "unclear", None),
    ],
)
def test_chance_and_length_are_beaten_by_whole_intervals(
    low: float | None, high: float | None, answer: str, good: bool | None
) -> None:
    report = with_kind(overall=Estimate(0.5, low, high))
    found = verdict_on(report, "better than chance")
    assert (found.answer, found.good) == (answer, good)
    if low is not None and high is not None:
        low, high = low - 0.5, high - 0.5
    report = with_kind(beyond_length=Estimate(0.0, low, high))
    found = verdict_on(report, "better than the length baseline")
    assert (found.answer, found.good) == (answer, good)


def test_verdict_on_other_distributions_and_groups() -> None:
    others = {
        "far": Estimate(0.5, 0.4, 0.59),
        "near": Estimate(0.55, 0.4, 0.65),
        "same": Estimate(0.6, 0.5, 0.8),
        "none": Estimate(None, missing="no pairwise answers"),
    }
    report = with_kind(overall=Estimate(0.7, 0.6, 0.8), off_distribution=others)
    answers = {name: verdict_on(report, f"as good on '{name}'").answer for name in others}
    assert answers == {"far": "no", "near": "unclear", "same": "yes", "none": "unclear"}
    groups = {"a": Estimate(0.9, 0.8, 1), "b": Estimate(0.5, 0.4, 0.69)}
    report = with_kind(overall=Estimate(0.7, 0.6, 0.8), groups=groups)
    found = verdict_on(report, "serves every group")
    assert (found.answer, found.numbers) == ("no", "the worst of 2, 'b': 50% [40, 69]")
    groups[""] = Estimate(0.4, 0.3, 0.5)
    assert "'no group': 40%" in verdict_on(report, "serves every group").numbers
    del groups[""]
    groups["b"] = Estimate(0.5, 0.4, 0.7)
    assert verdict_on(report, "serves every group").answer == "yes"
    assert not [v for v in verdicts(with_kind(groups={"": groups["a"]})) if "group" in v.question]


def test_verdict_on_calibration_knows_what_chance_gives() -> None:
    report = with_kind(answers=100)
    assert report.pairs is not None
    expected = {(0.05, 0.01): "yes", (0.051, 0.06): "unclear", (0.07, 0.06): "no"}
    for (error, high), answer in expected.items():
        calibration = dataclasses.replace(
            report.pairs.calibration, error=error, chance_error_high=high
        )
        pairs = dataclasses.replace(report.pairs, calibration=calibration)
        changed = dataclasses.replace(report, pairs=pairs)
        assert verdict_on(changed, "calibrated within 0.05").answer == answer
    few = dataclasses.replace(with_kind(answers=99), pairs=pairs)
    assert verdict_on(few, "calibrated within 0.05").answer == "no"
    calibration = dataclasses.replace(calibration, error=0.01)
    few = dataclasses.replace(few, pairs=dataclasses.replace(pairs, calibration=calibration))
    assert verdict_on(few, "calibrated within 0.05").answer == "unclear"


def test_verdict_on_batch_length_annotators_and_number() -> None:
    report = report_of()
    assert verdict_on(report, "depends on batch").good
    moved = dataclasses.replace(report.invariance, moves=True, alone=0.25)
    found = verdict_on(dataclasses.replace(report, invariance=moved), "depends on batch")
    assert (found.answer, found.good) == ("yes", False)
    assert found.numbers == "scores of 10 texts move by at most 0.25"
    assert verdict_on(report, "enough prompts").answer == "no"
    for size, answer in {-0.51: "yes", 0.5: "no", 0.51: "yes"}.items():
        length = dataclasses.replace(report.length, spearman_within=Estimate(size))
        assert verdict_on(dataclasses.replace(report, length=length), "follows").answer == answer
    for alpha, answer in {0.8: "yes", 0.7: "unclear", 0.66: "no"}.items():
        agree = verdict_on(with_kind(alpha=Estimate(alpha)), "annotators agree")
        assert agree.answer == answer
    assert verdict_on(report, "annotators agree").answer == "unclear"


def test_a_trustworthy_reward_is_called_so() -> None:
    answers, reward = bradley_terry(600, 1.0, spread=1.5)
    report = report_of(answers, reward=reward, gold=reward, resamples=200)
    found = {v.question: v.answer for v in verdicts(report)}
    assert found["better than chance"] == "yes"
    assert found["better than the length baseline"] == "yes"
    assert found["depends on batch or padding"] == "no"
    assert found["calibrated within 0.05"] in ("yes", "unclear")
    report = report_of(answers, reward=lambda prompts, texts, **_: [float(len(t)) for t in texts])
    assert verdict_on(report, "better than the length baseline").answer == "no"


def test_names_are_made_fit_to_be_shown() -> None:
    assert one_line("a\x00b\r\nc\u2028d") == "a b  c d"
    assert markdown_text("[x](http://y) 50% [40, 60]") == "[x\\](http://y) 50% [40, 60]"
    assert markdown_text("a|b") == "a\\|b"
    assert markdown_block("# a\n</pre>\r\nb") == "    # a\n    </pre>\n    b"


class Page(HTMLParser):
    """The tags and the shown text of a page."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.loads: list[str | None] = []
        self.text = ""
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.loads += [value for name, value in attrs if name in ("src", "href")]

    def handle_data(self, data: str) -> None:
        self.text += data


def test_a_report_is_written_whole(tmp_path: Path) -> None:
    folder = write_report(report_of(gold=TableReward(SCORES)), tmp_path / "deep" / "report")
    names = {path.name for path in folder.iterdir()}
    pictures = {"agreement-pairwise", "groups-pairwise", "calibration", "margin", "length"}
    pictures |= {"score-length", "gold"}
    pages = {"report.json", "report.md", "report.html"}
    assert names == pages | {f"{name}.png" for name in pictures}
    assert all((folder / f"{name}.png").read_bytes().startswith(PNG) for name in pictures)
    assert [path.name for path in folder.parent.iterdir()] == ["report"]
    numbers = json.loads((folder / "report.json").read_text())
    assert numbers["kinds"]["pairwise"]["overall"]["value"] == pytest.approx(0.7)
    assert numbers["verdict"][0]["question"] == "better than chance"
    page = Page((folder / "report.html").read_text())
    assert page.tags.count("svg") == len(pictures)
    # Nothing is loaded: pictures refer to their own parts alone.
    assert all(value is not None and value.startswith("#") for value in page.loads)
    for text in (page.text, (folder / "report.md").read_text()):
        assert re.search(r"reward\W*70% \[", text.replace("\u00a0", " "))
        assert "ties of annotators, left out" in text


def test_no_text_enters_a_report_unless_asked(tmp_path: Path) -> None:
    answers = [pair("secret prompt", "secret worse", "secret better", 0)]
    answers += [pair(f"secret {n}", f"secret {n} a", f"secret {n} b", n % 2) for n in range(5)]
    reward = TableReward({"secret worse": 9.0})
    folder = write_report(report_of(answers, reward=reward), tmp_path / "report")
    for path in folder.iterdir():
        assert b"secret" not in path.read_bytes()
    folder = write_report(report_of(answers, reward=reward, examples=1), folder)
    for name in ("report.json", "report.md", "report.html"):
        text = (folder / name).read_text()
        assert "secret better" in text
        assert "secret 1" not in text


def test_scripts_in_names_and_texts_are_shown_not_run(tmp_path: Path) -> None:
    answers = [
        pair(f"p{n} {SCRIPT}\ud83d", f"a{n} {SCRIPT}", f"b{n} {SCRIPT}", n % 2, who, group)
        for n in range(4)
        for who, group in ((SCRIPT, SCRIPT), ("$\\frac$ |x|", "bad $\\frac$ math \n| 日本 &"))
    ]
    reward = TableReward({f"a{n} {SCRIPT}": float(n) for n in range(4)}, default=-1.0)
    report = report_of(answers, reward=reward, examples=3, off_distribution={SCRIPT: answers})
    folder = write_report(report, tmp_path / "report")
    page = Page((folder / "report.html").read_text())
    assert "script" not in page.tags
    assert page.text.count(SCRIPT) > 9
    lines = (folder / "report.md").read_text().splitlines()
    assert any("&lt;script&gt;" in line for line in lines)
    # Raw text only in indented blocks.
    assert all(line.startswith("    ") for line in lines if "<script" in line)
    rows = [line for line in lines if line.startswith("|") and "math" in line]
    assert [len(re.findall(r"(?<!\\)\|", row)) for row in rows] == [4]


def test_same_report_same_bytes(tmp_path: Path) -> None:
    report = report_of()
    one, two = (write_report(report, tmp_path / name) for name in "ab")
    for path in one.iterdir():
        assert path.read_bytes() == (two / path.name).read_bytes()


def test_every_kind_has_its_page(tmp_path: Path) -> None:
    verdicts_ = [single(BINARY, t, n % 2, prompt=t) for n, t in enumerate(SCORES)]
    report = report_of([*six_pairs(), *four_ratings(), *verdicts_])
    folder = write_report(report, tmp_path / "report")
    text = (folder / "report.md").read_text()
    for title in ("pairwise answers: accuracy", "rating answers: Spearman", "binary answers: AUC"):
        assert f"## Agreement with {title}" in text
    assert "better than chance (rating)" in text
    assert "Kendall" in text


@pytest.mark.parametrize(
    "answers", [[pair("p", "a", "b", 0.5)], [single("rating", "a", 2)], [pair("p", "a", "b", 1)]]
)
def test_a_report_of_almost_nothing_says_what_is_missing(answers: Any, tmp_path: Path) -> None:
    folder = write_report(report_of(answers, gold=TableReward({})), tmp_path / "report")
    for name in ("report.md", "report.html", "report.json"):
        text = (folder / name).read_text()
        assert "nan" not in text.lower()
        assert "missing" in text


def test_a_failure_leaves_the_old_report(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = write_report(report_of(), tmp_path / "report")
    before = {path.name: path.read_bytes() for path in folder.iterdir()}

    def full(*_: Any) -> str:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(writing, "html_page", full)
    for target in (folder, tmp_path / "new"):
        with pytest.raises(ResultsError, match="cannot be written: No space left on device"):
            write_report(report_of(four_ratings()), target)
    monkeypatch.undo()
    # The new one is whole, but cannot take the old one's place.
    rename = Path.rename

    def refuse(path: Path, target: Path) -> Path:
        if path.name == "new":
            raise OSError(13, "Permission denied")
        return rename(path, target)

    monkeypatch.setattr(Path, "rename", refuse)
    with pytest.raises(ResultsError, match="Permission denied"):
        write_report(report_of(four_ratings()), folder)
    assert {path.name: path.read_bytes() for path in folder.iterdir()} == before
    assert list(tmp_path.iterdir()) == [folder]


def test_other_peoples_files_are_never_replaced(tmp_path: Path) -> None:
    folder = tmp_path / "notes"
    folder.mkdir()
    (folder / "thesis.txt").write_text("years of work")
    with pytest.raises(ResultsError, match=r"holds other things \(thesis.txt\)"):
        write_report(report_of(), folder)
    (folder / "report.json").write_text("{}")
    with pytest.raises(ResultsError, match=r"holds other things \(thesis.txt\)"):
        write_report(report_of(), folder)
    assert (folder / "thesis.txt").read_text() == "years of work"
    with pytest.raises(ResultsError, match="is no folder"):
        write_report(report_of(), folder / "thesis.txt")
    pictures = tmp_path / "pictures"
    pictures.mkdir()
    (pictures / "cat.png").write_bytes(PNG)
    with pytest.raises(ResultsError, match="other things"):
        write_report(report_of(), pictures)
    shutil.rmtree(pictures)
    pictures.mkdir()
    assert (write_report(report_of(), pictures) / "report.md").is_file()


def test_without_matplotlib_one_line_says_what_to_install(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    advice = r"need matplotlib: pip install 'textgym\[plot\]'"
    with pytest.raises(ConfigError, match=advice):
        write_report(report_of(), tmp_path / "report")
    reward = TableReward(SCORES)
    with pytest.raises(ConfigError, match=advice):
        run_report(reward, tmp_path / "none.jsonl", tmp_path / "report")
    assert reward.asked == []
    assert list(tmp_path.iterdir()) == []


def test_command_reads_files_and_prints_where_the_report_is(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    answers = six_pairs()
    write_feedback(tmp_path / "one.jsonl", answers[:3])
    write_feedback(tmp_path / "two.parquet", answers[3:])
    write_feedback(tmp_path / "far.jsonl", answers[2:3])
    report = run_report(
        TableReward(SCORES),
        [tmp_path / "one.jsonl", str(tmp_path / "two.parquet")],
        tmp_path / "report",
        off_distribution={"[bold]far": tmp_path / "far.jsonl"},
        resamples=50,
    )
    assert report.kinds[PAIRWISE].overall.value == pytest.approx(0.7)
    assert report.kinds[PAIRWISE].off_distribution["[bold]far"].value == 0
    shown_text = capsys.readouterr().out
    assert "6 answers to 3 prompts" in shown_text
    assert "as good on '[bold]far'" in shown_text
    assert str(tmp_path / "report" / "report.html") in shown_text


def test_command_reads_a_store(tmp_path: Path) -> None:
    from textgym.feedback.store import FeedbackStore

    with FeedbackStore(tmp_path / "feedback.db") as store:
        store.register("ann", "readers")
        store.register("bob", "authors")
        store.ask([f.question for f in six_pairs()])
        store.add(six_pairs())
    report = run_report(
        TableReward(SCORES), tmp_path / "feedback.db", tmp_path / "report", resamples=50
    )
    assert report.kinds[PAIRWISE].overall.value == pytest.approx(0.7)


def test_command_asks_the_tasks_gold_judge(tmp_path: Path) -> None:
    from textgym.tasks import load_task

    write_feedback(tmp_path / "f.jsonl", six_pairs())
    task: Any = load_task("two-modes")
    task.gold, task.has_gold = TableReward(SCORES), True
    report = run_report(
        TableReward(SCORES), tmp_path / "f.jsonl", tmp_path / "out", gold_task=task, resamples=50
    )
    assert report.gold is not None
    assert report.gold.spearman.value == pytest.approx(1)
    task.has_gold = False
    with pytest.raises(ConfigError, match="'two-modes' has no gold judge"):
        run_report(TableReward(SCORES), tmp_path / "f.jsonl", tmp_path / "out", gold_task=task)


def test_command_fails_before_anything_is_scored(tmp_path: Path) -> None:
    reward = TableReward(SCORES)
    with pytest.raises(StoreError, match="no feedback at"):
        run_report(reward, tmp_path / "none.db", tmp_path / "report")
    (tmp_path / "empty.jsonl").write_text("")
    with pytest.raises(FeedbackError, match="needs feedback"):
        run_report(reward, tmp_path / "empty.jsonl", tmp_path / "report")
    write_feedback(tmp_path / "f.jsonl", six_pairs())
    (tmp_path / "report").write_text("taken")
    with pytest.raises(ResultsError, match="is no folder"):
        run_report(reward, tmp_path / "f.jsonl", tmp_path / "report")
    assert reward.asked == []
    assert not (tmp_path / "none.db").exists()
