"""Sums about a shift, and what they say of the data."""

from __future__ import annotations

import pytest
import torch
from support.random_layers import BATCHES, FAMILIES, random_layer, rows

from gmm_lightning import e_step
from gmm_lightning.covariances import as_covariance
from gmm_lightning.errors import InvalidArgumentError
from gmm_lightning.priors import DataMoments
from gmm_lightning.statistics import Moments, WeightedMoments

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
def test_families_by_name(family: str, generator: torch.Generator) -> None:
    layer = random_layer(family, generator=generator)
    stats, own = e_step(layer, rows(13, 2, generator)), layer.covariance
    named, moments = (Moments.from_statistics(stats, each) for each in (family, own))
    assert torch.equal(named.scatter, moments.scatter)
    assert torch.equal(named.data_variance(family)[1], moments.data_variance(own)[1])
    shift = stats.shift + 1
    assert torch.equal(stats.about(shift, family).second, stats.about(shift, own).second)


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


# -- weighted moments -----------------------------------------------------------------------------


@pytest.mark.parametrize("shape", [(), (3,)], ids=str)
@pytest.mark.parametrize("weighted", [False, True])
def test_weighted_moments_of_any_split(
    shape: tuple[int, ...], weighted: bool, generator: torch.Generator
) -> None:
    # An offset of 1e8 deviations: sums of squares about 0 would have no digit left.
    x = 1e8 + torch.randn(50, *shape, generator=generator)
    weight = torch.randint(4, (50,), generator=generator).double() if weighted else None
    whole = WeightedMoments.of(x, weight)
    repeated = x if weight is None else x.repeat_interleave(weight.long(), 0)
    assert float(whole.weight) == len(repeated)
    # Rows hold the offset to eps times 1e8, and so does their mean; deviations are exact.
    eps = torch.finfo(torch.float64).eps
    torch.testing.assert_close(whole.mean, repeated.mean(0), rtol=4 * eps, atol=0)
    expected = (repeated - 1e8).var(0, correction=0)
    torch.testing.assert_close(whole.variance, expected, rtol=1e-7, atol=0)
    parts = [slice(0, 1), slice(1, 1), slice(1, 30), slice(30, 50)]
    moments = [WeightedMoments.of(x[p], None if weight is None else weight[p]) for p in parts]
    total = sum(moments[1:], start=moments[0])
    assert float(total.weight) == len(repeated)
    torch.testing.assert_close(total.mean, whole.mean, rtol=4 * eps, atol=0)
    torch.testing.assert_close(total.variance, whole.variance, rtol=1e-7, atol=0)


def test_weighted_moments_without_rows() -> None:
    nothing = WeightedMoments.of(torch.zeros(0, 2))
    assert float(nothing.weight) == 0.0
    assert nothing.mean.tolist() == [0.0, 0.0]
    assert nothing.variance.tolist() == [0.0, 0.0]
    one = WeightedMoments.of(torch.tensor([[1.0, 2.0]]))
    for total in (nothing + one, one + nothing):
        assert total.mean.tolist() == [1.0, 2.0]
        assert total.variance.tolist() == [0.0, 0.0]
    # A row of weight 0 changes nothing.
    dropped = WeightedMoments.of(torch.tensor([[9.0, 9.0]]), torch.zeros(1))
    assert (one + dropped).mean.tolist() == [1.0, 2.0]
