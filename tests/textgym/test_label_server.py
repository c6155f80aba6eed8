"""Links that last, a server that comes back, a command that ends cleanly."""

import http.client
import json
import signal
import socket
import stat
import subprocess
import sys
import threading
import time
import urllib.request
from concurrent.futures import ThreadPoolExecutor

import pytest
from page_support import answers, make_questions, serving, stored

from textgym.errors import ConfigError, FeedbackError, StoreError
from textgym.feedback.page.command import run_label
from textgym.feedback.page.links import digest, is_loopback, load_secret, secret_path, token
from textgym.feedback.page.server import LabelServer
from textgym.feedback.store import FeedbackStore
from textgym.tasks import load_task


def test_secrets_survive_and_are_private(tmp_path):
    path = tmp_path / "new" / "feedback.secret"
    secret = load_secret(path)
    assert len(secret) >= 43
    assert load_secret(path) == secret
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert list(path.parent.iterdir()) == [path]
    assert load_secret(tmp_path / "other") != secret


def test_secrets_made_at_once_are_one(tmp_path):
    with ThreadPoolExecutor(8) as pool:
        assert len(set(pool.map(load_secret, [tmp_path / "secret"] * 16))) == 1


@pytest.mark.parametrize("content", [b"", b"short\n", b"\xff" * 50])
def test_a_damaged_secret_is_refused(tmp_path, content):
    (tmp_path / "secret").write_bytes(content)
    with pytest.raises(StoreError, match="secret of the links"):
        load_secret(tmp_path / "secret")


def test_tokens_are_of_one_annotator_and_secret():
    tokens = {token(s, a) for s in ("s" * 43, "t" * 43) for a in ("ada", "ben", "a", "")}
    assert len(tokens) == 8
    assert all(len(t) == 43 and t.replace("-", "").replace("_", "").isalnum() for t in tokens)


def test_texts_run_together_are_others():
    assert digest("s", "a", "bc") != digest("s", "ab", "c") != digest("s", "abc")


def test_a_store_s_secret_is_beside_it(tmp_path):
    with FeedbackStore(tmp_path / "feedback.db") as store:
        assert secret_path(store) == tmp_path / "feedback.db.secret"


@pytest.mark.parametrize(
    ("host", "private"),
    [
        ("127.0.0.1", True),
        ("127.9.9.9", True),
        ("localhost", True),
        ("::1", True),
        ("0.0.0.0", False),
        ("::", False),
        ("192.168.1.5", False),
        ("example.org", False),
    ],
)
def test_which_addresses_are_this_machine_s(host, private):
    assert is_loopback(host) == private


def fetch(link, path="next"):
    with urllib.request.urlopen(link + path, timeout=10) as reply:
        return json.load(reply)


def test_the_server_answers_and_comes_back_under_the_same_links(tmp_path):
    path = stored(tmp_path / "feedback.db", make_questions(2))
    with serving(path, ["ada", "ben"]) as server:
        links, port = server.links, server.address[1]
        assert fetch(links["ada"])["annotator"] == "ada"
        assert fetch(links["ben"])["where"] == str(path)
        assert server._socket.getsockname()[0] == "127.0.0.1"
        with pytest.raises(ConfigError, match=f"port {port}.*0 takes any free port"):
            LabelServer(path, "default", ["ada"], port=port)
    with serving(path, ["ada", "ben"], port=port) as server:
        assert server.links == links
        assert fetch(links["ben"])["total"] == 2


@pytest.mark.parametrize(("host", "status"), [("127.0.0.1", 400), ("0.0.0.0", 200)])
def test_on_loopback_the_server_has_no_other_name(tmp_path, host, status):
    path = stored(tmp_path / "feedback.db", make_questions(1))
    with serving(path, host=host) as server:
        connection = http.client.HTTPConnection("127.0.0.1", server.address[1], timeout=10)
        link = "/" + server.links["ada"].split("/", 3)[3]
        connection.request("GET", link, headers={"Host": "gym.example"})
        assert connection.getresponse().status == status
        connection.close()


