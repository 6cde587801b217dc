"""Beam search over semantic IDs, with or without a trie of those that exist.

Shapes: B users, W beams, L = m + 1 tokens an item, K codes a level, N items.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from diger.checks import one_of, whole
from diger.generator import Generator


@dataclass(frozen=True)
class DecodeConfig:
    """``mode``: ``constrained`` (only IDs that exist) or ``free`` (others simply miss)."""

    beams: int = 20
    mode: str = "constrained"
    batch_size: int = 256

    def __post_init__(self) -> None:
        whole("decode.beams", self.beams, 1)
        whole("decode.batch_size", self.batch_size, 1)
        one_of("decode.mode", self.mode, ("constrained", "free"))


class Trie:
    """All prefixes of the catalogue's semantic IDs, as flat tensors.

    The nodes of each depth are numbered in lexicographic order, so a node's children are a run
    of consecutive numbers in code order. A node stores which codes follow as K bits: a million
    items with K = 256 cost 32 MB a level.

    Args:
        sids: int [N, L], all rows distinct. codebook_size: K.
    """

    def __init__(self, sids: NDArray[np.int32], codebook_size: int, device: str = "cpu") -> None:
        n, length = sids.shape
        order = np.lexsort(sids.T[::-1])
        rows = sids[order].astype(np.int64)
        self.length, self.codebook_size, self.n_items = length, codebook_size, n
        node = np.zeros(n, dtype=np.int64)  # every item's node at the current depth, sorted order
        self.first_child: list[Tensor] = []  # per depth, int64 [nodes]
        self.code_bits: list[Tensor] = []  # per depth, uint8 [nodes, ceil(K / 8)]
        self.node_of_item: list[Tensor] = []  # per depth from 1, int64 [N], by item id
        self.leaves: list[Tensor] = []  # per depth from 1, int64 [nodes]: items below
        for depth in range(length):
            key = node * codebook_size + rows[:, depth]
            children, child, below = np.unique(key, return_inverse=True, return_counts=True)
            n_nodes = int(node[-1]) + 1
            allowed = np.zeros((n_nodes, codebook_size), dtype=bool)
            allowed[children // codebook_size, children % codebook_size] = True
            bits = np.packbits(allowed, axis=1, bitorder="little")
            first = np.concatenate([[0], np.cumsum(allowed.sum(1))[:-1]])
            self.first_child.append(torch.as_tensor(first, device=device))
            self.code_bits.append(torch.as_tensor(bits, device=device))
            node = child.reshape(-1)
            of_item = np.empty(n, dtype=np.int64)
            of_item[order] = node
            self.node_of_item.append(torch.as_tensor(of_item, device=device))
            self.leaves.append(torch.as_tensor(below, device=device))
        if len(children) != n:
            raise ValueError("semantic IDs must be distinct")
        self.item_of_leaf = torch.as_tensor(order, device=device)

    def allowed(self, depth: int, nodes: Tensor) -> Tensor:
        """bool [..., K]: which codes follow the nodes of this depth."""
        bits = self.code_bits[depth][nodes]
        shifts = torch.arange(8, device=bits.device, dtype=torch.uint8)
        return ((bits[..., None] >> shifts) & 1).bool().flatten(-2)[..., : self.codebook_size]

    def children(self, depth: int, nodes: Tensor, allowed: Tensor) -> Tensor:
        """int64 [..., K]: node at depth + 1 behind each code; meaningless where not allowed."""
        rank = allowed.cumsum(-1) - 1
        return (self.first_child[depth][nodes][..., None] + rank).clamp_min(0)


class Beams(NamedTuple):
    """items: int64 [B, W], -1 where a beam ended in no item; scores: [B, W] log-probabilities,
    -inf there; invalid: share of beams that spelled no existing ID (``free`` mode)."""

    items: Tensor
    scores: Tensor
    invalid: float


class _State(NamedTuple):
    """W live beams: scores [B, W], trie nodes [B, W], codes so far [B, W, depth]."""

    scores: Tensor
    nodes: Tensor
    codes: Tensor


def exhausted_nodes(trie: Trie, depth: int, seen_BxS: Tensor) -> Tensor:
    """bool [B, nodes of depth + 1]: all items below a node are among the user's seen ones.

    Args:
        seen_BxS: int64 item ids, distinct in a row, -1 where a row is shorter.
    """
    nodes = trie.node_of_item[depth][seen_BxS.clamp_min(0)]
    counts = torch.zeros(len(seen_BxS), len(trie.leaves[depth]), device=nodes.device)
    counts.scatter_add_(1, nodes, (seen_BxS >= 0).to(counts.dtype))
    return counts >= trie.leaves[depth]


def _expand(
    log_p_BxWxK: Tensor,
    state: _State,
    beams: int,
    trie: Trie | None,
    depth: int,
    seen: Tensor | None,
) -> tuple[_State, Tensor]:
    """The best ``beams`` continuations and, int64 [B, W'], the beam that each one continues."""
    scores = state.scores[..., None] + log_p_BxWxK
    children = torch.zeros_like(scores, dtype=torch.int64)
    if trie is not None:
        allowed = trie.allowed(depth, state.nodes)
        children = trie.children(depth, state.nodes, allowed)
        if seen is not None:
            exhausted = exhausted_nodes(trie, depth, seen)
            inside = torch.where(allowed, children, 0)
            allowed = allowed & ~exhausted.gather(1, inside.flatten(1)).view_as(allowed)
        scores = scores.masked_fill(~allowed, float("-inf"))
    k = scores.shape[-1]
    best, index = scores.flatten(1).topk(min(beams, scores.shape[1] * k), dim=1)
    parent, code = index // k, index % k
    before = state.codes.gather(1, parent[..., None].expand(-1, -1, state.codes.shape[2]))
    nodes = children.flatten(1).gather(1, index)
    nodes = torch.where(best > float("-inf"), nodes, 0)
    return _State(best, nodes, torch.cat([before, code[..., None]], 2)), parent


def _lookup(trie: Trie, codes_BxWxL: Tensor) -> Tensor:
    """int64 [B, W]: the item with these codes, -1 where there is none (``free`` mode)."""
    nodes = torch.zeros_like(codes_BxWxL[..., 0])
    valid = torch.ones_like(nodes, dtype=torch.bool)
    for depth in range(trie.length):
        allowed = trie.allowed(depth, nodes)
        code = codes_BxWxL[..., depth, None]
        valid &= allowed.gather(-1, code).squeeze(-1)
        nodes = trie.children(depth, nodes, allowed).gather(-1, code).squeeze(-1)
        nodes = torch.where(valid, nodes, 0)
    return torch.where(valid, trie.item_of_leaf[nodes], -1)


def sort_lists(items: Tensor, scores: Tensor) -> tuple[Tensor, Tensor]:
    """Sort rows [B, W] by score, best first, ties by lower item id; -1 items go last."""
    scores = torch.where(items >= 0, scores, float("-inf"))
    by_item = items.argsort(dim=1, stable=True)
    items, scores = items.gather(1, by_item), scores.gather(1, by_item)
    by_score = scores.argsort(dim=1, descending=True, stable=True)
    items, scores = items.gather(1, by_score), scores.gather(1, by_score)
    return torch.where(scores > float("-inf"), items, -1), scores


@torch.no_grad()
def beam_search(
    model: Generator,
    items_NxLxd: Tensor,
    history_BxT: Tensor,
    mask_BxT: Tensor,
    trie: Trie,
    config: DecodeConfig,
    seen_BxS: Tensor | None = None,
) -> Beams:
    """Rank items for B users at once; the encoder runs once, keys and values are cached.

    Args:
        items_NxLxd: embedded catalogue. history_BxT: int64 item ids, mask_BxT: bool.
        seen_BxS: items to leave out, distinct in a row, -1 padded; ``constrained`` leaves them
            out of the search itself, ``free`` strikes them from the result.
    """
    memory, mask = model.encode(items_NxLxd, history_BxT, mask_BxT)
    cache = model.seq2seq.start_cache(memory)
    b, device = len(history_BxT), history_BxT.device
    state = _State(
        memory.new_zeros(b, 1),
        torch.zeros(b, 1, dtype=torch.int64, device=device),
        torch.zeros(b, 1, 0, dtype=torch.int64, device=device),
    )
    token = model.start.expand(b, 1, -1)
    constraint = trie if config.mode == "constrained" else None
    for depth in range(model.length):
        states = model.seq2seq.step(token, depth, cache, mask)
        log_p = (states @ model.tables[depth].T).log_softmax(-1)
        beams_before = state.scores.shape[1]
        state, parent = _expand(log_p, state, config.beams, constraint, depth, seen_BxS)
        rows = (torch.arange(b, device=device)[:, None] * beams_before + parent).flatten()
        for layer in cache:
            layer.select(rows)
        token = model.tables[depth][state.codes[..., -1]]
    if constraint is not None:
        found = trie.item_of_leaf[state.nodes]
        items = torch.where(state.scores > float("-inf"), found, -1)
        return Beams(*sort_lists(items, state.scores), 0.0)
    items = _lookup(trie, state.codes)
    invalid = float((items < 0).float().mean())
    if seen_BxS is not None:
        struck = (items[..., None] == seen_BxS[:, None, :]).any(-1)
        items = torch.where(struck, -1, items)
    return Beams(*sort_lists(items, state.scores), invalid)
