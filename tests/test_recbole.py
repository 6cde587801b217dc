"""RecBole's models under our interface: same rows, same figures, our ids, our rules for lists."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from baselines.lightgcn import LightGCN
from baselines.recbole_adapter import RecBoleMethod
from baselines.recbole_rows import Negatives
from baselines.sasrec import SasRecBCE, SasRecCE
from benchmark.data.split import Phase, Split
from benchmark.metrics import METRICS, target_ranks
from benchmark.recommender import BenchmarkData, Recommender
from diger.checks import SettingError
from tests.conftest import make_split
from tests.recbole_cases import (
    METHODS,
    N_ITEMS,
    N_USERS,
    PHASES,
    UNUSED,
    fitted,
    model_of,
    planted,
    with_repeats,
)


def figures(method: RecBoleMethod, data: BenchmarkData, phase: Phase) -> dict[str, float]:
    """The suite's own metrics, on the lists."""
    ranking = method.rank(data, np.arange(N_USERS), 10, phase, method.excludes_seen)
    ranks = target_ranks(ranking.items, data.split.targets(phase))
    return {f"{name}@10": METRICS[name].per_user(ranks, 10).mean() for name in ("ndcg", "recall")}


@pytest.mark.parametrize("kind", METHODS)
def test_our_metrics_on_the_lists_are_recboles_own(
    kind: type[RecBoleMethod], tmp_path: Path
) -> None:
    data = planted(max_history=6, train_prefixes=5)
    method = fitted(kind, data, tmp_path)
    for phase in PHASES:
        theirs = method.recbole_figures(phase)
        assert figures(method, data, phase) == pytest.approx(theirs, abs=1e-4), phase
        assert theirs["ndcg@10"] > 0


@pytest.mark.parametrize("make", [planted, with_repeats])
@pytest.mark.parametrize("kind", METHODS)
def test_validation_gives_the_figures_of_the_lists(
    kind: type[RecBoleMethod], make: Callable[[], BenchmarkData], tmp_path: Path
) -> None:
    data = make()
    method = fitted(kind, data, tmp_path)
    for phase in PHASES:
        ours = method._after_fit().scorer.validate(method.excludes_seen, phase)
        assert ours == pytest.approx(figures(method, data, phase), abs=1e-12)


def test_an_answer_seen_before_is_no_hit_where_seen_items_are_left_out(tmp_path: Path) -> None:
    """RecBole would spare it: its figures are the higher ones, by those users alone."""
    data = with_repeats()
    method = fitted(LightGCN, data, tmp_path, epochs=12)
    users, split = np.arange(N_USERS), data.split
    for phase in PHASES:
        repeated = split.is_repeat[split.positions(phase)]
        assert repeated.sum() == N_USERS / 3
        lists = method.rank(data, users, N_ITEMS, phase, True).items
        ranks = target_ranks(lists, split.targets(phase))
        assert (ranks[repeated] == 0).all() and (ranks[~repeated] > 0).all()
        theirs = method.recbole_figures(phase)
        assert theirs["recall@10"] > figures(method, data, phase)["recall@10"]


Row = tuple[str, tuple[str, ...], str]
IDS = ("user_id", "item_id")


def rows_of_recbole(loader: Any) -> list[Row]:
    """(user, history, target) of all rows of a loader, in our tokens."""
    tokens = {name: np.array(loader._dataset.field2id_token[name]) for name in IDS}
    rows = []
    for loaded in loader:
        batch = loaded[0] if isinstance(loaded, tuple) else loaded
        users, items = (tokens[name][batch[name].numpy()] for name in IDS)
        histories = tokens["item_id"][batch["item_id_list"].numpy()]
        lengths = batch["item_length"].tolist()
        for user, history, length, item in zip(users, histories, lengths, items, strict=True):
            assert set(history[length:]) <= {"[PAD]"}
            rows.append((str(user), tuple(map(str, history[:length])), str(item)))
    return rows


def rows_of_split(split: Split, positions: np.ndarray[Any, Any]) -> list[Row]:
    """The same from the split's definition, one row at a time."""
    rows = []
    for position in positions:
        user = int(np.searchsorted(split.offsets, position, side="right")) - 1
        history = split.items[split.offsets[user] : position][-split.max_history :]
        rows.append((str(user), tuple(map(str, history)), str(split.items[position])))
    return rows


