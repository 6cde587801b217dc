"""From stored runs to what tables show: per-user values first, means and spreads second.

Only runs that can be compared get through: the same split, the same users, the same cut-offs.
Users are matched by id; one who is missing from a run's ``metrics.parquet`` scores 0 there.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from benchmark.configurations import configuration_notes
from benchmark.errors import UserError
from benchmark.metrics import METRICS
from benchmark.store import StoredRun

SHORT_HASH = 8  # characters of a config hash that a label shows


@dataclass(frozen=True, eq=False)
class MethodRuns:
    """The runs of one method with one config, a seed each.

    Attributes:
        key: unique name within the data set: the method, with a short hash if there are several.
        label: the same for readers.
        runs: by rising seed.
        per_seed: for each run, float64 [n_users x (metric, k)].
    """

    key: str
    label: str
    method: str
    runs: tuple[StoredRun, ...]
    per_seed: tuple[pd.DataFrame, ...]

    @property
    def seeds(self) -> tuple[int, ...]:
        return tuple(run.seed for run in self.runs)

    @cached_property
    def per_user(self) -> pd.DataFrame:
        """float64 [n_users x (metric, k)], averaged over seeds."""
        mean: pd.DataFrame = sum(self.per_seed[1:], self.per_seed[0]) / len(self.per_seed)
        return mean

    def facts(self, *path: str) -> list[Any]:
        """The value under ``path`` in each run's run.json, by seed; runs without it left out."""
        found = [_lookup(run.info, path) for run in self.runs]
        return [value for value in found if value is not None]

    def mean_fact(self, *path: str) -> float:
        """Mean over seeds of a number in run.json; NaN where no run has it."""
        found = self.facts(*path)
        return float(np.mean(found)) if found else float("nan")


@dataclass(frozen=True, eq=False)
class DatasetResults:
    """Everything comparable that is stored for one data set.

    Attributes:
        methods: in the order in which tables list them.
        users: ids [n_users] of the evaluated users; negative ids stand for users who should have
            been evaluated but whom no run names.
        notes: lines that every reader of the numbers must see.
    """

    dataset: str
    ks: tuple[int, ...]
    methods: tuple[MethodRuns, ...]
    users: pd.Index
    notes: tuple[str, ...]

    @property
    def runs(self) -> list[StoredRun]:
        return [run for method in self.methods for run in method.runs]

    def fact(self, name: str) -> Any:
        """The first run's word on the data set that is not empty; None if no run says it."""
        facts = ((run.info.get("dataset_info") or {}).get(name) for run in self.runs)
        return next((fact for fact in facts if fact), None)

    @property
    def text_sources(self) -> list[str]:
        """What the semantic IDs of these runs were made from, in words. Runs without any are
        asked only where there are no others: they may have been given no texts."""
        runs = [run for run in self.runs if run.info.get("embeddings_sha256")] or self.runs
        words = [(run.info.get("dataset_info") or {}).get("text_source") for run in runs]
        return list(dict.fromkeys(word for word in words if word))

    @property
    def heading(self) -> str:
        """The data set as tables name it. What the items' texts are is part of its name: the same
        interactions with other texts are another data set for a generative method."""
        label = self.fact("label") or self.dataset
        sample = self.fact("sampled_users")
        users = f", {sample} users" if sample else ""
        texts = " and, in other runs, ".join(self.text_sources) or "none"
        return f"{label} ({self.dataset}{users}; item text: {texts})"

    @property
    def headline_k(self) -> int:
        """The cut-off that single-metric tables use: 10, or the largest where there is no 10."""
        return 10 if 10 in self.ks else max(self.ks)

    @property
    def labels(self) -> dict[str, str]:
        return {method.key: method.label for method in self.methods}

    def values(self, metric: str, k: int) -> pd.DataFrame:
        """float64 [n_users x methods that have the metric], averaged over seeds."""
        return pd.DataFrame(
            {m.key: m.per_user[(metric, k)] for m in self.methods if (metric, k) in m.per_user},
            index=self.users,
        )

    def seed_values(self, metric: str, k: int) -> dict[str, NDArray[np.float64]]:
        """The same before averaging, by method key: float64 [n_users, n_seeds], seeds rising."""
        return {
            m.key: np.stack([frame[(metric, k)].to_numpy() for frame in m.per_seed], axis=1)
            for m in self.methods
            if (metric, k) in m.per_user
        }

    def summary(self, metric: str, k: int) -> pd.DataFrame:
        """Index: method key; columns mean, sd (over seeds, n - 1; NaN for one seed), seeds."""
        rows = {}
        for method in self.methods:
            if (metric, k) in method.per_user:
                means = np.array([frame[(metric, k)].mean() for frame in method.per_seed])
                sd = float(means.std(ddof=1)) if len(means) > 1 else float("nan")
                rows[method.key] = {"mean": float(means.mean()), "sd": sd, "seeds": len(means)}
        return pd.DataFrame.from_dict(rows, orient="index", columns=["mean", "sd", "seeds"])


