"""People label in a real browser: keys, reloads, undo, a server that goes away."""

import time

import pytest
from page_support import answers, make_questions, serving, stored

from textgym.feedback.page.links import load_secret, token
from textgym.feedback.records import BINARY, RATING, Question
from textgym.feedback.store import FeedbackStore

UNREAD_S = 0.25
"""The page takes no answer sooner after it has shown a question."""


class Tab:
    """One annotator's open page."""

    def __init__(self, context, link):
        self.page = context.new_page()
        self.page.set_default_timeout(15_000)
        self.complaints = []
        self.page.on("pageerror", lambda error: self.complaints.append(str(error)))
        self.page.on("console", self._hear)
        self.page.goto(link)

    def _hear(self, message):
        # Chromium also writes down every reply that is an error, which tests provoke.
        if message.type == "error" and "Failed to load resource" not in message.text:
            self.complaints.append(message.text)

    def sees(self, count):
        self.page.wait_for_function(
            "count => document.getElementById('count').textContent === count", arg=count
        )

    def press(self, key, then):
        """Reads for as long as the page demands, presses, and waits for the count."""
        self.page.wait_for_timeout(1000 * UNREAD_S + 50)
        self.page.keyboard.press(key)
        self.sees(then)

    def texts(self, selector="#completions .text"):
        return self.page.locator(selector).all_text_contents()

    def text(self, selector):
        return self.page.locator(selector).text_content()


@pytest.fixture
def context(chromium):
    context = chromium.new_context()
    yield context
    context.close()


def test_five_pairs_by_keyboard_with_a_reload_and_an_undo(context, tmp_path):
    path = stored(tmp_path / "feedback.db", make_questions(5))
    started = time.time()
    with serving(path) as server:
        tab = Tab(context, server.links["ada"])
        tab.sees("0 of 5")
        shown = [tab.texts()]
        tab.press("1", then="1 of 5")
        shown.append(tab.texts())
        tab.press("ArrowRight", then="2 of 5")
        tab.page.reload()
        tab.sees("2 of 5")
        shown.append(tab.texts())
        assert tab.text("#prompt") == "prompt 2"
        tab.press("2", then="3 of 5")
        tab.press("u", then="2 of 5")
        assert (tab.text("#prompt"), tab.texts()) == ("prompt 2", shown[2])
        tab.press("t", then="3 of 5")
        shown.append(tab.texts())
        tab.press("ArrowLeft", then="4 of 5")
        shown.append(tab.texts())
        tab.press(" ", then="5 of 5")
        assert "Thank you" in tab.text("#asked")
        assert str(path) in tab.text("#completions")
        assert tab.page.locator("#answers button").count() == 0
        assert tab.complaints == []
    rows = answers(path)
    assert [row.question.prompt for row in rows] == [f"prompt {i}" for i in range(5)]
    assert [[r.question.completions[place] for place in r.order] for r in rows] == shown
    assert [row.is_tie for row in rows] == [False, False, True, False, True]
    preferred = {0: shown[0][0], 1: shown[1][1], 3: shown[3][0]}
    assert {i: rows[i].ranked[0] for i in preferred} == preferred
    assert {row.annotator for row in rows} == {"ada"}
    assert all(UNREAD_S <= row.seconds < time.time() - started for row in rows)
    assert all(started <= row.timestamp <= time.time() for row in rows)


@pytest.mark.slow
def test_response_times_are_those_of_the_page(context, tmp_path):
    path = stored(tmp_path / "feedback.db", make_questions(2))
    with serving(path) as server:
        tab = Tab(context, server.links["ada"])
        tab.sees("0 of 2")
        tab.page.wait_for_timeout(1500)
        tab.press("1", then="1 of 2")
        tab.press("1", then="2 of 2")
    slow, fast = (row.seconds for row in answers(path))
    assert 1.5 < slow < 10
    assert fast < slow - 0.5


def test_texts_of_models_are_shown_and_never_run(context, tmp_path):
    nasty = (
        "<script>window.hacked = 1</script><img src=x onerror='window.hacked = 1'>\n\n  \tend <b>"
    )
    question = Question(nasty, (nasty + "1", "</div>" + nasty), policies=(nasty, nasty))
    path = stored(tmp_path / "feedback.db", [question])
    with serving(path, reveal=True) as server:
        tab = Tab(context, server.links["ada"])
        tab.sees("0 of 1")
        assert sorted(tab.texts()) == sorted(question.completions)
        assert tab.text("#prompt") == nasty
        assert all(nasty in text for text in tab.texts("article h2"))
        assert tab.page.locator("img, b").count() == 0
        assert tab.page.evaluate("typeof window.hacked") == "undefined"
        assert tab.page.evaluate(
            "getComputedStyle(document.querySelector('#completions .text')).whiteSpace"
        ).startswith("pre-wrap")
        # The second wall: even markup that got into the page does not run.
        tab.page.evaluate("html => { document.getElementById('prompt').innerHTML = html; }", nasty)
        tab.page.wait_for_timeout(300)
        assert tab.page.locator("#prompt img").count() == 1
        assert tab.page.evaluate("typeof window.hacked") == "undefined"


