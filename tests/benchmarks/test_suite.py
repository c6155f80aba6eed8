from __future__ import annotations

import pytest

from textgym.benchmarks.cell import OWN_MODEL, Pretrained, cells
from textgym.benchmarks.suite import (
    PRECISIONS,
    Spec,
    Suite,
    configure,
    load_suite,
    parse_spec,
    parse_suite,
    split_specs,
    suite_names,
    with_data,
)
from textgym.benchmarks.workbench import make_agent
from textgym.errors import ConfigError, UnknownNameError
from textgym.models import precision
from textgym.tasks import TASKS

TOML = """
model = "m"
seeds = [3, 4]
tasks = ["summarize", { name = "toxicity", label = "hard", options = { data = "d" } }]
agents = ["ppo@lr=0.5", "sft"]
[evaluation]
prompts = 7
"""


def test_toml_becomes_a_suite():
    suite = parse_suite("mine", TOML)
    assert suite.tasks == (Spec("summarize"), Spec("toxicity", {"data": "d"}, "hard"))
    assert suite.agents == (Spec("ppo", {"lr": 0.5}), Spec("sft"))
    assert (suite.name, suite.model, suite.seeds) == ("mine", "m", (3, 4))
    assert suite.evaluation.prompts == 7


def test_product_goes_seed_by_seed():
    models = {"summarize": Pretrained("m", "f"), "hard": Pretrained(OWN_MODEL, "g")}
    product = cells(parse_suite("mine", TOML), models)
    names = [cell.name for cell in product]
    assert names[:4] == [
        "summarize/ppo@lr=0.5/seed-3",
        "summarize/sft/seed-3",
        "hard/ppo@lr=0.5/seed-3",
        "hard/sft/seed-3",
    ]
    assert len(set(names)) == 8
    # Each task's cells start from its own model.
    assert {(cell.task.label, cell.model, cell.fingerprint) for cell in product} == {
        ("summarize", "m", "f"),
        ("hard", OWN_MODEL, "g"),
    }


@pytest.mark.parametrize("name", suite_names())
def test_shipped_suites_load_and_say_what_they_are_for(name):
    assert load_suite(name).description


@pytest.mark.parametrize("name", suite_names())
def test_every_agent_of_a_shipped_suite_can_be_made(name):
    suite = load_suite(name)
    for spec in suite.agents:
        config = make_agent(spec).config
        assert {key: getattr(config, key) for key in spec.options} == spec.options
    assert {spec.name for spec in suite.tasks} <= set(TASKS)


@pytest.mark.parametrize(
    ("toml", "says"),
    [
        ("taks = []", "did you mean 'tasks'"),
        ("tasks = ['a']\nagents = ['b']\n[evaluation]\nprompt = 3", "did you mean 'prompts'"),
        ("tasks = ['a']", "no agents"),
        ("tasks = [{ label = 'x' }]\nagents = ['b']", "without a name"),
        ("tasks = ['a']\nagents = ['b']\nbudget = -1", "budget must be >= 0"),
        ("tasks = ['a']\nagents = ['b']\nreference = 'x'", "'sft' or 'pretrained'"),
        ("tasks = ['a']\nagents = ['b']\nprecision = 'bfloat'", "did you mean 'bfloat16'"),
        ("tasks = ['a']\nagents = ['b']\nprecision = 16", "unknown precision '16'"),
        ("tasks = ['a']\nagents = ['b', 'b']", "two agents are called 'b'"),
        ("tasks = ['a']\nagents = ['b']\nseeds = [-1]", "seeds must be >= 0"),
        (
            "tasks = ['a']\nagents = ['b']\n[evaluation]\nfrontier_samples = -1",
            "must be >= 0, got -1",
        ),
        ("tasks = ", "not TOML"),
    ],
)
def test_broken_suites_say_what_is_wrong(toml, says):
    with pytest.raises(ConfigError, match=says):
        parse_suite("s", toml)


def test_the_precision_is_auto_unless_it_is_named():
    assert parse_suite("mine", TOML).precision == load_suite("quick").precision == "auto"
    assert parse_suite("mine", f"precision = 'bfloat16'\n{TOML}").precision == "bfloat16"
    chosen = configure("quick", precision="float32")
    assert chosen.precision == "float32"
    models = {task.label: Pretrained("m", "f") for task in chosen.tasks}
    assert {cell.config["precision"] for cell in cells(chosen, models)} == {"float32"}
    assert list(PRECISIONS) == [precision.AUTO, *precision.PRECISIONS]


def test_spec_values_are_typed():
    spec = parse_spec("dir/my.py:Mine@lr=1e-3,n=4,on=true,name=x,off=none")
    assert spec.name == "dir/my.py:Mine"
    assert spec.options == {"lr": 1e-3, "n": 4, "on": True, "name": "x", "off": None}
    assert spec.label == "Mine@lr=0.001,n=4,on=True,name=x,off=None"


@pytest.mark.parametrize("text", ["ppo@lr", "ppo@=3", "@lr=3"])
def test_malformed_specs(text):
    with pytest.raises(ConfigError):
        parse_spec(text)


def test_commas_separate_agents_and_options():
    assert split_specs("a, b@x=1,y=2 ,c") == ["a", "b@x=1,y=2", "c"]


def test_choosing_a_label_of_the_suite_keeps_its_options():
    suite = configure("quick", agents="best of 4,reinforce@lr=0.1,reference", seeds="5")
    assert suite.agents == (
        Spec("best_of_n", {"n": 4}, "best of 4"),
        Spec("reinforce", {"lr": 0.1}),
        Spec("reference"),
    )
    assert suite.seeds == (5,)
    assert suite.tasks == load_suite("quick").tasks


def test_seeds_must_be_numbers():
    with pytest.raises(ConfigError, match="whole numbers"):
        configure("quick", seeds="a,b")


def test_unknown_suite_has_a_suggestion():
    with pytest.raises(UnknownNameError, match="did you mean 'quick'"):
        load_suite("quik")


def test_data_goes_to_the_named_task_or_to_all():
    tasks = (Spec("a"), Spec("b", {"x": 1}))
    assert [t.options for t in with_data(tasks, ["org/set"])] == [
        {"data": "org/set"},
        {"x": 1, "data": "org/set"},
    ]
    named = with_data(tasks, ["b=../folder"])
    assert [t.options for t in named] == [{}, {"x": 1, "data": "../folder"}]
    assert with_data(tasks, ["c/d=e"])[0].options == {"data": "c/d=e"}
    assert with_data(tasks, ["c/d=e"])[1].label == tasks[1].label
    with pytest.raises(UnknownNameError, match="did you mean 'beta'"):
        with_data((Spec("beta"),), ["bet=x"])
    with pytest.raises(ConfigError, match="two sources"):
        with_data(tasks, ["x", "a=y"])


def test_suite_replace_ignores_none():
    suite = Suite("s", (Spec("a"),), (Spec("b"),), budget=3)
    assert suite.replace(budget=None, model="m") == Suite(
        "s", (Spec("a"),), (Spec("b"),), budget=3, model="m"
    )
