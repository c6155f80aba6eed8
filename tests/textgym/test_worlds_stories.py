"""The story world's grammar and judge, on cases worked by hand."""

import re
from collections import Counter

import numpy as np
import pytest

from textgym.worlds import stories
from textgym.worlds import story_templates as words
from textgym.worlds.grammar import Draw, count, pattern, render
from textgym.worlds.stories import Idea, Opening, Sources

FOUND = Opening("The ferryman Ida found a lamp in Marlow.", "Ida", "lamp", "Marlow")


def draw(seed=0):
    return Draw(np.random.default_rng(seed))


def all_texts(template, slots):
    """Every text of a template, by drawing until the grammar's own count is reached."""
    d, seen = draw(), set()
    while len(seen) < count(template):
        seen.add(render(template, slots, d))
    return seen


@pytest.mark.parametrize(
    ("continuation", "idea", "teller", "fits", "resolves", "score"),
    [
        # A daring turn that suits a light and is resolved: 0.4 + 0.2 + 0.2 + 0.2.
        ("Then the lamp drew wolves from the hills, and Ida sang until morning came.",
         "wolves/song", "plain", True, True, 1.0),
        # Daring and resolved, but no turn for a light: 0.4 + 0.2 - 0.2.
        ("Alas, the lamp foretold the week hour by hour, and in tears Ida sang until morning came.",
         "future/song", "gloomy", False, True, 0.4),
        # Daring, suits a light, is not resolved: 0.4 + 0.2 - 0.2.
        ("Listen, the lamp called bears from the hills! At once Ida went home content!",
         "wolves/home", "breathless", True, False, 0.4),
        # Daring, neither: 0.4 - 0.2.
        ("By custom, the lamp foretold the week word for word; with dignity, Ida bought a farm"
         " outright.", "future/rich", "wry", False, False, 0.2),
        # A quiet turn that suits a light and is resolved: 0.4 + 0.2 + 0.2.
        ("They say that everyone came to see the lamp, little ones, so Ida went home in peace.",
         "crowd/home", "grandmother", True, True, 0.8),
        # Quiet, does not suit, resolved: 0.4 + 0.2.
        ("Before long the lamp was full of silver. So Ida walked home content.",
         "coins/home", "plain", False, True, 0.6),
        # Quiet, neither: 0.4.
        ("At dawn the lamp hid old coins. In the end Ida woke up and it was all a dream.",
         "coins/dream", "plain", False, False, 0.4),
    ],
)  # fmt: skip
def test_gold_worked_by_hand(continuation, idea, teller, fits, resolves, score):
    verdict = stories.judge_story("Ida", "lamp", " " + continuation)
    assert (verdict.idea, verdict.teller, verdict.coherent) == (idea, teller, True)
    assert (verdict.fits, verdict.resolves) == (fits, resolves)
    assert verdict.score == score
    assert verdict.full_marks == (score == 1)


@pytest.mark.parametrize(
    ("continuation", "idea", "teller"),
    [
        ("Then the lamp drew wolves from the hills, and Una sang until morning came.",
         "wolves/song", "plain"),  # another hero
        ("Then the lantern drew wolves from the hills, and Ida sang until morning came.",
         "wolves/song", "plain"),  # another thing
        ("Then the fog lamp drew wolves from the hills, and Ida sang until morning came.",
         "wolves/song", "plain"),  # not the same lamp
        ("Then the lamp drew foxes from the hills, and Ida sang until morning came.",
         None, "other"),  # no turn of the grammar
        ("The lamp drew wolves from the hills, and Ida sang until morning came.", None, "other"),
        ("Then the lamp drew wolves from the hills, and Ida sang", None, "other"),  # cut short
        ("", None, "other"),
    ],
)  # fmt: skip
def test_what_is_not_coherent_scores_nothing(continuation, idea, teller):
    verdict = stories.judge_story("Ida", "lamp", continuation)
    assert (verdict.idea, verdict.teller) == (idea, teller)
    assert not any((verdict.coherent, verdict.fits, verdict.resolves, verdict.novel))
    assert verdict.score == 0


def test_every_idea_in_every_voice_reads_as_itself_and_nothing_else():
    d = draw()
    frames = stories._frames()
    for idea in stories.IDEAS:
        for teller in stories.TELLERS:
            opening = stories.sample_opening(d)
            text = stories.write_continuation(opening, idea, teller, d)
            verdict = stories.judge_story(opening.hero, opening.thing, text)
            assert (verdict.idea, verdict.teller) == (str(idea), teller)
            assert verdict.coherent
            assert verdict.score == stories.idea_score(opening.thing, idea)
            assert [t for t in frames if any(f.fullmatch(text) for f in frames[t])] == [teller]
            assert 9 <= len(text.split()) <= 28


@pytest.mark.parametrize("clauses", [words.TURNS, words.ENDINGS], ids=["turns", "endings"])
def test_no_wording_belongs_to_two_clauses(clauses):
    slots = {"thing": "lamp", "hero": "Ida"}
    seen = Counter(text for c in clauses for text in all_texts(c.wordings, slots))
    assert max(seen.values()) == 1
    for clause in clauses:
        own = pattern(clause.wordings, slots)
        accepted = {text for text in seen if re.fullmatch(own, text)}
        assert accepted == all_texts(clause.wordings, slots)


