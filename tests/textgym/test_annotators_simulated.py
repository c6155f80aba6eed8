import dataclasses
import json
import math
from collections import Counter

import numpy as np
import pytest
from annotator_support import answer, pair, single, worth
from scipy.stats import chisquare

from textgym.errors import ConfigError, FeedbackError, RewardError, UnknownNameError
from textgym.feedback.annotators.agreement import agreement
from textgym.feedback.annotators.base import Annotator, gold_scores, turned
from textgym.feedback.annotators.choice import (
    AnnotatorConfig,
    binary_probabilities,
    pair_probabilities,
    quintiles,
    rating_probabilities,
)
from textgym.feedback.annotators.population import Group, population
from textgym.feedback.annotators.simulated import SimulatedAnnotator
from textgym.feedback.annotators.tastes import (
    PreferredVoice,
    RareVoice,
    RareWords,
    Taste,
    ready_made,
)
from textgym.feedback.records import Question
from textgym.tasks.summarize import make_summarize
from textgym.tasks.toxicity import make_toxicity

LOG3 = math.log(3)


def simulated(seed=0, reward=worth, **config):
    return SimulatedAnnotator(reward, np.random.default_rng(seed), AnnotatorConfig(**config))


def first(gold=(0.0, 0.0), lengths=(1, 1), first_shown=0, given=0, **config):
    found = pair_probabilities(AnnotatorConfig(**config), gold, lengths, first_shown, given)
    assert sum(found.values()) == pytest.approx(1)
    return found[1.0]


def test_pairs_follow_bradley_terry_by_hand():
    # sigmoid(log 3) is 3/4.
    assert first((LOG3, 0.0), rationality=1) == pytest.approx(0.75)
    assert first((0.0, LOG3 / 2), rationality=2) == pytest.approx(0.25)
    assert first((1.0, 0.0), rationality=0) == 0.5
    assert first((1e-9, 0.0), rationality=math.inf) == 1
    assert first((0.5, 0.5), rationality=math.inf) == 0.5


def test_flips_and_lapses_by_hand():
    # A fifth reversed: 0.75 * 0.8 + 0.25 * 0.2. Then every second answer a coin.
    assert first((LOG3, 0.0), rationality=1, flips=0.2) == pytest.approx(0.65)
    assert first((LOG3, 0.0), rationality=1, flips=0.2, lapses=0.5) == pytest.approx(0.575)


def test_place_and_length_by_hand():
    assert first(position_bias=LOG3) == pytest.approx(0.75)
    assert first(position_bias=LOG3, first_shown=1) == pytest.approx(0.25)
    # 1 + 7 characters are two doublings of 1 + 1; each gives log 3, which makes odds of nine.
    assert first(lengths=(7, 1), length_bias=LOG3) == pytest.approx(0.9)
    # Biases never overrule whoever never errs.
    assert first((1.0, 0.0), lengths=(1, 99), rationality=math.inf, length_bias=5) == 1


def test_ties_below_the_threshold_by_hand():
    config = AnnotatorConfig(tie_threshold=0.3, lapses=0.1, flips=0.5)
    tied = pair_probabilities(config, (0.5, 0.25), (1, 1))
    assert tied == pytest.approx({0.0: 0.05, 0.5: 0.9, 1.0: 0.05})
    assert pair_probabilities(config, (0.5, 0.1), (1, 1))[0.5] == 0
    assert pair_probabilities(AnnotatorConfig(), (0.5, 0.5), (1, 1))[0.5] == 0


def test_fatigue_halves_rationality():
    # Odds of 81 are log 81 = 4 log 3; half the rationality leaves odds of nine, a third 81^(1/3).
    tired = {"rationality": 4, "fatigue": 10}
    assert first((LOG3, 0.0), **tired) == pytest.approx(81 / 82)
    assert first((LOG3, 0.0), given=10, **tired) == pytest.approx(0.9)
    third = 81 ** (1 / 3)
    assert first((LOG3, 0.0), given=20, **tired) == pytest.approx(third / (1 + third))
    assert first((LOG3, 0.0), given=10, rationality=4) == pytest.approx(81 / 82)


