import json
import math
from dataclasses import replace

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
    verdicts,
)

from textgym.errors import ConfigError, DataError, FeedbackError, ModelError, TrainingError
from textgym.feedback.learning.encoder import EncoderRewardModel, is_encoder
from textgym.feedback.learning.ensemble import (
    RewardEnsemble,
    combine,
    pair_accuracy,
    train_ensemble,
)
from textgym.feedback.learning.groups import GroupRewards, train_groups
from textgym.feedback.learning.training import (
    LearningConfig,
    reward_model_of,
    seeded,
    split_by_prompt,
    train_reward,
)
from textgym.feedback.records import Feedback, Question
from textgym.rewards import load_reward
from textgym.rewards.learned import RewardModel, load_reward_model

FAST = LearningConfig(epochs=2, batch_size=16, learning_rate=3e-3)
ASKED = [PROMPTS[0], "Tell", "", PROMPTS[3] * 3]
GIVEN = [TEXTS[0], "", TEXTS[7], TEXTS[3] + TEXTS[9]]


@pytest.fixture(scope="module")
def start():
    return policy()


@pytest.fixture(scope="module")
def bert(tmp_path_factory):
    return tiny_bert(tmp_path_factory.mktemp("bert"))


def weights(model):
    return torch.cat([p.detach().flatten() for p in model.parameters()])


