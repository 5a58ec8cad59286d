"""The names of tgmm 0.4: `from gmm_lightning.estimators.tgmm import GaussianMixture`.

Arguments are tensors, arrays or tables, results tensors. Errors of tgmm are corrected: fits with
priors follow the posterior, streams keep the mass of what they have seen, draws within a region
are exact, nothing is seeded or styled globally, and files are read without running code.

Samples and starts follow from seeds, but are not those of tgmm.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from gmm_lightning.estimators.tgmm.conditional import ConditionalGaussianMixture
from gmm_lightning.estimators.tgmm.gmm import GaussianMixture
from gmm_lightning.estimators.tgmm.initializer import GMMInitializer
from gmm_lightning.estimators.tgmm.matching import match_predicted_to_true_labels
from gmm_lightning.estimators.tgmm.synthetic import generate_gmm_data

if TYPE_CHECKING:
    from gmm_lightning.estimators.tgmm.plotting import plot_gmm
    from gmm_lightning.plotting import confidence_ellipse_std_devs, dynamic_figsize

__all__ = [
    "ConditionalGaussianMixture",
    "GMMInitializer",
    "GaussianMixture",
    "confidence_ellipse_std_devs",
    "dynamic_figsize",
    "generate_gmm_data",
    "match_predicted_to_true_labels",
    "plot_gmm",
]


def __getattr__(name: str) -> Any:
    """Import what draws when it is first asked for: matplotlib is slow to import."""
    if name == "plot_gmm":
        from gmm_lightning.estimators.tgmm.plotting import plot_gmm

        return plot_gmm
    if name in ("confidence_ellipse_std_devs", "dynamic_figsize"):
        from gmm_lightning import plotting

        return getattr(plotting, name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
