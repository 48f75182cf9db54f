"""Rows that match a filter, segment by segment: leaves one by one, joined as bitmaps."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Callable, Hashable
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray
from pyroaring import BitMap

from tiered_index.coarse.links import LEAST_ROWS, pays
from tiered_index.filters.columns import columns_of, places
from tiered_index.filters.nodes import And, Constant, In, IsNull, Leaf, Matches, Node, Not, Or, Range
from tiered_index.full.bounds import Bounds
from tiered_index.full.parquet_rows import ParquetRows
from tiered_index.full.parquet_writer import ROW_GROUP_ROWS
from tiered_index.storage.live import ROW_BITS, ROW_MASK, LiveSegment
from tiered_index.storage.recent import bytes_of
from tiered_index.storage.scope import CoarsePart, Scope, selected
from tiered_index.storage.segment import Segment
from tiered_index.validate.ids import id_keys
from tiered_index.validate.metadata import ID_COLUMN

GROUPS_AT_ONCE = 16
"""Row groups of a column that are decoded at a time: 131,072 rows."""

_SEARCHED_BYTES = 4_096
"""Of each search that is prepared for a filter, objects included."""

_SCANNED_ROWS = 1_024
"""So few are scanned, unless the beam of a walk is given; a walk needs a bit for each row of the segment."""


class Matching:
    """The rows of a snapshot that match a filter.

    Attributes
    ----------
    rows : tuple of BitMap
        Of each segment of the snapshot, those that match and are not deleted. They are shared: not to be
        changed.
    count : int
        How many in all.
    key : hashable
        By which a snapshot finds them.
    """

    def __init__(
        self, rows: tuple[BitMap, ...], segments: tuple[LiveSegment, ...], key: Hashable = None
    ) -> None:
        self.key = key
        self.rows = rows
        self.count = sum(map(len, rows))
        self._segments = segments
        self._made: dict[str, Scope] = {}
        self.prepared: dict[Hashable, Any] = {}
        """Searches among these rows that are prepared; they go with the rows, whose addresses they know."""
        self.used_ns = 0
        self.spent_ns = 0
        """When it was searched last, and the time that first stages took since; kept by who links rows."""
        self._would_take: int | None = None
        self.linked = False
        """Whether rows are linked among themselves, in segments where that shortens walks."""
        self.unlinked = 0
        """How often their links had to go for those of others."""

    @property
    def bytes(self) -> int:
        """About what it takes in memory, once it was searched, with all that is prepared for it."""
        listed = _SEARCHED_BYTES * max(len(self.prepared), 1) + 4 * self.count
        if self.count > _SCANNED_ROWS:
            listed += sum(live.segment.rows for live in self._segments) // 8
        return listed + sum(map(bytes_of, self.rows))

    @property
    def scope(self) -> Scope:
        """The rows as a search goes over them; made when first asked for."""
        if not self._made:
            arrays = [np.frombuffer(rows.to_array(), np.int32) for rows in self.rows]
            # no lock: two threads may both make it, and then both take the first, whose rows are linked
            self._made.setdefault("scope", selected(self._segments, arrays))
        return self._made["scope"]

    @property
    def links_bytes(self) -> int:
        """What their links take in memory."""
        if not self._made:
            return 0
        links = [part.among.links for part in self.scope.parts if part.among is not None]
        return sum(found.bytes for found in links if found is not None)

    @property
    def would_take(self) -> int:
        """What links would take in memory; 0 unless they shorten the walks of all segments with any."""
        if self._would_take is None:  # no cached_property: its lock, held during a fork, would stay held
            self._would_take = self._links_of_walked()
        return self._would_take

    def _links_of_walked(self) -> int:
        walked = self._walked()
        everything = self.count == sum(live.rows for live in self._segments)
        if everything or not all(pays(part.rows, part.tier.rows) for part in walked):
            return 0
        return sum(part.tier.links_bytes(part.rows) for part in walked)

    def link(self, going_on: Callable[[], bool]) -> bool:
        """Link the rows of every segment where walks go, unless `going_on` returns False meanwhile.

        Return whether they are linked.
        """
        try:
            for part in self._walked():
                if part.among is not None and going_on():
                    part.tier.link(part.among, going_on)
        except BaseException:
            self.unlink()
            raise
        if all(part.among is not None and part.among.links is not None for part in self._walked()):
            self.linked = True
        else:
            self.unlink()
        return self.linked

    def unlink(self) -> None:
        """Let go of links; the time that searches spend is counted from now on."""
        self.linked = False
        for part in self.scope.parts:
            if part.among is not None:
                part.among.links = None
        self.prepared.clear()
        self.spent_ns = 0
        self.unlinked += 1

    def _walked(self) -> list[CoarsePart]:
        """Return the parts that are walked rather than scanned."""
        return [part for part in self.scope.parts if part.tier.fields is not None and part.rows >= LEAST_ROWS]

    def addresses(self, limit: int | None = None) -> NDArray[np.int64]:
        """Return the rows' addresses in the snapshot, ascending; the first `limit` of them, or all."""
        found = [np.empty(0, np.int64)]
        left = self.count if limit is None else limit
        for number, rows in enumerate(self.rows):
            if left <= 0:
                break
            some = np.frombuffer(rows.to_array(), np.uint32)[:left].astype(np.int64)
            found.append((number << ROW_BITS) + some)
            left -= len(some)
        return np.concatenate(found)

    def hold(self, addresses: NDArray[np.int64]) -> NDArray[np.bool_]:
        """Return which of some addresses are among the rows; for few of them."""
        rows = ((address & ROW_MASK) in self.rows[address >> ROW_BITS] for address in addresses.tolist())
        return np.fromiter(rows, bool, len(addresses))


