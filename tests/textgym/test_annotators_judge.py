import math

import pytest
import torch
from annotator_support import SpokenPolicy, pair, single
from policy_support import make_policy, plain_logprobs

from textgym.errors import ConfigError, FeedbackError, PromptTooLongError, UnknownNameError
from textgym.feedback.annotators import judge as judge_module
from textgym.feedback.annotators.base import Annotator
from textgym.feedback.annotators.judge import JudgeAnnotator
from textgym.feedback.annotators.likelihood import Likelihood, LikelihoodJudge
from textgym.feedback.annotators.template import JudgeTemplate, read_template

SHORT = JudgeTemplate("$prompt|$first|$second:", "A", "B")
GOOD, BAD = pair("p", "good", "bad"), pair("q", "bad", "good")


def judging(prefers):
    """Says "A" with the probability that `prefers` gives the first and second text."""

    def say(text):
        _, first, second = text.removesuffix(":").split("|")
        said = prefers(first, second)
        return said if isinstance(said, dict) else {"A": said, "B": 1 - said}

    return SpokenPolicy(say)


def test_the_template_is_filled_and_both_orders_are_asked():
    policy = judging(lambda first, second: 0.9 if first == "good" else 0.1)
    annotator = JudgeAnnotator(policy, SHORT, "ai", "machines")
    assert isinstance(annotator, Annotator)
    answers = annotator.label([pair("p", " good\n", "bad"), BAD])
    assert [f.label for f in answers] == [1, 0]
    assert [(f.annotator, f.group, f.order) for f in answers] == [("ai", "machines", (0, 1))] * 2
    assert sorted(policy.heard) == ["p|bad|good:", "p|good|bad:", "q|bad|good:", "q|good|bad:"]
    assert annotator.label([]) == []


def test_orders_are_combined_by_the_mean_of_log_odds():
    # Shown first, "good" has odds of 9; shown second, "bad" before it has odds of 3 (0.75).
    # For "good": (log 9 - log 3) / 2 = log 3 / 2, about 0.549.
    def prefers(first, second):
        return 0.9 if first == "good" else 0.75

    def told(threshold):
        annotator = JudgeAnnotator(judging(prefers), SHORT, tie_threshold=threshold)
        return [f.label for f in annotator.label([GOOD, BAD])]

    assert told(0.0) == [1, 0]
    assert told(0.54) == [1, 0]
    assert told(0.56) == [0.5, 0.5]


def test_a_judge_that_looks_at_the_place_alone_says_ties():
    annotator = JudgeAnnotator(judging(lambda first, second: 0.8), SHORT)
    assert [f.label for f in annotator.label([GOOD, BAD])] == [0.5, 0.5]
    audit = annotator.audit([GOOD, BAD])
    assert audit == pytest.approx(
        {"questions": 2, "neither": 0, "first_wins": 1, "first_log_odds": math.log(4)}
        | {"consistent": 0}
    )


def test_audit_by_hand():
    # In p the text decides (odds of 9 either way), in q the place (odds of 3 for the first).
    def prefers(first, second):
        if {first, second} == {"good", "bad"}:
            return 0.9 if first == "good" else 0.1
        return 0.75 if "mute" not in (first, second) else {"A": 0.01}

    annotator = JudgeAnnotator(judging(prefers), SHORT, on_neither="skip")
    audit = annotator.audit([GOOD, pair("q", "x", "y"), pair("q", "mute", "y")])
    assert audit == pytest.approx(
        {"questions": 3, "neither": 1, "first_wins": 0.75, "first_log_odds": math.log(3) / 2}
        | {"consistent": 0.5}
    )
    with pytest.raises(FeedbackError, match="no verdict on any of 1 questions"):
        annotator.audit([pair("q", "mute", "y")])


def test_neither_verdict_is_an_error_or_left_out():
    # Heard in one order only: that is not enough.
    def prefers(first, second):
        return {"A": 0.03, "B": 0.04} if first == "mute" else 0.9

    asked = [GOOD, pair("what is it?", "mute", "b"), pair("r", "c", "mute")]
    strict = JudgeAnnotator(judging(prefers), SHORT)
    with pytest.raises(
        FeedbackError, match=r"neither verdict on question 1 \('what is it\?'\)"
    ) as e:
        strict.label(asked)
    assert "'A' and 'B' have probability 0.07, expected at least 0.1" in str(e.value)
    lenient = JudgeAnnotator(judging(prefers), SHORT, on_neither="skip")
    assert [f.question.prompt for f in lenient.label(asked)] == ["p"]
    lenient.label(asked)
    assert lenient.skipped == 4
    content = JudgeAnnotator(judging(prefers), SHORT, least_mass=0.05)
    assert len(content.label(asked)) == 3


