"""Which interactions of a data set count: the steps between a source's rows and the users' sample.

They are taken in this order, and the manifest says what each one took:

1. ``duplicates``: what becomes of interactions that come again;
2. ``user_core`` and ``item_core``: users with fewer interactions go, and items with fewer go, and
   so on until none is left to go;
3. ``min_interactions``: users with fewer go. Where this is more than ``user_core``, items may end
   up with fewer interactions than ``item_core``;
4. the sample of users, if one is asked for (see `benchmark.data.interactions`).

An interaction counts each time: in steps 2 and 3 an item that a user has twice is two interactions.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from typing import Any, Literal, NamedTuple, get_args

import numpy as np
from numpy.typing import NDArray

from benchmark.data.split import MIN_INTERACTIONS
from benchmark.errors import UserError

Duplicates = Literal["keep", "exact", "first", "last", "consecutive", "error"]
CORES = ("user_core", "item_core")


@dataclass(frozen=True)
class Filters:
    """What to leave out of a data set; by default only users too short to be split.

    Attributes:
        duplicates: ``keep`` them all; ``exact``: one row per (user, item, timestamp); ``first`` or
            ``last``: one row per (user, item), in time order; ``consecutive``: no item directly
            after itself in a user's sequence; ``error``: refuse a data set that repeats a pair.
        user_core: interactions that a user must have, counted together with ``item_core`` until
            nothing changes; 0 and 1 take nobody.
        item_core: the same for items.
        min_interactions: users with fewer go, after the core; at least 3, one each to train on,
            to validate and to test.
    """

    duplicates: Duplicates = "keep"
    user_core: int = 0
    item_core: int = 0
    min_interactions: int = MIN_INTERACTIONS

    def __post_init__(self) -> None:
        if self.duplicates not in get_args(Duplicates):
            raise ValueError(
                f"dataset.filters.duplicates must be one of {', '.join(get_args(Duplicates))}, "
                f"not {self.duplicates!r}"
            )
        least = {"user_core": 0, "item_core": 0, "min_interactions": MIN_INTERACTIONS}
        for name, bound in least.items():
            value = getattr(self, name)
            if type(value) is not int or value < bound:
                raise ValueError(
                    f"dataset.filters.{name} must be a whole number from {bound}, not {value!r}"
                )

    @property
    def identity(self) -> dict[str, Any]:
        """What differs from the default; a core of 1 takes nobody, as 0 does."""
        values = {**asdict(self), **{key: 0 for key in CORES if getattr(self, key) == 1}}
        return {key: value for key, value in values.items() if value != asdict(Filters())[key]}

    @classmethod
    def from_mapping(cls, options: Mapping[str, Any] | None) -> Filters:
        """From the yaml; an unknown key or an impossible value raises ``ValueError``."""
        known = [entry.name for entry in fields(cls)]
        for key in options or {}:
            if key not in known:
                raise ValueError(f"dataset.filters has no key {key!r}; it knows {', '.join(known)}")
        return cls(**{str(key): value for key, value in (options or {}).items()})


DEFAULT_FILTERS = Filters()


class Numbered(NamedTuple):
    """Interactions under provisional numbers, ordered by user, then by time.

    Attributes:
        user: int64 [n], indices into ``user_tokens``, non-decreasing.
        item: int64 [n], indices into ``item_tokens``.
        times: [n], or None.
        user_tokens, item_tokens: names; some may have no interaction any more.
    """

    user: NDArray[np.int64]
    item: NDArray[np.int64]
    times: NDArray[Any] | None
    user_tokens: Sequence[str]
    item_tokens: Sequence[str]

    def where(self, mask: NDArray[np.bool_]) -> Numbered:
        """The interactions that the mask [n] names."""
        times = None if self.times is None else self.times[mask]
        return self._replace(user=self.user[mask], item=self.item[mask], times=times)

    @property
    def pairs(self) -> NDArray[np.int64]:
        """int64 [n], a number for each (user, item)."""
        return self.user * len(self.item_tokens) + self.item

    def counts(self) -> dict[str, int]:
        """Users and items with an interaction, and the interactions."""
        return {
            "users": int(np.count_nonzero(np.bincount(self.user))),
            "items": int(np.count_nonzero(np.bincount(self.item))),
            "interactions": len(self.user),
        }


def apply_filters(table: Numbered, filters: Filters) -> tuple[Numbered, dict[str, Any]]:
    """What the filters leave, and the facts of what they took.

    Facts: ``rows_read``; ``dropped_duplicates``; ``core``, with the rounds that took something and
    the users, items and interactions that went; ``dropped_*`` for what ``min_interactions`` took;
    ``repeats``, the users who have an item more than once and the interactions that come again.

    Raises:
        UserError: nobody is left (the message names the step), or a duplicate that the policy
            refuses.
    """
    read = table.counts()
    unique = table.where(_unrepeated(table, filters.duplicates))
    rounds, core = _core(unique, filters.user_core, filters.item_core)
    in_core = core.counts()
    if read["users"] and not in_core["users"]:
        raise UserError(
            f"dataset.filters.user_core={filters.user_core} and item_core={filters.item_core} "
            f"leave nobody: they take all {len(unique.user)} interactions of {read['users']} "
            "users; lower them"
        )
    long_enough = np.bincount(core.user) >= filters.min_interactions
    if not long_enough.any():
        left = "" if in_core == read else f"; {in_core['interactions']} were left for this step"
        raise UserError(
            f"no user has {filters.min_interactions} interactions or more "
            f"({read['interactions']} interactions of {read['users']} users were read{left})"
        )
    kept = core.where(long_enough[core.user])
    facts = {
        "rows_read": read["interactions"],
        "dropped_duplicates": read["interactions"] - len(unique.user),
        "core": {"rounds": rounds, **_dropped(unique.counts(), in_core)},
        **_dropped(in_core, kept.counts()),
        "repeats": _repeats(kept),
    }
    return kept, facts


def _dropped(before: Mapping[str, int], after: Mapping[str, int]) -> dict[str, int]:
    return {f"dropped_{key}": before[key] - after[key] for key in before}


def _unrepeated(table: Numbered, policy: Duplicates) -> NDArray[np.bool_]:
    """Mask [n] of the interactions that the policy keeps."""
    user, item = table.user, table.item
    kept = np.ones(len(user), dtype=bool)
    if policy == "exact":
        if table.times is None:
            raise UserError(
                "dataset.filters.duplicates=exact needs timestamps, which this data set lacks: "
                "without them a duplicate cannot be told from a repeat"
            )
        # lexsort is stable: of equal rows, the first stays.
        order = np.lexsort((table.times, item, user))
        same = np.ones(max(len(user) - 1, 0), dtype=bool)
        for values in (user[order], item[order], table.times[order]):
            same &= values[1:] == values[:-1]
        kept[order[1:]] = ~same
    elif policy == "consecutive":
        kept[1:] = (user[1:] != user[:-1]) | (item[1:] != item[:-1])
    elif policy != "keep":
        pairs = table.pairs if policy != "last" else table.pairs[::-1]
        first = np.unique(pairs, return_index=True)[1]
        kept[:] = False
        kept[first if policy != "last" else len(pairs) - 1 - first] = True
        if policy == "error" and not kept.all():
            again = int(np.argmin(kept))
            raise UserError(
                f"user {table.user_tokens[user[again]][:40]!r} has item "
                f"{table.item_tokens[item[again]][:40]!r} more than once, which "
                "dataset.filters.duplicates=error refuses; choose keep, exact, first, last or "
                "consecutive"
            )
    return kept


def _core(table: Numbered, user_core: int, item_core: int) -> tuple[int, Numbered]:
    """The largest part in which every user and every item has its share, and the rounds to it."""
    rounds = 0
    while True:
        enough = np.bincount(table.user)[table.user] >= user_core
        enough &= np.bincount(table.item)[table.item] >= item_core
        if enough.all():
            return rounds, table
        table = table.where(enough)
        rounds += 1


def _repeats(table: Numbered) -> dict[str, int]:
    pairs, times = np.unique(table.pairs, return_counts=True)
    users = np.unique(pairs[times > 1] // max(len(table.item_tokens), 1))
    return {"users": len(users), "interactions": len(table.user) - len(pairs)}
