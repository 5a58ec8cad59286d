"""Bayes' rule over a batch of mixtures: densities, training, calibration, state, messages."""

from __future__ import annotations

import copy
import io
import math
from typing import Any

import numpy as np
import pytest
import torch
from scipy.special import logsumexp
from scipy.stats import multivariate_normal
from support.random_layers import FAMILIES, random_layer, rounding, rows
from torch import Tensor

from gmm_lightning import GMMLayer, MixtureClassifier, fit_classifier
from gmm_lightning.errors import InvalidArgumentError, InvalidDataError

over_families = pytest.mark.parametrize("family", FAMILIES)


def make(family: str, generator: torch.Generator, classes: Any = None) -> MixtureClassifier:
    """A classifier of three classes with parameters at random."""
    classifier = MixtureClassifier(random_layer(family, generator=generator, batch=(3,)), classes)
    classifier.set_class_priors(torch.tensor([0.5, 0.2, 0.3]))
    return classifier


def overlapping(generator: torch.Generator, n: int = 300) -> tuple[Tensor, Tensor]:
    """Rows of two classes that no mixture separates."""
    x = rows(n, 2, generator)
    y = (torch.arange(n) % 2).to(x.device)
    return x + 1.2 * y.unsqueeze(-1), y


# -- densities ------------------------------------------------------------------------------


@over_families
def test_densities_by_bayes_rule(double: None, family: str, generator: torch.Generator) -> None:
    classifier = make(family, generator)
    x = rows(7, 2, generator)
    layer = classifier.layer
    expected = np.stack(
        [
            logsumexp(
                [
                    np.log(layer.weights[c, k].item())
                    + multivariate_normal.logpdf(
                        x.cpu(),
                        layer.means[c, k].detach().cpu(),
                        layer.covariance_matrix[c, k].detach().cpu(),
                    )
                    for k in range(3)
                ],
                axis=0,
            )
            for c in range(3)
        ],
        axis=-1,
    ) + np.log([0.5, 0.2, 0.3])
    close: dict[str, float] = {"rtol": 1e-10, "atol": 1e-10}
    with torch.no_grad():
        np.testing.assert_allclose(classifier.log_joint(x).cpu(), expected, **close)
        np.testing.assert_allclose(classifier.log_prob(x).cpu(), logsumexp(expected, -1), **close)
        posterior = np.exp(expected - logsumexp(expected, -1, keepdims=True))
        np.testing.assert_allclose(classifier.posterior(x).cpu(), posterior, **close)
        np.testing.assert_allclose(classifier.log_posterior(x).exp().cpu(), posterior, **close)
        assert torch.equal(classifier(x), classifier.log_posterior(x))
    np.testing.assert_array_equal(classifier.predict(x).cpu(), expected.argmax(-1))


def test_rows_of_every_shape(generator: torch.Generator) -> None:
    classifier = make("full", generator)
    x = rows(12, 2, generator)
    together = classifier.log_joint(x)
    for shape in ((3, 4), (2, 3, 2), (12, 1)):
        found = classifier.log_joint(x.reshape(*shape, 2))
        assert found.shape == (*shape, 3)
        torch.testing.assert_close(found.reshape(12, 3), together)
    assert classifier.log_joint(x[0]).shape == (3,)
    assert classifier.predict(x[0]).shape == ()
    assert classifier.posterior(x[:0]).shape == (0, 3)


def test_many_rows_go_in_portions(
    generator: torch.Generator, monkeypatch: pytest.MonkeyPatch
) -> None:
    classifier = make("full", generator)
    x = rows(80_000, 2, generator)
    whole = classifier.log_joint(x).detach()
    seen: list[int] = []
    log_joint = GMMLayer.log_joint

    def noted(layer: GMMLayer, part: Tensor, missing: str | None = None) -> Tensor:
        seen.append(len(part))
        return log_joint(layer, part, missing)

    monkeypatch.setattr(GMMLayer, "log_joint", noted)
    with torch.no_grad():
        torch.testing.assert_close(classifier.log_joint(x), whole)
    assert len(seen) > 1
    assert sum(seen) == len(x)


# -- training -------------------------------------------------------------------------------