@pytest.mark.parametrize("batch_tokens", [1, 80, 2**13])
@pytest.mark.parametrize("family", ["llama", "gpt2"])
def test_verdicts_are_the_next_tokens_of_a_real_model(family, batch_tokens, monkeypatch):
    monkeypatch.setattr(judge_module, "BATCH_TOKENS", batch_tokens)
    policy = make_policy(family, extra_rows=3)
    annotator = JudgeAnnotator(policy, SHORT, least_mass=0)
    asked = [pair("The boat", "came in late", "on a windy day"), pair("A", "b", "c" * 20), GOOD]
    a, b = (policy.tokenizer(verdict)["input_ids"] for verdict in "AB")
    expected = []
    for q in asked:
        for first, second in (q.completions, q.completions[::-1]):
            ids = policy.tokenizer(f"{q.prompt}|{first}|{second}:")["input_ids"]
            nxt = plain_logprobs(policy, ids, a)[0]
            expected.append((nxt[a[0]] - nxt[b[0]]).item())
    odds = torch.tensor(expected).view(-1, 2)
    audit = annotator.audit(asked)
    assert audit["first_log_odds"] == pytest.approx(odds.mean().item(), abs=1e-4)
    combined = (odds[:, 0] - odds[:, 1]) / 2
    assert [f.label for f in annotator.label(asked)] == [float(c > 0) for c in combined]
    assert [f.label for f in annotator.label(asked[::-1])] == [float(c > 0) for c in combined][::-1]


@pytest.mark.parametrize("family", ["llama", "gpt2"])
def test_questions_that_do_not_fit_the_window(family):
    policy = make_policy(family)
    annotator = JudgeAnnotator(policy, SHORT, least_mass=0)
    filling = pair("A", "b", "c" * (policy.max_length - len("A|b|:")))
    size = len(policy.tokenizer(SHORT.fill(filling))["input_ids"])
    assert size == policy.max_length
    assert len(annotator.label([filling])) == 1
    too_long = pair("A", "b", "c" + filling.completions[1])
    with pytest.raises(
        PromptTooLongError, match=rf"question 1 fills 65 tokens .*{family} reads 64"
    ):
        annotator.label([filling, too_long])


def test_only_pairs_are_judged():
    for annotator in (JudgeAnnotator(make_policy(), SHORT), LikelihoodJudge(make_policy())):
        with pytest.raises(FeedbackError, match="compares pairs; question 1 is of kind 'rating'"):
            annotator.label([GOOD, single("rating")])


def test_verdicts_must_be_told_apart_by_their_first_token():
    policy = make_policy()
    annotator = JudgeAnnotator(policy, JudgeTemplate(SHORT.text, "yes", "no"))
    assert annotator.verdict_ids == (
        policy.tokenizer("yes")["input_ids"][0],
        policy.tokenizer("no")["input_ids"][0],
    )
    with pytest.raises(FeedbackError, match=r"'#1' and '#2' begin with the same token .*'#'"):
        JudgeAnnotator(policy, JudgeTemplate(SHORT.text, "#1", "#2"))


def test_settings_of_a_judge():
    policy = make_policy()
    with pytest.raises(ConfigError, match="tie_threshold must be >= 0"):
        JudgeAnnotator(policy, SHORT, tie_threshold=-1)
    with pytest.raises(ConfigError, match=r"least_mass must be in \[0, 1\]"):
        JudgeAnnotator(policy, SHORT, least_mass=2)
    with pytest.raises(ConfigError, match="on_neither must be one of"):
        JudgeAnnotator(policy, SHORT, on_neither="ask again")
    with pytest.raises(ConfigError, match="needs a name"):
        JudgeAnnotator(policy, SHORT, "")
    with pytest.raises(ConfigError, match="needs a name"):
        LikelihoodJudge(policy, "")
    with pytest.raises(ConfigError, match="tie_threshold must be >= 0"):
        LikelihoodJudge(policy, tie_threshold=-1)


