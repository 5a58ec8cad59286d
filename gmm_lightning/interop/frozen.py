"""Export of mixtures with constant parameters, by sums and products alone."""

from __future__ import annotations

import copy
from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.nn import functional

from gmm_lightning._messages import describe
from gmm_lightning._validation import require_choice
from gmm_lightning.errors import InvalidArgumentError
from gmm_lightning.interop._parts import LayerOrMixture, to_float64
from gmm_lightning.linalg import LOG_2PI, full_precision, unit_rows
from gmm_lightning.rows import Batch


class FrozenMixture(nn.Module):
    """Module of `log pi_k N(x | mu_k, Sigma_k) = c_k - |W_k (x - mu_k)|^2 / 2` by constants.

    `W_k = L_k^-1` and `c_k = log pi_k - log|Sigma_k| / 2 - D log(2 pi) / 2` are computed once, in
    float64. Rows are centred before the product, so that a mixture far from the origin keeps its
    digits; the rounding error of the means in a narrower dtype is whitened and kept in `shift`.

    Shape:
        x `(*S, *B, D)` gives `(*S, *B)`, or `(*S, *B, K)` for responsibilities.

    Args:
        source: the layer or mixture.
        output: as for `export_module`.
        dtype: as for `export_module`.
    """

    means: Tensor
    inverse: Tensor
    constant: Tensor
    shift: Tensor | None

    def __init__(
        self, source: LayerOrMixture, output: str = "log_prob", *, dtype: torch.dtype | None = None
    ) -> None:
        super().__init__()
        require_choice("output", output, _OUTPUTS)
        if not isinstance(dtype, torch.dtype | None):
            raise InvalidArgumentError(
                f"dtype must be a torch.dtype or None, got {describe(dtype)}"
            )
        mixture = to_float64(source)
        self.output, self.batch_dims = output, len(mixture.batch_shape)
        kind = (source.means.device, dtype or source.means.dtype)
        means = mixture.means.to(kind[1])
        d = mixture.num_features
        # Whitening is linear in the rows for any family: unit rows give its columns.
        units = unit_rows(d, self.batch_dims, mixture.means)
        inverse = mixture.covariance.whiten(mixture.scale, units).movedim(0, -1)
        self.diagonal = not bool((inverse - inverse.diagonal(dim1=-2, dim2=-1).diag_embed()).any())
        if self.diagonal:
            inverse = inverse.diagonal(dim1=-2, dim2=-1)
        half_log_det = mixture.covariance.half_log_det(mixture.scale, d)
        constant = mixture.log_weights - half_log_det - 0.5 * d * LOG_2PI
        shift = mixture.covariance.whiten(mixture.scale, mixture.means - means.double())
        self.register_buffer("means", means.to(*kind))
        self.register_buffer("inverse", inverse.contiguous().to(*kind))
        self.register_buffer("constant", constant.to(*kind))
        self.register_buffer("shift", shift.to(*kind) if bool(shift.any()) else None)
        self.evidence = copy.deepcopy(getattr(source, "evidence", None))
        self.noise = copy.deepcopy(getattr(source, "noise", None))
        if self.noise is not None:
            self.noise.require_resolved()
            self.noise.to(*kind)

    def forward(self, x: Tensor) -> Tensor:
        """The output chosen by `output`."""
        return _OUTPUTS[self.output](self, x)

    def log_prob(self, x: Tensor) -> Tensor:
        """Log densities `log p(x)`, `(*S, *B)`."""
        return self._log_joint_with_noise(x).logsumexp(-1)

    def responsibilities(self, x: Tensor) -> Tensor:
        """Responsibilities `p(k | x)`, `(*S, *B, K)`."""
        return self._log_joint_with_noise(x).softmax(-1)[..., : self.means.shape[-2]]

    def predict(self, x: Tensor) -> Tensor:
        """Most probable component of each row, `(*S, *B)`; -1 is noise."""
        best = self._log_joint_with_noise(x).argmax(-1)
        return best if self.noise is None else torch.where(best == self.means.shape[-2], -1, best)

    def _log_joint_with_noise(self, x: Tensor) -> Tensor:
        """Log joint densities of the components, and of the noise if any as the last one."""
        log_joint = self.log_joint(x)
        if self.noise is None:
            return log_joint
        log_joint = log_joint + functional.logsigmoid(-self.noise.logit).unsqueeze(-1)
        rows = Batch(x.to(self.means.dtype))
        return self.noise.append_to(log_joint, rows, self.evidence)

    def log_joint(self, x: Tensor) -> Tensor:
        """Log joint densities `log pi_k + log N(x | mu_k, Sigma_k)` + evidence, `(*S, *B, K)`.

        They are of the Gaussian part, whatever the noise.

        Raises:
            InvalidArgumentError: rows of another width.
        """
        if x.dim() == 0 or x.shape[-1] != self.means.shape[-1]:
            raise InvalidArgumentError(
                f"expected rows with {self.means.shape[-1]} features in the last axis, got an "
                f"array of shape {tuple(x.shape)}"
            )
        with full_precision(x.device):
            white = self._times_inverse(x.to(self.means.dtype).unsqueeze(-2) - self.means)
            if self.shift is not None:
                white = white - self.shift
            log_joint = self.constant - 0.5 * white.square().sum(-1)
        return log_joint if self.evidence is None else log_joint + self.evidence(Batch(x))

    def _times_inverse(self, diff: Tensor) -> Tensor:
        if self.diagonal:
            return diff * self.inverse
        # One product per component, with all rows as one matrix.
        own = diff.shape[diff.dim() - 2 - self.batch_dims :]
        rows = diff.reshape(-1, *own).movedim(0, -2)
        return (rows @ self.inverse.mT).movedim(-2, 0).reshape(diff.shape)

    def extra_repr(self) -> str:
        """Sizes and output."""
        *batch, k, d = self.means.shape
        shape = f", batch_shape={tuple(batch)}" if batch else ""
        return f"num_features={d}, num_components={k}, output={self.output!r}{shape}"


