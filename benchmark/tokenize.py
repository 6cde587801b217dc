"""Train a tokenizer alone and say how it uses its codes: ``python -m benchmark.tokenize
dataset=beauty/keyphrases seed=0``.

Takes what ``benchmark.run`` takes; the protocol is ``paper`` (the released sizes) unless one is
given, and the method one with semantic IDs. ``method.tokenizer.kind=rq-kmeans`` and
``method.tokenizer.checkpoint=NAME`` choose other tokenizers. What is trained here is in the cache
for every run with the same settings, and the other way round; an interrupted training goes on.

Prints use, entropy, perplexity and balance of every level, the collisions, and how often items that
belong together share codes, for IDs by the nearest code (argmin) and by balanced assignment
(sinkhorn), and writes to
``<reports>/tokenizers/<dataset>/<method>/<config hash>/seed=<s>/`` a heat map (codes.png, .pdf),
the semantic IDs of both (sids-argmin.npy, sids-sinkhorn.npy) and statistics.json.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol, runtime_checkable

import numpy as np
from numpy.typing import NDArray

from benchmark import provenance, store
from benchmark.config import Settings, build_method, compose_config, settings_from
from benchmark.data.prepare import Prepared
from benchmark.errors import UserError
from benchmark.guard import guard
from benchmark.likeness import likeness, likeness_table
from benchmark.recommender import BenchmarkData, Run
from benchmark.report.code_map import code_maps, use_facts, use_of, use_table
from benchmark.report.codes import CodeUse
from benchmark.report.drawing import save
from benchmark.run import check_writable, visit

if TYPE_CHECKING:
    from torch import Tensor

ASSIGNMENTS = ("argmin", "sinkhorn")
STOPPED = {
    "patience": "no check brought fewer collisions",
    "epochs": "all epochs were run",
    "kmeans": "k-means of at most 50 iterations a level",
    "released": "a released checkpoint, not trained here",
}


class Tokenizer(Protocol):
    """What is asked of a method's tokenizer."""

    @property
    def assignment(self) -> str:
        """The rule by which the method itself numbers the catalogue."""

    @property
    def facts(self) -> Mapping[str, Any]:
        """JSON: how it came about."""

    def assign(self, content_NxW: Tensor, assignment: str) -> NDArray[np.int32]:
        """Codes, int32 [N, m]."""

    def semantic_ids(self, content_NxW: Tensor, assignment: str) -> NDArray[np.int32]:
        """Codes and suffix, int32 [N, m + 1]; ValueError where too many items share codes."""


@runtime_checkable
class HasTokenizer(Protocol):
    """A method with semantic IDs."""

    codebook_size: int

    def make_tokenizer(self, data: BenchmarkData, seed: int, run: Run) -> Tokenizer:
        """The trained tokenizer."""


@dataclass(frozen=True, eq=False)
class Tokenized:
    """A tokenizer at work.

    Attributes:
        kind: of tokenizer.
        facts: how it came about. seconds: it took here, to train, to find or to wait for it.
        own: the method's own rule of assignment.
        codes: int32 [N, m] by rule. sids: int32 [N, m + 1] by rule, where the suffix has room.
        likeness: by rule; see ``benchmark.likeness``.
        notes: what could not be had.
    """

    kind: str
    facts: Mapping[str, Any]
    seconds: float
    own: str
    codebook_size: int
    codes: Mapping[str, NDArray[np.int32]]
    sids: Mapping[str, NDArray[np.int32]]
    likeness: Mapping[str, Mapping[str, list[float]]]
    notes: Sequence[str]

    @property
    def uses(self) -> dict[str, CodeUse]:
        return {rule: use_of(codes, self.codebook_size) for rule, codes in self.codes.items()}