def test_the_packaged_template():
    template = read_template()
    assert (template.first, template.second) == (" A", " B")
    text = template.fill(pair("What?", " $first is 5$", "two"), (1, 0))
    assert not text.endswith("\n")
    # Dollar signs of models are text.
    assert text.index("What?") < text.index("\ntwo\n") < text.index("$first is 5$")
    assert "$prompt" not in text


def test_templates_of_a_users_own(tmp_path):
    path = tmp_path / "mine.txt"
    path.write_text('{"first": "yes", "second": "no"}\n$prompt $$1 ${first}, not $second?\n\n')
    template = read_template(path)
    assert (template.first, template.second) == ("yes", "no")
    assert template.fill(GOOD) == "p $1 good, not bad?"
    path.write_text("$prompt: $first or $second?")
    assert read_template(path) == JudgeTemplate("$prompt: $first or $second?", " A", " B")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("$prompt $first", r"template lacks \$second$"),
        ("nothing", r"template lacks \$prompt, \$first, \$second"),
        ("$prompt $first $second for 5$", "lone"),
        ("$prompt $first $second $promt", "unknown field of .*'promt'; did you mean 'prompt'"),
        ('{"first": "A"}\n$prompt $first $second', "must name the verdicts as JSON"),
        ('{"first": "A", "second": 2}\n$prompt $first $second', "must name the verdicts"),
        ("{first: A}\n$prompt $first $second", "must name the verdicts"),
        ('{"first": "A", "second": "A"}\n$prompt $first $second', "verdicts must differ"),
        ('{"first": "", "second": "A"}\n$prompt $first $second', "verdicts must differ"),
    ],
)
def test_templates_that_are_none(tmp_path, text, message):
    path = tmp_path / "bad.txt"
    path.write_text(text)
    with pytest.raises(FeedbackError, match=message) as raised:
        read_template(path)
    assert "\n" not in str(raised.value)
    assert not isinstance(raised.value, UnknownNameError)


def test_a_template_that_is_not_there(tmp_path):
    with pytest.raises(FeedbackError, match=r"missing\.txt cannot be read: No such file"):
        read_template(tmp_path / "missing.txt")
    (tmp_path / "latin.txt").write_bytes(b"\xff$prompt")
    with pytest.raises(FeedbackError, match="cannot be read: it is not UTF-8"):
        read_template(tmp_path / "latin.txt")


@pytest.mark.parametrize("family", ["llama", "gpt2"])
def test_likelihood_is_the_mean_over_tokens_and_eos(family):
    policy = make_policy(family)
    prompts = ["The boat", "A", "The boat", ""]
    texts = [" came in late", "", " on a windy day.", "rain"]
    expected = []
    for prompt, text in zip(prompts, texts, strict=True):
        ids = policy.tokenizer(prompt)["input_ids"] or [policy.eos_token_id]
        given = [*policy.tokenizer(text)["input_ids"], policy.eos_token_id]
        logprobs = plain_logprobs(policy, ids, given)
        expected.append(logprobs[range(len(given)), given].mean().item())
    assert Likelihood(policy)(prompts, texts) == pytest.approx(expected, abs=1e-4)


def test_a_judge_by_likelihood():
    policy = make_policy()
    asked = [pair("The boat", " came in late", " on a windy day."), pair("A", " x", " boat")]
    asked.append(pair("A", " boat", " x"))
    margins = []
    for q in asked:
        a, b = Likelihood(policy)([q.prompt] * 2, list(q.completions))
        margins.append(a - b)
    assert margins[1] == pytest.approx(-margins[2], abs=1e-5)
    answers = LikelihoodJudge(policy, "lm", "machines").label(asked)
    assert [f.label for f in answers] == [float(m > 0) for m in margins]
    assert {(f.annotator, f.group) for f in answers} == {("lm", "machines")}
    sizes = sorted(abs(m) for m in margins)
    wide = LikelihoodJudge(policy, tie_threshold=sizes[-1] + 0.01)
    assert [f.label for f in wide.label(asked)] == [0.5] * 3


def test_completions_that_do_not_fit_the_window():
    policy = make_policy()
    filling = "c" * (policy.max_length - 1)
    assert len(Likelihood(policy)(["A"], [filling])) == 1
    with pytest.raises(PromptTooLongError, match="prompt and completion 1 have 66 tokens"):
        Likelihood(policy)(["A", "A"], ["b", filling + "c"])
