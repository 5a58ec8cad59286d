"""Truncation: exact draws from a mixture given a region, `p(x | x in A)`.

A component is proposed with probability proportional to `pi_k M_k` and a row x from `q_k`, where
the *envelope* `M_k q_k(x) >= N(x | mu_k, Sigma_k)` holds within A. Keeping x with probability
`N(x | mu_k, Sigma_k) 1(x in A) / (M_k q_k(x))` leaves the density

    p(k, x | A)  =  pi_k N(x | mu_k, Sigma_k) 1(x in A) / sum_j pi_j P_j(A)

without any of the probabilities `P_j(A)`: the components' shares are exact. Of several envelopes
the one of the least mass `M_k` serves; the share of proposals that are kept is
`P(A) / sum_k pi_k M_k` (`rejection`).

- **Half-space** (`envelopes`): a normal truncated to `[depth, inf)` along one direction; the mass
  is the probability, nothing is refused.
- **Box** (`box_envelopes`): truncated normals, in sequence and *minimax tilted* where features
  are dependent (`tilting`), or independent ones about the centre of a small box.
- **Ball** (`ball_envelopes`): an *exponential tilt* at Chernoff's bound, slices across the normal
  at the nearest point, or the half-space that touches the ball there.
- **Mahalanobis radii** (`shells`): `x = mu_k + r L_k u` with u uniform on the sphere and r from a
  truncated chi distribution. Each component has the same mass in its shell: no envelope.
- **One dimension** (`truncated`, `hull`): truncated normals and radii lie under the *piecewise
  exponential hull* of some tangents to their log-concave densities, at any distance.

A region is a value. `EuclideanRegion` asks a subclass for `contains` alone and then keeps or
refuses free draws; envelopes, a shadow and an outline make it faster and prettier.

References:
    L. Devroye (1986), Non-Uniform Random Variate Generation, chapters II and VII.
"""

from __future__ import annotations

from gmm_lightning.distributions.truncation.ball import Ball
from gmm_lightning.distributions.truncation.euclidean import EuclideanRegion, Where
from gmm_lightning.distributions.truncation.polyhedra import Box, HalfSpace
from gmm_lightning.distributions.truncation.sampling import Region, TemperedMixture, sample_within
from gmm_lightning.distributions.truncation.shells import Confidence, MahalanobisRegion, Shell

__all__ = [
    "Ball",
    "Box",
    "Confidence",
    "EuclideanRegion",
    "HalfSpace",
    "MahalanobisRegion",
    "Region",
    "Shell",
    "TemperedMixture",
    "Where",
    "sample_within",
]
