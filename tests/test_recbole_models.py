"""The cheaper models are RecBole's: same scores, loss, gradients, dropout and steps."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import scipy.sparse
import torch

from baselines import recbole_compat
from baselines.lightgcn import LightGCN
from baselines.recbole_adapter import RecBoleMethod
from baselines.recbole_lightgcn import Adjacency, Margins
from baselines.recbole_sasrec import Attend, CatalogueCrossEntropy, Dropout, Lookup, last_state
from baselines.sasrec import SasRecCE
from benchmark.recommender import BenchmarkData
from tests.recbole_cases import fitted, model_of, planted


def twin_of_recbole(method: RecBoleMethod, data: BenchmarkData, folder: Path) -> Any:
    """RecBole's own model with the parameters of the fitted one."""
    model = model_of(method)
    config = method._config(data.split, 0, "cpu", folder)
    with recbole_compat.quiet():
        twin = type(model).__mro__[1](config, method.loaders.train._dataset)
    twin.load_state_dict(model.state_dict())
    return twin


@pytest.mark.parametrize(
    ("kind", "settings"),
    [
        (LightGCN, {"n_layers": 1}),
        (LightGCN, {"n_layers": 3}),
        (SasRecCE, {"n_layers": 1, "n_heads": 1}),
        (SasRecCE, {"n_layers": 1, "n_heads": 4}),
        (SasRecCE, {"n_layers": 3, "n_heads": 2}),
    ],
)
def test_the_cheaper_models_are_recboles(
    kind: type[RecBoleMethod],
    settings: dict[str, Any],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Scores, loss and every gradient, on rows with and without padding, dropout apart."""
    # scipy 1.13 removed what RecBole fills its matrix with.
    update = lambda self, pairs: self._dict.update(pairs)  # noqa: E731
    monkeypatch.setattr(scipy.sparse.dok_matrix, "_update", update, raising=False)
    data = planted(max_history=6)
    method = fitted(kind, data, tmp_path, **settings)
    models = [model_of(method), twin_of_recbole(method, data, tmp_path)]
    batch = next(iter(method.loaders.train))
    losses, predicted = [], []
    for model in models:
        for part in model.modules():
            if "Dropout" in type(part).__name__:
                part.p = 0.0
        model.train()
        model.zero_grad()
        losses.append(model.calculate_loss(batch))
        losses[-1].backward()
        predicted.append(model.eval().full_sort_predict(batch).detach())
    assert losses[0].item() == pytest.approx(losses[1].item(), rel=1e-6)
    torch.testing.assert_close(*predicted, rtol=1e-5, atol=1e-6)
    ours, theirs = (dict(model.named_parameters()) for model in models)
    assert ours.keys() == theirs.keys()
    for name, parameter in ours.items():
        if parameter.grad is None:  # nothing depends on it: RecBole's is rounding
            assert name.endswith("key.bias")
            assert theirs[name].grad.abs().max() < 1e-9
        else:
            torch.testing.assert_close(parameter.grad, theirs[name].grad, rtol=1e-4, atol=1e-7)


def slopes_are_right(function: Any, *inputs: Any) -> bool:
    """Whether the gradient that is written out is that of the function, by finite differences."""
    return torch.autograd.gradcheck(function.apply, inputs)


def some(*shape: int, seed: int = 0) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed + sum(shape))
    return torch.randn(*shape, generator=generator, dtype=torch.float64).requires_grad_()


def test_gradients_that_are_written_out() -> None:
    """With repeated indices, masked positions and weights that a dropout left."""
    index = torch.tensor([[1, 4, 1], [2, 2, 3], [3, 0, 2]])
    assert slopes_are_right(Margins, some(5, 3), index)
    bias = torch.where(torch.tensor([[1, 1, 1, 0], [1, 0, 0, 0]]).bool(), 0.0, -10000.0)[:, None]
    keep = torch.tensor([0.0, 2.0, 2.0, 2.0, 2.0, 0.0]).repeat(4).view(2, 3, 4).double()
    assert slopes_are_right(Attend, some(2, 3, 5), some(2, 4, 5), bias.double(), keep)
    target = torch.tensor([2, 0, 6, 2, 3])
    for rows in (1, 2, 5):
        space = torch.empty(2, rows, 7, dtype=torch.float64)
        assert slopes_are_right(CatalogueCrossEntropy, some(5, 3), some(7, 3), target, space)
    table = some(4, 2)
    Lookup.apply(table, torch.tensor([[1, 0], [3, 1]])).sum().backward()  # type: ignore[no-untyped-call]
    assert table.grad is not None
    assert table.grad.tolist() == [[0, 0], [2, 2], [0, 0], [1, 1]]  # none for padding


@pytest.mark.parametrize("scale", [1.0, 300.0])
@pytest.mark.parametrize("rows", [3, 8])
def test_the_loss_over_the_catalogue_is_cross_entropy(rows: int, scale: float) -> None:
    """Also in parts, and where the least likely items have no share that float32 can hold."""
    hidden, table = (scale**0.5 * some(8, 4)).float(), (scale**0.5 * some(90, 4)).float()
    target = torch.arange(8) * 11
    space = torch.empty(2, rows, 90)
    loss = CatalogueCrossEntropy.apply(hidden, table, target, space)  # type: ignore[no-untyped-call]
    expected = torch.nn.functional.cross_entropy(hidden @ table.T, target)
    assert loss.item() == pytest.approx(expected.item(), rel=1e-5)


def test_lightgcns_graph_has_each_pair_once() -> None:
    """Degrees: users 2 and 1, items 1 and 2; the third item has none. Entries 1 / sqrt(d d')."""
    users, items = np.array([0, 0, 1, 0]), np.array([0, 1, 1, 1])
    graph = Adjacency(users, items, n_users=2, n_items=3)
    table = np.zeros((5, 5))
    table[0, 2], table[0, 3], table[1, 3] = 1 / np.sqrt(2), 1 / 2, 1 / np.sqrt(2)
    dense = graph.as_sparse().to_dense()
    np.testing.assert_allclose(dense, table + table.T, atol=1e-6)
    x = torch.randn(5, 3)
    torch.testing.assert_close(graph.product(x), dense @ x)
    graph._sparse = graph.as_sparse()  # as on a GPU
    torch.testing.assert_close(graph.product(x), dense @ x)


def test_the_models_drop_out_as_often_as_they_say(tmp_path: Path) -> None:
    """RecBole's dropouts are all replaced, its GELU too, and the shares are kept."""
    model = model_of(fitted(SasRecCE, planted(), tmp_path, epochs=1, dropout=0.3, n_layers=2))
    assert not [part for part in model.modules() if isinstance(part, torch.nn.Dropout)]
    dropouts = [part for part in model.modules() if isinstance(part, Dropout)]
    assert len(dropouts) == 1 + 2 * 3 and {part.p for part in dropouts} == {0.3}
    for part in dropouts:
        assert (part.train()(torch.ones(20_000)) == 0).float().mean().item() == pytest.approx(
            0.3, abs=0.02
        )
        assert torch.equal(part.eval()(torch.ones(9)), torch.ones(9))
    assert {layer.feed_forward.intermediate_act_fn for layer in model.trm_encoder.layer} == {
        torch.nn.functional.gelu
    }


class Kept(torch.nn.Module):
    """A dropout of attention whose outcome at the last query is ``keep``, [B, H, T]."""

    def __init__(self, keep: torch.Tensor) -> None:
        super().__init__()
        self.keep = keep

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x * (self.keep[:, :, None] if x.dim() == 4 else self.keep)


def test_dropped_attention_is_recboles_too(tmp_path: Path) -> None:
    """Weights that do not sum to one: the bias of the values counts by what is left of them."""
    model = model_of(fitted(SasRecCE, planted(), tmp_path, epochs=1, n_heads=2))
    (layer,) = model.trm_encoder.layer
    torch.nn.init.normal_(layer.multi_head_attention.value.bias)
    x_BTD, mask_BT = torch.randn(6, 5, 16), torch.ones(6, 5, dtype=torch.bool)
    keep = 2.0 * torch.randint(0, 2, (6, 2, 5), generator=torch.Generator().manual_seed(0))
    layer.eval().multi_head_attention.attn_dropout = Kept(keep)
    whole = layer(x_BTD, model.get_attention_mask(mask_BT.long()))
    last = last_state(layer, x_BTD, mask_BT, x_BTD[:, -1])
    torch.testing.assert_close(last, whole[:, -1], rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("weight_decay", [0.0, 0.1])
def test_the_optimiser_moves_as_recboles_does(weight_decay: float, tmp_path: Path) -> None:
    method = fitted(LightGCN, planted(), tmp_path, epochs=1, weight_decay=weight_decay)
    ours = method._after_fit().watched.trainer
    theirs: Any = object.__new__(type(ours).__mro__[1])
    theirs.__dict__.update(ours.__dict__, model=copy.deepcopy(ours.model))
    for trainer in (ours, theirs):
        trainer.optimizer = trainer._build_optimizer()
        for step in range(20):
            trainer.optimizer.zero_grad()
            weight = next(iter(trainer.model.parameters()))
            # Adam takes no notice of how long a gradient is, so that it must not stand still.
            generator = torch.Generator().manual_seed(step)
            (weight * torch.randn(weight.shape, generator=generator)).sum().backward()
            trainer.optimizer.step()
    for one, two in zip(ours.model.parameters(), theirs.model.parameters(), strict=True):
        torch.testing.assert_close(one, two, rtol=1e-5, atol=1e-7)
