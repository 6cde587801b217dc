"""Which interactions the canonical form keeps."""

from __future__ import annotations

from collections import Counter
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from benchmark.data.filters import Filters
from benchmark.data.interactions import Interactions, Rows, canonical
from benchmark.errors import UserError

Event = tuple[int, int, int]  # user, item, time

events = st.lists(
    st.tuples(st.integers(0, 4), st.integers(0, 5), st.integers(0, 2)), min_size=1, max_size=60
)


def rows_of(given_events: list[Event]) -> Rows:
    users, items, times = zip(*given_events, strict=True)
    return Rows([f"u{u}" for u in users], [f"i{i}" for i in items], np.array(times))


def sequences(data: Interactions) -> dict[str, str]:
    """Each user's items, one letter apiece where the tokens are letters."""
    found: dict[str, str] = {}
    for user, item in zip(data.user, data.item, strict=True):
        token = data.user_tokens[user]
        found[token] = found.get(token, "") + data.item_tokens[item]
    return found


def one_user(items: str, times: list[int] | None = None) -> Rows:
    array = None if times is None else np.array(times)
    return Rows(["u"] * len(items), list(items), array)


# --- duplicates -----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("policy", "expected"),
    [
        # In time order: a1 a2 b2 a2 c3 c4 b5.
        ("keep", "aabaccb"),
        ("exact", "aabccb"),
        ("first", "abc"),
        ("last", "acb"),
        ("consecutive", "abacb"),
    ],
)
def test_policies_by_hand(policy: Any, expected: str) -> None:
    rows = one_user("bcaabca", [5, 4, 1, 2, 2, 3, 2])
    data = canonical(rows, filters=Filters(duplicates=policy))
    assert sequences(data) == {"u": expected}
    assert data.facts["rows_read"] == 7
    assert data.facts["dropped_duplicates"] == 7 - len(expected)
    repeated = len(expected) - len(set(expected))
    assert data.facts["repeats"] == {"users": int(repeated > 0), "interactions": repeated}


def test_of_equal_times_the_file_order_decides_first_and_last() -> None:
    rows = one_user("abcab", [1, 1, 1, 1, 1])
    for policy, expected in (("first", "abc"), ("last", "cab")):
        data = canonical(rows, filters=Filters(duplicates=policy))  # type: ignore[arg-type]
        assert sequences(data) == {"u": expected}


def test_the_same_item_of_two_users_is_no_duplicate() -> None:
    rows = Rows(["u", "u", "u", "v", "v", "v"], list("abccba"), np.ones(6))
    for policy in ("exact", "first", "last", "consecutive", "error"):
        data = canonical(rows, filters=Filters(duplicates=policy))  # type: ignore[arg-type]
        assert sequences(data) == {"u": "abc", "v": "cba"}
        assert data.facts["dropped_duplicates"] == 0


def test_exact_needs_timestamps() -> None:
    with pytest.raises(UserError, match="duplicates=exact needs timestamps"):
        canonical(one_user("abca"), filters=Filters(duplicates="exact"))


def test_error_names_a_pair() -> None:
    with pytest.raises(UserError, match="user 'u' has item 'a' more than once") as caught:
        canonical(one_user("abca"), filters=Filters(duplicates="error"))
    assert "\n" not in str(caught.value)


@given(events, st.sampled_from(["keep", "exact", "first", "last", "consecutive"]))
def test_policies_are_what_plain_loops_give(given_events: list[Event], policy: Any) -> None:
    expected: dict[str, str] = {}
    for user in sorted({event[0] for event in given_events}):
        own = sorted((e for e in given_events if e[0] == user), key=lambda event: event[2])
        if policy == "exact":
            own = list(dict.fromkeys(own))
        elif policy == "first":
            own = [e for n, e in enumerate(own) if e[1] not in {o[1] for o in own[:n]}]
        elif policy == "last":
            own = [e for n, e in enumerate(own) if e[1] not in {o[1] for o in own[n + 1 :]}]
        elif policy == "consecutive":
            own = [e for n, e in enumerate(own) if n == 0 or own[n - 1][1] != e[1]]
        if len(own) >= 3:
            expected[f"u{user}"] = "".join(f"i{event[1]}" for event in own)
    if not expected:
        with pytest.raises(UserError, match="no user has 3"):
            canonical(rows_of(given_events), filters=Filters(duplicates=policy))
        return
    assert sequences(canonical(rows_of(given_events), filters=Filters(policy))) == expected


# --- the core -------------------------------------------------------------------------------


def plain_core(given_events: list[Event], user_core: int, item_core: int) -> list[Event]:
    """One user or item at a time, in no clever order."""
    left = list(given_events)
    while True:
        users, items = Counter(e[0] for e in left), Counter(e[1] for e in left)
        poor_users = [user for user, count in users.items() if count < user_core]
        poor_items = [item for item, count in items.items() if count < item_core]
        if poor_users:
            left = [event for event in left if event[0] != poor_users[0]]
        elif poor_items:
            left = [event for event in left if event[1] != poor_items[0]]
        else:
            return left


