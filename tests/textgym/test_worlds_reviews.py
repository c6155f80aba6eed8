"""The review world's grammar and judge: every text has one voice and one sentiment."""

import re
from itertools import product

import numpy as np
import pytest

from textgym.worlds import review_templates, reviews
from textgym.worlds.grammar import Draw, parse, recogniser
from textgym.worlds.reviews import SENTIMENTS, VOICES, judge_review

COMBINATIONS = list(product(VOICES, SENTIMENTS))


def draw(seed=0):
    return Draw(np.random.default_rng(seed))


def expand(parts, slots):
    """Every text of a parsed template."""
    texts = [""]
    for part in parts:
        if isinstance(part, list):
            ways = [text for option in part for text in expand(option, slots)]
        elif part.startswith("{"):
            ways = slots[part[1:-1]]
        else:
            ways = [part]
        texts = [text + way for text in texts for way in ways]
    return texts


def every_text(voice, sentiment):
    verdicts = [text for v in review_templates.VERDICTS[sentiment] for text in expand(parse(v), {})]
    slots = {"thing": ["soup"], "where": ["Kelbury"], "verdict": verdicts}
    templates = review_templates.FRAMINGS[voice] + review_templates.FIGURES[voice][sentiment]
    return [text for template in templates for text in expand(parse(template), slots)]


def test_no_two_voices_or_sentiments_can_write_the_same_text():
    texts = {way: every_text(*way) for way in COMBINATIONS}
    for way, written in texts.items():
        assert len(set(written)) == len(written) > 400, way
    together = set().union(*texts.values())
    assert len(together) == sum(map(len, texts.values()))


@pytest.mark.parametrize(("voice", "sentiment"), COMBINATIONS)
def test_the_grammar_reads_what_it_writes_and_in_one_way(voice, sentiment):
    d = draw()
    for _ in range(200):
        review = reviews.sample_review(d, shifted=d.chance(0.3))
        assert reviews.accepts_prefix(review.prefix)
        assert len(reviews.review_prompt(review.prefix).split()) <= 24
        text = reviews.write_continuation(review, voice, sentiment, d)
        assert 5 <= len(text.split()) <= 21
        assert reviews.readings(text) == [(voice, sentiment)]
        verdict = judge_review(review.thing, review.where, " " + text)
        assert (verdict.voice, verdict.sentiment) == (voice, SENTIMENTS[sentiment])
        assert verdict.well_formed


@pytest.mark.parametrize(
    ("text", "voice", "sentiment", "on_topic", "score"),
    [
        (" was far from bad, no joke, and I am only nine.", "youngster", 1, False, 0.75),
        (" was far from good, no joke, and I am only nine.", "youngster", -1, False, 0.0),
        (" repaid every coin twice over, on paper.", "accountant", 1, False, 0.75),
        (" repaid every coin, no more, on paper.", "accountant", 0, False, 0.375),
        (" is why we never leave Kelbury.", "local", 1, True, 1.0),
        (" is why we never leave Torness.", "local", 1, False, 0.75),
        (" is why we want to leave Kelbury.", "local", -1, True, 0.0),
        # It speaks of another thing, so it is not on topic though well formed.
        (" lacked nothing; I thought of the pie in Oslo.", "traveller", 1, False, 0.75),
        (" lacked nothing; I thought of the soup in Oslo.", "traveller", 1, True, 1.0),
        (" was good in parts but bad.", "other", 0, False, 0.0),
        (" was superb superb, soup Kelbury.", "other", 0, True, 0.0),
        ("", "other", 0, False, 0.0),
    ],
)
def test_gold_of_reviews_worked_by_hand(text, voice, sentiment, on_topic, score):
    verdict = judge_review("soup", "Kelbury", text)
    assert (verdict.voice, verdict.sentiment) == (voice, sentiment)
    assert verdict.on_topic == on_topic
    assert verdict.score == pytest.approx(score)


def test_every_voice_can_be_on_topic_as_often_whatever_the_sentiment():
    # The slot is in 2 of 5 framings and in 2 of 3 figures: half of the eight templates.
    for voice, sentiment in COMBINATIONS:
        templates = review_templates.FRAMINGS[voice] + review_templates.FIGURES[voice][sentiment]
        named = [t for t in templates if "{thing}" in t or "{where}" in t]
        assert (len(templates), len(named)) == (8, 4)


def test_words_alone_do_not_tell_the_sentiment():
    words = {
        sentiment: {word for text in group for word in re.findall(r"[a-z]+", text)}
        for sentiment, group in review_templates.VERDICTS.items()
    }
    assert {"good", "bad", "fine", "dull", "not", "praise"} <= set.intersection(*words.values())


def test_no_wording_holds_a_reviewed_thing_of_its_own():
    groups = [
        *review_templates.FRAMINGS.values(),
        *(g for by in review_templates.FIGURES.values() for g in by.values()),
        *review_templates.VERDICTS.values(),
        review_templates.PREFIXES + review_templates.SHIFTED_PREFIXES,
    ]
    words = {w for group in groups for t in group for w in re.findall(r"[A-Za-z]+", t)}
    assert not words & {*reviews.THINGS, *reviews.SHIFTED_THINGS}


def test_shifted_openings_are_new_in_wording_and_thing():
    d = draw(1)
    usual = [reviews.sample_review(d) for _ in range(300)]
    shifted = [reviews.sample_review(d, shifted=True) for _ in range(300)]
    assert {r.thing for r in usual} == set(reviews.THINGS)
    assert {r.thing for r in shifted} == set(reviews.SHIFTED_THINGS)
    assert not set(reviews.THINGS) & set(reviews.SHIFTED_THINGS)
    slots = {"thing": r"\w+", "where": r"\w+", "venue": r"\w+"}
    worded = recogniser(review_templates.PREFIXES, slots)
    assert all(worded.fullmatch(review.prefix) for review in usual)
    assert not any(worded.fullmatch(review.prefix) for review in shifted)
    assert not reviews.accepts_prefix("The nothing in Kelbury")


def test_weights_cover_the_voices_and_sentiments_and_sum_to_one():
    for weights, names in (
        (reviews.CORPUS_VOICES, VOICES),
        (reviews.CORPUS_SENTIMENTS, SENTIMENTS),
        (reviews.DEMONSTRATION_SENTIMENTS, SENTIMENTS),
    ):
        assert set(weights) == set(names)
        assert sum(weights.values()) == pytest.approx(1)


@pytest.mark.parametrize(
    ("start", "ways"),
    [
        ("had the ", 8 * 3 * 2),  # one of 8 templates, 3 qualities, who knows them
        ("was studied twice, and it lacked ", 8 * 3 * 12 * 2),  # ..., one of 12 verdicts
    ],
)
def test_information_content_is_that_of_the_choices(start, ways):
    review = reviews.Review("The soup in Kelbury", "soup", "Kelbury")
    rng = np.random.default_rng(0)
    found = 0
    while found < 3:
        d = Draw(rng)
        text = reviews.write_continuation(review, "connoisseur", "positive", d)
        if text.startswith(start):
            assert d.nats == pytest.approx(np.log(ways))
            found += 1
