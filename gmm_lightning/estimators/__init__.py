"""Facades with the names, signatures and defaults of other libraries: `gmr` is that of gmr 2.0.

They translate arguments and results, and leave the computation to the other packages.
"""

from __future__ import annotations