@over_families
def test_objectives_and_their_gradients(
    double: None, family: str, generator: torch.Generator
) -> None:
    classifier = make(family, generator)
    x, y = rows(5, 2, generator), torch.tensor([0, 1, 2, 0, 0])
    joint = classifier.log_joint(x)
    cross = torch.nn.functional.cross_entropy(joint, y)
    own = joint[torch.arange(5), y].mean()
    assert classifier.objective(x, y).item() == pytest.approx(-cross.item(), rel=1e-12)
    whole = classifier.objective(x, y, generative=1.0)
    assert whole.item() == pytest.approx(own.item(), rel=1e-12)
    half = classifier.objective(x, y, generative=0.5)
    assert half.item() == pytest.approx(0.5 * (own - cross).item(), rel=1e-12)
    names = [name for name, _ in classifier.named_parameters()]

    def objective(*values: Tensor) -> Tensor:
        given = dict(zip(names, values, strict=True))
        return torch.func.functional_call(Objective(classifier), prefixed(given), (x, y))

    leaves = [p.detach().clone().requires_grad_() for p in classifier.parameters()]
    assert torch.autograd.gradcheck(objective, leaves)


class Objective(torch.nn.Module):
    """The objective as a forward, for `functional_call`."""

    def __init__(self, classifier: MixtureClassifier) -> None:
        super().__init__()
        self.classifier = classifier

    def forward(self, x: Tensor, y: Tensor) -> Tensor:
        return self.classifier.objective(x, y, generative=0.3)


def prefixed(given: dict[str, Tensor]) -> dict[str, Tensor]:
    return {f"classifier.{name}": value for name, value in given.items()}


def test_the_prior_weighs_against_the_training_set(generator: torch.Generator) -> None:
    layer = random_layer("full", "niw", generator=generator, batch=(2,))
    classifier = MixtureClassifier(layer)
    x, y = rows(6, 2, generator), [0, 1] * 3
    free = MixtureClassifier(random_layer("full", generator=generator, batch=(2,)))
    free.layer.load_state_dict(layer.state_dict(), strict=False)
    prior = layer.log_prior().sum().item()
    for given, n in ((None, 6), (600, 600)):
        gap = classifier.objective(x, y, num_samples=given) - free.objective(x, y)
        assert gap.item() == pytest.approx(prior / n, rel=rounding(1e-10))


def test_gradient_descent_raises_the_conditional_likelihood(generator: torch.Generator) -> None:
    x, y = overlapping(generator)
    classifier = MixtureClassifier(GMMLayer(2, 2, batch_shape=(2,)))
    fit_classifier(classifier, x, y, generator=generator)
    start = classifier.objective(x, y).item()
    optimizer = torch.optim.Adam(classifier.parameters(), lr=0.02)
    for _ in range(60):
        optimizer.zero_grad()
        loss = -classifier.objective(x, y)
        loss.backward()
        optimizer.step()
    # EM had the best joint likelihood; the conditional one has room, and ends above by a margin.
    assert classifier.objective(x, y).item() > start + 0.003
    assert all(bool(torch.isfinite(p).all()) for p in classifier.parameters())


# -- calibration ----------------------------------------------------------------------------


def test_calibration_finds_the_minimum(double: None, generator: torch.Generator) -> None:
    classifier = make("full", generator)
    x = rows(200, 2, generator)
    # Labels drawn at a temperature of 3.
    posterior = (classifier.log_joint(x).detach() / 3).softmax(-1)
    y = torch.multinomial(posterior, 1, generator=generator).squeeze(-1)
    found = classifier.calibrate(x, y)
    nll = torch.nn.functional.nll_loss
    assert found.after == pytest.approx(nll(classifier.log_posterior(x), y).item(), rel=1e-10)
    assert found.before == pytest.approx(
        torch.nn.functional.cross_entropy(classifier.log_joint(x), y).item(), rel=1e-10
    )
    assert found.temperature == pytest.approx(3, rel=0.5)
    assert float(classifier.temperature) == found.temperature
    joint = classifier.log_joint(x).detach()
    grid = torch.logspace(-2, 2, 401)
    values = [float(torch.nn.functional.cross_entropy(joint / t, y)) for t in grid]
    assert found.after <= min(values) + 1e-12
    # Again: it stays, and says so.
    again = classifier.calibrate(x, y)
    assert again.temperature == pytest.approx(found.temperature, rel=1e-8)
    assert again.before == pytest.approx(found.after, rel=1e-12)


