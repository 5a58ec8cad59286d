"""Components that lose their rows or their volume: mended, reported, or refused, never NaN."""

from __future__ import annotations

import re

import pytest
import torch
from support.random_layers import (
    FAMILIES,
    cases,
    collapsing_rows,
    finite,
    make_priors,
    rows,
)
from torch import Tensor

from gmm_lightning import GMMLayer, e_step, fit_em, m_step
from gmm_lightning.covariances import registry
from gmm_lightning.em import CollapseEvent, initialize_layer
from gmm_lightning.errors import CollapseError

pytestmark = pytest.mark.usefixtures("double")
over_families = pytest.mark.parametrize("family", FAMILIES)
FLOOR = 1e-8


@pytest.mark.parametrize("initializer", ["kmeans", "random", "maxdist"])
@pytest.mark.parametrize("k", [2, 10])
@over_families
def test_case_12(family: str, k: int, initializer: str, generator: torch.Generator) -> None:
    # "Ones and zeros" of tests/golden/README.md, up to K = 10.
    x = collapsing_rows()
    for reg_covar in (0.0, 1e-3):
        layer = GMMLayer(5, k, registry.get(family)(reg_covar=reg_covar))
        result = fit_em(layer, x, initializer=initializer, max_iter=20, generator=generator)
        assert finite(layer)
        assert torch.isfinite(layer(x)).all()
        assert torch.isfinite(torch.tensor(result.history)).all()
        least = FLOOR * 0.25 + reg_covar
        eigenvalues = torch.linalg.eigvalsh(layer.covariance_matrix)
        # Clipped eigenvalues are right to rounding of the largest, 5 / 4 here.
        assert (eigenvalues > 0.99 * least).all()
        if reg_covar == 0.0 and initializer == "maxdist":
            assert {event.action for event in result.events} & {"floored", "emptied"}


@over_families
def test_an_empty_component_keeps_quiet(family: str, generator: torch.Generator) -> None:
    x = rows(30, 2, generator)
    layer = GMMLayer(2, 3, family)
    labels = torch.arange(30) % 2
    result = fit_em(layer, x, initializer=labels, max_iter=15, tol=0.0)
    emptied = [event for event in result.events if event.action == "emptied"]
    assert [event.component for event in emptied] == [(2,)]
    assert emptied[0].count == 0.0
    assert emptied[0].iteration == 0
    assert layer.weights[2] < 1e-300
    assert finite(layer)
    # The two others are fitted as if it were not there.
    two = GMMLayer(2, 2, family)
    fit_em(two, x, initializer=labels, max_iter=15, tol=0.0)
    assert torch.allclose(layer.means[:2], two.means, rtol=1e-9, atol=1e-9)
    assert torch.allclose(layer(x), two(x), rtol=1e-9)
    # And it is not drawn.
    assert int(layer.sample(500, return_component=True, generator=generator)[1].max()) == 1


@pytest.mark.parametrize(("family", "prior"), cases())
def test_an_empty_component_under_a_prior(
    family: str, prior: str, generator: torch.Generator
) -> None:
    x = rows(30, 2, generator)
    layer = GMMLayer(2, 3, family, make_priors(prior, given=True))
    result = fit_em(layer, x, initializer=torch.arange(30) % 2, max_iter=15, tol=0.0)
    assert finite(layer)
    # A component without rows may sit anywhere as far as the data go: only the prior moves it.
    # The normal prior alone drives it to the floor, whose densities round at 1e8 eps.
    assert (torch.tensor(result.history).diff() > -1e-7).all()


@over_families
def test_floored_components_are_reported_once(family: str) -> None:
    x = torch.cat([torch.zeros(10, 2), torch.randn(10, 2) + 9])
    labels = (torch.arange(20) >= 10).long()
    layer = GMMLayer(2, 2, family)
    result = fit_em(layer, x, initializer=labels, max_iter=8, tol=0.0)
    floored = [event for event in result.events if event.action == "floored"]
    if layer.covariance.tied:
        assert not floored
        return
    assert [event.component for event in floored] == [(0,)]
    event = floored[0]
    assert event.count == 10.0
    assert 0 <= event.smallest_eigenvalue < FLOOR
    assert str(event).startswith("component 0, iteration 0: flat in some direction, so its cov")
    unit = layer.local_scale.square()
    if family.endswith("spherical"):
        unit = unit.mean().expand(2)
    assert torch.allclose(layer.covariance_matrix[0].diagonal(), FLOOR * unit, rtol=1e-6)


