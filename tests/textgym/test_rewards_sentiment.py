"""The classifiers of sentiment: the tiny encoder, any two-class model, and n-grams."""

import json
import math

import numpy as np
import pytest
import torch
from scipy.sparse import csr_matrix
from sentiment_support import sentences

from textgym.errors import ConfigError, DataError, ModelError
from textgym.rewards.ngrams import (
    NgramConfig,
    _features,
    _log_odds,
    _logistic,
    load_ngrams,
    ngrams,
    train_ngrams,
)
from textgym.rewards.sentiment import Sentiment, train_sentiment
from textgym.rewards.text_classifier import ClassifierConfig
from textgym.tasks.world_sentiment import clear_accuracy, make_world_sentiment, sentiment_texts
from textgym.worlds import reviews

SMALL_CLASSIFIER = ClassifierConfig(
    vocab_size=400, width=16, layers=1, heads=2, max_tokens=32, epochs=8, learning_rate=1e-2
)


# --- The shipped classifier ---------------------------------------------------------------------


def test_labels_follow_the_sentiment_and_a_coin_where_it_is_mixed():
    texts, labels = sentiment_texts(3000, seed=1)
    by_sentiment = {"negative": [], "neutral": [], "positive": []}
    for text, label in zip(texts, labels, strict=True):
        for _, sentiment in reviews.readings(text):
            by_sentiment[sentiment].append(label)
    assert set(by_sentiment["negative"]) == {0}
    assert set(by_sentiment["positive"]) == {1}
    assert 0.42 < np.mean(by_sentiment["neutral"]) < 0.58  # 5 standard errors of 700 tosses
    cut = 3000 - sum(len(found) for found in by_sentiment.values())
    assert 0.2 < cut / 3000 < 0.3


def test_the_world_classifier_is_reproducible_and_its_score_is_no_matter_of_batch(tmp_path):
    torch.rand(2)  # the global state must not matter
    report = make_world_sentiment(tmp_path / "a", 3, SMALL_CLASSIFIER, texts=200)
    assert report == make_world_sentiment(tmp_path / "b", 3, SMALL_CLASSIFIER, texts=200)
    assert report["texts"] == 200
    assert 0.4 < report["clear_accuracy"] <= 1
    classifier = Sentiment(tmp_path / "a")
    assert classifier.name == "sentiment-a"
    texts = ["", "was superb", "was awful " * 40, "was superb"]
    alone = [classifier.scores([text])[0] for text in texts]
    assert all(0 < score < 1 for score in alone)
    assert classifier.scores(texts) == pytest.approx(alone, abs=1e-5)
    small = Sentiment(tmp_path / "a", bucket_characters=12)
    assert small.scores(texts) == pytest.approx(alone, abs=1e-5)
    assert classifier(["the soup"], [" was fine"]) == classifier.scores(["the soup was fine"])


def test_training_separates_what_can_be_separated(tmp_path):
    rows = sentences(240)
    texts, labels = [r["sentence"] for r in rows], [r["label"] for r in rows]
    assert train_sentiment(texts, labels, tmp_path, SMALL_CLASSIFIER)["accuracy"] == 1.0
    good, bad = Sentiment(tmp_path).scores(["the old film is superb", "the old film is awful"])
    assert bad < 0.5 < good


def test_accuracy_on_clear_reviews_by_counting():
    class Always:
        def scores(self, texts):
            return [1.0] * len(texts)

    class Judge:
        def scores(self, texts):
            return [float(reviews.readings(text)[0][1] == "positive") for text in texts]

    assert clear_accuracy(Judge(), 60, seed=0) == 1.0
    assert 0.3 < clear_accuracy(Always(), 60, seed=0) < 0.7


@pytest.mark.parametrize("labels", [{"0": "a", "1": "b"}, {"0": "pos", "1": "neg", "2": "none"}])
def test_a_classifier_that_does_not_say_what_is_positive(tmp_path, labels):
    rows = sentences(40)
    texts, given = [r["sentence"] for r in rows], [r["label"] for r in rows]
    config = ClassifierConfig(vocab_size=300, width=8, layers=1, heads=1, epochs=1)
    train_sentiment(texts, given, tmp_path, config)
    settings = json.loads((tmp_path / "config.json").read_text())
    settings["id2label"] = labels
    settings["label2id"] = {name: int(i) for i, name in labels.items()}
    (tmp_path / "config.json").write_text(json.dumps(settings))
    with pytest.raises(ModelError):
        Sentiment(tmp_path)


