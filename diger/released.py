"""RQ-VAEs that others have trained, from the state of their file to ours.

The format is that of the RQ-VAE code of LC-Rec (Zheng et al., ICDE 2024) and of what descends
from it, such as LETTER's (github.com/HonghuiBao2000/LETTER, commit 0d4a115, folder RQ-VAE), which
the authors of DIGER build on. Facts of it: ``encoder.mlp_layers`` is a sequence of dropout, linear
layer, batch normalisation if ``bn``, and ReLU but after the last; ``decoder.mlp_layers`` has the
widths in reverse; ``rq.vq_layers.<level>.embedding.weight`` is a codebook [K, D]. Nobody here has
seen the released files: whatever does not fit this description is refused.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import replace
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor, nn

from diger.checks import SettingError
from diger.rqvae import RQVAE, RQVAEConfig

LINEAR = re.compile(r"(encoder|decoder)\.mlp_layers\.(\d+)\.(weight|bias)")
CODEBOOK = re.compile(r"rq\.vq_layers\.(\d+)\.embedding\.weight")
STATISTICS = ("running_mean", "running_var", "num_batches_tracked")
#: Settings of LETTER's code, in which ``beta`` weighs its diversity loss.
LETTER_SETTINGS = ("cf_emb", "n_clusters", "sample_strategy")


def released_rqvae(
    settings: Mapping[str, Any],
    state: Mapping[str, Tensor],
    width: int,
    levels: int,
    codebook_size: int,
    config: RQVAEConfig,
) -> RQVAE:
    """The RQ-VAE of a released file.

    Args:
        settings: of its training. state: tensors by name. width: W of our embeddings.
        levels, codebook_size: what the file must have. config: ``assignment``, and ``beta`` where
            the file says none; everything else is the file's.

    Raises:
        SettingError: the file is not of this format, or does not fit the data or the settings.
    """
    _refuse_others(state)
    encoder, decoder = _linears(state, "encoder"), _linears(state, "decoder")
    books = _codebooks(state)
    widths = [encoder[0][0].shape[1], *(len(weight) for weight, _ in encoder)]
    back = [decoder[0][0].shape[1], *(len(weight) for weight, _ in decoder)]
    if back != widths[::-1]:
        raise _unfit(f"its decoder has the widths {back}, its encoder {widths}")
    if books.shape[2] != widths[-1]:
        raise _unfit(f"its codes are {books.shape[2]} wide, its latents {widths[-1]}")
    if widths[0] != width:
        raise _unfit(
            f"it is for embeddings of width {widths[0]}, those of the data set have {width}: "
            "choose the data set's released embeddings, such as dataset=beauty/released"
        )
    if len(books) != levels:
        raise _unfit(f"it has {len(books)} levels: set method.levels={len(books)}")
    if books.shape[1] != codebook_size:
        raise _unfit(f"it has {books.shape[1]} codes a level: set method.codebook_size to that")
    own = replace(
        config, hidden=tuple(widths[1:-1]), latent=widths[-1], beta=_beta(settings, config.beta)
    )
    model = RQVAE(width, levels, codebook_size, own)
    with torch.no_grad():
        _fill(model.encoder, encoder)
        _fill(model.decoder, decoder)
        model.codebooks.copy_(books)
    kept = ("epochs", "sk_epsilons", "sk_iters", "kmeans_init", "lr", "batch_size")
    model.facts = {
        "stopped": "released",
        "widths": widths,
        "beta": own.beta,
        "settings": {name: settings[name] for name in kept if name in settings},
    }
    return model


def _unfit(reason: str) -> SettingError:
    return SettingError(f"method.tokenizer.checkpoint does not fit: {reason}")


def _refuse_others(state: Mapping[str, Tensor]) -> None:
    """Every tensor must have a part to play, and hold finite floating-point numbers."""
    statistics = [name for name in state if name.endswith(STATISTICS)]
    if statistics:
        raise _unfit(f"it has batch normalisation ({_shown(statistics[0])}), which ours has not")
    unknown = [
        name for name in state if not LINEAR.fullmatch(name) and not CODEBOOK.fullmatch(name)
    ]
    if unknown:
        raise _unfit(
            f"{len(unknown)} of its {len(state)} tensors have no part in our RQ-VAE, such as "
            f"{_shown(unknown[0])}"
        )
    for name, tensor in state.items():
        # What is sparse, quantised or without storage cannot be read as numbers.
        odd = tensor.layout is not torch.strided or tensor.is_meta or tensor.is_quantized
        if odd or not tensor.is_floating_point() or not bool(torch.isfinite(tensor).all()):
            raise _unfit(f"{_shown(name)} does not hold finite floating-point numbers")


def _linears(state: Mapping[str, Tensor], part: str) -> list[tuple[Tensor, Tensor]]:
    """(weight [out, in], bias [out]) of the linear layers, in the order of their numbers."""
    found: dict[int, dict[str, Tensor]] = {}
    for name, tensor in state.items():
        match = LINEAR.fullmatch(name)
        if match and match[1] == part:
            found.setdefault(int(match[2]), {})[match[3]] = tensor
    layers = []
    for number, layer in sorted(found.items()):
        where = f"{part}.mlp_layers.{number}"
        weight, bias = layer.get("weight"), layer.get("bias")
        if weight is None or bias is None:
            raise _unfit(f"{where} has no {'weight' if weight is None else 'bias'}")
        if weight.ndim != 2 or bias.shape != weight.shape[:1] or not weight.numel():
            raise _unfit(
                f"{where} is no linear layer: weight {list(weight.shape)}, bias {list(bias.shape)}"
            )
        layers.append((weight, bias))
    if not layers:
        raise _unfit(f"it has no {part}.mlp_layers: it is not of the format of LC-Rec's RQ-VAE")
    for (before, _), (weight, _) in pairwise(layers):
        if weight.shape[1] != len(before):
            raise _unfit(
                f"a layer of its {part} takes {weight.shape[1]} values and gets {len(before)}"
            )
    return layers


def _codebooks(state: Mapping[str, Tensor]) -> Tensor:
    """[m, K, D] of all levels."""
    found = {int(match[1]): state[name] for name in state if (match := CODEBOOK.fullmatch(name))}
    if sorted(found) != list(range(len(found))) or not found:
        raise _unfit(f"its codebooks have the numbers {sorted(found)}, not 0, 1 and so on")
    shapes = [list(found[level].shape) for level in range(len(found))]
    if any(shape != shapes[0] or len(shape) != 2 for shape in shapes):
        raise _unfit(f"its codebooks have the shapes {shapes}; ours have the same on all levels")
    return torch.stack([found[level].float() for level in range(len(found))])


def _beta(settings: Mapping[str, Any], ours: float) -> float:
    """Weight of the commitment loss, by its name in the file's family of code."""
    name = "mu" if any(key in settings for key in LETTER_SETTINGS) else "beta"
    value = settings.get(name)
    if isinstance(value, bool) or not isinstance(value, int | float) or not value >= 0:
        return ours
    return float(value)


def _fill(mlp: nn.Module, layers: list[tuple[Tensor, Tensor]]) -> None:
    own = [module for module in mlp.children() if isinstance(module, nn.Linear)]
    for linear, (weight, bias) in zip(own, layers, strict=True):
        linear.weight.copy_(weight)
        linear.bias.copy_(bias)


def _shown(name: str) -> str:
    """A name out of somebody's file, short and without what would move a terminal's cursor."""
    return repr(name[:60])