_OUTPUTS: dict[str, Callable[[FrozenMixture, Tensor], Tensor]] = {
    "log_prob": FrozenMixture.log_prob,
    "responsibilities": FrozenMixture.responsibilities,
    "predict": FrozenMixture.predict,
}


def export_module(
    layer: LayerOrMixture, output: str = "log_prob", *, dtype: torch.dtype | None = None
) -> FrozenMixture:
    """Module with copies of the layer's parameters as constants, for `torch.export` and ONNX.

    It multiplies by inverse factors, as triangular solves do not convert to ONNX. Later changes of
    the layer do not affect it. Copies of the layer's evidence and noise are submodules. A model
    that contains a layer needs no such module for `torch.onnx.export(model, ..., dynamo=True)` in
    float32.

    Args:
        layer: a layer or a `MixtureOfGaussians`, of any family and batch shape.
        output: `log_prob`, `responsibilities` or `predict`.
        dtype: of the module; None: that of the layer. The error of a float32 module is about D + 1
            times that of rounding its rows to float32.

    Raises:
        InvalidArgumentError: an unknown output, or neither a layer nor a mixture.

    Example:
        >>> from gmm_lightning.interop import export_module
        >>> module = export_module(GMMLayer(num_features=2, num_components=3), "predict")
        >>> rows = torch.export.Dim("rows")
        >>> program = torch.export.export(module, (torch.zeros(4, 2),), dynamic_shapes=({0: rows},))
        >>> program.module()(torch.zeros(7, 2)).shape
        torch.Size([7])

        To ONNX: `torch.onnx.export(module, (torch.zeros(4, 2),), "mixture.onnx", dynamo=True,
        dynamic_shapes=({0: rows},))`.
    """
    return FrozenMixture(layer, output, dtype=dtype).eval()
