"""Rows of one segment that may be found."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tiered_index.coarse.lazy import _faiss
from tiered_index.coarse.links import Links, link

_SEEDS = 16
"""Rows that a walk begins with besides the entry point. Where the rows that may be found have little to do
with the query, it found 0.87 of the best prefixes rather than 0.76."""

_WORD_BYTES = 4


class Selection:
    """Rows that may be found, of one segment.

    Parameters
    ----------
    total : int
        How many rows the segment holds.
    rows : ndarray of int32
        Those that may be found, ascending.
    """

    def __init__(self, total: int, rows: NDArray[np.int32]) -> None:
        self.rows = rows
        self._total = total
        self._made: dict[str, Any] = {}
        self._walked: dict[str, Any] | None = None
        self._by_ef: dict[int | None, Any] = {}
        self.links: Links | None = None
        """Of these rows among themselves, once they were linked."""

    def __len__(self) -> int:
        return len(self.rows)

    def wider(self, ef: int) -> int:
        """Return how wide a beam is that holds other rows too, for `ef` of these."""
        return ef * self._total // max(len(self.rows), 1)

    def share_of(self, rows: NDArray[np.int64]) -> float:
        """Return which share of `rows` is selected."""
        bits = self._bits()
        return float(((bits[rows >> 3] >> (rows & 7).astype(np.uint8)) & 1).mean())

    def settings(self, *, scan: bool) -> dict[str, Any]:
        """Return what tells the compiled engine of them, to score all or to walk; valid as long as this."""
        if scan:
            return {"rows": self.rows}
        if self._walked is None:
            seeds = self.rows[:: max(len(self.rows) // _SEEDS, 1)][:_SEEDS].astype(np.int64)
            self._walked = {"live": self._bits().ctypes.data, "seeds": seeds}
        return self._walked

    def link(self, engine: Any, graph: NDArray[np.int64], degree: int, going_on: Callable[[], bool]) -> None:
        """Link the rows among themselves, unless `going_on` returns False meanwhile."""
        live = self._bits().ctypes.data
        self.links = link(engine, graph, live, self._total, self.rows, degree, going_on)

    def parameters(self, ef: int | None) -> Any:
        """Return FAISS's parameters for a walk, or for a scan where `ef` is None."""
        found = self._by_ef.get(ef)
        if found is None:
            # FAISS keeps no reference to it, so this does
            selector = self._made.get("selector") or _faiss.row_selector(self._bits())
            selector = self._made.setdefault("selector", selector)
            found = self._by_ef.setdefault(ef, _faiss.search_parameters(ef, selector))
        return found

    def _bits(self) -> NDArray[np.uint8]:
        """Make them when first asked for: a scan of few rows does not need them."""
        made: NDArray[np.uint8] | None = self._made.get("bits")
        if made is None:  # no lock: two threads may both make them, and the first ones stay, as addresses do
            mask = np.zeros(-(-self._total // (8 * _WORD_BYTES)) * 8 * _WORD_BYTES, bool)
            mask[self.rows] = True
            kept: NDArray[np.uint8] = self._made.setdefault("bits", np.packbits(mask, bitorder="little"))
            return kept
        return made
