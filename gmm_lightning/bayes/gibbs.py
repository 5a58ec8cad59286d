"""Draws of a mixture's posterior by blocked Gibbs sampling, for conjugate priors."""

from __future__ import annotations

import copy
import warnings
from dataclasses import replace
from typing import Any

import torch
from torch import Generator, Tensor

from gmm_lightning._validation import as_generator, require_integer
from gmm_lightning.bayes.draws import PosteriorDraws
from gmm_lightning.em import (
    EStep,
    MixtureModel,
    MixtureParameters,
    MixturePosterior,
    PassProgress,
    StickBreakingPosterior,
    conjugate_prior,
    layer_source,
    resolve_priors,
    start_statistics,
    with_default_prior,
)
from gmm_lightning.errors import InvalidArgumentError
from gmm_lightning.layers import GMMLayer
from gmm_lightning.linalg import standard_gamma
from gmm_lightning.priors import StickBreaking
from gmm_lightning.rows import Batch
from gmm_lightning.statistics import SufficientStatistics


def fit_gibbs(
    layer: GMMLayer,
    x: Any,
    *,
    num_draws: int = 1000,
    warmup: int = 500,
    num_chains: int = 4,
    thin: int = 1,
    initializer: Any = "mixed",
    chunk_size: int | None = None,
    start: PosteriorDraws | None = None,
    generator: Generator | int | None = None,
    progress: bool = False,
) -> PosteriorDraws:
    """Draws of the parameters from their posterior, by turns of assignments and parameters.

    Given the parameters, each row draws its component; given these, the weights are drawn from
    their Dirichlet or stick-breaking posterior, and each covariance and mean from a
    normal-inverse-Wishart posterior. The draws are exact in the posterior of the layer's priors.
    Chains run side by side through the E-step of EM, in float64. The layer stays as it is.

    Args:
        layer: of one mixture. Its priors are `niw`, or `normal` with `inverse_wishart`, and
            `dirichlet` or `stick_breaking`, whose concentration is drawn, too, where it has a
            hyper-prior; one without any on the components gets that of `fit_vb`.
        x: rows `(N, D)`, as `fit_em` takes them, all of weight 1.
        num_draws: S of each chain that are kept.
        warmup: sweeps before them.
        num_chains: C.
        thin: sweeps for each draw that is kept.
        initializer: where chains begin, as for `fit_em`.
        chunk_size: rows at a time; None: as many as stay in cache.
        start: earlier draws to go on from, with the same random numbers as if they had been one
            run; `warmup`, `num_chains`, `initializer` and `generator` are not read then.
        generator: source of randomness, or a seed; None: torch's global one.
        progress: show a bar.

    Returns:
        The draws, float64. After Ctrl-C, those so far, with a warning.

    Raises:
        InvalidArgumentError: an option out of range, priors without a closed form, or a batch of
            mixtures.
        InvalidDataError: rows that cannot be used, as for `fit_em`.

    References:
        J. Diebolt, C. P. Robert (1994), Estimation of finite mixture distributions through Bayesian
        sampling, JRSS B 56.
        H. Ishwaran, L. F. James (2001), Gibbs sampling methods for stick-breaking priors, JASA 96.

    Example:
        >>> x = torch.cat([torch.randn(50, 2) - 4, torch.randn(50, 2) + 4])
        >>> draws = fit_gibbs(GMMLayer(2, 2), x, num_draws=20, warmup=10, generator=0)
        >>> draws.means.shape
        torch.Size([4, 20, 2, 2])
    """
    sizes = {"num_draws": num_draws, "num_chains": num_chains, "thin": thin}
    for name, value in sizes.items():
        require_integer(name, value, least=1)
    require_integer("warmup", warmup, least=0)
    if layer.batch_shape:
        raise InvalidArgumentError(
            f"fit_gibbs draws from the posterior of one mixture, got a layer of batch shape "
            f"{tuple(layer.batch_shape)}: draw from that of each mixture by itself"
        )
    own = copy.deepcopy(layer).double()
    with_default_prior(own)
    source = layer_source(own, x)
    if source.weighted or source.uncertain:
        raise InvalidArgumentError(
            "fit_gibbs takes rows of weight 1 that are known exactly: weights and missing entries "
            "have no assignment to draw; use fit_vb or fit_nuts"
        )
    resolve_priors(own, x)
    if start is None:
        numbers = as_generator(generator) or Generator().manual_seed(int(torch.randint(2**62, ())))
    else:
        num_chains, warmup, numbers = start.num_chains, 0, _restored(start)
    model = MixtureModel.from_layer(own, num_chains)
    chains = _Chains(EStep(source, model, chunk_size), model, own, numbers)
    if start is None:
        present = MixtureParameters.from_layer(own, num_chains)
        stats, _ = start_statistics(model, present, source, initializer, numbers)
        chains.draw_parameters(stats)
    else:
        chains.go_on_from(start)
    kept, state = list[tuple[Tensor, ...]](), numbers.get_state()
    total = warmup + num_draws * thin
    try:
        with PassProgress("Gibbs", total, num_chains, enabled=progress) as bar:
            for sweep in range(1, total + 1):
                # From here the last draw that is kept can be gone on from.
                before = numbers.get_state()
                values = chains.sweep()
                if sweep > warmup and (sweep - warmup) % thin == 0:
                    kept.append(values)
                    state = before
                bar.update(sweep, float(values[3].mean()) / source.num_rows, num_chains)
    except KeyboardInterrupt:
        if not kept:
            raise
        warnings.warn(
            f"interrupted after {len(kept)} of {num_draws} draws, which are kept", stacklevel=2
        )
    return PosteriorDraws(*(torch.stack(one, 1) for one in zip(*kept, strict=True)), state=state)


