"""The rows (history, target) of the authors' released splits: read, made into whole sequences, and
compared with ours.

The rows name no users. The suite's own split is made of whole sequences, so those are rebuilt from
the rows, and the rows that our split makes of them are compared with the released ones: a
difference is an error, never a silently different data set.
"""

from __future__ import annotations

import json
from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import NamedTuple

import numpy as np

from benchmark.data.split import Split
from benchmark.data.textfile import read_json_object
from benchmark.errors import UserError

CUT = 50  # items of a history that the released rows keep, the last ones
PHASES = ("train", "valid", "test")

History = tuple[int, ...]
Row = tuple[History, int]  # items before the target, oldest first, and the target


class PhaseRows(NamedTuple):
    """The rows of a split, by phase."""

    train: list[Row]
    valid: list[Row]
    test: list[Row]


def read_emb_map(path: Path) -> dict[str, int]:
    """Item token -> row of the item's vector, 0 .. n - 1, from a map that counts from 1.

    Raises:
        UserError: not such a map; its row 0 may only be the padding token, which is left out.
    """
    table: dict[str, int] = {}
    for token, row in read_json_object(path).items():
        if not token or type(row) is not int or row < 0:
            raise UserError(f"{path}: item {token[:40]!r} must have a row number, not {row!r:.40}")
        if row > 0:
            table[token] = row - 1
    if not table:
        raise UserError(f"{path} holds no items")
    if sorted(table.values()) != list(range(len(table))):
        raise UserError(
            f"{path}: the rows of its {len(table)} items must be the numbers from 1 to "
            f"{len(table)}, each once"
        )
    return table


def read_release_rows(path: Path, row_of: Mapping[str, int], shortest: int = 1) -> list[Row]:
    """The rows of a released jsonl, items as numbers by ``row_of``.

    A line is an object with ``inter_history`` (item tokens, oldest first, from ``shortest`` to 50)
    and ``target_id`` (an item token); tokens are text or whole numbers, other keys are ignored.

    Raises:
        UserError: not such a file, or an item that is not in the map; the message names the line.
    """
    rows = []
    try:
        with path.open("rb") as file:
            for number, line in enumerate(file, start=1):
                try:
                    rows.append(_release_row(line, number == 1, row_of, shortest))
                except (ValueError, RecursionError) as error:
                    reason = (
                        "it is nested too deeply" if isinstance(error, RecursionError) else error
                    )
                    raise UserError(f"{path}, line {number}: {reason}") from None
    except OSError as error:
        raise UserError(f"{path} cannot be read: {error.strerror}") from None
    if not rows:
        raise UserError(f"{path} is empty")
    return rows


def _release_row(line: bytes, first: bool, row_of: Mapping[str, int], shortest: int) -> Row:
    """One line's row; errors are ValueErrors."""
    try:
        value = json.loads(line.decode("utf-8-sig" if first else "utf-8"))
    except UnicodeDecodeError:
        raise ValueError("not UTF-8 text") from None
    except ValueError:
        raise ValueError("not JSON") from None
    if not isinstance(value, dict) or "target_id" not in value:
        raise ValueError("expected an object with inter_history and target_id")
    history = value.get("inter_history")
    if not isinstance(history, list) or not shortest <= len(history) <= CUT:
        found = f"one of {len(history)}" if isinstance(history, list) else "none"
        raise ValueError(f"inter_history must be a list of {shortest} to {CUT} items, not {found}")
    tokens = [token if type(token) is str else _text(token) for token in history]
    try:
        return tuple([row_of[token] for token in tokens]), row_of[_text(value["target_id"])]
    except KeyError as error:
        raise ValueError(f"the item {error.args[0][:40]!r} is not in the map of items") from None


def _text(token: object) -> str:
    if type(token) is str:
        return token
    if type(token) is int:
        return str(token)
    raise ValueError(f"an item must be text or a whole number, not {json.dumps(token)[:40]}")


