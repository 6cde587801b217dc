"""What is kept of a run whose codes collapse, and of one that has nothing to train on."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

import diger.audit
from diger.audit import Probe, audit
from diger.checks import SettingError
from diger.generator import ROADS
from diger.recommender import GenerativeRecommender
from diger.semantic_ids import changed_share, code_statistics, number_sharers
from diger.trainer import Callbacks, Trainer
from tests.conftest import make_split
from tests.estimators import K
from tests.golden import golden_trainer
from tests.planted import Planted, Settings, World, plant, recommender, run


def collapsing(folder: Path) -> tuple[Trainer, list[dict], dict[int, np.ndarray]]:  # type: ignore[type-arg]
    """A fit in which one code of each level takes all items in the second epoch."""
    trainer = golden_trainer("ste")
    rows: list[dict] = []  # type: ignore[type-arg]
    kept: dict[int, np.ndarray] = {}
    refresh = trainer._renew_sids

    def renew() -> dict:  # type: ignore[type-arg]
        if rows:
            with torch.no_grad():
                trainer.tokenizer.codebooks[:, 1:] += 1e3
        return refresh()

    trainer._renew_sids = renew  # type: ignore[method-assign]
    report = Callbacks(lambda row: rows.append(dict(row)), kept.__setitem__, lambda *_: None)
    trainer.fit(folder, report)
    return trainer, rows, kept


def test_the_ids_of_a_collapsed_epoch_are_kept_as_they_are(tmp_path: Path) -> None:
    trainer, rows, kept = collapsing(tmp_path)
    assert len(rows) == 2
    assert trainer.stopped.startswith("codes collapsed")
    assert kept[1][:, :-1].tolist() == [[0, 0, 0]] * 20
    assert kept[1][:, -1].tolist() == list(range(20))  # more sharers than the suffix can tell apart
    assert code_statistics(kept[1][:, :-1], K).used == rows[1]["codes/used"] == [1, 1, 1]
    assert rows[1]["drift/sid"] == changed_share(kept[0], kept[1])
    assert rows[1]["drift/full"] == changed_share(kept[0][:, :-1], kept[1][:, :-1]) > 0
    assert trainer.best.epoch == 0
    assert np.array_equal(trainer.sids, kept[0])  # what goes on is what validation chose


def test_sharers_are_numbered_without_a_bound() -> None:
    codes = np.array([[1, 2], [0, 0], [1, 2], [1, 2]], dtype=np.int32)
    assert number_sharers(codes)[:, 2].tolist() == [0, 0, 1, 2]


def test_audit_of_a_batch_changes_nothing() -> None:
    trainer = golden_trainer("diger_sdud")
    before = {name: value.clone() for name, value in trainer.modules.state_dict().items()}
    state = torch.random.get_rng_state()
    first, second = audit(trainer), audit(trainer)
    assert first == second
    assert torch.equal(state, torch.random.get_rng_state())
    for name, value in trainer.modules.state_dict().items():
        assert torch.equal(value, before[name])


@pytest.mark.parametrize("name", ["diger_sdud", "ste"])
def test_the_audit_of_rows_in_parts_is_that_of_all_at_once(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    trainer = golden_trainer(name)
    positions = trainer.data.train_positions[: trainer.config.batch_size]
    probe = Probe(trainer, positions, 3)
    assert probe.soft is not None
    books = trainer.tokenizer.codebooks
    for roads in (ROADS, ("history",), ("target",)):
        loss = trainer.generator.loss(probe.batch, probe.soft.y, roads)
        (wanted,) = torch.autograd.grad(loss, books, retain_graph=True)
        for part in (1, 7, 4096):
            monkeypatch.setattr(diger.audit, "PART", part)
            parts = list(probe._parts())
            assert sum(rows for rows, _ in parts) == len(positions)
            assert len(parts) == (1 if part == 4096 else len(positions)) or part == 7
            assert all(bool(batch.mask.any(0).all()) for _, batch in parts)  # no empty column
            found = probe.recommendation_norms(roads)["codebook"]
            assert found == pytest.approx(wanted.flatten(1).norm(dim=1).tolist(), rel=1e-5)


def test_no_training_row_is_one_line(tmp_path: Path) -> None:
    world = plant(World(users=5), 0)
    empty = Planted(make_split([[0, 1, 2], [3, 4, 5]], 128), *world[1:])
    method: GenerativeRecommender = recommender("gumbel", Settings())
    assert method.needs_text
    with pytest.raises(SettingError, match="no training row: some user needs at least 4"):
        run("gumbel", empty, Settings(), 0, tmp_path)
