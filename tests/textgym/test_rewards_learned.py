import json

import pytest
import torch
from datasets import Dataset
from reward_support import tiny_policy

from textgym.errors import ConfigError, DataError, ModelError, TrainingError
from textgym.rewards import load_reward
from textgym.rewards.learned import (
    RewardModel,
    RewardModelConfig,
    load_reward_model,
    train_reward_model,
)

PROMPTS = ["The cat", "Where is the old dog?", "", "The red dog sat by the x. " * 3]
COMPLETIONS = [" sat.", "", " The dog.", " by the y and by the x"]


@pytest.fixture(scope="module")
def policy():
    return tiny_policy()


def model_of(policy, seed=0, **options):
    return RewardModel.from_policy(policy, torch.Generator().manual_seed(seed), **options)


def pairs(count=96):
    """Completions that say "cat" are preferred to those that say "dog"."""
    places = ["x", "y", "old x", "red y"]
    return Dataset.from_list(
        [
            {
                "prompt": f"The {place} sat by the {i % 7}",
                "chosen": f" cat {place}",
                "rejected": f" dog {place}",
            }
            for i, place in enumerate(places * (count // 4))
        ]
    )


def test_the_score_is_the_heads_mean_over_completion_and_eos(policy):
    model = model_of(policy)
    asked, given = (policy.tokenizer(text)["input_ids"] for text in ("The cat", " sat."))
    ids = [*asked, *given, policy.tokenizer.eos_token_id]
    with torch.no_grad():
        hidden = policy.model.base_model(input_ids=torch.tensor([ids])).last_hidden_state[0]
        read = hidden[len(asked) :] @ model.head.weight + model.head.bias
    assert model(["The cat"], [" sat."]) == pytest.approx([read.mean().item()], abs=1e-6)


@torch.no_grad()
def test_a_completion_that_fills_the_window_is_scored_whole(policy):
    """The prompt is pushed out; beside it rows that keep theirs."""
    model = model_of(policy, max_tokens=3)
    full, part = model.encode(["The red", "The"], [" cat sat.", " "])
    assert (full.completion, len(full.ids)) == (3, 3)
    assert part.completion < len(part.ids)
    for row, score in zip((full, part), model.raw_scores([full, part]), strict=True):
        hidden = policy.model.base_model(input_ids=torch.tensor([row.ids])).last_hidden_state[0]
        read = hidden[-row.completion :] @ model.head.weight + model.head.bias
        assert score.item() == pytest.approx(read.mean().item(), abs=1e-6)


@pytest.mark.parametrize("bucket_tokens", [1, 30, 2**13])
def test_a_score_does_not_depend_on_the_batch(policy, bucket_tokens):
    model = model_of(policy)
    alone = [model([p], [c])[0] for p, c in zip(PROMPTS, COMPLETIONS, strict=True)]
    model.bucket_tokens = bucket_tokens
    assert model(PROMPTS, COMPLETIONS) == pytest.approx(alone, abs=1e-5)
    backwards = model(PROMPTS[::-1], COMPLETIONS[::-1])
    assert backwards[::-1] == pytest.approx(alone, abs=1e-5)
    assert model([], []) == []


def test_what_exceeds_the_window_is_cut_from_the_front(policy):
    model = model_of(policy, max_tokens=8)
    row = model.encode(["The red dog sat by the x."], [" cat"])[0]
    whole = model_of(policy).encode(["The red dog sat by the x."], [" cat"])[0]
    assert row.ids == whole.ids[-8:]
    assert row.ids[-1] == policy.tokenizer.eos_token_id
    assert row.completion == whole.completion == 2
    assert model_of(policy, max_tokens=2).encode(["The red"], [" cat sat."])[0].completion == 2
    assert model_of(policy, max_tokens=10_000).max_tokens == policy.max_length
    with pytest.raises(ConfigError, match="max_tokens must be >= 2, got 1"):
        model_of(policy, max_tokens=1)


def test_normalised_scores_have_mean_0_and_deviation_1(policy):
    model = model_of(policy)
    raw = torch.tensor(model(PROMPTS, COMPLETIONS), dtype=torch.float64)
    model.normalise(PROMPTS, COMPLETIONS)
    scores = torch.tensor(model(PROMPTS, COMPLETIONS), dtype=torch.float64)
    assert scores.mean().item() == pytest.approx(0, abs=1e-6)
    assert scores.pow(2).mean().item() == pytest.approx(1, abs=1e-6)
    assert scores.argsort().tolist() == raw.argsort().tolist()
    with pytest.raises(DataError, match="2 samples of equal score"):
        model.normalise(["a", "a"], ["b", "b"])


def test_saved_and_loaded_again_it_scores_the_same(policy, tmp_path):
    model = model_of(policy, max_tokens=40)
    model.normalise(PROMPTS, COMPLETIONS)
    model.save(tmp_path / "rm")
    again = load_reward(tmp_path / "rm")
    assert again(PROMPTS, COMPLETIONS) == pytest.approx(model(PROMPTS, COMPLETIONS), abs=1e-6)
    assert again.max_tokens == 40
    assert not list((tmp_path / "rm").glob("*.bin"))
    (tmp_path / "rm" / "reward.json").unlink()
    with pytest.raises(ModelError, match=r"it has no reward\.json"):
        load_reward_model(tmp_path / "rm")


def test_training_learns_what_is_preferred_and_leaves_the_policy_alone(policy):
    before = {name: p.clone() for name, p in policy.model.named_parameters()}
    steps = []
    model, report = train_reward_model(
        policy,
        pairs(),
        RewardModelConfig(epochs=4, batch_size=16, learning_rate=3e-3, held_out=0.25),
        torch.Generator().manual_seed(0),
        lambda step, metrics: steps.append((step, metrics)),
    )
    assert report["accuracy"] == 1.0
    assert report["loss"] < 0.1
    assert report["pairs"] == 96
    assert [step for step, _ in steps] == list(range(4 * 5))  # 72 pairs are 5 batches of 16
    assert steps[0][1]["loss"] > steps[-1][1]["loss"]
    assert all(torch.equal(before[n], p) for n, p in policy.model.named_parameters())
    better, worse = model(["The new x sat by the 9"] * 2, [" cat new x", " dog new x"])
    assert better > worse


def test_training_follows_its_generator_alone(policy):
    def train(seed):
        torch.rand(seed + 1)  # the global state must not matter
        config = RewardModelConfig(epochs=1, batch_size=16)
        generator = torch.Generator().manual_seed(seed)
        model, report = train_reward_model(policy, pairs(32), config, generator)
        return model(PROMPTS, COMPLETIONS), report

    assert train(0) == train(0)
    assert train(0) != train(1)


def test_bad_preferences(policy):
    generator = torch.Generator()
    config = RewardModelConfig()
    with pytest.raises(DataError, match="column 'rejected'; their columns are prompt, chosen"):
        train_reward_model(policy, pairs().remove_columns("rejected"), config, generator)
    with pytest.raises(DataError, match="at least two pairs, got 1"):
        train_reward_model(policy, pairs().select([0]), config, generator)
    for wrong in ({"epochs": 0}, {"learning_rate": 0.0}, {"held_out": 1.0}):
        with pytest.raises(ConfigError):
            RewardModelConfig(**wrong)


def test_a_loss_that_is_not_finite_stops_training(policy):
    broken = policy.copy()
    with torch.no_grad():
        next(broken.model.parameters()).fill_(float("nan"))
    with pytest.raises(TrainingError, match="step 0"):
        train_reward_model(broken, pairs(), RewardModelConfig(), torch.Generator())


def test_constants_are_readable(policy, tmp_path):
    model_of(policy, max_tokens=12).save(tmp_path)
    constants = json.loads((tmp_path / "reward.json").read_text())
    assert constants == {"mean": 0.0, "std": 1.0, "max_tokens": 12}
