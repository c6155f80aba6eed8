"""Charts as PNG files for papers."""

from __future__ import annotations

import struct
import zlib
from collections.abc import Iterator

import vl_convert

from textgym.benchmarks.page.charts import Spec, themed

SCALE = 2
"""Pixels of a picture per pixel of its chart."""
SIGNATURE = b"\x89PNG\r\n\x1a\n"


def png(spec: Spec) -> bytes:
    """Returns a chart as a PNG on white."""
    return packed(vl_convert.vegalite_to_png(themed(spec), scale=SCALE, allowed_base_urls=[]))


def packed(picture: bytes) -> bytes:
    """Returns the same picture, its pixels packed as tightly as zlib can: a third of the size."""
    chunks = list(_chunks(picture))
    pixels = zlib.decompress(b"".join(data for kind, data in chunks if kind == b"IDAT"))
    before = [chunk for chunk in chunks if chunk[0] not in (b"IDAT", b"IEND")]
    made = [*before, (b"IDAT", zlib.compress(pixels, 9)), (b"IEND", b"")]
    return SIGNATURE + b"".join(_chunk(kind, data) for kind, data in made)


def _chunks(picture: bytes) -> Iterator[tuple[bytes, bytes]]:
    """Yields the kind and the data of each chunk."""
    at = len(SIGNATURE)
    while at < len(picture):
        (size,) = struct.unpack(">I", picture[at : at + 4])
        yield picture[at + 4 : at + 8], picture[at + 8 : at + 8 + size]
        at += size + 12


def _chunk(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))
