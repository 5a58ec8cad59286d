"""Truncation: exact draws from a mixture given a region, `p(x | x in A)`.

A component is proposed with probability proportional to `pi_k M_k` and a row x from `q_k`, where
the *envelope* `M_k q_k(x) >= N(x | mu_k, Sigma_k)` holds within A. Keeping x with probability
`N(x | mu_k, Sigma_k) 1(x in A) / (M_k q_k(x))` leaves the density

    p(k, x | A)  =  pi_k N(x | mu_k, Sigma_k) 1(x in A) / sum_j pi_j P_j(A)

without any of the probabilities `P_j(A)`: the components' shares are exact. Of several envelopes
the one of the least mass `M_k` serves; the share of proposals that are kept is
`P(A) / sum_k pi_k M_k` (`rejection`, `envelopes`).

- **Half-space** (`envelopes`). In whitened coordinates one direction is a normal truncated to
  `[depth, inf)`, the others are free: `M = Phi(-depth)` is the probability, nothing is refused.
- **Box** (`box_envelopes`, `tilting`). Independent features are truncated normals. Dependent ones,
  `x = mu + L z`, are drawn in sequence, z_j from `N(t_j, 1)` truncated to its interval given
  `z_1 .. z_j-1`. The log likelihood ratio `psi(z, t) = sum_j log P_j(z, t) + t_j^2 / 2 - z_j t_j`
  is concave in z and convex in t; the tilt t at its saddle point has the least largest ratio
  (Botev 2017). In a small box a product of normals about its centre bounds the density.
- **Ball** (`ball_envelopes`). `1 <= exp(l (R^2 - |x - c|^2) / 2)` within the ball, for any
  `l >= 0`: an *exponential tilt* under which a Gaussian stays one, with the least mass at
  Chernoff's l. Or slices across the normal at the nearest point, whose depth has a log-concave
  density. Or the half-space that touches the ball there.
- **One dimension** (`hull`, `truncated`). A log-concave density lies under the *piecewise
  exponential hull* of some tangents to its logarithm (Gilks, Wild 1992), which is drawn from by
  inversion: truncated normals at any distance, and slices.
- **Mahalanobis radii** (`shells`). `x = mu_k + r L_k u` with u uniform on the sphere and r from a
  *truncated chi distribution*, `r^(D - 1) exp(-r^2 / 2)` on an interval, log-concave too. Each
  component has the same mass in its shell, so their shares stay `pi_k`.

A region is a value. `EuclideanRegion` asks a subclass for `contains` alone and then keeps or
refuses free draws; envelopes, a shadow and an outline make it faster and prettier.

References:
    Z. I. Botev (2017), The normal law under linear restrictions: simulation and estimation via
    minimax tilting, JRSS B 79.
    W. R. Gilks, P. Wild (1992), Adaptive rejection sampling for Gibbs sampling, Applied
    Statistics 41.
    L. Devroye (1986), Non-Uniform Random Variate Generation, chapters II and VII.
"""

from __future__ import annotations

from gmm_lightning.distributions.truncation.ball import Ball
from gmm_lightning.distributions.truncation.box import Box
from gmm_lightning.distributions.truncation.euclidean import EuclideanRegion, Where
from gmm_lightning.distributions.truncation.half_space import HalfSpace
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
