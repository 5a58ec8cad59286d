"""Export of networks that end in a mixture, as modules of tensors."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from gmm_lightning.distributions import MixtureOfGaussians
from gmm_lightning.errors import InvalidArgumentError
from gmm_lightning.linalg import LOG_2PI, full_precision, unit_rows

# The substitution is written out feature by feature, in some four operations each.
_MAX_FEATURES = 32


class _Conditional(nn.Module):
    """A module that returns a `MixtureOfGaussians`, such as a `DensityHead`."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        if not isinstance(model, nn.Module):
            raise InvalidArgumentError(f"expected a module, got {type(model).__name__}")
        self.model = model

    def mixture(self, h: Tensor) -> MixtureOfGaussians:
        """Mixture that the model returns for `h`."""
        mixture = self.model(h)
        if not isinstance(mixture, MixtureOfGaussians):
            raise InvalidArgumentError(
                "expected a model that returns a MixtureOfGaussians, such as a DensityHead or a "
                f"network that ends in one; it returned {type(mixture).__name__}"
            )
        return mixture


class ConditionalDensity(_Conditional):
    """Module `(h, y) -> log p(y | h)`, without a triangular solve.

    Where the family whitens by solving with dense factors, forward substitution is written out:
    `z_i = (d_i - sum_{j < i} L_ij z_j) / L_ii`.

    Shape:
        h `(*S, in_features)` and y `(*S, D)` give `(*S)`.
    """

    log_2pi: Tensor

    def __init__(self, model: nn.Module) -> None:
        super().__init__(model)
        # A tensor: ONNX takes a Python number as a float32.
        value = torch.tensor(LOG_2PI, dtype=torch.float64, device="cpu")
        self.register_buffer("log_2pi", value, persistent=False)

    def forward(self, h: Tensor, y: Tensor) -> Tensor:
        """Log densities `log p(y | h)`, `(*S)`.

        Raises:
            InvalidArgumentError: more features than the substitution is written out for, or rows
                that do not fit.
        """
        mixture = self.mixture(h)
        y = mixture.check_rows(y)
        family, scale, d = mixture.covariance, mixture.scale, mixture.num_features
        if family.whitens_by_solve:
            # Before autocast is left: torch.export of torch 2.8 loses an error inside it.
            _require_few_features(d)
        with full_precision(y.device):
            diff = y.to(mixture.means.dtype).unsqueeze(-2) - mixture.means
            if family.whitens_by_solve:
                white = _forward_substitution(family.scale_tril(scale, d), diff)
            else:
                white = family.whiten(scale, diff)
            squares = white.square().sum(-1) + d * self.log_2pi.to(white)
            log_scale = family.half_log_det(scale, d)
            return (mixture.log_weights - log_scale - 0.5 * squares).logsumexp(-1)


class ConditionalParameters(_Conditional):
    """Module `h -> (weights, means, scale_tril)` of the mixture that a model returns for h.

    Shape:
        h `(*S, in_features)` gives `(*S, K)`, `(*S, K, D)` and `(*S, K, D, D)`.
    """

    def forward(self, h: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Weights, means and dense lower Cholesky factors."""
        mixture = self.mixture(h)
        return mixture.weights, mixture.means, _scale_tril(mixture)


def _scale_tril(mixture: MixtureOfGaussians) -> Tensor:
    """Dense lower Cholesky factors `(*B, K, D, D)`, without a triangular solve."""
    d = mixture.num_features
    inverse = mixture.covariance.inverse_tril(mixture.scale, d)
    if inverse is None:
        return mixture.scale_tril
    units = unit_rows(d, len(mixture.batch_shape), mixture.means)
    columns = _forward_substitution(inverse, units)
    return columns.movedim(0, -1).expand(*mixture.means.shape, d)


def _require_few_features(num_features: int) -> None:
    """Refuse a substitution whose graph would be too large."""
    if num_features > _MAX_FEATURES:
        raise InvalidArgumentError(
            f"a triangular solve is written out for at most {_MAX_FEATURES} features, got "
            f"{num_features}: take a family without one (diagonal, spherical), the other of "
            "export_density and "
            "export_parameters where only that one solves, or torch.export of "
            "model(h).log_prob(y), which keeps the solve and does not convert to ONNX"
        )


def _forward_substitution(factor: Tensor, diff: Tensor) -> Tensor:
    """Solutions of `L z = d`, `(*S, *B, K, D)`, for factors `(*B, G, D, D)`, written out."""
    d = diff.shape[-1]
    _require_few_features(d)
    solved: list[Tensor] = []
    for i in range(d):
        z = diff[..., :1] / factor[..., i, i].unsqueeze(-1)
        # The equations that remain, without the feature that is solved for.
        diff = diff[..., 1:] - factor[..., i + 1 :, i] * z
        solved.append(z)
    return torch.cat(solved, dim=-1)


def export_density(model: nn.Module) -> ConditionalDensity:
    """Module `(h, y) -> log p(y | h)` for `torch.export` and ONNX.

    The model is not copied: it is set to evaluation mode, and the module shares its parameters. A
    `DensityHead` is exported at any width. Other models, whose mixtures hold dense factors that
    need a triangular solve, are refused above 32 features when the module is called.

    Args:
        model: a `DensityHead`, or a network that ends in one or in another `MixtureOfGaussians`.

    Raises:
        InvalidArgumentError: the model is not a module.

    Example:
        >>> from gmm_lightning.interop import export_density
        >>> from gmm_lightning.layers import DensityHead
        >>> model = torch.nn.Sequential(torch.nn.Linear(3, 8), DensityHead(8, 2, 4))
        >>> few, rows = (torch.zeros(5, 3), torch.zeros(5, 2)), {0: torch.export.Dim("rows")}
        >>> program = torch.export.export(export_density(model), few, dynamic_shapes=(rows, rows))
        >>> program.module()(torch.zeros(9, 3), torch.zeros(9, 2)).shape
        torch.Size([9])
    """
    return ConditionalDensity(model).eval()


def export_parameters(model: nn.Module) -> ConditionalParameters:
    """Module `h -> (weights, means, scale_tril)` for `torch.export` and ONNX.

    The dense families of a `DensityHead` hold inverse factors, whose inversion is written out:
    above 32 features they are refused when the module is called.

    The model is as for `export_density`.

    Raises:
        InvalidArgumentError: the model is not a module.

    Example:
        >>> from gmm_lightning.interop import export_parameters
        >>> from gmm_lightning.layers import DensityHead
        >>> weights, means, scale_tril = export_parameters(DensityHead(8, 2, 4))(torch.zeros(5, 8))
        >>> scale_tril.shape
        torch.Size([5, 4, 2, 2])
    """
    return ConditionalParameters(model).eval()
