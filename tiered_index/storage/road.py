"""One segment's two tiers as one compiled road, for searches that go over a single graph."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from tiered_index.coarse.prefix_graph import NEAR_EF, NEAR_ROWS, SCAN_ROWS_PER_EF
from tiered_index.coarse.selection import Selection
from tiered_index.compiled import get_engine
from tiered_index.limits import Limits
from tiered_index.planner.plan import Plan
from tiered_index.storage.segment import Segment
from tiered_index.validate.vectors import SAFE_SQUARES


class Road:
    """Both tiers of a segment, described to the compiled engine.

    Parameters
    ----------
    compiled : module
        The engine.
    segment : Segment
        With a graph.
    among : Selection or None
        Which of its rows may be found; None for all.
    first : int
        Address of its row 0.
    """

    def __init__(self, compiled: Any, segment: Segment, among: Selection | None, first: int) -> None:
        self._engine = compiled
        self._segment = segment
        self._among = among
        self._first = first
        norms = segment.lookup.inverse_norms
        self._full = compiled.full_fields(
            *segment.full.addresses(),
            0 if norms is None else norms.ctypes.data,
            segment.full.descriptor,
            copied=segment.full.copied,
        )
        self._sketch = compiled.NO_SKETCH
        if segment.sketch is not None:
            self._sketch = compiled.sketch_fields(*segment.sketch.addresses)

    @property
    def linked(self) -> bool:
        """Whether the rows that may be found are linked among themselves."""
        return self._among is not None and self._among.links is not None

    def takes(self, k: int, ef: int, *, scan: bool) -> bool:
        """Return whether the engine answers so much; what is more is left to NumPy, or to a scan."""
        if not 0 < k <= self._engine.MAX_K:
            return False
        if scan:
            return True
        if self._among is not None and self.linked:  # the planner weighs such walks and scans
            return ef <= len(self._among)
        ef = ef if self._among is None else self._among.wider(ef)
        return self._segment.rows > SCAN_ROWS_PER_EF * ef

    def prepare(
        self,
        k: int,
        plan: Plan,
        limits: Limits,
        enough: int,
        *,
        unit: bool,
        directions: NDArray[np.float32] | None,
        shares: tuple[float, float],
        place: int,
        least: float,
    ) -> Any:
        """Return what answers many queries one by one; see :mod:`tiered_index.compiled.engine`.

        It is valid as long as this object.
        """
        segment, settings = self._segment, self._rows(scan=plan.strategy == "scan")
        links = segment.coarse.links_of(self._among)
        files = [segment.coarse.mapped, segment.full.mapped, segment.lookup.mapped]
        return self._engine.Prepared(
            links.graph,
            self._full,
            self._sketch,
            [(file.descriptor, file.size) for file in files if file is not None],
            segment.lookup.numbers,
            self._first,
            k,
            plan,
            limits,
            enough,
            unit=unit,
            safe=SAFE_SQUARES,
            directions=directions,
            near=(NEAR_EF, NEAR_ROWS, shares),
            place=place,
            least=least,
            kept=links,
            **settings,
        )

    def answer(
        self,
        prefix: NDArray[np.float32],
        query: NDArray[np.float32],
        k: int,
        ef: int,
        candidates: int,
        *,
        scan: bool,
        **limits: Any,
    ) -> Any:
        """Answer one query; see :func:`tiered_index.compiled.engine.answer`. Rows become addresses."""
        links = self._segment.coarse.links_of(self._among)
        found = self._engine.answer(
            links.graph,
            self._full,
            prefix,
            query,
            k,
            ef,
            candidates,
            sketch=self._sketch,
            **self._rows(scan=scan),
            **limits,
        )
        return found if not self._first else found._replace(rows=found.rows + self._first)

    def answer_many(
        self,
        prefixes: NDArray[np.float32],
        queries: NDArray[np.float32],
        k: int,
        ef: int,
        candidates: int,
        *,
        scan: bool,
        **limits: Any,
    ) -> Any:
        """Answer several; see :func:`tiered_index.compiled.engine.answer_many`. Rows become addresses."""
        rows, links = self._rows(scan=scan), self._segment.coarse.links_of(self._among)
        found = self._engine.answer_many(
            links.graph,
            self._full,
            prefixes,
            queries,
            k,
            ef,
            candidates,
            sketch=self._sketch,
            **rows,
            **limits,
        )
        return found if not self._first else found._replace(rows=found.rows + self._first)

    def ordered(
        self, prefix: NDArray[np.float32], query: NDArray[np.float32], ef: int
    ) -> tuple[NDArray[np.int64], float, int]:
        """Walk, and put what is found in order by its sketches.

        Return addresses, milliseconds, and how many codes were scored.
        """
        found, links = self._rows(scan=False), self._segment.coarse.links_of(self._among)
        rows, ms, codes = self._engine.ordered(links.graph, self._sketch, prefix, query, ef, **found)
        return rows + self._first, ms, codes

    def _rows(self, *, scan: bool) -> dict[str, Any]:
        """Check that the files are whole, and return which rows may be found."""
        segment = self._segment
        segment.coarse.check()
        segment.full.check()
        segment.lookup.check()
        if segment.sketch is not None:
            segment.sketch.check()
        return segment.coarse.settings(self._among, scan=scan)

    def share_near(self, prefix: NDArray[np.float32]) -> float:
        """Return which share of the rows nearest to a query may be found."""
        near = None if self._among is None else self._segment.coarse.near(prefix)
        return 1.0 if self._among is None or near is None else self._among.share_of(near)


def road_of(segment: Segment, among: Selection | None, first: int) -> Road | None:
    """Return the road of a segment with a graph; None where there is no engine for it."""
    compiled = get_engine()
    if compiled is None or segment.rows >= compiled.MAX_ROWS:
        return None
    return Road(compiled, segment, among, first)
