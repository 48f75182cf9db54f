"""Calibration: an index measured by its own searches, against exact answers."""

from __future__ import annotations

import datetime
from collections.abc import Callable, Sequence
from time import perf_counter, perf_counter_ns
from typing import NamedTuple

import msgspec
import numpy as np
from numpy.typing import NDArray

from tiered_index.calibrate_filters import calibrate_filters, filters_seconds
from tiered_index.coarse.prefix_graph import SCAN_ROWS_PER_EF
from tiered_index.config import Budget
from tiered_index.decision import Decision
from tiered_index.exact import exact_search, without_own
from tiered_index.limits import NO_LIMITS
from tiered_index.machine import fingerprint
from tiered_index.planner.calibrate import SKETCH_FRACTIONS, measure, recall_by_ef
from tiered_index.planner.model import FRACTIONS, Calibration, Source
from tiered_index.planner.plan import Plan, Strategy
from tiered_index.planner.subject import Observed
from tiered_index.planner.times import Times
from tiered_index.planning import Planning
from tiered_index.prepared import Prepared
from tiered_index.rescoring import by_sketch
from tiered_index.results import Hits
from tiered_index.search import find_candidates, search
from tiered_index.storage.snapshot import Snapshot
from tiered_index.validate.vectors import Floats

MIN_QUERIES = 32
MAX_QUERIES = 1_000
SEED = 20

_TRUTH_SHARE = 0.4
"""Of the time that is allowed, for the exact answers."""

_FILTERS_SHARE = 0.35
"""Of the time that is left, what measuring filters may take; else it is left out."""

_MOST_ROWS, _HARDLY_OTHERS = 0.05, 0.5
"""Where more of the given queries than this are rows of the index, those stand for others, and are not to
find themselves; fewer may be what is really asked. Beyond the latter all are taken for stored vectors."""

_ROUNDED, _ROUNDED_HALF = 1e-5, 2e-3
"""How far a row may lie from what was given, as a share of its greatest number; the latter in float16."""

_BLOCK_QUERIES = 256
"""Queries that share a pass; more would need more memory for scores, and hardly less time."""


class Queries(NamedTuple):
    """What calibration asks.

    Attributes
    ----------
    vectors : ndarray, shape (n, store_dim), float32
        Of unit length under cosine.
    own : ndarray, shape (n,), int64, or None
        Addresses of the rows that the queries are, which are not to be found, -1 of those that are no rows;
        None if none is.
    source : {"given", "live", "stored"}
        Where they come from.
    """

    vectors: Floats
    own: NDArray[np.int64] | None
    source: Source


def stored_queries(snapshot: Snapshot, count: int) -> Queries:
    """Take a random sample of rows for queries."""
    random = np.random.default_rng(SEED)
    addresses = snapshot.sample(min(count, snapshot.rows), random)
    vectors = snapshot.vectors(addresses).astype(np.float32)
    if snapshot.config.metric == "cosine":
        vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    return Queries(vectors, addresses, "stored")


def calibrate(
    snapshot: Snapshot,
    queries: Queries,
    ks: Sequence[int],
    seconds: float | None,
    progress: Callable[[str], None] = lambda _: None,
) -> Calibration:
    """Measure a snapshot.

    Parameters
    ----------
    snapshot : Snapshot
        With rows.
    queries : Queries
        What is asked.
    ks : sequence of int
        For which recall@k is measured.
    seconds : float or None
        About how long it may take.
    progress : callable
        Told what is being done.
    """
    started = perf_counter()
    progress("exact answers")
    asked = ks
    exact, queries, one_ms = _truth(snapshot, queries, max(ks), seconds)
    ks = sorted({min(k, exact.shape[1]) for k in ks})
    subject = _Subject(snapshot, queries, exact)
    left = None if seconds is None else max(seconds - (perf_counter() - started), 0.0)
    filters_s = filters_seconds(snapshot.rows, one_ms.mean / 1e3)
    with_filters = left is None or filters_s < _FILTERS_SHARE * left
    if left is not None and with_filters:
        left -= filters_s
    measured = measure(subject, ks, left, progress)
    among = None
    if with_filters:
        progress("filters")
        k = ks[min(1, len(ks) - 1)]
        everywhere = recall_by_ef(measured.walked, k, subject.width)
        among = calibrate_filters(snapshot, queries.vectors, queries.own, exact, k, everywhere)
    return Calibration(
        fingerprint=fingerprint(),
        generation=snapshot.manifest.generation,
        rows=snapshot.rows,
        made=datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        source=queries.source,
        queries=len(exact),
        asked_ks=tuple(sorted(set(asked))),
        ks=tuple(ks),
        walked=measured.walked,
        stopped=measured.stopped,
        hot=measured.hot,
        cold=measured.cold,
        rest=measured.rest,
        exact=one_ms,
        margins=measured.margins,
        claims=measured.claims,
        scores=measured.scores,
        seconds=perf_counter() - started,
        rebuilt=snapshot.manifest.rebuilt,
        among=among,
        fractions=subject.fractions,
    )


