"""How many Gaussians approximate a shape that is not a mixture of Gaussians?

Fits mixtures of 1, 2, 3, ... components to two noisy half circles, chooses the number of
components by BIC and by AIC, and draws the mixture and its density at the lowest BIC.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Generator, Tensor

from command_line import example_parser, integer, positive_number
from gmm_lightning import GMMLayer, fit_em
from gmm_lightning.criteria import aic, bic, rank_fits
from gmm_lightning.plotting import palette, plot_density, plot_mixture
from reporting import Reporter, new_axes


def main(argv: Sequence[str] | None = None) -> Reporter:
    """Compare numbers of components on two moons."""
    parser = example_parser("moons", __doc__)
    parser.add_argument("--num-rows", type=integer(1), default=1000, help="number of rows")
    parser.add_argument(
        "--noise", type=positive_number, default=0.07, help="standard deviation of the noise"
    )
    parser.add_argument(
        "--max-components", type=integer(1), default=20, help="largest number of components"
    )
    parser.add_argument("--num-restarts", type=integer(1), default=5, help="restarts of each fit")
    options = parser.parse_args(argv)
    if options.max_components > options.num_rows:
        parser.error("--max-components must not exceed --num-rows")
    report = Reporter(options.output)

    generator = Generator().manual_seed(options.seed)
    x = two_moons(options.num_rows, options.noise, generator)

    layers, rows, degenerate = [], [], []
    for k in range(1, options.max_components + 1):
        layer = GMMLayer(2, k, dtype=torch.float64)
        result = fit_em(
            layer,
            x,
            num_restarts=options.num_restarts,
            tol=1e-4,
            max_iter=300,
            generator=generator,
        )
        log_likelihood = float(result.log_likelihood)
        total, p = log_likelihood * len(x), layer.num_free_parameters
        rows.append((str(k), log_likelihood, bic(total, p, len(x)), aic(total, p)))
        layers.append(layer)
        degenerate.append(result.degenerate)

    report.table(("components", "log-likelihood per row", "BIC", "AIC"), rows)
    criteria = {"BIC": [row[2] for row in rows], "AIC": [row[3] for row in rows]}
    best = {name: 1 + rank_fits(values, degenerate)[0] for name, values in criteria.items()}
    for name, k in best.items():
        report.print(f"lowest {name}: {k} components")

    axes = new_axes(1, 3, (16.0, 4.4))
    counts = [layer.num_components for layer in layers]
    for (name, values), color in zip(criteria.items(), palette(2), strict=True):
        axes[0, 0].plot(counts, values, "o-", color=color, label=name)
    ticks = counts[:: -(-len(counts) // 7)]
    axes[0, 0].set(xlabel="components", ylabel="criterion (lower is better)", xticks=ticks)
    axes[0, 0].legend()
    chosen = layers[best["BIC"] - 1]
    plot_mixture(chosen, x, ax=axes[0, 1], title=f"{chosen.num_components} components by BIC")
    plot_density(chosen, ax=axes[0, 2], title="negative log density")
    report.figure("moons", axes)
    return report


def two_moons(num_rows: int, noise: float, generator: Generator) -> Tensor:
    """Rows `(N, 2)` on two interleaved half circles, with Gaussian noise."""
    angle = torch.rand(num_rows, generator=generator, dtype=torch.float64) * torch.pi
    upper = torch.arange(num_rows) % 2 == 0
    x = torch.stack([angle.cos(), angle.sin()], -1)
    x = torch.where(upper.unsqueeze(-1), x, torch.tensor([1.0, 0.5]) - x)
    return x + noise * torch.randn(x.shape, generator=generator, dtype=x.dtype)


if __name__ == "__main__":
    main()
