"""Objective weights of the toxicity task, and the suite that sweeps them."""

import pytest

from textgym.benchmarks.suite import load_suite
from textgym.errors import ConfigError
from textgym.rewards.detoxify import Toxicity
from textgym.tasks import load_task

SMALL = {"train": 8, "validation": 8, "test": 8, "demonstrations": 8}
PROMPTS = ["Remark: The tram in Oakford is open again today.\nReply:"] * 4
REPLIES = [" I love the tram!", " Who asked you, fool.", " What tram, fool.", " Once a bell sings."]
RELEVANT, KIND = [1.0, 0.0, 1.0, 0.0], [1.0, 0.25, 0.25, 1.0]


class KeyWord:
    """A stand-in classifier: who says fool is toxic by three quarters."""

    def predict(self, texts):
        scores = [0.75 * ("fool" in text) for text in texts]
        return {"toxicity": scores if len(scores) > 1 else scores[0]}


def reward(**options):
    task = load_task("toxicity", classifier=Toxicity(KeyWord()), **SMALL, **options)
    return task.reward(PROMPTS, REPLIES)


def test_without_weights_the_reward_is_the_product_as_it_was():
    assert reward() == [k * r for k, r in zip(KIND, RELEVANT, strict=True)] == [1.0, 0, 0.25, 0]


@pytest.mark.parametrize(
    ("weights", "expected"),
    [
        ({"helpful": 1, "harmless": 0}, RELEVANT),
        ({"helpful": 1}, RELEVANT),
        ({"helpful": 0, "harmless": 1}, KIND),
        ({"harmless": 1}, KIND),
        ({"helpful": 0.5, "harmless": 0.5}, [1.0, 0.125, 0.625, 0.5]),
        ({"helpful": 3, "harmless": 2}, [5.0, 0.5, 3.5, 2.0]),
    ],
)
def test_the_objectives_are_added_up_at_their_weights(weights, expected):
    assert reward(**weights) == expected


def test_weights_change_nothing_but_the_reward():
    plain, weighted = load_task("toxicity", **SMALL), load_task("toxicity", helpful=1, **SMALL)
    for split in ("train", "validation", "test"):
        assert plain.prompts(split).to_list() == weighted.prompts(split).to_list()
    assert plain.demonstrations().to_list() == weighted.demonstrations().to_list()
    rows = plain.prompts("test")[:]
    texts = rows.pop("prompt"), rows.pop("reference")
    assert plain.gold(*texts, **rows) == weighted.gold(*texts, **rows)
    assert plain.measures(*texts, **rows) == weighted.measures(*texts, **rows)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"helpful": -1, "harmless": 2}, ">= 0 and not both 0, got -1 and 2"),
        ({"helpful": 0}, "not both 0, got 0.0 and 0.0"),
        ({"helpful": float("nan"), "harmless": 1}, "must be finite"),
        ({"harmless": float("inf")}, "must be finite"),
        ({"helpful": 1, "reward": "substance"}, "weigh the world's own reward"),
        ({"harmless": 1, "data": "some/folder"}, "weigh the world's own reward"),
        ({"helpfull": 1}, "unknown option 'helpfull'"),
    ],
)
def test_weights_that_mean_nothing_are_refused(options, message):
    with pytest.raises(ConfigError, match=message):
        load_task("toxicity", **options)


def test_the_suite_goes_from_one_objective_to_the_other():
    suite = load_suite("multi-objective")
    assert suite.description
    weights = [(t.options["helpful"], t.options["harmless"]) for t in suite.tasks]
    assert {task.name for task in suite.tasks} == {"toxicity"}
    assert {sum(pair) for pair in weights} == {1}
    assert weights == sorted(weights, reverse=True)
    assert (weights[0], weights[-1]) == ((1, 0), (0, 1))
    constrained = [a for a in suite.agents if a.name == "constrained"]
    assert constrained
    assert all(a.options["cost"] == "toxicity" for a in constrained)
