"""Options that the estimators share, and what each may be; some say less or more of one."""

from __future__ import annotations

from numbers import Integral, Real
from typing import Any

import torch
from sklearn.utils._param_validation import Interval, StrOptions

from gmm_lightning.covariances import Covariance
from gmm_lightning.covariances import registry as covariances
from gmm_lightning.initializers import registry as initializers

# A mode, or a variational posterior of which the expected parameters are taken.
INFERENCE = {"inference": [StrOptions({"map", "vb"})]}

OPTIONS: dict[str, Any] = {
    "n_components": [Interval(Integral, 1, None, closed="left")],
    "covariance_type": [StrOptions({*covariances.names, *covariances.aliases}), Covariance],
    "tol": [Interval(Real, 0.0, None, closed="left")],
    "n_init": [Interval(Integral, 1, None, closed="left")],
    "random_state": ["random_state"],
    "priors": "no_validation",
    "device": [str, torch.device, None],
    "max_iter": [Interval(Integral, 1, None, closed="left")],
    "init_params": [StrOptions(set(initializers.names) - {"given"})],
}