def match(node: Node, segments: tuple[LiveSegment, ...]) -> Matching:
    """Return the rows of segments that match a filter, which is their key.

    Raises
    ------
    FilterError
        An expression that fails on the values there are.
    CorruptIndexError
        A column cannot be read.
    """
    rows = tuple(_rows(node, live.segment) - live.deleted for live in segments)
    return Matching(rows, segments, node)


def _rows(node: Node, segment: Segment) -> BitMap:
    """Return the rows of a segment that match, deleted ones included; not to be changed."""
    if isinstance(node, Constant):
        return BitMap(range(segment.rows)) if node.value else BitMap()
    if isinstance(node, Not):
        return _rows(node.node, segment).flip(0, segment.rows)
    if isinstance(node, Or):
        return BitMap.union(*(_rows(part, segment) for part in node.nodes))
    if isinstance(node, And):
        # those that need no reading first: if nothing is left, the others need not be looked at
        parts = sorted(node.nodes, key=lambda part: not _is_quick(part, segment))
        rows = _rows(parts[0], segment)
        for part in parts[1:]:
            rows = rows & _rows(part, segment) if rows else rows
        return rows
    held = segment.leaves.get(node)
    if held is not None:
        return held
    indexed = None if segment.columns is None else segment.columns.rows(node)
    rows = _read(node, segment) if indexed is None else indexed
    segment.leaves.put(node, rows, bytes_of(rows))
    return rows


def _is_quick(node: Node, segment: Segment) -> bool:
    """Return whether a node is a leaf whose column has bitmaps, or whose rows are looked up by their ids."""
    if isinstance(node, Matches) or not isinstance(node, Leaf):
        return False
    indexed = segment.columns is not None and node.column in segment.columns.names
    return indexed or (node.column == ID_COLUMN and isinstance(node, In))


def _read(leaf: Leaf, segment: Segment) -> BitMap:
    """Return the rows of a leaf whose column has no bitmaps."""
    names = columns_of(leaf)
    if names == (ID_COLUMN,) and not isinstance(leaf, Matches):
        return BitMap(_of_ids(leaf, segment).astype(np.uint32))
    whole, undecided = _by_statistics(leaf, segment.full)
    found = BitMap()
    for group in whole:
        first = group * ROW_GROUP_ROWS
        found.add_range(first, min(first + ROW_GROUP_ROWS, segment.rows))
    for start in range(0, len(undecided), GROUPS_AT_ONCE):
        groups = np.array(undecided[start : start + GROUPS_AT_ONCE], np.int64)
        table = segment.full.groups(names or (ID_COLUMN,), groups)
        rows = places(leaf, table)
        rows = rows + (groups[rows // ROW_GROUP_ROWS] - rows // ROW_GROUP_ROWS) * ROW_GROUP_ROWS
        found |= BitMap(rows.astype(np.uint32))
    return found


def _of_ids(leaf: Leaf, segment: Segment) -> NDArray[np.int64]:
    if isinstance(leaf, In):
        ids = pa.array(leaf.keys, segment.lookup.id_type)
        rows = segment.lookup.find(ids, id_keys(ids))
        return rows[rows >= 0]
    return places(leaf, pa.table({ID_COLUMN: segment.lookup.ids(np.arange(segment.rows))}))


def _by_statistics(leaf: Leaf, full: ParquetRows) -> tuple[list[int], list[int]]:
    """Return the row groups of which all rows match, and those that must be read, by Parquet's statistics."""
    groups = range(full.group_count)
    if not isinstance(leaf, In | IsNull | Range):
        return [], list(groups)
    decided = [_decided(leaf, bounds) for bounds in full.bounds(leaf.column)]
    return [g for g in groups if decided[g]], [g for g in groups if decided[g] is None]


def _decided(leaf: In | IsNull | Range, bounds: Bounds | None) -> bool | None:
    """Return whether all or none of the rows within some bounds match; None if that is not certain."""
    if bounds is None:
        return None
    if isinstance(leaf, IsNull):
        return {0: False, bounds.rows: True}.get(bounds.nulls)
    if bounds.nulls == bounds.rows:
        return False
    low: Any = bounds.low
    high: Any = bounds.high
    if low is None or high is None:
        return None
    if isinstance(leaf, In):
        place = bisect_left(leaf.keys, low)
        within = place < len(leaf.keys) and leaf.keys[place] <= high
        whole = within and low == high
    else:
        within = not _is_outside(leaf, low, high)
        whole = not any(_is_outside(leaf, end, end) for end in (low, high))
    return False if not within else True if whole and not bounds.nulls else None


def _is_outside(leaf: Range, low: Any, high: Any) -> bool:
    """Return whether nothing from `low` to `high` lies in a range."""
    below = leaf.low is not None and (high <= leaf.low if leaf.low_open else high < leaf.low)
    return below or (leaf.high is not None and (low >= leaf.high if leaf.high_open else low > leaf.high))
