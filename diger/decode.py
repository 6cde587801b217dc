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
    """All prefixes of the catalogue's semantic IDs, as flat tensors on the device.

    The nodes of each depth are numbered in lexicographic order, so that an edge, a node and the
    code that follows it, has the number node K + code and the edges of a depth are one sorted list:
    the child behind an edge is its place there. Beside it a node has K bits that say which codes
    follow. Both grow with the items, not with K^depth: a million of them with K = 256 take 40 MB a
    level.

    Args:
        sids: int [N, L], all rows distinct. codebook_size: K. device: None: that of ``sids``.
    """

    def __init__(
        self, sids: NDArray[np.int32] | Tensor, codebook_size: int, device: str | None = None
    ) -> None:
        self.sids = torch.as_tensor(sids, device=device).long()
        n, length = self.sids.shape
        self.length, self.codebook_size, self.n_items = length, codebook_size, n
        order = torch.arange(n, device=self.sids.device)
        for column in reversed(self.sids.T):
            order = order[column[order].argsort(stable=True)]
        node = torch.zeros_like(order)  # every item's node at the current depth, sorted order
        self.edges: list[Tensor] = []  # per depth, int64 [nodes of depth + 1], rising
        self.code_bits: list[Tensor] = []  # per depth, uint8 [nodes, ceil(K / 8)]
        self.node_of_item: list[Tensor] = []  # per depth from 0, int64 [N], by item id
        self.leaves: list[Tensor] = []  # per depth from 1, int64 [nodes]: items below
        nodes = 1
        for column in self.sids.T:
            self.node_of_item.append(torch.empty_like(order).scatter_(0, order, node))
            edges, node, below = torch.unique_consecutive(
                node * codebook_size + column[order], return_inverse=True, return_counts=True
            )
            self.edges.append(edges)
            self.code_bits.append(_bits(edges, nodes, codebook_size))
            self.leaves.append(below)
            nodes = len(edges)
        if nodes != n:
            raise ValueError("semantic IDs must be distinct")
        self.node_of_item.append(torch.empty_like(order).scatter_(0, order, node))
        self.item_of_leaf = order

    def allowed(self, depth: int, nodes: Tensor) -> Tensor:
        """bool [..., K]: which codes follow the nodes of this depth."""
        bits = self.code_bits[depth][nodes]
        shifts = torch.arange(8, device=bits.device, dtype=torch.uint8)
        return ((bits[..., None] >> shifts) & 1).bool().flatten(-2)[..., : self.codebook_size]

    def child(self, depth: int, nodes: Tensor, codes: Tensor) -> Tensor:
        """int64, as ``nodes``: the node at depth + 1 behind each code; some node or other where
        the code does not follow."""
        place = torch.searchsorted(self.edges[depth], nodes * self.codebook_size + codes)
        return place.clamp_max(len(self.edges[depth]) - 1)


