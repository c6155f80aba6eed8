"""The page over HTTP: who is let in, what is taken, what is stored."""

import json
from collections import Counter
from concurrent.futures import ThreadPoolExecutor

import pytest
from page_support import make_questions
from starlette.testclient import TestClient

from textgym.errors import FeedbackError, StoreError
from textgym.feedback.page.app import make_app
from textgym.feedback.page.desk import LONGEST, Desk
from textgym.feedback.page.links import token
from textgym.feedback.records import BINARY, PAIRWISE, RATING, Question
from textgym.feedback.store import FeedbackStore

SECRET = "s" * 43
ORIGIN = "http://127.0.0.1:8000"


class Person:
    """An annotator's browser, without the browser."""

    def __init__(self, client, annotator, secret=SECRET):
        self.client, self.base = client, f"/{token(secret, annotator)}/"

    def next(self):
        return self.client.get(f"{self.base}next").json()

    def post(self, path, headers=None, **given):
        return self.client.post(f"{self.base}{path}", json=given, headers=headers)

    def answer(self, label, seconds=2.0, key=None):
        key = key or self.next()["question"]["key"]
        return self.post("answer", key=key, label=label, seconds=seconds)


@pytest.fixture
def store(tmp_path):
    with FeedbackStore(tmp_path / "feedback.db") as store:
        store.register("ada", "authors")
        store.register("ben")
        yield store


def client_of(store, secret=SECRET, **options):
    desk = Desk(store, "default", secret, clock=lambda: 123.0, **options)
    return TestClient(make_app(desk, ["ada", "ben"], where="feedback.db"), base_url=ORIGIN)


@pytest.fixture
def ada(store):
    store.ask(make_questions(3))
    return Person(client_of(store), "ada")


def one_line(response, status, *words):
    assert response.status_code == status
    assert response.headers["content-type"].startswith("text/plain")
    assert response.text
    assert "\n" not in response.text
    for word in words:
        assert word in response.text


def shown_first(person):
    return person.next()["question"]["completions"][0]


@pytest.mark.parametrize("path", ["", "next", "page.js", "style.css", "answer"])
def test_without_a_valid_token_nothing_is_served(ada, path):
    good = ada.base.strip("/")
    for bad in ("", "x", good[:-1], good + "x", good.swapcase(), "%C3%A9"):
        one_line(ada.client.get(f"/{bad}/{path}"), 403, "only with the link")
        one_line(ada.client.post(f"/{bad}/{path}", json={}), 403)
    one_line(ada.client.get("/"), 403)
    assert "question" in ada.client.get(f"/{good}/next").json()


def test_headers_that_keep_texts_and_links_in(ada):
    responses = [ada.client.get(f"{ada.base}{path}") for path in ("", "next", "page.js", "nowhere")]
    assert [r.status_code for r in responses] == [200, 200, 200, 404]
    for response in [*responses, ada.client.get("/"), ada.post("answer")]:
        policy = response.headers["content-security-policy"].split("; ")
        assert policy[:3] == ["default-src 'none'", "script-src 'self'", "style-src 'self'"]
        assert "connect-src 'self'" in policy
        assert "unsafe" not in str(policy)
        assert response.headers["x-content-type-options"] == "nosniff"
        assert response.headers["referrer-policy"] == "no-referrer"
        assert response.headers["cache-control"] == "no-store"


def test_the_page_needs_nothing_from_elsewhere(ada):
    page = "".join(ada.client.get(f"{ada.base}{f}").text for f in ("", "page.js", "style.css"))
    assert "http:" not in page
    assert "https:" not in page
    for unsafe in ("innerHTML", "insertAdjacentHTML", "document.write", "eval(", " style="):
        assert unsafe not in page


def test_other_sites_cannot_answer(ada, store):
    one_line(ada.post("skip", {"origin": "http://evil.example"}, key="x"), 403, "page itself")
    one_line(ada.post("skip", {"origin": "null"}, key="x"), 403)
    one_line(ada.client.get(f"{ada.base}next", headers={"host": "evil.example"}), 400, "that name")
    one_line(ada.client.post(f"{ada.base}undo", content="{}"), 415, "application/json")
    one_line(ada.post("skip", key="x" * 20_000), 413)
    assert store.progress() == {"ada": 0, "ben": 0}
    key = ada.next()["question"]["key"]
    assert ada.post("skip", {"origin": ORIGIN}, key=key).status_code == 200
    for host in ("localhost:9", "[::1]:8000"):
        assert ada.client.get(f"{ada.base}next", headers={"host": host}).status_code == 200


