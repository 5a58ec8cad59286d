"""What is said of arguments of a wrong kind: one sentence, which prints no array."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from gmm_lightning import DensityHead, GMMLayer, distributions, interop, losses
from gmm_lightning._messages import describe
from gmm_lightning.distributions import MixtureOfGaussians
from gmm_lightning.errors import GMMError
from gmm_lightning.estimators import gmr
from gmm_lightning.layers import SamplingHead

LONGEST = 300
BIG = torch.randn(1000, 7)
WRONG: dict[str, Any] = {
    "tensor": BIG,
    "integers": torch.arange(1000) + 5,
    "list": BIG.tolist(),
    "array": BIG.numpy(),
    "word": "a" * 5000,
    "object": SimpleNamespace(values=BIG),
    "module": nn.Sequential(*(nn.Linear(2, 2) for _ in range(50))),
}
# What holds rows takes arrays and lists, too.
ROWS = ("x", "y", "z", "value", "values", "X")
# An argument's name belongs to a sentence; torch answers for its own generators.
LEFT_OUT = ("name", "generator", "options")


def mixture(d: int = 2) -> MixtureOfGaussians:
    means = torch.arange(3.0 * d).reshape(3, d)
    return MixtureOfGaussians(torch.zeros(3), means, torch.eye(d).repeat(3, 1, 1))


# Right values for arguments without a default.
RIGHT: dict[str, Any] = {
    **{"mixture": mixture(), "p": mixture(), "q": mixture()},
    **{name: torch.zeros(5, 2) for name in ("x", "y", "z", "value", "mean")},
    **{"values": torch.zeros(5, 1), "scale": torch.ones(5, 2), "matrix": torch.eye(2)},
    **{"indices": [0], "k": 1, "index": [0, 1, 2], "points": torch.zeros(3, 5, 2)},
    **{"mixture_logits": torch.zeros(3), "means": torch.zeros(3, 2), "num_components": 2},
    **{"min_weight": 0.1, "probability": 0.5, "mass": 0.5, "num_features": 2, "num_samples": 4},
    **{"center": [0.0, 0.0], "radius": 1.0, "lower": [0.0, 0.0], "upper": [1.0, 1.0]},
    **{"normal": [1.0, 0.0], "offset": 0.0, "fn": lambda x: x[:, 0] > 0, "temperature": 0.5},
    **{"function": lambda x: x.sum(-1), "shape": torch.Size([4]), "sample_shape": (4,)},
    **{"layer": GMMLayer(2, 3), "source": GMMLayer(2, 3), "model": DensityHead(2, 2, 2)},
    **{"batch_shape": (3,)},
}
OTHER: dict[str, dict[str, Any]] = {
    "crps": {"mixture": mixture(1), "y": BIG[:, :1]},
    "cdf": {"mixture": mixture(1), "x": BIG[:, :1]},
    "quantile": {"mixture": mixture(1), "p": 0.5},
    "interval": {"mixture": mixture(1), "mass": 0.5},
    "MixtureOfGaussians": {"scale": torch.eye(2).repeat(3, 1, 1)},
    "unscented": {"function": torch.sin},
    "as_mixture": {"value": mixture()},
    "deconvolve": {"error_covariance": torch.ones(5, 2)},
}
SKIPPED = {
    # Abstract, results, and steps of other functions.
    *("EuclideanRegion", "MahalanobisRegion", "Region", "SampleShape", "MixtureDensity", "Ellipse"),
    *(
        "Estimate",
        "StudentMixture",
        "ComponentMoments",
        "gumbel_softmax_sample",
        "draw_samples",
        "draw_reparameterized",
        "count_nonfinite",
    ),
    *("check_reparameterization", "require_positive_density", "negative_log_likelihood"),
}


def callables() -> dict[str, Callable[..., Any]]:
    found = {
        name: getattr(room, name)
        for room in (distributions, losses)
        for name in room.__all__
        if name not in SKIPPED
    }
    methods = (
        (mixture(), "log_prob sample rsample marginal condition component expand temper"),
        (GMMLayer(2, 3), "sample rsample set_parameters sort_components reorder_components"),
        (DensityHead(2, 2, 3), "initialize_from"),
        (interop, "export_module export_density export_parameters to_torch"),
    )
    for owner, names in methods:
        for name in names.split():
            found[f"{type(owner).__name__}.{name}"] = getattr(owner, name)
    return found | {"SamplingHead": SamplingHead}


CALLABLES = callables()


def assert_said(error: BaseException) -> None:
    said = str(error)
    assert isinstance(error, GMMError), repr(error)[:LONGEST]
    assert len(said) <= LONGEST, said
    assert "\n" not in said, said


@pytest.mark.parametrize("name", CALLABLES)
def test_arguments_of_a_wrong_kind(name: str) -> None:
    function = CALLABLES[name]
    parameters = inspect.signature(function).parameters.values()
    named = [p for p in parameters if p.kind not in (p.VAR_POSITIONAL, p.VAR_KEYWORD)]
    right = RIGHT | OTHER.get(name.split(".")[-1], {})
    needed = {p.name: right[p.name] for p in named if p.default is p.empty}
    function(**needed)
    for p in named:
        if p.name in LEFT_OUT:
            continue
        for kind, wrong in WRONG.items():
            if p.name in ROWS and kind not in ("tensor", "integers"):
                continue
            if p.name in ("function", "fn", "source", "model") and kind == "module":
                continue
            try:
                function(**(needed | {p.name: wrong}))
            except Exception as error:
                assert_said(error)


@pytest.mark.parametrize("wrong", WRONG.values(), ids=WRONG)
def test_the_door_of_gmr(wrong: Any) -> None:
    gmm = gmr.GMM(1, [1.0], np.zeros((1, 2)), np.eye(2)[None])
    for call in (
        lambda: gmm.predict(wrong, [[0.0]]),
        lambda: gmm.condition(wrong, [0.0]),
        lambda: gmm.apply_oracle_approximating_shrinkage(wrong),
        lambda: gmr.GMM(1, random_state=wrong),
        lambda: gmr.invert_indices(2, wrong),
        lambda: gmr.MVN([0.0], [[1.0]]).estimate_from_sigma_points(wrong),
    ):
        with pytest.raises(GMMError) as caught:
            call()
        assert_said(caught.value)


def test_a_value_in_a_few_words() -> None:
    assert describe(BIG) == "Tensor of shape (1000, 7) and dtype torch.float32"
    assert describe(np.zeros((2, 0))) == "ndarray of shape (2, 0) and dtype float64"
    assert describe(0.5) == "0.5"
    assert describe("two\nlines") == repr("two\nlines")
    assert describe([torch.zeros(2, 2)] * 9).count("\n") == 0
    for value in (*WRONG.values(), [["a" * 90] * 9] * 9, {i: BIG for i in range(9)}, print):
        assert len(describe(value)) <= 80