def _restored(start: PosteriorDraws) -> Generator:
    """The source of random numbers as it was at the end of earlier draws."""
    if start.state is None:
        raise InvalidArgumentError(
            "the draws to go on from hold no state of random numbers: they are not of fit_gibbs"
        )
    generator = Generator()
    generator.set_state(start.state)
    return generator


class _Chains:
    """The chains and their present parameters.

    Args:
        e_step: over the rows.
        model: of the chains.
        layer: in float64, with priors that have their values.
        generator: source of randomness.
    """

    def __init__(
        self, e_step: EStep, model: MixtureModel, layer: GMMLayer, generator: Generator
    ) -> None:
        self._e_step, self._model, self._generator = e_step, model, generator
        self._prior = conjugate_prior(model, layer.num_components)
        self._hyper = _hyper_prior(layer)
        self._present: tuple[Tensor, ...] = ()

    def sweep(self) -> tuple[Tensor, ...]:
        """Draw all assignments, then all parameters.

        Returns:
            The weights, means and covariances `(C, ...)` under which the assignments were drawn,
            and their log-likelihood `(C,)`.
        """
        before = self._present
        stats = self._e_step(self._model, self._parameters(), self._assign)
        self.draw_parameters(stats)
        return *before, stats.log_likelihood

    def draw_parameters(self, stats: SufficientStatistics) -> None:
        """Draw the parameters given the sums of assigned rows."""
        prior, family = self._prior, self._model.family
        if self._hyper is not None and self._present:
            prior = self._hyper.drawn(prior, self._present[0].log(), self._generator)
        posterior = prior.updated(stats)
        weights = posterior.weights.sample(self._generator).exp()
        means, scale = posterior.components.sample(self._generator)
        covariance = family.covariance_matrix(scale, means.shape[-1])
        self._present = weights, means, covariance.expand(*means.shape, means.shape[-1]).clone()

    def go_on_from(self, start: PosteriorDraws) -> None:
        """Take the last draw of each chain, and what followed it."""
        parts = (start.weights, start.means, start.covariance_matrix)
        self._present = tuple(part[:, -1].double() for part in parts)
        # The last draw is among those that there are.
        self.sweep()

    def _parameters(self) -> MixtureParameters:
        """The present parameters, the same ones whether they were drawn or read."""
        weights, means, dense = self._present
        family = self._model.family
        form = family.project(dense[:, :1] if family.tied else dense)
        raw = family.raw(family.estimate(form, form.new_ones(form.shape[:2])))
        logits = weights.clamp(min=torch.finfo(weights.dtype).tiny).log()
        return MixtureParameters(logits, means, raw, means.new_empty(len(means), 0))

    def _assign(self, log_joint: Tensor, dim: int, batch: Batch) -> tuple[Tensor, Tensor]:
        """Draw the component of each row, by one uniform number."""
        top = log_joint.amax(dim, keepdim=True)
        below = log_joint.sub_(top).exp_().cumsum(dim)
        total = below.narrow(dim, below.shape[dim] - 1, 1)
        uniform = torch.empty_like(total).uniform_(generator=self._generator)
        index = (below <= uniform * total).sum(dim, keepdim=True)
        index.clamp_(max=below.shape[dim] - 1)
        assigned = log_joint.zero_().scatter_(dim, index, 1.0)
        return assigned, (total.log() + top).squeeze(dim)


class _HyperPrior:
    """A Gamma distribution of the concentration of a Dirichlet process.

    Given the sticks, `Gamma(shape + K - 1, rate - sum_k log(1 - v_k))`.
    """

    def __init__(self, shape: float, rate: float) -> None:
        self.shape, self.rate = shape, rate

    def drawn(
        self, prior: MixturePosterior, log_weights: Tensor, generator: Generator
    ) -> MixturePosterior:
        """The prior with a concentration drawn given the weights."""
        k = log_weights.shape[-1]
        # What the first K - 1 sticks leave is the last weight.
        left = log_weights[:, -1]
        shape = torch.full_like(left, self.shape + k - 1)
        alpha = standard_gamma(shape, generator) / (self.rate - left)
        return replace(prior, weights=StickBreakingPosterior.of_concentration(alpha, k))


def _hyper_prior(layer: GMMLayer) -> _HyperPrior | None:
    for prior in layer.all_priors:
        if isinstance(prior, StickBreaking):
            given = prior.config()
            if given["concentration_shape"] is not None:
                return _HyperPrior(given["concentration_shape"], given["concentration_rate"])
    return None