@pytest.mark.parametrize("kind", [comparisons, ratings, verdicts])
def test_each_kind_teaches_a_taste(start, kind):
    before = weights(reward_model_of(start, generator=seeded(3)))
    steps = []
    model, report = train_reward(
        start, kind(likes("cat"), 160, seed=0), FAST, seeded(3), lambda *seen: steps.append(seen)
    )
    assert report["accuracy"] >= 0.9
    assert report["train_accuracy"] > 0.7
    assert report["pairs"] + report["held_out"] == 160
    assert agreement(model, likes("cat")) > 0.95
    assert [step for step, _ in steps] == list(range(2 * -(-int(report["pairs"]) // 16)))
    assert steps[-1][1]["loss"] < steps[0][1]["loss"]
    assert torch.equal(before, weights(reward_model_of(start, generator=seeded(3))))


def test_kinds_mix_in_one_list(start):
    gold = likes("cat")
    mixed = comparisons(gold, 60, 0) + ratings(gold, 60, 1) + verdicts(gold, 60, 2)
    model, report = train_reward(start, mixed, FAST, seeded(1))
    kinds = {f"{kind}_accuracy" for kind in ("pairwise", "rating", "binary")}
    assert kinds <= set(report)
    assert all(report[kind] > 0.8 for kind in kinds)
    thresholds = [report[f"threshold_{k}"] for k in range(1, 5)]
    assert thresholds == sorted(thresholds)
    assert agreement(model, gold) > 0.95


def test_a_tie_width_is_learned(start):
    """Every comparison of two disliked texts is a tie: half of all."""
    feedback = comparisons(likes("cat"), 80, 0)
    feedback += [
        Feedback(Question(PROMPTS[i % 40], (TEXTS[5 + i % 10], TEXTS[16 + i % 9])), 0.5, "ann")
        for i in range(80)
    ]
    config = LearningConfig(epochs=3, learning_rate=3e-3, objectives=("davidson",))
    model, report = train_reward(start, feedback, config, seeded(0))
    assert report["accuracy"] == 1.0
    # Half are ties, so it begins at 2; but those of equal scores are all ties.
    assert report["tie_width"] > 2.5
    assert agreement(model, likes("cat")) > 0.95


def test_a_margin_drives_scores_apart(start):
    def with_margin(f, size):
        question = Question(f.question.prompt, f.question.completions, columns={"margin": size})
        return Feedback(question, f.label, "ann")

    feedback = comparisons(likes("cat"), 64, 0)

    config = replace(FAST, epochs=8)

    def lead(config, given):
        model, _ = train_reward(start, given, config, seeded(0))
        scores = model([PROMPTS[0]] * 2, [TEXTS[0], TEXTS[6]])
        return scores[0] - scores[1]

    plain = lead(config, feedback)
    constant = lead(replace(config, margin=4.0), feedback)
    column = lead(replace(config, margin="margin"), [with_margin(f, 4.0) for f in feedback])
    assert constant > plain + 0.5
    assert column == pytest.approx(constant, abs=1e-4)
    assert lead(replace(config, margin="margin"), feedback) == pytest.approx(plain, abs=1e-4)
    with pytest.raises(FeedbackError, match="the column 'margin' is no margin: 'much'"):
        lead(replace(config, margin="margin"), [with_margin(f, "much") for f in feedback])


def test_no_prompt_is_learned_from_and_tested_on():
    feedback = comparisons(likes("cat"), 200, 0)
    train, held = split_by_prompt(feedback, 0.25, seeded(0))
    prompts = [{f.question.prompt for f in part} for part in (train, held)]
    assert not prompts[0] & prompts[1]
    assert len(prompts[1]) == round(0.25 * len({f.question.prompt for f in feedback}))
    assert len(train) + len(held) == 200
    few = [f for f in feedback if f.question.prompt in PROMPTS[:2]]
    assert all(split_by_prompt(few, share, seeded(0))[1] for share in (0.01, 0.99))
    assert all(split_by_prompt(few, share, seeded(0))[0] for share in (0.01, 0.99))


def test_training_follows_its_generator_alone(start):
    def train(seed):
        torch.rand(seed + 1)  # the global state must not matter
        model, report = train_reward(start, comparisons(likes("cat"), 40, 0), FAST, seeded(seed))
        return model(ASKED, GIVEN), report

    assert train(0) == train(0)
    assert train(0) != train(1)


def test_a_reward_model_can_be_trained_on(start):
    model, _ = train_reward(start, comparisons(likes("cat"), 80, 0), FAST, seeded(0))
    model.normalise([PROMPTS[0]] * len(TEXTS), TEXTS)
    before = model(ASKED, GIVEN)
    again, _ = train_reward(model, comparisons(likes("dog"), 120, 1), FAST, seeded(0))
    assert model(ASKED, GIVEN) == before
    assert agreement(again, likes("dog")) > 0.9
    assert (again.mean, again.std) == (0.0, 1.0)


def test_feedback_that_cannot_be_learned_from(start):
    pairs = comparisons(likes("cat"), 20, 0)
    only = LearningConfig(objectives=("ordinal",))
    with pytest.raises(FeedbackError, match="20 pairwise answers, and no objective for them: ord"):
        train_reward(start, pairs + ratings(likes("cat"), 20, 0), only)
    alone = [f for f in pairs if f.question.prompt == pairs[0].question.prompt]
    with pytest.raises(FeedbackError, match="at least two prompts, got 1"):
        train_reward(start, alone)
    with pytest.raises(FeedbackError, match="at least two prompts, got 0"):
        train_reward(start, [])
    with pytest.raises(ConfigError, match="did you mean 'davidson'"):
        LearningConfig(objectives=("davidsen",))
    with pytest.raises(ConfigError, match="one objective per kind"):
        LearningConfig(objectives=("davidson", "bradley_terry"))
    with pytest.raises(ConfigError, match="no margin"):
        LearningConfig(objectives=("davidson",), margin=1.0)
    with pytest.raises(ConfigError, match="epochs"):
        LearningConfig(epochs=0)
    broken = start.copy()
    with torch.no_grad():
        next(broken.model.parameters()).fill_(float("nan"))
    with pytest.raises(TrainingError, match="step 0"):
        train_reward(broken, pairs, FAST)


# Encoders.


@pytest.mark.parametrize("pooling", ["completion", "text"])
def test_an_encoders_score_is_the_heads_mean_over_what_is_pooled(bert, pooling):
    """Against the library's own model and pair encoding."""
    from transformers import AutoModel, AutoTokenizer

    model = EncoderRewardModel.from_pretrained(bert, seeded(0), pooling=pooling)
    inputs = AutoTokenizer.from_pretrained(bert)(ASKED[0], GIVEN[0], return_tensors="pt")
    read = inputs["token_type_ids"][0].bool() if pooling == "completion" else slice(None)
    with torch.no_grad():
        hidden = AutoModel.from_pretrained(bert).eval()(**inputs).last_hidden_state[0, read]
        expected = (hidden @ model.head.weight + model.head.bias).mean().item()
    assert model(ASKED[:1], GIVEN[:1]) == pytest.approx([expected], abs=1e-6)


@pytest.mark.parametrize("pooling", ["completion", "text"])
def test_an_encoders_score_does_not_depend_on_the_batch(bert, pooling):
    model = EncoderRewardModel.from_pretrained(bert, seeded(0), pooling=pooling)
    alone = [model([p], [c])[0] for p, c in zip(ASKED, GIVEN, strict=True)]
    for tokens in (1, 40, 2**13):
        model.bucket_tokens = tokens
        assert model(ASKED, GIVEN) == pytest.approx(alone, abs=1e-5)
        assert model(ASKED[::-1], GIVEN[::-1])[::-1] == pytest.approx(alone, abs=1e-5)
    assert model([], []) == []


def test_an_encoders_window_is_cut_from_the_front(bert):
    model = EncoderRewardModel.from_pretrained(bert, seeded(0), max_tokens=9)
    whole = EncoderRewardModel.from_pretrained(bert, seeded(0)).encode(ASKED, GIVEN)
    for row, full in zip(model.encode(ASKED, GIVEN), whole, strict=True):
        assert len(row.ids) == min(9, len(full.ids))
        assert row.ids[-1] == full.ids[-1] == 3  # [SEP]
        assert row.ids[0] == 2  # [CLS]
    pair = [PROMPTS[0]], [TEXTS[0] + TEXTS[7] + TEXTS[13]]
    longest, uncut = model.encode(*pair)[0], EncoderRewardModel.from_pretrained(bert, seeded(0))
    assert longest.ids[1:] == (3, *uncut.encode(*pair)[0].ids[-7:])
    # [CLS] [SEP] and the last six tokens of the completion, [SEP].
    assert len(longest.ids) == 9
    assert longest.completion == 7
    assert EncoderRewardModel.from_pretrained(bert, seeded(0), 10**6).max_tokens == 48


def test_an_encoder_learns_saves_and_loads(bert, tmp_path):
    model, report = train_reward(str(bert), comparisons(likes("cat"), 160, 0), FAST, seeded(0))
    assert isinstance(model, EncoderRewardModel)
    assert report["accuracy"] >= 0.9
    assert agreement(model, likes("cat")) > 0.95
    model.normalise([PROMPTS[0]] * len(TEXTS), TEXTS)
    model.save(tmp_path / "rm")
    again = load_reward(tmp_path / "rm")
    assert isinstance(again, EncoderRewardModel)
    assert again(ASKED, GIVEN) == pytest.approx(model(ASKED, GIVEN), abs=1e-6)
    assert not list((tmp_path / "rm").glob("*.bin"))
    with pytest.raises(ModelError, match="kind 'encoder'"):
        load_reward_model(tmp_path / "rm")


def test_what_is_an_encoder(bert, model):
    assert is_encoder(bert)
    assert not is_encoder(model)
    assert not is_encoder("tiny")
    with pytest.raises(ModelError, match="no language model"):
        is_encoder("/no/such/folder")
    with pytest.raises(ConfigError, match="unknown pooling 'last'"):
        EncoderRewardModel.from_pretrained(bert, seeded(0), pooling="last")


# Ensembles.


def test_combinations_by_hand():
    scores = torch.tensor([[1.0, 0.0], [3.0, 0.0], [5.0, 3.0]])
    assert combine(scores).tolist() == [3.0, 1.0]
    assert combine(scores, "worst").tolist() == [1.0, 0.0]
    # Deviations: sqrt((4 + 0 + 4) / 3) and sqrt((1 + 1 + 4) / 3).
    expected = [3 - 0.5 * (8 / 3) ** 0.5, 1 - 0.5 * 2**0.5]
    assert combine(scores, "uncertainty", 0.5).tolist() == pytest.approx(expected)
    with pytest.raises(ConfigError, match="unknown combination 'median'"):
        combine(scores, "median")
    with pytest.raises(ConfigError, match="penalty must be >= 0"):
        combine(scores, "uncertainty", -1.0)


def two_members(start, **options):
    members = [RewardModel.from_policy(start, seeded(seed)) for seed in (0, 1)]
    return RewardEnsemble(members, **options)


@pytest.mark.parametrize("how", ["mean", "worst", "uncertainty"])
def test_an_ensemble_normalises_its_members_and_then_itself(start, how, tmp_path):
    ensemble = two_members(start, how=how, penalty=0.7)
    prompts = [PROMPTS[0]] * len(TEXTS)
    ensemble.normalise(prompts, TEXTS)
    each = torch.tensor([member(prompts, TEXTS) for member in ensemble.members])
    assert each.mean(1).tolist() == pytest.approx([0, 0], abs=1e-5)
    low, high = each.amin(0), each.amax(0)
    by_hand = {"mean": (low + high) / 2, "worst": low}
    by_hand["uncertainty"] = by_hand["mean"] - 0.7 * (high - low) / 2
    expected = by_hand[how]
    expected = (expected - expected.mean()) / expected.std(correction=0)
    assert ensemble(prompts, TEXTS) == pytest.approx(expected.tolist(), abs=1e-4)
    assert ensemble.uncertainty(prompts, TEXTS) == pytest.approx(
        ((high - low) / 2).tolist(), abs=1e-5
    )
    ensemble.save(tmp_path / "rm")
    again = load_reward(tmp_path / "rm")
    assert (again.how, again.penalty) == (how, 0.7)
    assert again(ASKED, GIVEN) == pytest.approx(ensemble(ASKED, GIVEN), abs=1e-5)
    alone = [ensemble([p], [c])[0] for p, c in zip(ASKED, GIVEN, strict=True)]
    assert ensemble(ASKED, GIVEN) == pytest.approx(alone, abs=1e-5)


def test_an_ensemble_tokenizes_once(start, monkeypatch):
    ensemble, calls = two_members(start), []
    encode = RewardModel.encode
    monkeypatch.setattr(
        RewardModel, "encode", lambda *a: calls.append(1) or encode(*a), raising=True
    )
    ensemble(ASKED, GIVEN)
    assert calls == [1]


def test_members_differ_by_seed_and_resample(start):
    feedback = comparisons(likes("cat"), 80, 0)
    steps = []
    ensemble, report = train_ensemble(
        start, feedback, FAST, seeded(0), lambda step, _: steps.append(step), members=2
    )
    assert report["ensemble_accuracy"] >= 0.9
    assert agreement(ensemble, likes("cat")) > 0.95
    first, second = (member(ASKED, GIVEN) for member in ensemble.members)
    assert first != second
    assert steps == list(range(len(steps)))
    assert len(steps) == 2 * 2 * -(-int(report["pairs"]) // 16)
    resampled, _ = train_ensemble(start, feedback, FAST, seeded(0), members=1, bootstrap=True)
    whole, _ = train_ensemble(start, feedback, FAST, seeded(0), members=1)
    assert resampled(ASKED, GIVEN) != whole(ASKED, GIVEN)


def test_bad_ensembles(start, bert):
    member = RewardModel.from_policy(start, seeded(0))
    with pytest.raises(ConfigError, match="at least one member"):
        RewardEnsemble([])
    other = RewardModel.from_policy(start, seeded(0), max_tokens=8)
    encoder = EncoderRewardModel.from_pretrained(bert, seeded(0))
    for stranger in (other, encoder):
        with pytest.raises(ConfigError, match="share tokenizer and window"):
            RewardEnsemble([member, stranger])
    with pytest.raises(ConfigError, match="did you mean 'worst'"):
        RewardEnsemble([member], "worse")
    with pytest.raises(ConfigError, match="members must be >= 1"):
        train_ensemble(start, comparisons(likes("cat"), 20, 0), members=0)
    with pytest.raises(DataError, match="equal score"):
        RewardEnsemble([member]).normalise(["a", "a"], ["b", "b"])


def test_pair_accuracy_by_hand():
    question = Question("p", ("good", "bad"))
    answers = [Feedback(question, label, "ann") for label in (1.0, 1.0, 0.0, 0.5)]

    def reward(prompts, completions, **columns):
        assert columns == {"annotator": ["ann"] * 8, "group": [""] * 8}
        return [float(text == "good") for text in completions]

    assert pair_accuracy(reward, answers) == pytest.approx(2 / 3)
    assert math.isnan(pair_accuracy(lambda p, c, **columns: [], []))
    with pytest.raises(FeedbackError, match="1 scores for 8 completions"):
        pair_accuracy(lambda p, c, **columns: [0.0], answers)


# One reward per group.


def test_groups_learn_apart(start, tmp_path):
    feedback = comparisons(likes("cat"), 80, 0, "a", "cats")
    feedback += comparisons(likes("cat", -1), 80, 1, "b", "others")
    rewards, reports = train_groups(start, feedback, FAST, seeded(0))
    assert set(reports) == {"cats", "others"}
    assert agreement(rewards.for_group("cats"), likes("cat")) > 0.95
    assert agreement(rewards.for_group("others"), likes("cat", -1)) > 0.95
    assert agreement(rewards, likes("cat", -1), group="others") > 0.95
    rewards.normalise([PROMPTS[0]] * len(TEXTS), TEXTS)
    rewards.save(tmp_path / "rm")
    again = load_reward(tmp_path / "rm")
    asked = {"group": ["others", "cats", "cats", "others"]}
    scores = rewards(ASKED, GIVEN, **asked)
    assert again(ASKED, GIVEN, **asked) == pytest.approx(scores, abs=1e-5)
    by_group = {name: rewards.for_group(name)(ASKED, GIVEN) for name in reports}
    expected = [by_group[name][i] for i, name in enumerate(asked["group"])]
    assert scores == pytest.approx(expected, abs=1e-5)
    with pytest.raises(FeedbackError, match="did you mean 'cats'"):
        rewards.for_group("cat")
    with pytest.raises(FeedbackError, match="'ann' belongs to no group"):
        train_groups(start, [*feedback, *comparisons(likes("cat"), 1, 0)], FAST)
    with pytest.raises(FeedbackError, match="no group"):
        GroupRewards({})


# Folders.


def test_a_save_that_fails_leaves_the_old_reward(start, tmp_path, monkeypatch):
    good, other = (RewardModel.from_policy(start, seeded(seed)) for seed in (0, 1))
    good.save(tmp_path / "rm")
    (tmp_path / "rm" / "README.md").write_text("kept")

    def full(*_):
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr("textgym.rewards.learned.save_model", full)
        with pytest.raises(ModelError, match=r"cannot be written to .*: No space left on device"):
            other.save(tmp_path / "rm")
        with pytest.raises(ModelError, match="No space left"):
            other.save(tmp_path / "new")
    assert [path.name for path in tmp_path.iterdir()] == ["rm"]
    assert load_reward(tmp_path / "rm")(ASKED, GIVEN) == pytest.approx(good(ASKED, GIVEN), abs=1e-6)
    other.save(tmp_path / "rm")
    assert load_reward(tmp_path / "rm")(ASKED, GIVEN) == pytest.approx(
        other(ASKED, GIVEN), abs=1e-6
    )
    assert (tmp_path / "rm" / "README.md").read_text() == "kept"


def test_folders_that_hold_no_reward(start, tmp_path):
    with pytest.raises(ModelError, match=r"it has no config\.json"):
        load_reward(tmp_path)
    for text, cause in (("{", "cannot be read"), ("[]", "holds no settings")):
        (tmp_path / "reward.json").write_text(text)
        with pytest.raises(ModelError, match=cause):
            load_reward(tmp_path)
    for kind, missing in (
        ("ensemble", "members, how"),
        ("groups", "groups"),
        ("personal", "it has"),
    ):
        (tmp_path / "reward.json").write_text(json.dumps({"kind": kind}))
        with pytest.raises(ModelError, match=f"has no {missing}|{missing} no"):
            load_reward(tmp_path)
    (tmp_path / "reward.json").write_text(json.dumps({"kind": "ensembel"}))
    with pytest.raises(LookupError, match="did you mean 'ensemble'"):
        load_reward(tmp_path)
