"""A classifier of one Gaussian mixture per class, by scikit-learn's rules."""

from __future__ import annotations

from typing import Any, ClassVar, Self

import numpy as np
import torch
from sklearn.base import BaseEstimator, ClassifierMixin
from sklearn.utils.multiclass import check_classification_targets
from sklearn.utils.validation import check_is_fitted

from gmm_lightning.covariances import Covariance
from gmm_lightning.em import ClassifierResult, VBResult, fit_classifier, fit_vb
from gmm_lightning.estimators.scikit_learn._options import INFERENCE, OPTIONS
from gmm_lightning.estimators.scikit_learn._rows import (
    Rows,
    generator_of,
    new_layer,
    weights_of_rows,
)
from gmm_lightning.layers import MixtureClassifier
from gmm_lightning.rows import as_tensor


class GaussianMixtureClassifier(ClassifierMixin, BaseEstimator):
    """Classifier `p(c | x) ~ p(c) p(x | c)` with a mixture of Gaussians for each class.

    One component per class is quadratic discriminant analysis. Where rows are tensors, results are
    tensors; classes that are not numbers are numpy arrays.

    Args:
        n_components: of each class.
        covariance_type: a family of covariances, as in `GMMLayer`.
        priors: of the parameters of each mixture, as in `GMMLayer`.
        class_priors: `p(c)` `(n_classes,)`, in the order of `classes_`; None: the shares of rows.
        tol: a class is done when it is estimated to gain no more nats per row than this.
        max_iter: iterations at most.
        n_init: starts of each class, of which the best is kept.
        init_params: the initializer.
        random_state: a seed, a `RandomState`, or None for numpy's global one.
        inference: `map`: maximum likelihood, or the mode under `priors`; `vb`: the expected
            parameters of a variational posterior (see `fit_vb`), whose bound of the log evidence
            takes the place of the log-likelihood.
        device: where to compute; None: where the rows are.

    Attributes:
        classes_: the labels.
        classifier_: the fitted `MixtureClassifier`.
        result_: what `fit_classifier` returned, or `fit_vb`.
        n_iter_: iterations of the class with most of them.
        n_features_in_: number of features.
        feature_names_in_: names of the columns of a table.

    References:
        T. Hastie, R. Tibshirani (1996), Discriminant analysis by Gaussian mixtures, JRSS B 58.

    Example:
        >>> import numpy as np
        >>> x = np.array([[0.0], [1.0], [2.0], [7.0], [8.0], [9.0]])
        >>> model = GaussianMixtureClassifier().fit(x, ["low"] * 3 + ["high"] * 3)
        >>> model.predict([[1.5], [6.0]]).tolist()
        ['low', 'high']
    """

    classes_: np.ndarray[Any, Any]
    classifier_: MixtureClassifier
    result_: ClassifierResult | VBResult
    n_iter_: int

    _parameter_constraints: ClassVar[dict[str, Any]] = {
        **OPTIONS,
        **INFERENCE,
        "class_priors": "no_validation",
    }

    def __init__(
        self,
        n_components: int = 1,
        *,
        covariance_type: str | Covariance = "full",
        priors: Any = None,
        class_priors: Any = None,
        tol: float = 1e-5,
        max_iter: int = 500,
        n_init: int = 1,
        init_params: str = "mixed",
        random_state: Any = None,
        inference: str = "map",
        device: Any = None,
    ) -> None:
        self.n_components = n_components
        self.covariance_type = covariance_type
        self.priors = priors
        self.class_priors = class_priors
        self.tol = tol
        self.max_iter = max_iter
        self.n_init = n_init
        self.init_params = init_params
        self.random_state = random_state
        self.inference = inference
        self.device = device

    def fit(self, X: Any, y: Any, sample_weight: Any = None) -> Self:
        """Fit the mixture of each class to its rows.

        Args:
            X: rows `(n_samples, n_features)`.
            y: their labels `(n_samples,)`.
            sample_weight: of the rows, not negative.

        Raises:
            ValueError: unusable rows or labels, or a class with fewer rows than components.
        """
        self._validate_params()
        rows = Rows(self, X, y=y, reset=True, device=self.device)
        check_classification_targets(rows.y)
        classes, x = np.unique(rows.y), rows.x
        layer = new_layer(
            x.shape[1],
            self.n_components,
            self.covariance_type,
            self.priors,
            batch_shape=(len(classes),),
            device=x.device,
            dtype=x.dtype,
        )
        given = None if self.class_priors is None else as_tensor(self.class_priors, "class_priors")
        classifier = MixtureClassifier(layer, classes.tolist())
        options = {
            "initializer": self.init_params,
            "max_iter": self.max_iter,
            "tol": self.tol,
            "num_restarts": self.n_init,
            "generator": generator_of(self.random_state, x.device),
        }
        weight = weights_of_rows(sample_weight, x)
        if self.inference == "map":
            self.result_ = fit_classifier(
                classifier, x, rows.y, sample_weight=weight, class_priors=given, **options
            )
            iterations = max(result.num_iterations for result in self.result_.classes.values())
        else:
            own = torch.from_numpy(rows.y[:, None] == classes).to(x)
            own = own if weight is None else own * weight.unsqueeze(-1)
            self.result_ = fit_vb(layer, x.unsqueeze(1), sample_weight=own, **options)
            logits = classifier.log_class_priors(own.sum(0) if given is None else given)
            with torch.no_grad():
                classifier.class_logits.copy_(logits)
            iterations = self.result_.num_iterations
        # A fit that fails leaves the last one.
        self.classes_, self.classifier_ = classes, classifier
        self.n_iter_ = iterations
        return self

    def predict(self, X: Any) -> Any:
        """The most probable class of each row, `(n_samples,)`."""
        rows = self._rows(X)
        labels = self.classes_[self.classifier_.predict(rows.x).cpu().numpy()]
        # Tensors hold numbers alone.
        return rows.give_back(torch.from_numpy(labels)) if labels.dtype.kind in "iufb" else labels

    def predict_proba(self, X: Any) -> Any:
        """Probabilities of the classes, `(n_samples, n_classes)`."""
        rows = self._rows(X)
        return rows.give_back(self.classifier_.posterior(rows.x))

    def predict_log_proba(self, X: Any) -> Any:
        """Log probabilities of the classes, `(n_samples, n_classes)`."""
        rows = self._rows(X)
        return rows.give_back(self.classifier_.log_posterior(rows.x))

    def score_samples(self, X: Any) -> Any:
        """Log densities of rows of any class, `(n_samples,)`: low for rows unlike every class."""
        rows = self._rows(X)
        return rows.give_back(self.classifier_.log_prob(rows.x))

    def _rows(self, X: Any) -> Rows:
        check_is_fitted(self, "classifier_")
        return Rows(self, X, device=self.classifier_.class_logits.device)
