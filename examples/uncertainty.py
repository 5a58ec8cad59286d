"""How sure is a mixture of Old Faithful's eruptions: draws from the posterior, and a shortcut.

Draws from the exact posterior by Gibbs sampling, beside the variational posterior: the widths of
90 % intervals of what does not depend on the labels. Variational factors are
independent, so its intervals are narrower where components overlap.

References:
    J. Diebolt, C. P. Robert (1994), Estimation of finite mixture distributions through Bayesian
    sampling, JRSS B 56.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from command_line import example_parser, integer
from gmm_lightning import GMMLayer, MixtureOfGaussians, fit_vb
from gmm_lightning.bayes import PosteriorDraws, align, fit_gibbs, worst
from gmm_lightning.datasets import load
from gmm_lightning.plotting import plot_posterior, plot_prior_and_posterior, plot_weight_intervals
from gmm_lightning.priors import Dirichlet, NormalInverseWishart
from reporting import Reporter, new_axes


def main(argv: Sequence[str] | None = None) -> Reporter:
    """Posterior of a mixture of Old Faithful, by Gibbs sampling and variational Bayes."""
    data = load("faithful")
    x = torch.as_tensor(data.x, dtype=torch.float64)

    parser = example_parser("uncertainty", __doc__)
    parser.add_argument(
        "--num-components", type=integer(1, 20), default=2, help="number of components"
    )
    parser.add_argument("--num-draws", type=integer(10, 100_000), default=1000, help="of a chain")
    options = parser.parse_args(argv)
    report = Reporter(options.output)
    k = options.num_components

    exact, _ = posteriors(x, k, options.num_draws, options.seed)
    report.table(("quantity", "value"), list(worst(exact).items()))
    overlapping = torch.randn(150, 1, generator=torch.Generator().manual_seed(options.seed))
    overlapping[75:] += 2.5
    rows, largest = [], []
    for name, values in (("faithful", x), ("overlapping clusters", overlapping.double())):
        draws, narrow = posteriors(values, k, options.num_draws, options.seed)
        largest = [draws.weights.flatten(0, 1).amax(-1), narrow.weights[:, 0].amax(-1)]
        rows.append((name, *map(width, largest)))
    header = ("largest weight, width of 90 %", "Gibbs", "variational")
    report.table(header, rows)

    grid = new_axes(1, 3, (15, 4.5))
    columns = data.columns
    plot_posterior(exact.mixture(), x, ax=grid[0, 0], columns=columns, title="draws")
    band = {"dims": [1], "columns": columns, "title": "90 % bands"}
    plot_posterior(exact.mixture(), x, ax=grid[0, 1], **band)
    ax = plot_prior_and_posterior(*largest, ax=grid[0, 2], name="largest weight")
    ax.legend(["draws", "variational"], frameon=False)
    ax.set_title("clusters that overlap: variational is narrower")
    report.figure("posterior", grid)
    report.figure("weights", plot_weight_intervals(exact.weights, title="weights"))
    return report


def posteriors(
    x: Tensor, num_components: int, num_draws: int, seed: int
) -> tuple[PosteriorDraws, MixtureOfGaussians]:
    """Aligned draws from the posterior, and draws from the variational one."""

    def make() -> GMMLayer:
        niw = NormalInverseWishart(convention="fraley_raftery")
        return GMMLayer(x.shape[1], num_components, priors=[Dirichlet(1.0), niw]).double()

    exact = align(fit_gibbs(make(), x, num_draws=num_draws, generator=seed)).draws
    result = fit_vb(make(), x, num_restarts=5, generator=seed)
    generator = torch.Generator().manual_seed(seed)
    return exact, result.posterior.sample(4 * num_draws, generator)


def width(values: Tensor) -> float:
    """Width of the central 90 % interval."""
    low, high = values.quantile(torch.tensor([0.05, 0.95], dtype=values.dtype)).tolist()
    return high - low


if __name__ == "__main__":
    main()
