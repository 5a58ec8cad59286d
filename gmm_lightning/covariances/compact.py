"""Covariances as other libraries store them: in a family's form, and a tied one alone."""

from __future__ import annotations

from torch import Tensor

from gmm_lightning.covariances.base import Covariance


def to_compact(dense: Tensor, family: Covariance) -> Tensor:
    """Dense matrices `(K, D, D)` as the libraries store them for a family.

    They are `(K, D, D)` for full covariances, `(K, D)` for diagonal and `(K,)` for spherical ones;
    of a tied family there is one for all components, `(D, D)`, `(D,)` or `()`.

    Example:
        >>> from gmm_lightning.covariances import as_covariance
        >>> to_compact(torch.eye(3).expand(2, 3, 3), as_covariance("tied_diag"))
        tensor([1., 1., 1.])
    """
    formed = family.project(dense)
    return formed[0] if family.tied else formed


def from_compact(values: Tensor, family: Covariance, num_features: int) -> Tensor:
    """Dense matrices `(G, D, D)` of what `to_compact` returns.

    Example:
        >>> from gmm_lightning.covariances import as_covariance
        >>> from_compact(torch.tensor(2.0), as_covariance("tied_spherical"), 2)
        tensor([[[2., 0.],
                 [0., 2.]]])
    """
    formed = values.unsqueeze(0) if family.tied else values
    if not family.axis_aligned:
        return formed
    return family.variances(formed, num_features).diag_embed()
