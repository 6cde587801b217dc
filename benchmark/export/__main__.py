"""Take stored results elsewhere: ``python -m benchmark.export experiment=quick``.

    experiment=quick out=FOLDER          tidy per-user metrics as parquet and CSV; see its README.md
    experiment=quick bundle=quick.zip    what a report needs, in one checked file
    import=quick.zip store=FOLDER        check such a file and put its runs into a store

Options: ``store=FOLDER`` reads another store (such as results/published); without ``experiment=``
it is all of the store; ``csv=gz|plain|none`` sets how the CSV is written; ``sha256=`` is what an
imported file must have; anything else is a Hydra override of the experiment. Damaged runs are left
out and named, with exit code 2. Needs no torch.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from pathlib import Path

from benchmark.errors import UserError
from benchmark.export.bundle import write_bundle
from benchmark.export.tidy import write_tidy
from benchmark.export.unpack import import_bundle
from benchmark.guard import guard
from benchmark.progress import make_progress
from benchmark.selection import select, split_option
from benchmark.store import sha256_file

#: Options of each way to call the command; the experiment's overrides come on top of the first two.
IMPORT = ("import", "store", "sha256")
NO_IMPORT = ("sha256",)
Progress = Callable[[int, int, str], None]


def export(arguments: Sequence[str], progress: Progress | None = None) -> tuple[str, list[str]]:
    """Do what the arguments say.

    Returns:
        What was made or imported, in a few lines, and one line for each damaged run left out.

    Raises:
        UserError: a bad argument, nothing to export, runs that cannot be compared, or a file to
            import that is not whole.
    """
    options: dict[str, str] = {}
    for key, value in map(split_option, arguments):
        if key in options:
            raise UserError(f"{key}= is there twice")
        options[key] = value
    command = " ".join(["python -m benchmark.export", *arguments])
    if "import" in options:
        return _import(options, progress), []
    for key in NO_IMPORT:
        if key in options:
            raise UserError(f"{key}= belongs to import=")
    root, experiment = options.pop("store", None), options.pop("experiment", None)
    out, bundle, csv = (options.pop(key, None) for key in ("out", "bundle", "csv"))
    if bundle is not None and (out or csv):
        raise UserError("bundle= names the one file to write: leave out out= and csv=")
    overrides = [f"{key}={value}" for key, value in options.items()]
    chosen = select(experiment, overrides, root)
    if not chosen.runs:
        why = f" ({chosen.problems[0]})" if chosen.problems else ""
        raise UserError(f"no finished runs to export{why}; run the benchmark first")
    if bundle is not None:
        report = [] if experiment is None else [f"experiment={experiment}", *overrides]
        made = write_bundle(chosen.runs, _file(bundle, "bundle"), command, report, progress)
        lines = [f"{made} ({len(chosen.runs)} runs)", f"sha256 {sha256_file(made)}"]
    else:
        folder = Path(out or f"exports/{experiment or 'all'}")
        made_files = write_tidy(chosen.runs, folder, command, chosen.method_order, csv or "gz",
                                progress)  # fmt: skip
        lines = [str(path) for path in made_files]
    return "\n".join([*lines, *chosen.missing]), chosen.problems


def _import(options: dict[str, str], progress: Progress | None) -> str:
    for key in options:
        if key not in IMPORT:
            raise UserError(f"import= takes {' and '.join(f'{k}=' for k in IMPORT[1:])}, not {key}")
    if not options.get("store"):
        raise UserError("name the store to import into with store=, such as store=results/imported")
    path = _file(options["import"], "import")
    done = import_bundle(path, Path(options["store"]), options.get("sha256"), progress)
    words = ["python -m benchmark.report", done.report, f"store={options['store']}"]
    lines = [f"{done.imported} runs imported into {options['store']}, {done.present} were there",
             f"made by: {done.command}", *done.differences,
             f"report: {' '.join(filter(None, words))}"]  # fmt: skip
    return "\n".join(lines)


def _file(text: str, option: str) -> Path:
    if not text:
        raise UserError(f"name a file with {option}=, such as {option}=quick.zip")
    return Path(text)


def main() -> None:
    def action() -> None:
        progress = make_progress("export")
        try:
            text, problems = export(sys.argv[1:], progress)
        finally:
            progress.close()
        print(text)
        for problem in problems:
            print(f"error: {problem}", file=sys.stderr)
        if problems:
            raise SystemExit(2)

    guard(action, __doc__)


if __name__ == "__main__":
    main()