@pytest.mark.parametrize(
    ("max_history", "train_prefixes"), [(50, None), (4, None), (50, 2), (3, 4)]
)
@pytest.mark.parametrize("kind", [SasRecCE, SasRecBCE])
def test_sasrec_sees_exactly_the_rows_of_the_split(
    kind: type[RecBoleMethod], max_history: int, train_prefixes: int | None, tmp_path: Path
) -> None:
    data = planted(max_history, train_prefixes)
    loaders = fitted(kind, data, tmp_path, epochs=1).loaders
    train = rows_of_split(data.split, data.split.train_positions)
    assert Counter(rows_of_recbole(loaders.train)) == Counter(train)
    for phase in PHASES:
        expected = rows_of_split(data.split, data.split.positions(phase))
        assert rows_of_recbole(getattr(loaders, phase)) == expected


def test_lightgcn_trains_on_every_training_interaction(tmp_path: Path) -> None:
    data = planted(max_history=3, train_prefixes=2)
    batches = list(fitted(LightGCN, data, tmp_path, epochs=1).loaders.train)
    users = np.concatenate([batch["user_id"].numpy() for batch in batches]) - 1
    items = np.concatenate([batch["item_id"].numpy() for batch in batches]) - 1
    expected = [(user, item) for user in range(N_USERS) for item in data.split.seen(user, "valid")]
    assert Counter(zip(users, items, strict=True)) == Counter(expected)


@pytest.mark.parametrize("kind", METHODS)
def test_every_epoch_has_all_rows_in_a_new_order(kind: type[RecBoleMethod], tmp_path: Path) -> None:
    loader = fitted(kind, planted(), tmp_path, epochs=1, train_batch_size=50).loaders.train
    one, two = (list(loader) for _ in range(2))
    assert [len(batch) for batch in one] == [50] * (len(one) - 1) + [len(one[-1])]
    assert len(one) == len(loader) and 0 < len(one[-1]) < 50
    rows = [
        [(row.tolist()) for batch in epoch for row in torch.stack([batch[i] for i in IDS], 1)]
        for epoch in (one, two)
    ]
    assert sorted(rows[0]) == sorted(rows[1])
    assert rows[0] != rows[1]
    again = []
    for other in (1, 2):  # the order has a generator of its own
        loader.generator.manual_seed(5)
        torch.manual_seed(other)
        again.append(torch.cat([batch["item_id"] for batch in loader]))
    assert torch.equal(*again)


def test_ids_come_back_as_ours(tmp_path: Path) -> None:
    """Nine steps in ten go to the next item, so the list must begin with it for most users."""
    data = planted()
    method = fitted(SasRecCE, data, tmp_path, epochs=15, dropout=0.1)
    first = method.rank(data, np.arange(N_USERS), 1, "test", False).items[:, 0]
    last = data.split.items[data.split.positions("test") - 1]
    assert (first == (last + 1) % (N_ITEMS - UNUSED)).mean() > 0.8


def test_lists_follow_the_users_asked_for(tmp_path: Path) -> None:
    data = planted()
    for kind in METHODS:
        method = fitted(kind, data, tmp_path / kind.__name__, eval_users=7)
        users = np.array([40, 3, 59, 0, 3, 17, 21, 8, 30])
        some = method.rank(data, users, 5, "test", True)
        every = method.rank(data, np.arange(N_USERS), 5, "test", True)
        assert np.array_equal(some.items, every.items[users])
        assert method.rank(data, users[:0], 5, "test", True).items.shape == (0, 5)


@pytest.mark.parametrize("phase", PHASES)
@pytest.mark.parametrize("kind", METHODS)
def test_seen_items_are_left_out_only_when_asked(
    kind: type[RecBoleMethod], phase: Phase, tmp_path: Path
) -> None:
    data = planted(max_history=2)
    method = fitted(kind, data, tmp_path, epochs=1)
    every = method.rank(data, np.arange(N_USERS), N_ITEMS + 2, phase, False).items
    unseen = method.rank(data, np.arange(N_USERS), N_ITEMS + 2, phase, True).items
    catalogue = set(range(N_ITEMS))
    for user in range(N_USERS):
        assert sorted(every[user]) == [-1, -1, *range(N_ITEMS)]
        left = catalogue - set(data.split.seen(user, phase).tolist())
        gaps = N_ITEMS + 2 - len(left)
        assert sorted(unseen[user]) == [-1] * gaps + sorted(left)
        assert unseen[user][len(left) :].tolist() == [-1] * gaps
        assert unseen[user][: len(left)].tolist() == [item for item in every[user] if item in left]


