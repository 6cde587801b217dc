"""The canonical form of any data set: users' sequences of items, numbered from 0.

Whatever a source looks like, it becomes rows of (user token, item token, timestamp or none), and
`canonical` turns those into one `Interactions` value in the same deterministic way:

* a user's interactions are ordered by timestamp, ties in file order; without timestamps the file
  order is the order;
* duplicates, the k-core and users with too few interactions (fewer than three, if not said
  otherwise) are filtered and counted, in the order that `benchmark.data.filters` gives;
* the catalogue is the items with at least one interaction of a user who stays;
* ids follow the *natural order* of the tokens: tokens that are plain decimal numbers first, by
  value, then all others by code point. So ids do not depend on the order of the file's users, and
  a source that already numbers its items 0 .. n - 1 keeps its numbers.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from benchmark.data.filters import DEFAULT_FILTERS, Filters, Numbered, apply_filters
from benchmark.data.split import Split
from benchmark.errors import UserError

# Decides which users a subsample keeps. Fixed, and apart from any run's seed: every run must see
# the same data set.
SUBSAMPLE_SEED = 2026


class Rows(NamedTuple):
    """Interactions as a source has them, in file order.

    Attributes:
        users: [n] user tokens.
        items: [n] item tokens.
        timestamps: int64 or float64 [n], finite, any unit; None where the file order is the order.
    """

    users: Sequence[str]
    items: Sequence[str]
    timestamps: NDArray[Any] | None = None


@dataclass(frozen=True, eq=False)
class Interactions:
    """A data set in canonical form.

    Attributes:
        user: int32 [n_interactions], non-decreasing.
        item: int32 [n_interactions], each user's items in time order, oldest first.
        user_tokens: [n_users], the source's name of each user id.
        item_tokens: [n_items], the source's name of each item id.
        catalogue_row: int64 [n_items], each item's id in the data set before subsampling: the row
            of a table made for the full data set (a precomputed embedding, say).
        texts: [n_items] item texts ("" where the source has none for an item); None if the source
            has no texts at all. `canonical` leaves them out.
        facts: counts for the manifest; ``full`` holds those before subsampling, the others are
            those of `apply_filters`.
    """

    user: NDArray[np.int32]
    item: NDArray[np.int32]
    user_tokens: list[str]
    item_tokens: list[str]
    catalogue_row: NDArray[np.int64]
    texts: list[str] | None = None
    facts: Mapping[str, Any] = field(default_factory=dict)

    @property
    def n_users(self) -> int:
        return len(self.user_tokens)

    @property
    def n_items(self) -> int:
        return len(self.item_tokens)

    def split(self, max_history: int = 50, train_prefixes: int | None = None) -> Split:
        """The leave-one-out split; a value below 1 raises ``ValueError``."""
        offsets = np.zeros(self.n_users + 1, dtype=np.int64)
        np.cumsum(np.bincount(self.user, minlength=self.n_users), out=offsets[1:])
        return Split(
            items=self.item,
            offsets=offsets,
            n_items=self.n_items,
            max_history=max_history,
            train_prefixes=train_prefixes,
        )


def natural_key(token: str) -> tuple[int, int, str]:
    """Sort key of the natural order (see the module's text)."""
    plain = token.isascii() and token.isdigit() and (token == "0" or token[0] != "0")
    plain = plain and len(token) <= 18  # longer strings of digits are names, not numbers
    return (0, int(token), "") if plain else (1, 0, token)


def canonical(
    rows: Rows, users: int | None = None, filters: Filters = DEFAULT_FILTERS
) -> Interactions:
    """Bring a source's rows into canonical form, without texts.

    Args:
        rows: the source's interactions.
        users: keep only this many users, a fixed sample that depends on the tokens alone (the
            sample of 100 users is part of that of 200). The catalogue shrinks to their items.
        filters: what goes before the sample is taken.

    Raises:
        UserError: the filters leave nobody, or ``users`` asks for more than there are.
    """
    user_tokens, user = _number(rows.users)
    item_tokens, item = _number(rows.items)
    times = rows.timestamps
    # lexsort and the stable argsort keep file order among equals.
    order = np.argsort(user, kind="stable") if times is None else np.lexsort((times, user))
    table, facts = apply_filters(
        Numbered(
            user[order],
            item[order],
            None if times is None else times[order],
            user_tokens,
            item_tokens,
        ),
        filters,
    )
    user_tokens, user = _renumber(user_tokens, table.user, np.unique(table.user))
    item_tokens, item = _renumber(item_tokens, table.item, np.unique(table.item))
    full = {"users": len(user_tokens), "items": len(item_tokens), "interactions": len(item)}

    catalogue_row = np.arange(len(item_tokens))
    if users is not None:
        chosen = _sample(user_tokens, users)
        inside = np.isin(user, chosen)
        user_tokens, user = _renumber(user_tokens, user[inside], chosen)
        catalogue_row = np.unique(item[inside])
        item_tokens, item = _renumber(item_tokens, item[inside], catalogue_row)

    return Interactions(
        user=user.astype(np.int32),
        item=item.astype(np.int32),
        user_tokens=user_tokens,
        item_tokens=item_tokens,
        catalogue_row=catalogue_row.astype(np.int64),
        facts={"timestamps": times is not None, **facts, "full": full},
    )


def _number(tokens: Sequence[str]) -> tuple[list[str], NDArray[np.int64]]:
    """Distinct tokens in natural order, and int64 [n] the place of each given token in them."""
    distinct = sorted(set(tokens), key=natural_key)
    place = {token: index for index, token in enumerate(distinct)}
    return distinct, np.fromiter(map(place.__getitem__, tokens), np.int64, len(tokens))


def _renumber(
    tokens: list[str], ids: NDArray[np.int64], kept: NDArray[np.int64]
) -> tuple[list[str], NDArray[np.int64]]:
    """Number the kept ids from 0, in their order; ``kept`` is sorted and holds every id."""
    return [tokens[index] for index in kept], np.searchsorted(kept, ids)


def _sample(user_tokens: Sequence[str], users: int) -> NDArray[np.int64]:
    """Sorted int64 [users]: those whose hashed tokens come first.

    Hashing rather than a random generator: the choice depends neither on numpy's streams nor on
    how many other users there are.
    """
    if not 1 <= users <= len(user_tokens):
        raise UserError(
            f"users={users} is impossible: the data set has {len(user_tokens)} users "
            "that its filters leave"
        )
    digests = [
        hashlib.sha256(f"{SUBSAMPLE_SEED} {token}".encode()).digest() for token in user_tokens
    ]
    first = sorted(range(len(user_tokens)), key=digests.__getitem__)[:users]
    return np.sort(np.array(first, dtype=np.int64))
