import numpy as np
import pytest
import torch
from learning_support import (
    PROMPTS,
    TEXTS,
    agreement,
    comparisons,
    likes,
    policy,
    ratings,
    tiny_bert,
)

from textgym.errors import ConfigError, DataError, FeedbackError
from textgym.feedback.learning.adapting import RIDGE, fit_embedding, gaussian_prior
from textgym.feedback.learning.aggregate import AggregateReward
from textgym.feedback.learning.ensemble import pair_accuracy
from textgym.feedback.learning.personal import PersonalRewardModel
from textgym.feedback.learning.personal_training import train_personal
from textgym.feedback.learning.training import LearningConfig, seeded, train_reward
from textgym.rewards import load_reward
from textgym.rewards.learned import RewardModel

CONFIG = LearningConfig(epochs=2, batch_size=16, learning_rate=3e-3)
LOVER, HATER = likes("cat"), likes("cat", -1)
ASKED = [PROMPTS[0], "Tell", "", PROMPTS[3] * 3]
GIVEN = [TEXTS[0], "", TEXTS[7], TEXTS[3] + TEXTS[9]]


@pytest.fixture(scope="module")
def start():
    return policy()


@pytest.fixture(scope="module")
def opposed():
    """Three who love cats and three who do not, 40 comparisons each."""
    found = []
    for number in range(3):
        found += comparisons(LOVER, 40, number, f"lover{number}", "lovers")
        found += comparisons(HATER, 40, 10 + number, f"hater{number}", "haters")
    return found


@pytest.fixture(scope="module")
def trained(start, opposed):
    return train_personal(start, opposed, CONFIG, seeded(0))


def untrained(start):
    """Two annotators of given embeddings, which an untrained model does not have."""
    base = RewardModel.from_policy(start, seeded(0))
    model = PersonalRewardModel.around(base, ["a", "b"], 3, seeded(1))
    with torch.no_grad():
        model.embeddings.copy_(torch.tensor([[1.0, -2.0, 0.5], [0.0, 4.0, 1.5]]))
    return model


def test_the_score_has_the_stated_form(start):
    """(w + U e) . h + b, with the mean state from the library's own model."""
    model = untrained(start)
    asked, given = (start.tokenizer(text)["input_ids"] for text in (ASKED[0], GIVEN[0]))
    ids = torch.tensor([[*asked, *given, start.tokenizer.eos_token_id]])
    with torch.no_grad():
        state = start.model.base_model(input_ids=ids).last_hidden_state[0, len(asked) :].mean(0)
        embeddings = {"a": [1.0, -2.0, 0.5], "b": [0.0, 4.0, 1.5], "mean": [0.5, 1.0, 1.0]}
        expected = {
            name: float((model.base.head.weight + model.directions @ torch.tensor(e)) @ state)
            for name, e in embeddings.items()
        }
    text = ASKED[:1], GIVEN[:1]
    for name in ("a", "b"):
        assert model(*text, annotator=[name]) == pytest.approx([expected[name]], abs=1e-5)
        assert model.for_annotator(name)(*text) == pytest.approx([expected[name]], abs=1e-5)
    for unknown in (model(*text), model(*text, annotator=["c"]), model.for_annotator()(*text)):
        assert unknown == pytest.approx([expected["mean"]], abs=1e-5)


def test_untrained_everyone_scores_as_the_base(start):
    base = RewardModel.from_policy(start, seeded(0))
    model = PersonalRewardModel.around(base, ["a", "b"], 3, seeded(1))
    assert model(ASKED, GIVEN, annotator=["a", "b", "?", "a"]) == pytest.approx(
        base(ASKED, GIVEN), abs=1e-5
    )


def test_a_score_does_not_depend_on_the_batch(start):
    model = untrained(start)
    who = ["a", "b", "nobody", "a"]
    alone = [model([p], [c], annotator=[w])[0] for p, c, w in zip(ASKED, GIVEN, who, strict=True)]
    for tokens in (1, 40, 2**13):
        model.base.bucket_tokens = tokens
        assert model(ASKED, GIVEN, annotator=who) == pytest.approx(alone, abs=1e-5)
    rows = model.encode(ASKED, GIVEN, who)
    with torch.no_grad():
        assert model.raw_scores(rows).tolist() == pytest.approx(alone, abs=1e-5)
    assert model([], []) == []