def test_negatives_are_uniform_over_what_the_user_has_not_consumed() -> None:
    users, items = torch.tensor([1, 1, 2, 2, 2, 2]), torch.tensor([0, 1, 4, 3, 4, 0])
    negatives = Negatives(users, items, n_users=4, n_items=5)
    torch.manual_seed(0)
    drawn = negatives.sample(torch.tensor([1, 2, 3]).repeat(6000)).view(-1, 3)
    for column, allowed in enumerate([[2, 3, 4], [1, 2], [0, 1, 2, 3, 4]]):
        values, counts = np.unique(drawn[:, column].numpy(), return_counts=True)
        assert values.tolist() == allowed
        # At most 3000 expected of each, with a standard deviation of 39 at most.
        assert np.abs(counts - 6000 / len(allowed)).max() < 160


@pytest.mark.parametrize("histories", [False, True])
def test_negatives_leave_out_exactly_what_the_training_rows_hold(histories: bool) -> None:
    rng = np.random.default_rng(0)
    lengths = (3, 4, 9, 12, 15)
    split = make_split(
        [rng.integers(0, 9, n).tolist() for n in lengths], 9, max_history=3, train_prefixes=2
    )
    positions = split.train_positions
    negatives = Negatives.of_rows(split, positions, histories)
    for user in range(len(lengths)):
        held: set[int] = set()
        for position in positions[split.user_of[positions] == user]:
            start = split.history_starts(np.array([position]))[0] if histories else position
            held |= set(split.items[start : position + 1].tolist())
        drawn = negatives.sample(torch.full((2000,), user))
        assert set(drawn.tolist()) == set(range(9)) - held


def test_a_user_without_a_negative_is_one_line() -> None:
    users, items = torch.tensor([0, 1, 1, 1]), torch.tensor([0, 0, 1, 2])
    with pytest.raises(SettingError, match="user 1 has consumed the whole catalogue") as caught:
        Negatives(users, items, n_users=2, n_items=3)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("kind", [LightGCN, SasRecBCE])
def test_rows_come_with_a_negative(kind: type[RecBoleMethod], tmp_path: Path) -> None:
    data = planted()
    for batch in fitted(kind, data, tmp_path, epochs=1).loaders.train:
        for user, item in zip(batch["user_id"] - 1, batch["neg_item_id"] - 1, strict=True):
            assert 0 <= item < N_ITEMS
            assert item not in data.split.seen(int(user), "valid")


def test_the_bce_loss_is_that_of_the_paper(tmp_path: Path) -> None:
    method = fitted(SasRecBCE, planted(), tmp_path, epochs=1)
    model, batch = model_of(method), next(iter(method.loaders.train))
    logits = model.full_sort_predict(batch)
    row = torch.arange(len(batch))
    pair = torch.stack([logits[row, batch["item_id"]], logits[row, batch["neg_item_id"]]], dim=1)
    label = torch.tensor([1.0, 0.0]).expand_as(pair)
    expected = torch.nn.functional.binary_cross_entropy_with_logits(pair, label) * 2
    assert model.calculate_loss(batch).item() == pytest.approx(expected.item(), rel=1e-5)


@pytest.mark.parametrize("kind", METHODS)
def test_has_the_interface(kind: type[RecBoleMethod], tmp_path: Path) -> None:
    method = kind()
    assert isinstance(method, Recommender)
    assert method.excludes_seen == (kind is LightGCN)
    assert method.semantic_ids() is None
    assert not method.needs_text
    with pytest.raises(RuntimeError, match="fitted"):
        method.rank(planted(), np.arange(2), 5, "test", False)
    method = fitted(kind, planted(), tmp_path)
    with pytest.raises(RuntimeError, match="another split"):
        method.rank(planted(max_history=4), np.arange(2), 5, "test", False)
    facts = method.describe()
    assert facts["parameters"] > 0
    json.dumps(facts)
