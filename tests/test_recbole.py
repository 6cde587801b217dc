"""RecBole's models under our interface: same rows, same figures, our ids, our rules for lists."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from baselines.lightgcn import LightGCN
from baselines.lists import top_k
from baselines.recbole_adapter import RecBoleMethod
from baselines.sasrec import Negatives, SasRecBCE, SasRecCE
from benchmark.data.split import Phase, Split
from benchmark.metrics import METRICS, target_ranks
from benchmark.recommender import Recommender
from tests.recbole_cases import METHODS, N_ITEMS, N_USERS, PHASES, UNUSED, fitted, planted


@pytest.mark.parametrize("kind", METHODS)
def test_our_metrics_on_the_lists_are_recboles_own(
    kind: type[RecBoleMethod], tmp_path: Path
) -> None:
    data = planted(max_history=6, train_prefixes=5)
    method = fitted(kind, data, tmp_path)
    for phase in PHASES:
        ranking = method.rank(data, np.arange(N_USERS), 10, phase, method.excludes_seen)
        ranks = target_ranks(ranking.items, data.split.targets(phase))
        for name, theirs in method.recbole_figures(phase).items():
            metric, k = name.split("@")
            ours = METRICS[metric].per_user(ranks, int(k)).mean()
            assert ours == pytest.approx(theirs, abs=1e-4), (phase, name)
            assert theirs > 0


Row = tuple[str, tuple[str, ...], str]


def rows_of_recbole(loader: Any) -> list[Row]:
    """(user, history, target) of all rows of a loader, in our tokens."""
    dataset = loader._dataset
    rows = []
    for loaded in loader:
        batch = loaded[0] if isinstance(loaded, tuple) else loaded
        users = dataset.id2token("user_id", batch["user_id"].numpy())
        items = dataset.id2token("item_id", batch["item_id"].numpy())
        histories = dataset.id2token("item_id", batch["item_id_list"].numpy())
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
    dataset = fitted(LightGCN, data, tmp_path, epochs=1).loaders.train._dataset
    users = dataset.id2token("user_id", dataset.inter_feat["user_id"].numpy())
    items = dataset.id2token("item_id", dataset.inter_feat["item_id"].numpy())
    expected = [
        (str(user), str(item)) for user in range(N_USERS) for item in data.split.seen(user, "valid")
    ]
    assert Counter(zip(map(str, users), map(str, items), strict=True)) == Counter(expected)


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


@pytest.mark.parametrize(("width", "k"), [(8, 1), (8, 3), (8, 8), (8, 11), (500, 300)])
def test_top_k_breaks_ties_by_lower_id(width: int, k: int) -> None:
    table = np.random.default_rng(0).integers(0, 3, (50, width)).astype(np.float32)
    table[table == 0] = -np.inf
    ranking = top_k(torch.from_numpy(table), k)
    for row, items, values in zip(table, ranking.items, ranking.scores, strict=True):
        best = [item for item in np.argsort(-row, kind="stable") if np.isfinite(row[item])][:k]
        assert items.tolist() == best + [-1] * (k - len(best))
        assert values.tolist() == [*row[best], *[-np.inf] * (k - len(best))]


def test_negatives_are_uniform_over_what_the_user_has_not_consumed() -> None:
    users = torch.tensor([1, 2, 2])
    negatives = Negatives(users, torch.tensor([[1, 2, 0], [5, 0, 0], [4, 5, 0]]), n_items=6)
    torch.manual_seed(0)
    drawn = negatives.sample(torch.tensor([1, 2]).repeat(6000)).view(-1, 2)
    for column, allowed in ((0, [3, 4, 5]), (1, [1, 2, 3])):
        values, counts = np.unique(drawn[:, column].numpy(), return_counts=True)
        assert values.tolist() == allowed
        # 2000 expected of each, with a standard deviation of 37.
        assert np.abs(counts - 2000).max() < 150


def test_a_user_without_a_negative_is_an_error() -> None:
    with pytest.raises(ValueError, match="whole catalogue"):
        Negatives(torch.tensor([1, 1]), torch.tensor([[1, 2], [3, 0]]), n_items=4)


def test_the_bce_loss_is_that_of_the_paper(tmp_path: Path) -> None:
    method = fitted(SasRecBCE, planted(), tmp_path, epochs=1)
    model = method._after_fit().watched.trainer.model
    batch = next(iter(method.loaders.train))
    torch.manual_seed(1)
    loss = model.calculate_loss(batch)
    torch.manual_seed(1)
    negative = model.negatives.sample(batch["user_id"])
    logits = model.full_sort_predict(batch)
    row = torch.arange(len(negative))
    pair = torch.stack([logits[row, batch["item_id"]], logits[row, negative]], dim=1)
    label = torch.tensor([1.0, 0.0]).expand_as(pair)
    expected = torch.nn.functional.binary_cross_entropy_with_logits(pair, label) * 2
    assert loss.item() == pytest.approx(expected.item(), rel=1e-5)


@pytest.mark.parametrize("kind", METHODS)
def test_has_the_interface(kind: type[RecBoleMethod], tmp_path: Path) -> None:
    method = kind()
    assert isinstance(method, Recommender)
    assert method.excludes_seen == (kind is LightGCN)
    assert method.semantic_ids() is None
    assert not method.needs_text
    with pytest.raises(RuntimeError, match="fitted"):
        method.rank(planted(), np.arange(2), 5, "test", False)
    facts = fitted(kind, planted(), tmp_path).describe()
    assert facts["parameters"] > 0
    json.dumps(facts)
