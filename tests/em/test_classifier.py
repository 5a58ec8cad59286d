"""The fit of a classifier against one fit per class, one-hot weights, and scikit-learn."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
import torch
from sklearn.datasets import load_iris
from sklearn.discriminant_analysis import QuadraticDiscriminantAnalysis
from support.random_layers import FAMILIES, random_layer, rows
from torch import Tensor

from gmm_lightning import GMMLayer, MixtureClassifier, e_step, fit_classifier, fit_em
from gmm_lightning.em.class_rows import group_by_length
from gmm_lightning.errors import InvalidArgumentError, InvalidDataError
from gmm_lightning.initializers import Given, Initializer
from gmm_lightning.projections import Shrinkage

pytestmark = pytest.mark.usefixtures("double")
over_families = pytest.mark.parametrize("family", FAMILIES)
SIZES = (70, 9, 45, 61)


def labelled(generator: torch.Generator, sizes: tuple[int, ...] = SIZES) -> tuple[Tensor, Tensor]:
    """Rows of classes of unequal size, each a mixture of its own, in random order."""
    parts = [rows(n, 2, generator) * (1 + 0.2 * c) + 3 * c for c, n in enumerate(sizes)]
    y = torch.repeat_interleave(torch.arange(len(sizes)), torch.tensor(sizes)).to(parts[0].device)
    order = torch.randperm(len(y), generator=generator, device=y.device)
    return torch.cat(parts)[order], y[order]


class Slices(Initializer):
    """Rows by the size of their first feature: nothing is drawn."""

    def assign(
        self, x: Tensor, num_components: int, weight: Tensor, generator: torch.Generator | None
    ) -> Tensor:
        return x[:, 0].argsort().argsort() * num_components // len(x)


def part_of(layer: GMMLayer, c: int) -> dict[str, Tensor]:
    """Weights, means and covariances of one mixture of a batch."""
    return {
        "weights": layer.weights[c].detach(),
        "means": layer.means[c].detach(),
        "covariance": layer.covariance_matrix[c].detach(),
    }


def assert_alike(found: dict[str, Tensor], expected: GMMLayer) -> None:
    # Kernels may differ in the precision they pick for many classes together, and EM carries
    # rounding along: a few hundred units of the last place.
    torch.testing.assert_close(found["weights"], expected.weights.detach(), rtol=1e-9, atol=1e-9)
    torch.testing.assert_close(found["means"], expected.means.detach(), rtol=1e-9, atol=1e-9)
    torch.testing.assert_close(
        found["covariance"], expected.covariance_matrix.detach(), rtol=1e-9, atol=1e-9
    )


@pytest.mark.parametrize("prior", ["none", "niw"])
@over_families
def test_the_fit_is_one_fit_per_class(family: str, prior: str, generator: torch.Generator) -> None:
    x, y = labelled(generator)
    chosen_prior = None if prior == "none" else prior
    layer = GMMLayer(2, 3, family, chosen_prior, batch_shape=(4,))
    classifier = MixtureClassifier(layer)
    options: dict[str, Any] = {"initializer": Slices(), "max_iter": 60, "tol": 1e-6}
    result = fit_classifier(classifier, x, y, **options)
    assert list(result.classes) == [0, 1, 2, 3]
    for c in range(4):
        alone = GMMLayer(2, 3, family, chosen_prior)
        expected = fit_em(alone, x[y == c], **options)
        found = result.classes[c]
        assert_alike(part_of(layer, c), alone)
        assert found.converged == expected.converged
        assert found.num_iterations == expected.num_iterations
        assert found.objective == pytest.approx(expected.objective, rel=1e-10)
        assert found.log_likelihood == pytest.approx(expected.log_likelihood, rel=1e-10)
        assert len(found.history) == found.num_iterations + 1
        assert [e.component for e in found.events] == [e.component for e in expected.events]
        for mine, theirs in zip(layer.priors.buffers(), alone.priors.buffers(), strict=True):
            torch.testing.assert_close(mine[c], theirs, rtol=1e-12, atol=1e-12)
    shares = torch.tensor(SIZES) / sum(SIZES)
    torch.testing.assert_close(classifier.class_priors.detach().cpu(), shares)


def test_classes_of_one_size_draw_as_a_loop_over_them(generator: torch.Generator) -> None:
    x, y = labelled(generator, (40, 60, 50))
    layer = GMMLayer(2, 3, batch_shape=(3,))
    fit_classifier(MixtureClassifier(layer), x, y, generator=generator.manual_seed(3))
    generator.manual_seed(3)
    for c in range(3):
        alone = GMMLayer(2, 3)
        fit_em(alone, x[y == c], generator=generator)
        assert_alike(part_of(layer, c), alone)


def test_one_hot_weights_give_the_same(generator: torch.Generator) -> None:
    x, y = labelled(generator)
    layer = random_layer("full", generator=generator, batch=(4,))
    twin = GMMLayer(2, 3, batch_shape=(4,))
    twin.load_state_dict(layer.state_dict())
    options: dict[str, Any] = {"initializer": None, "max_iter": 5, "tol": 0.0}
    fit_classifier(MixtureClassifier(layer), x, y, **options)
    one_hot = torch.nn.functional.one_hot(y, 4).to(x)
    fit_em(twin, x[:, None], sample_weight=one_hot, **options)
    torch.testing.assert_close(layer.means, twin.means, rtol=1e-9, atol=1e-9)
    torch.testing.assert_close(layer.scale, twin.scale, rtol=1e-9, atol=1e-9)


def test_quadratic_discriminant_analysis(double: None) -> None:
    x, y = load_iris(return_X_y=True)
    layer = GMMLayer(4, 1, batch_shape=(3,))
    classifier = MixtureClassifier(layer)
    result = fit_classifier(classifier, x, y)
    assert result.converged
    theirs = QuadraticDiscriminantAnalysis(store_covariance=True).fit(x, y)
    # Releases divide by the 50 rows of a class, or by 49.
    factor = theirs.covariance_[0][0, 0] / layer.covariance_matrix[0, 0, 0, 0].item()
    assert factor == pytest.approx(1) or factor == pytest.approx(50 / 49)
    layer.set_parameters(covariance_matrix=factor * layer.covariance_matrix)
    rows = torch.as_tensor(x)
    found = classifier.posterior(rows).detach().numpy()
    np.testing.assert_allclose(found, theirs.predict_proba(x), atol=1e-11)
    np.testing.assert_array_equal(classifier.predict(rows), theirs.predict(x))


def test_weights_count_rows(generator: torch.Generator) -> None:
    x, y = labelled(generator)
    times = torch.randint(0, 3, y.shape, generator=generator, device=y.device)
    options: dict[str, Any] = {"initializer": None, "max_iter": 4, "tol": 0.0}
    first, second = (random_layer("diag", generator=generator, batch=(4,)) for _ in range(2))
    second.load_state_dict(first.state_dict())
    weighted, repeated = MixtureClassifier(first), MixtureClassifier(second)
    fit_classifier(weighted, x, y, sample_weight=times, **options)
    fit_classifier(repeated, x.repeat_interleave(times, 0), y.repeat_interleave(times), **options)
    torch.testing.assert_close(first.means, second.means, rtol=1e-10, atol=1e-10)
    torch.testing.assert_close(weighted.class_priors, repeated.class_priors)


def test_restarts_keep_the_best_of_each_class(generator: torch.Generator) -> None:
    x, y = labelled(generator)
    classifier = MixtureClassifier(GMMLayer(2, 4, batch_shape=(4,)))
    result = fit_classifier(
        classifier, x, y, initializer="random_from_data", num_restarts=4, generator=generator
    )
    for c, found in result.classes.items():
        assert found.num_restarts == len(found.restart_objectives) == 4
        # A start with a degenerate component is not taken, however high it is.
        assert found.objective in found.restart_objectives
        assert found.degenerate or found.objective <= max(found.restart_objectives)
        mean = classifier.layer.distribution().log_prob(x[y == c][:, None])[:, c].mean()
        assert mean.item() == pytest.approx(found.log_likelihood, rel=1e-10)


def test_labels_are_names(generator: torch.Generator) -> None:
    x, y = labelled(generator)
    names = np.array(["oak", "ash", "elm", "fir"])
    options: dict[str, Any] = {"initializer": Slices(), "max_iter": 3}
    plain = MixtureClassifier(GMMLayer(2, 2, batch_shape=(4,)))
    fit_classifier(plain, x, y, **options)
    called = MixtureClassifier(GMMLayer(2, 2, batch_shape=(4,)), classes=names)
    result = fit_classifier(called, x.cpu().numpy(), names[y.cpu()], **options)
    assert list(result.classes) == ["oak", "ash", "elm", "fir"]
    assert torch.equal(plain.layer.means, called.layer.means)
    assert [called.classes[c] for c in called.predict(x)] == [
        ["oak", "ash", "elm", "fir"][c] for c in plain.predict(x)
    ]


def test_class_priors_that_are_given(generator: torch.Generator) -> None:
    x, y = labelled(generator)
    classifier = MixtureClassifier(GMMLayer(2, 2, batch_shape=(4,)))
    given = torch.tensor([1.0, 1.0, 0.0, 2.0])
    fit_classifier(classifier, x, y, class_priors=given, max_iter=1, generator=generator)
    torch.testing.assert_close(classifier.class_priors.detach().cpu(), given / 4)
    assert not bool((classifier.predict(x) == 2).any())


def test_a_fit_undoes_a_calibration_of_other_mixtures(generator: torch.Generator) -> None:
    x, y = labelled(generator)
    classifier = MixtureClassifier(GMMLayer(2, 2, batch_shape=(4,)))
    classifier.temperature.fill_(7.0)
    fit_classifier(classifier, x, y, max_iter=1, generator=generator)
    assert float(classifier.temperature) == 1


def test_rows_that_are_not_finite(generator: torch.Generator) -> None:
    x, y = labelled(generator)
    broken = x.clone()
    broken[3, 0], broken[50, 1] = math.nan, math.inf
    classifier, twin = (MixtureClassifier(GMMLayer(2, 2, batch_shape=(4,))) for _ in range(2))
    with pytest.raises(InvalidDataError, match=r"row\(s\) 3, 50"):
        fit_classifier(classifier, broken, y)
    kept = torch.isfinite(broken).all(-1)
    options: dict[str, Any] = {"initializer": Slices()}
    result = fit_classifier(classifier, broken, y, skip_nonfinite=True, **options)
    assert result.num_skipped == 2
    assert fit_classifier(twin, x[kept], y[kept], **options).num_skipped == 0
    assert torch.equal(classifier.layer.means, twin.layer.means)
    assert torch.equal(classifier.class_logits, twin.class_logits)


def test_a_class_at_the_floor_is_reported(generator: torch.Generator) -> None:
    x, y = labelled(generator)
    x[y == 1] = x[y == 1][:1]
    classifier = MixtureClassifier(GMMLayer(2, 2, batch_shape=(4,)))
    result = fit_classifier(classifier, x, y, generator=generator)
    assert result.classes[1].events
    assert {len(event.component) for event in result.classes[1].events} == {1}
    assert not result.classes[0].events
    assert bool(torch.isfinite(classifier.log_joint(x)).all())


def test_projections_apply_to_every_class(generator: torch.Generator) -> None:
    x, y = labelled(generator)
    layer = GMMLayer(2, 2, batch_shape=(4,))
    layer.projections.append(Shrinkage())
    options: dict[str, Any] = {"initializer": Slices(), "max_iter": 5, "tol": 0.0}
    fit_classifier(MixtureClassifier(layer), x, y, **options)
    for c in range(4):
        alone = GMMLayer(2, 2)
        alone.projections.append(Shrinkage())
        fit_em(alone, x[y == c], **options)
        assert_alike(part_of(layer, c), alone)


def test_the_fit_raises_the_joint_likelihood(generator: torch.Generator) -> None:
    x, y = labelled(generator)
    classifier = MixtureClassifier(random_layer("full", "niw", generator=generator, batch=(4,)))
    values = []
    for _ in range(4):
        fit_classifier(classifier, x, y, initializer=None, max_iter=1)
        # Each class's prior weighs against the rows of that class: totals compare.
        total = sum(
            float(e_step(alone, x[y == c]).log_likelihood)
            for c, alone in enumerate(split(classifier))
        )
        values.append(total + classifier.layer.log_prior().sum().item())
    assert values == sorted(values)


def split(classifier: MixtureClassifier) -> list[GMMLayer]:
    """The mixtures as layers of their own, without priors."""
    layer = classifier.layer
    return [
        GMMLayer.from_parameters(layer.weights[c], layer.means[c], layer.covariance_matrix[c])
        for c in range(classifier.num_classes)
    ]


def test_progress(generator: torch.Generator, capsys: pytest.CaptureFixture[str]) -> None:
    x, y = labelled(generator)
    classifier = MixtureClassifier(GMMLayer(2, 2, batch_shape=(4,)))
    fit_classifier(classifier, x, y, num_restarts=2, progress=True, generator=generator)
    assert "4/4" in capsys.readouterr().err


def test_groups_of_similar_size() -> None:
    lengths = [5, 100, 60, 49, 12, 9]
    groups = group_by_length(lengths)
    assert groups == [
        [1, 2],
        [
            3,
        ],
        [4, 5],
        [0],
    ]
    for group in groups:
        size = [lengths[c] for c in group]
        assert 2 * min(size) >= max(size)
    assert sorted(c for group in groups for c in group) == list(range(6))
    assert group_by_length([7, 7, 7]) == [[0, 1, 2]]


@pytest.mark.parametrize(
    ("change", "error", "said"),
    [
        ({"y": [0] * 9}, InvalidDataError, "10 rows need as many labels, got labels of shape"),
        ({"y": [0] * 8 + [-1] * 2}, InvalidDataError, r"-1 in row\(s\) 8, 9; .* leave out"),
        ({"y": [0.0] * 9 + [math.nan]}, InvalidDataError, r"nan in row\(s\) 9"),
        ({"y": [0] * 8 + [1] * 2}, InvalidDataError, "class 1 has 2 rows.*num_components=3"),
        ({"y": [0] * 10}, InvalidDataError, "class 1 has 0 rows"),
        ({"x": torch.zeros(10, 3)}, InvalidDataError, r"expected rows of shape \(N, 2\)"),
        ({"sample_weight": [-1.0] * 10}, InvalidDataError, "sample_weight must be finite"),
        ({"sample_weight": [1.0] * 7}, InvalidDataError, "sample_weight must broadcast"),
        ({"sample_weight": [1.0] * 7 + [0.0] * 3}, InvalidDataError, "class 1 has 2 rows"),
        ({"class_priors": [1.0]}, InvalidArgumentError, "2 finite numbers"),
        ({"class_priors": [-1.0, 2.0]}, InvalidArgumentError, "2 finite numbers"),
        ({"initializer": Given([0] * 10)}, InvalidArgumentError, "got Given"),
        ({"initializer": torch.zeros(10)}, InvalidArgumentError, "got Tensor"),
        ({"initializer": None, "num_restarts": 2}, InvalidArgumentError, "draws at random"),
        ({"tol": -1.0}, InvalidArgumentError, "tol"),
        ({"initializer": "kmaens"}, InvalidArgumentError, "kmaens"),
    ],
)
def test_refusals(change: dict, error: type[Exception], said: str) -> None:
    classifier = MixtureClassifier(GMMLayer(2, 3, batch_shape=(2,)))
    before = [p.detach().clone() for p in classifier.parameters()]
    given = {"x": torch.randn(10, 2), "y": [0] * 5 + [1] * 5} | change
    with pytest.raises(error, match=said):
        fit_classifier(classifier, given.pop("x"), given.pop("y"), **given)
    pairs = zip(classifier.parameters(), before, strict=True)
    if "initializer" not in change:
        assert all(torch.equal(now, then) for now, then in pairs)


def test_a_layer_with_evidence_is_refused() -> None:
    layer = GMMLayer(2, 1, batch_shape=(2,))
    layer.evidence = torch.nn.Identity()
    with pytest.raises(InvalidArgumentError, match="evidence"):
        fit_classifier(MixtureClassifier(layer), torch.randn(4, 2), [0, 0, 1, 1])


def test_labels_of_another_shape_and_a_layer_alone() -> None:
    layer = GMMLayer(2, 1, batch_shape=(2,))
    classifier = MixtureClassifier(layer)
    with pytest.raises(InvalidDataError, match=r"labels of shape \(3, 2\)"):
        fit_classifier(classifier, torch.randn(6, 2), torch.arange(6).reshape(3, 2) % 2)
    with pytest.raises(InvalidArgumentError, match=r"wrap the layer: MixtureClassifier\(layer\)"):
        fit_classifier(layer, torch.randn(6, 2), torch.arange(6) % 2)  # pyright: ignore
