"""The kinds of source that a data set's yaml can name (``source: {kind: ..., ...}``).

To add a kind, write a class with the members of `benchmark.data.source.Source` and register it
here; nothing else in the suite knows about kinds.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from benchmark.data.files import OwnFiles
from benchmark.data.letter import Letter, LetterWithKeyPhrases
from benchmark.data.recbole_wheel import RecboleWheel
from benchmark.data.release import DigerRelease, LetterWithReleasedVectors
from benchmark.data.source import Source

SOURCES: dict[str, Callable[[Mapping[str, Any]], Source]] = {
    "recbole_wheel": RecboleWheel,
    "letter": Letter,
    "idgenrec": LetterWithKeyPhrases,
    "diger_release": DigerRelease,
    "diger_release_vectors": LetterWithReleasedVectors,
    "files": OwnFiles,
}


def open_source(options: Mapping[str, Any]) -> Source:
    """The source that the options describe; impossible options raise ``ValueError``."""
    kind = options.get("kind")
    if kind not in SOURCES:
        raise ValueError(f"source.kind must be one of {', '.join(sorted(SOURCES))}, not {kind!r}")
    return SOURCES[kind](options)