def rebuild(rows: PhaseRows) -> list[History]:
    """The users' whole sequences, in the order of the test rows.

    A test row shorter than 50 is a whole sequence but for its target. One of 50 may have lost its
    beginning. The row before it has the history's last item as its target and, but for one item
    at the front, the same history; that item is the next older one. Such steps lead through the
    valid row and the training rows to a history that no row of 50 leads to, where the sequence
    begins.

    Where users share 50 items there is a choice, and each gives the same rows. What cannot be
    rebuilt comes out too short: `check_sequences` finds it.
    """
    valid, train = _by_window(rows.valid), _by_window(rows.train)
    # Of each user, the histories of 50 items from the test row's back.
    trails: list[list[History]] = []
    for history, _ in rows.test:
        trail = [history]
        if valid[history]:
            trail.append(valid[history].pop())
            trail += _walk_back(trail[-1], train)
        trails.append(trail)
    if any(train.values()):
        # A sequence that repeats itself for more than 50 items passes a history twice, and the
        # walk may have left out the round in between.
        for trail in trails:
            step = 1
            while step < len(trail):
                if train[trail[step]]:
                    trail[step + 1 : step + 1] = _walk_back(trail[step], train)
                step += 1
    return [
        tuple(history[0] for history in reversed(trail[1:])) + trail[0] + (target,)
        for trail, (_, target) in zip(trails, rows.test, strict=True)
    ]


def _by_window(rows: list[Row]) -> defaultdict[History, list[History]]:
    """Histories of 50 items by the history of the row that follows theirs. (A row with less
    begins a sequence and has nothing to add.)"""
    found: defaultdict[History, list[History]] = defaultdict(list)
    for history, target in rows:
        if len(history) == CUT:
            found[(*history[1:], target)].append(history)
    return found


def _walk_back(history: History, rows: defaultdict[History, list[History]]) -> list[History]:
    """Histories of 50 items before ``history``, latest first; their rows are used up."""
    found = []
    while rows[history]:
        history = rows[history].pop()
        found.append(history)
    return found


def split_rows(split: Split) -> PhaseRows:
    """Every row of a split."""
    items = split.items.tolist()
    phases = (split.train_positions, split.positions("valid"), split.positions("test"))
    return PhaseRows(
        *(
            [
                (tuple(items[start:position]), items[position])
                for start, position in zip(
                    split.history_starts(positions).tolist(), positions.tolist(), strict=True
                )
            ]
            for positions in phases
        )
    )


class Difference(NamedTuple):
    """How the rows of a phase differ as multisets: ours, theirs, and what only one has."""

    phase: str
    n_ours: int
    n_theirs: int
    only_ours: Counter[Row]
    only_theirs: Counter[Row]


def compare_rows(ours: PhaseRows, theirs: PhaseRows) -> Iterator[Difference]:
    """The three phases, compared."""
    for phase in PHASES:
        own, other = Counter(getattr(ours, phase)), Counter(getattr(theirs, phase))
        yield Difference(phase, own.total(), other.total(), own - other, other - own)


def check_sequences(sequences: list[History], rows: PhaseRows, n_items: int, where: str) -> None:
    """Raise UserError unless the sequences' leave-one-out rows are exactly ``rows``."""
    split = Split(
        items=np.array([item for sequence in sequences for item in sequence], dtype=np.int32),
        offsets=np.cumsum([0, *map(len, sequences)], dtype=np.int64),
        n_items=n_items,
        max_history=CUT,
    )
    faults = []
    for phase, _, _, only_ours, only_theirs in compare_rows(split_rows(split), rows):
        for some, text in ((only_theirs, "too many"), (only_ours, "missing")):
            if some:
                history, target = next(iter(some))
                last = ", ".join(map(str, history[-3:]))
                faults.append(
                    f"{some.total()} {phase} rows {text} (one has {len(history)} items, the last "
                    f"{last}, and the target {target}; numbers are rows of the vectors from 0)"
                )
    if faults:
        raise UserError(f"the rows of {where} are of no leave-one-out split: {'; '.join(faults)}")