@over_families
def test_events_of_a_batch_name_the_mixture(family: str) -> None:
    x = torch.randn(20, 2, 2)
    x[:10, 1] = 0.0
    labels = (torch.arange(20) >= 10).long()
    layer = GMMLayer(2, 2, registry.get(family)(relative_floor=1e-4), batch_shape=(2,))
    result = fit_em(layer, x, initializer=labels, max_iter=0)
    if layer.covariance.tied:
        assert not result.events
    else:
        assert [event.component for event in result.events] == [(1, 0)]


@over_families
def test_the_policy_to_raise(family: str, generator: torch.Generator) -> None:
    x = torch.cat([torch.zeros(10, 2), torch.randn(10, 2) + 9])
    labels = (torch.arange(20) >= 10).long()
    layer = GMMLayer(2, 2, family)
    if layer.covariance.tied:
        fit_em(layer, x, initializer=labels, collapse="raise")
        return
    with pytest.raises(CollapseError, match=r"component 0.*priors=niw keeps it away"):
        fit_em(layer, x, initializer=labels, collapse="raise")
    # With restarts, the starts that survive decide; where none does, it raises.
    with pytest.raises(CollapseError, match="held at the floor"):
        fit_em(
            GMMLayer(2, 9, family), collapsing_rows()[:, :2], collapse="raise", num_restarts=3,
            generator=generator,
        )  # fmt: skip


def test_restarts_survive_a_collapse(generator: torch.Generator) -> None:
    x = torch.cat([torch.zeros(6, 2), torch.randn(40, 2) + 4])
    layer = GMMLayer(2, 2, "full")
    result = fit_em(
        layer, x, initializer="random_from_data", num_restarts=20, collapse="raise", max_iter=30,
        generator=generator,
    )  # fmt: skip
    assert 1 <= result.num_restarts < 20
    assert not result.events
    assert len(result.restart_objectives) == result.num_restarts


@over_families
def test_a_covariance_prior_prevents_collapse(family: str, generator: torch.Generator) -> None:
    for prior in ("niw", "inverse_wishart"):
        x = torch.cat([torch.zeros(10, 2), torch.randn(10, 2) + 9])
        layer = GMMLayer(2, 2, family, prior)
        result = fit_em(layer, x, collapse="raise", generator=generator)
        assert not result.events


def test_reg_covar_prevents_collapse() -> None:
    layer = GMMLayer(5, 2, registry.get("full")(reg_covar=1e-6, relative_floor=0.0))
    result = fit_em(layer, collapsing_rows(), collapse="raise")
    expected = 1e-6 * torch.eye(5).expand(2, 5, 5)
    assert not result.events
    assert torch.allclose(layer.covariance_matrix, expected, atol=1e-15)


def shrinking(scale: float) -> Tensor:
    """Two tight groups and nothing else."""
    x = torch.randn(40, 2)
    x[:20] = 1.0 + scale * x[:20]
    return x


@pytest.mark.parametrize("scale", [1e-3, 1e-6, 0.0])
@over_families
def test_the_floor_bounds_every_eigenvalue(family: str, scale: float) -> None:
    x = shrinking(scale)
    labels = (torch.arange(40) >= 20).long()
    layer = GMMLayer(2, 2, registry.get(family)(relative_floor=1e-2))
    result = fit_em(layer, x, initializer=labels, max_iter=5, tol=0.0)
    unit = layer.local_scale.square()
    if family.endswith("spherical"):
        unit = unit.mean().expand(2)
    unit = unit.sqrt()
    scaled = layer.covariance_matrix / (unit.unsqueeze(-1) * unit)
    assert (torch.linalg.eigvalsh(scaled) > 1e-2 * (1 - 1e-9)).all()
    # Still the maximum under the constraint: the objective rises.
    assert (torch.tensor(result.history).diff() > -1e-11).all()


@over_families
def test_a_component_far_from_all_rows(family: str, generator: torch.Generator) -> None:
    x = rows(30, 2, generator)
    layer = GMMLayer(2, 2, family)
    with torch.no_grad():
        layer.means.copy_(torch.tensor([[0.0, 0.0], [1e9, 1e9]]))
    events = m_step(layer, e_step(layer, x))
    assert [event.action for event in events] == ["emptied"]
    assert isinstance(events[0], CollapseEvent)
    assert events[0].component == (1,)
    assert finite(layer)
    # It is reported when it happens, and not again.
    assert m_step(layer, e_step(layer, x)) == []


