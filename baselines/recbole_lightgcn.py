"""RecBole's LightGCN with a product of the graph that is made for it.

RecBole multiplies with a sparse matrix in coordinate form, whose product on a CPU is fifteen times
slower than the one here, and which autograd transposes at every step although it is symmetric. It
also fills that matrix through a Python dictionary, and adds up gradients one row at a time.
Parameters, loss and what is propagated are RecBole's (tests/test_recbole_models.py).

Shapes: n users and items together, D width, B rows of a batch.
"""

from __future__ import annotations

import functools
import importlib
import warnings
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional as F


class Adjacency:
    """The normalised graph of users and items, A = D^-1/2 [[0, R], [R^T, 0]] D^-1/2.

    R holds a one for each pair of a user and an item, however often it occurs. Users come first.
    Source: He et al. 2020, section 3.1; RecBole adds 1e-7 to every degree.

    Attributes:
        n: users and items, the number of rows.
        starts: int64 [n + 1]; row i has the entries starts[i] .. starts[i + 1] - 1.
        columns, values: int64 and float32 [n_entries].
    """

    def __init__(
        self, users: NDArray[np.int64], items: NDArray[np.int64], n_users: int, n_items: int
    ) -> None:
        """
        Args:
            users, items: [n_pairs], from 0.
        """
        self.n = n_users + n_items
        pairs = np.unique(users * n_items + items)
        users, items = pairs // n_items, pairs % n_items + n_users
        rows, columns = np.concatenate([users, items]), np.concatenate([items, users])
        order = np.argsort(rows, kind="stable")  # pairs are sorted: columns ascend in each row
        rows, columns = rows[order], columns[order]
        degrees = np.bincount(rows, minlength=self.n)
        scale = (degrees + 1e-7) ** -0.5
        self.starts = torch.from_numpy(np.concatenate([[0], np.cumsum(degrees)]))
        self.columns = torch.from_numpy(columns)
        self.values = torch.from_numpy((scale[rows] * scale[columns]).astype(np.float32))
        self._sparse: Tensor | None = None

    def to(self, device: torch.device | str) -> Adjacency:
        """Move it there (in place, as modules do)."""
        self.starts, self.columns = self.starts.to(device), self.columns.to(device)
        self.values = self.values.to(device)
        self._sparse = None
        if self.values.device.type != "cpu":
            self._sparse = self.as_sparse()
        return self

    def as_sparse(self) -> Tensor:
        """The same as torch's sparse matrix (compressed rows)."""
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", message="Sparse CSR tensor support is in beta")
            return torch.sparse_csr_tensor(
                self.starts, self.columns, self.values, (self.n, self.n), check_invariants=False
            )

    def product(self, x: Tensor) -> Tensor:
        """A x, for float32 [n, D]. Not seen by autograd.

        On a CPU, a weighted sum of rows of a table is what ``embedding_bag`` is made for. Each row
        is summed up by one thread, so that the result does not depend on how many there are.
        """
        if self._sparse is not None:
            return torch.sparse.mm(self._sparse, x)
        return F.embedding_bag(
            self.columns, x, self.starts[:-1], mode="sum", per_sample_weights=self.values
        )

    def spread(self, x: Tensor, n_layers: int) -> Tensor:
        """(x + A x + A^2 x + ...) / (n_layers + 1), for float32 [n, D], by Horner's scheme."""
        total = x
        for _ in range(n_layers):
            total = self.product(total).add_(x)
        return total.mul_(1 / (n_layers + 1))


class Propagation(torch.autograd.Function):
    """``Adjacency.spread``, which is linear and, as A is symmetric, its own adjoint."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, graph: Adjacency, n_layers: int) -> Tensor:
        ctx.graph, ctx.n_layers = graph, n_layers
        return graph.spread(x, n_layers)

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None, None]:
        return ctx.graph.spread(grad.contiguous(), ctx.n_layers), None, None


class Margins(torch.autograd.Function):
    """Score of the user with the positive item less that with the negative one, [B].

    Args of forward:
        x_nD: embeddings. index_3B: int64, the rows of users, positives and negatives.
    """

    @staticmethod
    def forward(ctx: Any, x_nD: Tensor, index_3B: Tensor) -> Tensor:
        user_BD, positive_BD, negative_BD = (x_nD.index_select(0, index) for index in index_3B)
        apart_BD = positive_BD.sub_(negative_BD)
        ctx.save_for_backward(user_BD, apart_BD, index_3B)
        ctx.n = len(x_nD)
        return (user_BD * apart_BD).sum(1)

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, grad_B: Tensor) -> tuple[Tensor, None]:
        user_BD, apart_BD, index_3B = ctx.saved_tensors
        grad_3BD = user_BD.new_empty((3, *user_BD.shape))
        torch.mul(apart_BD, grad_B[:, None], out=grad_3BD[0])
        torch.mul(user_BD, grad_B[:, None], out=grad_3BD[1])
        torch.neg(grad_3BD[1], out=grad_3BD[2])
        table = user_BD.new_zeros((ctx.n, user_BD.shape[1]))
        return table.index_add_(0, index_3B.flatten(), grad_3BD.flatten(0, 1)), None


def row_norms(x_nD: Tensor, index_3B: Tensor) -> Tensor:
    """The norms of the three tables ``x_nD[index]``, [3], out of the norms of the rows."""
    return x_nD.square().sum(1)[index_3B].sum(1).sqrt()


@functools.cache
def lightgcn_class() -> type:
    """RecBole's LightGCN on an ``Adjacency``; made on first use, when RecBole can be imported."""
    base = importlib.import_module("recbole.model.general_recommender.lightgcn").LightGCN

    class LightGCN(base):  # type: ignore[misc, valid-type]
        """Same parameters, same loss, same propagated embeddings up to rounding."""

        def get_norm_adj_mat(self) -> Adjacency:
            pairs = self.interaction_matrix
            users, items = pairs.row.astype(np.int64), pairs.col.astype(np.int64)
            return Adjacency(users, items, self.n_users, self.n_items)

        def forward(self) -> tuple[Tensor, Tensor]:
            """Propagated embeddings of users [n_users, D] and of items [n_items, D]."""
            propagated = self.propagate(self.get_ego_embeddings())
            users, items = propagated.split([self.n_users, self.n_items])
            return users, items

        def propagate(self, x_nD: Tensor) -> Tensor:
            return Propagation.apply(  # type: ignore[no-untyped-call]
                x_nD, self.norm_adj_matrix, self.n_layers
            )

        def calculate_loss(self, interaction: Any) -> Tensor:
            """RecBole's BPR loss and its norm of a batch's embeddings, from joint tables."""
            self.restore_user_e = self.restore_item_e = None  # the cache of an evaluation
            items = [interaction[self.ITEM_ID], interaction[self.NEG_ITEM_ID]]
            index_3B = torch.stack([interaction[self.USER_ID], *(i + self.n_users for i in items)])
            x_nD = self.get_ego_embeddings()
            margins_B = Margins.apply(self.propagate(x_nD), index_3B)  # type: ignore[no-untyped-call]
            norm = row_norms(x_nD, index_3B).sum() / index_3B.shape[1]  # as EmbLoss
            return self.mf_loss(margins_B, 0.0) + self.reg_weight * norm

    return LightGCN
