"""Measure what training, decoding and statistics cost: ``python -m benchmark.speed``.

Writes ``<out>/<device>.json`` with device, versions, commit and command, a table and plots beside
it, after every part: what is there stays there if it is interrupted. ``--publish`` writes to
``reports/published/speed``, which is kept. Bad input: one line, exit code 2.
"""

from __future__ import annotations

import argparse
import json
import os
import signal
import sys
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import Any, NoReturn

from benchmark import provenance, store
from benchmark.errors import UserError
from benchmark.execution import begin
from benchmark.guard import guard, undisturbed
from benchmark.progress import make_progress
from benchmark.run import check_writable, limit_threads, resolve_device
from benchmark.speed.target import Target, check, file_name

OUT, PUBLISHED = Path("reports/speed"), Path("reports/published/speed")
BUDGET = 900.0
#: Names what is measured by several commands in a row, of one checkout that is not committed.
SESSION_VARIABLE = "DIGER_BENCH_SPEED_SESSION"
#: The first target and method are those that are measured where time is short.
TARGETS = {
    "cpu": ("beauty-fifth/beauty/keyphrases", "quick/ml-100k"),
    "cuda": ("paper/beauty/keyphrases", "quick/ml-100k"),
}
METHODS = ("diger_frqud", "tiger")
#: Share of the budget that each part may take, roughly.
SHARES = {
    "statistics": 0.05, "tokenizer": 0.05, "train": 0.4, "agreement": 0.05, "deterministic": 0.05,
    "together": 0.15, "recbole": 0.1, "users": 0.05, "items": 0.1, "report": 0.1,
}  # fmt: skip


#: What must be the same of two measurements, beside the code, for one file to hold them.
SAME = ("versions", "device", "execution")

#: What is measured, in words, and how: rows, as they come.
Step = tuple[str, Callable[[], Iterable[dict[str, Any]]]]


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        raise UserError(f"{message}; see python -m benchmark.speed --help")


