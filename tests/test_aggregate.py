"""Aggregation: what is averaged, what is refused, what is said aloud."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml

from benchmark.aggregate import aggregate
from benchmark.errors import UserError
from tests.store_fixture import add_run, example_store

MISS, FIRST, THIRD = 0, 1, 3


def test_mean_and_sd_over_seeds_by_hand(tmp_path: Path) -> None:
    # Four users; NDCG of rank 1 is 1, of rank 3 is 1 / log2(4) = 1/2.
    runs = [
        add_run(tmp_path, "sasrec", 0, n_users=4, ranks=[FIRST, THIRD, MISS, MISS]),
        add_run(tmp_path, "sasrec", 1, n_users=4, ranks=[FIRST, FIRST, THIRD, MISS]),
    ]
    result = aggregate(runs)["toy"]
    summary = result.summary("ndcg", 10).loc["sasrec"]
    first, second = 1.5 / 4, 2.5 / 4
    assert summary["mean"] == pytest.approx((first + second) / 2)
    assert summary["sd"] == pytest.approx((second - first) / 2**0.5)
    assert result.values("ndcg", 10)["sasrec"].to_list() == pytest.approx([1, 0.75, 0.25, 0])
    assert result.values("recall", 5)["sasrec"].to_list() == pytest.approx([1, 1, 0.5, 0])


def test_one_seed_has_no_sd(tmp_path: Path) -> None:
    summary = aggregate([add_run(tmp_path, "pop", 0)])["toy"].summary("ndcg", 10)
    assert summary["sd"].isna().all()


def test_methods_come_in_the_given_order_then_by_name(tmp_path: Path) -> None:
    runs = example_store(tmp_path, ["tiger", "ste", "pop", "lightgcn"], [0])
    keys = [method.key for method in aggregate(runs, ["tiger", "pop"])["toy"].methods]
    assert keys == ["tiger", "pop", "lightgcn", "ste"]


def test_a_missing_user_scores_zero_and_is_counted(tmp_path: Path) -> None:
    runs = [
        add_run(tmp_path, "pop", 0, n_users=4, ranks=[FIRST] * 4),
        add_run(tmp_path, "sasrec", 0, n_users=4, ranks=[FIRST] * 4, drop_users=[1]),
    ]
    result = aggregate(runs)["toy"]
    assert result.values("ndcg", 10)["sasrec"].to_list() == [1, 0, 1, 1]
    assert result.summary("ndcg", 10)["mean"].to_dict() == {"pop": 1.0, "sasrec": 0.75}
    assert any("1 users missing from metrics.parquet score 0" in note for note in result.notes)


def test_a_user_missing_everywhere_still_counts(tmp_path: Path) -> None:
    run = add_run(tmp_path, "pop", 0, n_users=4, ranks=[FIRST] * 4, drop_users=[3])
    assert aggregate([run])["toy"].summary("recall", 5).loc["pop", "mean"] == 0.75


def test_a_sample_of_users_keeps_its_size(tmp_path: Path) -> None:
    options: dict[str, Any] = {"n_users": 10, "ranks": [FIRST] * 10, "protocol__users": 4}
    runs = [add_run(tmp_path, "pop", 0, drop_users=range(3, 10), **options)]
    result = aggregate(runs)["toy"]
    assert len(result.users) == 4
    assert result.summary("recall", 5).loc["pop", "mean"] == 0.75


def test_different_user_samples_are_refused(tmp_path: Path) -> None:
    runs = [
        add_run(tmp_path, "pop", 0, n_users=6, drop_users=[0, 1], protocol__users=4),
        add_run(tmp_path, "sasrec", 0, n_users=6, drop_users=[4, 5], protocol__users=4),
    ]
    with pytest.raises(UserError, match="different users: 6 in all, 4 by protocol"):
        aggregate(runs)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"split_sha256": "6" * 64}, "differ in split_sha256 .* 6{12} in toy/tiger"),
        ({"protocol__ks": [5, 10]}, "differ in cut-offs"),
        ({"protocol__users": 50}, "differ in number of evaluated users"),
    ],
)
def test_runs_that_cannot_be_compared_are_refused(
    tmp_path: Path, change: dict[str, Any], message: str
) -> None:
    runs = [add_run(tmp_path, "pop", 0), add_run(tmp_path, "tiger", 0, **change)]
    with pytest.raises(UserError, match=message) as caught:
        aggregate(runs)
    assert "\n" not in str(caught.value)
    assert aggregate(runs[:1]).keys() == {"toy"}


def test_data_sets_are_kept_apart(tmp_path: Path) -> None:
    runs = [
        add_run(tmp_path, "pop", 0),
        add_run(tmp_path, "pop", 0, dataset="other", split_sha256="6" * 64),
    ]
    assert list(aggregate(runs)) == ["other", "toy"]


def test_configs_of_one_method_get_distinct_names(tmp_path: Path) -> None:
    runs = [add_run(tmp_path, "tiger", 0), add_run(tmp_path, "tiger", 0, config={"beams": 80})]
    methods = aggregate(runs)["toy"].methods
    assert len({method.key for method in methods}) == 2
    for method in methods:
        short = method.runs[0].config_sha256[:8]
        assert (method.key, method.label) == (f"tiger [{short}]", f"TIGER [{short}]")


def test_a_seed_given_twice_is_refused(tmp_path: Path) -> None:
    runs = [add_run(tmp_path / name, "pop", 0) for name in ("a", "b")]
    with pytest.raises(UserError, match="a seed is there twice"):
        aggregate(runs)


def test_seeds_of_one_config_must_share_embeddings(tmp_path: Path) -> None:
    runs = [add_run(tmp_path, "tiger", 0), add_run(tmp_path, "tiger", 1, embeddings_sha256="f")]
    with pytest.raises(UserError, match="different item embeddings"):
        aggregate(runs)


def test_different_seed_sets_and_embeddings_are_noted(tmp_path: Path) -> None:
    runs = [
        add_run(tmp_path, "tiger", 0),
        add_run(tmp_path, "ste", 1, embeddings_sha256="f" * 64, missing_users=2, short_lists=3),
    ]
    notes = "\n".join(aggregate(runs)["toy"].notes)
    assert "different seeds, all of which count: STE: 1; TIGER: 0" in notes
    assert "different item embeddings (ffffffff: STE; eeeeeeee: TIGER)" in notes
    assert "STE, seed 1: 2 users got no list and score 0." in notes
    assert "STE, seed 1: 3 lists are shorter than asked for." in notes


def test_a_note_says_in_what_configurations_of_a_method_differ(tmp_path: Path) -> None:
    runs = []
    for changed in ({}, {"init_std": 0.1}, {"init_std": 0.1, "d_model": 128}):
        config = {"method": {"model": {"d_model": 64, "layers": 2, **changed}}}
        run = add_run(tmp_path, "tiger", 0, config=config)
        text = yaml.safe_dump({**config, "seed": 0})
        (run.folder / "config.yaml").write_text(text, encoding="utf-8")
        runs.append(run)
    result = aggregate(runs)["toy"]
    (note,) = [note for note in result.notes if note.startswith("Configurations of tiger: ")]
    label = {method.runs[0].folder: method.label for method in result.methods}
    first, second, third = (label[run.folder] for run in runs)
    assert f"{first}: model.d_model 64, model.init_std by default" in note
    assert f"{second}: model.d_model 64, model.init_std 0.1" in note
    assert f"{third}: model.d_model 128, model.init_std 0.1" in note
    assert "layers" not in note
    assert not any("Configurations" in line for line in aggregate(runs[:1])["toy"].notes)
