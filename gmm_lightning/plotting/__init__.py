"""Pictures of mixtures and of fits, drawn without any global plotting state.

Figures come from matplotlib's object interface with the Agg canvas: nothing here opens a window,
registers a figure with pyplot or changes rcParams, so the functions are safe in training loops,
servers and notebooks alike.
"""

from __future__ import annotations

from gmm_lightning.plotting.convergence import plot_convergence
from gmm_lightning.plotting.figures import save_figure
from gmm_lightning.plotting.mixture import plot_mixture
from gmm_lightning.plotting.palette import palette

__all__ = ["palette", "plot_convergence", "plot_mixture", "save_figure"]
