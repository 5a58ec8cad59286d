"""The draws of `gmm-sample`: condition, options with a region, and rows block by block."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import torch
from hydra.utils import instantiate
from omegaconf import DictConfig, OmegaConf
from torch import Tensor

from gmm_lightning._messages import format_list
from gmm_lightning._validation import require_integer, require_number
from gmm_lightning.app.checks import require_flag
from gmm_lightning.app.runs import FinishedRun
from gmm_lightning.distributions import DrawOptions, MixtureOfGaussians, chi_quantile
from gmm_lightning.errors import InvalidArgumentError

# Rows drawn at once.
_BLOCK = 1 << 17


def given_columns(condition: Any, columns: Sequence[str]) -> dict[int, float]:
    """Positions of columns and their values, from `{name or number: value}`.

    Raises:
        InvalidArgumentError: not a mapping, a column that the run does not have, one that is
            named twice, a value that is not a finite number, or no column left to draw.
    """
    plain = OmegaConf.to_container(condition) if OmegaConf.is_config(condition) else condition
    if plain is None:
        return {}
    if not isinstance(plain, Mapping):
        raise InvalidArgumentError(
            f"condition must give columns their values, condition={{{columns[0]}: 1.5}}, got "
            f"{plain!r}"
        )
    given: dict[int, float] = {}
    for key, value in plain.items():
        at = position(key, columns)
        if at in given:
            raise InvalidArgumentError(f"condition names the column {columns[at]} twice")
        given[at] = require_number(f"the condition on {columns[at]}", value)
    if len(given) == len(columns):
        raise InvalidArgumentError("condition gives every column a value: nothing is left to draw")
    return given


def position(key: Any, columns: Sequence[str]) -> int:
    """The position of a column, from its name or its number."""
    if str(key) in columns:
        return columns.index(str(key))
    if isinstance(key, int) and not isinstance(key, bool) and 0 <= key < len(columns):
        return key
    raise InvalidArgumentError(f"the run has no column {key}; it has {format_list(columns, 20)}")


def draw_options(config: DictConfig) -> dict[str, Any]:
    """The options of `MixtureOfGaussians.sample` that a command line asks for.

    Raises:
        InvalidArgumentError: values out of range, or options that exclude each other.
    """
    if config.component is not None:
        require_integer("component", config.component, least=0)
    require_flag("quasi", config.quasi)
    require_flag("antithetic", config.antithetic)
    names = ("component", "temperature", "quasi", "antithetic")
    options = {name: config[name] for name in names}
    options["within"] = instantiate(config.within, _convert_="all") if config.within else None
    DrawOptions(**options)
    require_flag("with_noise", config.with_noise)
    if not config.with_noise:
        return options
    chosen = [name for name, value in options.items() if value != getattr(DrawOptions(), name)]
    if chosen or config.condition:
        raise InvalidArgumentError(
            f"with_noise=true draws from all that the run describes, without "
            f"{', '.join(chosen) or 'condition'}: leave one of them out"
        )
    return options | {"with_noise": True}


@torch.no_grad()
def conditional_mixture(finished: FinishedRun, given: Mapping[int, float]) -> MixtureOfGaussians:
    """The conditional mixture of the columns that are not given, in the units of the data."""
    mixture = finished.module.distribution()
    return mixture.condition(list(given), list(given.values())) if given else mixture


@torch.no_grad()
def extrapolation(finished: FinishedRun, given: Mapping[int, float]) -> str | None:
    """A warning if given values are rarer than one in a million rows, or None."""
    if not given:
        return None
    mixture = finished.module.distribution().marginal(list(given))
    radius = float(mixture.mahalanobis(mixture.means.new_tensor(list(given.values()))).min())
    if radius <= float(chi_quantile(1 - 1e-6, len(given))):
        return None
    return (
        f"the condition lies {radius:.3g} standard deviations (Mahalanobis) from the nearest "
        "component, where the run saw no data: the draws extrapolate"
    )


def draws(
    finished: FinishedRun, n: int, given: Mapping[int, float], options: Mapping[str, Any], seed: int
) -> Iterator[tuple[Tensor, Tensor]]:
    """Rows in the units of the data, and components, in blocks of bounded size.

    Given columns have their values; the options, with the region, apply to the others.
    The same seed gives the same rows.

    Raises:
        InvalidArgumentError: an option that the mixture cannot be drawn with.
        RegionError: too little of the mixture lies in the region.
    """
    generator = torch.Generator().manual_seed(seed)
    mixture = conditional_mixture(finished, given) if given else finished.module
    sample, how = mixture.sample, dict(options)
    if how.pop("with_noise", False):
        # No other option goes with it.
        sample, how = finished.module.sample_with_noise, {}
    width = len(finished.columns)
    rest = [i for i in range(width) if i not in given]
    for start in range(0, max(n, 1), _BLOCK):
        rows = min(_BLOCK, n - start)
        x, z = sample(rows, return_component=True, generator=generator, **how)
        full = x.new_empty(rows, width)
        full[:, rest] = x
        full[:, list(given)] = x.new_tensor(list(given.values()))
        yield full, z