def test_two_logits_are_read_at_the_positive_class(tmp_path):
    from transformers import AutoModelForSequenceClassification

    rows = sentences(40)
    config = ClassifierConfig(vocab_size=300, width=8, layers=1, heads=1, epochs=1)
    train_sentiment(
        [r["sentence"] for r in rows], [r["label"] for r in rows], tmp_path / "one", config
    )
    single = Sentiment(tmp_path / "one")
    two = AutoModelForSequenceClassification.from_pretrained(
        tmp_path / "one", id2label={0: "NEGATIVE", 1: "POSITIVE"}, num_labels=2,
        label2id={"NEGATIVE": 0, "POSITIVE": 1}, ignore_mismatched_sizes=True,
    )  # fmt: skip
    with torch.no_grad():
        # Log-odds of the one logit, and nothing for the negative class: the same probability.
        two.classifier.weight.zero_()
        two.classifier.bias.zero_()
        two.classifier.weight[1] = single.model.classifier.weight[0]
        two.classifier.bias[1] = single.model.classifier.bias[0]
    two.save_pretrained(tmp_path / "two")
    single.tokenizer.save_pretrained(tmp_path / "two")
    texts = ["the old film is superb", "the old film is awful"]
    assert Sentiment(tmp_path / "two").scores(texts) == pytest.approx(single.scores(texts))


# --- N-grams ------------------------------------------------------------------------------------


def test_ngrams_by_hand():
    config = NgramConfig(word_ngrams=2, characters=(3, 3))
    assert ngrams("No fun.", config) == {
        "no", "fun", "no fun", "#<no", "#no>", "#<fu", "#fun", "#un>"
    }  # fmt: skip
    assert ngrams("", config) == set()


def test_ngrams_learn_save_and_load(tmp_path):
    rows = sentences(60)
    texts, labels = [r["sentence"] for r in rows], [r["label"] for r in rows]
    made = train_ngrams(texts, labels)
    told = ["it is superb", "it is awful", "superbly done", ""]
    good, bad, guessed, nothing = made.scores(told)
    assert bad < 0.5 < good
    assert guessed > 0.5  # a word never met, whose parts were
    assert nothing == pytest.approx(1 / (1 + math.exp(-made.bias)))
    # A word said twice says no more.
    assert made.scores(["superb superb"]) != made.scores(["superb"])  # the pair is new
    single = train_ngrams(texts, labels, NgramConfig(word_ngrams=1))
    assert single.scores(["superb superb superb"]) == single.scores(["superb"])
    made.save(tmp_path)
    assert load_ngrams(tmp_path).scores(told) == made.scores(told)
    assert made.scores([]) == []
    with pytest.raises(ModelError, match="no n-gram classifier"):
        load_ngrams(tmp_path / "nowhere")


def test_naive_bayes_log_odds_by_hand():
    # One word each: in "good" 2 of 2 positives and 0 of 1 negatives, in "bad" the reverse. With
    # smoothing 1 over 4 buckets: (3, 1, 1, 1) / 6 and (1, 2, 1, 1) / 5 or the like.
    config = NgramConfig(word_ngrams=1, characters=(9, 9), buckets=4)
    there = _features(["good", "good", "bad"], config)
    odds = _log_odds(there, np.array([True, True, False]), 1.0)
    expected = {0.0, math.log(3 / 6) - math.log(1 / 5), math.log(1 / 6) - math.log(2 / 5)}
    assert sorted(set(odds)) == pytest.approx(sorted(expected))


def test_the_penalised_optimum_by_hand():
    # One feature, +1 in the positive text and -1 in the negative: no bias by symmetry, and where
    # the slope of 2 log(1 + exp(-w)) + penalty w^2 / 2 vanishes, penalty w = 2 / (1 + exp(w)).
    features = csr_matrix(np.array([[1.0], [-1.0]]))
    weights, bias = _logistic(features, np.array([True, False]), penalty=0.5)
    assert bias == pytest.approx(0, abs=1e-4)
    assert 0.5 * weights[0] == pytest.approx(2 / (1 + math.exp(weights[0])), abs=1e-4)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"characters": (5, 3)}, "shortest <= longest, got 5 and 3"),
        ({"buckets": 0}, "buckets must be >= 1, got 0"),
        ({"penalty": 0.0}, "penalty must be > 0, got 0.0"),
    ],
)
def test_ngram_settings_outside_their_domain(options, message):
    with pytest.raises(ConfigError, match=message):
        NgramConfig(**options)


def test_ngrams_need_labels_of_both_classes():
    with pytest.raises(DataError, match="1 labels for 2 texts"):
        train_ngrams(["a", "b"], [1])
    with pytest.raises(DataError, match="labelled 0 and"):
        train_ngrams(["a", "b"], [1, 1])