@pytest.mark.slow
def test_ratings_by_keys(context, tmp_path):
    path = stored(tmp_path / "feedback.db", make_questions(5, RATING))
    with serving(path) as server:
        tab = Tab(context, server.links["ada"])
        for turn, key in enumerate("51423"):
            tab.sees(f"{turn} of 5")
            tab.press(key, then=f"{turn + 1} of 5")
    assert [row.label for row in answers(path)] == [5, 1, 4, 2, 3]


@pytest.mark.slow
def test_good_and_bad_by_keys_and_buttons(context, tmp_path):
    path = stored(tmp_path / "feedback.db", make_questions(6, BINARY))
    with serving(path) as server:
        tab = Tab(context, server.links["ada"])
        tab.sees("0 of 6")
        for turn, key in enumerate(["g", "b", "ArrowRight", "ArrowLeft"]):
            tab.press(key, then=f"{turn + 1} of 6")
        for turn, name in enumerate(["Good", "Bad"], 4):
            tab.page.wait_for_timeout(300)
            tab.page.get_by_role("button", name=name).click()
            tab.sees(f"{turn + 1} of 6")
    assert [row.label for row in answers(path)] == [1, 0, 1, 0, 1, 0]


@pytest.mark.slow
def test_keys_that_answer_nothing(context, tmp_path):
    path = stored(tmp_path / "feedback.db", make_questions(3))
    with serving(path) as server:
        tab = Tab(context, server.links["ada"])
        tab.sees("0 of 3")
        # Shown and answered in one breath: too soon to have been read.
        tab.page.evaluate(
            "act('next').then(() => document.body.dispatchEvent("
            "new KeyboardEvent('keydown', { key: '1', bubbles: true })))"
        )
        tab.page.wait_for_timeout(300)
        assert tab.text("#count") == "0 of 3"
        for key in ("3", "g", "u", "Control+1", "Enter"):
            tab.page.keyboard.press(key)
        tab.page.keyboard.press("?")
        assert tab.page.locator("dialog").is_visible()
        assert "Equal" in tab.text("#key-list")
        tab.page.keyboard.press("1")
        tab.page.keyboard.press("Escape")
        tab.page.wait_for_timeout(300)
        assert tab.text("#count") == "0 of 3"
        # Held down, a key answers once.
        tab.page.keyboard.down("1")
        tab.sees("1 of 3")
        tab.page.wait_for_timeout(350)
        tab.page.keyboard.down("1")
        tab.page.wait_for_timeout(200)
        assert tab.text("#count") == "1 of 3"
        tab.page.keyboard.up("1")
        tab.press("s", then="2 of 3")
    assert [row.question.prompt for row in answers(path)] == ["prompt 0"]


@pytest.mark.slow
def test_a_key_after_a_click_is_the_key_s(context, tmp_path):
    path = stored(tmp_path / "feedback.db", make_questions(4))
    with serving(path) as server:
        tab = Tab(context, server.links["ada"])
        for turn, name in enumerate(["1 is better", "Skip"]):
            tab.sees(f"{2 * turn} of 4")
            tab.page.wait_for_timeout(300)
            tab.page.get_by_role("button", name=name).click()
            tab.sees(f"{2 * turn + 1} of 4")
            assert tab.page.evaluate("document.activeElement.id") == "asked"
            tab.press(" ", then=f"{2 * turn + 2} of 4")  # must not click the button once more
    assert [row.is_tie for row in answers(path)] == [False, True, True]


@pytest.mark.slow
def test_two_annotators_at_once(chromium, tmp_path):
    path = stored(tmp_path / "feedback.db", make_questions(3))
    contexts = [chromium.new_context() for _ in range(2)]
    with serving(path, ["ada", "ben"]) as server:
        ada, ben = (
            Tab(c, server.links[who]) for c, who in zip(contexts, ("ada", "ben"), strict=True)
        )
        for tab in (ada, ben):
            tab.sees("0 of 3")
        assert (ada.text("#annotator"), ben.text("#annotator")) == ("ada", "ben")
        ada.press("1", then="1 of 3")
        ben.press("t", then="1 of 3")
        ben.press("t", then="2 of 3")
        ada.press("1", then="2 of 3")
        ada.press("u", then="1 of 3")
        ben.page.reload()
        ben.sees("2 of 3")
    for context in contexts:
        context.close()
    assert {who: len(answers(path, who)) for who in ("ada", "ben")} == {"ada": 1, "ben": 2}
    assert all(row.is_tie for row in answers(path, "ben"))


