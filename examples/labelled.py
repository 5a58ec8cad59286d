"""Class labels in a fit: one component per class, from all labels, from one in ten, and from none.

With all labels a single M-step is the maximum likelihood fit. Without them EM maximises the
likelihood of the rows alone, which is higher, and components are matched with classes afterwards.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from scipy.optimize import linear_sum_assignment
from torch import Tensor

from command_line import example_parser
from gmm_lightning import GMMLayer, fit_em
from gmm_lightning.datasets import load
from gmm_lightning.plotting import plot_mixture
from reporting import Reporter, new_axes

# The built-in data sets with classes.
DATA_SETS = ("penguins", "thyroid_gland", "satellite", "letter")


def main(argv: Sequence[str] | None = None) -> Reporter:
    """Fit with all labels, with some and with none."""
    parser = example_parser("labelled", __doc__)
    parser.add_argument("--data", choices=DATA_SETS, default="penguins", help="data set")
    options = parser.parse_args(argv)
    report = Reporter(options.output)

    table = load(options.data)
    assert table.labels is not None
    assert table.classes is not None
    x = torch.as_tensor(table.x, dtype=torch.float64)
    x = (x - x.mean(0)) / x.std(0)
    labels = torch.as_tensor(table.labels)
    num_classes, num_features = len(table.classes), x.shape[1]

    generator = torch.Generator().manual_seed(options.seed)
    supervised = GMMLayer(num_features, num_classes, "full", dtype=torch.float64)
    fit_em(supervised, x, labels=labels, generator=generator)
    # Some rows of each class: every tenth row of it.
    place = torch.stack([labels == c for c in range(num_classes)]).cumsum(1)
    some = torch.where(place.gather(0, labels[None])[0] % 10 == 1, labels, -1)
    partly = GMMLayer(num_features, num_classes, "full", dtype=torch.float64)
    fit_em(partly, x, labels=some, max_iter=500, tol=1e-6, generator=generator)
    unsupervised = GMMLayer(num_features, num_classes, "full", dtype=torch.float64)
    fit_em(unsupervised, x, num_restarts=10, max_iter=500, tol=1e-6, generator=generator)

    found = {
        "every label": (supervised, supervised.predict_class(x)),
        "one in ten": (partly, partly.predict_class(x)),
        "no label": (unsupervised, match_classes(unsupervised.predict(x), labels, num_classes)),
    }
    report.table(
        (options.data, "log-likelihood per row", "rows in their class"),
        [
            (
                name,
                float(layer.log_prob(x).detach().mean()),
                f"{float((classes == labels).double().mean()):.1%}",
            )
            for name, (layer, classes) in found.items()
        ],
    )

    axes = new_axes(1, 2, (13.0, 5.0))
    class_names = np.array(table.classes)[table.labels]
    for ax, layer, title in (
        (axes[0, 0], supervised, "every label"),
        (axes[0, 1], unsupervised, "no label"),
    ):
        plot_mixture(layer, x, labels=class_names, mismatches=True, ax=ax, title=title)
    report.figure("labelled", axes)
    return report


def match_classes(components: Tensor, labels: Tensor, num_classes: int) -> Tensor:
    """Replace component numbers by class numbers, one to one, so that most rows agree.

    The assignment is the optimum (Hungarian method).
    """
    counts = torch.zeros(num_classes, num_classes, dtype=torch.long)
    counts.index_put_((components, labels), torch.ones_like(labels), accumulate=True)
    component_numbers, class_numbers = linear_sum_assignment(-counts.numpy())
    class_of = torch.empty(num_classes, dtype=torch.long)
    class_of[component_numbers] = torch.as_tensor(class_numbers)
    return class_of[components]


if __name__ == "__main__":
    main()