def test_ratings_by_hand():
    thresholds = (-LOG3, 0.0, 0.0, LOG3)
    config = AnnotatorConfig(rationality=1, thresholds=thresholds)
    # P(> k) is 3/4, 1/2, 1/2, 1/4.
    found = rating_probabilities(config, 0.0, 100)
    assert found == pytest.approx({1: 0.25, 2: 0.25, 3: 0, 4: 0.25, 5: 0.25})
    # Gold of log 3 makes the odds of P(> k) 9, 3, 3, 1.
    found = rating_probabilities(config, LOG3, 100)
    assert found == pytest.approx({1: 0.1, 2: 0.15, 3: 0, 4: 0.25, 5: 0.5})
    # So does a length of two doublings less one; then a fifth become 6 - rating, half are any.
    config = AnnotatorConfig(1, 0.2, LOG3, lapses=0.5, thresholds=thresholds, typical_length=1)
    found = rating_probabilities(config, 0.0, 3)
    flipped = {1: 0.18, 2: 0.17, 3: 0, 4: 0.23, 5: 0.42}
    assert found == pytest.approx({k: 0.1 + p / 2 for k, p in flipped.items()})


def test_binary_by_hand():
    config = AnnotatorConfig(rationality=1, good_from=1.0, flips=0.2)
    assert binary_probabilities(config, 1 + LOG3, 100) == pytest.approx({0: 0.35, 1: 0.65})


def test_ratings_are_thresholds_on_noisy_gold():
    config = AnnotatorConfig(rationality=4, thresholds=(0.1, 0.3, 0.4, 0.9))
    noise = np.random.default_rng(0).logistic(0, 1 / 4, 200_000)
    ratings = 1 + (0.45 + noise[:, None] > config.thresholds).sum(1)
    expected = rating_probabilities(config, 0.45, 100)
    counts = Counter(ratings.tolist())
    chances = np.array([expected[k] for k in range(1, 6)])
    assert chisquare([counts[k] for k in range(1, 6)], chances * 200_000).pvalue > 0.001


def test_quintiles_rate_a_sample_evenly():
    gold = np.random.default_rng(0).random(5000)
    steady = simulated(rationality=math.inf, thresholds=quintiles(gold))
    asked = [single("rating", "a", gold={"a": float(g)}) for g in gold]
    assert set(Counter(f.label for f in steady.label(asked)).values()) == {1000}


NOISY = {
    "rationality": 3.0,
    "flips": 0.1,
    "length_bias": 0.4,
    "position_bias": 0.7,
    "lapses": 0.1,
}


@pytest.mark.parametrize("kind", ["pairwise", "rating", "binary"])
def test_frequencies_follow_the_closed_form(kind):
    gold = {"aaaa": 0.7, "b": 0.5}
    asked = pair("p", *gold, gold=gold) if kind == "pairwise" else single(kind, "aaaa", gold=gold)
    answers = simulated(1, **NOISY).label([asked] * 6000)
    config = AnnotatorConfig(**NOISY)
    for shown in {f.order for f in answers}:
        labels = Counter(f.label for f in answers if f.order == shown)
        expected = {
            "pairwise": lambda o=shown: pair_probabilities(config, (0.7, 0.5), (4, 1), o[0]),
            "rating": lambda: rating_probabilities(config, 0.7, 4),
            "binary": lambda: binary_probabilities(config, 0.7, 4),
        }[kind]()
        expected = {label: p for label, p in expected.items() if p}
        assert set(labels) == set(expected)
        shares = np.array([*expected.values()]) * labels.total()
        assert chisquare([labels[k] for k in expected], shares).pvalue > 0.001


def test_the_order_shown_is_a_coin_and_recorded():
    asked = [pair(gold={"a": 0, "b": 0})] * 4000
    orders = Counter(f.order for f in simulated(position_bias=50.0).label(asked))
    assert set(orders) == {(0, 1), (1, 0)}
    assert chisquare([*orders.values()]).pvalue > 0.001
    # Whoever always takes the first place takes the completion that is shown there.
    answers = simulated(position_bias=50.0).label(asked)
    assert all(f.label == 1 - f.order[0] for f in answers)


def test_alpacafarms_flips_reverse_a_quarter():
    asked = [pair(gold={"a": 1, "b": 0})] * 4000
    labels = [f.label for f in simulated(rationality=math.inf, flips=0.25).label(asked)]
    assert np.mean(labels) == pytest.approx(0.75, abs=0.02)


def test_fatigue_counts_labels_over_calls():
    gold = {"a": 0.5, "b": 0.0}
    tired = simulated(rationality=40.0, fatigue=20)
    early = [f.label for _ in range(4) for f in tired.label([pair(gold=gold)] * 10)]
    tired.label([pair(gold=gold)] * 20_000)
    late = [f.label for f in tired.label([pair(gold=gold)] * 400)]
    # sigmoid(20 / (1 + 40 / 20)) is 0.9987; 20,000 labels later it is sigmoid(0.02), a coin.
    assert np.mean(early) > 0.9
    assert np.mean(late) == pytest.approx(0.5, abs=0.08)
    assert tired.given == 20_440


