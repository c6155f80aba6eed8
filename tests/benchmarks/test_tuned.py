"""Tuning and measuring for studies: small, but with everything that a study's point does."""

import pytest

from textgym.benchmarks.studies.tuned import EAD, REFERENCE_EAD, look, tune, tune_and_measure
from textgym.benchmarks.suite import Spec
from textgym.errors import DataError

TASK = Spec("toxicity", {"train": 64, "validation": 8, "test": 8, "demonstrations": 32})
SMALL = {"sft": {"steps": 2, "batch_size": 4}, "budget": 64}
RLOO = Spec("rloo", {"lr": 1e-3})


@pytest.fixture(scope="module")
def cache(tmp_path_factory):
    return tmp_path_factory.mktemp("cache")


def seen(agent, cache, seed=0):
    splits = ("test", "ood")
    asked = {"splits": splits, "prompts": 3, "samples": 2}
    return tune_and_measure(TASK, agent, seed, cache, **asked, **SMALL)


def test_the_reference_is_made_once_and_is_what_sft_gives(cache):
    found = seen(Spec("sft"), cache)
    assert set(found) == {"test", "ood"}
    assert found["test"].kl == pytest.approx(0, abs=1e-5)
    assert len(found["test"].prompts) == 3
    assert {"reward", "gold", "kl_seq", "insult", EAD, REFERENCE_EAD} <= set(found["ood"].prompts)
    assert len(list(cache.glob("study-reference-*"))) == 1
    again = seen(Spec("sft"), cache)
    assert again["ood"].prompts.equals(found["ood"].prompts)
    assert len(list(cache.glob("study-reference-*"))) == 1
    # Another way to make it is another reference.
    tune(TASK, Spec("sft"), 0, cache, sft={"steps": 1})
    assert len(list(cache.glob("study-reference-*"))) == 2


def test_training_moves_the_policy_and_leaves_the_reference(cache):
    made = tune(TASK, RLOO, 0, cache, **SMALL)
    assert made.agent.policy is not made.reference
    found = look(made, "test", 3, 2)
    assert found.kl > 1e-4
    assert found.kl_of_prompts() == pytest.approx(found.prompts["kl_seq"].tolist())
    lost = 1 - found.mean(EAD) / found.mean(REFERENCE_EAD)
    assert found.diversity_lost == pytest.approx(lost)
    base = seen(Spec("sft"), cache)["test"]
    assert base.prompts[REFERENCE_EAD].equals(found.prompts[REFERENCE_EAD])
    assert base.kl == pytest.approx(0, abs=1e-5)


def test_agents_without_a_policy_tell_their_own_kl(cache):
    found = seen(Spec("best_of_n", {"n": 2}), cache)["ood"]
    assert "kl_seq" not in found.prompts
    assert found.kl > 0
    assert found.kl_of_prompts() == [found.kl] * 3


def test_another_seed_asks_other_prompts(cache):
    sft = Spec("sft")
    first, second = (seen(sft, cache, seed)["test"].prompts for seed in (0, 1))
    assert not first["reward"].equals(second["reward"])


def test_a_task_without_the_split_says_so(cache):
    with pytest.raises(DataError, match="no out-of-distribution split"):
        tune_and_measure(Spec("two-modes"), Spec("sft"), 0, cache, splits=("ood",), **SMALL)
