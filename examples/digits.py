"""Handwritten digits: principal components, a mixture on them, and new digits drawn from it.

Compares mixtures of 1,797 images of 8 x 8 pixels by BIC, and shows the means and draws of the last
as images. Needs scikit-learn, which has the data.

References:
    E. Alpaydin, C. Kaynak (1998), Optical recognition of handwritten digits, UCI.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch

from command_line import example_parser, integer
from gmm_lightning import GMMLayer, fit_em
from gmm_lightning.criteria import bic
from gmm_lightning.plotting import plot_images
from reporting import Reporter, new_axes

try:
    from sklearn.datasets import load_digits
except ImportError as error:
    raise SystemExit("digits.py needs scikit-learn: pip install scikit-learn") from error

# The most images that one panel of a figure shows.
MAX_IMAGES = 1024


def main(argv: Sequence[str] | None = None) -> Reporter:
    """Fit mixtures to the digits and draw new ones."""
    pixels, _ = load_digits(return_X_y=True)
    x = torch.as_tensor(pixels, dtype=torch.float64)
    num_rows, num_pixels = x.shape

    parser = example_parser("digits", __doc__)
    parser.add_argument(
        "--num-axes", type=integer(1, num_pixels), default=16, help="principal components to keep"
    )
    parser.add_argument(
        "--num-components",
        type=integer(1, MAX_IMAGES),
        default=30,
        help="Gaussians of the mixture",
    )
    parser.add_argument(
        "--num-draws", type=integer(1, MAX_IMAGES), default=30, help="new digits to draw"
    )
    options = parser.parse_args(argv)
    report = Reporter(options.output)

    mean = x.mean(0)
    _, singular_values, axes = torch.linalg.svd(x - mean, full_matrices=False)
    axes = axes[: options.num_axes]
    variances = singular_values.square()
    kept = float(variances[: options.num_axes].sum() / variances.sum())
    report.print(
        f"{options.num_axes} of {num_pixels} principal components keep {kept:.0%} of the variance"
    )
    z = (x - mean) @ axes.T

    generator = torch.Generator().manual_seed(options.seed)
    layers, rows = [], []
    models = (("full", 1), ("diag", options.num_components), ("full", options.num_components))
    for family, k in models:
        layer = GMMLayer(options.num_axes, k, family, "niw", dtype=torch.float64)
        result = fit_em(layer, z, num_restarts=5, tol=1e-4, generator=generator)
        log_likelihood = float(result.log_likelihood)
        score = bic(log_likelihood * num_rows, layer.num_free_parameters, num_rows)
        layers.append(layer)
        rows.append((f"{family}, K = {k}", log_likelihood, score))
    report.table(("mixture", "log-likelihood per row", "BIC"), rows)

    layer = layers[-1]
    with torch.no_grad():
        draws = layer.sample(options.num_draws, generator=generator) @ axes + mean
        means = layer.means[layer.weights.argsort(descending=True)] @ axes + mean
    panels = {"digits": x[: options.num_draws], "means": means, "draws": draws}
    grid = new_axes(1, 3, (15.0, 4.4))
    grid[0, 0].figure.get_layout_engine().set(wspace=0.06)
    for ax, (title, images) in zip(grid.flat, panels.items(), strict=True):
        plot_images(images, ax=ax, num_cols=6, limits=(0.0, 16.0), title=title)
    report.figure("digits", grid)
    return report


if __name__ == "__main__":
    main()
