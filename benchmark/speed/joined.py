"""One report of several measurements on one device: ``python -m benchmark.speed.joined``.

    python -m benchmark.speed.joined --out FOLDER new.json:train,tokenizer old.json

writes ``<device>.json`` and its tables to FOLDER, with every part of the first file that has it, or
of a file only the parts that are named behind it. A node with a GPU may be there for minutes, and a
commit later: each table says at which commit its part was measured where that is not the first
file's. Files of other devices, versions or ways to run are refused. Bad input: exit code 2 and one
line.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from benchmark import store
from benchmark.errors import UserError
from benchmark.guard import guard
from benchmark.run import check_writable
from benchmark.speed.report import write_report
from benchmark.speed.target import file_name

#: What two measurements must share to stand in one report.
SAME = ("device", "versions", "execution")
#: But for this, which rows say themselves.
OF_ROWS = ("precision",)
#: What is said of a part that was measured at another commit.
SOURCE = ("git", "started", "command")
TABLES = (*SAME, "git", "parts", "seconds", "skipped")  # by name, each


def joined(measured: Sequence[tuple[dict[str, Any], Sequence[str] | None]]) -> dict[str, Any]:
    """The facts of the first, and of the others what it lacks.

    Args:
        measured: facts, as ``benchmark.speed`` writes them, and the parts to take; None: all.

    Raises:
        UserError: they are of several devices, versions or ways to run, or a part is named that is
            not there.
    """
    head = measured[0][0]
    found = {**head, "parts": {}, "seconds": {}, "skipped": {}, "sources": {}}
    for facts, names in measured:
        for key in SAME:  # a version that one of them does not name is no other one
            both = facts[key].keys() & head[key].keys() - set(OF_ROWS)
            if any(facts[key][name] != head[key][name] for name in both):
                raise UserError(
                    f"the files differ in {key}: join those of one device, of the same versions "
                    "and ways to run"
                )
        for name in facts["parts"] if names is None else names:
            if name not in facts["parts"]:
                there = ", ".join(sorted(facts["parts"])) or "none"
                raise UserError(f"there is no part {name!r} in a file that has {there}")
            if name in found["parts"]:
                continue
            found["parts"][name] = facts["parts"][name]
            found["seconds"][name] = facts["seconds"].get(name)
            own = {key: facts[key] for key in SOURCE}
            source = facts.get("sources", {}).get(name, own)
            if source["git"] != head["git"]:
                found["sources"][name] = source
    for facts, names in measured:  # what is still missing, and why it was
        for what, why in facts["skipped"].items() if names is None else ():
            if what not in found["parts"]:
                found["skipped"].setdefault(what, why)
    return found


def read(name: str) -> tuple[dict[str, Any], list[str] | None]:
    """A file's facts and the parts to take, from what was given of it.

    Raises:
        UserError: it cannot be read, or ``benchmark.speed`` has not written it.
    """
    file, colon, parts = name.rpartition(":") if ":" in Path(name).name else (name, "", "")
    try:
        facts = json.loads(Path(file).read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise UserError(f"cannot read {file}: {error}") from None
    ours = isinstance(facts, dict) and facts.keys() >= {*TABLES, *SOURCE}
    ours = ours and all(isinstance(facts[key], dict) for key in TABLES)
    if not ours or not facts["device"].keys() >= {"name", "kind", "threads"}:
        raise UserError(f"{file} is no result of python -m benchmark.speed")
    return facts, parts.split(",") if colon else None


def main(given: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(
        prog="python -m benchmark.speed.joined", description=(__doc__ or "").split("\n")[0]
    )
    parser.add_argument("files", nargs="+", help="FILE.json, or FILE.json:part,part")
    parser.add_argument("--out", type=Path, required=True, help="folder for the joined report")
    parsed = parser.parse_args(given)

    def execute() -> None:
        facts = joined([read(name) for name in parsed.files])
        check_writable(parsed.out, "--out")
        parsed.out.mkdir(parents=True, exist_ok=True)
        name = file_name(facts["device"], facts["device"]["threads"])
        store.write_text(
            parsed.out / f"{name}.json", json.dumps(facts, indent=1, sort_keys=True) + "\n"
        )
        for path in write_report(facts, parsed.out, name):
            print(path)

    guard(execute)


if __name__ == "__main__":
    main()
