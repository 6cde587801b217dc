"""The RecBole baselines: same rows, same figures, same run twice, and no traces left behind."""

from __future__ import annotations

import json
import logging
import os
import sys
import tempfile
from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from baselines import recbole_compat, recbole_trainer
from baselines.lightgcn import LightGCN
from baselines.lists import top_k
from baselines.recbole_adapter import RecBoleMethod
from baselines.sasrec import Negatives, SasRecBCE, SasRecCE
from benchmark.data.split import Phase, Split
from benchmark.errors import UserError
from benchmark.metrics import METRICS, target_ranks
from benchmark.recommender import BenchmarkData, Recommender
from benchmark.store import RunFolder

N_USERS, N_ITEMS, UNUSED = 60, 37, 3
METHODS = (LightGCN, SasRecCE, SasRecBCE)
PHASES: tuple[Phase, ...] = ("valid", "test")
SMALL: dict[str, Any] = {
    "epochs": 3,
    "learning_rate": 0.01,
    "train_batch_size": 64,
    "eval_users": 16,
}
NARROW: dict[str, Any] = {"hidden_size": 16, "inner_size": 32, "n_layers": 1}  # SASRec in seconds


def planted(max_history: int = 50, train_prefixes: int | None = None) -> BenchmarkData:
    """Users walk up the items from a random start, mostly by one: the next item can be learned.

    Nobody meets an item twice, some users have three interactions only, and the last ``UNUSED``
    items of the catalogue were never consumed.
    """
    random = np.random.default_rng(7)
    lengths = np.concatenate([[3, 3, 3, 4], random.integers(5, 13, N_USERS - 4)])
    walks = []
    for length in lengths:
        steps = random.choice([1, 2], p=[0.9, 0.1], size=length)
        walks.append((random.integers(N_ITEMS - UNUSED) + np.cumsum(steps)) % (N_ITEMS - UNUSED))
    items = np.concatenate(walks).astype(np.int32)
    offsets = np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64)
    return BenchmarkData("planted", Split(items, offsets, N_ITEMS, max_history, train_prefixes))


def small(kind: type[RecBoleMethod], **settings: Any) -> RecBoleMethod:
    return kind(**{**SMALL, **({} if kind is LightGCN else NARROW), **settings})


def fitted(
    kind: type[RecBoleMethod], data: BenchmarkData, folder: Path, seed: int = 0, **settings: Any
) -> RecBoleMethod:
    method = small(kind, **settings)
    method.fit(data, seed, RunFolder(folder, folder / "cache", "cpu"))
    return method


def scores(method: RecBoleMethod, data: BenchmarkData, seen: bool = False) -> np.ndarray[Any, Any]:
    """Everything the model says about every user, best first: items and scores side by side."""
    ranking = method.rank(data, np.arange(N_USERS), N_ITEMS, "test", seen)
    return np.concatenate([ranking.items.astype(np.float32), ranking.scores], axis=1)


def logged(folder: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (folder / "train.jsonl").read_text().splitlines()]


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


@pytest.mark.parametrize("kind", METHODS)
def test_the_same_seed_gives_the_same_model(kind: type[RecBoleMethod], tmp_path: Path) -> None:
    data = planted()
    one, two, other = (
        scores(fitted(kind, data, tmp_path / str(number), seed), data)
        for number, seed in enumerate((3, 3, 4))
    )
    assert np.array_equal(one, two)
    assert not np.array_equal(one, other)


@pytest.mark.parametrize("kind", METHODS)
def test_the_seed_decides_both_the_weights_and_the_order_of_rows(
    kind: type[RecBoleMethod], tmp_path: Path
) -> None:
    data, still = planted(), 1e-20  # a learning rate that moves nothing
    methods = [
        fitted(kind, data, tmp_path / str(seed), seed, learning_rate=still, epochs=1)
        for seed in (3, 4)
    ]
    assert not np.array_equal(scores(methods[0], data), scores(methods[1], data))
    assert [method.loaders.train.generator.initial_seed() for method in methods] == [3, 4]