def aggregate(
    runs: Iterable[StoredRun], method_order: Sequence[str] = ()
) -> dict[str, DatasetResults]:
    """Group finished runs by data set, in name order.

    Args:
        runs: finished cells, in any order.
        method_order: methods in the order of the tables; the others follow by name.

    Raises:
        UserError: runs of one data set differ in split, users or cut-offs, one seed is there
            twice, or the seeds of one config used different embeddings.
    """
    datasets: dict[str, list[StoredRun]] = {}
    for run in runs:
        datasets.setdefault(run.dataset, []).append(run)
    return {name: _dataset(name, datasets[name], method_order) for name in sorted(datasets)}


def evaluated_users(info: Any) -> int:
    """How many users a run should have evaluated: the protocol's limit or all of them."""
    limit, users = info["protocol"].get("users"), int(info["counts"]["users"])
    return users if limit is None else min(int(limit), users)


def _dataset(name: str, runs: list[StoredRun], order: Sequence[str]) -> DatasetResults:
    rank = {method: position for position, method in enumerate(order)}
    runs = sorted(
        runs, key=lambda r: (rank.get(r.method, len(rank)), r.method, r.config_sha256, r.seed)
    )
    _same(runs, "split_sha256", lambda run: run.split_sha256[:12])
    _same(runs, "cut-offs (protocol.ks)", lambda run: str(_ks(run)))
    _same(runs, "number of evaluated users", lambda run: str(evaluated_users(run.info)))
    tables = [_pivot(run) for run in runs]
    users = _all_users(runs, tables)
    missing = [len(users) - len(table) for table in tables]
    for index, table in enumerate(tables):  # one by one: all runs twice would be much memory
        tables[index] = _complete(table, users)
    methods = _methods(runs, tables)
    notes = [*_run_notes(methods, missing), *_method_notes(methods)]
    return DatasetResults(name, _ks(runs[0]), methods, users, tuple(notes))


def _same(runs: list[StoredRun], what: str, value: Callable[[StoredRun], str]) -> None:
    """Refuse runs that differ in ``what``, naming one run for each value."""
    first: dict[str, str] = {}
    for run in runs:
        first.setdefault(value(run), _name(run))
    if len(first) > 1:
        differ = "; ".join(f"{found} in {name}" for found, name in first.items())
        raise UserError(
            f"runs of {runs[0].dataset} differ in {what} and cannot be compared: {differ}; "
            "report them apart, or run the odd ones again with the same data and protocol"
        )


def _pivot(run: StoredRun) -> pd.DataFrame:
    """One run's metrics.parquet as float64 [users in the file, rising x (metric, k), rising]; NaN
    where the file has no value.

    Integers name users and columns throughout, which is what makes it fast: a run of 30,000 users
    has half a million rows.
    """
    rows = run.metric_rows()
    again = f"delete {_name(run)} from the results and run it again"
    users, user = _numbered(rows.user)
    low, high = int(rows.k.min(initial=0)), int(rows.k.max(initial=0))
    pairs, pair = _numbered(rows.metric * (high - low + 1) + rows.k - low)
    place = pair * len(users) + user
    if len(place) and np.bincount(place).max() > 1:
        raise UserError(f"metrics.parquet of {_name(run)} names a user twice; {again}")
    if not np.isfinite(rows.value).all():
        raise UserError(
            f"metrics.parquet of {_name(run)} holds values that are not finite; {again}"
        )
    values = np.full(len(pairs) * len(users), np.nan)
    values[place] = rows.value
    metric, k = np.divmod(pairs, high - low + 1)
    columns = pd.MultiIndex.from_arrays(
        [[rows.names[index] for index in metric], k + low], names=["metric", "k"]
    )
    index = pd.Index(users, name="user")
    table = pd.DataFrame(values.reshape(len(pairs), len(users)).T, index, columns, copy=False)
    for wanted in METRICS:
        for cut in _ks(run):
            if (wanted, cut) not in table:
                raise UserError(f"metrics.parquet of {_name(run)} has no {wanted}@{cut}; {again}")
    return table


