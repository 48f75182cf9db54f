"""Measuring plans: a grid that narrows to what is worth choosing, over queries with known answers.

It is given numbers and callables; what a walk or a search is, it does not know.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from time import perf_counter
from typing import NamedTuple

import msgspec
import numpy as np
from numpy.typing import NDArray

from tiered_index.errors import ZeroVectorError
from tiered_index.planner.early import early_stops
from tiered_index.planner.margins import Curve, claim_of, margin_curve
from tiered_index.planner.model import Stopped, Walked
from tiered_index.planner.plan import Plan
from tiered_index.planner.subject import Subject
from tiered_index.planner.times import Reading, Times, quantiles
from tiered_index.planner.work import evened
from tiered_index.planner.worth import error_of, pays

EFS = (4, 6, 8, 12, 16, 24, 32, 48, 64, 96, 128, 192, 256, 384, 512, 768, 1024, 1536, 2048, 3072, 4096)
SCAN_ROWS = (1, 2, 4, 10, 16, 32, 64, 128, 256, 512, 1024, 2048, 4096)
SCAN_TIMED = (64, 512)
"""How many rows a scan keeps changes its time; between these and the largest it is interpolated."""

SKETCH_FRACTIONS = (1.0, 0.5, 0.375, 0.25, 0.1875, 0.125, 0.09375, 0.0625, 0.046875)
"""Candidates for each unit of ef where sketches order what a walk finds, and few of it are read."""

FIRST_QUERIES = 48
"""Queries that decide which prefix dimensions and plans are worth measuring with all."""

ENOUGH_RECALL = 0.9995
SCAN_QUERIES = 64
READ_ROWS = (16, 64, 256)
READ_QUERIES = 100
COLD_QUERIES = 24


class Measured(NamedTuple):
    """What :func:`measure` returns; the fields are those of a Calibration."""

    walked: tuple[Walked, ...]
    stopped: tuple[Stopped, ...]
    hot: Reading
    cold: Reading | None
    rest: Times
    margins: dict[int, Curve]
    claims: dict[int, Curve]
    scores: dict[int, tuple[float, float, float, float]]


def measure(
    subject: Subject, ks: Sequence[int], seconds: float | None, progress: Callable[[str], None]
) -> Measured:
    """Measure what choosing needs.

    Parameters
    ----------
    subject : Subject
        What is measured.
    ks : sequence of int
        Ascending; recall@k is measured for each.
    seconds : float or None
        After about so long, what is left is measured with fewer queries.
    progress : callable
        Told what is being measured.
    """
    clock = _Clock(seconds, len(subject.truth))
    hot, rest = first = _readings(subject, ks)
    progress("scans")
    walked = _scans(subject, ks, min(SCAN_QUERIES, len(subject.truth)))
    slowest = walked[0].coarse.mean
    progress("prefix dimensions")
    for prefix_dim, widest in _worthwhile(subject, ks, hot).items():
        progress(f"walks on {prefix_dim} dimensions")
        walked += evened(list(_walks(subject, ks, prefix_dim, widest, slowest, clock.queries(0.5))))
    progress("early stopping")
    stopped: list[Stopped] = []
    margins: dict[int, Curve] = {}
    claims: dict[int, Curve] = {}
    scores = {}
    for i, k in enumerate(ks):
        share = 0.6 + 0.35 * (i + 1) / len(ks)
        found, seen = early_stops(subject, k, walked, hot, rest, clock.queries(share))
        curve = margins[k] = margin_curve([pair for pairs in seen.values() for pair in pairs])
        stopped += [msgspec.structs.replace(one, claim=claim_of(curve, seen[one.plan])) for one in found]
        claims[k] = tuple(
            (plan.ef, claim_of(curve, pairs)) for plan, pairs in seen.items() if not plan.early_stop
        )
        scores[k] = _scores(subject, k, clock.queries(share))
    progress("cold reads")
    # of two moments the one in which the machine was less busy
    hot, rest = min(first, _readings(subject, ks), key=lambda told: told[0].of(READ_ROWS[-1])[0])
    return Measured(tuple(walked), tuple(stopped), hot, _cold(subject), rest, margins, claims, scores)


class _Clock:
    """Turns the time that is left into a number of queries."""

    def __init__(self, seconds: float | None, queries: int) -> None:
        self._seconds = seconds
        self._all = queries
        self._started = perf_counter()

    def queries(self, share: float, least: int = FIRST_QUERIES) -> int:
        """Return how many queries the next part gets, which is to end when `share` of the time is spent."""
        if self._seconds is None:
            return self._all
        if self._seconds <= 0.0:
            return min(least, self._all)
        left = self._seconds * share - (perf_counter() - self._started)
        wanted = int(self._all * min(max(left, 0.0) / (self._seconds * share), 1.0))
        return min(max(wanted, least), self._all)


def _recalls(
    subject: Subject, query: int, rows: NDArray[np.int64], ks: Sequence[int], sizes: Sequence[int]
) -> NDArray[np.float64]:
    """Return recall@k after rescoring each number of candidates, shape (ks, sizes); NaN if below k."""
    truth = subject.truth[query]
    recalls = np.full((len(ks), len(sizes)), np.nan)
    for i, k in enumerate(ks):
        hits = np.concatenate([[0], np.cumsum(np.isin(rows, truth[:k]))])
        for j, size in enumerate(sizes):
            if size >= k:
                recalls[i, j] = hits[min(size, len(rows))] / min(k, len(truth))
    return recalls


def _summary(
    recalls: list[NDArray[np.float64]], ks: Sequence[int]
) -> tuple[dict[int, tuple[float, ...]], ...]:
    stacked = np.stack(recalls)
    with np.errstate(invalid="ignore"):
        mean = np.nan_to_num(stacked.mean(axis=0), nan=-1.0)
        error = np.nan_to_num(error_of(stacked), nan=0.0)
    return tuple({k: tuple(table[i].tolist()) for i, k in enumerate(ks)} for table in (mean, error))


def _walk(subject: Subject, ks: Sequence[int], prefix_dim: int, ef: int, queries: int) -> Walked:
    """Measure one walk. A first round brings into the caches what the round before pushed out.

    Recalls are looked up after all: between the walks that would push out what they need, and short ones
    would seem slower than plans that stop early, between which nothing is looked up.
    """
    sizes = [round(ef * fraction) for fraction in subject.fractions]
    subject.candidates(0, "graph", prefix_dim, ef)
    seen = [subject.candidates(query, "graph", prefix_dim, ef) for query in range(queries)]
    found = [_recalls(subject, query, rows, ks, sizes) for query, (rows, _, _) in enumerate(seen)]
    recall, error = _summary(found, ks)
    codes = float(np.mean([codes for _, _, codes in seen]))
    return Walked("graph", prefix_dim, ef, Times.of([ms for _, ms, _ in seen]), recall, error, codes)


def _worthwhile(subject: Subject, ks: Sequence[int], hot: Reading) -> dict[int, int]:
    """Return the prefix dimensions that are best at some recall, with the widest ef at which they are."""
    if not subject.widest_walk:
        return {}
    widths = [subject.width]
    for share in (0.75, 0.5):
        narrower = int(subject.width * share) // 32 * 32
        if 0 < narrower < widths[-1]:
            widths.append(narrower)
    queries = min(FIRST_QUERIES, len(subject.truth))
    points: dict[int, list[tuple[int, int, float, float]]] = {width: [] for width in widths}
    for width in widths:
        for ef in (16, 48, 128, 384):
            if ef <= subject.widest_walk:
                try:
                    walk = _walk(subject, ks, width, ef, queries)
                except ZeroVectorError:  # of so few dimensions a query may have none
                    break
                time = walk.coarse.mean + float(hot.of(ef)[0])
                points[width] += [(ef, k, time, walk.recall[k][0]) for k in ks if k <= ef]
    found = {subject.width: EFS[-1]}
    for width in widths[1:]:
        others = {k: [(r, t) for _, kk, t, r in points[subject.width] if kk == k] for k in ks}
        paying = [ef for ef, k, time, recall in points[width] if pays(recall, time, others[k])]
        if paying:
            found[width] = 2 * max(paying)
    return found


def _walks(
    subject: Subject, ks: Sequence[int], prefix_dim: int, widest: int, slowest: float, queries: int
) -> Iterator[Walked]:
    """Measure wider and wider walks, until nothing is missed or a scan takes no longer."""
    for ef in EFS:
        if ef < ks[0]:
            continue
        if ef > min(widest, subject.widest_walk):
            return
        walk = _walk(subject, ks, prefix_dim, ef, queries)
        yield walk
        if walk.coarse.mean > slowest or all(walk.recall[k][0] >= ENOUGH_RECALL for k in ks):
            return


def _scans(subject: Subject, ks: Sequence[int], queries: int) -> list[Walked]:
    """Measure the scan of all prefixes: one search gives the recall at any number of candidates."""
    sizes = [size for size in SCAN_ROWS if size <= subject.rows] or [subject.rows]
    timed = [size for size in SCAN_TIMED if size < sizes[-1]] + [sizes[-1]]
    times: dict[int, list[float]] = {size: [] for size in timed}
    recalls = []
    for query in range(queries):
        for size in timed:  # the largest last: its answers hold the others'
            rows, ms, _ = subject.candidates(query, "scan", subject.width, size)
            times[size].append(ms)
        recalls.append(_recalls(subject, query, rows, ks, sizes))
    recall, error = _summary(recalls, ks)
    columns = np.stack([quantiles(Times.of(times[size])) for size in timed]).T
    coarse = [Times(*(float(np.interp(size, timed, column)) for column in columns)) for size in sizes]
    nothing = (-1.0,) * (len(subject.fractions) - 1)

    def column(table: dict[int, tuple[float, ...]], j: int) -> dict[int, tuple[float, ...]]:
        return {k: (table[k][j], *nothing) for k in ks}

    return [
        Walked("scan", subject.width, size, coarse[j], column(recall, j), column(error, j))
        for j, size in enumerate(sizes)
    ]


def _readings(subject: Subject, ks: Sequence[int]) -> tuple[Reading, Times]:
    """Measure how rescoring grows with rows, from memory, and what a call takes beside its stages."""
    sizes = [size for size in READ_ROWS if size <= subject.rows] or [max(subject.rows, 1)]
    queries = min(READ_QUERIES, len(subject.truth))
    k = max(min(ks[min(1, len(ks) - 1)], sizes[0]) - 1, 1)  # one less: a query's own row is asked for too
    by_size, rest = [], []
    for size in sizes:
        plan = Plan(strategy="graph", prefix_dim=subject.width, ef=sizes[-1], candidates=size)
        for query in range(queries):  # the first time, rows may come from disk
            subject.search(query, k, plan)
        seen = [subject.search(query, k, plan) for query in range(queries)]
        by_size.append(Times.of([one.rescore_ms for one in seen]))
        rest += [max(one.total_ms - one.coarse_ms - one.rescore_ms, 0.0) for one in seen]
    return _line(sizes, by_size), Times.of(rest)


def _line(sizes: Sequence[int], times: Sequence[Times]) -> Reading:
    """Draw the line through the fewest and the most rows."""
    low, high = quantiles(times[0]), quantiles(times[-1])
    row = np.maximum(high - low, 0.0) / (sizes[-1] - sizes[0]) if len(sizes) > 1 else low / sizes[0]
    call = np.maximum(low - sizes[0] * row, 0.0)
    return Reading(Times(*call.tolist()), Times(*row.tolist()))


def _cold(subject: Subject) -> Reading | None:
    """Measure rescoring rows that are not in memory; None if they cannot be dropped from it."""
    sizes = [size for size in READ_ROWS if size <= subject.rows] or [max(subject.rows, 1)]
    times = []
    for size in sizes:
        plan = Plan(strategy="graph", prefix_dim=subject.width, ef=size, candidates=size)
        took = []
        for query in range(min(COLD_QUERIES, len(subject.truth))):
            if not subject.evict(query, size):
                return None
            took.append(subject.search(query, 1, plan).rescore_ms)
        times.append(Times.of(took))
    return _line(sizes, times)


def _scores(subject: Subject, k: int, queries: int) -> tuple[float, float, float, float]:
    """Return mean and deviation of the best score and of the k-th, by a plan that misses little."""
    plan = Plan(strategy="graph", prefix_dim=subject.width, ef=5 * k + 100, candidates=5 * k + 100)
    seen = [subject.search(query, k, plan) for query in range(queries)]
    first, last = [one.first for one in seen], [one.last for one in seen]
    return float(np.mean(first)), float(np.std(first)), float(np.mean(last)), float(np.std(last))


def recall_by_ef(walked: Sequence[Walked], k: int, prefix_dim: int) -> tuple[tuple[int, float], ...]:
    """Return pairs of ef and recall@k of walks whose candidates are all rescored, ascending."""
    return tuple(
        (walk.ef, walk.recall[k][0])
        for walk in sorted(walked, key=lambda walk: walk.ef)
        if walk.strategy == "graph" and walk.prefix_dim == prefix_dim and walk.recall[k][0] >= 0.0
    )