def test_same_seed_same_answers_however_they_are_split():
    asked = [pair(f"p{i}", gold={"a": 0.5, "b": 0.4}) for i in range(40)]
    asked += [single("rating", f"{i}", gold={f"{i}": 0.5}) for i in range(40)]
    options = {**NOISY, "reading_speed": 20.0}
    whole = simulated(3, **options).label(asked)
    halves = simulated(3, **options)
    assert whole == halves.label(asked[:33]) + halves.label(asked[33:])
    assert whole != simulated(4, **options).label(asked)
    # A clock changes no one's answers.
    untimed = simulated(3, **NOISY).label(asked)
    assert [(f.label, f.order) for f in untimed] == [(f.label, f.order) for f in whole]


def test_the_same_draws_never_rate_a_better_text_lower():
    worse, better = (
        [single("rating", f"{i}", gold={f"{i}": gold}) for i in range(200)] for gold in (0.4, 0.6)
    )
    lower, higher = (simulated(5, rationality=3.0).label(asked) for asked in (worse, better))
    gains = [b.label - a.label for a, b in zip(lower, higher, strict=True)]
    assert min(gains) == 0
    assert max(gains) > 0


def test_an_answer_of_no_probability_is_never_given():
    class Zeros:
        def random(self, count):
            return np.zeros(count)

    steady = SimulatedAnnotator(worth, Zeros(), AnnotatorConfig(rationality=math.inf))
    assert steady.label([pair(gold={"a": 1, "b": 0})])[0].label == 1


def test_who_answered_is_recorded():
    random = np.random.default_rng(7)
    someone = SimulatedAnnotator(worth, random, name="ann", group="readers", seed=7)
    assert isinstance(someone, Annotator)
    (given,) = someone.label([pair(gold={"a": 1, "b": 0})])
    assert (given.annotator, given.group, given.seed, given.seconds) == ("ann", "readers", 7, None)
    assert given.timestamp is None
    with pytest.raises(ConfigError, match="needs a name"):
        SimulatedAnnotator(worth, random, name="")


def test_response_time_is_the_time_to_read():
    # 4 + 4 + 2 characters at 20 per second: half a second, times e^N(0, 1/4).
    asked = [pair("four", "four", "ab", gold={"four": 1, "ab": 0})] * 4000
    logs = np.log([f.seconds for f in simulated(reading_speed=20.0).label(asked)])
    assert logs.mean() == pytest.approx(math.log(0.5), abs=0.02)
    assert logs.std() == pytest.approx(0.25, abs=0.02)


@pytest.mark.parametrize(
    ("setting", "value"),
    [
        ("rationality", -1),
        ("rationality", math.nan),
        ("flips", 0.6),
        ("lapses", 1.1),
        ("tie_threshold", -0.1),
        ("length_bias", math.inf),
        ("fatigue", 0),
        ("reading_speed", -1),
        ("thresholds", (0.1, 0.2, 0.3)),
        ("thresholds", (0.1, 0.3, 0.2, 0.4)),
    ],
)
def test_settings_outside_their_domain(setting, value):
    with pytest.raises(ConfigError, match=f"{setting} must be"):
        AnnotatorConfig(**{setting: value})


def test_settings_are_frozen():
    with pytest.raises(dataclasses.FrozenInstanceError):
        AnnotatorConfig().flips = 0.1
    with pytest.raises(ConfigError, match="got none"):
        quintiles([])


def test_gold_sees_its_columns_in_the_questions_order():
    asked = [
        pair("p", "a", "b", gold={"a": 1, "b": 2}),
        pair("q", "a", "b", gold={"a": 3, "b": 4}, topic="x"),
        single("rating", "c", gold={"c": 5}),
    ]
    calls = []

    def gold(prompts, completions, **columns):
        calls.append((prompts, sorted(columns)))
        return worth(prompts, completions, **columns)

    assert gold_scores(gold, asked) == [(1, 2), (3, 4), (5,)]
    assert calls == [(["p", "p", "p"], ["gold"]), (["q", "q"], ["gold", "topic"])]
    assert gold_scores(gold, []) == []


