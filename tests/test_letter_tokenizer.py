"""LETTER's tokenizer: two losses, clusters, and what they make of the codes."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from sklearn.metrics import mutual_info_score

from baselines.letter_tokenizer import (
    Clusters,
    LetterConfig,
    LetterRQVAE,
    collaborative_loss,
    diversity_loss,
    even_clusters,
)
from diger.checks import SettingError
from diger.rqvae import RQVAE, RQVAEConfig, train_rqvae

Loss = Callable[[NDArray[np.float64]], float]


def slope(loss: Loss, at: NDArray[np.float64]) -> NDArray[np.float64]:
    """The gradient by central differences."""
    gradient = np.zeros_like(at)
    for index in np.ndindex(*at.shape):
        step = np.zeros_like(at)
        step[index] = 1e-6
        gradient[index] = (loss(at + step) - loss(at - step)) / 2e-6
    return gradient


def naive_collaborative(z: NDArray[np.float64], h: NDArray[np.float64]) -> float:
    total = 0.0
    for i in range(len(z)):
        others = sum(math.exp(float(z[i] @ h[j])) for j in range(len(z)))
        total -= math.log(math.exp(float(z[i] @ h[i])) / others)
    return total / len(z)


def naive_diversity(book: NDArray[np.float64], codes: list[int], positives: list[int]) -> float:
    total = 0.0
    for code, positive in zip(codes, positives, strict=True):
        e = book[code]
        others = sum(math.exp(float(e @ book[j])) for j in range(len(book)) if j != code)
        total -= math.log(math.exp(float(e @ book[positive])) / others)
    return total / len(codes)


def test_collaborative_loss_is_that_of_a_naive_loop() -> None:
    random = np.random.default_rng(0)
    z, h = random.normal(size=(4, 3)), random.normal(size=(4, 3))
    tensor = torch.tensor(z, requires_grad=True)
    loss = collaborative_loss(tensor, torch.tensor(h))
    assert loss.item() == pytest.approx(naive_collaborative(z, h))
    (got,) = torch.autograd.grad(loss, tensor)
    np.testing.assert_allclose(got, slope(lambda at: naive_collaborative(at, h), z), 1e-6)
    assert collaborative_loss(tensor[:1], torch.tensor(h[:1])).item() == 0  # nothing to compare


def test_diversity_loss_is_that_of_a_naive_loop() -> None:
    book = np.random.default_rng(1).normal(size=(5, 3))
    codes, positives = [2, 0, 2, 4], [1, 3, 3, 0]  # code 2 twice, with two positives
    tensor = torch.tensor(book, requires_grad=True)
    loss = diversity_loss(tensor, torch.tensor(codes), torch.tensor(positives))
    assert loss.item() == pytest.approx(naive_diversity(book, codes, positives))
    (got,) = torch.autograd.grad(loss, tensor)
    want = slope(lambda at: naive_diversity(at, codes, positives), book)
    np.testing.assert_allclose(got, want, 1e-6, 1e-9)


def test_clusters_are_even_and_close() -> None:
    # By distance alone two codes lie left and four right: evenly, the nearest one goes left.
    line = np.array([[0.0], [0.1], [5.0], [5.4], [5.5], [5.6]])
    labels = even_clusters(line, 2, 0)
    assert labels[0] == labels[1] == labels[2] != labels[3] == labels[4] == labels[5]
    random = np.random.default_rng(0)
    for codes, clusters in ((64, 10), (256, 10), (32, 16), (7, 1)):
        sizes = np.bincount(even_clusters(random.normal(size=(codes, 4)), clusters, 3))
        assert len(sizes) == clusters
        assert sizes.max() - sizes.min() <= 1
    assert np.bincount(even_clusters(np.ones((9, 2)), 3, 0)).tolist() == [3, 3, 3]  # all alike


def test_positives_are_the_other_codes_of_the_cluster() -> None:
    labels = np.array([0, 1, 0, 1, 1, 0, 1])
    codes = torch.arange(7).repeat(3000)
    drawn = Clusters(labels).draw(codes, torch.Generator().manual_seed(0))
    for code in range(7):
        found, counts = np.unique(drawn[codes == code], return_counts=True)
        others = [other for other in range(7) if labels[other] == labels[code] and other != code]
        assert found.tolist() == others
        assert counts.min() > 0.9 * 3000 / len(others)
    with pytest.raises(ValueError, match="fewer than two codes"):
        Clusters(np.array([0, 1, 1]))


CONFIG = RQVAEConfig(hidden=(16,), latent=8, epochs=30, min_epochs=20, check_every=10,
                     batch_size=64, learning_rate=5e-3)  # fmt: skip
N, WIDTH, LEVELS, K = 240, 24, 2, 8


def world() -> tuple[NDArray[np.float32], NDArray[np.float32], NDArray[np.int64]]:
    """Content, collaborative embeddings and groups of 240 items.

    Content shows a theme of its own first and the item's group faintly; the collaborative
    embeddings show the group only.
    """
    random = np.random.default_rng(0)
    group, theme = random.integers(0, 8, (2, N))
    content = random.normal(size=(8, WIDTH))[theme] + 0.3 * random.normal(size=(8, WIDTH))[group]
    content += 0.05 * random.normal(size=content.shape)
    taste = 2 * random.normal(size=(8, CONFIG.latent))[group]
    content /= np.linalg.norm(content, axis=1, keepdims=True)
    return content.astype(np.float32), taste.astype(np.float32), group


def make(alpha: float, beta: float, clusters: int = 3, seed: int = 0) -> LetterRQVAE:
    torch.manual_seed(seed)
    letter = LetterConfig(alpha, beta, clusters)
    return LetterRQVAE(WIDTH, LEVELS, K, CONFIG, letter, world()[1], seed)


def trained(alpha: float, beta: float, clusters: int = 3, seed: int = 0) -> LetterRQVAE:
    model = make(alpha, beta, clusters, seed)
    train_rqvae(model, world()[0], seed)
    return model


def same(one: torch.nn.Module, two: torch.nn.Module) -> bool:
    pairs = zip(one.state_dict().items(), two.state_dict().items(), strict=True)
    return all(a[0] == b[0] and torch.equal(a[1], b[1]) for a, b in pairs)


def test_without_weights_it_is_the_plain_rqvae() -> None:
    torch.manual_seed(0)
    plain = train_rqvae(RQVAE(WIDTH, LEVELS, K, CONFIG), world()[0], 0)
    assert same(trained(0, 0), plain)
    assert not same(trained(0.1, 0), plain)
    assert not same(trained(0, 0.1), plain)


def test_training_repeats_bit_for_bit() -> None:
    first = trained(0.3, 0.1)
    assert same(first, trained(0.3, 0.1))
    other = make(0.3, 0.1)
    other._seed = 1  # the same start, other clusters and draws
    train_rqvae(other, world()[0], 0)
    assert not same(first, other)


def test_an_epoch_draws_what_its_number_says_whatever_came_before() -> None:
    """So a training that was cut between two epochs ends as if it had not been."""
    codes = torch.arange(K)
    one, two = make(0, 0.1), make(0, 0.1)
    for model in (one, two):
        torch.nn.init.normal_(model.codebooks, generator=torch.Generator().manual_seed(5))
    draws = []
    for model, epochs in ((one, (1, 2, 7)), (two, (7,)), (two, (8,))):
        for epoch in epochs:
            model.begin_epoch(epoch)
            drawn = [clusters.draw(codes, model._draws).tolist() for clusters in model._clusters]
        draws.append(drawn)
    assert draws[0] == draws[1] != draws[2]


def test_each_level_is_clustered_by_its_own_codes_as_they_now_are() -> None:
    model, codes = make(0, 0.1, clusters=K // 2), torch.arange(K)
    far = 10 * torch.eye(K // 2, CONFIG.latent)
    neighbours, halves = codes ^ 1, (codes + K // 2) % K  # whom each code is laid beside
    for levels in ([far.repeat_interleave(2, 0), far.repeat(2, 1)],
                   [far.repeat(2, 1), far.repeat_interleave(2, 0)]):  # fmt: skip
        with torch.no_grad():
            model.codebooks.copy_(torch.stack(levels))
        model.begin_epoch(1)
        drawn = [clusters.draw(codes, model._draws) for clusters in model._clusters]
        first = neighbours if torch.equal(levels[0][0], levels[0][1]) else halves
        assert torch.equal(drawn[0], first)
        assert torch.equal(drawn[1], halves if first is neighbours else neighbours)


def test_diverged_codes_are_named() -> None:
    model = make(0, 0.1)
    with torch.no_grad():
        model.codebooks[1, 2] = torch.nan
    with pytest.raises(SettingError, match=r"lower method\.tokenizer\.learning_rate"):
        model.begin_epoch(1)


@pytest.mark.parametrize("alpha, beta", [(0.7, 0.0), (0.0, 0.4), (0.7, 0.4)])
def test_total_holds_both_terms_on_the_chosen_codes(alpha: float, beta: float) -> None:
    content, taste, _ = world()
    items = torch.tensor([17, 3, 200, 4])  # not the first ones: rows are told apart by items
    x = torch.as_tensor(content)[items]
    model = make(alpha, beta, clusters=K // 2)  # pairs: the positive is the one other code
    torch.nn.init.normal_(model.codebooks, std=0.5)
    model.begin_epoch(1)
    residual = model.encoder(x).detach().double().numpy()
    books = model.codebooks.detach().double().numpy()
    quantized, diversity = np.zeros_like(residual), 0.0
    for level, book in enumerate(books):
        codes = [int(((book - row) ** 2).sum(1).argmin()) for row in residual]
        if beta:
            positives = model._clusters[level].draw(torch.tensor(codes), torch.Generator())
            diversity += naive_diversity(book, codes, positives.tolist())
        quantized += book[codes]
        residual = residual - book[codes]
    chosen = taste[items.numpy()].astype(np.float64)
    further = alpha * naive_collaborative(quantized, chosen) + beta * diversity
    plain = RQVAE.loss(model, x)
    got = model.loss(x, items)
    assert got.total.item() == pytest.approx(plain.total.item() + further, rel=1e-5)
    assert got.reconstruction.item() == plain.reconstruction.item()
    assert got.vq.item() == plain.vq.item()
    # Collaborative: straight through to the encoder only. Diversity: the codebooks only.
    parts = [model.codebooks, *model.encoder.parameters()]
    ours = torch.autograd.grad(got.total, parts)
    theirs = torch.autograd.grad(RQVAE.loss(model, x).total, parts)
    moved = [not torch.allclose(a, b, atol=1e-7) for a, b in zip(ours, theirs, strict=True)]
    assert moved == [beta > 0] + [alpha > 0] * (len(parts) - 1)


def test_collaborative_loss_reaches_the_latents_unchanged() -> None:
    content, taste, _ = world()
    model = make(0.5, 0.0)
    model.encoder = model.decoder = torch.nn.Sequential()  # content is the latent
    torch.nn.init.normal_(model.codebooks)
    items = torch.arange(5)
    latent = torch.as_tensor(content[:5, : CONFIG.latent]).requires_grad_()
    (got,) = torch.autograd.grad(model.loss(latent, items).total, latent)
    (plain,) = torch.autograd.grad(RQVAE.loss(model, latent).total, latent)
    codes = model.assign(latent)
    books = model.codebooks.detach().double().numpy()
    z = books[0][codes[:, 0]] + books[1][codes[:, 1]]
    h = taste[:5].astype(np.float64)
    share = np.exp(z @ h.T) / np.exp(z @ h.T).sum(1, keepdims=True)
    want = 0.5 * (share @ h - h) / 5  # the derivative by the quantised embedding, by hand
    np.testing.assert_allclose((got - plain).numpy(), want, rtol=1e-4, atol=1e-5)


def test_alpha_pulls_items_of_a_group_to_the_same_codes() -> None:
    content, _, group = world()
    shared = []
    for alpha in (0.0, 1.0):
        codes = trained(alpha, 0).assign(torch.as_tensor(content))[:, 0]
        shared.append(float(mutual_info_score(group, codes)))
    assert shared[0] < 0.15  # nats, of the log(8) = 2.08 that the groups hold
    assert shared[1] > 0.4


def test_beta_pulls_codes_of_a_cluster_together_on_each_level() -> None:
    """More alike within than across: what a random other code of the cluster is drawn for."""
    contrasts = []
    for beta in (0.0, 1.0):
        books = trained(0, beta).codebooks.detach()
        contrast = []
        for book in books:
            labels = even_clusters(book.double().numpy(), 3, 0)
            within = (labels[:, None] == labels) & ~np.eye(K, dtype=bool)
            alike = (book @ book.T).numpy()
            contrast.append(alike[within].mean() - alike[labels[:, None] != labels].mean())
        contrasts.append(contrast)
    assert all(after > before for before, after in zip(*contrasts, strict=True))


def test_what_serves_training_only_is_not_stored() -> None:
    assert set(make(0.1, 0.1).state_dict()) == set(RQVAE(WIDTH, LEVELS, K, CONFIG).state_dict())
