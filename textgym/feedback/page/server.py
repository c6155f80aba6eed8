"""Serves the page: a socket, a link for each annotator, and a clean end."""

from __future__ import annotations

import socket
import threading
import webbrowser
from collections.abc import Callable, Sequence
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING

import uvicorn

from textgym.errors import ConfigError
from textgym.feedback.page.app import LOCAL_HOSTS, make_app
from textgym.feedback.page.desk import Desk
from textgym.feedback.page.links import is_loopback, load_secret, secret_path, token
from textgym.feedback.store import FeedbackStore

if TYPE_CHECKING:
    from starlette.applications import Starlette

PORT = 8000
PATIENCE = 3
"""Seconds that requests have to end in once the server has been told to stop."""


class LabelServer:
    """A server of one batch's page, listening from its making on; a context manager.

    Attributes:
        store: where the answers go.
        links: each annotator's own address.
        address: host and port.
        is_private: whether only this machine reaches it.
        where: what the store is called, without a password.
    """

    def __init__(
        self,
        store_url: str | Path,
        batch: str,
        annotators: Sequence[str],
        *,
        group: str = "",
        host: str = "127.0.0.1",
        port: int = PORT,
        secret_file: str | Path | None = None,
        reveal: bool = False,
    ) -> None:
        """Opens the store, registers the annotators and binds the port.

        Args:
            store_url: an SQLite file or an SQLAlchemy URL.
            batch: which of the store's questions.
            annotators: who labels, each by a link of one's own.
            group: which group the annotators belong to; "" keeps the group of known ones.
            host: the address to listen at.
            port: the port; 0 for any that is free.
            secret_file: what the links follow from; by default beside the store.
            reveal: whether the page names the policies.

        Raises:
            ConfigError: no annotators, one named twice, or an address that cannot be listened at.
            FeedbackError: the batch holds no question, or an annotator is of another group.
            StoreError: the store or the secret cannot be used.
        """
        _check_annotators(annotators)
        self.is_private = is_loopback(host)
        self.store = FeedbackStore(store_url)
        try:
            self.where = _name(self.store)
            known = self.store.annotators()
            for annotator in annotators:
                self.store.register(annotator, group or known.get(annotator, ""))
            secret = load_secret(secret_file or secret_path(self.store))
            hosts = (*LOCAL_HOSTS, host) if self.is_private else None
            desk = Desk(self.store, batch, secret, reveal)
            app = make_app(desk, annotators, hosts=hosts, where=self.where)
            self._socket = _listen(host, port)
        except BaseException:
            self.store.close()
            raise
        self.address = (host, int(self._socket.getsockname()[1]))
        base = f"http://{_called(*self.address)}"
        self.links = {name: f"{base}/{token(secret, name)}/" for name in annotators}
        self._server = _uvicorn(app)

    def run(self) -> None:
        """Serves until `stop` is called from another thread or, in the main one, Ctrl-C."""
        self._server.run(sockets=[self._socket])

    def stop(self) -> None:
        """Makes `run` return once the requests under way are answered."""
        self._server.should_exit = True

    def close(self) -> None:
        """Frees the port and closes the store."""
        self._socket.close()
        self.store.close()

    def __enter__(self) -> LabelServer:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()


def serve(
    store_url: str | Path,
    batch: str,
    annotators: Sequence[str],
    *,
    group: str = "",
    host: str = "127.0.0.1",
    port: int = PORT,
    secret_file: str | Path | None = None,
    reveal: bool = False,
    open_browser: bool = False,
    say: Callable[[str], None] = print,
) -> None:
    """Serves a batch's page until Ctrl-C; says the links, and at the end what is stored where.

    Args:
        store_url: an SQLite file or an SQLAlchemy URL; the rest are `LabelServer`'s.
        batch: which of the store's questions.
        annotators: who labels.
        group: which group they belong to.
        host: the address to listen at.
        port: the port; 0 for any that is free.
        secret_file: what the links follow from.
        reveal: whether the page names the policies.
        open_browser: whether to open the first annotator's page here.
        say: takes each line.

    Raises:
        ConfigError, FeedbackError, StoreError: as `LabelServer`.
    """
    with LabelServer(
        store_url,
        batch,
        annotators,
        group=group,
        host=host,
        port=port,
        secret_file=secret_file,
        reveal=reveal,
    ) as server:
        if not server.is_private:
            say(
                f"WARNING: listening at {host}, not only on this machine: whoever has a link can "
                "label, and answers travel unencrypted"
            )
        for annotator, link in server.links.items():
            say(f"{annotator}: {link}")
        say("Ctrl-C stops; the same command goes on where everyone stopped, with the same links")
        if open_browser:
            opening = threading.Timer(0.5, webbrowser.open, [server.links[annotators[0]]])
            opening.daemon = True
            opening.start()
        try:
            server.run()
        except KeyboardInterrupt:
            pass
        finally:
            total, done = len(server.store.questions(batch)), server.store.progress(batch)
            each = ", ".join(f"{name} {done[name]} of {total}" for name in annotators)
            say(f"stopped; batch {batch!r} in {server.where}: {each}")


def _uvicorn(app: Starlette) -> uvicorn.Server:
    config = uvicorn.Config(
        app,
        log_level="warning",
        access_log=False,  # addresses are tokens
        lifespan="off",
        ws="none",
        server_header=False,
        proxy_headers=False,
        timeout_graceful_shutdown=PATIENCE,
    )
    return uvicorn.Server(config)


def _check_annotators(annotators: Sequence[str]) -> None:
    if isinstance(annotators, str) or not annotators:
        raise ConfigError(f"the page needs a list of annotators, got {annotators!r}")
    for name in annotators:
        if annotators.count(name) > 1:
            raise ConfigError(f"annotator {name!r} is named twice")


def _name(store: FeedbackStore) -> str:
    url = store.engine.url
    if url.get_backend_name() == "sqlite":
        return url.database or "memory"
    return url.render_as_string(hide_password=True)


def _listen(host: str, port: int) -> socket.socket:
    if not 0 <= port < 2**16:
        raise ConfigError(f"port must be 0 (any that is free) to 65535, got {port}")
    try:
        family, _, _, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
        # At once, so that a second server fails and a browser's first visit waits.
        return socket.create_server(address[:2], family=family)
    except OSError as error:
        raise ConfigError(
            f"cannot listen at {host!r}, port {port}: {error}; 0 takes any free port"
        ) from error


def _called(host: str, port: int) -> str:
    """Returns what a link calls the server."""
    if host in ("0.0.0.0", "::"):
        host = socket.gethostname()  # every address of this machine
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