@pytest.mark.parametrize("family", ["full", "tied_spherical"])
def test_calibration_never_does_harm(double: None, family: str, generator: torch.Generator) -> None:
    for _ in range(20):
        classifier = make(family, generator)
        classifier.layer.means.data *= 3
        x = rows(30, 2, generator)
        y = torch.randint(3, (30,), generator=generator, device=x.device)
        predicted, score = classifier.predict(x), classifier.log_prob(x)
        found = classifier.calibrate(x, y)
        # Rounding of a mean.
        assert found.after <= found.before * (1 + 1e-12)
        assert torch.equal(classifier.predict(x), predicted)
        assert torch.equal(classifier.log_prob(x), score)


def test_calibration_has_limits(double: None, generator: torch.Generator) -> None:
    classifier = make("full", generator)
    x = rows(30, 2, generator)
    right = classifier.calibrate(x, classifier.predict(x))
    assert right.temperature == pytest.approx(0.01)
    wrong = classifier.calibrate(x, classifier.log_joint(x).argmin(-1))
    assert wrong.temperature == pytest.approx(100.0)
    far = classifier.calibrate(1e150 * x, classifier.predict(x))
    assert math.isfinite(far.after)


def test_calibration_refuses(generator: torch.Generator) -> None:
    classifier = make("full", generator)
    x = rows(4, 2, generator)
    with pytest.raises(InvalidDataError, match="no rows"):
        classifier.calibrate(x[:0], torch.zeros(0, dtype=torch.long))
    x[2, 0] = math.nan
    with pytest.raises(InvalidDataError, match=r"not finite in row\(s\) 2"):
        classifier.calibrate(x, [0, 1, 2, 0])
    assert float(classifier.temperature) == 1.0


# -- labels ---------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("classes", "y"),
    [
        (None, torch.tensor([2, 0, 1])),
        (None, [2, 0, 1]),
        (None, np.array([2.0, 0.0, 1.0])),
        ("abc", ["c", "a", "b"]),
        (np.array(["x", "y", "z"]), np.array(["z", "x", "y"])),
        (torch.tensor([10, -1, 7]), torch.tensor([7, 10, -1], dtype=torch.int32)),
        ((10, -1, 7), np.array([7, 10, -1], dtype=np.int16)),
        ((0.5, 1.5, 2.5), torch.tensor([2.5, 0.5, 1.5])),
    ],
)
def test_labels(classes: Any, y: Any, generator: torch.Generator) -> None:
    classifier = make("full", generator, classes)
    expected = torch.tensor([2, 0, 1])
    assert torch.equal(classifier.encode(y), expected)
    square = classifier.encode(np.asarray(y).reshape(1, 3))
    assert torch.equal(square, expected.reshape(1, 3))
    x = rows(3, 2, generator)
    joint = classifier.log_joint(x)
    cross = torch.nn.functional.cross_entropy(joint, expected)
    assert classifier.objective(x, y).item() == pytest.approx(-cross.item(), rel=rounding(1e-10))


@pytest.mark.parametrize(
    ("classes", "y", "said"),
    [
        (None, [0, 3, 1, 3], r"classes 0, 1, 2: 3 in row\(s\) 1, 3"),
        (None, torch.tensor([0, -1]), r"-1 in row\(s\) 1"),
        (None, torch.tensor([0.0, math.nan]), r"nan in row\(s\) 1"),
        ("abc", ["a", "d"], r"'a', 'b', 'c': 'd' in row\(s\) 1"),
        ("abc", [0, 1], r"0, 1 in row\(s\) 0, 1"),
        ("abc", np.array(["a", None], dtype=object), "labels of one kind"),
    ],
)
def test_strange_labels(classes: Any, y: Any, said: str, generator: torch.Generator) -> None:
    with pytest.raises(InvalidDataError, match=said):
        make("full", generator, classes).encode(y)


# -- state ----------------------------------------------------------------------------------


