"""The two steps: parity with scikit-learn, offsets, scales, odd arrays, extension points."""

from __future__ import annotations

import copy
import math
import re
from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np
import pytest
import torch
from sklearn.mixture import GaussianMixture
from support.evidence import LabelEvidence
from support.random_layers import FAMILIES, finite, parameters, random_layer, rows
from torch import Tensor

from gmm_lightning import GMMLayer, e_step, fit_em, m_step
from gmm_lightning.covariances import registry
from gmm_lightning.errors import InvalidArgumentError, InvalidDataError
from gmm_lightning.rows import Batch

over_families = pytest.mark.parametrize("family", FAMILIES)
double = pytest.mark.usefixtures("double")


# -- scikit-learn -------------------------------------------------------------------------------


@double
@pytest.mark.parametrize("reg_covar", [0.0, 1e-6, 0.3])
@pytest.mark.parametrize("family", ["full", "diag", "spherical", "tied"])
def test_one_step_equals_scikit_learn(
    family: str, reg_covar: float, generator: torch.Generator
) -> None:
    x = rows(80, 3, generator)
    resp = torch.rand(80, 4, generator=generator)
    resp = resp / resp.sum(-1, keepdim=True)
    layer = GMMLayer(3, 4, registry.get(family)(reg_covar=reg_covar))
    fit_em(layer, x, initializer=resp, max_iter=0)
    theirs = GaussianMixture(4, covariance_type=family, reg_covar=reg_covar)
    theirs._initialize(x.cpu().numpy(), resp.cpu().numpy())
    dense = torch.as_tensor(theirs.covariances_)
    if family == "diag":
        dense = dense.diag_embed()
    elif family == "spherical":
        dense = dense[:, None, None] * torch.eye(3)
    # scikit-learn adds 10 eps to every count.
    close = {"rtol": 1e-10, "atol": 1e-10}
    assert torch.allclose(layer.weights, torch.as_tensor(theirs.weights_), **close)
    assert torch.allclose(layer.means, torch.as_tensor(theirs.means_), **close)
    assert torch.allclose(layer.covariance_matrix, dense.expand(4, 3, 3), **close)
    numbers = x.cpu().numpy()
    assert torch.allclose(layer(x), torch.as_tensor(theirs.score_samples(numbers)), **close)
    theirs_resp = torch.as_tensor(theirs.predict_proba(numbers))
    assert torch.allclose(layer.responsibilities(x), theirs_resp, **close)
    assert layer.predict(x).tolist() == theirs.predict(numbers).tolist()
    assert layer.num_free_parameters == theirs._n_parameters()


# -- offsets and scales -------------------------------------------------------------------------


