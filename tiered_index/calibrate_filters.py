"""Filters that are made to measure with: rows at random, and topics that are near to some queries."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any, Final

import msgspec
import numpy as np
from numpy.typing import NDArray
from pyroaring import BitMap

from tiered_index.blas import product
from tiered_index.exact import exact_among, without_own
from tiered_index.planner.among import EFS, Among, Curve, measure_among
from tiered_index.storage.live import ROW_BITS, ROW_MASK
from tiered_index.storage.matching import Matching
from tiered_index.storage.road import road_of
from tiered_index.storage.snapshot import Snapshot
from tiered_index.validate.vectors import Floats

QUERIES: Final = 128
RANDOM: Final = (0.52, 0.1)
TOPICS: Final = 5
TOPIC_SHARE: Final = 0.15
OTHERS: Final = 1
"""Filters of all but a topic."""

GROUPS: Final = 64
UNIONS: Final = (0.2, 0.6)
"""Filters of many topics that lie apart from each other: rows are of the nearest of so many groups, and
groups match up to these shares. Walks among the rows of one topic say too little of them: where rows lie in
tight clusters, hardly any way leads from one that matches to another."""

LEAST_INDEXED: Final = 20_000
"""Fewer rows are scanned, whatever the filter, rather than walked."""

_LEAST_SHARE = 0.02
_SECONDS, _SECONDS_PER_ROW = 0.5, 7e-6
_SEED = 21
_BLOCK_ROWS = 32_768


def filters_seconds(rows: int, pass_seconds: float) -> float:
    """Return about how long measuring takes, where a pass over all vectors takes so long."""
    return _SECONDS + rows * _SECONDS_PER_ROW + 2.0 * pass_seconds


def calibrate_filters(
    snapshot: Snapshot,
    queries: Floats,
    own: NDArray[np.int64] | None,
    truth: NDArray[np.int64],
    k: int,
    everywhere: Curve,
) -> Among | None:
    """Measure walks among the rows of filters; None where filters are not walked by the compiled engine.

    Of several segments the one with the most rows is measured, by itself: with the same beam, walks of all
    find no less than those of one.

    Parameters
    ----------
    snapshot : Snapshot
        With rows.
    queries : ndarray, shape (n, store_dim), float32
        Of unit length under cosine; the first :data:`QUERIES` are asked.
    own : ndarray, shape (n,), int64, or None
        Addresses of the rows that the queries are; they match no filter.
    truth : ndarray, shape (n, k or more), int64
        Their exact answers, best first.
    k : int
        Results a query.
    everywhere : tuple of (int, float)
        Recall by ef without a filter, of all segments.
    """
    number = _largest(snapshot)
    live = snapshot.segments[number]
    walked = live.segment.coarse.has_graph and road_of(live.segment, None, 0) is not None
    if live.rows < LEAST_INDEXED or not walked:
        return None
    count = min(QUERIES, len(truth))
    own = None if own is None else own[:count]
    masks = _masks(snapshot, number, own)
    subject = _Subject(snapshot, number, queries[:count], own, truth[:count, :k], masks, everywhere)
    found = measure_among(subject)
    if found is None:
        return None
    linked = measure_among(subject, near=True) if subject.by_links() else None
    if linked is not None:  # of kinds that were not met by links, walks without tell the least
        linked = msgspec.structs.replace(linked, kinds={**found.kinds, **linked.kinds})
    return msgspec.structs.replace(found, linked=linked)


def _largest(snapshot: Snapshot) -> int:
    return max(range(len(snapshot.segments)), key=lambda number: snapshot.segments[number].rows)


def _masks(snapshot: Snapshot, number: int, own: NDArray[np.int64] | None) -> list[NDArray[np.bool_]]:
    """Return which rows of a segment match each filter."""
    live = snapshot.segments[number]
    rows, random = live.segment.rows, np.random.default_rng(_SEED)
    masks = [random.random(rows) < share for share in RANDOM]
    tier = live.segment.coarse
    codes = tier.codes()
    pivots, middles = (
        tier.decode(codes[np.sort(random.choice(rows, count, replace=False))]) for count in (TOPICS, GROUPS)
    )
    alike, group = np.empty((TOPICS, rows), np.float32), np.empty(rows, np.int64)
    for first in range(0, rows, _BLOCK_ROWS):
        part = slice(first, first + _BLOCK_ROWS)
        prefixes = tier.decode(codes[part]).T
        alike[:, part] = product(pivots, prefixes)
        group[part] = product(middles, prefixes).argmax(axis=0)
    topics = list(alike >= np.quantile(alike, 1.0 - TOPIC_SHARE, axis=1)[:, None])
    masks += [*topics, *(~topic for topic in topics[:OTHERS])]
    order = random.permutation(GROUPS)
    before = np.cumsum(np.bincount(group, minlength=GROUPS)[order])
    masks += [np.isin(group, order[: np.searchsorted(before, share * rows) + 1]) for share in UNIONS]
    for mask in masks:
        if live.live is not None:
            mask &= live.live
        if own is not None:
            mask[own[own >> ROW_BITS == number] & ROW_MASK] = False
    # of a topic most rows may have been deleted, or all
    return [mask for mask in masks if mask.sum() >= _LEAST_SHARE * live.rows]


class _Subject:
    """One segment of a snapshot with filters, as the planner sees it."""

    def __init__(
        self,
        snapshot: Snapshot,
        number: int,
        queries: Floats,
        own: NDArray[np.int64] | None,
        truth: NDArray[np.int64],
        masks: list[NDArray[np.bool_]],
        everywhere: Curve,
    ) -> None:
        k = self.k = truth.shape[1]
        live = snapshot.segments[number]
        self._links = False
        self._own = own  # each finds itself among all rows
        self._queries = queries
        self._prefixes = snapshot.prefixes(queries, snapshot.config.prefix_dim)
        self._all: Any = snapshot.scope.road or road_of(live.segment, live.selection(), number << ROW_BITS)
        found = []
        for mask in masks:
            rows = [BitMap() for _ in snapshot.segments]
            rows[number] = BitMap(np.flatnonzero(mask).astype(np.uint32))
            found.append(Matching(tuple(rows), snapshot.segments))
        self._matching = found  # for as long as their addresses are used
        self._roads: list[Any] = [matching.scope.road for matching in found]
        self.shares: Sequence[float] = [matching.count / live.rows for matching in found]
        self.near = np.array([[road.share_near(prefix) for prefix in self._prefixes] for road in self._roads])
        self._truth_of_all, self.everywhere = truth, everywhere
        if snapshot.scope.road is not None:
            self._truth = exact_among(snapshot, queries, k, number, masks)
            return
        # what was measured so far is of all segments
        held = np.ones(live.segment.rows, bool) if live.live is None else live.live
        *best, of_all = exact_among(snapshot, queries, k + 1, number, [*masks, held])
        self._truth = [rows[:, :k] for rows in best]
        self._truth_of_all = of_all[:, :k] if own is None else without_own(of_all, own)
        self.everywhere = self._curve()

    def _curve(self) -> Curve:
        efs = [ef for ef in EFS if self._all.takes(self.k + 1, ef, scan=False)]
        asked = range(len(self._queries))
        return tuple((ef, float(np.mean([self.walk_all(query, ef)[0] for query in asked]))) for ef in efs)

    def by_links(self) -> bool:
        """Walk by links from now on, among those filters that have some; return whether any does."""
        kept = [i for i, matching in enumerate(self._matching) if matching.would_take]
        self._matching = [self._matching[i] for i in kept]
        self._roads = [self._roads[i] for i in kept]
        self.shares = [self.shares[i] for i in kept]
        self.near, self._truth = self.near[kept], [self._truth[i] for i in kept]
        self._links = True
        return bool(kept)

    @contextmanager
    def among(self, chosen: int) -> Iterator[None]:
        matching = self._matching[chosen]
        if self._links:  # one at a time: those of all would take more memory than the graph
            matching.link(lambda: True)
        yield
        if self._links:
            matching.unlink()

    def takes(self, chosen: int, ef: int) -> bool:
        return bool(self._roads[chosen].takes(self.k, max(ef, self.k), scan=False))

    def walk(self, query: int, chosen: int, ef: int) -> tuple[float, float, float]:
        found = self._ask(self._roads[chosen], query, self.k, ef, scan=False)
        return _share(self._truth[chosen][query], found.rows), found.coarse_ms, found.nearness

    def walk_all(self, query: int, ef: int) -> tuple[float, float]:
        found = self._ask(self._all, query, self.k + (self._own is not None), ef, scan=False)
        rows = found.rows if self._own is None else found.rows[found.rows != self._own[query]]
        return _share(self._truth_of_all[query], rows[: self.k]), found.coarse_ms

    def scan(self, query: int, chosen: int) -> float:
        ms = self._ask(self._roads[chosen], query, self.k, EFS[-1], scan=True).coarse_ms
        return float(ms / self._matching[chosen].count)

    def _ask(self, road: Any, query: int, k: int, ef: int, *, scan: bool) -> Any:
        ef = max(ef, k)
        return road.answer(self._prefixes[query], self._queries[query], k, ef, ef, scan=scan, place=self.k)


def _share(truth: NDArray[np.int64], rows: NDArray[np.int64]) -> float:
    return float(np.isin(truth, rows).sum() / max(len(truth), 1))