def _bits(edges: Tensor, nodes: int, codebook_size: int) -> Tensor:
    """uint8 [nodes, ceil(K / 8)]: bit c of a node's row says that an edge with code c leaves it."""
    width = -(-codebook_size // 8)
    node, code = edges // codebook_size, edges % codebook_size
    flat = torch.zeros(nodes * width, dtype=torch.int32, device=edges.device)
    # The edges are distinct: adding their bits sets them.
    flat.scatter_add_(0, node * width + code // 8, (1 << (code % 8)).int())
    return flat.to(torch.uint8).view(nodes, width)


class Beams(NamedTuple):
    """items: int64 [B, W], -1 where a beam ended in no item; scores: [B, W] log-probabilities,
    -inf there; invalid: scalar, share of beams that spelled no existing ID (``free`` mode)."""

    items: Tensor
    scores: Tensor
    invalid: Tensor


class _State(NamedTuple):
    """W live beams: scores [B, W], trie nodes [B, W], codes so far [B, W, depth]."""

    scores: Tensor
    nodes: Tensor
    codes: Tensor


class Seen:
    """The items that B users are not to get, along the trie.

    Args:
        seen_BxS: int64 item ids, distinct in a row, -1 where a row is shorter.
    """

    def __init__(self, trie: Trie, seen_BxS: Tensor) -> None:
        self.trie = trie
        there = seen_BxS >= 0
        leaf = trie.node_of_item[-1][seen_BxS.clamp_min(0)]
        # In the order of the leaves, those below one node stand side by side at every depth.
        self.leaf = torch.where(there, leaf, trie.n_items).sort(1).values
        self.there = self.leaf < trie.n_items
        self.items = trie.item_of_leaf[self.leaf.clamp_max(trie.n_items - 1)]

    def strike(self, depth: int, nodes_BxW: Tensor, allowed_BxWxK: Tensor) -> Tensor:
        """``allowed`` without the codes behind which there are seen items only."""
        trie = self.trie
        child = trie.node_of_item[depth + 1][self.items]
        child = torch.where(self.there, child, len(trie.leaves[depth]))
        of_node = torch.searchsorted(child, child, right=True) - torch.searchsorted(child, child)
        below = trie.leaves[depth][child.clamp_max(len(trie.leaves[depth]) - 1)]
        exhausted = self.there & (of_node == below)  # [B, S]
        parent, code = trie.node_of_item[depth][self.items], trie.sids[self.items, depth]
        met = exhausted[:, None] & (parent[:, None] == nodes_BxW[..., None])  # [B, W, S]
        struck = torch.zeros_like(allowed_BxWxK, dtype=torch.int32)
        struck.scatter_add_(2, code[:, None].expand_as(met), met.int())
        return allowed_BxWxK & (struck == 0)


def _expand(
    log_p_BxWxK: Tensor,
    state: _State,
    beams: int,
    trie: Trie | None,
    depth: int,
    seen: Seen | None,
) -> tuple[_State, Tensor]:
    """The best ``beams`` continuations and, int64 [B, W'], the beam that each one continues."""
    scores = state.scores[..., None] + log_p_BxWxK
    if trie is not None:
        allowed = trie.allowed(depth, state.nodes)
        if seen is not None:
            allowed = seen.strike(depth, state.nodes, allowed)
        scores = scores.masked_fill(~allowed, float("-inf"))
    k = scores.shape[-1]
    best, index = scores.flatten(1).topk(min(beams, scores.shape[1] * k), dim=1)
    parent, code = index // k, index % k
    before = state.codes.gather(1, parent[..., None].expand(-1, -1, state.codes.shape[2]))
    nodes = state.nodes.gather(1, parent)
    if trie is not None:
        nodes = torch.where(best > float("-inf"), trie.child(depth, nodes, code), 0)
    return _State(best, nodes, torch.cat([before, code[..., None]], 2)), parent


def _lookup(trie: Trie, codes_BxWxL: Tensor) -> Tensor:
    """int64 [B, W]: the item with these codes, -1 where there is none (``free`` mode)."""
    nodes = torch.zeros_like(codes_BxWxL[..., 0])
    valid = torch.ones_like(nodes, dtype=torch.bool)
    for depth in range(trie.length):
        code = codes_BxWxL[..., depth]
        nodes_after = trie.child(depth, nodes, code)
        valid &= trie.edges[depth][nodes_after] == nodes * trie.codebook_size + code
        nodes = torch.where(valid, nodes_after, 0)
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
    history_BxT: Tensor,
    mask_BxT: Tensor,
    trie: Trie,
    config: DecodeConfig,
    seen_BxS: Tensor | None = None,
) -> Beams:
    """Rank items for B users at once; the encoder runs once, keys and values are cached.

    Args:
        history_BxT: int64 item ids, mask_BxT: bool. trie: of the catalogue.
        seen_BxS: items to leave out, distinct in a row, -1 padded; ``constrained`` leaves them
            out of the search itself, ``free`` strikes them from the result.
    """
    memory, mask = model.encode_sids(trie.sids[history_BxT], mask_BxT)
    cache = model.seq2seq.start_cache(memory)
    b, device = len(history_BxT), history_BxT.device
    state = _State(
        memory.new_zeros(b, 1),
        torch.zeros(b, 1, dtype=torch.int64, device=device),
        torch.zeros(b, 1, 0, dtype=torch.int64, device=device),
    )
    token = model.start.expand(b, 1, -1)
    constraint = trie if config.mode == "constrained" else None
    seen = None if seen_BxS is None or constraint is None else Seen(trie, seen_BxS)
    for depth in range(model.length):
        states = model.seq2seq.step(token, depth, cache, mask)
        log_p = (states @ model.tables[depth].T).log_softmax(-1)
        beams_before = state.scores.shape[1]
        state, parent = _expand(log_p, state, config.beams, constraint, depth, seen)
        if depth == model.length - 1:
            break  # nothing reads the cache any more
        rows = (torch.arange(b, device=device)[:, None] * beams_before + parent).flatten()
        for layer in cache:
            layer.select(rows)
        token = model.tables[depth][state.codes[..., -1]]
    if constraint is not None:
        found = trie.item_of_leaf[state.nodes]
        items = torch.where(state.scores > float("-inf"), found, -1)
        return Beams(*sort_lists(items, state.scores), state.scores.new_zeros(()))
    items = _lookup(trie, state.codes)
    invalid = (items < 0).float().mean()
    if seen_BxS is not None:
        struck = (items[..., None] == seen_BxS[:, None, :]).any(-1)
        items = torch.where(struck, -1, items)
    return Beams(*sort_lists(items, state.scores), invalid)
