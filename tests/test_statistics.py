"""Sums about a shift, and what they say of the data."""

from __future__ import annotations

import pytest
import torch
from helpers import BATCHES, FAMILIES, random_layer, rows

from gmm_lightning import e_step
from gmm_lightning.covariances import as_covariance
from gmm_lightning.errors import InvalidArgumentError
from gmm_lightning.statistics import DataMoments, Moments

pytestmark = pytest.mark.usefixtures("double")
over_families = pytest.mark.parametrize("family", FAMILIES)


@pytest.mark.parametrize("batch", BATCHES, ids=str)
@over_families
def test_definition(family: str, batch: tuple, generator: torch.Generator) -> None:
    layer = random_layer(family, batch=batch, generator=generator)
    x = rows(13, 2, generator, batch)
    stats = e_step(layer, x)
    resp = layer.responsibilities(x).detach()
    diff = x.unsqueeze(-2) - layer.means.detach()
    dense = (resp[..., None, None] * diff.unsqueeze(-1) * diff.unsqueeze(-2)).sum(0)
    if layer.covariance.tied:
        dense = dense.sum(-3, keepdim=True)
    # The order of 13 additions.
    close = {"rtol": 1e-12, "atol": 1e-12}
    assert torch.equal(stats.shift, layer.means.detach())
    assert torch.allclose(stats.counts, resp.sum(0), **close)
    assert torch.allclose(stats.first, (resp.unsqueeze(-1) * diff).sum(0), **close)
    assert torch.allclose(stats.second, layer.covariance.project(dense), **close)
    assert torch.allclose(stats.log_likelihood, layer(x).detach().sum(0), **close)
    assert int(stats.num_samples) == 13
    assert stats.shift.data_ptr() != layer.means.data_ptr()


@over_families
def test_the_variance_of_the_data_does_not_depend_on_the_layer(
    family: str, generator: torch.Generator
) -> None:
    x = rows(60, 2, generator)
    variance = x.var(0, correction=0)
    if family.endswith("spherical"):
        variance = variance.mean().expand(2)
    for _ in range(3):
        layer = random_layer(family, generator=generator)
        mean, found = Moments.from_statistics(e_step(layer, x), layer.covariance).data_variance(
            layer.covariance
        )
        assert torch.allclose(mean, x.mean(0), rtol=1e-11)
        if not family.endswith("spherical"):
            assert torch.allclose(found, variance, rtol=1e-11)
        # A family that averages keeps the total.
        assert torch.allclose(found.sum(), variance.sum(), rtol=1e-11)


@over_families
def test_moments_about_the_means(family: str, generator: torch.Generator) -> None:
    layer = random_layer(family, generator=generator)
    x = rows(20, 2, generator)
    moments = Moments.from_statistics(e_step(layer, x), layer.covariance)
    resp = layer.responsibilities(x).detach()
    means = (resp.mT @ x) / resp.sum(0).unsqueeze(-1)
    scatter = layer.covariance.outer(resp, x.unsqueeze(1) - means)
    assert torch.allclose(moments.means, means, rtol=1e-11, atol=1e-11)
    assert torch.allclose(moments.scatter, scatter, rtol=1e-10, atol=1e-10)
    assert torch.equal(moments.dof, layer.covariance.sum_tied(moments.counts))


def test_moments_of_the_whole(generator: torch.Generator) -> None:
    layer = random_layer("full", num_components=1, generator=generator)
    x = rows(20, 2, generator)
    data = DataMoments.from_statistics(e_step(layer, x), layer.covariance)
    assert torch.allclose(data.mean, x.mean(0), rtol=1e-11)
    assert torch.allclose(data.covariance[0], x.mT.cov(correction=0), rtol=1e-11)


@over_families
def test_statistics_know_their_family(family: str, generator: torch.Generator) -> None:
    # D = K, where shapes of another family would broadcast silently.
    stats = e_step(random_layer(family, num_components=2, generator=generator), torch.randn(9, 2))
    for other in FAMILIES:
        one = as_covariance(other)
        if one.shape(2, 2) != as_covariance(family).shape(2, 2):
            with pytest.raises(InvalidArgumentError, match=f"the covariance '{other}' needs"):
                Moments.from_statistics(stats, one)


def test_sums_are_float64_for_any_layer(generator: torch.Generator) -> None:
    layer = random_layer("full", generator=generator).float()
    stats = e_step(layer, torch.randn(9, 2))
    assert {stats.counts.dtype, stats.first.dtype, stats.second.dtype} == {torch.float64}
    assert stats.log_likelihood.dtype == stats.num_samples.dtype == torch.float64
