"""Regression by conditioning a joint density: the wait for the next eruption of Old Faithful.

Fits a mixture to (eruption, wait) and predicts p(wait | eruption), which is a mixture again.
Cross-validation compares the error of its mean, its log density and the coverage of a 90 % band
with those of a straight line, which is the same with one Gaussian.

References:
    Z. Ghahramani, M. I. Jordan (1994), Supervised learning from incomplete data via an EM
    approach, NIPS 6.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch

from command_line import example_parser, integer
from gmm_lightning import GMMLayer, fit_em
from gmm_lightning.datasets import load
from gmm_lightning.plotting import plot_regression
from reporting import Reporter

# A Gaussian has 90 % of its mass within this many standard deviations of its mean.
BAND_STDS = 1.645


def main(argv: Sequence[str] | None = None) -> Reporter:
    """Cross-validate Gaussian mixture regression on Old Faithful."""
    data = load("faithful")
    x = torch.as_tensor(data.x, dtype=torch.float64)

    parser = example_parser("regression", __doc__)
    parser.add_argument(
        "--num-components", type=integer(1, len(x) // 2), default=2, help="number of components"
    )
    parser.add_argument(
        "--num-folds", type=integer(2, len(x)), default=10, help="folds of the cross-validation"
    )
    options = parser.parse_args(argv)
    report = Reporter(options.output)

    generator = torch.Generator().manual_seed(options.seed)
    folds = torch.randperm(len(x), generator=generator) % options.num_folds
    models = {
        "straight line (one Gaussian)": 1,
        f"mixture of {options.num_components}": options.num_components,
    }
    rows = []
    for name, k in models.items():
        squared_errors, log_densities, covered = [], [], []
        for fold in range(options.num_folds):
            layer = GMMLayer(2, k, "full", "niw", dtype=torch.float64)
            fit_em(layer, x[folds != fold], tol=1e-6, max_iter=300, generator=generator)
            eruption, wait = x[folds == fold].split(1, -1)
            with torch.no_grad():
                predicted = layer.distribution().condition([0], eruption)
            error = predicted.mean - wait
            squared_errors.append(error.square())
            log_densities.append(predicted.log_prob(wait))
            covered.append(error.abs() <= BAND_STDS * predicted.variance.sqrt())
        rmse = float(torch.cat(squared_errors).mean().sqrt())
        log_density = float(torch.cat(log_densities).mean())
        coverage = float(torch.cat(covered).double().mean())
        rows.append((name, rmse, log_density, f"{coverage:.0%}"))
    report.table(
        ("waiting | eruptions", "error (minutes)", "log density", "within the 90 % band"), rows
    )

    layer = GMMLayer(2, options.num_components, "full", "niw", dtype=torch.float64)
    fit_em(layer, x, tol=1e-6, max_iter=300, generator=generator)
    title = "Gaussian mixture regression with its 90 % band"
    ax = plot_regression(layer, x, stds=BAND_STDS, columns=data.columns, title=title)
    report.figure("regression", ax)
    return report


if __name__ == "__main__":
    main()
