"""Questions from policies: who wrote what, what is compared, what is asked once."""

import pytest

from textgym.errors import ConfigError, FeedbackError
from textgym.feedback.asking import questions_from_policies
from textgym.feedback.records import BINARY, PAIRWISE, RATING
from textgym.tasks import load_task


@pytest.fixture(scope="module")
def task():
    # The tests' models know few words, so that a report has many tokens.
    return load_task("summarize", train=16, max_prompt_tokens=500, max_response_tokens=8)


def test_questions_from_two_policies(task, model, other_model):
    policies = [str(model), str(other_model)]
    asked = questions_from_policies(task, policies, 3, seed=1)
    assert asked == questions_from_policies(task, policies, 3, seed=1)
    rows = {row["prompt"]: row for row in task.prompts("train")}
    assert len({q.prompt for q in asked}) == len(asked) == 3
    for question in asked:
        assert (question.kind, question.policies) == (PAIRWISE, tuple(policies))
        assert {"prompt": question.prompt, **question.columns} == rows[question.prompt]
    other = questions_from_policies(task, policies, 3, seed=2)
    assert {q.key for q in asked}.isdisjoint(q.key for q in other)


def test_one_policy_is_compared_with_itself_and_every_two_of_three(task, model, other_model):
    (asked,) = questions_from_policies(task, [model], 1)
    assert asked.policies == (str(model),) * 2
    assert asked.completions[0] != asked.completions[1]
    pairs = questions_from_policies(task, [model, other_model, model], 2)
    assert len(pairs) == 6
    assert len({q.prompt for q in pairs[:3]}) == 1


@pytest.mark.parametrize("kind", [RATING, BINARY])
def test_each_completion_alone(task, model, kind):
    asked = questions_from_policies(task, [model], 2, kind)
    assert [(q.kind, q.policies) for q in asked] == [(kind, (str(model),))] * 2


def test_prompts_are_drawn_once_each_and_from_the_split_named(task, model, monkeypatch):
    monkeypatch.setattr(
        "textgym.tasks.learned_proxy.sample_completions",
        lambda policy, prompts, *_: [[" text"] for _ in prompts],
    )
    asked = questions_from_policies(task, [model], 16, BINARY)
    assert {q.prompt for q in asked} == set(task.prompts("train")["prompt"])
    asked = questions_from_policies(task, [model], 4, BINARY, split="test")
    assert {q.prompt for q in asked} < set(task.prompts("test")["prompt"])


def test_equal_completions_are_not_asked_about(task, model, monkeypatch):
    def sample(policy, prompts, *_):
        return [["same", "same"] if i else ["one", "two"] for i in range(len(prompts))]

    monkeypatch.setattr("textgym.tasks.learned_proxy.sample_completions", sample)
    assert [q.completions for q in questions_from_policies(task, [model], 3)] == [("one", "two")]
    # Six samples in two texts are one question, by whoever wrote them first.
    three = questions_from_policies(task, [model] * 3, 1)
    assert [q.completions for q in three] == [("one", "two")]


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"kind": "pairwsie"}, FeedbackError, "did you mean 'pairwise'"),
        ({"policies": []}, ConfigError, "list of policies"),
        ({"policies": "tiny"}, ConfigError, "list of policies"),
        ({"prompts": 0}, ConfigError, "1 to 16"),
        ({"prompts": 17}, ConfigError, "1 to 16"),
    ],
)
def test_what_cannot_be_asked(task, options, error, message):
    given = {"task": task, "policies": ["tiny"], "prompts": 2}
    with pytest.raises(error, match=message):
        questions_from_policies(**{**given, **options})
