"""Rows that count as their weight, and rows that do not count, in every loss."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from support.covering import covering
from support.random_layers import FAMILIES, make_priors, random_layer, served
from torch import Generator, Tensor, nn

from gmm_lightning import DensityHead, MixtureOfGaussians
from gmm_lightning.errors import InvalidArgumentError, InvalidDataError
from gmm_lightning.losses import negative_log_likelihood

pytestmark = pytest.mark.usefixtures("double")
IN, D, K, N = 4, 2, 3, 6
BAD = (float("nan"), float("inf"), -float("inf"))
# Sums of some 10 terms of order 10 in another order: eps times 1e3.
CLOSE = {"rtol": 1e-12, "atol": 1e-12}
LOSSES: dict[str, Callable[..., Tensor]] = {
    "head.loss": DensityHead.loss,
    "nll": lambda head, h, y, **options: negative_log_likelihood(head(h), y, **options),
}
over_losses = pytest.mark.parametrize("loss", LOSSES)


def made(family: str, prior: str = "none", batch: tuple[int, ...] = ()) -> DensityHead:
    head = DensityHead(IN, D, K, family, make_priors(prior, given=True), batch_shape=batch)
    with torch.no_grad():
        for parameter in head.parameters():
            parameter += 0.3 * torch.randn_like(parameter)
        head.parametrization.loc += 1.0
    return head


def gradients(value: Tensor, head: DensityHead, *inputs: Tensor) -> list[Tensor]:
    return list(torch.autograd.grad(value, (*head.parameters(), *inputs)))


def assert_same(found: list[Tensor], expected: list[Tensor]) -> None:
    for one, other in zip(found, expected, strict=True):
        torch.testing.assert_close(one, other, **CLOSE)


@pytest.mark.parametrize(
    ("loss", "family", "prior"), covering(LOSSES, FAMILIES, ["none", "dirichlet", "niw"])
)
def test_weights_count_rows(loss: str, family: str, prior: str) -> None:
    if not served(family, prior, "gradient"):
        pytest.skip("not served")
    head, call = made(family, prior), LOSSES[loss]
    h, y = torch.randn(N, IN), torch.randn(N, D)
    counts = torch.tensor([1, 0, 3, 1, 0, 2])
    repeated = call(head, h.repeat_interleave(counts, 0), y.repeat_interleave(counts, 0))
    weighted = call(head, h, y, weight=counts)
    torch.testing.assert_close(weighted, repeated, **CLOSE)
    assert_same(gradients(weighted, head), gradients(repeated, head))
    torch.testing.assert_close(call(head, h, y, weight=torch.ones(N)), call(head, h, y), **CLOSE)
    kept = counts > 0
    torch.testing.assert_close(call(head, h, y, mask=kept), call(head, h[kept], y[kept]), **CLOSE)


@pytest.mark.parametrize(
    ("loss", "family", "way", "batch"),
    covering(LOSSES, FAMILIES, ["mask", "weight", "skip"], [(), (2,)]),
)
@pytest.mark.parametrize("bad", BAD)
def test_what_does_not_count_is_never_computed(
    loss: str, family: str, way: str, batch: tuple[int, ...], bad: float
) -> None:
    head, call = made(family, batch=batch), LOSSES[loss]
    encoder = nn.Linear(IN, IN)
    x, y = torch.randn(N, IN), torch.randn(N, *batch, D)
    counted = torch.ones(y.shape[:-1], dtype=torch.bool)
    counted[1] = counted[4].reshape(-1)[0] = False
    if batch:
        counted[4, 0] = False
    else:
        counted[4] = False
    options: dict[str, Any] = {
        "mask": {"mask": counted},
        "weight": {"weight": 2.0 * counted},
        "skip": {"skip_nonfinite": True},
    }[way]
    expected = call(head, encoder(x), y, mask=counted)
    wanted = gradients(expected, head, *encoder.parameters())
    y[~counted] = bad
    y = y.requires_grad_()
    found = call(head, encoder(x), y, **options)
    torch.testing.assert_close(found, expected, **CLOSE)
    *grads, by_target = gradients(found, head, *encoder.parameters(), y)
    assert_same(grads, wanted)
    assert not bool(by_target[~counted].any())
    assert head.num_skipped == (
        int((~counted).sum()) if (loss, way) == ("head.loss", "skip") else 0
    )


@pytest.mark.parametrize("bad", BAD)
@pytest.mark.parametrize("batch", [(), (2,)], ids=str)
def test_features_that_do_not_count(batch: tuple[int, ...], bad: float) -> None:
    head = made("full", batch=batch)
    h, y = torch.randn(N, IN), torch.randn(N, *batch, D)
    mask = torch.arange(N) != 2
    mask = mask[(..., *[None] * len(batch))]
    expected = head.loss(h, y, mask=mask)
    wanted = gradients(expected, head)
    h[2, 1] = bad
    for options in ({"mask": mask}, {"weight": mask.double()}, {"skip_nonfinite": True}):
        found = head.loss(h.requires_grad_(), y, **options)
        torch.testing.assert_close(found, expected, **CLOSE)
        *grads, by_features = gradients(found, head, h)
        assert_same(grads, wanted)
        assert not bool(by_features[2].any())


def test_a_mixture_out_of_reach_of_zero_has_a_loss_of_the_rows_that_count() -> None:
    means = torch.full((1, 2), 1e200)
    mixture = MixtureOfGaussians(torch.zeros(1), means, torch.eye(2)[None])
    y = means.repeat(2, 1)
    y[1] = torch.nan
    expected = -mixture.log_prob(means)[0]
    assert negative_log_likelihood(mixture, y, skip_nonfinite=True) == expected


def test_only_rows_that_count_are_skipped() -> None:
    head, y = made("full"), torch.randn(N, D)
    y[[1, 3]] = torch.nan
    head.loss(torch.randn(N, IN), y, mask=torch.arange(N) != 1, skip_nonfinite=True)
    assert head.num_skipped == 1


@over_losses
def test_sequences_with_padding(loss: str) -> None:
    head, call, lengths = made("diag"), LOSSES[loss], torch.tensor([5, 2, 3])
    h, y = torch.randn(3, 5, IN), torch.randn(3, 5, D)
    mask = torch.arange(5) < lengths[:, None]
    y[~mask] = torch.nan
    one_by_one = torch.cat([h[i, :n] for i, n in enumerate(lengths)]), y[mask]
    torch.testing.assert_close(call(head, h, y, mask=mask), call(head, *one_by_one), **CLOSE)
    # A weight for each sequence.
    weight = torch.tensor([[1.0], [0.5], [0.0]])
    each = [call(head, h[i, :n], y[i, :n]) for i, n in enumerate(lengths[:2])]
    expected = (5 * each[0] + 0.5 * 2 * each[1]) / 6
    torch.testing.assert_close(call(head, h, y, mask=mask, weight=weight), expected, **CLOSE)


@over_losses
@pytest.mark.parametrize("way", ["mask", "weight"])
def test_without_a_row_that_counts_the_loss_is_zero(loss: str, way: str) -> None:
    head = made("full")
    nothing = torch.zeros(N)
    options = {way: nothing.bool() if way == "mask" else nothing}
    value = LOSSES[loss](head, torch.randn(N, IN), torch.full((N, D), torch.nan), **options)
    assert value == 0
    assert not any(bool(each.any()) for each in gradients(value, head))


@pytest.mark.parametrize("reduction", ["mean", "sum", "none"])
def test_reductions(reduction: str, generator: Generator) -> None:
    layer = random_layer("full", generator=generator, batch=(3,))
    x, weight = torch.randn(N, 3, 2), torch.rand(N, 3)
    each = negative_log_likelihood(layer, x, "none")
    expected = {"mean": (weight * each).sum() / weight.sum(), "sum": (weight * each).sum()}
    found = negative_log_likelihood(layer, x, reduction, weight=weight)
    torch.testing.assert_close(found, expected.get(reduction, weight * each), **CLOSE)
    # The same rows for all mixtures, masked one by one.
    mask = torch.rand(N, 3) > 0.5
    shared = negative_log_likelihood(layer, x[:, :1], "none", mask=mask)
    assert torch.equal(shared == 0, ~mask)


def test_weights_may_be_learned() -> None:
    head = made("diag")
    h, y = torch.randn(N, IN), torch.randn(N, D)
    weight = torch.rand(N, requires_grad=True)
    assert torch.autograd.gradcheck(lambda w: head.loss(h, y, weight=w), weight)


@over_losses
def test_no_gradient_goes_to_a_weight_of_zero(loss: str) -> None:
    head, y = made("diag"), torch.randn(N, D)
    y[2] = torch.nan
    weight = torch.rand(N).index_fill(0, torch.tensor([2, 4]), 0.0).requires_grad_()
    value = LOSSES[loss](head, torch.randn(N, IN), y, weight=weight)
    (gradient,) = torch.autograd.grad(value, weight)
    assert torch.equal(gradient == 0, weight == 0)


def test_mixtures_of_features_that_do_not_count_are_not_taken_for_rows() -> None:
    head, mask = made("full"), torch.arange(N) < 4
    h, y = torch.randn(N, IN), torch.randn(N, D)
    h[4:] = y[4:] = torch.nan
    assert bool(negative_log_likelihood(head(h), y, mask=mask).isnan())
    assert bool(head.loss(h, y, mask=mask).isfinite())
    y[1] = torch.nan
    with pytest.raises(InvalidDataError, match=r"row\(s\) 1;"):
        negative_log_likelihood(head(h), y, mask=mask)


@over_losses
@pytest.mark.parametrize(
    ("options", "error", "said"),
    [
        ({"weight": [1.0]}, InvalidArgumentError, r"expected weight \(6,\), got list; write"),
        ({"weight": torch.ones(5)}, InvalidArgumentError, r"rows, \(6,\), got shape \(5,\)"),
        (
            {"mask": torch.ones(N, dtype=torch.float32)},
            InvalidArgumentError,
            r"boolean.* torch\.float32; write mask\.bool\(\)",
        ),
        (
            {"mask": torch.ones(N, 2).bool()},
            InvalidArgumentError,
            r"mask must broadcast .*\(6, 2\)",
        ),
        ({"weight": -torch.arange(6)}, InvalidDataError, r"weight .* row\(s\) 1, 2, 3, 4, 5"),
        ({"weight": torch.tensor([1.0, *BAD, 1, 1])}, InvalidDataError, r"row\(s\) 1, 2, 3"),
    ],
)
def test_words(loss: str, options: dict[str, Any], error: type, said: str) -> None:
    head = made("full")
    with pytest.raises(error, match=said):
        LOSSES[loss](head, torch.randn(N, IN), torch.randn(N, D), **options)


@over_losses
def test_rows_that_count_are_still_checked(loss: str) -> None:
    head, y = made("full"), torch.randn(N, D)
    y[[1, 3]] = torch.nan
    with pytest.raises(InvalidDataError, match=r"row\(s\) 3"):
        LOSSES[loss](head, torch.randn(N, IN), y, mask=torch.arange(N) != 1)
    # Of several targets per row, a row is named once.
    head = made("full", batch=(2,))
    y = torch.randn(N, 2, D)
    y[3, 1] = torch.nan
    with pytest.raises(InvalidDataError, match=r"targets are not finite in row\(s\) 3;"):
        head.loss(torch.randn(N, IN), y)
