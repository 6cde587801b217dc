"""What goes into the page besides text: data as JSON and figures as data addresses."""

from __future__ import annotations

import base64
import io
import json
import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from markupsafe import Markup
from PIL import Image

from benchmark.report.drawing import Drawing
from benchmark.report.html import identifier

COLOURS = 128  # of an embedded figure; lines, letters and their soft edges need no more


@dataclass(frozen=True)
class Picture:
    """A figure as the page embeds it; width and height in pixels keep its place while loading."""

    id: str
    title: str
    caption: str
    alt: str
    source: str
    width: int
    height: int


def picture(drawing: Drawing, folder: Path, prefix: str) -> Picture:
    """The saved PNG of a drawing with a palette of its own, which makes it some three times
    smaller.

    Args:
        folder: where ``drawing.save`` put it.
        prefix: start of the drawing's name that its title leaves out.
    """
    with Image.open(folder / f"{drawing.name}.png") as image:
        opaque = image.convert("RGB")
    small = opaque.quantize(COLOURS, Image.Quantize.MEDIANCUT, dither=Image.Dither.NONE)
    target = io.BytesIO()
    small.save(target, format="png", compress_level=9)
    data = base64.b64encode(target.getvalue()).decode("ascii")
    return Picture(
        f"figure-{identifier(drawing.name)}",
        drawing.name.removeprefix(prefix).replace("-", " ").capitalize(),
        drawing.caption,
        drawing.alt,
        f"data:image/png;base64,{data}",
        *small.size,
    )


def as_json(value: Any) -> Markup:
    """JSON that may stand in a ``<script>``: nothing in it can end the element or open another.

    Raises ``ValueError`` for NaN and infinity: see ``rounded``.
    """
    text = json.dumps(value, separators=(",", ":"), ensure_ascii=True, allow_nan=False)
    for character in "<>&":
        text = text.replace(character, f"\\u{ord(character):04x}")
    return Markup(text)


def rounded(value: Any, digits: int) -> Any:
    """A JSON value whose fractions have so many significant digits; whole numbers stay whole.

    NaN becomes null; infinity becomes the word that JavaScript's ``Number`` reads.
    """
    if isinstance(value, Mapping):
        return {str(key): rounded(inner, digits) for key, inner in value.items()}
    if isinstance(value, list | tuple):
        return [rounded(inner, digits) for inner in value]
    if not isinstance(value, float):
        return value
    if math.isnan(value):
        return None
    if math.isinf(value):
        return "Infinity" if value > 0 else "-Infinity"
    return int(value) if value.is_integer() and abs(value) < 10**9 else float(f"{value:.{digits}g}")