def test_an_answer_is_stored_as_it_was_given(ada, store):
    state = ada.next()
    assert (state["annotator"], state["done"], state["total"]) == ("ada", 0, 3)
    assert state["where"] == "feedback.db"
    shown = state["question"]["completions"]
    after = ada.answer(1, seconds=4.5).json()
    assert (after["done"], after["question"]["prompt"]) == (1, "prompt 1")
    (row,) = store.feedback()
    assert (row.annotator, row.group, row.seconds, row.timestamp) == ("ada", "authors", 4.5, 123.0)
    assert row.ranked[0] == shown[0]
    assert [row.question.completions[place] for place in row.order] == shown
    assert row.question.policies == ("policy-left", "policy-right")
    assert row.question.columns == {"row": 0}


def test_the_label_follows_the_order_shown(ada, store):
    store.ask(make_questions(40))
    wanted = {}
    for turn in range(40):
        label = (1, 0, 0.5)[turn % 3]
        shown = ada.next()["question"]["completions"]
        wanted[shown[0].split()[1]] = (label, shown[0] if label else shown[1])
        assert ada.answer(label).status_code == 200
    rows = {row.question.prompt.split()[1]: row for row in store.feedback()}
    assert rows.keys() == wanted.keys()
    for number, (label, preferred) in wanted.items():
        assert rows[number].is_tie == (label == 0.5)
        assert label == 0.5 or rows[number].ranked[0] == preferred
    orders = Counter(row.order for row in rows.values())
    assert set(orders) == {(0, 1), (1, 0)}
    assert min(orders.values()) > 8  # a fair coin falls below in 1 of 20,000 secrets


def test_the_order_is_drawn_per_annotator_and_stays(store):
    store.ask(make_questions(64))
    desk, again = (Desk(store, "default", SECRET) for _ in range(2))
    orders = {
        who: [desk.order(who, question) for question in store.questions()] for who in ("ada", "ben")
    }
    assert orders["ada"] == [again.order("ada", question) for question in store.questions()]
    equal = sum(a == b for a, b in zip(*orders.values(), strict=True))
    assert 12 < equal < 52
    other = Desk(store, "default", "t" * 43)
    assert orders["ada"] != [other.order("ada", question) for question in store.questions()]


def test_the_page_is_blind_unless_told_otherwise(store):
    store.ask(make_questions(1))
    assert (
        "policy"
        not in Person(client_of(store), "ada").client.get(f"/{token(SECRET, 'ada')}/next").text
    )
    question = Person(client_of(store, reveal=True), "ada").next()["question"]
    authors = {"left 0": "policy-left", "right 0": "policy-right"}
    assert question["policies"] == [authors[text] for text in question["completions"]]


@pytest.mark.parametrize(
    ("kind", "good", "bad"),
    [(PAIRWISE, (0, 0.5, 1), (2, -1, 0.25)), (RATING, (1, 5), (0, 6, 2.5)), (BINARY, (0, 1), (2,))],
)
def test_labels_of_each_kind(store, kind, good, bad):
    store.ask(make_questions(3, kind))
    ada = Person(client_of(store), "ada")
    for label in bad:
        one_line(ada.answer(label), 400, f"a {kind} label is one of")
    assert store.feedback() == []
    for label in good:
        assert ada.answer(label).status_code == 200
    # Of a pair, the label is turned where the second completion was shown first.
    turned = [1 - row.label if row.order == (1, 0) else row.label for row in store.feedback()]
    assert turned == list(good)


@pytest.mark.parametrize(
    ("given", "word"),
    [
        ({"label": 1, "seconds": 1}, "key"),
        ({"key": 3, "label": 1, "seconds": 1}, "key"),
        ({"key": "0" * 32, "label": 1, "seconds": 1}, "holds no question"),
        ({"key": "KEY", "label": "1", "seconds": 1}, "label"),
        ({"key": "KEY", "label": True, "seconds": 1}, "label"),
        ({"key": "KEY", "label": None, "seconds": 1}, "label"),
        ({"key": "KEY", "label": 1}, "seconds"),
        ({"key": "KEY", "label": 1, "seconds": float("nan")}, "finite"),
        ({"key": "KEY", "label": 1, "seconds": 10**400}, "seconds"),
    ],
)
def test_what_is_no_answer_is_refused_in_a_line(ada, store, given, word):
    if given.get("key") == "KEY":
        given = {**given, "key": ada.next()["question"]["key"]}
    headers = {"content-type": "application/json"}
    response = ada.client.post(f"{ada.base}answer", content=json.dumps(given), headers=headers)
    one_line(response, 400, word)
    assert store.feedback() == []


