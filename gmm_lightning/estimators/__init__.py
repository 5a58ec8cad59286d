"""Facades with the names, signatures and defaults of other libraries: `gmr` is that of gmr 2.0.

They translate arguments and results, and leave the computation to the other packages. What layers
take as rows goes in, tables too; numpy arrays come out.
"""

from __future__ import annotations