def test_the_tables_have_room_for_authors_and_clichés_that_are_not_good():
    assert len(words.TURNS) == 24
    assert len(words.ENDINGS) == 16
    for thing in (*stories.THINGS, *stories.UNSEEN_THINGS):
        marks = {idea: stories.idea_score(thing, idea) for idea in stories.IDEAS}
        best = [idea for idea, score in marks.items() if score == 1]
        assert 30 <= len(best) <= 40
        assert min(marks.values()) == 0.2
        trite = [marks[Idea(*names)] for names in words.CLICHES]
        assert max(trite) < 1
        assert 0.4 < np.mean(trite) < 0.75


def test_the_corpus_never_tells_what_is_withheld():
    d = draw()
    for thing in stories.THINGS:
        hidden = {idea for idea in stories.IDEAS if stories.withheld(thing, idea)}
        assert 0.2 < len(hidden) / len(stories.IDEAS) < 0.45
        assert not hidden & {stories.sample_idea(thing, d) for _ in range(400)}
    good = [
        stories.withheld(thing, idea)
        for thing in stories.THINGS
        for idea in stories.IDEAS
        if stories.idea_score(thing, idea) == 1
    ]
    assert 0.28 < np.mean(good) < 0.39
    # The packaged language model was trained under this rule.
    assert stories.withheld("lamp", Idea("door", "truth"))
    assert not stories.withheld("lamp", Idea("door", "court"))


def test_novel_is_what_the_corpus_never_tells_of_the_thing():
    hidden = next(i for i in stories.IDEAS if stories.withheld("lamp", i))
    told = next(i for i in stories.IDEAS if not stories.withheld("lamp", i))
    for idea, novel in ((hidden, True), (told, False)):
        text = stories.write_continuation(FOUND, idea, "wry", draw())
        assert stories.judge_story("Ida", "lamp", text).novel == novel
    unseen = Opening("", "Ida", "fog lamp", "Marlow")
    text = stories.write_continuation(unseen, told, "wry", draw())
    assert stories.judge_story("Ida", "fog lamp", text).novel
    assert stories.sample_idea("fog lamp", draw()) in stories.IDEAS


def test_ideas_are_weighted_as_their_sources_say():
    told = [i for i in stories.IDEAS if not stories.withheld("lamp", i)]
    clichés = [(1 / k, Idea(*n)) for k, n in enumerate(words.CLICHES, 1) if Idea(*n) in told]
    trite = stories.idea_weights("lamp", Sources(1, 0, 0))
    total = sum(weight for weight, _ in clichés)
    assert trite == {str(i): pytest.approx(w / total) for w, i in clichés}
    good = [i for i in told if stories.fits("lamp", i) and stories.resolves(i)]
    sound = stories.idea_weights("lamp", Sources(0, 1, 0))
    assert sound == {str(i): pytest.approx(1 / len(good)) for i in good}
    loose = stories.idea_weights("lamp", Sources(0, 0, 1))
    assert loose == {str(i): pytest.approx(1 / len(told)) for i in told}
    mixed = stories.idea_weights("lamp", Sources(0.5, 0.2, 0.3))
    assert sum(mixed.values()) == pytest.approx(1)
    name = str(clichés[0][1])
    by_hand = 0.5 * trite[name] + 0.2 * sound.get(name, 0) + 0.3 * loose[name]
    assert mixed[name] == pytest.approx(by_hand)


def test_clichés_dominate_the_corpus_and_demonstrations_are_beatable():
    d = draw()

    def told(sources):
        things = [d.choice(stories.THINGS) for _ in range(3000)]
        return [(t, stories.sample_idea(t, d, sources)) for t in things]

    corpus = told(stories.CORPUS_IDEAS)
    assert np.mean([tuple(i) in words.CLICHES for _, i in corpus]) > 0.5
    marks = [stories.idea_score(t, i) for t, i in told(stories.DEMONSTRATION_IDEAS)]
    assert np.mean([stories.idea_score(t, i) for t, i in corpus]) < np.mean(marks) < 0.75
    assert 0.08 < np.mean(np.array(marks) == 1) < 0.25


def test_openings_are_short_and_recognised():
    d = draw()
    for sample, things in (
        (stories.sample_opening, stories.THINGS),
        (stories.sample_unseen_opening, stories.UNSEEN_THINGS),
    ):
        seen = [sample(d) for _ in range(500)]
        assert {o.thing for o in seen} == set(things)
        for o in seen:
            assert stories.accepts_opening(o.text)
            assert {o.hero, o.where} <= set(re.findall(r"\w+", o.text))
            assert f"a {o.thing}" in o.text
            assert len(o.text.split()) <= 16
    assert not stories.accepts_opening("The ferryman Ida ate a lamp in Marlow.")
    assert not set(stories.THINGS) & set(stories.UNSEEN_THINGS)
    assert stories.story_prompt("Ida found it.") == "Story: Ida found it.\nThen:"
