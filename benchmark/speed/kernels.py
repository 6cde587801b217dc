"""Whether a GPU's kernels compute what the CPU computes: ``python -m benchmark.speed.kernels``.

Each block of the recommender, forwards and backwards, with dropout by the same keys, at lengths
that take every road through ``diger.kernels``; residual quantisation; the draws and the codes
behind noise by themselves; steps of the optimiser; and the batches of an epoch. A line each, with
the largest relative error of its results; exit code 1 if one is too large. Takes a minute, most of
it to compile, and is what to run first on a GPU that nobody has tried.
"""

from __future__ import annotations

import argparse
import math
from collections.abc import Iterator
from typing import Any
from unittest import mock

import torch
from torch import Tensor, nn

from benchmark.errors import UserError
from benchmark.guard import guard
from benchmark.speed.synthetic import synthetic_split
from diger import functional, positions
from diger.codes import residual_quantisation
from diger.gpu import kernels_for
from diger.keep import cut, draw_keys, draws
from diger.optimizer import FlatAdamW
from diger.quantizer import Nearest, Sinkhorn, quantize
from diger.residual import UNLINKED, Link, Links
from diger.rqvae import RQVAE, RQVAEConfig
from diger.seq2seq import ModelConfig, Seq2Seq
from diger.sequences import RowReader

HEADS, HEAD, WIDTH, HIDDEN, P = 4, 64, 128, 512, 0.1
LATENT, BETA = 64, 0.25
#: Items and codes: a batch of Beauty; one that fills no tile; and one of Yelp, in larger tiles.
CATALOGUES = ((1024, 256), (1000, 100), (4096, 256))
#: Rows, tokens and tokens of the memory.
LENGTHS = ((3, 4, 12), (5, 24, 40), (4, 40, 96), (3, 64, 128), (2, 100, 200), (2, 200, 240))
LIMITS = {torch.float32: 1e-4, torch.bfloat16: 2e-2}


def numbers(*shape: int, std: float = 0.5, around: float = 0.0) -> Tensor:
    return (torch.randn(*shape) * std + around).requires_grad_()


def padding(rows: int, columns: int) -> Tensor:
    """[rows, 1, 1, columns], added to scores."""
    lengths = torch.randint(1, columns + 1, (rows, 1))
    hidden = torch.arange(columns) >= lengths
    return (hidden.float() * torch.finfo(torch.float32).min)[:, None, None]


