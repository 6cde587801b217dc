"""Ranking in the plain reference: beam search as most public code has it.

The encoder's states are repeated for every beam, the decoder reads the whole prefix anew at each
step, and a dictionary says which tokens may follow a prefix, beam by beam. (The mask is filled on
the host and copied to the device once a step; a copy a beam would be slower still.) It finds what
``diger.decode.beam_search`` finds in ``constrained`` mode: ``tests/test_plain.py``.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from functools import partial

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor
from torch.utils.data import DataLoader

from benchmark.speed.plain import PlainBatch, PlainRecommender, Rows, pad_rows
from diger.sequences import Phase

Prefix = tuple[int, ...]


class PrefixTrie:
    """Every prefix of the catalogue's semantic IDs, in dictionaries.

    Args:
        sids: int [N, L], all rows distinct.
    """

    def __init__(self, sids: NDArray[np.int32]) -> None:
        self.rows = [tuple(row) for row in sids.tolist()]
        self.item = {row: item for item, row in enumerate(self.rows)}
        self.following: dict[Prefix, set[int]] = {}
        self.below: Counter[Prefix] = Counter()  # items under a prefix
        for row in self.rows:
            for depth in range(len(row)):
                self.following.setdefault(row[:depth], set()).add(row[depth])
                self.below[row[: depth + 1]] += 1

    def prefixes(self, items: Sequence[int]) -> Counter[Prefix]:
        """How many of these items, each counted once, lie under each prefix."""
        rows = [self.rows[item] for item in set(items)]
        return Counter(row[: depth + 1] for row in rows for depth in range(len(row)))

    def allowed(self, prefix: Prefix, seen: Mapping[Prefix, int]) -> list[int]:
        """The tokens that may follow, without those under which every item is seen."""
        tokens = self.following.get(prefix, ())
        if not seen:
            return list(tokens)
        return [
            token for token in tokens
            if seen.get((*prefix, token), 0) < self.below[(*prefix, token)]
        ]  # fmt: skip


@torch.no_grad()
def plain_beam_search(
    recommender: PlainRecommender,
    batch: PlainBatch,
    trie: PrefixTrie,
    beams: int,
    seen: Sequence[Sequence[int]] | None = None,
) -> tuple[NDArray[np.int64], NDArray[np.float32]]:
    """Rank items for the B rows of a batch, whose targets are not read.

    Args:
        seen: for each row the items to leave out; None: nothing is.

    Returns:
        items int64 [B, W], best first, ties by lower item id, -1 where a list is short; scores
        float32 [B, W], log-probabilities, -inf there.
    """
    model, device = recommender.model, recommender.device
    users = len(batch.history)
    history = model.embed(recommender.sids[batch.history.to(device)])
    memory, mask = model.encode(history, batch.mask.to(device))
    memory, mask = memory.repeat_interleave(beams, 0), mask.repeat_interleave(beams, 0)
    banned = [trie.prefixes(items) for items in seen or [[]] * users]
    # All beams of a user start from the same empty prefix: one of them is enough.
    scores = torch.full((users, beams), float("-inf"), device=device)
    scores[:, 0] = 0
    codes = torch.zeros(users, beams, 0, dtype=torch.int64, device=device)
    tokens = model.start.expand(users * beams, 1, -1)
    for level in range(model.length):
        states = model.decode(tokens, memory, mask)[:, -1]
        log_p = (states @ model.tables[level].T).log_softmax(-1).view(users, beams, -1)
        allowed = _allowed(trie, codes, banned, log_p.shape[-1]).to(device)
        scores = (scores[..., None] + log_p).masked_fill(~allowed, float("-inf"))
        scores, index = scores.flatten(1).topk(beams, dim=1)
        parent, code = index // log_p.shape[-1], index % log_p.shape[-1]
        codes = codes.gather(1, parent[..., None].expand(-1, -1, level))
        codes = torch.cat([codes, code[..., None]], 2)
        embedded = [F.embedding(codes[..., i].flatten(), model.tables[i]) for i in range(level + 1)]
        tokens = torch.stack([model.start.expand(users * beams, -1), *embedded], 1)
    return _lists(trie, codes, scores)


def _allowed(
    trie: PrefixTrie, codes_BxWxt: Tensor, banned: Sequence[Mapping[Prefix, int]], size: int
) -> Tensor:
    """bool [B, W, K]: which tokens may follow each beam's prefix."""
    users, beams, _ = codes_BxWxt.shape
    allowed = torch.zeros(users, beams, size, dtype=torch.bool)
    for user, prefixes in enumerate(codes_BxWxt.tolist()):
        for beam, prefix in enumerate(prefixes):
            allowed[user, beam, trie.allowed(tuple(prefix), banned[user])] = True
    return allowed


def _lists(
    trie: PrefixTrie, codes_BxWxL: Tensor, scores_BxW: Tensor
) -> tuple[NDArray[np.int64], NDArray[np.float32]]:
    """Items and scores [B, W] of finished beams, see ``plain_beam_search``."""
    items = np.full(scores_BxW.shape, -1, dtype=np.int64)
    scores = np.full(scores_BxW.shape, -np.inf, dtype=np.float32)
    for user, (rows, values) in enumerate(
        zip(codes_BxWxL.tolist(), scores_BxW.tolist(), strict=True)
    ):
        found = [
            (-value, trie.item[tuple(row)])
            for row, value in zip(rows, values, strict=True)
            if value > float("-inf")
        ]
        for place, (negative, item) in enumerate(sorted(found)):
            items[user, place], scores[user, place] = item, -negative
    return items, scores


def plain_rank(
    recommender: PlainRecommender,
    users: NDArray[np.int64],
    k: int,
    phase: Phase,
    beams: int,
    batch_size: int,
    exclude_seen: bool = False,
    trie: PrefixTrie | None = None,
) -> tuple[NDArray[np.int64], NDArray[np.float32]]:
    """Lists int64 [n, k] (-1 where short) and scores float32 [n, k] of the users.

    Args:
        trie: of the recommender's semantic IDs; None: it is made.

    Raises:
        ValueError: more items are asked for than there are beams.
    """
    if k > beams:
        raise ValueError(f"a list of {k} needs as many beams, there are {beams}")
    recommender.model.eval()
    data = recommender.data
    if trie is None:
        trie = PrefixTrie(recommender.sids.cpu().numpy())
    loader = DataLoader(
        Rows(data, data.positions(phase)[users]),
        batch_size=batch_size,
        collate_fn=partial(pad_rows, data.max_history),
    )
    items, scores = [], []
    for number, batch in enumerate(loader):
        part = users[number * batch_size : (number + 1) * batch_size]
        seen = [data.seen(int(user), phase).tolist() for user in part] if exclude_seen else None
        found = plain_beam_search(recommender, batch, trie, beams, seen)
        items.append(found[0][:, :k])
        scores.append(found[1][:, :k])
    return np.concatenate(items), np.concatenate(scores)


def plain_metrics(
    lists: NDArray[np.int64], targets: NDArray[np.int32], k: int
) -> dict[str, NDArray[np.float64]]:
    """``recall`` and ``ndcg`` at k of every user, float64 [n] each; 0 where the target is not
    listed. One relevant item a user: NDCG is 1 / log2(rank + 1)."""
    recall, ndcg = np.zeros(len(lists)), np.zeros(len(lists))
    for user, (items, target) in enumerate(zip(lists, targets, strict=True)):
        places = np.flatnonzero(items[:k] == target)
        if len(places):
            recall[user], ndcg[user] = 1.0, 1 / np.log2(places[0] + 2)
    return {"recall": recall, "ndcg": ndcg}
