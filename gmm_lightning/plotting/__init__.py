"""Pictures of mixtures and of fits, drawn without any global plotting state.

Figures come from matplotlib's object interface with the Agg canvas: no window, no pyplot and no
change of rcParams, so the functions are safe in training loops, servers and notebooks alike.

Densities and responsibilities are those of the Gaussian components; `plot_mixture` marks the rows
that a layer's noise explains best, and `plot_samples` draws noise in grey.
"""

from __future__ import annotations

from gmm_lightning.plotting._ellipses import confidence_ellipse_std_devs
from gmm_lightning.plotting.calibration import plot_calibration
from gmm_lightning.plotting.convergence import plot_convergence
from gmm_lightning.plotting.density import plot_density
from gmm_lightning.plotting.error_ellipses import plot_error_ellipses
from gmm_lightning.plotting.figures import axes_or_new, dynamic_figsize, save_figure
from gmm_lightning.plotting.images import plot_images
from gmm_lightning.plotting.mixture import plot_mixture
from gmm_lightning.plotting.pairs import plot_pairs
from gmm_lightning.plotting.palette import palette
from gmm_lightning.plotting.posterior import plot_posterior, plot_weight_intervals
from gmm_lightning.plotting.priors import plot_prior_and_posterior, plot_prior_predictive
from gmm_lightning.plotting.regression import plot_regression
from gmm_lightning.plotting.responsibilities import plot_responsibilities
from gmm_lightning.plotting.samples import plot_samples

__all__ = [
    "axes_or_new",
    "confidence_ellipse_std_devs",
    "dynamic_figsize",
    "palette",
    "plot_calibration",
    "plot_convergence",
    "plot_density",
    "plot_error_ellipses",
    "plot_images",
    "plot_mixture",
    "plot_pairs",
    "plot_posterior",
    "plot_prior_and_posterior",
    "plot_prior_predictive",
    "plot_regression",
    "plot_responsibilities",
    "plot_samples",
    "plot_weight_intervals",
    "save_figure",
]
