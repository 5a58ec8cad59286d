"""Doors from other systems: their names, signatures and defaults, over the mixtures of here.

A door translates and computes nothing. `gmr` is the one for gmr 2.0.
"""

from __future__ import annotations
