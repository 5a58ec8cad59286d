"""Imputation: measurements of penguins that are missing, filled in from those that are there.

A mixture is fitted to complete rows. In the other rows entries are removed at random and filled in
by the conditional mean, the mode or a draw, and compared with the truth. Conditional means have the
smallest error; draws keep the spread of the data, which means shrink.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch

from command_line import example_parser, fraction, integer
from gmm_lightning import GMMLayer, fit_em
from gmm_lightning.datasets import load
from gmm_lightning.distributions import impute
from gmm_lightning.plotting import palette
from reporting import Reporter, new_axes

TRAIN_FRACTION = 0.5


def main(argv: Sequence[str] | None = None) -> Reporter:
    """Remove entries of the test rows and compare ways to fill them in."""
    data = load("penguins")
    x = torch.as_tensor(data.x, dtype=torch.float64)
    num_train = int(TRAIN_FRACTION * len(x))

    parser = example_parser("imputation", __doc__)
    parser.add_argument(
        "--num-components", type=integer(1, num_train), default=3, help="number of components"
    )
    parser.add_argument(
        "--missing-fraction",
        type=fraction,
        default=0.25,
        help="fraction of the entries of the test rows to remove",
    )
    options = parser.parse_args(argv)
    report = Reporter(options.output)

    generator = torch.Generator().manual_seed(options.seed)
    x = x[torch.randperm(len(x), generator=generator)]
    mean, std = x[:num_train].mean(0), x[:num_train].std(0)
    train, test = ((x - mean) / std).tensor_split([num_train])
    num_features = len(data.columns)
    missing = torch.rand(test.shape, generator=generator, dtype=test.dtype)
    missing = missing < options.missing_fraction
    if not missing.any(0).all():
        parser.error("--missing-fraction leaves a column complete; expected a larger fraction")

    mixture = GMMLayer(num_features, options.num_components, "full", "niw", dtype=torch.float64)
    fit_em(mixture, train, num_restarts=5, tol=1e-6, max_iter=500, generator=generator)
    # The fit of one component has one maximum, wherever it starts.
    gaussian = GMMLayer(num_features, 1, dtype=torch.float64)
    fit_em(gaussian, train)

    incomplete = torch.where(missing, torch.nan, test)
    with torch.no_grad():
        imputed = {
            "column means": torch.where(missing, train.mean(0), test),
            "one Gaussian": impute(gaussian.distribution(), incomplete, "mean"),
            "mixture, mean": impute(mixture.distribution(), incomplete, "mean"),
            "mixture, mode": impute(mixture.distribution(), incomplete, "mode"),
            "mixture, draw": impute(
                mixture.distribution(), incomplete, "draw", generator=generator
            ),
        }

    rows = []
    for name, filled in imputed.items():
        errors = [
            float((filled - test)[missing[:, j], j].square().mean().sqrt())
            for j in range(num_features)
        ]
        spread_kept = float(filled[missing].std() / test[missing].std())
        rows.append((name, *errors, spread_kept))
    report.print(
        f"{int(missing.sum())} of {missing.numel()} entries removed; root mean square errors in "
        "standard deviations of each column"
    )
    report.table(("filled in by", *data.columns, "spread kept"), rows)

    axes = new_axes(1, num_features, (4.0 * num_features, 3.8))
    for j, ax in enumerate(axes.flat):
        removed = missing[:, j]
        measured = (test[removed, j] * std[j] + mean[j]).numpy()
        for label, color in zip(("mean", "draw"), palette(2), strict=True):
            filled = imputed[f"mixture, {label}"][removed, j] * std[j] + mean[j]
            ax.scatter(measured, filled.numpy(), s=14, alpha=0.7, color=color, label=label)
        ax.axline((measured.mean(), measured.mean()), slope=1, color="#8C8C8C", linewidth=1)
        ax.set(title=data.columns[j], xlabel="measured", ylabel="filled in" if j == 0 else "")
    axes[0, 0].legend()
    report.figure("imputation", axes)
    return report


if __name__ == "__main__":
    main()
