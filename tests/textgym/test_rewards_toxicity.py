import pickle
import shutil

import numpy as np
import pytest
import torch

from textgym.errors import ConfigError, DataError, ModelError
from textgym.rewards import detoxify
from textgym.rewards.detoxify import CHECKPOINT, Toxicity, sha256
from textgym.rewards.text_classifier import auc
from textgym.rewards.train_toxicity import ToxicityConfig, train_toxicity

NOUNS = ["boat", "tram", "mill", "choir", "barn", "ferry", "school", "market", "tower", "garden"]
PLACES = [f"in town {i}" for i in range(12)]
KIND = [f"i like the {noun} {place}" for noun in NOUNS for place in PLACES]
RUDE = [f"you clown of the {noun} {place}" for noun in NOUNS for place in PLACES]
CONFIG = ToxicityConfig(
    vocab_size=350, width=16, layers=1, heads=2, max_tokens=24, epochs=8, learning_rate=1e-2
)


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    folder = tmp_path_factory.mktemp("classifier")
    report = train_toxicity(KIND + RUDE, [0] * 120 + [1] * 120, folder, CONFIG, seed=1)
    return folder, report


def test_training_separates_what_can_be_separated(trained):
    folder, report = trained
    assert report["auc"] == 1.0
    assert report["accuracy"] == 1.0
    assert report["texts"] == 240
    assert report["sha256"] == sha256(folder / CHECKPOINT)
    toxicity = Toxicity(folder, trust_checkpoint=True)
    kind, rude = toxicity.scores(["I like the boat", "You clown of the boat"])
    assert kind < 0.5 < rude


def test_training_is_the_same_to_the_bit_for_a_seed(trained, tmp_path):
    _, report = trained
    torch.rand(3)  # the global state must not matter
    state = torch.random.get_rng_state()
    labels = [0] * 120 + [1] * 120
    assert train_toxicity(KIND + RUDE, labels, tmp_path / "same", CONFIG, seed=1) == report
    assert torch.equal(torch.random.get_rng_state(), state)
    other = train_toxicity(KIND + RUDE, labels, tmp_path / "other", CONFIG, seed=2)
    assert other["sha256"] != report["sha256"]


def test_a_score_does_not_depend_on_the_batch(trained):
    folder, _ = trained
    texts = ["", "i like the boat", "you clown", "a very " * 40 + "long text", "you clown"]
    toxicity = Toxicity(folder, trust_checkpoint=True)
    alone = [toxicity.scores([text])[0] for text in texts]
    assert toxicity.scores(texts) == pytest.approx(alone, abs=1e-5)
    small = Toxicity(folder, trust_checkpoint=True, bucket_characters=30)
    assert small.scores(texts) == pytest.approx(alone, abs=1e-5)
    assert toxicity.scores([]) == []


def test_as_a_reward_it_is_one_minus_toxicity_of_the_completion(trained):
    toxicity = Toxicity(trained[0], trust_checkpoint=True)
    completions = ["i like the boat", "you clown"]
    rewards = toxicity(["you clown", "you clown"], completions, topic=["a", "b"])
    assert rewards == pytest.approx([1 - s for s in toxicity.scores(completions)])


def test_an_unknown_pickle_is_not_opened(trained, monkeypatch):
    folder, report = trained
    with pytest.raises(ModelError, match=r"unknown SHA-256.*trust_checkpoint=True"):
        Toxicity(folder)
    monkeypatch.setattr(detoxify, "KNOWN_SHA256", frozenset({report["sha256"]}))
    assert Toxicity(folder).scores(["you clown"])[0] > 0.5


class Bomb:
    def __reduce__(self):
        return (pytest.fail, ("a pickle ran code",))


def test_even_a_trusted_pickle_runs_no_code(trained, tmp_path):
    folder = shutil.copytree(trained[0], tmp_path / "bomb")
    torch.save({"config": Bomb(), "state_dict": {}}, folder / CHECKPOINT)
    with pytest.raises(ModelError, match="no Detoxify checkpoint"):
        Toxicity(folder, trust_checkpoint=True)
    (folder / CHECKPOINT).write_bytes(pickle.dumps(Bomb()))
    with pytest.raises(ModelError, match="no Detoxify checkpoint"):
        Toxicity(folder, trust_checkpoint=True)


def test_folders_that_hold_no_classifier(tmp_path):
    with pytest.raises(ModelError, match=rf"it has no {CHECKPOINT}"):
        Toxicity(tmp_path / "missing")
    (tmp_path / CHECKPOINT).write_bytes(b"")
    with pytest.raises(ModelError, match=r"it has no config\.json"):
        Toxicity(tmp_path)


def test_a_public_model_whose_file_was_changed_is_refused(tmp_path, monkeypatch):
    monkeypatch.setattr(torch.hub, "get_dir", lambda: str(tmp_path))
    (tmp_path / "checkpoints").mkdir()
    (tmp_path / "checkpoints" / "toxic_original-c1212f89.ckpt").write_bytes(b"not what it says")
    with pytest.raises(ModelError, match=r"does not have the SHA-256 c1212f89"):
        Toxicity("original")


def test_any_object_that_predicts_as_detoxify_does_is_taken():
    class Constant:
        def predict(self, texts):
            return {"toxicity": [0.25] * len(texts) if len(texts) > 1 else 0.25}

    toxicity = Toxicity(Constant())
    assert toxicity.name == "Constant"
    assert toxicity.scores(["a"]) == [0.25]
    assert toxicity.scores(["a", "b"]) == [0.25, 0.25]
    with pytest.raises(ConfigError, match="bucket_characters must be >= 1, got 0"):
        Toxicity(Constant(), bucket_characters=0)


def test_bad_training_data(tmp_path):
    with pytest.raises(DataError, match="1 labels for 2 texts"):
        train_toxicity(["a", "b"], [1], tmp_path)
    with pytest.raises(DataError, match="at least two texts labelled 0"):
        train_toxicity(["a", "b", "c"], [1, 1, 0], tmp_path)
    assert not list(tmp_path.iterdir())
    for wrong in ({"epochs": 0}, {"width": 10, "heads": 4}, {"held_out": 0.0}):
        with pytest.raises(ConfigError):
            ToxicityConfig(**wrong)


def test_auc_by_hand():
    # Pairs (positive, negative): 3>1, 3>2, 2>1 and one tie 2=2 of four: 3.5 / 4.
    assert auc(np.array([0, 0, 1, 1]), np.array([1.0, 2.0, 2.0, 3.0])) == 3.5 / 4
    assert auc(np.array([1, 0]), np.array([0.1, 0.9])) == 0.0


def test_the_shipped_classifier_is_known_and_tells_insults_apart():
    toxicity = Toxicity()
    assert toxicity.name == "detoxify-tiny"
    texts = ["I love the tram in Oakford!", "", "You know nothing, you silly clown."]
    kind, silent, rude = toxicity.scores(texts)
    assert max(kind, silent) < 0.1
    assert rude > 0.9