def test_state_travels(generator: torch.Generator) -> None:
    classifier = make("full", generator)
    x, y = rows(40, 2, generator), torch.arange(40) % 3
    classifier.calibrate(x, y)
    file = io.BytesIO()
    torch.save(classifier.state_dict(), file)
    file.seek(0)
    twin = MixtureClassifier(GMMLayer(2, 3, batch_shape=(3,)))
    twin.load_state_dict(torch.load(file, weights_only=True))
    for other in (twin, copy.deepcopy(classifier)):
        assert torch.equal(other.posterior(x), classifier.posterior(x))
        assert float(other.temperature) == float(classifier.temperature) != 1.0
    assert classifier.float().posterior(x.float()).dtype == torch.float32


def test_it_compiles_and_exports(generator: torch.Generator) -> None:
    classifier = make("full", generator).eval()
    x = rows(6, 2, generator)
    expected = classifier(x)
    compiled = torch.compile(classifier, fullgraph=True, backend="eager")
    torch.testing.assert_close(compiled(x), expected)
    program = torch.export.export(classifier, (x,))
    torch.testing.assert_close(program.module()(x), expected)


# -- bad input ------------------------------------------------------------------------------


@pytest.mark.parametrize("batch", [(), (2, 2)], ids=str)
def test_a_layer_without_classes_is_refused(batch: tuple[int, ...]) -> None:
    with pytest.raises(InvalidArgumentError, match=r"batch_shape=\(C,\)"):
        MixtureClassifier(GMMLayer(2, 2, batch_shape=batch))


@pytest.mark.parametrize("classes", ["ab", "abcd", "aab"])
def test_classes_are_as_many_as_mixtures(classes: str) -> None:
    with pytest.raises(InvalidArgumentError, match="3 different classes"):
        MixtureClassifier(GMMLayer(2, 2, batch_shape=(3,)), classes)


@pytest.mark.parametrize(
    ("call", "said"),
    [
        (lambda c: c.log_joint(torch.zeros(4, 3)), r"\(\*S, 2\), got shape \(4, 3\)"),
        (lambda c: c.objective(torch.zeros(4, 2), [0, 1]), r"shape \(4,\), got \(2,\)"),
        (lambda c: c.objective(torch.zeros(1, 2), [0], generative=2.0), "generative"),
        (lambda c: c.set_class_priors(torch.zeros(3)), "not all 0"),
        (lambda c: c.set_class_priors(torch.ones(2)), "3 finite numbers"),
        (lambda c: c.set_class_priors("many"), "class priors as numbers, got 'many'"),
        (lambda c: c.set_class_priors(torch.tensor([1.0, math.nan, 1.0])), "3 finite numbers"),
    ],
)
def test_refusals(call: Any, said: str) -> None:
    with pytest.raises(InvalidArgumentError, match=said):
        call(MixtureClassifier(GMMLayer(2, 2, batch_shape=(3,))))


def test_it_describes_itself() -> None:
    classifier = MixtureClassifier(GMMLayer(2, 2, batch_shape=(3,)), "abc")
    assert "classes='a', 'b', 'c'" in repr(classifier)
    many = MixtureClassifier(GMMLayer(2, 2, batch_shape=(12,)))
    assert "9 and 2 more" in repr(many)


@pytest.mark.parametrize("number", [0, -50, float("nan"), True])
def test_the_prior_is_divided_by_a_number_of_rows(number: Any) -> None:
    layer = GMMLayer(2, 3, priors="dirichlet", batch_shape=(2,))
    classifier = MixtureClassifier(layer)
    with pytest.raises(InvalidArgumentError, match="num_samples must be a finite number > 0"):
        classifier.objective(
            torch.zeros(4, 2), torch.zeros(4, dtype=torch.long), num_samples=number
        )
    with pytest.raises(InvalidArgumentError, match="num_samples must be a finite number > 0"):
        layer.objective(torch.zeros(4, 1, 2), num_samples=number)


def test_a_classifier_needs_a_layer() -> None:
    with pytest.raises(InvalidArgumentError, match="needs a GMMLayer, got 'x'"):
        MixtureClassifier("x")  # pyright: ignore[reportArgumentType]


def test_rows_without_a_class_are_refused() -> None:
    classifier = MixtureClassifier(GMMLayer(2, 1, batch_shape=(2,)))
    with pytest.raises(InvalidDataError, match=r"row\(s\) 1"):
        classifier.predict(torch.tensor([[0.0, 1.0], [torch.nan, 1.0]]))
