"""What a search goes over: the rows of a snapshot that may be found, laid out for the coarse tier."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from tiered_index.coarse.prefix_graph import CoarseTier
from tiered_index.coarse.selection import Selection
from tiered_index.storage.live import ROW_BITS, LiveSegment
from tiered_index.storage.road import Road, road_of

MAX_GATHERED_ROWS = 16_384
"""Rows of segments without a graph that are copied together, to be scanned in one call: 8 MB of codes."""


class CoarsePart(NamedTuple):
    """Something the coarse tier searches in one call.

    Attributes
    ----------
    tier : CoarseTier
        Codes, perhaps under a graph.
    rows : int
        How many of its rows may be found.
    among : Selection or None
        Which; None for all.
    first : int
        Address of its row 0, if its rows are those of a segment.
    addresses : ndarray or None
        Address of each row otherwise.
    """

    tier: CoarseTier
    rows: int
    among: Selection | None
    first: int
    addresses: NDArray[np.int64] | None


class Scope(NamedTuple):
    """Rows that may be found.

    Attributes
    ----------
    parts : tuple of CoarsePart
        Where they are.
    road : Road or None
        The compiled road, where they are all in one graph.
    rows : int
        How many they are.
    """

    parts: tuple[CoarsePart, ...]
    road: Road | None
    rows: int

    @property
    def linked(self) -> bool:
        """Whether the rows of a filter are linked among themselves."""
        return any(part.among is not None and part.among.links is not None for part in self.parts)

    def share_near(self, prefix: NDArray[np.float32], rows: int) -> float:
        """Return which share of the rows nearest to a query may be found, of so many in all.

        With several graphs it is as much less than the share of all rows as in the graph where it is so the
        most. Where FAISS walks, nobody looks, and it is that of all rows.
        """
        if self.road is not None:
            return self.road.share_near(prefix)
        ratio = 1.0
        for part in self.parts:
            if part.among is not None and (near := part.tier.near(prefix)) is not None:
                ratio = min(ratio, part.among.share_of(near) * part.tier.rows / part.rows)
        return ratio * self.rows / rows


def whole(segments: Sequence[LiveSegment]) -> Scope:
    """Return the scope of all rows that are not deleted."""
    return _scope(segments, tuple(_parts(segments)))


def selected(segments: Sequence[LiveSegment], rows: Sequence[NDArray[np.int32]]) -> Scope:
    """Return the scope of some rows: those of each segment, ascending, which are not deleted."""
    parts = tuple(
        CoarsePart(
            live.segment.coarse, len(chosen), Selection(live.segment.rows, chosen), number << ROW_BITS, None
        )
        for number, (live, chosen) in enumerate(zip(segments, rows, strict=True))
        if len(chosen)
    )
    return _scope(segments, parts)


def _scope(segments: Sequence[LiveSegment], parts: tuple[CoarsePart, ...]) -> Scope:
    road = None
    if len(parts) == 1 and parts[0].addresses is None and parts[0].tier.has_graph:
        (part,) = parts
        live = next(live for live in segments if live.segment.coarse is part.tier)
        road = road_of(live.segment, part.among, part.first)
    return Scope(parts, road, sum(part.rows for part in parts))


def _parts(segments: Sequence[LiveSegment]) -> Iterator[CoarsePart]:
    """Small segments are gathered: a call to FAISS for each costs more than scanning all of them."""
    gathered: list[tuple[int, LiveSegment]] = []
    rows = 0
    by_size = sorted(enumerate(segments), key=lambda pair: pair[1].rows)
    for number, live in by_size:
        small = not live.segment.coarse.has_graph and rows + live.rows <= MAX_GATHERED_ROWS
        if small:
            gathered.append((number, live))
            rows += live.rows
        elif live.rows:
            yield CoarsePart(live.segment.coarse, live.rows, live.selection(), number << ROW_BITS, None)
    if len(gathered) == 1 and gathered[0][1].rows:
        ((number, live),) = gathered
        yield CoarsePart(live.segment.coarse, live.rows, live.selection(), number << ROW_BITS, None)
    elif rows:
        places = [(number << ROW_BITS) + live.live_rows() for number, live in gathered]
        tier = CoarseTier.gathered([(live.segment.coarse, live.live_rows()) for _, live in gathered])
        yield CoarsePart(tier, rows, None, 0, np.concatenate(places))
