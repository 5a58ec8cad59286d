"""Variational Bayes against closed forms, scikit-learn, and the promises of its bound."""

from __future__ import annotations

import copy
import math

import numpy as np
import pytest
import torch
from sklearn.cluster import KMeans
from sklearn.mixture import BayesianGaussianMixture
from torch import Tensor

from gmm_lightning import GMMLayer, fit_em
from gmm_lightning.covariances import registry as families
from gmm_lightning.em import StochasticVB, VBResult, e_step, fit_vb
from gmm_lightning.errors import InvalidArgumentError
from gmm_lightning.priors import Dirichlet, NormalInverseWishart

pytestmark = pytest.mark.usefixtures("double")

RNG = np.random.default_rng(0)
X = np.concatenate(
    [RNG.normal(size=(40, 2)) @ RNG.normal(size=(2, 2)) + s for s in ([0, 0], [5, 1], [0, 6])]
)
PSI = np.cov(X.T)


def make(
    family: str = "full", k: int = 4, alpha: float = 0.3, df: float = 4.0, **options: object
) -> GMMLayer:
    niw = NormalInverseWishart(loc=X.mean(0), mean_precision=0.1, df=df, scale_matrix=PSI)
    return GMMLayer(2, k, family, priors=[Dirichlet(alpha), niw], **options)


def labels(k: int) -> Tensor:
    return torch.from_numpy(KMeans(k, n_init=1, random_state=0).fit(X).labels_).long()


def rises(result: VBResult) -> bool:
    """Whether the bound never falls by more than the rounding of a sum over the rows."""
    history = np.asarray(result.history)
    return bool((np.diff(history) >= -8 * np.finfo(float).eps * np.abs(history).max()).all())


