"""Even draws: the distribution of every row, the spread of all of them, and pairs."""

from __future__ import annotations

import pytest
import torch
from scipy import stats
from support.goodness_of_fit import assert_follows, mixture_of
from support.random_layers import random_layer

from gmm_lightning.distributions import Box
from gmm_lightning.errors import InvalidArgumentError

pytestmark = pytest.mark.usefixtures("double")


def test_components_are_stratified(generator: torch.Generator) -> None:
    mixture = mixture_of([0.1, 0.3, 0.6], [[0.0, 0.0], [3.0, 0.0], [0.0, 5.0]])
    _, z = mixture.sample(1024, quasi=True, return_component=True, generator=generator)
    # A net in base 2: every cell of width 1 / 1024 holds one point.
    off = torch.bincount(z) - 1024 * mixture.weights
    assert off.abs().max() < 1
    assert (z.diff() != 0).sum() > 300


def test_means_converge_faster(generator: torch.Generator) -> None:
    mixture = mixture_of([0.3, 0.7], [[0.0, 0.0], [1.0, 2.0]], torch.tensor([[1.0, 0], [0.5, 1.0]]))

    def spread(**kind: bool) -> float:
        means = [mixture.sample(1024, generator=generator, **kind).mean(0) for _ in range(50)]
        error = torch.stack(means) - mixture.mean
        # Unbiased: five standard errors of fifty replicates.
        assert (error.mean(0).abs() < 5 * error.std(0) / 50**0.5).all()
        return float(error.square().mean())

    free = spread()
    # Measured: a thousandth of the variance and less for quasi-random points; pairs lose what
    # components hold within, here between a tenth and a third.
    assert spread(quasi=True) < free / 200
    assert spread(antithetic=True) < free


@pytest.mark.parametrize("kind", ["quasi", "antithetic"])
def test_each_row_is_distributed_as_the_mixture(kind: str, generator: torch.Generator) -> None:
    mixture = mixture_of([0.3, 0.7], [[0.0], [3.0]])
    rows = [mixture.sample(2, generator=generator, **{kind: True}) for _ in range(500)]
    for i in (0, 1):
        x = torch.stack([pair[i, 0] for pair in rows])
        assert_follows(x, lambda t: 0.3 * stats.norm.cdf(t) + 0.7 * stats.norm.cdf(t - 3))


def test_pairs(generator: torch.Generator) -> None:
    layer = random_layer("full", batch=(2,), generator=generator)
    x, z = layer.distribution().sample(
        7, antithetic=True, return_component=True, temperature=2.0, generator=generator
    )
    centre = layer.means.gather(1, z.T[..., None].expand(-1, -1, 2)).transpose(0, 1)
    off = x - centre
    assert torch.equal(z[0:6:2], z[1:6:2])
    torch.testing.assert_close(off[0:6:2], -off[1:6:2])


@pytest.mark.parametrize("kind", ["quasi", "antithetic"])
def test_shapes(kind: str, generator: torch.Generator) -> None:
    mixture = random_layer("tied", batch=(2, 3), generator=generator).distribution()
    for sample_shape in ((), (4,), (4, 5), (0,)):
        x, z = mixture.sample(sample_shape, return_component=True, **{kind: True})
        assert x.shape == (*sample_shape, 2, 3, 2)
        assert z.shape == (*sample_shape, 2, 3)
        assert x.isfinite().all()
    one = mixture.sample(64, component=1, generator=generator.manual_seed(1), **{kind: True})
    same = mixture.sample(64, component=1, generator=generator.manual_seed(1), **{kind: True})
    assert torch.equal(one, same)


def test_refuses(generator: torch.Generator) -> None:
    mixture = mixture_of([1.0], [[0.0]])
    with pytest.raises(InvalidArgumentError, match="choose one"):
        mixture.sample(4, quasi=True, antithetic=True)
    with pytest.raises(InvalidArgumentError, match="independent ones only"):
        mixture.sample(4, quasi=True, within=Box(0.0, 1.0))
    wide = random_layer("diag", num_features=21_201, generator=generator).distribution()
    with pytest.raises(InvalidArgumentError, match="at most 21200 features, got 21201"):
        wide.sample(2, quasi=True)