@pytest.mark.parametrize("family", ["full", "tied"])
@pytest.mark.parametrize("kind", ["collinear columns", "more features than rows"])
def test_float32_noise_does_not_lower_the_objective(family, kind, generator):
    """A dense covariance thinner than float32's noise made the objective fall by whole nats."""
    if kind == "collinear columns":
        x = torch.randn(300, 3, generator=generator, dtype=torch.float32)
        x = torch.cat([x, x[:, :1] + x[:, 1:2], x @ torch.randn(3, 2).float()], 1)
        x[:150] += 3
    else:
        x = torch.randn(10, 30, generator=generator, dtype=torch.float32)
    layer = GMMLayer(x.shape[1], 2, family, dtype=torch.float32)
    result = fit_em(layer, x, max_iter=25, tol=0.0, generator=generator)
    history = torch.tensor(result.history)
    # Some 100 nats per row are summed in float32, whose eps is 1.2e-7.
    assert (history.diff() > -1e-4).all()


# -- what events advise, followed ---------------------------------------------------------------


def spike(generator: torch.Generator) -> torch.Tensor:
    """A blob, and forty rows at one place."""
    return torch.cat([torch.randn(300, 2, generator=generator), torch.full((40, 2), 5.0)])


def test_a_component_at_the_floor_is_told_what_keeps_it_away(generator: torch.Generator) -> None:
    x = spike(generator)
    labels = (torch.arange(340) >= 300).long()
    (event,) = fit_em(GMMLayer(2, 2), x, initializer=labels).events
    assert re.search(r"held at the floor \(40 rows, .*priors=niw .*cov.relative_floor=", str(event))
    assert not fit_em(GMMLayer(2, 2, priors="niw"), x, initializer=labels).events
    # The other setting moves the floor: a hundred times the variance there.
    low, high = GMMLayer(2, 2), GMMLayer(2, 2, registry.get("full")(relative_floor=1e-6))
    for layer in (low, high):
        fit_em(layer, x, initializer=labels)
    assert torch.allclose(high.covariance_matrix[1], 100 * low.covariance_matrix[1], rtol=1e-6)


def test_what_rounding_holds_beside_a_prior_is_told_of_far_rows(generator: torch.Generator) -> None:
    x = spike(generator)
    x[-1] = 1e8
    labels = (torch.arange(340) >= 339).long()
    result = fit_em(GMMLayer(2, 2, priors="niw"), x, initializer=labels)
    assert re.search(
        "too wide in one direction .*far from all others.*leave", str(result.events[0])
    )
    # The prior bounds its likelihood.
    assert result.degenerate == []
    assert not fit_em(GMMLayer(2, 1, priors="niw"), x[:-1]).events


def test_a_dead_component_is_told_what_revives_it(generator: torch.Generator) -> None:
    centres = torch.tensor([[0.0, 0.0], [8.0, 0.0], [0.0, 8.0]])
    true = torch.arange(300) % 3
    x = centres[true] + torch.randn(300, 2, generator=generator)
    two = true.clamp(max=1)
    (event,) = fit_em(GMMLayer(2, 3), x, initializer=two).events
    assert re.search("fit.collapse=reseed .*fit.num_restarts=5", str(event))
    for options in ({"initializer": two, "collapse": "reseed"}, {"num_restarts": 5}):
        layer = GMMLayer(2, 3)
        fit_em(layer, x, generator=generator, **options)
        assert torch.allclose(layer.weights, torch.tensor(1 / 3), atol=0.02)


def test_entries_that_overflow_their_sum_are_regular(generator: torch.Generator) -> None:
    # Eight Cholesky factors have two entries of about 4e37 each, and float32 ends at 3.4e38.
    x = 1e5 * torch.randn(40, 2, generator=generator)
    x[20:] += 1e38
    layer = GMMLayer(2, 8, dtype=torch.float32)
    random = torch.rand(40, 8, generator=generator)
    initialize_layer(layer, x.float(), random / random.sum(-1, keepdim=True))
    assert finite(layer)
