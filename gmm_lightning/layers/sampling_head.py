"""Sampling head: draws from a mixture as a module."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Generator, Tensor, nn

from gmm_lightning._messages import describe
from gmm_lightning._validation import require_integer
from gmm_lightning.distributions import (
    DrawOptions,
    MixtureOfGaussians,
    SampleShape,
    check_reparameterization,
    draw_reparameterized,
    draw_samples,
)
from gmm_lightning.errors import InvalidArgumentError

_GRADIENTS = ("implicit", "relaxed")


class SamplingHead(nn.Module):
    """Draws `sampler(n)` from a layer, or `sampler(n, h)` from mixtures that a module makes of h.

    The source is a submodule; with `reparameterize` its parameters are trained through the draws.

    Shape:
        `forward(sample_shape, *inputs)` gives `(*sample_shape, *B, D)`; B are the rows of h for a
        conditional mixture.

    Args:
        source: a `GMMLayer`, or anything else with a method `distribution()`; or a module or
            function whose result is a `MixtureOfGaussians`.
        component, within, temperature, quasi, antithetic: as for `MixtureOfGaussians.sample`.
        reparameterize: False: draws without gradients. `implicit`, or True: exact draws with
            unbiased gradients. `relaxed`: a relaxed choice of the component, biased, of low
            variance.
        relaxation: temperature of the relaxed choice.
        seed: of the draws; None for torch's global state. The sequence begins with the first
            draw on a device. Processes with the same seed draw the same rows.

    Raises:
        InvalidArgumentError: another kind of source, a value out of range (of the sizes of the
            source, if it has them), or options that exclude each other.

    References:
        N. Dilokthanakul et al. (2016), Deep unsupervised clustering with Gaussian mixture
        variational autoencoders, arXiv 1611.02648.

    Example:
        >>> from gmm_lightning import GMMLayer
        >>> prior = GMMLayer(num_features=2, num_components=3)
        >>> sampler = SamplingHead(prior, reparameterize="implicit")
        >>> generator = torch.nn.Linear(2, 5)
        >>> generator(sampler(8)).square().mean().backward()
        >>> prior.means.grad.shape
        torch.Size([3, 2])
    """

    def __init__(
        self,
        source: nn.Module | Callable[..., MixtureOfGaussians],
        *,
        component: int | Tensor | None = None,
        within: Any = None,
        temperature: float = 1.0,
        quasi: bool = False,
        antithetic: bool = False,
        reparameterize: bool | str = False,
        relaxation: float = 0.5,
        seed: int | None = None,
    ) -> None:
        super().__init__()
        if not (callable(source) or callable(getattr(source, "distribution", None))):
            raise InvalidArgumentError(
                "expected a layer, or a module or function that returns a MixtureOfGaussians, got "
                f"{describe(source)}"
            )
        reparameterize = "implicit" if reparameterize is True else reparameterize
        known = isinstance(reparameterize, str) and reparameterize in _GRADIENTS
        if not (known or reparameterize is False):
            raise InvalidArgumentError(
                "reparameterize must be False, 'implicit' or 'relaxed', got "
                f"{describe(reparameterize)}"
            )
        self.seed = None if seed is None else require_integer("seed", seed, least=0)
        options = DrawOptions(component, within, temperature, quasi, antithetic)
        self.relaxation = relaxation if reparameterize == "relaxed" else None
        if reparameterize:
            check_reparameterization(options, self.relaxation)
        components = getattr(source, "num_components", None)
        features = getattr(source, "num_features", None)
        if isinstance(components, int) and isinstance(features, int):
            options.check(components, features)
        self.source, self.options, self.reparameterize = source, options, reparameterize
        self._generator: Generator | None = None

    def reset_parameters(self) -> None:
        """Start the sequence of draws anew, and reset the source, if it is a module.

        Raises:
            InvalidArgumentError: the source is a module that cannot be reset.
        """
        self._generator = None
        if not isinstance(self.source, nn.Module):
            return
        reset = getattr(self.source, "reset_parameters", None)
        if not callable(reset):
            raise InvalidArgumentError(
                f"the source of the SamplingHead, a {type(self.source).__name__}, has no "
                "reset_parameters: reset its parts"
            )
        reset()

    def distribution(self, *inputs: Any, **options: Any) -> MixtureOfGaussians:
        """Mixture that the source returns.

        Raises:
            InvalidArgumentError: the source returns something else.
        """
        make = getattr(self.source, "distribution", self.source)
        mixture = make(*inputs, **options)
        if not isinstance(mixture, MixtureOfGaussians):
            raise InvalidArgumentError(
                f"the source of a SamplingHead must return a MixtureOfGaussians, got "
                f"{type(mixture).__name__}"
            )
        return mixture

    def forward(self, sample_shape: SampleShape = (), *inputs: Any, **options: Any) -> Tensor:
        """Draws `(*sample_shape, *B, D)`; other arguments go to the source."""
        draw = self.rsample if self.reparameterize else self.sample
        return draw(sample_shape, *inputs, **options)

    @torch.no_grad()
    def sample(self, sample_shape: SampleShape = (), *inputs: Any, **options: Any) -> Tensor:
        """Draws without gradients, whether or not `reparameterize` is set."""
        mixture = self.distribution(*inputs, **options)
        generator = self._generator_on(mixture.means.device)
        return draw_samples(mixture, sample_shape, self.options, generator)[0]

    def rsample(self, sample_shape: SampleShape = (), *inputs: Any, **options: Any) -> Tensor:
        """Draws with gradients to the parameters of the source's mixture.

        Raises:
            InvalidArgumentError: the head draws within a region.
        """
        mixture = self.distribution(*inputs, **options)
        generator = self._generator_on(mixture.means.device)
        return draw_reparameterized(mixture, sample_shape, self.options, self.relaxation, generator)

    def _generator_on(self, device: torch.device) -> Generator | None:
        if self.seed is not None and (self._generator is None or self._generator.device != device):
            self._generator = Generator(device).manual_seed(self.seed)
        return self._generator

    def extra_repr(self) -> str:
        """The options that are not the defaults."""
        defaults = vars(DrawOptions()) | {"reparameterize": False, "seed": None}
        options = vars(self.options) | {"reparameterize": self.reparameterize, "seed": self.seed}
        changed = (name for name in defaults if repr(options[name]) != repr(defaults[name]))
        return ", ".join(f"{name}={options[name]!r}" for name in changed)