def test_threads_do_not_disturb_repeatability(tmp_path: Path) -> None:
    """Gradients wide enough that torch would add them up in parallel, in any order."""
    data, threads = planted(), torch.get_num_threads()
    wide: dict[str, Any] = {"embedding_size": 256, "train_batch_size": 512}
    torch.set_num_threads(2)
    try:
        runs = [
            scores(fitted(LightGCN, data, tmp_path / name, epochs=1, **wide), data)
            for name in "abc"
        ]
    finally:
        torch.set_num_threads(threads)
    assert np.array_equal(runs[0], runs[1])
    assert np.array_equal(runs[0], runs[2])


class Interrupted(Exception):
    pass


class FragileRun(RunFolder):
    """A run that is cut off as it logs the validation of one epoch."""

    cut_at = 5

    def log(self, row: Mapping[str, Any]) -> None:
        if row["epoch"] == self.cut_at and "valid/ndcg@10" in row:
            raise Interrupted
        super().log(row)


@pytest.mark.parametrize("kind", METHODS)
def test_an_interrupted_fit_ends_like_an_uninterrupted_one(
    kind: type[RecBoleMethod], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(recbole_trainer, "CHECKPOINT_SECONDS", 0.0)
    data, whole, cut = planted(), tmp_path / "whole", tmp_path / "cut"
    settings: dict[str, Any] = {"epochs": 8, "stopping_step": 8}
    straight = fitted(kind, data, whole, **settings)
    with pytest.raises(Interrupted):
        small(kind, **settings).fit(data, 0, FragileRun(cut, cut, "cpu"))
    batches: list[int] = []
    resumed = small(kind, **settings)
    show = lambda done, *_: batches.append(done)  # noqa: E731
    resumed.fit(data, 0, RunFolder(cut, cut, "cpu", show))
    assert np.array_equal(scores(resumed, data), scores(straight, data))
    assert resumed.describe() == straight.describe()
    for one, two in zip(logged(cut), logged(whole), strict=True):
        assert {**one, "seconds": 0} == {**two, "seconds": 0}
    assert batches[0] == 5 * len(resumed.loaders.train) + 1


def test_a_checkpoint_of_another_fit_is_not_continued(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(recbole_trainer, "CHECKPOINT_SECONDS", 0.0)
    data = planted()
    fitted(SasRecCE, data, tmp_path / "mixed", seed=1)
    mixed = fitted(SasRecCE, data, tmp_path / "mixed", seed=2)
    clean = fitted(SasRecCE, data, tmp_path / "clean", seed=2)
    assert np.array_equal(scores(mixed, data), scores(clean, data))


@pytest.mark.parametrize("kind", METHODS)
def test_the_best_epoch_is_kept(kind: type[RecBoleMethod], tmp_path: Path) -> None:
    wild: dict[str, Any] = {"epochs": 12, "learning_rate": 0.3, "stopping_step": 20}
    method = fitted(kind, planted(), tmp_path, **wild)
    curve = [row["valid/ndcg@10"] for row in logged(tmp_path)]
    assert curve[-1] < max(curve)
    assert method.recbole_figures("valid")["ndcg@10"] == pytest.approx(max(curve), abs=1e-7)
    assert curve[method.describe()["best_epoch"]] == max(curve)


def test_recbole_stops_early(tmp_path: Path) -> None:
    fitted(SasRecCE, planted(), tmp_path, epochs=40, learning_rate=0.3, stopping_step=1)
    curve = [row["valid/ndcg@10"] for row in logged(tmp_path)]
    assert len(curve) < 40
    assert max(curve[-2:]) < max(curve[:-2])


def test_every_epoch_is_logged_and_every_batch_shown(tmp_path: Path) -> None:
    shown: list[tuple[int, int, str, str]] = []
    method = LightGCN(**{**SMALL, "epochs": 5, "eval_every": 2})
    show = lambda *call: shown.append(call)  # noqa: E731
    method.fit(planted(), 0, RunFolder(tmp_path, tmp_path, "cpu", show))
    rows = logged(tmp_path)
    assert [row["epoch"] for row in rows] == [0, 1, 2, 3, 4]
    assert [("valid/ndcg@10" in row, "valid/recall@10" in row) for row in rows] == [
        (False, False),
        (True, True),
    ] * 2 + [(False, False)]
    assert all(0 < row["loss/train"] < 0.7 and row["seconds"] > 0 for row in rows)
    total = 5 * len(method.loaders.train)
    assert [call[:2] for call in shown] == [(done, total) for done in range(1, total + 1)]
    assert "valid NDCG@10" in shown[-1][3]


def test_a_fit_leaves_no_trace(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """No file, no changed command line or environment, no process-wide mode, no chatter."""
    for name in ("here", "temporary", "run"):
        (tmp_path / name).mkdir()
    monkeypatch.chdir(tmp_path / "here")
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "temporary"))
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "0,1")
    argv = ["run.py", "--epochs=1", "--learning_rate=9", "method=lightgcn", "-m"]
    monkeypatch.setattr(sys, "argv", argv)
    fitted(LightGCN, planted(), tmp_path / "run").recbole_figures("test")
    assert sys.argv == ["run.py", "--epochs=1", "--learning_rate=9", "method=lightgcn", "-m"]
    assert os.environ["CUDA_VISIBLE_DEVICES"] == "0,1"
    assert list((tmp_path / "here").iterdir()) == []
    assert list((tmp_path / "temporary").iterdir()) == []
    assert [path.name for path in (tmp_path / "run").iterdir()] == ["train.jsonl"]
    assert len(logged(tmp_path / "run")) == SMALL["epochs"]
    assert not torch.is_anomaly_enabled()
    assert not torch.are_deterministic_algorithms_enabled()