def test_annotators_keep_their_group(tmp_path):
    path = stored(tmp_path / "feedback.db", make_questions(1))
    LabelServer(path, "default", ["ada"], group="authors", port=0).close()
    LabelServer(path, "default", ["ada", "ben"], port=0).close()
    with FeedbackStore(path) as store:
        assert store.annotators() == {"ada": "authors", "ben": ""}
    with pytest.raises(FeedbackError, match="'ada' is of group 'authors', not 'readers'"):
        LabelServer(path, "default", ["ada"], group="readers", port=0)


@pytest.mark.parametrize(
    ("annotators", "options", "message"),
    [
        ([], {}, "needs a list of annotators"),
        ("ada", {}, "needs a list of annotators"),
        (["ada", "ada"], {}, "'ada' is named twice"),
        (["ada"], {"host": "999.0.0.1"}, "cannot listen at '999.0.0.1'"),
        (["ada"], {"port": 70_000}, "port must be 0 .*70000"),
    ],
)
def test_what_cannot_be_served(tmp_path, annotators, options, message):
    path = stored(tmp_path / "feedback.db", make_questions(1))
    with pytest.raises(ConfigError, match=message):
        LabelServer(path, "default", annotators, **{"port": 0, **options})


def test_listening_beyond_this_machine_is_said_loudly(tmp_path, monkeypatch):
    path = stored(tmp_path / "feedback.db", make_questions(1))
    monkeypatch.setattr(LabelServer, "run", lambda _: None)
    said = {host: [] for host in ("0.0.0.0", "127.0.0.1")}
    for host, lines in said.items():
        run_label(store=path, annotators=["ada"], host=host, port=0, say=lines.append)
    assert sum("WARNING: listening at 0.0.0.0" in line for line in said["0.0.0.0"]) == 1
    assert not any("WARNING" in line for line in said["127.0.0.1"])
    assert any(socket.gethostname() in line for line in said["0.0.0.0"])


@pytest.fixture(scope="module")
def task():
    # The tests' models know few words, so that a report has many tokens.
    return load_task("summarize", train=16, max_prompt_tokens=500, max_response_tokens=8)


def test_the_command_samples_once_and_goes_on(tmp_path, task, model, monkeypatch):
    monkeypatch.setattr(LabelServer, "run", lambda _: None)
    lines = []
    options = {"store": tmp_path / "f.db", "annotators": ["ada"], "port": 0, "say": lines.append}
    with pytest.raises(ConfigError, match="batch 'default' is empty"):
        run_label(**options)
    run_label(task, [model], prompts=2, **options)
    assert "batch 'default' asks 2 pairwise questions" in lines
    assert lines[-1] == f"stopped; batch 'default' in {tmp_path / 'f.db'}: ada 0 of 2"
    run_label(task, [model], prompts=3, **options)
    assert any("holds 2 questions" in line for line in lines)


def test_ctrl_c_ends_the_command_with_a_summary(tmp_path):
    path = stored(tmp_path / "feedback.db", make_questions(2))
    code = (
        "import sys; from textgym.feedback.page.command import run_label; "
        "run_label(store=sys.argv[1], annotators=['ada'], port=0)"
    )
    process = subprocess.Popen(
        [sys.executable, "-u", "-c", code, str(path)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    watchdog = threading.Timer(60, process.kill)
    watchdog.start()
    try:
        lines = []
        while not lines or "Ctrl-C" not in lines[-1]:
            lines.append(process.stdout.readline())
            assert lines[-1]
        link = next(line.split()[1] for line in lines if line.startswith("ada: "))
        person = fetch(link)
        given = {"key": person["question"]["key"], "label": 1, "seconds": 1}
        headers = {"Content-Type": "application/json"}
        request = urllib.request.Request(link + "answer", json.dumps(given).encode(), headers)
        urllib.request.urlopen(request, timeout=10).close()
        before = time.monotonic()
        process.send_signal(signal.SIGINT)
        out, err = process.communicate(timeout=20)
    finally:
        watchdog.cancel()
        process.kill()
        process.wait()
    assert out == f"stopped; batch 'default' in {path}: ada 1 of 2\n"
    assert (process.returncode, err) == (0, "")
    assert time.monotonic() - before < 10
    assert len(answers(path)) == 1
