"""One Gaussian by maximum likelihood, and what it misses.

EM with one component must reproduce the closed form: the mean of the rows and their covariance
S (divided by n), with log-likelihood -(D log 2 pi + log|S| + D) / 2 per row. On Old Faithful two
components fit better, by likelihood and by BIC.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch

from command_line import example_parser
from gmm_lightning import GMMLayer, fit_em
from gmm_lightning.criteria import bic
from gmm_lightning.datasets import load
from gmm_lightning.plotting import plot_mixture
from reporting import Reporter, new_axes


def main(argv: Sequence[str] | None = None) -> Reporter:
    """Fit one and two Gaussians to Old Faithful."""
    options = example_parser("one_gaussian", __doc__).parse_args(argv)
    report = Reporter(options.output)

    data = load("faithful")
    x = torch.as_tensor(data.x, dtype=torch.float64)
    n, d = x.shape

    mean, covariance = x.mean(0), x.T.cov(correction=0)
    log_likelihood = -0.5 * (d * math.log(2 * math.pi) + float(covariance.logdet()) + d)
    num_free_parameters = d + d * (d + 1) // 2
    rows = [("closed form", log_likelihood, bic(log_likelihood * n, num_free_parameters, n))]

    axes = new_axes(1, 2, (11.0, 4.4))
    for ax, k in zip(axes.flat, (1, 2), strict=True):
        layer = GMMLayer(d, k, dtype=torch.float64)
        generator = torch.Generator().manual_seed(options.seed)
        result = fit_em(layer, x, tol=1e-8, max_iter=500, generator=generator)
        log_likelihood = float(result.log_likelihood)
        score = bic(log_likelihood * n, layer.num_free_parameters, n)
        rows.append((f"fitted, K = {k}", log_likelihood, score))
        plot_mixture(layer, x, columns=data.columns, ax=ax, title=f"K = {k}")
        if k == 1:
            with torch.no_grad():
                mean_error = float((layer.means[0] - mean).abs().max())
                covariance_error = float((layer.covariance_matrix[0] - covariance).abs().max())
            report.print(
                "largest difference of the fitted mean and covariance from the closed form: "
                f"{mean_error:.1e} and {covariance_error:.1e}"
            )

    report.table(("Old Faithful", "log-likelihood per row", "BIC"), rows)
    report.figure("one_gaussian", axes)
    return report


if __name__ == "__main__":
    main()