@given(events, st.integers(0, 6), st.integers(0, 5))
def test_core_is_what_a_plain_loop_gives(
    given_events: list[Event], user_core: int, item_core: int
) -> None:
    filters = Filters(user_core=user_core, item_core=item_core)
    core = plain_core(given_events, user_core, item_core)
    long_enough = {user for user, count in Counter(e[0] for e in core).items() if count >= 3}
    expected = [event for event in core if event[0] in long_enough]
    if not expected:
        with pytest.raises(UserError, match=r"leave nobody|no user has 3"):
            canonical(rows_of(given_events), filters=filters)
        return
    data = canonical(rows_of(given_events), filters=filters)
    found = Counter(
        (data.user_tokens[user], data.item_tokens[item])
        for user, item in zip(data.user, data.item, strict=True)
    )
    assert found == Counter((f"u{user}", f"i{item}") for user, item, _ in expected)
    stages = []
    for stage in (given_events, core, expected):
        stages.append([len({e[0] for e in stage}), len({e[1] for e in stage}), len(stage)])
    for facts, before, after in (
        (data.facts["core"], stages[0], stages[1]),
        (data.facts, stages[1], stages[2]),
    ):
        dropped = [facts[f"dropped_{key}"] for key in ("users", "items", "interactions")]
        assert dropped == [b - a for b, a in zip(before, after, strict=True)]
    assert (data.facts["core"]["rounds"] == 0) == (len(core) == len(given_events))
    pairs = [(user, item) for user, item, _ in expected]
    assert data.facts["repeats"] == {
        "users": len({user for (user, _), count in Counter(pairs).items() if count > 1}),
        "interactions": len(pairs) - len(set(pairs)),
    }


def test_core_goes_on_until_nothing_changes() -> None:
    # d is the item of one user only; without it u3 is short, and without u3 so is c.
    rows = Rows(
        ["u1", "u1", "u1", "u2", "u2", "u2", "u3", "u3", "u3", "u3"],
        list("abe") + list("abe") + list("abcd"),
    )
    data = canonical(rows, filters=Filters(user_core=3, item_core=2))
    assert sequences(data) == {"u1": "abe", "u2": "abe"}
    assert data.facts["core"] == {
        "rounds": 2,
        "dropped_users": 1,
        "dropped_items": 2,
        "dropped_interactions": 4,
    }


def test_steps_come_in_their_order() -> None:
    # Without its duplicates v is too short for the core, and without v the item c is too rare.
    # w has two interactions in the core: min_interactions takes it, and a is left with one.
    rows = Rows(
        list("uuuu") + list("vvvv") + list("ww"),
        list("abdb") + list("cccc") + list("ab"),
        np.arange(10),
    )
    filters = Filters(duplicates="first", user_core=2, item_core=1, min_interactions=3)
    data = canonical(rows, filters=filters)
    assert sequences(data) == {"u": "abd"}
    facts = dict(data.facts)
    assert facts["rows_read"] == 10
    assert facts["dropped_duplicates"] == 4
    assert facts["core"] == {
        "rounds": 1,
        "dropped_users": 1,
        "dropped_items": 1,
        "dropped_interactions": 1,
    }
    assert (facts["dropped_users"], facts["dropped_items"]) == (1, 0)
    assert facts["dropped_interactions"] == 2
    assert facts["full"] == {"users": 1, "items": 3, "interactions": 3}


def test_facts_are_those_before_the_sample() -> None:
    rows = Rows(["u"] * 4 + ["v"] * 5, list("abca") + list("abcde"))
    for users in (None, 2, 1):
        facts = canonical(rows, users).facts
        assert facts["repeats"] == {"users": 1, "interactions": 1}
        assert facts["full"] == {"users": 2, "items": 5, "interactions": 9}


def test_min_interactions() -> None:
    rows = Rows(["u"] * 4 + ["v"] * 5, list("abcd") + list("abcde"))
    assert sequences(canonical(rows, filters=Filters(min_interactions=5))) == {"v": "abcde"}
    message = r"no user has 6 interactions or more \(9 interactions of 2 users were read\)"
    with pytest.raises(UserError, match=message):
        canonical(rows, filters=Filters(min_interactions=6))


def test_who_emptied_it() -> None:
    rows = Rows(["u"] * 3 + ["v"] * 3, list("abc") + list("abd"))
    with pytest.raises(UserError, match=r"user_core=4 and item_core=0 leave nobody.* all 6 inter"):
        canonical(rows, filters=Filters(user_core=4))
    with pytest.raises(UserError, match=r"no user has 3 .*6 interactions of 2 .*; 4 were left"):
        canonical(rows, filters=Filters(item_core=2))
    with pytest.raises(UserError, match="no user has 3 interactions"):
        canonical(Rows([], []))


@given(events)
def test_the_defaults_take_short_users_only(given_events: list[Event]) -> None:
    counts = Counter(event[0] for event in given_events)
    expected = sum(count for count in counts.values() if count >= 3)
    if expected:
        assert len(canonical(rows_of(given_events)).item) == expected


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"user_core": -1}, "dataset.filters.user_core must be a whole number from 0, not -1"),
        ({"item_core": 1.5}, "dataset.filters.item_core must be"),
        ({"user_core": True}, "dataset.filters.user_core must be"),
        ({"item_core": None}, "dataset.filters.item_core must be"),
        ({"min_interactions": 2}, "dataset.filters.min_interactions must be a whole number from 3"),
        ({"duplicates": "drop"}, "dataset.filters.duplicates must be one of keep, exact"),
        ({"duplicates": ["keep"]}, "dataset.filters.duplicates must be"),
        ({"kcore": 5}, "dataset.filters has no key 'kcore'; it knows duplicates, user_core"),
    ],
)
def test_impossible_filters(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Filters.from_mapping(options)


def test_filters_from_yaml() -> None:
    assert Filters.from_mapping(None) == Filters.from_mapping({}) == Filters()
    assert Filters.from_mapping({"user_core": 5}) == Filters(user_core=5)