def tokenize(settings: Settings) -> tuple[Prepared, Tokenized]:
    """Train the method's tokenizer, or find it in the cache, and number the catalogue.

    Raises:
        UserError: bad input, or a method without a tokenizer.
    """
    import torch

    method = build_method(settings)
    if not isinstance(method, HasTokenizer):
        raise UserError(
            f"{settings.method_name} has no tokenizer; choose a method with semantic IDs, such as "
            "method=tiger"
        )
    check_writable(settings.reports, "reports=")
    with visit(settings, method, f"tokenizer, seed {settings.seed}") as (prepared, run):
        if prepared.data.embeddings is None:
            raise UserError(f"{settings.dataset.name} has no item texts and no vectors to tokenize")
        started = time.perf_counter()  # preparing the data does not count
        tokenizer = method.make_tokenizer(prepared.data, settings.seed, run)
        seconds = time.perf_counter() - started
    content = torch.as_tensor(prepared.data.embeddings, device=run.device)
    codes, sids, notes = {}, {}, []
    for rule in ASSIGNMENTS:
        codes[rule] = tokenizer.assign(content, rule)
        try:
            sids[rule] = tokenizer.semantic_ids(content, rule)
        except ValueError as error:
            notes.append(f"no semantic IDs by {rule}: {error}")
    return prepared, Tokenized(
        type(tokenizer).__name__, dict(tokenizer.facts), seconds, tokenizer.assignment,
        method.codebook_size, codes, sids,
        likeness(codes, prepared.data.embeddings, prepared.data.split), notes,
    )  # fmt: skip


def lines(settings: Settings, made: Tokenized) -> list[str]:
    """What the command prints of a tokenizer: how it came about, then a table."""
    n, levels = made.codes[made.own].shape
    text = [
        f"{settings.dataset.label} ({settings.dataset.store_name}): {n:,} items",
        f"{made.kind}, {levels} levels of {made.codebook_size} codes, seed {settings.seed}: "
        f"{_training(made)}",
        "",
        *use_table(made.uses, made.own),
        "",
        *likeness_table(made.likeness),
    ]
    return text + [f"note: {note}" for note in made.notes]


def _training(made: Tokenized) -> str:
    facts = made.facts
    if not facts:
        return "found in the cache; how it was trained is not on record"
    parts = []
    if "epochs" in facts:
        parts.append(f"{facts['epochs']} epochs, the fewest collisions in {facts['best_epoch']}")
    if "seconds" in facts:
        parts.append(f"trained in {facts['seconds']:.0f} s (here {made.seconds:.0f} s)")
    return "; ".join([*parts, STOPPED.get(str(facts.get("stopped")), "")])


def write(settings: Settings, prepared: Prepared, made: Tokenized, command: str) -> Path:
    """Write the files that the module's docstring names; returns their folder."""
    cell = settings.cell
    place = Path(cell.dataset, cell.method, cell.config_sha256[:12], f"seed={cell.seed}")
    folder = settings.reports / "tokenizers" / place
    uses = made.uses
    title = f"{made.kind} on {cell.dataset}, seed {cell.seed}: code use"
    save(code_maps("codes", title, uses), folder, command)
    for rule, sids in made.sids.items():
        store.write_npy(folder / f"sids-{rule}.npy", sids)
    statistics = {
        "dataset": cell.dataset,
        "method": cell.method,
        "seed": cell.seed,
        "config_sha256": cell.config_sha256,
        "settings": settings.identity,
        "embeddings_sha256": prepared.data.embeddings_sha256,
        "kind": made.kind,
        "items": len(made.codes[made.own]),
        "codebook_size": made.codebook_size,
        "assignment": made.own,
        "training": made.facts,
        "assignments": {
            rule: use_facts(use) | {"shared_prefixes": made.likeness[rule]}
            for rule, use in uses.items()
        },
        "versions": provenance.versions(),
        "command": command,
    }
    store.write_json(folder / "statistics.json", statistics)
    return folder


def with_defaults(overrides: Sequence[str]) -> list[str]:
    """The overrides, with the released sizes unless a protocol or an experiment is named; keys of
    the tokenizer may be ones that the config files leave out."""
    said = any(text.startswith(("protocol=", "experiment=")) for text in overrides)
    found = [] if said else ["protocol=paper"]
    key = "method.tokenizer."
    return found + [f"++{text}" if text.startswith(key) else text for text in overrides]


def main(arguments: Sequence[str]) -> None:
    settings = settings_from(compose_config(with_defaults(arguments)))
    prepared, made = tokenize(settings)
    print("\n".join(lines(settings, made)))
    command = " ".join(["python -m benchmark.tokenize", *arguments])
    print(write(settings, prepared, made, command))


if __name__ == "__main__":
    guard(lambda: main(sys.argv[1:]), __doc__)