def test_gold_that_is_no_number_is_an_error():
    with pytest.raises(RewardError, match="'gold' returned nan for completion 1"):
        simulated().label([pair(gold={"a": 1, "b": math.nan})])
    with pytest.raises(RewardError, match="1 values for 2 texts"):
        simulated(reward=lambda prompts, completions, **columns: [1.0]).label([pair()])


FACTS = {"event": "barn", "who": "Lolvik", "where": "Birdale", "when": "08:15", "amount": "900"}
CONCISE = "The barn fire in Birdale, led by Lolvik."


def test_a_tasks_gold_judges_by_the_facts():
    task = make_summarize(train=4)
    asked = pair("Report:", CONCISE, "No idea.", facts=json.dumps(FACTS))
    (given,) = simulated(reward=task.gold, rationality=math.inf).label([asked])
    assert given.label == 1
    with pytest.raises(RewardError, match="needs a column 'facts'"):
        simulated(reward=task.gold).label([pair()])


def test_members_take_turns_and_groups_mix():
    likes_a = Taste("a", lambda prompts, completions, **columns: [c == "a" for c in completions])
    likes_b = Taste("b", lambda prompts, completions, **columns: [c == "b" for c in completions])
    steady = AnnotatorConfig(rationality=math.inf)
    crowd = population([Group(likes_a, (steady,) * 3), Group(likes_b, (steady,))], 0, votes=2)
    assert [m.name for m in crowd.members] == ["a-0", "a-1", "b-0", "a-2"]
    answers = crowd.label([pair("p"), pair("q"), pair("r")])
    assert [f.question.prompt for f in answers] == ["p", "p", "q", "q", "r", "r"]
    assert [f.annotator for f in answers] == ["a-0", "a-1", "b-0", "a-2", "a-0", "a-1"]
    assert [f.group for f in answers] == ["a", "a", "b", "a", "a", "a"]
    assert [f.label for f in answers] == [1, 1, 0, 1, 1, 1]
    # The next call goes on with the turns.
    assert [f.annotator for f in crowd.label([pair()])] == ["b-0", "a-2"]


def test_members_differ_by_seed_and_settings():
    asked = [pair(f"p{i}", gold={"a": 0.1, "b": 0}) for i in range(50)]
    noisy, steady = AnnotatorConfig(rationality=1), AnnotatorConfig(rationality=math.inf)
    taste = Taste("people", worth)

    def labels(configs, seed):
        crowd = population([Group(taste, configs)], seed, votes=len(configs))
        answers = crowd.label(asked)
        return [[f.label for f in answers if f.annotator == m.name] for m in crowd.members]

    one, two, three = labels((noisy, noisy, steady), 0)
    assert one != two
    assert three == [1] * 50
    # Who joins changes no one's draws, another seed does.
    assert labels((noisy, noisy), 0) == [one, two]
    assert labels((noisy,), 1) != [one]
    assert all(f.seed == 9 for f in population([Group(taste, (noisy,))], 9).label(asked))


def test_populations_that_cannot_be():
    taste = Taste("people", worth)
    group = Group(taste, (AnnotatorConfig(),))
    with pytest.raises(ConfigError, match=r"votes must be in \[1, 1\], the members, got 2"):
        population([group], 0, votes=2)
    with pytest.raises(ConfigError, match="groups of different names"):
        population([group, group], 0)
    with pytest.raises(ConfigError, match="'people' has no members"):
        Group(taste, ())
    with pytest.raises(ConfigError, match="needs a name"):
        Taste("", worth)


def test_rare_words_by_hand():
    # Of three texts all hold "the", one holds "boat": log(4/4) = 0 and log(4/2) / log 4 = 1/2.
    taste = RareWords(["The boat", "the car, the car", "the tram"])
    assert taste(["p"] * 4, ["the", "THE boat", "zeppelin", ""]) == pytest.approx([0, 0.25, 1, 0])
    with pytest.raises(ConfigError, match="got none"):
        RareWords([])


def replies(*texts):
    return {
        "prompts": ["Remark: The tram in Birdale is open again today.\nReply:"] * len(texts),
        "completions": list(texts),
        "thing": ["tram"] * len(texts),
        "where": ["Birdale"] * len(texts),
    }


POET = " Somewhere in Birdale a bell sings."
EXPERT = " In short, a tram lasts forty years."
NOBODY = " tram tram Birdale"


