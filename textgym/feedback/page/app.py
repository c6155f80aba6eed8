"""The page over HTTP: every address begins with an annotator's token.

Starlette rather than Gradio: Gradio has no link per annotator, no strict Content-Security-Policy
and no measure of the time in the browser; this page needs one screen, and no build step.
"""

from __future__ import annotations

import hmac
import json
from collections.abc import Awaitable, Callable, Collection, Sequence
from importlib import resources
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from starlette.applications import Starlette
from starlette.concurrency import run_in_threadpool
from starlette.middleware import Middleware
from starlette.middleware.base import BaseHTTPMiddleware
from starlette.responses import PlainTextResponse, Response
from starlette.routing import Route

from textgym.errors import FeedbackError, StoreError
from textgym.feedback.page.desk import DecidedError, Desk
from textgym.feedback.page.links import token

if TYPE_CHECKING:
    from starlette.requests import Request

HEADERS = {
    # Even a text that escaped its element could neither run nor call home.
    "Content-Security-Policy": (
        "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; "
        "base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
    ),
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",  # the address is the token
    "Cache-Control": "no-store",
}
FILES = {
    "": ("index.html", "text/html"),
    "style.css": ("style.css", "text/css"),
    "page.js": ("page.js", "text/javascript"),
}
POST: dict[str, Any] = {"methods": ["POST"]}
LOCAL_HOSTS = ("127.0.0.1", "localhost", "::1")
LARGEST = 10_000
"""Bytes of a request; an answer takes about a hundred."""

Handler = Callable[["Request"], Awaitable[Response]]


def make_app(
    desk: Desk,
    annotators: Sequence[str],
    *,
    hosts: Collection[str] | None = LOCAL_HOSTS,
    where: str = "",
) -> Starlette:
    """Returns the page as an ASGI application.

    Under `/TOKEN/`, see `textgym.feedback.page.links.token`, it answers GET "" with the page,
    "next" with its state (`Desk.state`), and POST "answer" (`key`, `label`, `seconds`), "skip"
    (`key`) and "undo" with the next state. Errors are one line of text: 400 for what cannot be
    asked or answered, 403 without a valid token or from another site, 409 for a question already
    decided, 413 and 415 for what is no request of the page, 503 for a store that cannot be written.

    Args:
        desk: hands out the questions and stores the answers.
        annotators: who is let in; the store knows them.
        hosts: names that the server may be called by; None for any. A page of another site that
            has pointed its own name here (DNS rebinding) is told apart by this.
        where: what the last screen calls the store.
    """
    tokens = {name: token(desk.secret, name) for name in annotators}

    async def guard(request: Request, call: Handler) -> Response:
        response = _refusal(request, tokens, hosts) or await call(request)
        response.headers.update(HEADERS)
        return response

    def act(what: Callable[[str, dict[str, Any]], dict[str, Any]]) -> Handler:
        async def handle(request: Request) -> Response:
            given = await _given(request) if request.method == "POST" else {}
            state = await run_in_threadpool(what, request.state.annotator, given)
            # ASCII: a text may hold halves of surrogate pairs, which UTF-8 does not.
            return Response(json.dumps({**state, "where": where}), media_type="application/json")

        return handle

    return Starlette(
        routes=[
            *(Route(f"/{{token}}/{path}", _file(*file)) for path, file in FILES.items()),
            Route("/{token}/next", act(lambda who, _: desk.state(who))),
            Route("/{token}/answer", act(lambda who, given: _answer(desk, who, given)), **POST),
            Route("/{token}/skip", act(lambda who, g: desk.skip(who, _text(g, "key"))), **POST),
            Route("/{token}/undo", act(lambda who, _: desk.undo(who)), **POST),
        ],
        middleware=[Middleware(BaseHTTPMiddleware, dispatch=guard)],
        exception_handlers={
            DecidedError: _error(409),
            FeedbackError: _error(400),
            StoreError: _error(503),
        },
    )


def _refusal(
    request: Request, tokens: dict[str, str], hosts: Collection[str] | None
) -> Response | None:
    """Returns why a request is turned away, or None; notes whose it is."""
    host = request.headers.get("host", "")
    if hosts is not None and urlsplit(f"//{host}").hostname not in hosts:
        return PlainTextResponse("This page is not served under that name.", 400)
    given = request.url.path.split("/")[1].encode()
    whose = [name for name, t in tokens.items() if hmac.compare_digest(t.encode(), given)]
    if not whose:
        return PlainTextResponse("This page opens only with the link you were given.", 403)
    request.state.annotator = whose[0]
    if request.method != "POST":
        return None
    origin = request.headers.get("origin")
    if origin is not None and urlsplit(origin).netloc != host:
        return PlainTextResponse("Answers are taken only from the page itself.", 403)
    if request.headers.get("content-type", "").partition(";")[0] != "application/json":
        return PlainTextResponse("An answer is sent as application/json.", 415)
    if not request.headers.get("content-length", "").isdecimal():
        return PlainTextResponse("An answer says how long it is.", 411)
    if int(request.headers["content-length"]) > LARGEST:
        return PlainTextResponse(f"An answer has at most {LARGEST} bytes.", 413)
    return None


def _answer(desk: Desk, annotator: str, given: dict[str, Any]) -> dict[str, Any]:
    label, seconds = _number(given, "label"), _number(given, "seconds")
    return desk.answer(annotator, _text(given, "key"), label, seconds)


async def _given(request: Request) -> dict[str, Any]:
    try:
        given = json.loads(await request.body())
    except ValueError as error:
        raise FeedbackError(f"the request is no JSON: {error}") from None
    if not isinstance(given, dict):
        raise FeedbackError("the request must be a JSON object")
    return given


def _text(given: dict[str, Any], name: str) -> str:
    value = given.get(name)
    if not isinstance(value, str):
        raise FeedbackError(f"{name} must be a text, got {value!r}"[:200])
    return value


def _number(given: dict[str, Any], name: str) -> float:
    value = given.get(name)
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise FeedbackError(f"{name} must be a number, got {value!r}"[:200])
    try:
        return float(value)
    except OverflowError:
        raise FeedbackError(f"{name} is too large") from None


def _file(name: str, media_type: str) -> Handler:
    text = resources.files("textgym.feedback.page").joinpath(name).read_text("utf-8")

    async def handle(_: Request) -> Response:
        return Response(text, media_type=media_type)

    return handle


def _error(status: int) -> Callable[[Request, Exception], Response]:
    return lambda _, error: PlainTextResponse(str(error), status)
