"""The sensitivity study: settings, cutting and statistics on cases worked by hand."""

import numpy as np
import pandas as pd
import pytest
import torch
from matplotlib.figure import Figure

from textgym.benchmarks.studies import sensitivity_settings as settings
from textgym.benchmarks.studies.packing import packed
from textgym.benchmarks.studies.sensitivity import Sensitivity
from textgym.benchmarks.studies.sensitivity_asked import shortened
from textgym.benchmarks.studies.sensitivity_settings import LABELS, reworded
from textgym.benchmarks.studies.sensitivity_told import _colder, average_change, task_means
from textgym.benchmarks.suite import load_suite
from textgym.models.policy import load_policy
from textgym.rollout import rollout
from textgym.tasks import load_task

CUT, HEAT, WORDS = settings.LIMIT, settings.TEMPERATURE, settings.WORDING
VALUES = {
    CUT: ("12", "24", "48"),
    HEAT: ("0.3", "1.0", "1.3"),
    WORDS: ("as trained", "one line", "mad"),
}
# Means over the prompts, the two of a seed 0.1 to either side.
GOLD = {
    (CUT, "12"): 0.1, (CUT, "24"): 0.37, (CUT, "48"): 0.4,
    (HEAT, "0.3"): 0.6, (HEAT, "1.0"): 0.4, (HEAT, "1.3"): 0.2,
    (WORDS, "as trained"): 0.4, (WORDS, "one line"): 0.3, (WORDS, "mad"): 0.1,
}  # fmt: skip


def rows(agents=("sft", "best of 8"), tasks=("toxicity",)):
    """Every number differs between settings alone, so that changes are exact."""
    found = []
    for task in tasks:
        for agent in agents:
            for setting, values in VALUES.items():
                for value in values:
                    for seed in (0, 1):
                        gold = GOLD[setting, value] + np.array([-0.1, 0.1])
                        number = {"gold": packed(gold), "diversity": packed(1 - gold)}
                        found.append(
                            {"seed": seed, "task": task, "agent": agent, "setting": setting}
                            | {"value": value, **number}
                        )
    return pd.DataFrame(found)


@pytest.mark.parametrize("task", settings.TASKS)
def test_the_first_wording_is_the_task_s_own_and_all_hold_its_text(task):
    prompts = load_task(task, test=8).prompts("test")["prompt"][:]
    asks, answers, *_ = LABELS[task]
    for prompt in prompts:
        texts = [reworded(prompt, task, frame) for frame in settings.FRAMES]
        assert texts[0] == prompt
        assert len(set(texts)) == len(texts) == 6
        inside = prompt.removeprefix(f"{asks}: ").removesuffix(f"\n{answers}:")
        assert all(inside in text for text in texts)
        assert all(text.endswith(":") for text in texts)


def test_another_task_s_prompt_is_refused():
    with pytest.raises(ValueError, match="no prompt of 'toxicity'"):
        reworded("Report: It rained.\nSummary:", "toxicity", "one line")


@pytest.mark.parametrize("task", settings.TASKS)
def test_reworded_prompts_fit_the_window(task):
    made, policy = load_task(task, test=64), load_policy("tiny")
    prompts = made.prompts("test")["prompt"][:]
    texts = [reworded(prompt, task, frame) for prompt in prompts for frame in settings.FRAMES]
    lengths = map(len, policy.tokenizer(texts)["input_ids"])
    assert max(lengths) <= made.max_prompt_tokens


def test_shortened_samples_are_those_of_the_lower_limit():
    task, policy = load_task("toxicity", test=3), load_policy("tiny")
    drawn = rollout(
        policy,
        task,
        task.prompts("test"),
        samples_per_prompt=2,
        generator=torch.Generator().manual_seed(0),
    )
    short = shortened(drawn, 5, policy)
    assert short.response_ids.shape[1] == 5
    assert torch.equal(short.response_ids, drawn.response_ids[:, :5])
    # What ended within five tokens is whole; of the rest there are five, without an end.
    ended = drawn.response_mask.sum(1) <= 5
    assert torch.equal(short.truncated, ~ended | drawn.truncated)
    for whole, cut in zip(drawn.completions, short.completions, strict=True):
        assert whole.startswith(cut)
    assert shortened(drawn, 48, policy).completions == drawn.completions


def test_changes_are_paired_and_worked_by_hand():
    means = task_means(rows(), resamples=200)
    assert means.values(CUT) == ["12", "24", "48"]
    assert means.here["gold"]["sft", CUT, "24"] == pytest.approx(0.37)
    change = means.change("gold", "sft", HEAT, "0.3", "1.3")
    assert (change.estimate, change.low, change.high) == pytest.approx((0.4, 0.4, 0.4))
    change = means.change("diversity", "sft", HEAT, "0.3", "1.3")
    assert (change.estimate, change.low, change.high) == pytest.approx((-0.4, -0.4, -0.4))
    # -0.1 and -0.3 from the usual wording.
    change = average_change(means, "sft", ["one line", "mad"], "as trained")
    assert (change.estimate, change.low, change.high) == pytest.approx((-0.2, -0.2, -0.2))


def test_a_tuned_agent_is_held_against_a_colder_untuned_one():
    both = rows()
    # Best of 8 at 1.0 is as diverse as sft at 0.3 (0.4), and its gold is 0.8 against 0.6.
    tuned = (both["agent"] == "best of 8") & (both["setting"] == HEAT) & (both["value"] == "1.0")
    both.loc[tuned, "diversity"] = "400 400"
    both.loc[tuned, "gold"] = "700 900"
    text = _colder(task_means(both, resamples=100), "best of 8")
    assert "best of 8 at 1.0 has diversity 0.40, sft comes nearest to it at 0.3 with 0.40" in text
    assert text.endswith("best of 8's gold is +0.20 (+0.20 to +0.20) above its")


def test_the_page_is_made_of_rows():
    study = Sensitivity()
    summary = study.summary(rows(tasks=("toxicity", "summarize")))
    assert len(summary) == 2 * 2 * 9
    assert summary["agent"].tolist()[:10] == [*["sft"] * 9, "best of 8"]
    assert summary.columns.tolist() == [*study.by, "gold", "gold_se", "diversity", "diversity_se"]
    found = study.findings(summary)
    assert len(found) == 9
    assert [text.partition(":")[0] for text in found[:4]] == [
        "summarize, length",
        "summarize, temperature",
        "summarize, colder or tuned",
        "summarize, wording",
    ]
    # 0.37 is at least nine tenths of 0.4, 0.1 is not.
    assert (
        "sft's gold is 0.40 under 48 tokens and changes by -0.30 (-0.30 to -0.30) under 12; 24"
        in found[0]
    )
    assert "under 12, its diversity by +0.30 (+0.30 to +0.30); 24" in found[0]
    assert "gold is highest at 0.3" in found[1]
    assert "most under 'mad' (-0.30 (-0.30 to -0.30))" in found[3]
    figure = Figure()
    study.draw(summary, figure)
    assert len(figure.axes) == 6


def test_the_common_length_is_the_shortest_limit_and_agents_are_those_of_core():
    assert min(settings.LIMITS) == settings.COMMON_LENGTH
    assert {load_task(t).max_response_tokens for t in settings.TASKS} <= set(settings.LIMITS)
    assert set(settings.AGENTS.values()) <= {spec.label for spec in load_suite("core").agents}
    assert 1.0 in settings.TEMPERATURES