@pytest.mark.slow
def test_two_tabs_of_one_annotator(context, tmp_path):
    path = stored(tmp_path / "feedback.db", make_questions(2))
    with serving(path) as server:
        first, second = (Tab(context, server.links["ada"]) for _ in range(2))
        for tab in (first, second):
            tab.sees("0 of 2")
        first.press("1", then="1 of 2")
        second.press("t", then="1 of 2")
        assert "already decided" in second.text("#notice")
        assert second.text("#prompt") == "prompt 1"
        second.press("t", then="2 of 2")
        assert second.page.locator("#notice").is_hidden()
    assert [row.is_tie for row in answers(path)] == [False, True]


@pytest.mark.slow
def test_a_server_that_goes_away_loses_no_answer(context, tmp_path):
    path = stored(tmp_path / "feedback.db", make_questions(2))
    with serving(path) as server:
        tab = Tab(context, server.links["ada"])
        tab.sees("0 of 2")
        port = server.address[1]
    tab.page.wait_for_timeout(300)
    tab.page.keyboard.press("t")
    tab.page.locator("#trouble").wait_for(state="visible")
    assert "Not saved yet" in tab.text("#trouble")
    tab.page.keyboard.press("1")  # does not take the place of what waits
    assert tab.text("#prompt") == "prompt 0"
    assert answers(path) == []
    with serving(path, port=port):
        tab.sees("1 of 2")
        assert tab.page.locator("#trouble").is_hidden()
        tab.press("1", then="2 of 2")
    assert [row.is_tie for row in answers(path)] == [True, False]
    assert answers(path)[0].seconds < 5


@pytest.mark.slow
def test_a_reply_that_is_lost_takes_nothing_back_twice(context, tmp_path):
    path = stored(tmp_path / "feedback.db", make_questions(3))
    with serving(path) as server:
        tab = Tab(context, server.links["ada"])
        tab.sees("0 of 3")
        tab.press("1", then="1 of 3")
        tab.press("1", then="2 of 3")

        def lose(route):
            route.fetch()  # the server has done it
            route.abort()

        tab.page.route("**/undo", lose)
        tab.press("u", then="1 of 3")
        assert tab.text("#prompt") == "prompt 1"
        tab.page.route("**/answer", lose, times=1)
        tab.press("t", then="2 of 3")
        assert "already decided" in tab.text("#notice")
    assert [row.is_tie for row in answers(path)] == [False, True]


@pytest.mark.slow
def test_a_store_that_fails_is_told_and_tried_again(context, tmp_path):
    path = stored(tmp_path / "feedback.db", make_questions(1))
    with serving(path) as server:
        tab = Tab(context, server.links["ada"])
        tab.sees("0 of 1")
        tab.page.route(
            "**/answer",
            lambda route: route.fulfill(status=503, body="The disk is full."),
            times=1,
        )
        tab.press("1", then="1 of 1")
    assert len(answers(path)) == 1


@pytest.mark.slow
def test_a_wrong_link_opens_nothing(context, tmp_path):
    path = stored(tmp_path / "feedback.db", make_questions(1))
    with serving(path) as server:
        page = context.new_page()
        wrong = server.links["ada"].replace(token(load_secret(f"{path}.secret"), "ada"), "x" * 43)
        reply = page.goto(wrong)
        assert reply.status == 403
        assert "only with the link" in page.content()
    with FeedbackStore(path) as store:
        assert store.progress() == {"ada": 0}


@pytest.mark.slow
@pytest.mark.parametrize("width", [360, 1280])
def test_everything_fits_a_phone_and_a_desk(chromium, tmp_path, width):
    long = "word " * 300 + "w" * 400
    path = stored(tmp_path / "feedback.db", [Question(long, (long + "1", long + "2"))])
    context = chromium.new_context(viewport={"width": width, "height": 640})
    with serving(path) as server:
        tab = Tab(context, server.links["ada"])
        tab.sees("0 of 1")
        assert tab.page.evaluate("document.documentElement.scrollWidth") <= width
        for button in tab.page.locator("footer button").all():
            box = button.bounding_box()
            assert box["x"] >= 0
            assert box["x"] + box["width"] <= width
            assert box["y"] + box["height"] <= 640  # in sight without scrolling
        left, right = (a.bounding_box() for a in tab.page.locator("article").all())
        assert (left["y"] == right["y"]) == (width > 1000)
    context.close()
