"""Heads with several mixtures per row."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from support.covering import covering
from support.random_layers import BATCHES, FAMILIES, make_priors, random_layer, served
from torch import Generator, Tensor

from gmm_lightning import DensityHead, GMMLayer
from gmm_lightning.errors import InvalidArgumentError
from gmm_lightning.interop import export_density, export_parameters
from gmm_lightning.layers import SamplingHead, _row_chunks

pytestmark = pytest.mark.usefixtures("double")
IN, D, K, N = 3, 2, 3, 7
SOME = [batch for batch in BATCHES if batch]
# The same float64 operations in another order, some 10 terms of order 10 to 100.
CLOSE = {"rtol": 1e-12, "atol": 1e-12}
cases = pytest.mark.parametrize(
    ("family", "batch", "shared"), covering(FAMILIES, SOME, [False, True])
)


def made(family: str, batch: tuple[int, ...], **options: Any) -> DensityHead:
    """A head away from every default, with units of its own for each mixture."""
    head = DensityHead(IN, D, K, family, batch_shape=batch, **options)
    layer = GMMLayer(D, K, family, batch_shape=batch)
    with torch.no_grad():
        layer.means.mul_(5.0)
    head.initialize_from(layer)
    with torch.no_grad():
        for parameter in head.parameters():
            parameter += 0.3 * torch.randn_like(parameter)
    return head


def one_of(head: DensityHead, at: tuple[int, ...]) -> DensityHead:
    """A head of one mixture, that at a position of a batch."""
    one = DensityHead(IN, D, K, head.covariance, shared_scale=head.shared_scale)
    shape = (*head.batch_shape, -1)
    with torch.no_grad():
        one.linear.weight.copy_(head.linear.weight.unflatten(0, shape)[at])
        one.linear.bias.copy_(head.linear.bias.unflatten(0, shape)[at])
        for name, value in head.parametrization.state_dict().items():
            one.parametrization.get_buffer(name).copy_(value[at]) if name != "raw_scale" else (
                one.parametrization.get_parameter(name).copy_(value[at])
            )
    return one


@cases
def test_it_is_one_head_for_each(
    family: str, batch: tuple[int, ...], shared: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    head = made(family, batch, shared_scale=shared)
    h, y = torch.randn(N, IN), torch.randn(N, *batch, D)
    mixture, log_prob = head(h), head.log_prob(h, y)
    assert mixture.batch_shape == log_prob.shape == (N, *batch)
    torch.testing.assert_close(mixture.log_prob(y), log_prob, **CLOSE)
    monkeypatch.setattr(_row_chunks, "_rows_per_chunk", lambda *_: 2)
    torch.testing.assert_close(head.log_prob(h, y), log_prob, **CLOSE)
    losses: list[Tensor] = []
    for at in torch.cartesian_prod(*map(torch.arange, batch)).reshape(-1, len(batch)).tolist():
        own = y[(slice(None), *at)]
        one = one_of(head, tuple(at))
        torch.testing.assert_close(one.log_prob(h, own), log_prob[(slice(None), *at)], **CLOSE)
        losses.append(one.loss(h, own))
    torch.testing.assert_close(head.loss(h, y), torch.stack(losses).mean(), **CLOSE)
    # Rows may have any shape, also none.
    assert head.log_prob(h[0], y[0]).shape == batch
    torch.testing.assert_close(
        head.log_prob(h.expand(2, N, IN), y.expand(2, *y.shape)), log_prob.expand(2, N, *batch)
    )


@pytest.mark.parametrize("of_each", [False, True], ids=["shared", "each"])
@cases
def test_training_starts_at_the_marginals(
    family: str, batch: tuple[int, ...], shared: bool, of_each: bool, generator: Generator
) -> None:
    layer = random_layer(family, generator=generator, batch=batch if of_each else ())
    head = DensityHead(IN, D, K, family, batch_shape=batch, shared_scale=shared)
    head.initialize_from(layer)
    y = torch.randn(N, *batch, D)
    expected = layer(y if of_each else y.reshape(-1, D)).reshape(N, *batch)
    # Covariances pass through Cholesky factors of their dense form.
    torch.testing.assert_close(head.log_prob(torch.randn(N, IN), y), expected, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize(
    ("family", "prior", "batch"), covering(FAMILIES, ["dirichlet", "normal", "niw"], SOME)
)
def test_priors_are_those_of_each(
    family: str, prior: str, batch: tuple[int, ...], generator: Generator
) -> None:
    if not served(family, prior, "gradient"):
        pytest.skip("not served")
    layer = random_layer(family, prior, generator=generator, batch=batch, given=True)
    head = DensityHead(IN, D, K, family, make_priors(prior, given=True), batch_shape=batch)
    head.initialize_from(layer)
    h, y = torch.randn(N, IN), torch.randn(N, *batch, D)
    log_prior = head.log_prior(head(h))
    torch.testing.assert_close(log_prior, layer.log_prior().expand(N, *batch), rtol=1e-9, atol=1e-9)
    # Each mixture has N rows of its own.
    expected = -head.log_prob(h, y).mean() - layer.log_prior().mean() / N
    torch.testing.assert_close(head.loss(h, y), expected, rtol=1e-9, atol=1e-9)


@cases
def test_it_is_stored_exported_and_drawn_from(
    family: str, batch: tuple[int, ...], shared: bool, tmp_path: Path
) -> None:
    pytest.importorskip("safetensors")
    head = made(family, batch, shared_scale=shared, priors="dirichlet")
    h, y = torch.randn(N, IN), torch.randn(N, *batch, D)
    head.save_pretrained(tmp_path)
    twin = DensityHead.from_pretrained(tmp_path)
    assert twin.batch_shape == batch
    assert torch.equal(twin.log_prob(h, y), head.log_prob(h, y))
    torch.testing.assert_close(export_density(head)(h, y), head.log_prob(h, y), **CLOSE)
    weights, means, scale_tril = export_parameters(head)(h)
    assert weights.shape == (N, *batch, K)
    torch.testing.assert_close(means, head(h).means)
    torch.testing.assert_close(scale_tril, head(h).scale_tril)
    for reparameterize in (False, True):
        drawn = SamplingHead(head, reparameterize=reparameterize)(4, h)
        assert drawn.shape == (4, N, *batch, D)


@pytest.mark.parametrize(
    "make", [lambda b: GMMLayer(D, K, batch_shape=b), lambda b: made("full", b)]
)
@pytest.mark.parametrize("batch", [0, 32, (2, 0), (-1,), (2.0,), (True,), "ab"], ids=repr)
def test_sizes(make: Any, batch: Any) -> None:
    with pytest.raises(InvalidArgumentError, match="batch_shape must hold sizes >= 1, got"):
        make(batch)


def test_words() -> None:
    head = DensityHead(IN, 1, K, batch_shape=(4,))
    h = torch.randn(N, IN)
    with pytest.raises(InvalidArgumentError, match=r"\(7, 4, 1\), got .* write y\[\.\.\., None\]"):
        head.loss(h, torch.randn(N, 4))
    with pytest.raises(InvalidArgumentError, match=r"\(7, 4, 1\), got shape \(7, 1\)"):
        head.loss(h, torch.randn(N, 1))
    with pytest.raises(InvalidArgumentError, match=r"for each of \(4,\), got .*\(5, 3, 1\)"):
        head.initialize_from(GMMLayer(1, K, batch_shape=(5,)))
    sequences = DensityHead(IN, 1, K)
    with pytest.raises(InvalidArgumentError, match=r"\(7, 5, 1\), got .* write y\[\.\.\., None\]"):
        sequences.loss(torch.randn(N, 5, IN), torch.randn(N, 5))
    with pytest.raises(InvalidArgumentError, match=r"write \(32,\)"):
        DensityHead(IN, 1, K, batch_shape=32)  # pyright: ignore[reportArgumentType]
