"""FAISS, imported when the first call is left to it."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Final

from tiered_index.lazily import Lazily

if TYPE_CHECKING:
    from tiered_index.coarse import _faiss
else:
    _faiss = Lazily("tiered_index.coarse._faiss")

PROCESS: Final = os.getpid()
"""In which this package was imported; FAISS may be imported in a child of it."""

__all__ = ["PROCESS", "_faiss"]
