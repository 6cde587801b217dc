"""Can a reported number be compared with ours? What differs, in words, and whether it matters.

A difference *bars* a comparison if it changes what the number measures or what the method was
given: the users and rows (limits of the protocol, another split), the candidates, the item vectors
of a method that reads them, the sizes of the model, another rule of training under the same name,
a training cut short, or seen items treated another way. Of split, candidates and vectors, not
knowing is no better than differing, and bars as well. All else is a note: it stands beside the
verdict and changes nothing in it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import yaml

from benchmark.aggregate import DatasetResults, MethodRuns
from benchmark.report.provenance import encoder_name, protocol_limits
from benchmark.report.reported import Source, paper_name, released_settings, reported_counts
from benchmark.store import StoredRun

MIN_SEEDS = 3  # below this an interval knows of users only
SPLIT, CANDIDATES = "leave-one-out", "all items"  # what this suite does, always

#: Begin the reasons for which a method ends its own training; any other one cut it short.
_OWN_ENDS = ("no better validation", "codes collapsed")


@dataclass(frozen=True)
class Difference:
    """Something in which a reported number and ours differ, or may.

    Attributes:
        short: two or three words for a table's cell.
        words: the same as a clause, for a note.
        bars: whether the two cannot be compared for it.
    """

    short: str
    words: str
    bars: bool


def differences(
    result: DatasetResults, method: MethodRuns, source: Source, rule: str | None = None
) -> tuple[Difference, ...]:
    """All that is known, or should be and is not; those that bar a comparison come first.

    rule: what the number's method computes otherwise than any of ours; None: nothing.
    """
    found = [
        *([] if rule is None else [Difference("another rule", rule, True)]),
        *_protocol(result, method), *_split(result, method, source), *_vectors(method, source),
        *_seen(method, source), *_sizes(result, method, source), *_endings(result, method, source),
        *_variant(method, source), *_provenance(method),
    ]  # fmt: skip
    return tuple(sorted(found, key=lambda difference: not difference.bars))


def _protocol(result: DatasetResults, method: MethodRuns) -> list[Difference]:
    limits = dict.fromkeys(limit for run in method.runs for limit in protocol_limits(run.info))
    if not limits:
        return []
    return [Difference("protocol", f"our protocol is cut: {', '.join(limits)}", True)]


def _split(result: DatasetResults, method: MethodRuns, source: Source) -> list[Difference]:
    found = []
    for short, ours, theirs in (
        ("split", SPLIT, source.split),
        ("candidates", CANDIDATES, source.candidates),
    ):
        if theirs is None:
            words = f"nothing at hand says which {short} the source used (ours: {ours})"
            found.append(Difference(f"{short} not known", words, True))
        elif theirs != ours:
            found.append(Difference(short, f"{short}: ours {ours}, the source's {theirs}", True))
    if source.split is not None and not protocol_limits(method.runs[0].info):
        counts = method.runs[0].info["counts"]
        wrong = [f"{_count(counts.get(what))} {what.replace('_', ' ')}, not {number:,}"
                 for what, number in reported_counts(paper_name(result)).items()
                 if counts.get(what) != number]  # fmt: skip
        if wrong:
            found.append(Difference("split", f"our split has {'; '.join(wrong)}", True))
    return found


def _count(number: int | None) -> str:
    return "an unknown number of" if number is None else f"{number:,}"


def _vectors(method: MethodRuns, source: Source) -> list[Difference]:
    """Of methods that read item vectors; the others do not depend on any."""
    run = method.runs[0]
    if not run.info.get("embeddings_sha256"):
        return []
    ours = _described(run)
    if source.vectors is None:
        words = f"nothing at hand says which item vectors the source used (ours: {ours})"
        return [Difference("item vectors not known", words, True)]
    theirs = f"{source.vectors['family']}, {source.vectors['dimension']}-d"
    if _is_released(run, source.vectors):
        return []
    return [Difference("item vectors", f"ours are {ours}; the source's {theirs}", True)]


def _described(run: StoredRun) -> str:
    info = run.info.get("dataset_info") or {}
    encoder = info.get("encoder")
    size = encoder.get("dimension") if isinstance(encoder, Mapping) else None
    name = encoder_name(run) or "an unnamed encoder"
    of = f" of {info['text_source']}" if info.get("text_source") else ""
    return f"{name}{f', {size}-d,' if size and f'{size}-d' not in name else ''}{of}"


def _is_released(run: StoredRun, vectors: Mapping[str, Any]) -> bool:
    """Whether a run's vectors are those that came with the data set, of that encoder and size."""
    encoder = (run.info.get("dataset_info") or {}).get("encoder")
    return (
        isinstance(encoder, Mapping)
        and encoder.get("source") == "dataset"
        and encoder.get("dimension") == vectors["dimension"]
        and str(vectors["family"]).lower() in str(encoder.get("name")).lower()
    )


