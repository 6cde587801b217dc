"""Beam search against exhaustive scoring."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.profiler import ProfilerActivity, profile

from diger import ranker
from diger.decode import DecodeConfig, Trie, beam_search, sort_lists
from diger.generator import Batch, Generator
from diger.ranker import Ranker
from diger.semantic_ids import add_suffix
from diger.seq2seq import ModelConfig

K, LEVELS, N = 5, 3, 40


def world(seed: int = 0) -> tuple[Generator, np.ndarray, Tensor, Tensor]:
    """A random model, distinct semantic IDs with collisions, histories of 3 users."""
    torch.manual_seed(seed)
    rng = np.random.default_rng(seed)
    codes = rng.integers(0, K, (N, LEVELS)).astype(np.int32)
    codes[1] = codes[0]  # at least one collision
    sids = add_suffix(codes, K)
    model = Generator(LEVELS, K, ModelConfig(2, 16, 24, 2, 8, 0.0, init_std=0.5)).eval()
    history = torch.as_tensor(rng.integers(0, N, (3, 6)))
    mask = torch.arange(6) < torch.tensor([6, 1, 3])[:, None]
    return model, sids, history, mask


@torch.no_grad()
def exhaustive(model: Generator, sids: np.ndarray, history: Tensor, mask: Tensor) -> Tensor:
    """log p(semantic ID | history) of every item, [B, N], by teacher forcing each."""
    ids = torch.as_tensor(sids, dtype=torch.int64)
    items = model.embed_hard(ids)
    columns = []
    for item in range(len(ids)):
        target = torch.full((len(history),), item)
        log_q = model.logits(Batch(history, mask, target, ids), items, items).log_softmax(-1)
        columns.append(log_q.gather(2, ids[target][..., None]).sum((1, 2)))
    return torch.stack(columns, 1)


def search(mode: str, beams: int, seen: Tensor | None = None, seed: int = 0):  # type: ignore[no-untyped-def]
    model, sids, history, mask = world(seed)
    trie = Trie(sids, K)
    return beam_search(model, history, mask, trie, DecodeConfig(beams, mode), seen)


@pytest.mark.parametrize("seed", range(5))
def test_constrained_with_enough_beams_is_exhaustive(seed: int) -> None:
    model, sids, history, mask = world(seed)
    found = search("constrained", N, seed=seed)
    scores, order = exhaustive(model, sids, history, mask).sort(1, descending=True)
    assert (found.items == order).all()
    torch.testing.assert_close(found.scores, scores, atol=1e-4, rtol=1e-4)
    assert found.invalid == 0.0


def test_free_with_enough_beams_lists_the_same_items() -> None:
    model, sids, history, mask = world()
    found = search("free", K**4)
    order = exhaustive(model, sids, history, mask).argsort(1, descending=True)
    assert (found.items[:, :N] == order).all()
    assert (found.items[:, N:] == -1).all()
    assert found.invalid == pytest.approx(1 - N / K**4)


def test_free_search_reports_the_share_of_invalid_beams() -> None:
    found = search("free", 20)
    assert found.invalid == pytest.approx(float((found.items < 0).float().mean()))
    assert 0 < found.invalid < 1


def test_narrow_beams_return_distinct_existing_items() -> None:
    found = search("constrained", 4)
    assert found.items.shape == (3, 4)
    assert all(len(set(row.tolist())) == 4 and min(row) >= 0 for row in found.items)
    assert (found.scores.diff(dim=1) <= 0).all()


def test_more_beams_than_items_leave_short_lists() -> None:
    found = search("constrained", 3 * N)
    assert ((found.items >= 0).sum(1) == N).all()


@pytest.mark.parametrize("mode", ["constrained", "free"])
def test_seen_items_are_left_out(mode: str) -> None:
    model, sids, history, mask = world()
    seen = torch.full((3, 30), -1)
    seen[0, :30] = torch.arange(30)
    seen[1, :2] = torch.tensor([0, 1])  # both items of one code tuple: the whole branch goes
    found = search(mode, K**4 if mode == "free" else N, seen)
    order = exhaustive(model, sids, history, mask).argsort(1, descending=True)
    for user in range(3):
        banned = set(seen[user].tolist())
        want = [item for item in order[user].tolist() if item not in banned]
        got = [item for item in found.items[user].tolist() if item >= 0]
        assert got == want


def test_left_out_items_take_no_beams() -> None:
    """With k beams, k unseen items are listed even where the seen ones are the likeliest."""
    model, sids, history, mask = world()
    order = exhaustive(model, sids, history, mask).argsort(1, descending=True)
    found = search("constrained", 5, order[:, :30])
    assert ((found.items >= 0).sum(1) == 5).all()


def test_trie_knows_exactly_the_existing_prefixes() -> None:
    _, sids, _, _ = world()
    trie = Trie(sids, K)
    for depth in range(LEVELS + 1):
        prefixes = np.unique(sids[:, :depth], axis=0)
        for node, prefix in enumerate(prefixes):
            below = sids[(sids[:, :depth] == prefix).all(1)]
            allowed = trie.allowed(depth, torch.tensor(node))
            assert set(np.flatnonzero(allowed.numpy())) == set(below[:, depth])


def test_trie_refuses_equal_ids() -> None:
    with pytest.raises(ValueError, match="distinct"):
        Trie(np.zeros((2, 4), dtype=np.int32), K)


def test_ties_go_to_the_lower_item() -> None:
    items = torch.tensor([[7, 3, -1, 5]])
    scores = torch.tensor([[-1.0, -1.0, float("-inf"), -0.5]])
    assert sort_lists(items, scores)[0].tolist() == [[5, 3, 7, -1]]


def yelp_sized(n_users: int) -> tuple[Generator, np.ndarray, Tensor, Tensor]:
    """As many items as Yelp has, on 3 levels of 256 codes, some 3% of them sharing theirs."""
    torch.manual_seed(0)
    rng = np.random.default_rng(0)
    n_items, size = 20_033, 256
    codes = rng.integers(0, size, (n_items, LEVELS)).astype(np.int32)
    codes[1::30] = codes[::30][: len(codes[1::30])]
    sids = add_suffix(codes, size)
    model = Generator(LEVELS, size, ModelConfig(1, 8, 8, 1, 8, 0.0, init_std=0.7)).eval()
    history = torch.as_tensor(rng.integers(0, n_items, (n_users, 4)))
    return model, sids, history, torch.ones(n_users, 4, dtype=torch.bool)


def test_catalogue_of_20_033_items_with_a_beam_for_each_is_exhaustive() -> None:
    model, sids, history, mask = yelp_sized(1)
    ids = torch.as_tensor(sids, dtype=torch.int64)
    items = model.embed_hard(ids)
    found = beam_search(
        model, history, mask, Trie(sids, 256), DecodeConfig(len(sids), "constrained")
    )
    parts = []
    with torch.no_grad():
        for targets in torch.arange(len(sids)).split(4096):
            rows = len(targets)
            batch = Batch(history.expand(rows, -1), mask.expand(rows, -1), targets, ids)
            log_q = model.logits(batch, items, items).log_softmax(-1)
            parts.append(log_q.gather(2, ids[targets][..., None]).sum((1, 2)))
    scores = torch.cat(parts)
    assert found.items[0].sort().values.equal(torch.arange(len(sids)))
    torch.testing.assert_close(found.scores[0], scores[found.items[0]], atol=1e-4, rtol=1e-4)
    torch.testing.assert_close(found.scores[0], scores.sort(descending=True).values,
                               atol=1e-4, rtol=1e-4)  # fmt: skip


@pytest.mark.parametrize("beams", [20, 80])
def test_free_search_at_catalogue_size_finds_what_exists(beams: int) -> None:
    model, sids, history, mask = yelp_sized(3)
    trie = Trie(sids, 256)
    free = beam_search(model, history, mask, trie, DecodeConfig(beams, "free"))
    bound = beam_search(model, history, mask, trie, DecodeConfig(beams, "constrained"))
    assert (bound.items >= 0).all()
    assert bound.invalid == 0.0
    # 20,033 of 256^3 tuples exist: an untrained model hardly ever spells one.
    assert 0.9 < free.invalid <= 1.0
    assert free.invalid == pytest.approx(1 - float((free.items >= 0).float().mean()))
    known = dict(zip(bound.items[0].tolist(), bound.scores[0].tolist(), strict=True))
    for item, score in zip(free.items[0].tolist(), free.scores[0].tolist(), strict=True):
        assert item < 0 or known.get(item, score) == pytest.approx(score, abs=1e-4)


@pytest.mark.parametrize("width", [1, 9, 50])
def test_a_batch_of_a_gpu_holds_what_its_bound_says(
    width: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of one item or of many, whose memory is the beams' caches or the attention's. Long ones,
    whose scores torch may never write down, take less."""
    monkeypatch.setattr(ranker, "GPU_NUMBERS", 1 << 24)
    torch.manual_seed(0)
    model = Generator(3, 256, ModelConfig(6, 128, 512, 4, 64)).eval()
    sids = torch.cat([torch.randint(256, (300, 3)), torch.arange(300)[:, None] % 256], 1)
    trie, config = Trie(sids, 256), DecodeConfig()
    rows: Any = SimpleNamespace(device="cuda")
    users = Ranker(model, trie, rows, config)._fitting(width)
    history = torch.randint(300, (users, width))
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as found:
        beam_search(model, history, torch.ones_like(history, dtype=torch.bool), trie, config)
    events = [e for e in found.profiler.kineto_results.events() if e.name() == "[memory]"]  # type: ignore[union-attr]
    events.sort(key=lambda event: event.start_ns())
    held = np.cumsum([event.nbytes() for event in events])
    assert 0.5 < held.max() / 4 / (1 << 24) < 1.25