def test_it_tells_opposed_annotators_apart_and_a_pooled_model_cannot(start, opposed, trained):
    model, report = trained
    pooled, pooled_report = train_reward(start, opposed, CONFIG, seeded(0))
    assert report["accuracy"] > 0.9
    assert pooled_report["accuracy"] < 0.7
    fresh = comparisons(LOVER, 100, 50, "lover0") + comparisons(HATER, 100, 51, "hater1")
    assert pair_accuracy(model, fresh) > 0.95
    # Of opposed tastes in equal number, no one reward can please more than half.
    assert 0.4 < pair_accuracy(pooled, fresh) < 0.6


def test_a_new_annotator_is_learned_from_eight_comparisons(trained):
    model, _ = trained
    before = [p.detach().clone() for p in (*model.parameters(), model.embeddings)]
    found = []
    for number, taste in enumerate([LOVER, HATER] * 3):
        model.adapt(comparisons(taste, 8, 100 + number, "anyone"), "new")
        found.append(agreement(model.for_annotator("new"), taste))
    assert min(found) > 0.8
    assert np.mean(found) > 0.95
    after = [*model.parameters(), model.embeddings]
    assert all(torch.equal(a, b) for a, b in zip(before, after, strict=True))
    del model.adapted["new"]


def test_the_posteriors_peak_by_hand():
    """One number, one win of feature 1, prior N(0, 1): sigmoid(-e) = e, at 0.40106 (bisection)."""
    low, high = 0.0, 1.0
    for _ in range(60):
        middle = (low + high) / 2
        low, high = (middle, high) if 1 / (1 + np.exp(middle)) > middle else (low, middle)
    one = torch.ones(1, dtype=torch.float64)
    found = fit_embedding(one[:, None], 0 * one, one, 0 * one, one[:, None])
    assert found.item() == pytest.approx(low, abs=1e-10)
    assert found.item() == pytest.approx(0.40106, abs=5e-6)
    # A tie at even odds says nothing: the prior's mean stays.
    tie = fit_embedding(one[:, None], -3 * one, one / 2, 3 * one, one[:, None])
    assert tie.item() == pytest.approx(3.0)


@pytest.mark.parametrize("scale", [1.0, 300.0])
def test_newton_ends_where_the_gradient_is_zero(scale):
    """By autograd of the posterior as torch's own loss has it; large features need the damping."""
    generator = torch.Generator().manual_seed(0)
    features = scale * torch.randn(12, 4, generator=generator, dtype=torch.float64)
    offsets = torch.randn(12, generator=generator, dtype=torch.float64)
    labels = torch.tensor([1, 0, 0.5, 1, 0, 1, 1, 0, 0, 0.5, 1, 0], dtype=torch.float64)
    mean, precision = gaussian_prior(torch.randn(5, 4, generator=generator, dtype=torch.float64))
    e = fit_embedding(features, offsets, labels, mean, precision).requires_grad_()
    loss = torch.nn.functional.binary_cross_entropy_with_logits(
        features @ e + offsets, labels, reduction="sum"
    )
    loss = loss + 0.5 * (e - mean) @ precision @ (e - mean)
    (gradient,) = torch.autograd.grad(loss, e)
    assert gradient.abs().max().item() < 1e-6 * scale


def test_the_prior_is_the_known_annotators_gaussian():
    embeddings = torch.tensor([[1.0, 0.0], [-1.0, 0.0]], dtype=torch.float64)
    mean, precision = gaussian_prior(embeddings)
    assert mean.tolist() == [0.0, 0.0]
    ridge = RIDGE * 0.5 + 1e-6  # variances 1 and 0
    expected = [[1 / (1 + ridge), 0.0], [0.0, 1 / ridge]]
    assert precision.tolist() == [pytest.approx(row) for row in expected]