def arguments(given: list[str] | None) -> argparse.Namespace:
    parser = _Parser(prog="python -m benchmark.speed", description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--device", default="auto", help="auto, cpu or cuda")
    parser.add_argument("--threads", type=int, default=1, help="of each process on a CPU")
    parser.add_argument(
        "--budget-seconds", type=float, default=BUDGET, help="to plan for; may be overrun"
    )
    parser.add_argument("--out", type=Path, default=None, help=f"folder (default {OUT})")
    parser.add_argument("--publish", action="store_true", help=f"write to {PUBLISHED}")
    parser.add_argument("--only", default=None, help=f"parts, with commas: {', '.join(SHARES)}")
    parser.add_argument("--methods", default=",".join(METHODS), help="generative methods")
    parser.add_argument(
        "--targets", default=None,
        help="experiment/dataset, with commas (default: Beauty and quick/ml-100k); of the first "
        "one and the first method is what is measured once",
    )  # fmt: skip
    parser.add_argument(
        "--ways", default=None, help="of training steps, with semicolons, as the table names them"
    )
    parser.add_argument("overrides", nargs="*", help="Hydra overrides, key=value")
    return parser.parse_intermixed_args(given)


class Session:
    """One run of the command: what it measures on, and what it has found so far."""

    def __init__(self, parsed: argparse.Namespace) -> None:
        if parsed.device not in ("auto", "cpu", "cuda"):
            raise UserError(f"--device must be auto, cpu or cuda, got {parsed.device!r}")
        if parsed.threads < 1:
            raise UserError(f"--threads must be at least 1, got {parsed.threads}")
        if not parsed.budget_seconds > 0:
            raise UserError(f"--budget-seconds must be more than 0, got {parsed.budget_seconds}")
        if parsed.publish and parsed.out is not None:
            raise UserError("--publish chooses the folder: leave out --out")
        self.parts = list(SHARES) if parsed.only is None else parsed.only.split(",")
        for part in self.parts:
            if part not in SHARES:
                raise UserError(f"--only knows {', '.join(SHARES)}; got {part!r}")
        self.device = resolve_device(parsed.device)
        self.threads, self.budget = parsed.threads, parsed.budget_seconds
        self.out = PUBLISHED if parsed.publish else parsed.out or OUT
        self.ways = None
        if parsed.ways is not None:
            from benchmark.speed.training import chosen

            self.ways = [way.strip() for way in parsed.ways.split(";")]
            chosen(self.device, self.ways)
        self.targets = self._targets(parsed)
        check_writable(self.out, "--out")
        limit_threads(self.threads)
        # Of the parts that have one: training and agreement try several, and their rows say so.
        self.execution = (
            self.targets[0].settings(self.device, self.threads).execution.on(self.device)
        )
        self.facts: dict[str, Any] = {
            "command": "python -m benchmark.speed " + " ".join(sys.argv[1:]),
            "started": datetime.now(UTC).isoformat(timespec="seconds"),
            "session": os.environ.get(SESSION_VARIABLE, ""),
            "git": provenance.git_state(self.out),
            "versions": provenance.versions(),
            "device": provenance.device_facts(self.device, self.threads),
            "execution": begin(self.execution, self.device),
            "seconds": {}, "skipped": {}, "parts": {},
        }  # fmt: skip
        self._take_up()

    def _take_up(self) -> None:
        """Keep what was measured before on this device, at this commit, by these versions and in
        this way to run, of the parts that are not measured now. What is not committed may be
        another thing each time: then only what one session measured is kept."""
        try:
            before = json.loads((self.out / f"{self.name}.json").read_text(encoding="utf-8"))
            git, was = self.facts["git"], before["git"]
            if self.facts["session"] and before.get("session") == self.facts["session"]:
                same = git["commit"] == was["commit"]
            else:
                same = git == was and not git["dirty"]
            if same and all(before[key] == self.facts[key] for key in SAME):
                for kind in ("parts", "seconds", "skipped"):
                    kept = {k: v for k, v in before[kind].items() if k not in self.parts}
                    self.facts[kind] |= kept
                self.facts["command"] = f"{before['command']}; {self.facts['command']}"
            elif lost := ", ".join(sorted(before["parts"].keys() - set(self.parts))):
                print(f"note: written anew, without what was measured before: {lost}",
                      file=sys.stderr)  # fmt: skip
        except (OSError, ValueError, KeyError, TypeError, AttributeError):
            pass  # none, or not one of ours: it is written anew

    def _targets(self, parsed: argparse.Namespace) -> list[Target]:
        names = TARGETS[self.device] if parsed.targets is None else parsed.targets.split(",")
        targets = []
        for name in names:
            experiment, slash, dataset = name.partition("/")
            if not slash:
                raise UserError(f"--targets wants experiment/dataset, got {name!r}")
            for method in parsed.methods.split(","):
                target = Target(experiment, dataset, method, tuple(parsed.overrides))
                check(target)
                targets.append(target)
        return targets

    @property
    def name(self) -> str:
        """Of the files that are written."""
        return file_name(self.facts["device"], self.threads)

    def measure(self) -> None:
        """Run every part; one that cannot be had on this machine is named and passed over."""
        progress = make_progress("speed")
        try:
            for number, part in enumerate(self.parts):
                progress(number, len(self.parts), "part", part)
                started = time.perf_counter()
                try:
                    # What is measured alone has the whole budget.
                    share = SHARES[part] / sum(SHARES[name] for name in self.parts)
                    self._part(part, self.budget * share)
                except Exception as error:  # one part costs no other
                    self.facts["skipped"][part] = _reason(error)
                self.facts["seconds"][part] = time.perf_counter() - started
                self.write()
            progress(len(self.parts), len(self.parts), "part", "")
        finally:
            progress.close()

    def _part(self, part: str, seconds: float) -> None:
        """Measure a part, its rows kept as they come."""
        from benchmark.speed import (
            agreement,
            batched,
            deterministic,
            recbole,
            reporting,
            scaling,
            statistics,
            together,
            tokenizer,
            training,
        )

        device, threads, first = self.device, self.threads, self.targets[0]
        share = seconds / len(self.targets)
        # Where time is short, on a GPU, one target has to do.
        aside = self.targets if device == "cpu" else self.targets[:1]
        of_each, of_aside = 0.8 * seconds / len(aside), 0.2 * seconds
        frozen = replace(first, method="tiger")  # what the batched model is
        run: dict[str, list[Step]] = {
            "train": [
                (str(t), partial(training.measure, t, device, threads, share, self.ways))
                for t in self.targets
            ],
            "agreement": [(part, partial(agreement.measure, first, device, threads))],
            "deterministic": [
                (part, partial(deterministic.measure, first, device, threads, seconds))
            ],
            "together": [
                *(
                    (f"{t} side by side", partial(together.measure, t, device, threads, of_each))
                    for t in aside
                ),
                (
                    f"{frozen} as one batched model",
                    partial(batched.measure, frozen, device, threads, of_aside),
                ),
            ],
            "items": [(part, partial(scaling.against_items, device, self.execution, seconds / 12))],
            "users": [(part, partial(scaling.against_users, device, self.execution, seconds / 4))],
            "tokenizer": [(part, partial(tokenizer.measure, device, seconds))],
            "recbole": [(part, partial(recbole.measure, self.targets, device, threads))],
            "statistics": [(part, lambda: [statistics.measure()])],
            "report": [(part, lambda: [reporting.measure()])],
        }
        self._keep(part, run[part])

    def _keep(self, part: str, steps: Sequence[Step]) -> None:
        """Write every row when it is there: an interruption, or what comes after, costs no other.

        Raises:
            Exception: that of a part of one step; of several, those that fail are named.
        """
        rows: list[dict[str, Any]] = []
        for what, measure in steps:
            try:
                for row in measure():
                    rows.append(row)
                    self.facts["parts"][part] = rows
                    self.save()
            except Exception as error:  # its data cannot be had here, or it does not fit
                if len(steps) == 1:
                    raise
                self.facts["skipped"][what] = _reason(error)
        self.facts["parts"][part] = rows

    def save(self) -> None:
        """Results so far."""
        self.out.mkdir(parents=True, exist_ok=True)
        store.write_text(
            self.out / f"{self.name}.json", json.dumps(self.facts, indent=1, sort_keys=True) + "\n"
        )

    def write(self) -> None:
        """Results so far, with tables and plots."""
        from benchmark.speed.report import write_report

        self.save()
        write_report(self.facts, self.out, self.name)


def _reason(error: Exception) -> str:
    """Of a part that was not measured, in a line."""
    text = " ".join(str(error).split())[:300]
    return text if isinstance(error, UserError) else f"{type(error).__name__}: {text}"


def main(given: list[str] | None = None) -> None:
    def execute() -> None:
        session = Session(arguments(given))
        try:
            session.measure()
        except KeyboardInterrupt:
            with undisturbed(signal.SIGINT):
                session.write()
            where = session.out / session.name
            print(f"interrupted: what was measured is in {where}.json", file=sys.stderr)
            raise SystemExit(130) from None
        for what, why in session.facts["skipped"].items():
            print(f"not measured: {what}: {why}", file=sys.stderr)
        print(f"{session.out / session.name}.md")
        if session.facts["skipped"]:
            raise SystemExit(2)

    guard(execute)


if __name__ == "__main__":
    main()