def two_blobs(generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """Rows with all their digits in float32 after an offset of 1e4, and labels."""
    x = torch.randn(200, 2, generator=generator, device=generator.device, dtype=torch.float64)
    x[:100] += 8.0
    labels = (torch.arange(200) >= 100).long()
    return (x * 256).round() / 256, labels


@pytest.mark.parametrize(
    ("dtype", "offset"), [(torch.float32, 1e4), (torch.float64, 1e4), (torch.float64, 1e8)]
)
@over_families
def test_an_offset_does_not_change_the_covariances(
    family: str, dtype: torch.dtype, offset: float, generator: torch.Generator
) -> None:
    # "Two atoms far off" of tests/golden/README.md, at an offset.
    x, labels = two_blobs(generator)
    fitted = []
    for moved, kind in ((x, torch.float64), (x + offset, dtype)):
        layer = GMMLayer(2, 2, family, dtype=kind)
        fit_em(layer, moved, initializer=labels, max_iter=5, tol=0.0)
        fitted.append([layer.covariance_matrix.double(), layer.weights.double()])
    # docs/numerics.md, 10, for float32; float64 at 1e8 has rows exact to 1e-8.
    close = 1e-3 if dtype == torch.float32 else 1e-5
    assert torch.allclose(fitted[0][0], fitted[1][0], rtol=close, atol=close)
    assert torch.allclose(fitted[0][1], fitted[1][1], atol=0.1 * close)


@pytest.mark.parametrize("family", ["spherical", "full", "diag"])
def test_two_points_far_apart_in_float32(family: str) -> None:
    # "Two atoms far off": {9999, 0} in float32 with reg_covar = 0.1 gave scikit-learn 112.1.
    layer = GMMLayer(1, 2, registry.get(family)(reg_covar=0.1), dtype=torch.float32)
    fit_em(layer, [[9999.0], [0.0]], max_iter=10)
    expected = torch.full((2, 1, 1), 0.1)
    assert torch.allclose(layer.covariance_matrix.to(expected), expected, rtol=1e-5)
    free = GMMLayer(
        1, 2, registry.get(family)(reg_covar=0.1, relative_floor=0.0), dtype=torch.float32
    )
    fit_em(free, [[9999.0], [0.0]], max_iter=10)
    assert torch.allclose(free.covariance_matrix.double(), torch.tensor(0.1).double(), rtol=1e-6)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("scale", [1e-8, 1e12])
@over_families
def test_scales(family: str, scale: float, dtype: torch.dtype, generator: torch.Generator) -> None:
    x, labels = two_blobs(generator)
    fitted = []
    for factor in (1.0, scale):
        layer = GMMLayer(2, 2, family, dtype=dtype)
        result = fit_em(layer, factor * x, initializer=labels, max_iter=4, tol=0.0)
        assert not result.events
        fitted.append((layer.means.double() / factor, layer.covariance_matrix.double() / factor**2))
    # Rounding of the rows after the change of units.
    close = 1e-4 if dtype == torch.float32 else 1e-12
    for a, b in zip(*fitted, strict=True):
        assert torch.allclose(a, b, rtol=close, atol=close)


@over_families
def test_float32_agrees_with_float64(family: str, generator: torch.Generator) -> None:
    x, labels = two_blobs(generator)
    x = x + 1e4
    fits = {}
    for dtype in (torch.float32, torch.float64):
        layer = GMMLayer(2, 2, family, dtype=dtype)
        result = fit_em(layer, x, initializer=labels, max_iter=20, tol=0.0)
        fits[dtype] = (layer.double(), result.log_likelihood)
    (single, one), (exact, other) = fits[torch.float32], fits[torch.float64]
    # docs/numerics.md, 10.
    assert torch.allclose(single.covariance_matrix, exact.covariance_matrix, rtol=1e-3, atol=1e-4)
    assert torch.allclose(single.weights, exact.weights, atol=1e-4)
    assert one == pytest.approx(other, rel=1e-5)


# -- degenerate columns and rows ----------------------------------------------------------------


@double
@pytest.mark.parametrize("value", [0.0, 7.3, 1e8 + 0.1, -1e-9])
@over_families
def test_a_constant_column(family: str, value: float, generator: torch.Generator) -> None:
    x = torch.cat([rows(60, 2, generator), torch.full((60, 1), value)], 1)
    layer = GMMLayer(3, 2, family)
    result = fit_em(layer, x, max_iter=30, generator=generator)
    assert finite(layer)
    assert torch.allclose(layer.means[:, 2], torch.tensor(value), rtol=1e-13, atol=1e-13)
    deviation = layer.covariance_matrix[:, 2, 2].sqrt().detach()
    if not family.endswith("spherical"):
        assert torch.allclose(deviation, torch.tensor(0.5 / math.pi).sqrt(), rtol=1e-6)
        # Left out of the eigenvalue test, and of the others' fit.
        assert [event.action for event in result.events] == ["constant"]
        plain = GMMLayer(2, 2, family)
        fit_em(plain, x[:, :2], initializer=layer.predict(x), max_iter=0)
        again = GMMLayer(3, 2, family)
        fit_em(again, x, initializer=layer.predict(x), max_iter=0)
        assert torch.allclose(
            again.covariance_matrix[:, :2, :2], plain.covariance_matrix, rtol=1e-10, atol=1e-10
        )


@double
@over_families
def test_a_single_row(family: str) -> None:
    layer = GMMLayer(2, 1, family)
    fit_em(layer, [[3.0, -1.0]])
    assert layer.means.tolist() == [[3.0, -1.0]]
    assert finite(layer)


@double
@pytest.mark.parametrize("d", [1, 3])
@over_families
def test_one_component_is_the_moments(family: str, d: int, generator: torch.Generator) -> None:
    x = rows(40, d, generator)
    layer = GMMLayer(d, 1, family)
    result = fit_em(layer, x)
    gap = x - x.mean(0)
    dense = gap.mT @ gap / 40
    expected = layer.covariance.project(dense)
    found = layer.covariance.project(layer.covariance_matrix[0])
    assert torch.allclose(layer.means[0], x.mean(0), rtol=1e-12, atol=1e-13)
    assert torch.allclose(found, expected, rtol=1e-11)
    assert result.converged
    assert result.num_iterations <= 2


# -- what rows may be ---------------------------------------------------------------------------

ARRAYS: dict[str, Callable[[np.ndarray], Any]] = {
    "int64": lambda a: a.astype(np.int64),
    "uint8": lambda a: a.astype(np.uint8),
    "uint16": lambda a: a.astype(np.uint16),
    "float16": lambda a: a.astype(np.float16),
    "float32": lambda a: a.astype(np.float32),
    "longdouble": lambda a: a.astype(np.longdouble),
    "big-endian": lambda a: a.astype(">f8"),
    "big-endian integers": lambda a: a.astype(">i4"),
    "fortran order": np.asfortranarray,
    "negative strides": lambda a: a[::-1, ::-1][::-1, ::-1],
    "reversed view": lambda a: a[::-1].copy()[::-1],
    "read-only": lambda a: np.broadcast_to(a, a.shape),
    "strided": lambda a: np.repeat(a, 2, 0)[::2],
    "nested lists": lambda a: a.tolist(),
    "list of rows": list,
    "list of tensors": lambda a: [torch.as_tensor(row) for row in a],
    "tensor": torch.as_tensor,
    "bfloat16": lambda a: torch.as_tensor(a).to(torch.bfloat16),
    "half": lambda a: torch.as_tensor(a).half(),
    "int8 tensor": lambda a: torch.as_tensor(a).to(torch.int8),
    "with gradient": lambda a: torch.as_tensor(a).clone().requires_grad_(),
    "transposed": lambda a: torch.as_tensor(a.T.copy()).T,
}


@double
@pytest.mark.parametrize("kind", ARRAYS)
def test_rows_of_any_kind(kind: str, generator: torch.Generator) -> None:
    layer = random_layer("full", generator=generator)
    # Small integers, which every dtype holds exactly.
    numbers = np.random.default_rng(0).integers(0, 9, (15, 2)).astype(np.float64)
    plain = e_step(layer, torch.as_tensor(numbers).to(layer.means.device))
    given = ARRAYS[kind](numbers)
    assert torch.equal(e_step(layer, given).pack(), plain.pack())
    labels = torch.arange(15) % 3
    fitted = []
    for x in (given, numbers):
        fit_em(layer, x, initializer=labels, max_iter=2)
        fitted.append(parameters(layer))
    assert all(torch.equal(a, b) for a, b in zip(*fitted, strict=True))


@double
@pytest.mark.parametrize("kind", [bool, np.bool_])
def test_boolean_rows(kind: type) -> None:
    x = np.random.default_rng(0).random((30, 3)) > 0.5
    layer = GMMLayer(3, 2)
    fit_em(layer, x.astype(kind).tolist() if kind is bool else x, max_iter=5)
    assert finite(layer)


@double
def test_rows_are_not_changed(generator: torch.Generator) -> None:
    x = rows(20, 2, generator)
    before = x.clone()
    fit_em(GMMLayer(2, 3, "full", "niw"), x, max_iter=3)
    assert torch.equal(x, before)


@pytest.mark.parametrize(
    ("x", "words"),
    [
        ([1.0, 2.0, 3.0], r"\(N, 2\), got .* \(3,\); one feature is x\.reshape\(-1, 1\)"),
        ([[1.0, 2.0, 3.0]], r"\(N, 2\), got an array of shape \(1, 3\)"),
        (torch.tensor(3.0), r"got an array of shape \(\)"),
        ([[1, 2], [3]], "rectangular"),
        ([["a", "b"]], "must hold numbers"),
        ([[1j, 2.0]], "must hold numbers|real numbers"),
        (torch.ones(3, 2, dtype=torch.complex64), "real numbers, got dtype torch.complex64"),
        (torch.ones(3, 2).to_sparse(), "must be dense"),
        (
            [[1.0, float("nan")], [0.0, 0.0], [float("inf"), 1.0]],
            r"row\(s\) 0, 2; drop them, or use",
        ),
    ],
)
def test_refuses_rows(x: Any, words: str) -> None:
    layer = GMMLayer(2, 2)
    before = parameters(layer)
    with pytest.raises(InvalidDataError, match=words):
        e_step(layer, x)
    with pytest.raises(InvalidDataError, match=words):
        fit_em(layer, x)
    assert all(torch.equal(a, b) for a, b in zip(before, parameters(layer), strict=True))


def test_many_bad_rows_are_counted() -> None:
    x = torch.full((30, 2), float("nan"))
    with pytest.raises(InvalidDataError, match=r"row\(s\) 0, 1, .*, 9 and 20 more"):
        fit_em(GMMLayer(2, 2), x)


def test_a_sum_that_overflows_is_not_a_bad_row() -> None:
    x = torch.full((4, 1), 6e4, dtype=torch.float16)
    x[:2] = -1.0
    layer = GMMLayer(1, 2)
    fit_em(layer, x, max_iter=2)
    # The two values, to the digits of float16.
    assert sorted(layer.means.flatten().tolist()) == pytest.approx([-1.0, 6e4], rel=2**-11)


@pytest.mark.parametrize("value", [1e30, 1e38])
@over_families
def test_rows_too_large_for_float32(family: str, value: float) -> None:
    layer = GMMLayer(2, 2, family, dtype=torch.float32)
    x = torch.tensor([[0.0, 1.0], [value, 2.0], [3.0, 1.0], [1.0, 1.0]])
    for run in (partial(fit_em, generator=torch.Generator(x.device).manual_seed(0)), e_step):
        # Products in float64 hold more than differences in float32: a right answer, or a word.
        try:
            said = f"log-likelihood {float(run(layer, x).log_likelihood)}"
        except InvalidDataError as error:
            said = str(error)
        assert re.search(r"too large (or too small )?for torch\.float32|log-likelihood -?\d", said)
        assert finite(layer)


def test_batches_of_rows_say_their_shape() -> None:
    layer = GMMLayer(2, 2, batch_shape=(3,))
    with pytest.raises(
        InvalidDataError, match=r"\(N, 3, 2\).*share the same rows .* x\[:, None, :\]"
    ):
        e_step(layer, torch.zeros(5, 2))
    with pytest.raises(InvalidDataError, match=r"\(4,\), do not fit .* \(3,\)"):
        e_step(layer, torch.zeros(5, 4, 2))


# -- weights ------------------------------------------------------------------------------------


@double
def test_weights_broadcast(generator: torch.Generator) -> None:
    layer = random_layer("full", batch=(2,), generator=generator)
    x = rows(6, 2, generator, (2,))
    full = torch.rand(6, 2)
    expected = e_step(layer, x, full).pack()
    assert torch.equal(e_step(layer, x.reshape(2, 3, 2, 2), full.reshape(2, 3, 2)).pack(), expected)
    assert torch.equal(e_step(layer, x, full.tolist()).pack(), expected)
    column = e_step(layer, x, full[:, :1]).pack()
    assert torch.equal(column, e_step(layer, x, full[:, :1].expand(6, 2)).pack())
    assert torch.allclose(e_step(layer, x, 2.0).counts, 2 * e_step(layer, x).counts, rtol=1e-13)


@double
def test_classes_are_one_hot_weights(generator: torch.Generator) -> None:
    # One mixture per class: the weights of a batch are the classes.
    x, labels = two_blobs(generator)
    hot = torch.nn.functional.one_hot(labels, 2)
    layer = GMMLayer(2, 2, batch_shape=(2,))
    fit_em(layer, x[:, None], sample_weight=hot, max_iter=50, generator=generator)
    for k in range(2):
        own = x[labels == k]
        mean = layer.distribution().mean[k]
        assert torch.allclose(mean, own.mean(0), rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize(
    ("weight", "words"),
    [
        ([1.0, -1.0, 1.0, 1.0], r">= 0; it is not in row\(s\) 1"),
        ([1.0, 1.0, float("nan"), 1.0], r"not in row\(s\) 2"),
        ([1.0, 1.0, 1.0, float("inf")], r"not in row\(s\) 3"),
        ([1.0, 1.0], r"must broadcast to \(4,\), got shape \(2,\)"),
        (torch.ones(3, 7), r"must broadcast to \(4,\), got shape \(3, 7\)"),
        (torch.ones(4, 1), r"must broadcast to \(4,\), got shape \(4, 1\)"),
        (["a", "b", "c", "d"], "sample_weight must hold numbers"),
    ],
)
def test_refuses_weights(weight: Any, words: str) -> None:
    layer, x = GMMLayer(2, 2), torch.zeros(4, 2)
    with pytest.raises(InvalidDataError, match=words):
        e_step(layer, x, weight)


def test_no_weight_at_all() -> None:
    layer = GMMLayer(2, 2)
    stats = e_step(layer, torch.randn(4, 2), torch.zeros(4))
    with pytest.raises(InvalidDataError, match="total weight is 0"):
        m_step(layer, stats)
    with pytest.raises(InvalidDataError, match="no rows"):
        m_step(layer, e_step(layer, torch.zeros(0, 2)))
    with pytest.raises(InvalidDataError):
        fit_em(layer, torch.randn(4, 2), sample_weight=torch.zeros(4))


# -- the steps themselves -----------------------------------------------------------------------


@over_families
def test_refuses_statistics_of_another_layer(family: str) -> None:
    x = torch.randn(9, 2)
    stats = e_step(GMMLayer(2, 2, family), x)
    with pytest.raises(InvalidArgumentError, match=r"shape \(2, 2\), the layer's means .*\(3, 2\)"):
        m_step(GMMLayer(2, 3, family), stats)
    for other in FAMILIES:
        if registry.create(other).shape(2, 2) != registry.create(family).shape(2, 2):
            with pytest.raises(InvalidArgumentError, match="second moments"):
                m_step(GMMLayer(2, 2, other), stats)


def test_refuses_statistics_that_are_not_finite() -> None:
    layer = GMMLayer(2, 2)
    stats = e_step(layer, torch.randn(9, 2))
    spoilt = stats.unpack(stats.pack() * float("nan"))
    with pytest.raises(InvalidDataError, match="not finite"):
        m_step(layer, spoilt)
    assert finite(layer)


def test_refuses_a_chunk_size_below_one() -> None:
    with pytest.raises(InvalidArgumentError, match="chunk_size must be >= 1, got 0"):
        e_step(GMMLayer(2, 2), torch.zeros(3, 2), chunk_size=0)


@over_families
def test_steps_build_no_graph(family: str, generator: torch.Generator) -> None:
    layer = random_layer(family, "niw", generator=generator)
    stats = e_step(layer, rows(20, 2, generator).requires_grad_())
    assert not stats.pack().requires_grad
    assert m_step(layer, stats) == []
    assert all(p.requires_grad and p.grad is None for p in layer.parameters())


@over_families
def test_autocast_does_not_touch_a_step(family: str, generator: torch.Generator) -> None:
    layer = random_layer(family, num_features=4, generator=generator).float()
    twin, x = copy.deepcopy(layer), rows(50, 4, generator).float()
    outside = e_step(layer, x)
    m_step(layer, outside)
    with torch.autocast(x.device.type, torch.bfloat16):
        inside = e_step(twin, x)
        m_step(twin, inside)
    assert torch.equal(inside.pack(), outside.pack())
    assert all(
        torch.equal(a, b) for a, b in zip(layer.parameters(), twin.parameters(), strict=True)
    )


@double
@over_families
def test_row_after_row_keeps_the_weights(family: str, generator: torch.Generator) -> None:
    # "One-row updates" of tests/golden/README.md: an M-step after each.
    layer = random_layer(family, generator=generator)
    frozen, total = copy.deepcopy(layer), None
    for row in rows(25, 2, generator):
        stats = e_step(frozen, row[None])
        total = stats if total is None else total + stats
        m_step(layer, total)
        assert float(layer.weights.detach().sum()) == pytest.approx(1.0, abs=1e-14)
    assert int(total.num_samples) == 25


@double
def test_given_parameters_are_kept_without_iterations() -> None:
    # "One-row updates" of tests/golden/README.md.
    means = torch.tensor([[0.0, 1.0], [2.0, 3.0]])
    layer = GMMLayer.from_parameters(torch.tensor([0.3, 0.7]), means, torch.eye(2).repeat(2, 1, 1))
    before = parameters(layer)
    result = fit_em(layer, torch.randn(10, 2), initializer=None, max_iter=0)
    assert all(torch.equal(a, b) for a, b in zip(before, parameters(layer), strict=True))
    assert result.num_iterations == 0
    assert not result.converged
    assert len(result.history) == 1


# -- the two extension points -------------------------------------------------------------------


@double
@over_families
def test_labels_that_belong_to_rows_steer_em(family: str, generator: torch.Generator) -> None:
    x, truth = two_blobs(generator)
    labels = torch.full((len(x),), -1)
    labels[:25], labels[100:125] = 1, 0
    known = labels >= 0
    layer = random_layer(family, num_components=2, generator=generator)
    layer.evidence = LabelEvidence(2)
    batch = Batch(x, labels=labels)
    result = fit_em(layer, batch, initializer="random", tol=0.0, max_iter=40, generator=generator)
    history = torch.tensor(result.history)
    assert (history.diff() > -1e-12).all()
    assert torch.equal(layer.predict(batch)[known], labels[known])
    stats = e_step(layer, batch)
    resp = layer.responsibilities(batch).detach()
    assert torch.allclose(stats.counts, resp.sum(0), rtol=1e-12)
    assert result.log_likelihood == pytest.approx(float(layer(batch).detach().mean()), rel=1e-12)
    # The labels chose which blob is which.
    assert torch.equal(layer.predict(x), 1 - truth)
    # They travel with their rows through batches, chunks and the rows that others follow.
    twin = random_layer(family, num_components=2, generator=generator)
    twin.evidence = LabelEvidence(2)
    twin.load_state_dict(layer.state_dict())
    for source in (list(batch.split(17)), batch):
        options = {"initializer": None, "max_iter": 3, "tol": 0.0, "chunk_size": 13}
        fit_em(twin, source, **options)
        again = torch.cat([twin.responsibilities(part) for part in batch.split(11)])
        torch.testing.assert_close(again, twin.responsibilities(batch), rtol=1e-12, atol=1e-12)
        assert torch.equal(twin.predict(batch)[known], labels[known])


def test_weights_broadcast_over_sample_dimensions(generator: torch.Generator) -> None:
    """Weights `(5,)` of rows `(4, 5, D)` count in every one of the four."""
    x = torch.randn(4, 5, 2, generator=generator)
    weight = torch.rand(5, generator=generator)
    layer = GMMLayer(2, 3)
    short, long = (e_step(layer, x, w) for w in (weight, weight.expand(4, 5)))
    assert torch.equal(short.pack(), long.pack())