def _numbered(values: NDArray[np.int64]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """The distinct values, rising, and the place of each value among them."""
    low, high = (int(end(values, initial=0)) for end in (np.min, np.max))
    if high - low > 4 * len(values):  # a table of what is there would be mostly empty
        return np.unique(values, return_inverse=True)
    there = np.zeros(high - low + 1, dtype=bool)
    there[values - low] = True
    return np.flatnonzero(there) + low, (np.cumsum(there) - 1)[values - low]


def _all_users(runs: list[StoredRun], tables: list[pd.DataFrame]) -> pd.Index:
    """Ids of the users to average over, the same for every run, in rising order.

    Where all users were to be evaluated these are 0 .. users - 1, so one whom no run names still
    counts. Where a sample was, its size is known but not its members: more ids than that in all
    runs together mean that the samples differ, fewer are filled with negative ids.
    """
    info = runs[0].info
    expected, total = evaluated_users(info), int(info["counts"]["users"])
    union = np.unique(np.concatenate([table.index.to_numpy() for table in tables]))
    if len(union) > expected or (len(union) and (union[0] < 0 or union[-1] >= total)):
        odd = runs[int(np.argmin([len(table) for table in tables]))]
        raise UserError(
            f"runs of {odd.dataset} were evaluated on different users: {len(union)} in all, "
            f"{expected} by protocol; {_name(odd)} has the fewest; "
            "run the odd ones again with the same users"
        )
    if expected == total:
        return pd.RangeIndex(total, name="user")
    unnamed = range(len(union) - expected, 0)
    return pd.Index([*unnamed, *union.tolist()], name="user", dtype=np.int64)


def _complete(table: pd.DataFrame, users: pd.Index) -> pd.DataFrame:
    """The table with a row for each of these users, 0 where it has no value; without a copy where
    nothing is missing."""
    whole = table if table.index.equals(users) else table.reindex(users)
    return whole.fillna(0.0) if np.isnan(whole.to_numpy()).any() else whole.set_axis(users)


def _methods(runs: list[StoredRun], tables: list[pd.DataFrame]) -> tuple[MethodRuns, ...]:
    groups: dict[tuple[str, str], list[int]] = {}
    for index, run in enumerate(runs):
        groups.setdefault((run.method, run.config_sha256), []).append(index)
    names = [method for method, _ in groups]
    labels = [_label(runs[indices[0]]) for indices in groups.values()]
    methods = []
    for (method, config), indices in groups.items():
        group = [runs[index] for index in indices]
        _check_group(group)
        label, short = _label(group[0]), config[:SHORT_HASH]
        key = method if names.count(method) == 1 else f"{method} [{short}]"
        label = label if labels.count(label) == 1 else f"{label} [{short}]"
        per_seed = tuple(tables[index] for index in indices)
        methods.append(MethodRuns(key, label, method, tuple(group), per_seed))
    return tuple(methods)


def _check_group(group: list[StoredRun]) -> None:
    name = _name(group[0])
    if len({run.seed for run in group}) < len(group):
        raise UserError(f"{name}: a seed is there twice; give the report one results folder only")
    if len({run.info.get("embeddings_sha256") for run in group}) > 1:
        raise UserError(
            f"{name}: its seeds used different item embeddings (embeddings_sha256); "
            "run the odd ones again with the same embeddings"
        )


def _run_notes(methods: tuple[MethodRuns, ...], missing: list[int]) -> list[str]:
    """Lines on users and lists that a run lacks; ``missing`` is in the order of all runs."""
    labels = [(method.label, run) for method in methods for run in method.runs]
    notes = []
    for (label, run), absent in zip(labels, missing, strict=True):
        who = f"{label}, seed {run.seed}"
        if absent:
            notes.append(f"{who}: {absent} users missing from metrics.parquet score 0.")
        if run.info.get("missing_users"):
            notes.append(f"{who}: {run.info['missing_users']} users got no list and score 0.")
        if run.info.get("short_lists"):
            notes.append(f"{who}: {run.info['short_lists']} lists are shorter than asked for.")
    return notes


def _method_notes(methods: tuple[MethodRuns, ...]) -> list[str]:
    """Lines on what differs between methods without making them incomparable."""
    notes = configuration_notes([(m.method, m.label, m.runs[0]) for m in methods])
    seeds = {method.label: ", ".join(map(str, method.seeds)) for method in methods}
    if len(set(seeds.values())) > 1:
        listed = "; ".join(f"{label}: {text}" for label, text in seeds.items())
        notes.append(f"Methods were trained with different seeds, all of which count: {listed}.")
    encoders: dict[str, list[str]] = {}
    for method in methods:
        for sha in method.facts("embeddings_sha256")[:1]:
            encoders.setdefault(sha[:SHORT_HASH], []).append(method.label)
    if len(encoders) > 1:
        listed = "; ".join(f"{sha}: {', '.join(who)}" for sha, who in encoders.items())
        notes.append(f"Methods used different item embeddings ({listed}).")
    return notes


def _ks(run: StoredRun) -> tuple[int, ...]:
    return tuple(sorted(int(k) for k in run.info["protocol"]["ks"]))


def _label(run: StoredRun) -> str:
    return str(run.info.get("method_label") or run.method)


def _name(run: StoredRun) -> str:
    return f"{run.dataset}/{run.method}/{run.config_sha256[:12]}/seed={run.seed}"


def _lookup(info: Any, path: Sequence[str]) -> Any:
    for step in path:
        info = info.get(step) if isinstance(info, Mapping) else None
    return info