def test_everyone_is_normalised_also_who_comes_later(start):
    model = untrained(start)
    prompts = [PROMPTS[0]] * len(TEXTS)
    raw = model.for_annotator("a")(prompts, TEXTS)
    model.normalise(prompts, TEXTS)
    model.adapt(comparisons(LOVER, 8, 0), "late")
    for name in ("a", "b", "late", None):
        scores = np.array(model.for_annotator(name)(prompts, TEXTS))
        assert scores.mean() == pytest.approx(0, abs=1e-4)
        assert scores.std() == pytest.approx(1, abs=1e-4)
    assert np.argsort(raw).tolist() == np.argsort(model.for_annotator("a")(prompts, TEXTS)).tolist()
    reference = model.reference
    with pytest.raises(DataError, match="equal score"):
        model.normalise(["a", "a"], ["b", "b"])
    with pytest.raises(DataError, match="1 samples"):
        model.normalise(["a"], ["b"])
    assert model.reference is reference


def test_saved_and_loaded_again_it_scores_the_same(start, tmp_path):
    model = untrained(start)
    model.normalise([PROMPTS[0]] * len(TEXTS), TEXTS)
    model.adapt(comparisons(LOVER, 8, 0), "late")
    model.save(tmp_path / "rm")
    again = load_reward(tmp_path / "rm")
    who = ["a", "late", "b", "nobody"]
    expected = model(ASKED, GIVEN, annotator=who)
    assert again(ASKED, GIVEN, annotator=who) == pytest.approx(expected, abs=1e-5)
    assert again.names == ["a", "b"]
    assert list(again.adapted) == ["late"]
    assert not list((tmp_path / "rm").rglob("*.bin"))
    untouched = untrained(start)
    untouched.save(tmp_path / "rm")
    assert load_reward(tmp_path / "rm")(ASKED, GIVEN, annotator=who) == pytest.approx(
        untouched(ASKED, GIVEN, annotator=who), abs=1e-5
    )


def test_an_encoder_can_be_personal(opposed, tmp_path):
    bert = tiny_bert(tmp_path / "bert")
    model, report = train_personal(bert, opposed, CONFIG, seeded(0), width=1)
    assert report["accuracy"] > 0.9
    model.save(tmp_path / "rm")
    who = ["lover0", "hater0", "hater1", "nobody"]
    expected = model(ASKED, GIVEN, annotator=who)
    assert load_reward(tmp_path / "rm")(ASKED, GIVEN, annotator=who) == pytest.approx(
        expected, abs=1e-5
    )


def test_personal_rewards_aggregate(trained):
    """Opposed tastes cancel in the mean; a majority of lovers rules where they are more."""
    model, _ = trained
    model.normalise([PROMPTS[0]] * len(TEXTS), TEXTS)
    names = ("lover0", "lover1", "hater0")
    reward = AggregateReward({name: model.for_annotator(name) for name in names}, "majority")
    assert agreement(reward, LOVER) > 0.9
    assert agreement(reward, LOVER, annotator="hater0") > 0.9
    model.reference = None


def test_bad_input(start, trained):
    model, _ = trained
    pairs = comparisons(LOVER, 8, 0)
    with pytest.raises(FeedbackError, match="'lover0' is known from training"):
        model.adapt(pairs, "lover0")
    with pytest.raises(FeedbackError, match="learned from pairs, got rating"):
        model.adapt([*pairs, *ratings(LOVER, 1, 0)], "new")
    with pytest.raises(FeedbackError, match="no comparison"):
        model.adapt([], "new")
    with pytest.raises(FeedbackError, match="did you mean 'lover"):
        model.for_annotator("lover")
    with pytest.raises(ConfigError, match="width must be >= 1"):
        train_personal(start, pairs, CONFIG, seeded(0), width=0)
    with pytest.raises(ConfigError, match="2 embeddings for 1 annotators"):
        PersonalRewardModel(model.base, ["a"], torch.zeros(2, 1), torch.zeros(32, 1))
