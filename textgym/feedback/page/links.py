"""Each annotator's own link: a token that no one can guess and that survives a restart."""

from __future__ import annotations

import hashlib
import hmac
import ipaddress
import os
import secrets
import tempfile
from base64 import urlsafe_b64encode
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING

from textgym.errors import StoreError

if TYPE_CHECKING:
    from textgym.feedback.store import FeedbackStore

SECRET_FILE = "feedback.secret"
"""Where the secret of a store without a folder of its own is kept, in the current folder."""
SECRET_BYTES = 32


def secret_path(store: FeedbackStore) -> Path:
    """Returns the file that keeps a store's secret: beside an SQLite file, else `SECRET_FILE`."""
    url = store.engine.url
    beside = url.get_backend_name() == "sqlite" and url.database
    return Path(f"{url.database}.secret") if beside else Path(SECRET_FILE)


def load_secret(path: str | Path) -> str:
    """Returns the secret in a file, which only its owner may read; makes it on first use.

    Raises:
        StoreError: the file cannot be read or written, or holds too short a secret.
    """
    path = Path(path)
    try:
        if not path.exists():
            _write_once(path, secrets.token_urlsafe(SECRET_BYTES))
        secret = path.read_text("utf-8").strip()
    except (OSError, ValueError) as error:
        raise StoreError(f"the secret of the links, {path}, cannot be used: {error}") from error
    if len(secret) < SECRET_BYTES:
        raise StoreError(
            f"the secret of the links, {path}, has {len(secret)} characters, not {SECRET_BYTES} or "
            "more; delete the file and hand out new links"
        )
    return secret


def _write_once(path: Path, text: str) -> None:
    """Writes a private file whole; one that another process has written meanwhile stays."""
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, name = tempfile.mkstemp(prefix=f".{path.name}-", dir=path.parent)
    try:
        with os.fdopen(handle, "w", encoding="utf-8") as file:
            file.write(text)
        with suppress(FileExistsError):
            os.link(name, path)
    finally:
        os.unlink(name)


def digest(secret: str, *parts: str) -> bytes:
    """Returns the 32 bytes that a secret and some texts stand for (HMAC-SHA256, RFC 2104)."""
    # The length of each part keeps ("a", "bc") apart from ("ab", "c").
    message = "".join(f"{len(part)}:{part}" for part in parts)
    return hmac.digest(secret.encode(), message.encode("utf-8", "surrogatepass"), hashlib.sha256)


def token(secret: str, annotator: str) -> str:
    """Returns the 43 characters that let this annotator in."""
    return urlsafe_b64encode(digest(secret, "link", annotator)).decode().rstrip("=")


def is_loopback(host: str) -> bool:
    """Returns whether only this machine reaches what listens there."""
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False
