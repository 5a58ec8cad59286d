"""A network that ends in a mixture, as a module whose inputs and outputs are tensors."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from gmm_lightning.covariances import Covariance
from gmm_lightning.distributions import MixtureOfGaussians
from gmm_lightning.errors import InvalidArgumentError
from gmm_lightning.linalg import LOG_2PI, full_precision

# The substitution is written out feature by feature: some four operations each.
MOST_FEATURES = 32


class Conditional(nn.Module):
    """A module or function of one tensor that returns a `MixtureOfGaussians`.

    Args:
        model: a `DensityHead`, or a network that ends in one.
    """

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        if not isinstance(model, nn.Module):
            raise InvalidArgumentError(f"expected a module, got {type(model).__name__}")
        self.model = model

    def mixture(self, h: Tensor) -> MixtureOfGaussians:
        """What the model says of `h`.

        Raises:
            InvalidArgumentError: it says something else.
        """
        mixture = self.model(h)
        if not isinstance(mixture, MixtureOfGaussians):
            raise InvalidArgumentError(
                "expected a model that returns a MixtureOfGaussians, such as a DensityHead or a "
                f"network that ends in one; it returned {type(mixture).__name__}"
            )
        return mixture


class ConditionalDensity(Conditional):
    """`(h, y) -> log p(y | h)`, without a triangular solve.

    A family that whitens in its own way, without dense factors, does so here. Dense factors are
    met by forward substitution, `z_i = (d_i - sum_{j < i} L_ij z_j) / L_ii`, written out.

    Shape:
        h `(*S, in_features)` and y `(*S, D)` give `(*S)`.
    """

    log_2pi: Tensor

    def __init__(self, model: nn.Module) -> None:
        super().__init__(model)
        # A tensor: ONNX takes a number of Python's as a float32.
        value = torch.tensor(LOG_2PI, dtype=torch.float64, device="cpu")
        self.register_buffer("log_2pi", value, persistent=False)

    def forward(self, h: Tensor, y: Tensor) -> Tensor:
        """`log p(y | h)`.

        Raises:
            InvalidArgumentError: more features than the substitution is written out for, or rows
                that do not fit.
        """
        mixture = self.mixture(h)
        mixture.check_rows(y)
        family, scale, d = mixture.covariance, mixture.scale, mixture.num_features
        with full_precision(y.device):
            diff = y.to(mixture.means.dtype).unsqueeze(-2) - mixture.means
            if type(family).whiten is Covariance.whiten:
                white = substituted(family.scale_tril(scale, d), diff)
            else:
                white = family.whiten(scale, diff)
            squares = white.square().sum(-1) + d * self.log_2pi.to(white)
            log_scale = family.half_log_det(scale, d)
            return (mixture.log_weights - log_scale - 0.5 * squares).logsumexp(-1)


class ConditionalParameters(Conditional):
    """`h -> (weights, means, scale_tril)` of the mixture that a model makes of h.

    Shape:
        h `(*S, in_features)` gives `(*S, K)`, `(*S, K, D)` and `(*S, K, D, D)`.
    """

    def forward(self, h: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Weights, means and dense lower Cholesky factors."""
        mixture = self.mixture(h)
        return mixture.weights, mixture.means, lower_factors(mixture)


def lower_factors(mixture: MixtureOfGaussians) -> Tensor:
    """Dense lower Cholesky factors `(*B, K, D, D)`, without a triangular solve.

    Raises:
        InvalidArgumentError: more than 32 features, where the family holds inverse factors.
    """
    inverse_tril = getattr(mixture.covariance, "inverse_tril", None)
    if inverse_tril is None:
        return mixture.scale_tril
    d = mixture.num_features
    units = torch.eye(d, dtype=mixture.means.dtype, device=mixture.means.device)
    units = units.reshape(d, *[1] * (len(mixture.batch_shape) + 1), d)
    columns = substituted(inverse_tril(mixture.scale, d), units)
    return columns.movedim(0, -1).expand(*mixture.means.shape, d)


def substituted(factor: Tensor, diff: Tensor) -> Tensor:
    """Solve `L z = d` for factors `(*B, G, D, D)` and differences `(*S, *B, K, D)`, written out.

    Raises:
        InvalidArgumentError: more than 32 features.
    """
    d = diff.shape[-1]
    require_few(d)
    solved: list[Tensor] = []
    for i in range(d):
        z = diff[..., :1] / factor[..., i, i].unsqueeze(-1)
        # What is left of the differences, without this column's share.
        diff = diff[..., 1:] - factor[..., i + 1 :, i] * z
        solved.append(z)
    return torch.cat(solved, dim=-1)


def require_few(num_features: int) -> None:
    """Raise where writing out the substitution would make too large a graph.

    Raises:
        InvalidArgumentError: naming the limit and what to do instead.
    """
    if num_features > MOST_FEATURES:
        raise InvalidArgumentError(
            f"a triangular solve is written out for at most {MOST_FEATURES} features, got "
            f"{num_features}: take a family without one (diagonal, spherical), the other of "
            "export_density and export_parameters where only that one solves, or torch.export of "
            "model(h).log_prob(y), which keeps the solve and does not convert to ONNX"
        )


def export_density(model: nn.Module) -> ConditionalDensity:
    """A module `(h, y) -> log p(y | h)` for `torch.export` and ONNX.

    The model is not copied: it is set to evaluation mode, and its parameters are the module's.

    A `DensityHead` whitens by products and is exported at any width. A model of your own whose
    mixtures hold dense factors, which have to be solved with, is refused above 32 features when
    it is called.

    Args:
        model: a `DensityHead`, or a network that ends in one or in another `MixtureOfGaussians`.

    Raises:
        InvalidArgumentError: no module.

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
    """A module `h -> (weights, means, scale_tril)` for `torch.export` and ONNX.

    The dense families of a `DensityHead` hold inverse factors: above 32 features they are refused
    when the module is called, as inverting them is written out.

    Args:
        model: as for `export_density`; it is not copied either.

    Raises:
        InvalidArgumentError: no module.

    Example:
        >>> from gmm_lightning.interop import export_parameters
        >>> from gmm_lightning.layers import DensityHead
        >>> weights, means, scale_tril = export_parameters(DensityHead(8, 2, 4))(torch.zeros(5, 8))
        >>> scale_tril.shape
        torch.Size([5, 4, 2, 2])
    """
    return ConditionalParameters(model).eval()
