"""The order of a layer's components."""

from __future__ import annotations

from typing import Any

import torch
from torch import Size, Tensor, nn

from gmm_lightning._validation import require_bool, require_choice
from gmm_lightning.covariances import Covariance
from gmm_lightning.errors import InvalidArgumentError
from gmm_lightning.evidence import Evidence
from gmm_lightning.layers._constrained import ConstrainedMixin
from gmm_lightning.layers.parameters import require_order
from gmm_lightning.linalg import take_components
from gmm_lightning.priors import PriorDict


class OrderedMixin(ConstrainedMixin):
    """Adds `sort_components` and `reorder_components` to a layer."""

    num_components: int
    batch_shape: Size
    covariance: Covariance
    evidence: nn.Module | None
    priors: PriorDict

    def sort_components(self, by: str = "weight", *, descending: bool = True) -> Tensor:
        """Sort the components in place, the heaviest first: see `reorder_components`.

        Components of equal weight keep their order.

        Args:
            by: `weight`.
            descending: False: the lightest first.

        Returns:
            Where the component at each place was, `(*B, K)`.

        Example:
            >>> means = torch.tensor([[0.0], [5.0], [9.0]])
            >>> weights, covariances = torch.tensor([0.2, 0.7, 0.1]), torch.ones(3, 1, 1)
            >>> layer = GMMLayer.from_parameters(weights, means, covariances)
            >>> layer.sort_components().tolist(), layer.means.flatten().tolist()
            ([1, 0, 2], [5.0, 0.0, 9.0])
        """
        require_choice("by", by, ("weight",))
        require_bool("descending", descending)
        logits = self.mixture_logits.detach()
        return self.reorder_components(logits.argsort(dim=-1, descending=descending, stable=True))

    @torch.no_grad()
    def reorder_components(self, index: Any) -> Tensor:
        """Reorder parameters, priors, projections and evidence; the density stays the same.

        It is done after a fit: an optimizer's or a callback's memory of each component is not
        reordered.

        Args:
            index: the present number of the component for each place, `(K,)` or `(*B, K)`.

        Returns:
            The index, `(*B, K)`.

        Raises:
            InvalidArgumentError: not each component once, or a layer with evidence of one's own,
                which refers to components by number.
        """
        order = require_order(index, self.num_components, self.batch_shape).to(self.means.device)
        if not isinstance(self.evidence, Evidence | None):
            raise InvalidArgumentError(
                "the evidence of a layer refers to its components by number: reorder it without it"
            )
        if self.evidence is not None:
            self.evidence.reorder(order)
        for projection in self.projections.to_list():
            projection.reorder(order)
        parameters = [self.mixture_logits, self.means]
        for values in parameters if self.covariance.tied else [*parameters, self.raw_scale]:
            values.copy_(take_components(values, order))
        for prior in self.priors.to_list():
            prior.reorder(order)
        return order