def linked(x: Tensor, *both: Any) -> Tensor:
    """Two feed-forward blocks with a link between them; ``both``: what each takes beside x."""
    first, second = both[: len(both) // 2], both[len(both) // 2 :]
    link = Link(norm=second[0], dtype=second[1].dtype)
    between = functional.feed_forward(x, *first, Links(after=link))
    return functional.feed_forward(between, *second, Links(before=link))


def feed_forward(scale: float) -> list[object]:
    """What the block takes beside an x around 1, which all of its hidden units read with one sign:
    half of them are far above relu's edge and half far below, since those within rounding of it
    would fall to either side, each with its whole gradient."""
    sign = torch.ones(HIDDEN, 1)
    sign[::2] = -1
    wide = (numbers(HIDDEN, WIDTH, std=0.05) + 0.05 * sign).detach().requires_grad_()
    keys = draw_keys(torch.zeros(()), 2).split(1)
    narrow = numbers(WIDTH, HIDDEN, std=0.005)
    return [numbers(WIDTH, std=0.3, around=1), wide, narrow, *keys, scale]


def blocks(b: int, t: int, m: int) -> dict[str, list[object]]:
    """Arguments of each block, by its name in ``diger.functional``; and those of ``linked``."""
    inner, scale = HEADS * HEAD, 1 / (1 - P)
    weight = [numbers(inner, WIDTH, std=0.05) for _ in range(6)]
    back = [numbers(WIDTH, inner, std=0.05) for _ in range(2)]
    position, keys = numbers(1, HEADS, t, t), draw_keys(torch.zeros(()), 4).split(1)
    around = UNLINKED, None, padding(b, t)
    feed_forwards = [feed_forward(scale) for _ in range(2)]
    return {
        "self_attention": [
            numbers(b, t, WIDTH, std=1), numbers(WIDTH), torch.cat(weight[:3]), back[0],
            position.detach(), position, *keys[:2], scale, HEADS, *around,
        ],
        "cross_attention": [
            numbers(b, 4, WIDTH, std=1), numbers(b, m, WIDTH), numbers(WIDTH), *weight[3:], back[1],
            padding(b, m), *keys[2:], scale, HEADS,
        ],
        "feed_forward": [numbers(b, t, WIDTH, std=0.3, around=1), *feed_forwards[0]],
        "linked": [
            numbers(b, t, WIDTH, std=0.3, around=1), *feed_forwards[0], *feed_forwards[1],
        ],
    }  # fmt: skip


def results(name: str, arguments: list[object], device: str) -> list[Tensor]:
    """What the block gives on this device, and its gradients, on the CPU."""
    moved: list[Any] = [
        a.detach().to(device).requires_grad_(a.is_floating_point()) if torch.is_tensor(a) else a
        for a in arguments
    ]
    if name == "self_attention" and not functional.attends(moved[0], moved[2], HEADS):
        *moved, mask = moved
        moved[4] = (moved[4] + mask).detach()
    leaves = [a for a in moved if torch.is_tensor(a) and a.requires_grad]
    out = getattr(functional, name, linked)(*moved)
    along = torch.randn(out.shape, generator=torch.Generator().manual_seed(1)).to(device)
    grads = torch.autograd.grad((out * along).sum(), leaves, allow_unused=True)
    return [x.detach().float().cpu() for x in (out, *grads) if x is not None]


def rounded(name: str, arguments: list[object], dtype: torch.dtype) -> list[object]:
    """The weights and the memory in the type of the products, as ``Block.forward`` gives them."""

    def product(i: int, a: Tensor) -> bool:
        return a.ndim == 2 or (name == "cross_attention" and i == 1)

    return [
        a.to(dtype) if torch.is_tensor(a) and product(i, a) else a for i, a in enumerate(arguments)
    ]


def error(found: Tensor, wanted: Tensor) -> float:
    """Relative; infinite where something is not a number, which would be above no limit."""
    apart = float((found - wanted).norm() / wanted.norm().clamp_min(1e-12))
    return apart if math.isfinite(apart) else math.inf


def checks_of_blocks(device: str) -> Iterator[tuple[str, float, float]]:
    """(what, error, limit) of each."""
    for sizes in LENGTHS:
        for dtype, limit in LIMITS.items():
            for name, arguments in blocks(*sizes).items():
                # Of rounded inputs, computed in float32 on the CPU.
                given = rounded(name, arguments, dtype)
                exact = [a.float() if torch.is_tensor(a) and a.is_floating_point() else a
                         for a in given]  # fmt: skip
                pairs = zip(results(name, given, device), results(name, exact, "cpu"), strict=True)
                worst = max(error(found, wanted) for found, wanted in pairs)
                yield f"{name} {sizes} {str(dtype)[6:]}", worst, limit


def checks(device: str) -> Iterator[tuple[str, float, float]]:
    """The same of these and of all else."""
    yield "the batches of an epoch", check_of_batches(device), 0.0
    yield from checks_of_blocks(device)
    key = draw_keys(torch.zeros(()), 1)
    ones = torch.ones(1 << 20, device=device)
    kernels = kernels_for(ones)
    assert kernels is not None
    kept = kernels.drop(ones, key.to(device), 1 / (1 - P), 1.0, torch.float32)
    wanted = torch.from_numpy(draws(len(ones), int(key)) >= cut(1 / (1 - P))).float()
    yield "what dropout keeps", float((kept.cpu() != wanted).sum()), 0.0
    logits = torch.randn(4096, 256)
    _, hard = kernels.relax(logits.to(device), torch.ones((), device=device), key.to(device), 2.0)
    uniform = torch.from_numpy((draws(logits.numel(), int(key)) + 0.5) / 2**32).view_as(logits)
    codes = (logits - (-uniform.log()).log()).argmax(-1)
    apart = (hard.argmax(-1).cpu() != codes).float().mean()
    yield "codes behind noise", float(apart), 1e-3  # near ties may fall either way
    yield "the gradient of positions", check_of_positions(device), LIMITS[torch.float32]
    yield from checks_of_levels(device)
    yield from checks_of_steps(device)


def check_of_batches(device: str) -> float:
    """How many places of an epoch's batches hold other rows than on the CPU, or none."""
    split, found = synthetic_split(2000, 500), []
    for where in (device, "cpu"):
        drawn = list(RowReader(split, where).epoch(256, (5 << 32) + 11, 8, count=True))
        positions = torch.cat([rows.positions.cpu() for rows in drawn])
        shapes = torch.tensor([[len(rows.positions), rows.width, rows.distinct] for rows in drawn])
        found.append(torch.cat([positions, shapes.flatten()]))
    same = found[0].shape == found[1].shape
    return float((found[0] != found[1]).sum()) if same else math.inf


def checks_of_steps(device: str) -> Iterator[tuple[str, float, float]]:
    """The same of what an optimiser's steps move, the first ones and those of long after."""
    start, grads = torch.randn(10_000), [torch.randn(10_000) * 0.5**i for i in range(12)]
    for decay in (0.0, 0.05):
        moved = []
        for kind, where in ((FlatAdamW, device), (torch.optim.AdamW, "cpu")):
            weight = nn.Parameter(start.to(where, copy=True))
            rate = torch.tensor(1e-3, device=where)
            optimizer = kind(
                [{"params": [weight], "lr": rate}], weight_decay=decay, fused=True,
                capturable=where != "cpu",
            )  # fmt: skip
            for i, grad in enumerate(grads):
                weight.grad = grad.to(where, copy=True)
                if isinstance(optimizer, FlatAdamW):
                    optimizer.gather()
                optimizer.step()
                for state in optimizer.state.values() if i == 6 else ():
                    state["step"] += 3000
            moved.append(weight.detach().cpu() - start)
        yield f"AdamW's steps, decay {decay:g}", error(*moved), LIMITS[torch.float32]


def checks_of_levels(device: str) -> Iterator[tuple[str, float, float]]:
    """The same of residual quantisation: its codes, and its losses and gradients where no code is
    nearly as near as another."""
    for items, codes in CATALOGUES:
        books = torch.randn(3, codes, LATENT) * torch.tensor([1.0, 0.3, 0.1])[:, None, None]
        sums = books.gather(1, torch.randint(codes, (3, items, 1)).expand(-1, -1, LATENT)).sum(0)
        clear = sums + torch.randn(items, LATENT) * 0.05
        pairs = zip(losses(clear, books, device), losses(clear, books, "cpu"), strict=True)
        worst = max(error(*pair) for pair in pairs)
        yield f"residual quantisation ({items}, {codes})", worst, LIMITS[torch.float32]
        latent = torch.randn(items, LATENT)
        for what, rule in (("nearest", Nearest()), ("balanced", Sinkhorn(waits=False))):
            found = residual_quantisation(latent.to(device), books.to(device), BETA, rule)
            assert found is not None
            apart = (found.codes.cpu() != quantize(latent, books, rule).codes).float().mean()
            yield f"{what} codes ({items}, {codes})", float(apart), 1e-3


def check_of_positions(device: str) -> float:
    """Of the position bias' gradient in bfloat16: summed once a stack, beside once a layer."""
    config = ModelConfig(3, WIDTH, HIDDEN, HEADS, HEAD, dropout=0.0, init_std=0.1)
    model = Seq2Seq(config).to(device).train()
    model.dtype = torch.bfloat16
    tables = [model.encoder.position.weight, model.decoder.position.weight]
    history, target = torch.randn(3, 20, WIDTH).to(device), torch.randn(3, 4, WIDTH).to(device)
    there = (torch.arange(20) < torch.tensor([20, 7, 1])[:, None]).to(device)
    along, found = torch.randn(3, 4, WIDTH).to(device), []
    for room in (positions.ROOM, 0):
        with mock.patch.object(positions, "ROOM", room):
            states = model.decode(target, model.encode(history, there), there)
            found.append(torch.autograd.grad((states * along).sum(), tables))
    return max(error(*pair) for pair in zip(*found, strict=True))


def losses(latent: Tensor, books: Tensor, device: str) -> list[Tensor]:
    """Of an RQ-VAE whose encoder and decoder change nothing, and their gradients."""
    levels, codes, width = books.shape
    model = RQVAE(width, levels, codes, RQVAEConfig(latent=width, beta=BETA))
    model.encoder, model.decoder = nn.Sequential(), nn.Sequential()
    model.codebooks.data = books.clone()
    content = latent.to(device, copy=True).requires_grad_()
    loss = model.to(device).loss(content)
    grads = torch.autograd.grad(loss.total, [content, model.codebooks])
    return [x.detach().cpu() for x in (loss.total, loss.vq, loss.quantized, *grads)]


def main(given: list[str] | None = None) -> None:
    argparse.ArgumentParser(
        prog="python -m benchmark.speed.kernels", description=(__doc__ or "").split("\n")[0]
    ).parse_args(given)

    def execute() -> None:
        if not torch.cuda.is_available() or kernels_for(torch.zeros(1, device="cuda")) is None:
            raise UserError("there is no GPU here whose kernels Triton can compile")
        torch.manual_seed(0)
        bad = 0
        for what, worst, limit in checks("cuda"):
            bad += worst > limit
            print(f"{what:50} {worst:.1e} {'TOO LARGE' if worst > limit else 'ok'}", flush=True)
        if bad:
            raise SystemExit(1)

    guard(execute)


if __name__ == "__main__":
    main()
