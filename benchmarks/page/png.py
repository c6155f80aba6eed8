"""Charts as PNG files for papers."""

from __future__ import annotations

import io

import vl_convert
from PIL import Image

from textgym.benchmarks.page.charts import Spec, themed

SCALE = 2
"""Pixels of a picture per pixel of its chart."""


def png(spec: Spec) -> bytes:
    """Returns a chart as a PNG on white."""
    return packed(vl_convert.vegalite_to_png(themed(spec), scale=SCALE, allowed_base_urls=[]))


def packed(picture: bytes) -> bytes:
    """Returns the same picture, its pixels packed tightly: a third of the size."""
    out = io.BytesIO()
    Image.open(io.BytesIO(picture)).save(out, "PNG", optimize=True)
    return out.getvalue()