@pytest.mark.parametrize("kind", METHODS)
def test_warnings_and_chatter_stay_away(
    kind: type[RecBoleMethod],
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
    recwarn: pytest.WarningsRecorder,
) -> None:
    with caplog.at_level(logging.INFO):
        fitted(kind, planted(), tmp_path).recbole_figures("test")
        logging.getLogger().info("ours")
    assert [record.message for record in caplog.records] == ["ours"]
    assert [str(warning.message) for warning in recwarn.list] == []


def test_preparing_twice_is_preparing_once() -> None:
    recbole_compat.prepare()
    filters = list(logging.getLogger().filters)
    recbole_compat.prepare()
    assert logging.getLogger().filters == filters


def test_without_recbole_one_line_says_what_to_do(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "recbole.config", None)
    with pytest.raises(UserError, match=r"run_all\.sh.*pip install --no-deps recbole") as caught:
        fitted(LightGCN, planted(), tmp_path)
    assert "\n" not in str(caught.value)


@pytest.mark.skipif(torch.cuda.is_available(), reason="needs a machine without CUDA")
def test_a_missing_device_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="device=cuda"):
        LightGCN(**SMALL).fit(planted(), 0, RunFolder(tmp_path, tmp_path, "cuda"))


@pytest.mark.parametrize(
    ("kind", "key", "value"),
    [
        (LightGCN, "epochs", 0),
        (LightGCN, "epochs", 2.5),
        (LightGCN, "train_batch_size", True),
        (LightGCN, "learning_rate", 0.0),
        (LightGCN, "learning_rate", float("nan")),
        (LightGCN, "learning_rate", float("inf")),
        (LightGCN, "learning_rate", "fast"),
        (LightGCN, "weight_decay", -0.1),
        (LightGCN, "stopping_step", -1),
        (LightGCN, "eval_every", 301),
        (LightGCN, "eval_users", 0),
        (LightGCN, "embedding_size", 0),
        (LightGCN, "n_layers", 0),
        (LightGCN, "reg_weight", -1),
        (SasRecCE, "hidden_size", 0),
        (SasRecCE, "inner_size", "big"),
        (SasRecCE, "n_layers", 0),
        (SasRecCE, "n_heads", 3),
        (SasRecBCE, "dropout", 1.0),
        (SasRecBCE, "dropout", -0.1),
    ],
)
def test_impossible_settings_are_named(kind: type[RecBoleMethod], key: str, value: object) -> None:
    with pytest.raises(ValueError, match=rf"^{key} .*{value}") as caught:
        kind(**{key: value})  # type: ignore[arg-type]
    assert "\n" not in str(caught.value)


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
