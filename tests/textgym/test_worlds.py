"""The worlds' grammars and judges, on cases worked by hand."""

import math
import re
from collections import Counter
from itertools import islice

import numpy as np
import pytest

from textgym.worlds import corpus, forum, grammar, reports
from textgym.worlds.grammar import Draw

FACTS = {"event": "barn", "who": "Marvila", "where": "Kelbury", "when": "09:30", "amount": "412"}


def draw(seed=0):
    return Draw(np.random.default_rng(seed))


def test_a_template_counts_renders_and_recognises_the_same_texts():
    template = "[A|Two [red|blue]] {thing}[s|]."
    seen = {grammar.render(template, {"thing": "cat"}, draw(seed)) for seed in range(200)}
    assert grammar.count(template) == len(seen) == 6
    accepts = grammar.recogniser([template], {"thing": "cat|dog"})
    assert all(accepts.fullmatch(text) for text in seen)
    assert accepts.fullmatch("Two blue dogs.")
    assert not accepts.fullmatch("Two blue cows.")
    assert not accepts.fullmatch("A blue cat.")


@pytest.mark.parametrize("template", ["[a|b", "a]b", "a|b", "a{b"])
def test_an_unbalanced_template_is_refused(template):
    with pytest.raises(ValueError, match="template"):
        grammar.parse(template)


def test_information_content_is_the_negative_log_probability():
    d = draw()
    grammar.render("[a|b|c] [d|e]", {}, d)
    assert d.nats == pytest.approx(math.log(6))
    d.chance(0.25)
    assert d.nats - math.log(6) in (pytest.approx(-math.log(0.25)), pytest.approx(-math.log(0.75)))


def test_untold_choices_and_alike_items_add_no_information():
    d = draw()
    d.choice("abc", told=False)
    assert d.nats == 0
    d.shuffled("aab")  # aab, aba, baa
    assert d.nats == pytest.approx(math.log(3))


@pytest.mark.parametrize(("items", "subsets"), [("a", 1), ("ab", 3), ("abc", 6)])
def test_the_information_of_subsets_sums_to_one(items, subsets):
    # One or two of the items, each size half the time; a single item leaves no choice.
    probabilities = {}
    for seed in range(300):
        d = draw(seed)
        chosen = frozenset(d.subset(items, 1, 3))
        assert 1 <= len(chosen) <= 2
        probabilities[chosen] = math.exp(-d.nats)
    assert len(probabilities) == subsets
    assert sum(probabilities.values()) == pytest.approx(1)


def test_the_entropy_of_a_small_grammar_is_the_mean_information_content():
    # Weights 3:1, then one of two words on the first branch: H = H(3/4) + 3/4 log 2.
    nats = []
    rng = np.random.default_rng(1)
    for _ in range(20_000):
        d = Draw(rng)
        if d.weighted({"x": 3.0, "y": 1.0}) == "x":
            d.choice("ab")
        nats.append(d.nats)
    exact = -(0.75 * math.log(0.75) + 0.25 * math.log(0.25)) + 0.75 * math.log(2)
    error = np.std(nats) / math.sqrt(len(nats))
    assert np.mean(nats) == pytest.approx(exact, abs=4 * error)


@pytest.mark.parametrize(
    ("summary", "covered", "invented", "score"),
    [
        ("Marvila led the barn fire in Kelbury at 09:30, with 412 bales.", 5, 0, 1.0),
        ("A barn fire in Kelbury.", 2, 0, 0.4),
        ("Marvila led the barn fire in Torness.", 2, 1, 0.2),
        ("The flood in Torness.", 0, 2, 0.0),
        ("", 0, 0, 0.0),
        # Twice as long as the brevity limit: half the score of two facts.
        ("barn Kelbury " + "word " * 38, 2, 0, 0.2),
        # Repeating a fact does not count twice, repeating an invention neither.
        ("barn barn barn 413 413", 1, 1, 0.0),
        # A fact inside a longer word or number is not stated.
        ("Kelburyx and 4120 and barns", 0, 2, 0.0),
    ],
)
def test_gold_of_summaries_worked_by_hand(summary, covered, invented, score):
    verdict = reports.judge_summary(FACTS, summary)
    assert (verdict.covered, verdict.invented) == (covered, invented)
    assert verdict.score == pytest.approx(score)


