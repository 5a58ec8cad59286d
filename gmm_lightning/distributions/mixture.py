"""The distribution class that layers and heads return."""

from __future__ import annotations

from typing import Any, ClassVar, Self

from torch import Generator, Tensor

from gmm_lightning._messages import describe
from gmm_lightning._validation import require_bool
from gmm_lightning.distributions import density, inference, truncation
from gmm_lightning.errors import InvalidArgumentError


class MixtureOfGaussians(density.MixtureDensity):
    """Gaussian mixture `sum_k pi_k N(x | mu_k, Sigma_k)`, differentiable in x and parameters.

    Densities do not check values: a row with NaN has density NaN, and the whole graph compiles.
    A row so far from every component that the squares overflow (1e154 standard deviations, 1e19
    in float32) has log density -inf, and responsibilities and a score that are NaN.

    Args:
        mixture_logits: unnormalised log weights, `(*B, K)`.
        means: the components' means, `(*B, K, D)`.
        scale: the covariances in the family's compact form, `(*B, G, ...)`; dense lower Cholesky
            factors `(*B, K, D, D)` for the default family.
        covariance: the family, by name (`full`, `diag`, ...) or an instance; None: `full`.

    Raises:
        InvalidArgumentError: the shapes do not fit each other, or an unknown name.

    References:
        C. M. Bishop (2006), Pattern Recognition and Machine Learning, section 9.2.

    Example:
        >>> mixture = MixtureOfGaussians(torch.zeros(2), torch.tensor([[-1.0], [1.0]]),
        ...                              torch.ones(2, 1, 1))
        >>> mixture.log_prob(torch.zeros(1))
        tensor(-1.4189)
    """

    has_rsample: ClassVar[bool] = True  # pyright: ignore[reportIncompatibleVariableOverride]

    # -- density ----------------------------------------------------------------------------

    def log_joint(
        self, x: Tensor, missing: str | None = None, error_covariance: Any = None
    ) -> Tensor:
        """Log joint densities `log p(x, k)`, `(*S, *B, K)`; arguments as for `log_prob`."""
        if not (missing is None or (isinstance(missing, str) and missing == "marginalize")):
            raise InvalidArgumentError(
                f"missing must be None or 'marginalize', got {describe(missing)}"
            )
        if error_covariance is not None:
            return inference.log_joint_noisy(self, x, error_covariance, missing)
        return super().log_joint(x) if missing is None else inference.log_joint_observed(self, x)

    def log_prob(
        self, value: Tensor, missing: str | None = None, error_covariance: Any = None
    ) -> Tensor:
        """Log density `log p(x)`: `(*S, *B, D)` -> `(*S, *B)`.

        Args:
            value: the rows.
            missing: None: a row with NaN has density NaN. `marginalize`: the density of the
                entries that are not NaN, integrated over the others; log density 0 for a row
                without entries.
            error_covariance: of the rows' errors, variances `(*S, D)` or matrices `(*S, D, D)`:
                the density is that of rows of the mixture with errors,
                `sum_k pi_k N(x | mu_k, Sigma_k + S_n)`.

        Raises:
            InvalidArgumentError: rows of another width, or an unknown value of `missing`.
            InvalidDataError: errors of another shape, or that are no covariances.

        Example:
            >>> mixture = MixtureOfGaussians(torch.zeros(1), torch.zeros(1, 2), torch.eye(2)[None])
            >>> mixture.log_prob(torch.tensor([0.0, float("nan")]), missing="marginalize")
            tensor(-0.9189)
        """
        return self.log_joint(value, missing, error_covariance).logsumexp(-1)

    def grad_log_prob(self, x: Tensor) -> Tensor:
        """The score `d log p / dx = sum_k r_k(x) Sigma_k^-1 (mu_k - x)`, `(*S, *B, D)`.

        Example:
            >>> mixture = MixtureOfGaussians(torch.zeros(1), torch.zeros(1, 2), torch.eye(2)[None])
            >>> mixture.grad_log_prob(torch.tensor([1.0, -2.0]))
            tensor([-1.,  2.])
        """
        return inference.grad_log_prob(self, x)

    def mahalanobis(self, x: Tensor) -> Tensor:
        """Mahalanobis distances: `(*S, *B, D)` -> `(*S, *B, K)`.

        Example:
            >>> mixture = MixtureOfGaussians(torch.zeros(1), torch.zeros(1, 2), torch.eye(2)[None])
            >>> mixture.mahalanobis(torch.tensor([3.0, 4.0]))
            tensor([5.])
        """
        return self.whiten(x).norm(dim=-1)

    # -- draws ------------------------------------------------------------------------------

    def sample(  # pyright: ignore[reportIncompatibleMethodOverride]
        self,
        sample_shape: density.SampleShape = (),
        *,
        component: int | Tensor | None = None,
        return_component: bool = False,
        within: truncation.Region | None = None,
        temperature: float = 1.0,
        quasi: bool = False,
        antithetic: bool = False,
        generator: Generator | int | None = None,
    ) -> Tensor | tuple[Tensor, Tensor]:
        """Independent samples in random order, `(*sample_shape, *B, D)`, without gradients.

        Args:
            sample_shape: the number or shape of samples; an int n means `(n,)`.
            component: the component to draw from: an index, or a tensor of indices that
                broadcasts to `(*sample_shape, *B)`; None draws it by the weights.
            return_component: also return the drawn components, `(*sample_shape, *B)`.
            within: `Shell`, `Confidence`, `Ball`, `Box`, `HalfSpace`, `Where`, or another region:
                samples are exactly conditional on it, however small its probability.
            temperature: divides logits and multiplies covariances; 1 is the mixture itself.
            quasi: scrambled Sobol points, stratified over the components: each row has the
                distribution of the mixture, but rows are evenly spread, not independent.
            antithetic: neighbouring rows are mirror images about their component's mean.
            generator: source of randomness, on the parameters' device, or a seed.

        Raises:
            InvalidArgumentError: a value out of range, a region of another width, or more than
                one of `within`, `quasi` and `antithetic`.
            RegionError: the region has too little mass under the mixture.

        Example:
            >>> mixture = MixtureOfGaussians(torch.zeros(2), torch.zeros(2, 3),
            ...                              torch.eye(3).repeat(2, 1, 1))
            >>> x, z = mixture.sample(5, return_component=True)
            >>> x.shape, z.shape
            (torch.Size([5, 3]), torch.Size([5]))
        """
        require_bool("return_component", return_component)
        options = density.DrawOptions(component, within, temperature, quasi, antithetic)
        x, z = density.draw_samples(self, sample_shape, options, generator)
        return (x, z) if return_component else x

    def rsample(  # pyright: ignore[reportIncompatibleMethodOverride]
        self,
        sample_shape: density.SampleShape = (),
        *,
        component: int | Tensor | None = None,
        temperature: float = 1.0,
        quasi: bool = False,
        antithetic: bool = False,
        relaxed: float | None = None,
        generator: Generator | int | None = None,
    ) -> Tensor:
        """Samples with gradients to weights, means and scales, `(*sample_shape, *B, D)`.

        Arguments are those of `sample`. Gradients are implicit reparameterisation gradients:
        unbiased for `E[f(x)]`, but noisy in the weights where components are more than about six
        standard deviations apart (`score_function` is better there). With `component` the weights
        have none. `relaxed` is the temperature of a Gumbel-softmax relaxation of the component:
        the gradient has a low variance, but is biased unless the temperature is near 0.

        Raises:
            InvalidArgumentError: as for `sample`, or `relaxed` with `component` or another kind.

        References:
            M. Figurnov, S. Mohamed, A. Mnih (2018), Implicit reparameterization gradients, NeurIPS.

        Example:
            >>> logits = torch.zeros(2, requires_grad=True)
            >>> mixture = MixtureOfGaussians(logits, torch.tensor([[-1.0], [1.0]]),
            ...                              torch.ones(2, 1, 1))
            >>> mixture.rsample(1000).mean().backward()
            >>> logits.grad[1] > logits.grad[0]
            tensor(True)
        """
        options = density.DrawOptions(component, None, temperature, quasi, antithetic)
        return density.draw_reparameterized(self, sample_shape, options, relaxed, generator)

    # -- marginals and conditionals ---------------------------------------------------------

    def marginal(self, indices: inference.Indices) -> Self:
        """The marginal distribution of some features, in the order of the indices.

        Args:
            indices: positions of features, an int, or a mask; negative ones count from the end.

        Raises:
            InvalidArgumentError: indices that are not integers, out of range, repeated or empty.

        Example:
            >>> mixture = MixtureOfGaussians(torch.zeros(1), torch.tensor([[1.0, 2.0, 3.0]]),
            ...                              torch.eye(3)[None])
            >>> mixture.marginal([2, 0]).means
            tensor([[3., 1.]])
        """
        return inference.marginal(self, indices)

    def condition(self, indices: inference.Indices, values: inference.Values) -> Self:
        """The conditional distribution of the other features given the values of some.

        `p(y | x) = sum_k w_k(x) N(y | m_k(x), C_k)` with `w_k(x)` proportional to
        `pi_k N(x | mu_k, Sigma_k)`, `m_k` linear in x and `C_k` the Schur complement.

        Args:
            indices: the features that are known, a proper subset.
            values: their values, `(*S, *B, I)`: the result has the batch shape `(*S, *B)`.

        Raises:
            InvalidArgumentError: as for `marginal`, all features, or values of another width.
            InvalidDataError: values so far from every component that all densities are 0.

        References:
            C. M. Bishop (2006), Pattern Recognition and Machine Learning, section 2.3.1.

        Example:
            >>> factor = torch.tensor([[[1.0, 0.0], [0.6, 0.8]]])
            >>> mixture = MixtureOfGaussians(torch.zeros(1), torch.zeros(1, 2), factor)
            >>> mixture.condition([0], torch.tensor([[1.0], [2.0]])).mean
            tensor([[0.6000],
                    [1.2000]])
        """
        return inference.condition(self, indices, values)

    def moment_match(self) -> Self:
        """The Gaussian q with the least `KL(p || q)`, as a mixture of one component.

        It has the mixture's mean and covariance.

        Example:
            >>> mixture = MixtureOfGaussians(torch.zeros(2), torch.tensor([[-2.0], [2.0]]),
            ...                              torch.ones(2, 1, 1))
            >>> mixture.moment_match().component_covariances
            tensor([[[5.0000]]])
        """
        return density.moment_match(self)