def test_tastes_of_the_forum_are_opposed():
    task = make_toxicity(train=200)
    tastes = ready_made(task)
    assert list(tastes) == ["searchers", "authors", "minority"]
    found = {name: taste.reward(**replies(POET, EXPERT, NOBODY)) for name, taste in tastes.items()}
    # An expert's reply names the thing (0.6), a poet's the place (0.4).
    assert found["searchers"] == [0.4, 0.6, 0]
    assert found["minority"] == [1, 0, 0]
    rows = task.prompts("train")
    columns = {name: list(rows[name]) for name in ("thing", "where")}
    voices = task.modes(list(rows["prompt"]), list(rows["reference"]), **columns)
    share = Counter(voices)
    assert found["authors"] == [1 - share["poet"] / 200, 1 - share["expert"] / 200, 0]


def test_authors_want_what_searchers_do_not():
    task = make_summarize(train=256)
    tastes = ready_made(task, minority="off_topic")
    invented = CONCISE.replace("Lolvik", "Harlen")
    facts = json.dumps(FACTS)
    columns = {"facts": [facts] * 2, "topic": ["barn"] * 2}
    kept, made_up = tastes["searchers"].reward(["Report:"] * 2, [CONCISE, invented], **columns)
    assert kept > made_up
    kept, made_up = tastes["authors"].reward(["Report:"] * 2, [CONCISE, invented], **columns)
    assert kept < made_up
    assert tastes["minority"].reward(["Report:"], [CONCISE], facts=[facts]) == [0]


def test_voices_that_are_not_there():
    task = make_toxicity(train=2)
    with pytest.raises(UnknownNameError, match="unknown voice 'poets'; did you mean 'poet'"):
        PreferredVoice(task, "poets")

    class Voiceless:
        name = "toxicity"

    with pytest.raises(ConfigError, match="'toxicity' has no voices on this data"):
        RareVoice(Voiceless())


def test_kappa_by_hand():
    # 20 yes-yes, 5 yes-no, 10 no-yes, 15 no-no: p_o = 0.7, p_e = 0.5 * 0.6 + 0.5 * 0.4 = 0.5.
    said = [(1, 1)] * 20 + [(1, 0)] * 5 + [(0, 1)] * 10 + [(0, 0)] * 15
    asked = [single("binary", f"text {i}") for i in range(50)]
    a = [answer(q, x) for q, (x, _) in zip(asked, said, strict=True)]
    b = [answer(q, y) for q, (_, y) in zip(asked, said, strict=True)]
    found = agreement(a, [*b, answer(single("binary", "unshared"), 1)])
    assert found == pytest.approx(
        {"questions": 50, "comparisons": 50, "agreement": 0.7, "kappa": 0.4}
    )
    assert math.isnan(agreement(a[:25], a[:25])["kappa"])


def test_agreement_does_not_depend_on_the_order_of_completions():
    prompts = "pqrs"
    a = [answer(pair(p, "a", "b"), label) for p, label in zip(prompts, (1, 1, 0, 0.5), strict=True)]
    b = [answer(pair(p, "b", "a"), label) for p, label in zip(prompts, (0, 1, 1, 0.5), strict=True)]
    assert agreement(a, b)["agreement"] == 0.75
    # Data sets write the chosen one first: all labels are 1, which must not make kappa NaN.
    chosen = [answer(pair("p", "a", "b"), 1), answer(pair("q", "b", "a"), 1)]
    assert agreement(chosen, chosen)["kappa"] == 1


def test_agreement_sets_each_answer_beside_each():
    asked = pair()
    found = agreement([answer(asked, 1), answer(asked, 0)], [answer(asked, 1), answer(asked, 0.5)])
    assert found["questions"] == 1
    assert found["comparisons"] == 4
    assert found["agreement"] == 0.25


def test_agreement_on_nothing_or_on_several_kinds():
    with pytest.raises(FeedbackError, match="no question is shared by the 1 and the 1 answers"):
        agreement([answer(pair("p"), 1)], [answer(pair("q"), 1)])
    both = [answer(pair(), 1), answer(single("rating"), 3)]
    with pytest.raises(FeedbackError, match="one kind at a time, got pairwise and rating"):
        agreement(both, both)


def test_turned_answers_the_question_as_it_is_asked():
    stored = answer(pair("p", "a", "b"), 1, order=(1, 0), seconds=2.0)
    asked = Question("p", ("b", "a"), policies=("x", "y"))
    given = turned(stored, asked)
    assert (given.question, given.label, given.seconds) == (asked, 0, 2.0)
    # "b" was shown first, and is now completion 0.
    assert given.order == (0, 1)
    assert given.ranked == stored.ranked
    assert turned(stored, pair("p", "a", "b")).label == 1
    with pytest.raises(FeedbackError, match="another question"):
        turned(stored, pair("q"))
