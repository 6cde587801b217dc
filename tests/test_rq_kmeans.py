"""RQ-KMeans: residual k-means on the embeddings, chosen by a setting, good for every method."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from benchmark.config import build_method, compose_config, settings_from
from benchmark.data.prepare import Prepared
from benchmark.errors import UserError
from benchmark.run import limit_threads
from benchmark.store import RunFolder
from diger.quantizer import residual_kmeans
from diger.recommender import GenerativeRecommender
from diger.rq_kmeans import RQKMeans
from diger.rqvae import RQVAE
from diger.tokenizers import TokenizerChoice, tokenizer_settings
from tests.estimators import END_TO_END, ESTIMATORS

KMEANS = "++method.tokenizer.kind=rq-kmeans"


def method_of(*overrides: str) -> GenerativeRecommender:
    settings = settings_from(compose_config(["protocol=smoke", *overrides]))
    method = build_method(settings)
    assert isinstance(method, GenerativeRecommender)
    return method


def made(run: RunFolder, prepared: Prepared, *overrides: str, seed: int = 0) -> Any:
    return method_of(*overrides).make_tokenizer(prepared.data, seed, run)


def test_each_level_clusters_what_the_last_one_leaves(
    ml100k_small: Prepared, tmp_path: Path
) -> None:
    tokenizer = made(RunFolder(tmp_path / "run", tmp_path, "cpu"), ml100k_small, KMEANS)
    content = torch.as_tensor(ml100k_small.data.embeddings)
    assert isinstance(tokenizer, RQKMeans)
    assert torch.equal(tokenizer.encoder(content), content)
    assert tokenizer.codebooks.shape == (3, 32, content.shape[1])
    residual = content
    for level, codes in enumerate(tokenizer.assign(content).T):
        left = residual - tokenizer.codebooks[level].detach()[codes]
        assert left.square().sum() < residual.square().sum()
        # A centre is the mean of its items: what is left of them sums to nothing.
        for code in np.unique(codes):
            assert left[codes == code].mean(0).abs().max() < 0.02
        residual = left


def test_without_the_key_it_is_the_rqvae(
    ml100k_small: Prepared, data_cache: Path, tmp_path: Path
) -> None:
    run = RunFolder(tmp_path, data_cache, "cpu")
    for overrides in ([], ["++method.tokenizer.kind=rqvae"]):
        assert isinstance(made(run, ml100k_small, *overrides), RQVAE)


def test_it_is_kept_by_what_it_uses(
    ml100k_small: Prepared, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = RunFolder(tmp_path / "run", tmp_path, "cpu")
    first = made(run, ml100k_small, KMEANS)
    calls: list[int] = []

    def counted(*arguments: Any) -> torch.Tensor:
        calls.append(1)
        return residual_kmeans(*arguments)

    monkeypatch.setattr("diger.rq_kmeans.residual_kmeans", counted)
    for same in ("method.tokenizer.hidden=[8]", "method.tokenizer.epochs=1",
                 "++method.tokenizer.beta=0.5", "method=diger_frqud"):  # fmt: skip
        again = made(run, ml100k_small, KMEANS, same)
        assert not calls, same
        assert torch.equal(again.codebooks, first.codebooks)
    assert made(run, ml100k_small, KMEANS, "++method.tokenizer.beta=0.5").beta == 0.5
    assert (
        made(run, ml100k_small, KMEANS, "++method.tokenizer.assignment=argmin").assignment
        == "argmin"
    )
    for n, (other, seed) in enumerate([("method.levels=2", 0), ("method.codebook_size=16", 0),
                                       ("method.levels=3", 1)], start=1):  # fmt: skip
        made(run, ml100k_small, KMEANS, other, seed=seed)
        assert len(calls) == n, other


def test_both_assignments(ml100k_small: Prepared, tmp_path: Path) -> None:
    tokenizer = made(RunFolder(tmp_path / "run", tmp_path, "cpu"), ml100k_small, KMEANS)
    content = torch.as_tensor(ml100k_small.data.embeddings)
    loads = [
        np.bincount(tokenizer.assign(content, rule)[:, 0], minlength=32)
        for rule in ("argmin", "sinkhorn")
    ]
    assert loads[1].std() < 0.7 * loads[0].std()


@pytest.mark.parametrize("name", sorted(set(ESTIMATORS) - {"letter_tiger"}))
def test_gradients_of_every_estimator_arrive_as_they_should(
    name: str, ml100k_small: Prepared, data_cache: Path, tmp_path: Path
) -> None:
    """One batch, before the first step; there is no encoder for them to arrive at."""
    limit_threads(1)
    method = method_of(f"method={name}", KMEANS)
    norms = method.audit(ml100k_small.data, 0, RunFolder(tmp_path, data_cache, "cpu"))["norms"]
    assert all(norm > 0 for norm in norms["rec"]["codebook"]) == (name in END_TO_END)
    assert norms["rec"]["encoder"] is None


def test_letter_has_a_tokenizer_of_its_own() -> None:
    with pytest.raises(UserError, match="LETTER trains an RQ-VAE of its own"):
        method_of("method=letter_tiger", KMEANS)


@pytest.mark.parametrize("name", ["tiger", "diger_frqud"])
def test_a_fit_on_it(name: str, ml100k_small: Prepared, data_cache: Path, tmp_path: Path) -> None:
    limit_threads(1)
    method = method_of(f"method={name}", KMEANS, "method.train.epochs=1")
    data = ml100k_small.data
    run = RunFolder(tmp_path, data_cache, "cpu")
    before = method.make_tokenizer(data, 0, run).codebooks.detach().clone()
    method.fit(data, 0, run)
    assert isinstance(method.trainer.tokenizer, RQKMeans)
    sids = method.semantic_ids()
    assert sids.shape == (data.split.n_items, 4)
    assert len(np.unique(sids, axis=0)) == len(sids)
    moved = not torch.equal(method.trainer.tokenizer.codebooks, before)
    assert moved == (name == "diger_frqud")
    assert method.describe()["parameters_by_part"]["encoder"] == 0


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"kind": "kmeans"}, "tokenizer.kind must be one of rqvae, rq-kmeans, got 'kmeans'"),
        ({"kind": "rq-kmeans", "checkpoint": "beauty"}, "does not go with tokenizer.kind="),
        ({"kind": "rq-kmeans", "nonsense": 1}, "unknown key method.tokenizer.nonsense; .*kind"),
        ({"kind": "rq-kmeans", "latent": 0}, "tokenizer.latent must be at least 1"),
        ({"checkpoint": 3}, "tokenizer.checkpoint must be a name or path, got 3"),
        ({"checkpoint": ""}, "tokenizer.checkpoint must be a name or path, got ''"),
        ({"checkpoint_sha256": "0" * 64}, "checkpoint_sha256 needs tokenizer.checkpoint"),
        ({"checkpoint": "x", "checkpoint_sha256": "0A"}, "64 hexadecimal digits .* got '0A'"),
        ({"checkpoint": "x", "checkpoint_sha256": 12}, "64 hexadecimal digits .* got 12"),
        ([], "method.tokenizer must be a group of settings"),
    ],
)  # fmt: skip
def test_impossible_choices(settings: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        tokenizer_settings(settings)


def test_plain_choice() -> None:
    assert tokenizer_settings({"latent": 8})[0].plain
    assert not TokenizerChoice(kind="rq-kmeans").plain


def test_too_few_items_is_one_line(ml100k_small: Prepared, tmp_path: Path) -> None:
    method = method_of(KMEANS, "method.codebook_size=2000")
    with pytest.raises(
        ValueError, match="codebook_size 2000 needs at least as many items"
    ) as caught:
        method.make_tokenizer(ml100k_small.data, 0, RunFolder(tmp_path / "run", tmp_path, "cpu"))
    assert getattr(caught.value, "bad_setting", False)


def test_kind_is_part_of_what_a_result_is() -> None:
    def identity(*overrides: str) -> str:
        return settings_from(compose_config(overrides)).cell.config_sha256

    base = identity()
    assert identity(KMEANS) != base
    for same in ("kind=rqvae", "checkpoint=null", "checkpoint_sha256=null"):
        assert identity(f"++method.tokenizer.{same}") == base, same
    with pytest.raises(UserError, match="is neither a file nor a data set"):
        identity("++method.tokenizer.checkpoint=nowhere")