def _truth(
    snapshot: Snapshot, queries: Queries, k: int, seconds: float | None
) -> tuple[NDArray[np.int64], Queries, Times]:
    """Return the exact answers of as many queries as there is time for, and the time of a single query.

    And the queries, with what was seen of given ones: which are rows.
    """
    vectors = queries.vectors[:MAX_QUERIES]
    single = []
    for _ in range(2):
        began = perf_counter()
        exact_search(snapshot, vectors[:1], k, began)
        single.append((perf_counter() - began) * 1e3)
    answers: list[Hits] = []
    began = perf_counter()
    size, done = MIN_QUERIES if seconds else _BLOCK_QUERIES, 0
    while done < len(vectors):
        answers.append(exact_search(snapshot, vectors[done : done + size], k + 1, began))
        done += len(answers[-1].addresses)
        if seconds is not None:
            spent = perf_counter() - began
            left = seconds * _TRUTH_SHARE - spent - sum(single) / 1e3
            size = int(min(left / (spent / done), _BLOCK_QUERIES))
            if size < 1:
                break
    found = np.concatenate([hits.addresses for hits in answers])
    if queries.source == "given":
        own = _rows_asked(snapshot, vectors[:done], found, np.concatenate([hits.scores for hits in answers]))
        if np.mean(own >= 0) > _MOST_ROWS:
            source: Source = "stored" if np.mean(own >= 0) > _HARDLY_OTHERS else "given"
            queries = queries._replace(own=own, source=source)
    if queries.own is not None:
        found = without_own(found, queries.own[:done])
    return found[:, :k], queries, Times.of(single)


def _rows_asked(
    snapshot: Snapshot, queries: Floats, found: NDArray[np.int64], scores: Floats
) -> NDArray[np.int64]:
    """Return of each query the address of the row among its exact answers that it is, -1 if there is none."""
    own = np.full(len(queries), -1)
    rounded = _ROUNDED if snapshot.config.dtype == "float32" else _ROUNDED_HALF
    lengths = np.einsum("ij,ij->i", queries, queries)[:, None]  # each one's score, if that is the row
    alike = np.abs(scores - lengths) <= rounded * lengths
    asked = np.flatnonzero(alike.any(axis=1))
    if len(asked):
        addresses = found[asked, alike[asked].argmax(axis=1)]
        rows = snapshot.vectors(addresses).astype(np.float32)
        if snapshot.config.metric == "cosine":
            rows /= np.linalg.norm(rows, axis=1, keepdims=True)
        apart = np.abs(rows - queries[asked]).max(axis=1)
        same = apart <= rounded * np.abs(queries[asked]).max(axis=1)
        own[asked[same]] = addresses[same]
    return own


class _Subject:
    """A snapshot, as the planner sees it."""

    def __init__(self, snapshot: Snapshot, queries: Queries, truth: NDArray[np.int64]) -> None:
        self._snapshot = snapshot
        self._queries = queries.vectors
        self._own = queries.own
        self.truth = truth
        self.width = snapshot.config.prefix_dim
        self.rows = snapshot.rows
        self.sketched = snapshot.config.tail_sketch > 0
        self.fractions: tuple[float, ...] = SKETCH_FRACTIONS if self.sketched else FRACTIONS
        graphs = [part.tier.rows for part in snapshot.scope.parts if part.tier.has_graph]
        self.widest_walk = (max(graphs, default=0) - 1) // SCAN_ROWS_PER_EF - (queries.own is not None)
        self.stops_early = snapshot.scope.road is not None
        self._prepared: dict[tuple[int, Plan], Prepared] = {}

    def candidates(
        self, query: int, strategy: Strategy, prefix_dim: int, ef: int
    ) -> tuple[NDArray[np.int64], float, int]:
        began = perf_counter()
        extra = self._own is not None
        plan = Plan(strategy=strategy, prefix_dim=prefix_dim, ef=ef + extra, candidates=ef + extra)
        one = self._queries[query : query + 1]
        scope = self._snapshot.scope
        prefixes = self._snapshot.prefixes(one, prefix_dim)
        ordered = self.sketched and strategy == "graph"
        if ordered and scope.road is not None and scope.road.takes(1, plan.ef, scan=False):
            addresses, ms, codes = scope.road.ordered(prefixes[0], one[0], plan.ef)
        else:
            found = find_candidates(scope, prefixes, plan, NO_LIMITS)
            addresses = found.addresses[0]
            if ordered:
                beyond = scope.rows - len(addresses)
                addresses = by_sketch(
                    self._snapshot, one[0], addresses, found.scores[0], beyond, 1, plan
                ).addresses
            ms, codes = found.walk_ms or (perf_counter() - began) * 1e3, found.distances
        if self._own is not None:
            addresses = addresses[addresses != self._own[query]][:ef]
        return addresses, ms, codes

    def search(self, query: int, k: int, plan: Plan) -> Observed:
        one = self._queries[query : query + 1]
        if self._own is not None:  # which is found, read, and left out
            k += 1
            plan = msgspec.structs.replace(plan, candidates=plan.candidates + 1)
        prepared = self._prepared.get((k, plan))
        if prepared is None:
            decision = Decision(plan, NO_LIMITS, Budget(), None, None)
            prepared = Prepared(self._snapshot, Planning(), k, decision, self._snapshot.scope)
            self._prepared[k, plan] = prepared
        began = perf_counter_ns()
        hits = prepared.hits(one[0], began)
        if hits is None:
            hits = search(self._snapshot, one, k, plan, began / 1e9)
        addresses, scores, stats = hits.addresses[0], hits.scores[0], hits.stats
        self._snapshot.ids(addresses)
        total_ms = (perf_counter_ns() - began) / 1e6
        if self._own is not None:
            others = addresses != self._own[query]
            addresses, scores = addresses[others][: k - 1], scores[others][: k - 1]
        return Observed(
            addresses,
            total_ms,
            stats.coarse_ms,
            stats.rescore_ms,
            stats.rows_read,
            hits.margin,
            float(scores[0]),
            float(scores[-1]),
            stats.distances,
        )

    def evict(self, query: int, rows: int) -> bool:
        addresses, _, _ = self.candidates(query, "graph", self.width, rows)
        return self._snapshot.evict(addresses)
