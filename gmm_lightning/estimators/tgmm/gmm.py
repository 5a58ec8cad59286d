"""tgmm's mixture on the layer and the EM of this library."""

from __future__ import annotations

import warnings
from dataclasses import dataclass
from typing import Any, Self

import torch
from torch import Tensor

from gmm_lightning._validation import require_integer, require_number
from gmm_lightning.em import Annealing, StepwiseEM
from gmm_lightning.errors import InvalidArgumentError
from gmm_lightning.estimators.tgmm._fitting import Rows, Run, fit_runs, statistics_of
from gmm_lightning.estimators.tgmm._online import (
    continue_with,
    fit_online,
    stream_after,
    stream_from_parameters,
)
from gmm_lightning.estimators.tgmm._starts import kmeans_means, nearest, seeded
from gmm_lightning.estimators.tgmm.storage import Storage


@dataclass(eq=False, repr=False)
class GaussianMixture(Storage):
    """A Gaussian mixture in tgmm's terms: its names, its defaults, its forms of covariances.

    Rows are tensors, arrays or tables; what returns are tensors on `device`, in the dtype of the
    rows. Randomness comes from `random_state`, or from torch's generator; neither is seeded
    globally.

    Args:
        n_components: number of Gaussians.
        n_features: found in `fit`.
        covariance_type: `full`, `diag`, `spherical`, `tied_full`, `tied_diag`, `tied_spherical`,
            their aliases `tied` and `isotropic`, or mclust's code of one of them.
        max_iter: M-steps at most.
        tol: see `convergence`.
        reg_covar: added to the variances, in squared units of the data; where a feature varies
            less than that unit, as a share of the smallest variance of a feature.
        n_init: fits with the seeds `random_state`, `random_state + 1`, ..., of which the one with
            the best objective is kept.
        init_means: `kmeans`, `kpp`, `points`, `random`, `maxdist`, or values.
        init_weights: `uniform`, `random`, `kmeans`, or values.
        init_covariances: `empirical`, `eye`, `global`, `random`, or values.
        random_state: a seed, or None.
        warm_start: go on from the parameters of the last fit.
        algorithm: `em`, or `cem` for classification EM.
        batch_size: rows at a time; with `step_size`, those of a mini-batch.
        convergence: `relative`: stop when the objective changes by less than `tol` of itself.
            `aitken`: when it is estimated to gain less than `tol`.
        temperature: first inverse temperature of annealing, and the E-steps until it is 1.
        step_size: fit by mini-batches with this share of the latest one: a number, `auto` for
            `(t + 2)^-0.7`, or a function of t. Takes `max_iter` epochs at most.
        components_per_class: with `labels`: components of each class, a number or by class.
        unlabeled_weight: weight of rows without a label.
        label_confidence: probability that a label is right.
        noise: whether a uniform component takes rows of no cluster.
        noise_volume: `bbox`, the bounding box of the rows, or its volume.
        noise_prior: weight of the noise at the start.
        noise_init: rows that are noise at the start: a mask, or labels with -1.
        missing: `error` refuses NaN, `em` fits the observed entries.
        frozen_components: components that keep their initial means and covariances.
        weight_concentration_prior: of a Dirichlet prior on the weights.
        mean_prior: centre of a normal prior on the means.
        mean_precision_prior: rows that it is worth.
        covariance_prior: scale of an inverse-Wishart prior, in the form of the covariances; of
            spherical ones the trace.
        degrees_of_freedom_prior: of that prior.
        verbose: show a bar.
        device: of parameters and results; None: a GPU if there is one.
        weight_bounds: least and largest weights.
        fixed_weights: weights that are not estimated.
        mean_bounds: least and largest entries of the means.
        covariance_bounds: least and largest variances, of `full` and `tied_full` eigenvalues.
        frozen_means: components that keep their initial means.
        frozen_covariances: components that keep their initial covariances.
        prior_convention: `mode`: covariances are the mode of the posterior. `expected_precision`:
            they are divided by `nu + n`, as in tgmm.

    Attributes:
        layer_: the fitted `GMMLayer`.
        result_: what `fit_em` returned for it, or the like of mini-batches.
        lower_bound_: the objective: mean log-likelihood, with priors the mean log posterior.
        log_likelihood_history_: the objective before the first M-step and after each one.
        n_iter_: M-steps, or epochs.

    Raises:
        InvalidArgumentError: an argument out of range.

    Example:
        >>> x = torch.cat([torch.randn(100, 2) - 4, torch.randn(100, 2) + 4])
        >>> gmm = GaussianMixture(n_components=2, random_state=0).fit(x)
        >>> gmm.converged_, gmm.means_.shape
        (True, torch.Size([2, 2]))
    """

    def fit(
        self,
        X: Any,
        labels: Any = None,
        max_iter: int | None = None,
        tol: float | None = None,
        random_state: int | None = None,
        warm_start: bool | None = None,  # noqa: FBT001 (tgmm's signature)
        sample_weight: Any = None,
    ) -> Self:
        """Fit the mixture; None takes the arguments of the constructor.

        Args:
            X: rows `(N, D)`; a vector is a column.
            labels: classes `(N,)`, integers, with -1 where they are not known: each class is a
                mixture of its own components (`predict_class`). Fully labelled, with one component
                for each class, one M-step is the fit.
            max_iter: see the constructor.
            tol: see the constructor.
            random_state: see the constructor.
            warm_start: see the constructor.
            sample_weight: of the rows, `(N,)`.

        Raises:
            InvalidArgumentError: an argument out of range, or values that do not fit the rows.
            InvalidDataError: rows that cannot be used, by number.
        """
        if self.n_components is None:
            raise InvalidArgumentError(
                "n_components must be a number: Gibbs sampling of it is not available here"
            )
        max_iter = require_integer(
            "max_iter", self.max_iter if max_iter is None else max_iter, least=1
        )
        tol = require_number("tol", self.tol if tol is None else tol, above=0)
        rows = Rows.create(self, X, sample_weight, labels)
        if random_state is not None:
            self.random_state = random_state
        warm = self.warm_start if warm_start is None else warm_start
        if self.step_size is None:
            run = fit_runs(self, rows, max_iter=max_iter, tol=tol, warm=warm)
            stream = stream_after(self, run.layer, statistics_of(self, run.layer, rows))
        else:
            run, stream = fit_online(self, rows, max_iter=max_iter, tol=tol, warm=warm)
        self._take(run, stream)
        if rows.classes is not None:
            self.classes_ = rows.classes.values
            self.class_of_component_ = rows.classes.of_component
        if not self.converged_:
            warnings.warn(
                f"EM has not converged after {self.n_iter_} iterations: raise max_iter or tol",
                UserWarning,
                stacklevel=2,
            )
        return self

    def _take(self, run: Run, stream: StepwiseEM) -> None:
        """Take over a fit, at its end, so that an error leaves the mixture as it was."""
        result = run.result
        self.layer_, self.result_, self.n_features = run.layer, result, run.layer.num_features
        self.initial_weights_, self.initial_means_, self.initial_covariances_ = run.start
        self.fitted_, self.converged_ = True, result.converged
        self.n_iter_, self.lower_bound_ = result.num_iterations, float(result.objective)
        self.best_random_state_ = run.seed
        self.log_likelihood_history_ = torch.tensor(result.history, dtype=torch.float64)
        self.annealing_schedule_ = None
        if self.temperature is not None:
            schedule = Annealing(*self.temperature)
            steps = range(result.num_iterations + 1)
            self.annealing_schedule_ = [schedule.inverse_temperature(i) for i in steps]
        self.classes_ = self.class_of_component_ = None
        self.stream_ = stream

    def fit_predict(self, X: Any) -> Tensor:
        """Fit, and return the most probable component of each row."""
        return self.fit(X).predict(X)

    def partial_fit(self, X_batch: Any) -> Self:
        """Go on by one mini-batch, from the statistics of all rows so far.

        After `fit` they count as the batches of this size that its rows make.

        Raises:
            InvalidArgumentError: no parameters yet.
            InvalidDataError: rows that cannot be used.
        """
        layer, x = self.require_fitted(), self.rows(X_batch)
        if self.stream_ is None:
            self.stream_ = stream_from_parameters(self, layer, x)
        continue_with(self.stream_, x)
        self.lower_bound_ = float(self.stream_.log_likelihood)
        return self

    @staticmethod
    def suggest_priors(
        X: Any, n_components: int, covariance_type: str = "full", random_state: int | None = None
    ) -> tuple[Tensor, float, Tensor, float]:
        """Values of the four priors on means and covariances, from clusters of k-means.

        Returns:
            The mean of the rows, 0.1, the pooled covariance within the clusters in the form of
            the type (spherical: its trace), and `D + 2`.
        """
        model = GaussianMixture(n_components, covariance_type=covariance_type)
        x = model.rows(X)
        generator = seeded(random_state, x.device)
        means = kmeans_means(x, n_components, generator).to(x)
        labels = nearest(x, means)
        counts = torch.bincount(labels, minlength=n_components)
        sums = torch.zeros_like(means).index_add_(0, labels, x)
        centred = x - (sums / counts.clamp(min=1).unsqueeze(-1))[labels]
        dof = len(x) - int((counts > 0).sum())
        if dof == 0:
            centred, dof = x - x.mean(0), max(len(x) - 1, 1)
        pooled = centred.T @ centred / dof
        if not model.covariance_type.endswith("full"):
            pooled = pooled.diagonal()
        if model.covariance_type.endswith("spherical"):
            pooled = pooled.sum()
        return x.mean(0), 0.1, pooled, x.shape[1] + 2.0
