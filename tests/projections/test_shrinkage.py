from __future__ import annotations

import pytest
import torch
from sklearn.covariance import ledoit_wolf as peer
from support.random_layers import FAMILIES, finite, rows

from gmm_lightning import GMMLayer, e_step, fit_em, m_step
from gmm_lightning.errors import InvalidArgumentError
from gmm_lightning.projections import Shrinkage, ledoit_wolf


def test_ledoit_wolf_is_scikit_learns(generator: torch.Generator) -> None:
    x = torch.randn(12, 5, generator=generator) @ torch.randn(5, 5, generator=generator)
    covariance, share = ledoit_wolf(x)
    expected, rho = peer(x.numpy())
    torch.testing.assert_close(covariance, torch.as_tensor(expected), rtol=1e-12, atol=1e-12)
    assert float(share) == pytest.approx(rho, rel=1e-12)
    doubled = ledoit_wolf(torch.cat([x, x]), torch.full((24,), 0.5))[0]
    assert not torch.equal(doubled, covariance)


@pytest.mark.parametrize("kind", ["oas", "rblw"])
def test_the_formula(kind: str, generator: torch.Generator) -> None:
    """One component: the published formula on the covariance of the rows."""
    n, d = 9, 6
    x = torch.randn(n, d, generator=generator)
    layer = GMMLayer(d, 1)
    layer.projections.append(Shrinkage(kind))
    m_step(layer, e_step(layer, x))
    gap = x - x.mean(0)
    s = gap.mT @ gap / n
    trace, square = s.trace(), (s @ s).trace()
    if kind == "oas":
        above, count = (1 - 2 / d) * square + trace**2, n + 1 - 2 / d
    else:
        above, count = (n - 2) / n * square + trace**2, n + 2
    rho = min(1.0, float(above / (count * (square - trace**2 / d))))
    expected = (1 - rho) * s + rho * trace / d * torch.eye(d)
    torch.testing.assert_close(layer.covariance_matrix[0].detach(), expected, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("family", FAMILIES)
def test_every_family_can_be_shrunk(family: str, generator: torch.Generator) -> None:
    layer = GMMLayer(2, 3, family)
    layer.projections.append(Shrinkage())
    fit_em(layer, rows(30, 2, generator), num_restarts=2, max_iter=5, generator=generator)
    assert finite(layer)


def test_refuses_an_unknown_kind() -> None:
    with pytest.raises(InvalidArgumentError, match="unknown kind 'best'; known are: oas, rblw"):
        Shrinkage("best")