@pytest.mark.parametrize("body", ["", "[1]", "{", "null", "\xff"])
def test_what_is_no_json_object_is_refused(ada, body):
    headers = {"content-type": "application/json"}
    content = body.encode("latin-1")
    one_line(ada.client.post(f"{ada.base}answer", content=content, headers=headers), 400)
    assert ada.client.get(f"{ada.base}answer").status_code == 405


@pytest.mark.parametrize(("sent", "kept"), [(-3, 0), (0, 0), (7.25, 7.25), (10**9, LONGEST)])
def test_response_times_are_bounded(ada, store, sent, kept):
    ada.answer(1, seconds=sent)
    assert [row.seconds for row in store.feedback()] == [kept]


def test_a_question_already_decided(ada, store):
    key = ada.next()["question"]["key"]
    assert ada.answer(1, key=key).status_code == 200
    for path in ("answer", "skip"):
        one_line(ada.post(path, key=key, label=0, seconds=1), 409, "already decided")
    skipped = ada.next()["question"]["key"]
    assert ada.post("skip", key=skipped).json()["done"] == 2
    one_line(ada.answer(1, key=skipped), 409, "already decided")
    assert len(store.feedback()) == 1


def test_of_two_answers_at_once_one_is_stored(ada, store):
    key = ada.next()["question"]["key"]
    with ThreadPoolExecutor(8) as pool:
        replies = list(pool.map(lambda label: ada.answer(label, key=key), [1, 0] * 4))
    assert Counter(reply.status_code for reply in replies) == {200: 1, 409: 7}
    assert len(store.feedback()) == 1


def test_an_answer_given_between_look_and_store_is_a_conflict(ada, store, monkeypatch):
    question = store.questions()[0]
    pending = store.pending("ada")
    ada.answer(1)
    monkeypatch.setattr(store, "pending", lambda *_: pending)
    for path in ("answer", "skip"):
        one_line(ada.post(path, key=question.key, label=1, seconds=1), 409, "already decided")


def test_undo_goes_back_to_what_it_takes_back(ada, store):
    one_line(ada.post("undo"), 409, "nothing to take back")
    ada.answer(1)
    ada.post("skip", key=ada.next()["question"]["key"])
    state = ada.post("undo").json()
    assert (state["question"]["prompt"], state["done"]) == ("prompt 1", 1)
    state = ada.post("undo").json()
    assert (state["question"]["prompt"], state["done"]) == ("prompt 0", 0)
    assert store.feedback() == []
    one_line(ada.post("undo"), 409)


def test_undo_shows_the_last_question_even_if_an_earlier_one_is_open(ada, store):
    last = store.questions()[2]
    ada.answer(1, key=last.key)
    assert ada.post("undo").json()["question"]["prompt"] == "prompt 2"


def test_undo_leaves_another_batch_alone(ada, store):
    other = Question("elsewhere", ("a", "b"))
    store.ask([other], "other")
    store.skip("ada", other)
    one_line(ada.post("undo"), 409, "nothing to take back")
    assert store.pending("ada", "other") == []


def test_annotators_do_not_see_each_other(ada, store):
    ben = Person(ada.client, "ben")
    for _ in range(3):
        ada.answer(1)
    assert ada.next()["question"] is None
    assert (ben.next()["done"], ben.next()["question"]["prompt"]) == (0, "prompt 0")
    ben.answer(0.5)
    ben.post("undo")
    assert [row.annotator for row in store.feedback()] == ["ada"] * 3


def test_a_restart_goes_on_where_everyone_stopped(ada, store):
    ada.answer(1)
    before = ada.next()
    assert Person(client_of(store), "ada").next() == before
    assert before["done"] == 1


def test_texts_travel_as_they_are(store):
    texts = ("<script>x</script>\n\t  & \u202e end ", "half a pair \ud800, NUL \0")
    store.ask([Question("p\r\n", texts)])
    shown = Person(client_of(store), "ada").next()["question"]
    assert sorted(shown["completions"]) == sorted(texts)
    assert shown["prompt"] == "p\r\n"


def test_a_store_that_cannot_be_written_is_told_and_nothing_lost(ada, store, monkeypatch):
    def full(_):
        raise StoreError("feedback.db cannot be used: database or disk is full")

    key = ada.next()["question"]["key"]
    with monkeypatch.context() as patch:
        patch.setattr(store, "add", full)
        one_line(ada.answer(1, key=key), 503, "disk is full")
    assert ada.answer(1, key=key).status_code == 200


def test_an_empty_batch_is_not_served(store):
    store.ask(make_questions(1), "pilot")
    with pytest.raises(FeedbackError, match=r"batch 'pilto'.*did you mean 'pilot'"):
        Desk(store, "pilto", SECRET)
