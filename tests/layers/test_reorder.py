"""Components in another order: the same density, labels and priors that follow, in place."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from support.random_layers import BATCHES, FAMILIES, random_layer, rounding, rows
from torch import nn

from gmm_lightning import GMMLayer, fit_em
from gmm_lightning.errors import InvalidArgumentError
from gmm_lightning.priors import Dirichlet, NormalInverseWishart

over_families = pytest.mark.parametrize("family", FAMILIES)


@over_families
@pytest.mark.parametrize("batch", BATCHES, ids=str)
def test_the_heaviest_comes_first_and_the_density_stays(
    family: str, batch: tuple[int, ...], generator: torch.Generator
) -> None:
    layer = random_layer(
        family, "dirichlet+niw", batch=batch, num_components=4, generator=generator
    )
    x = rows(20, 2, generator, batch)
    before, labels, prior = layer(x).detach(), layer.predict(x), layer.log_prior().detach()
    parameters = [p.data_ptr() for p in layer.parameters()]
    order = layer.sort_components()
    assert order.shape == (*batch, 4)
    assert (layer.weights.diff(dim=-1) <= 0).all()
    torch.testing.assert_close(layer(x), before, rtol=rounding(1e-13), atol=rounding(1e-13))
    torch.testing.assert_close(layer.log_prior(), prior, rtol=rounding(1e-13), atol=0.0)
    assert torch.equal(
        order.expand(20, *order.shape).gather(-1, layer.predict(x)[..., None])[..., 0], labels
    )
    assert [p.data_ptr() for p in layer.parameters()] == parameters
    assert torch.equal(layer.sort_components(), torch.arange(4).expand(*batch, 4))


@over_families
def test_the_priors_of_components_go_with_them(family: str, generator: torch.Generator) -> None:
    layer = GMMLayer(
        2,
        3,
        family,
        [Dirichlet([2.0, 3.0, 4.0]), NormalInverseWishart(loc=[[0.0, 0], [1, 1], [9, 9]])],
    )
    x = rows(30, 2, generator)
    labels = torch.arange(30) % 3
    fit_em(layer, x, initializer=labels, max_iter=0)
    twin = GMMLayer.from_config(layer.to_config())
    twin.load_state_dict(layer.state_dict())
    index = torch.tensor([2, 0, 1])
    twin.reorder_components(index)
    # A step from the reordered state is the reordered step.
    for each in (layer, twin):
        fit_em(each, x, initializer=None, max_iter=3, tol=0.0, acceleration=None)
    layer.reorder_components([2, 0, 1])
    for name, value in layer.state_dict().items():
        torch.testing.assert_close(
            twin.state_dict()[name], value, rtol=rounding(1e-9), atol=rounding(1e-9)
        )
    # What is written down of it is reordered too.
    again = GMMLayer.from_config(twin.to_config())
    assert again.all_priors[0].get_buffer("concentration").tolist() == [4.0, 2.0, 3.0]


def test_ties_keep_their_order() -> None:
    layer = GMMLayer(1, 4)
    layer.set_parameters(weights=torch.tensor([0.2, 0.3, 0.2, 0.3]))
    assert layer.sort_components().tolist() == [1, 3, 0, 2]
    assert layer.sort_components(descending=False).tolist() == [2, 3, 0, 1]


@pytest.mark.parametrize(
    "index", [[0, 1], [0, 0, 2], [1, 2, 3], [[0, 1, 2]], [0.0, 1.0, 2.0], [True, False, True], 1]
)
def test_each_component_is_named_once(index: Any) -> None:
    with pytest.raises(InvalidArgumentError, match="each of the components 0 to 2 once"):
        GMMLayer(2, 3).reorder_components(index)


def test_what_refers_to_components_by_number_is_refused() -> None:
    layer = GMMLayer(2, 3)
    layer.evidence = nn.Identity()
    with pytest.raises(InvalidArgumentError, match="by number"):
        layer.sort_components()
    with pytest.raises(InvalidArgumentError, match=r"unknown by .mean.; known are: weight"):
        GMMLayer(2, 3).sort_components("mean")