def _seen(method: MethodRuns, source: Source) -> list[Difference]:
    ours = {bool(value) for value in method.facts("exclude_seen")}
    if source.excludes_seen is None:
        words = "nothing at hand says whether the source leaves out items already seen"
        return [Difference("seen items not known", words, False)]
    if ours and ours != {source.excludes_seen}:
        done = {True: "left out", False: "may be recommended again"}
        mixed = " and ".join(done[value] for value in sorted(ours))
        words = f"ours are {mixed}, the source's {done[source.excludes_seen]}"
        return [Difference("seen items", words, True)]
    return []


def _sizes(result: DatasetResults, method: MethodRuns, source: Source) -> list[Difference]:
    """Settings of a generative method that are not the released ones."""
    if source.settings is None:
        return []
    ours = [_settings(run) for run in method.runs]
    if not all(ours):
        return [Difference("settings not stored", "our settings are not stored", True)]
    sizes, tuned = released_settings(paper_name(result))
    found = []
    for short, wanted, bars in (("sizes", sizes, True), ("settings", tuned, False)):
        other = [f"{key} {_at(ours[0], key)} ({value})" for key, value in wanted.items()
                 if _at(ours[0], key) != value and key != "train.epochs"]  # fmt: skip
        if other:
            words = f"other than the released ones (in brackets): {', '.join(other)}"
            found.append(Difference(short, words, bars))
    scale = method.facts("describe", "logit_scale")
    if any(str(value) != "none" for value in scale):
        words = f"logits scaled ({', '.join(dict.fromkeys(map(str, scale)))}), which the source"
        found.append(Difference("logit scale", f"{words} does not do", False))
    return found


def _endings(result: DatasetResults, method: MethodRuns, source: Source) -> list[Difference]:
    """Training that was cut, or planned shorter than the released one."""
    found = []
    ends = [str(end) for end in method.facts("describe", "stopped")]
    cut = [end for end in ends if end and not end.startswith(_OWN_ENDS)]
    if cut:
        found.append(Difference("training cut", f"training was cut: {'; '.join(cut)}", True))
    if any(end.startswith("codes collapsed") for end in ends):
        found.append(Difference("collapsed", "training ended when the codes collapsed", False))
    wanted = released_settings(paper_name(result))[1].get("train.epochs")
    if source.settings is None or wanted is None or not all(map(_settings, method.runs)):
        return found
    planned = _at(_settings(method.runs[0]), "train.epochs")
    if isinstance(planned, int) and planned < wanted and "" in ends:
        words = f"trained for all of {planned} epochs, where the source allows {wanted}"
        found.append(Difference("training length", words, True))
    return found


def _variant(method: MethodRuns, source: Source) -> list[Difference]:
    if source.variant is None:
        return []
    if method.method.endswith(f"_{source.variant}"):
        words = "our method computes what the source's code does, not what its text says"
    else:
        words = (
            "our method computes what the source's text says; its code computes the "
            f"{source.variant} variant"
        )
    if source.otherwise:
        words += f". In no method of ours: {source.otherwise}"
    return [Difference(f"code is {source.variant}", words, False)]


def _provenance(method: MethodRuns) -> list[Difference]:
    found = []
    if len(method.runs) < MIN_SEEDS:
        words = "fewer than three trainings: the interval knows of users only"
        found.append(Difference("users only", words, False))
    if any(method.facts("git", "dirty")):
        found.append(Difference("uncommitted changes", "made with uncommitted changes", False))
    return found


def _settings(run: StoredRun) -> Mapping[str, Any]:
    """``method`` of the run's config.yaml; empty where it was not stored."""
    path = run.folder / "config.yaml"
    if not path.exists():
        return {}
    loaded = yaml.safe_load(path.read_text(encoding="utf-8"))
    method = loaded.get("method") if isinstance(loaded, Mapping) else None
    return method if isinstance(method, Mapping) else {}


def _at(settings: Mapping[str, Any], key: str) -> Any:
    """The value under a dotted key; None where there is none."""
    value: Any = settings
    for step in key.split("."):
        value = value.get(step) if isinstance(value, Mapping) else None
    return value


def named(found: Sequence[Difference]) -> str:
    """Their short names, each once, as a cell has them."""
    return "; ".join(dict.fromkeys(difference.short for difference in found))
