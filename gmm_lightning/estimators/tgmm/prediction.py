"""Densities, labels and criteria of rows, under tgmm's names."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from gmm_lightning import criteria
from gmm_lightning._validation import require_choice
from gmm_lightning.distributions import impute
from gmm_lightning.errors import InvalidArgumentError
from gmm_lightning.estimators.tgmm.parameters import Parameters
from gmm_lightning.evidence import Labels


class Prediction(Parameters):
    """What a fitted mixture says of rows; all of it without a gradient."""

    @torch.no_grad()
    def _log_joint(self, X: Any) -> Tensor:
        """Log joint densities `(N, K)`, or `(N, K + 1)` with the noise as the last one."""
        layer = self.require_fitted()
        return layer.log_joint_with_noise(self.rows(X), self.handles_missing)

    @torch.no_grad()
    def predict(self, X: Any) -> Tensor:
        """The most probable component of each row, `(N,)`; -1 is the noise."""
        return self.require_fitted().predict(self.rows(X), self.handles_missing)

    def predict_proba(self, X: Any) -> Tensor:
        """Responsibilities `(N, K)`, or `(N, K + 1)` with the noise in the last column."""
        return self._log_joint(X).softmax(-1)

    @torch.no_grad()
    def noise_proba(self, X: Any) -> Tensor:
        """Probability that each row is noise, `(N,)`.

        Raises:
            InvalidArgumentError: a mixture without noise.
        """
        layer = self.require_fitted()
        if layer.noise is None:
            raise InvalidArgumentError("noise_proba needs a mixture made with noise=True")
        return layer.noise_probability(self.rows(X), self.handles_missing)

    def predict_class(self, X: Any) -> Tensor:
        """The most probable label of each row, `(N,)`, after a fit with labels.

        Raises:
            InvalidArgumentError: a fit without labels.
        """
        if self.classes_ is None or self.class_of_component_ is None:
            raise InvalidArgumentError("predict_class needs a fit with labels")
        labels = Labels(self.class_of_component_.tolist())
        return self.classes_[labels.class_probabilities(self._log_joint(X)).argmax(-1)]

    @torch.no_grad()
    def score_samples(self, X: Any) -> Tensor:
        """Log density `log p(x)` of each row, `(N,)`, in nats."""
        return self.require_fitted().log_prob(self.rows(X), self.handles_missing)

    def score(self, X: Any) -> float:
        """Mean of `score_samples`."""
        return self.score_samples(X).double().mean().item()

    @torch.no_grad()
    def impute(self, X: Any) -> Tensor:
        """Rows with their missing entries replaced by their conditional means.

        Raises:
            InvalidArgumentError: a mixture made without missing='em', or with noise.
        """
        if self.missing != "em":
            raise InvalidArgumentError("impute needs a mixture made with missing='em'")
        self.require_without_noise("impute")
        return impute(self.mixture, self.rows(X))

    def bic(self, X: Any) -> float:
        """Bayesian information criterion; lower is better."""
        total, parameters, n = self._totals(X)
        return criteria.bic(total, parameters, n)

    def aic(self, X: Any) -> float:
        """Akaike's information criterion; lower is better."""
        total, parameters, _ = self._totals(X)
        return criteria.aic(total, parameters)

    def icl(self, X: Any, mode: str = "hard") -> float:
        """Integrated completed likelihood; lower is better.

        Args:
            X: rows.
            mode: `soft`: `bic` and twice the entropy of the responsibilities. `hard`: twice the
                surprise `-log max_k r_k` of the most probable components instead.
        """
        require_choice("mode", mode, ("hard", "soft"))
        resp = self._log_joint(X).log_softmax(-1).double()
        spread = -resp.amax(-1) if mode == "hard" else torch.special.entr(resp.exp()).sum(-1)
        total, parameters, n = self._totals(X)
        return criteria.icl(total, parameters, n, float(spread.sum()))

    def _totals(self, X: Any) -> tuple[float, int, int]:
        """Log-likelihood of all rows, free parameters, and number of rows."""
        values = self.score_samples(X).double()
        return float(values.sum()), self.require_fitted().num_free_parameters, len(values)

    def require_without_noise(self, what: str) -> None:
        """Raise where something is of the Gaussian components alone, and there is noise.

        Raises:
            InvalidArgumentError: the mixture has noise.
        """
        if self.require_fitted().noise is not None:
            raise InvalidArgumentError(
                f"{what} is of Gaussian components alone: this mixture has noise=True"
            )
