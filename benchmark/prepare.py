"""Build a data set and say what it is: ``python -m benchmark.prepare dataset=yelp``.

``dataset=all`` prepares every data set that can be had and says which could not and why.
``--no-embeddings`` stops before the item texts are embedded; ``--best-effort`` is content with
interactions and splits where texts or embeddings cannot be had. Anything else is a Hydra override.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from typing import NamedTuple

from benchmark.config import Settings, compose_config, settings_from
from benchmark.data.config import suite_datasets
from benchmark.data.download import Unavailable
from benchmark.data.prepare import Need, Prepared, invariant_rows, prepare
from benchmark.errors import UserError
from benchmark.guard import guard
from benchmark.run import CACHE_OPTION

FLAGS = ("--no-embeddings", "--best-effort")
LABEL_WIDTH = 17


class Outcome(NamedTuple):
    """What became of a data set.

    Attributes:
        prepared: as far as it could be built.
        problem: why it went no further; None if it is complete.
    """

    prepared: Prepared
    problem: UserError | None


def prepare_dataset(settings: Settings, embed: bool) -> Outcome:
    """Prepare a data set and print its facts as they come.

    Raises:
        Unavailable: the interactions cannot be had.
        UserError: bad input files, or invariants that do not hold; all were printed.
    """
    dataset = settings.dataset
    done = _prepare(settings, "rows")
    print(f"{dataset.label} ({dataset.store_name})")
    for label, value in _row_facts(done):
        _say(label, value)
    _check_invariants(settings, done)
    try:
        if done.manifest["text_source"] is None and not _has_vectors(settings):
            _say("text source", "none: only methods without semantic IDs can run")
            return Outcome(done, None)
        done = _prepare(settings, "vectors" if embed else "texts")
    except UserError as error:
        _say("text source", f"{done.manifest['text_source'] or 'none'}: not prepared")
        return Outcome(done, error)
    for label, value in _text_facts(done):
        _say(label, value)
    return Outcome(done, None)


def _has_vectors(settings: Settings) -> bool:
    encoder = settings.dataset.encoder
    return encoder is not None and encoder.reads_table


def _prepare(settings: Settings, need: Need) -> Prepared:
    protocol = settings.protocol
    try:
        return prepare(
            settings.dataset, protocol.max_history, protocol.train_prefixes, settings.cache,
            need, settings.embedding, check=False,
        )  # fmt: skip
    except OSError as error:  # reading has words of its own
        raise UserError(
            f"cannot write to {error.filename or settings.cache} ({error.strerror}); choose "
            f"another folder with {CACHE_OPTION}"
        ) from None


def _say(label: str, value: str) -> None:
    print(f"  {label:{LABEL_WIDTH}}{value}")


def _row_facts(done: Prepared) -> list[tuple[str, str]]:
    """(label, value) of everything that interactions and splits are known by."""
    manifest, split = done.manifest, done.data.split
    facts, counts = manifest["facts"], manifest["counts"]
    rows = [
        ("source", manifest["revision"]),
        ("users", f"{counts['users']:,}"),
        ("items", f"{counts['items']:,}"),
        ("interactions", f"{counts['interactions']:,}"),
        ("density", f"{manifest['density']:.4%}"),
        ("mean sequence", f"{manifest['mean_sequence']:.2f} interactions a user"),
        (
            "mean history",
            f"{manifest['mean_history']:.2f} items of a test row, cut at {split.max_history}",
        ),
        ("training rows", f"{counts['train_rows']:,}"),
        ("validation rows", f"{counts['valid_rows']:,}"),
        ("test rows", f"{counts['test_rows']:,}"),
        ("repeats", _repeats(done)),
        ("order", "by timestamp" if facts["timestamps"] else "as in the file"),
        *_filter_facts(done),
        ("split sha256", split.sha256),
    ]
    if split.train_prefixes is not None:
        rows.append(("training limit", f"each user's last {split.train_prefixes} prefixes"))
    return rows


def _repeats(done: Prepared) -> str:
    repeats = done.manifest["facts"]["repeats"]
    if not repeats["users"]:
        return "no user has an item twice"
    targets = done.manifest["repeated_targets"]
    share = targets["test"] / done.data.split.n_users
    return (
        f"{repeats['users']:,} users have an item more than once; {targets['test']:,} test "
        f"targets ({share:.1%}) are such items, lost where seen items are left out"
    )


def _filter_facts(done: Prepared) -> list[tuple[str, str]]:
    facts, filters = done.manifest["facts"], done.manifest["filters"]
    rows = [("rows read", f"{facts['rows_read']:,}")]
    if filters["duplicates"] != "keep":
        rows.append(
            ("duplicates", f"{filters['duplicates']}: {facts['dropped_duplicates']:,} dropped")
        )
    if filters["user_core"] or filters["item_core"]:
        core = facts["core"]
        rows.append(
            (
                "k-core",
                f"users {filters['user_core']}, items {filters['item_core']}: "
                f"{core['dropped_users']:,} users, {core['dropped_items']:,} items and "
                f"{core['dropped_interactions']:,} interactions dropped in {core['rounds']} rounds",
            )
        )
    rows.append(
        (
            "short users",
            f"{facts['dropped_users']:,} with fewer than {filters['min_interactions']} "
            f"interactions dropped, with {facts['dropped_interactions']:,} interactions and "
            f"{facts['dropped_items']:,} items",
        )
    )
    if done.manifest["sampled_users"] is not None:
        rows.append(("sample", f"{done.data.split.n_users:,} of {facts['full']['users']:,} users"))
    return rows


def _check_invariants(settings: Settings, done: Prepared) -> None:
    """Print each invariant; raise for those that do not hold."""
    broken = []
    for key, expected, found in invariant_rows(settings.dataset, done.manifest["facts"]):
        holds = found == expected
        print(f"  {'OK' if holds else 'NO':4}{key} = {found:,}", end="")
        print("" if holds else f", expected {expected:,}")
        if not holds:
            broken.append(f"{key}={expected} but has {found}")
    if broken:
        raise UserError(
            f"{settings.dataset.name} should have {', '.join(broken)}: "
            "its files are not those that this config was written for"
        )


def _text_facts(done: Prepared) -> list[tuple[str, str]]:
    manifest = done.manifest
    source = manifest["text_source"] or "none"
    if "items_without_text" in manifest:
        source += f"; {manifest['items_without_text']:,} items without"
    rows = [("text source", source)]
    if done.data.embeddings is None:
        return [*rows, ("embeddings", "not made")]
    n, width = done.data.embeddings.shape
    rows.append(("embeddings", f"{n:,} x {width}, {manifest['encoder']['name']}"))
    rows.append(("recipe sha256", f"{done.data.embeddings_sha256} (texts and encoder)"))
    made = manifest["embeddings_made"].get("values_sha256")
    return [*rows, ("vectors sha256", made)] if made else rows


def prepare_everything(overrides: Sequence[str], embed: bool) -> None:
    """Prepare what can be had and list what could not.

    Raises:
        UserError: something was had and is wrong (as opposed to: could not be had).
    """
    settings_from(compose_config(overrides))  # a bad override is bad for all of them
    lines, wrong = [], []
    for name in suite_datasets():
        try:
            settings = settings_from(compose_config([*overrides, f"dataset={name}"]))
            problem = prepare_dataset(settings, embed).problem
            ready = "ready" if embed else "ready, not embedded"
            state = ready if problem is None else f"interactions and splits only: {problem}"
            print(flush=True)
        except UserError as error:
            problem, state = error, f"not prepared: {error}"
        if problem is not None and not isinstance(problem, Unavailable):
            wrong.append(name)
        lines.append(f"{name:22}{state}")
    print("\n".join(lines))
    if wrong:
        raise UserError(f"{', '.join(wrong)}: what is at hand is not usable; see the list above")


def execute(arguments: Sequence[str]) -> None:
    """The command line.

    Raises:
        UserError: bad arguments or input, or something that cannot be had.
    """
    overrides = [argument for argument in arguments if argument not in FLAGS]
    for argument in overrides:
        if argument.startswith("-"):
            raise UserError(f"no option {argument}; there are {', '.join(FLAGS)} and key=value")
    embed = "--no-embeddings" not in arguments
    if "dataset=all" in overrides:
        overrides.remove("dataset=all")
        prepare_everything(overrides, embed)
        return
    outcome = prepare_dataset(settings_from(compose_config(overrides)), embed)
    if outcome.problem is None:
        return
    if "--best-effort" not in arguments:
        raise outcome.problem
    print(f"  note: {outcome.problem}", file=sys.stderr)


def main() -> None:
    guard(lambda: execute(sys.argv[1:]), __doc__)


if __name__ == "__main__":
    main()
