"""Does the recommendation loss reach the tokenizer? ``python -m benchmark.audit method=ste``.

Takes what ``benchmark.run`` takes. Makes the cell's tokenizer (or finds it in the cache), builds
the model and measures, for one batch before the first step, by which of three roads (history,
decoder input, target) the gradient of the recommendation loss arrives at which part, with norms,
and what the other losses send there. Trains nothing else and stores no run.
"""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from typing import Any, Protocol, runtime_checkable

from benchmark.config import build_method, compose_config, settings_from
from benchmark.errors import UserError
from benchmark.guard import guard
from benchmark.recommender import BenchmarkData, Run
from benchmark.report.audit import batch_table, verdict
from benchmark.run import visit


@runtime_checkable
class Auditable(Protocol):
    """A method that has a tokenizer whose gradients can be measured."""

    def audit(self, data: BenchmarkData, seed: int, run: Run) -> Mapping[str, Any]:
        """Everything up to the first step, and the norms; see ``benchmark.report.audit``."""


def audit_method(overrides: Sequence[str]) -> tuple[str, Mapping[str, Any]]:
    """The method's label and its audit on one batch.

    Raises:
        UserError: bad input, or a method without a tokenizer.
    """
    settings = settings_from(compose_config(overrides))
    method = build_method(settings)
    if not isinstance(method, Auditable):
        raise UserError(
            f"{settings.method_name} has no tokenizer, so there is no gradient to audit; "
            "choose a method with semantic IDs, such as method=tiger or method=diger_frqud"
        )
    with visit(settings, method, f"{settings.method_name} seed {settings.seed}") as (prepared, run):
        found = method.audit(prepared.data, settings.seed, run)
    return settings.method_label, found


def show(label: str, found: Mapping[str, Any]) -> str:
    """The audit as text: a table of norms, then the verdict."""
    lines = batch_table(found)
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    head = f"{label}: norms of the gradient, {found['rows']} training rows, before the first step"
    body = []
    for loss, *norms in lines:
        cells = [norm.rjust(width) for norm, width in zip(norms, widths[1:], strict=True)]
        body.append("  ".join([loss.ljust(widths[0]), *cells]))
    return "\n".join([head, *body, f"verdict: {verdict(found)}"])


def main(arguments: Sequence[str]) -> None:
    print(show(*audit_method(arguments)))


if __name__ == "__main__":
    guard(lambda: main(sys.argv[1:]), __doc__)
