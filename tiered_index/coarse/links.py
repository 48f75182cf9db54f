"""Links among the rows of a filter, in memory, beside those of the graph."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

LEAST_ROWS = 8_192
"""Of a segment; fewer are scanned, which takes no longer than a walk by links."""

LEAST_SHARE, MOST_SHARE = 0.04, 0.75
"""Of a segment. Among fewer, two steps do not lead from a row to as many others as it has links: among one of
a hundred rows .85 were found. Among more, a walk took 1.15 times as long without links as with them."""

_ROWS_AT_ONCE = 1_024
"""Rows that are linked in one call, which takes some milliseconds."""


class Links(NamedTuple):
    """A graph, as the compiled engine knows it, and what of it lies in memory.

    Attributes
    ----------
    graph : ndarray of int64
        It holds addresses of the other two: these must live as long as it is used.
    places : ndarray of int32, shape (rows of the segment,)
        Place in `rows` of each row that is linked; empty for the graph of all rows.
    rows : ndarray of int32, shape (rows that are linked, kept)
        What each is linked to, -1 after the last.
    """

    graph: NDArray[np.int64]
    places: NDArray[np.int32]
    rows: NDArray[np.int32]

    @property
    def bytes(self) -> int:
        """What it takes in memory."""
        return self.places.nbytes + self.rows.nbytes


def all_rows(graph: NDArray[np.int64]) -> Links:
    """Return the graph of all rows, which lies in its file."""
    return Links(graph, np.empty(0, np.int32), np.empty((0, 0), np.int32))


def pays(rows: int, total: int) -> bool:
    """Return whether links among so many rows of a segment shorten walks."""
    return rows >= LEAST_ROWS and LEAST_SHARE * total <= rows <= MOST_SHARE * total


def links_bytes(total: int, rows: int, degree: int) -> int:
    """Return what links among so many rows of a segment take in memory."""
    return np.dtype(np.int32).itemsize * (total + rows * _kept(degree))


def _kept(degree: int) -> int:
    return degree * 2 // 3


def link(
    engine: Any,
    graph: NDArray[np.int64],
    live: int,
    total: int,
    rows: NDArray[np.int32],
    degree: int,
    going_on: Callable[[], bool],
) -> Links | None:
    """Link some rows of a segment among themselves.

    Parameters
    ----------
    engine : module
        The compiled engine.
    graph : ndarray of int64
        Of all rows.
    live : int
        Address of a bit a row, set for `rows`.
    total : int
        Rows of the segment.
    rows : ndarray of int32
        Which, ascending.
    degree : int
        Links that a row has in the graph.
    going_on : callable
        Asked every few milliseconds; when it returns False, None is returned.
    """
    places = np.zeros(total, np.int32)
    places[rows] = np.arange(len(rows), dtype=np.int32)
    links = np.empty((len(rows), _kept(degree)), np.int32)
    considered = degree * 4 // 3
    met = np.full(total, -1, np.int32)
    for first in range(0, len(rows), _ROWS_AT_ONCE):
        if not going_on():
            return None
        engine.link(graph, live, rows, first, min(first + _ROWS_AT_ONCE, len(rows)), considered, met, links)
    linked = engine.linked(graph, places.ctypes.data, links.ctypes.data, links.shape[1])
    return Links(linked, places, links)