def test_every_writer_is_recognised_and_the_demonstrations_are_beatable():
    d = draw()
    scores = {}
    for writer in reports.WRITERS:
        verdicts = []
        for _ in range(300):
            report = reports.sample_report(d)
            assert reports.accepts_report(report.text)
            summary = reports.write_summary(report, writer, d)
            verdicts.append(reports.judge_summary(report.facts, summary))
        assert {v.writer for v in verdicts} == {writer}
        scores[writer] = np.mean([v.score for v in verdicts])
        assert (np.mean([v.invented > 0 for v in verdicts]) == 1) == (writer == "inventing")
    mix = reports.DEMONSTRATION_WRITERS
    human = sum(share * scores[writer] for writer, share in mix.items()) / sum(mix.values())
    assert scores["off_topic"] == 0
    assert scores["inventing"] < scores["rambling"] < scores["concise"]
    assert human < 0.6 < 1.0  # the best attainable scores 1, as the first hand-worked case shows


def test_reports_state_all_their_facts():
    d = draw(3)
    for _ in range(200):
        report = reports.sample_report(d)
        stated = set(re.findall(r"[\w:]+", report.text))
        assert set(report.facts.values()) - {report.facts["event"]} <= stated
        assert report.facts["event"] in report.lead


def test_text_outside_the_grammar_is_nobodys():
    assert reports.judge_summary(FACTS, "Barn barn the of.").writer == "other"
    assert not reports.accepts_report("Nothing happened. At all.")
    assert forum.judge_reply("bridge", "Kelbury", "The the bridge.").voice == "other"


@pytest.mark.parametrize("voice", forum.VOICES)
def test_every_voice_is_recognised_and_only_trolls_insult(voice):
    d = draw()
    for _ in range(300):
        remark = forum.sample_remark(d)
        assert forum.accepts_remark(remark.text)
        verdict = forum.judge_reply(remark.thing, remark.where, forum.write_reply(remark, voice, d))
        assert verdict.voice == voice
        assert verdict.insult == (voice == "troll")


@pytest.mark.parametrize(
    ("reply", "insult", "relevance", "score"),
    [
        ("Great news! Nothing beats Kelbury!", False, 0.4, 0.4),
        ("Once in Torstead a bell sings.", False, 0.0, 0.0),
        ("Did you mean the bridge in Kelbury or another one?", False, 1.0, 1.0),
        ("What a clown, moaning about the bridge.", True, 0.6, 0.0),
        ("bridge Kelbury", False, 1.0, 0.0),  # relevant, but no sentence of anyone's
        ("", False, 0.0, 0.0),
    ],
)
def test_gold_of_replies_worked_by_hand(reply, insult, relevance, score):
    verdict = forum.judge_reply("bridge", "Kelbury", reply)
    assert verdict.insult == insult
    assert verdict.relevance == pytest.approx(relevance)
    assert verdict.score == pytest.approx(score)


def test_trolls_answer_the_hostile_more_often():
    assert forum.CORPUS_VOICES["hostile"]["troll"] > forum.CORPUS_VOICES["calm"]["troll"]
    d = draw()
    tones = Counter(forum.sample_remark(d).tone for _ in range(2000))
    assert 0.45 < tones["hostile"] / 2000 < 0.55


def test_the_corpus_repeats_for_a_seed_and_differs_between_seeds():
    first = list(islice(corpus.documents(0), 50))
    assert first == list(islice(corpus.documents(0), 50))
    assert not set(first) & set(islice(corpus.documents(1), 50))
    assert not set(first) & {text for text, _ in corpus.measured_documents(0, 50)}


def test_information_content_of_a_document_is_that_of_its_choices():
    # Ten thousand names and more, 1,440 times and 9,890 amounts: at least this much in a report.
    floor = math.log(20 * 5 * 12 * 10) * 2 + math.log(1440) + math.log(9890) + math.log(24)
    measured = corpus.measured_documents(0, 300)
    for text, nats in measured:
        if text.startswith("Report:"):
            assert nats > floor
