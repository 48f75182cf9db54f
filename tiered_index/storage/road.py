"""One segment's two tiers as one compiled road, where a snapshot is a single graph."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from tiered_index.coarse.prefix_graph import SCAN_ROWS_PER_EF
from tiered_index.compiled import engine
from tiered_index.storage.live import LiveSegment


class Road:
    """Both tiers of a segment, described to the compiled engine.

    Parameters
    ----------
    live : LiveSegment
        A segment with a graph.
    first : int
        Address of its row 0.
    """

    def __init__(self, live: LiveSegment, first: int) -> None:
        segment = live.segment
        self._engine: Any = engine()
        self._check = (segment.coarse.check, segment.full.check, segment.lookup.check)
        self._first = first
        self._rows = segment.rows
        self._graph = segment.coarse.graph_fields()
        norms = segment.lookup.inverse_norms
        self._full = self._engine.full_fields(
            *segment.full.addresses(), 0 if norms is None else norms.ctypes.data, segment.full.descriptor
        )
        self._live_rows = live.rows
        self._kept_alive: tuple[Any, ...] = (live, norms)
        if live.live is not None:
            bits = np.packbits(live.live, bitorder="little")
            self._full[-1] = bits.ctypes.data
            self._kept_alive += (bits,)

    def takes(self, k: int, ef: int) -> bool:
        """Return whether the engine answers so much; what is more is left to NumPy, or to a scan."""
        among_all = ef * self._rows // self._live_rows
        return 0 < k <= self._engine.MAX_K and self._rows > SCAN_ROWS_PER_EF * among_all

    def answer(
        self,
        prefix: NDArray[np.float32],
        query: NDArray[np.float32],
        k: int,
        ef: int,
        candidates: int,
        **limits: Any,
    ) -> Any:
        """Answer one query; see :func:`tiered_index.compiled.engine.answer`. Rows become addresses."""
        for check in self._check:
            check()
        found = self._engine.answer(self._graph, self._full, prefix, query, k, ef, candidates, **limits)
        return found if not self._first else found._replace(rows=found.rows + self._first)


def road_of(segments: tuple[LiveSegment, ...], parts: Any) -> Road | None:
    """Return the road of a snapshot whose one part is a graph; None if it is anything else."""
    if len(parts) != 1 or parts[0].addresses is not None or not parts[0].tier.has_graph:
        return None
    compiled = engine()
    if compiled is None:
        return None
    (part,) = parts
    live = next(live for live in segments if live.segment.coarse is part.tier)
    return Road(live, part.first) if part.tier.rows < compiled.MAX_ROWS else None