def test_the_posterior_is_that_of_scikit_learn() -> None:
    peer = BayesianGaussianMixture(
        n_components=4,
        weight_concentration_prior_type="dirichlet_distribution",
        weight_concentration_prior=0.3,
        mean_precision_prior=0.1,
        mean_prior=X.mean(0),
        degrees_of_freedom_prior=4.0,
        covariance_prior=PSI,
        reg_covar=0,
        tol=1e-13,
        max_iter=5000,
        random_state=0,
    ).fit(X)
    result = fit_vb(make(), X, initializer=labels(4), tol=1e-14, max_iter=5000)
    weights, own = result.posterior.weights.parameters[0], result.posterior.components
    theirs, ours = np.argsort(peer.means_[:, 0]), own.loc[0, :, 0].argsort()
    scatter = peer.covariances_ * peer.degrees_of_freedom_[:, None, None]
    for one, other in (
        (peer.weight_concentration_, weights),
        (peer.means_, own.loc[0]),
        (peer.mean_precision_, own.mean_precision[0]),
        (peer.degrees_of_freedom_, own.df[0]),
        (scatter, own.scale_matrix[0]),
    ):
        np.testing.assert_allclose(one[theirs], other[ours], rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("family", families.names)
def test_the_bound_rises_and_tends_to_the_evidence(family: str) -> None:
    result = fit_vb(make(family), X, num_restarts=2, generator=0, tol=1e-9)
    assert result.converged
    assert rises(result)
    annealed = fit_vb(make(family), X, generator=0, annealing=0.3, max_iter=60)
    assert np.isfinite(annealed.bound)


@pytest.mark.parametrize("family", families.names)
def test_the_bound_of_one_component_is_the_evidence(family: str) -> None:
    """Of one component the posterior is exact: the evidence is a product of predictives."""
    layer, log_evidence = make(family, k=1), 0.0
    rows = torch.from_numpy(X[:12])
    result = fit_vb(layer, rows)
    posterior = result.prior
    for i, row in enumerate(rows):
        log_evidence += float(posterior.predictive().log_prob(row).squeeze())
        posterior = fit_vb(make(family, k=1), rows[: i + 1]).posterior
    # Twelve logarithms and lgammas of numbers below 100.
    assert result.bound * 12 == pytest.approx(log_evidence, rel=1e-11)
    own, last = posterior.components, result.posterior.components
    torch.testing.assert_close(own.scale_matrix, last.scale_matrix)


@pytest.mark.parametrize("family", ["full", "tied", "diag", "spherical"])
def test_the_bound_is_below_the_evidence_by_importance_sampling(family: str) -> None:
    # Two clusters apart: the posterior has one mode for each labelling, and draws stay in one.
    rows, k, draws = torch.from_numpy(np.concatenate([X[:7], X[-7:]])), 2, 20_000
    result = fit_vb(make(family, k=k, alpha=2.0), rows, generator=1)
    q, p = (
        one.select(torch.zeros(draws, dtype=torch.long)) for one in (result.posterior, result.prior)
    )
    generator = torch.Generator().manual_seed(0)
    log_pi = q.weights.sample(generator)
    means, scale = q.components.sample(generator)
    layer = make(family, k=k)
    mixture = layer.distribution().__class__(log_pi, means, scale, layer.covariance)
    log_likelihood = mixture.log_prob(rows[:, None]).sum(0)
    ratio = log_likelihood + p.log_prob(log_pi, means, scale) - q.log_prob(log_pi, means, scale)
    log_evidence = float(ratio.logsumexp(0)) - math.log(draws)
    gap = log_evidence - result.bound * len(rows)
    share = (2 * ratio.logsumexp(0) - (2 * ratio).logsumexp(0)).exp()
    # Four standard errors of the estimate by its effective sample size.
    error = 4 / float(share) ** 0.5
    assert share > 50
    assert -error < gap < 2.0 + error


def test_superfluous_components_are_emptied() -> None:
    result = fit_vb(make(k=10, alpha=1e-3), X, generator=0, max_iter=2000)
    counts = result.posterior.weights.parameters[0] - 1e-3
    assert int((counts > 1).sum()) == 3


def test_weights_batches_streams_and_restarts_agree() -> None:
    start, k = labels(4), 4
    whole = fit_vb(make(k=k), X, initializer=start, max_iter=7, tol=0.0)

    def same(other: VBResult, *, rtol: float = 1e-9) -> None:
        for name in ("loc", "scale_matrix", "df"):
            expected = getattr(whole.posterior.components, name)
            torch.testing.assert_close(
                getattr(other.posterior.components, name)[:1], expected, rtol=rtol, atol=1e-9
            )

    same(fit_vb(make(k=k), X, initializer=start, max_iter=7, tol=0.0, chunk_size=17))
    doubled = fit_vb(
        make(k=k),
        np.repeat(X, 2, 0),
        initializer=start.repeat_interleave(2),
        sample_weight=np.full(len(X) * 2, 0.5),
        max_iter=7,
        tol=0.0,
    )
    same(doubled)
    nothing = fit_vb(make(k=k), X, initializer=start, max_iter=7, tol=0.0, missing="em")
    same(nothing)
    layer = make(k=k, batch_shape=(2,))
    batch = fit_vb(layer, np.stack([X, X * 2], 1), initializer=start, max_iter=7, tol=0.0)
    same(batch)
    layer = make(k=k)
    fit_vb(layer, X, initializer=start, max_iter=7, tol=0.0)
    stream = [torch.from_numpy(part) for part in np.array_split(X, 5)]
    one = fit_vb(layer, X, initializer=None, max_iter=1, tol=0.0)
    other = make(k=k)
    fit_vb(other, X, initializer=start, max_iter=7, tol=0.0)
    two = fit_vb(other, stream, initializer=None, max_iter=1, tol=0.0)
    torch.testing.assert_close(
        one.posterior.components.loc, two.posterior.components.loc, rtol=1e-9, atol=1e-9
    )


def test_the_bound_does_not_depend_on_units_but_for_the_jacobian() -> None:
    scale = torch.tensor([3.0, 0.01])
    result = fit_vb(GMMLayer(2, 3), X, initializer=labels(3), tol=1e-10)
    other = fit_vb(GMMLayer(2, 3), torch.from_numpy(X) * scale, initializer=labels(3), tol=1e-10)
    assert other.bound + float(scale.log().sum()) == pytest.approx(result.bound, rel=1e-9)


def test_label_permutations_add_their_logarithm() -> None:
    plain = fit_vb(make(), X, initializer=labels(4))
    more = fit_vb(make(), X, initializer=labels(4), label_permutations=True)
    assert (more.bound - plain.bound) * len(X) == pytest.approx(math.log(24), rel=1e-6)


def test_missing_entries_are_integrated_out() -> None:
    holed = torch.from_numpy(X).clone()
    holed[::7, 0] = torch.nan
    result = fit_vb(make(k=3), holed, missing="em", generator=0, tol=1e-9)
    assert rises(result)
    assert result.converged


def test_known_classes_are_read() -> None:
    classes = torch.arange(3).repeat_interleave(40)
    known = classes.clone()
    known[torch.rand(len(known), generator=torch.Generator().manual_seed(0)) < 0.5] = -1
    layer = make(k=3)
    result = fit_vb(layer, X, labels=known, generator=0)
    assert rises(result)
    assert (layer.predict_class(X) == classes).double().mean() > 0.97


@pytest.mark.parametrize(
    ("layer", "words"),
    [
        (GMMLayer(2, 3, priors="niw"), "proper"),
        (GMMLayer(2, 3, priors="normal"), "none on the covariances"),
        (GMMLayer(2, 3, noise="uniform"), "noise"),
        (GMMLayer(2, 3, bounds={"variance": [1e-3, 10.0]}), "constraints"),
    ],
)
def test_what_has_no_posterior_is_named(layer: GMMLayer, words: str) -> None:
    before = {name: value.clone() for name, value in layer.named_parameters()}
    with pytest.raises(InvalidArgumentError, match=words):
        fit_vb(layer, X, generator=0)
    for name, value in layer.named_parameters():
        assert torch.equal(value, before[name])


@pytest.mark.parametrize("family", families.names)
def test_a_singular_prior_is_explained(family: str) -> None:
    rows = np.concatenate([X, np.ones((len(X), 1))], 1)
    layer = GMMLayer(3, 2, family)
    if layer.covariance.name in ("spherical", "tied_spherical"):
        assert np.isfinite(fit_vb(layer, rows, generator=0).bound)
        return
    with pytest.raises(InvalidArgumentError, match=r"features \[2\] are constant"):
        fit_vb(layer, rows, generator=0)
    with pytest.raises(InvalidArgumentError, match="is singular"):
        fit_vb(GMMLayer(2, 1, family), X[:1])


def test_options_out_of_range_are_named() -> None:
    for options, words in (
        ({"max_iter": 0}, "max_iter"),
        ({"tol": -1.0}, "tol"),
        ({"stopping": "responsibilities"}, "aitken, gain or relative"),
        ({"num_restarts": 2, "initializer": labels(4)}, "draws at random"),
    ):
        with pytest.raises(InvalidArgumentError, match=words):
            fit_vb(make(), X, **options)


def test_the_layer_is_near_the_mode_with_many_rows() -> None:
    rows = np.concatenate([X + 1e-3 * RNG.normal(size=X.shape) for _ in range(50)])
    (vb, em), start = (make(k=3), make(k=3)), labels(3).repeat(50)
    fit_vb(vb, rows, initializer=start, tol=1e-10)
    fit_em(em, rows, initializer=start, tol=1e-10)
    # They differ by terms of order D / n_k.
    torch.testing.assert_close(vb.means, em.means, rtol=0, atol=5e-3)


def test_batches_lead_to_the_posterior_of_all_rows() -> None:
    start, reference = make(k=3), make(k=3)
    fit_em(start, X, initializer=labels(3), max_iter=1)
    best = fit_vb(reference, X, initializer=labels(3), tol=1e-10)
    stream = StochasticVB(start, num_samples=len(X), exponent=0.6)
    generator = torch.Generator().manual_seed(0)
    rows = torch.from_numpy(X)
    for _ in range(60):
        for batch in rows[torch.randperm(len(X), generator=generator)].split(30):
            stream.partial_fit(batch)
    end = fit_vb(start, X, initializer=None, max_iter=1, tol=0.0)
    # Of the order of the last step sizes, (240)^-0.6, squared.
    assert best.bound - 5e-3 < end.history[0] <= best.bound + 1e-12
    again = StochasticVB(copy.deepcopy(start), num_samples=len(X), exponent=0.6)
    again.load_state_dict(stream.state_dict())
    again.partial_fit(rows[:30])
    stream.partial_fit(rows[:30])
    assert torch.equal(again.posterior.components.loc, stream.posterior.components.loc)


def test_a_whole_batch_with_a_whole_step_is_a_pass() -> None:
    other = make(k=3)
    fit_em(other, X, initializer=labels(3), max_iter=0)
    stream = StochasticVB(other, num_samples=len(X), step_size=1.0)
    for _ in range(3):
        stream.partial_fit(X)
    layer = make(k=3)
    fit_em(layer, X, initializer=labels(3), max_iter=0)
    expected = StochasticVB(layer, num_samples=len(X)).posterior
    for _ in range(3):
        given = expected.expected_parameters(torch.float64).parameters
        given.write_to(layer)
        expected = stream.prior.updated(e_step(layer, X).reshape((1,)))
    torch.testing.assert_close(expected.components.loc, stream.posterior.components.loc)


@pytest.mark.parametrize("family", ["full", "diag", "spherical", "tied"])
def test_moves_leave_a_poor_optimum_and_never_lower_the_bound(family: str) -> None:
    # Two of the three clusters share a component, and one has none.
    poor = torch.zeros(len(X), dtype=torch.long)
    poor[:40] = 1
    plain = fit_vb(make(family, k=3, alpha=0.1), X, initializer=poor, tol=1e-9)
    moved = fit_vb(
        make(family, k=3, alpha=0.1), X, initializer=poor, tol=1e-9, num_moves=4, generator=0
    )
    best = fit_vb(make(family, k=3, alpha=0.1), X, initializer=labels(3), tol=1e-9)
    assert moved.bound >= plain.bound
    assert rises(moved)
    assert moved.bound == pytest.approx(best.bound, abs=1e-6)
    again = fit_vb(
        make(family, k=3, alpha=0.1), X, initializer=labels(3), tol=1e-9, num_moves=2, generator=0
    )
    assert again.bound >= best.bound - 1e-12


@pytest.mark.parametrize("family", families.names)
def test_draws_have_the_moments_and_the_predictive_density(family: str) -> None:
    layer, number = make(family, k=2, df=8.0), 20_000
    result = fit_vb(layer, X, generator=0)
    generator = torch.Generator().manual_seed(0)
    draws = result.posterior.sample(number, generator)
    own = result.posterior.components
    error = draws.means[:, 0].std(0) / number**0.5
    assert ((draws.means[:, 0].mean(0) - own.loc[0]).abs() < 5 * error).all()
    precision = torch.linalg.inv(draws.component_covariances[:, 0])
    expected = torch.linalg.inv(layer.covariance_matrix.detach())
    assert ((precision.mean(0) - expected).abs() <= 5 * precision.std(0) / number**0.5).all()
    # The mean density of the draws is that of the next row.
    rows = torch.from_numpy(X[::30])
    density = draws.log_prob(rows[:, None, None]).exp().squeeze(-1)
    exact = result.posterior.predictive().log_prob(rows[:, None]).exp().squeeze(-1)
    assert ((density.mean(-1) - exact).abs() < 5 * density.std(-1) / number**0.5).all()
    drawn = result.posterior.predictive().sample(number, generator=1).squeeze(1)
    center = result.posterior.predictive().mean.squeeze(0)
    assert ((drawn.mean(0) - center).abs() < 5 * drawn.std(0) / number**0.5).all()
