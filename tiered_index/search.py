"""Searching: candidates by prefix, then their exact scores, until the deadline."""

from __future__ import annotations

import math
from time import perf_counter, perf_counter_ns
from typing import NamedTuple

import msgspec
import numpy as np
from numpy.typing import NDArray

from tiered_index.full.rescore import Scorer
from tiered_index.planner.filtered import by_share, wants_share
from tiered_index.planner.plan import Plan
from tiered_index.results import Hits, SearchStats
from tiered_index.storage.scope import Scope
from tiered_index.storage.snapshot import Snapshot
from tiered_index.validate.vectors import Floats, prefixes_of

Addresses = NDArray[np.int64]

MARGIN_ROWS = 16
"""Rows rescored last, which stand for those that would be next."""

_BEFORE_MISSES = 12
"""Rows beyond k that are rescored before it is asked how many are missed."""

_WIDER = 4
_TAIL_ROWS = 64
_SLOWEST = 0.98
"""Of misses in so many rows, the share in as many that follow."""

_FIRST_ROWS = 8
_CHUNK_ROWS = 32
"""Rows between looks at the clock; NumPy's calls for a chunk take as long as 20 rows from memory."""

_ENOUGH = 0.9
"""Share of the candidates that a compiled walk must have found; else FAISS walks, filtering as it goes."""

_WAITED_MS = 0.02
"""A row that is waited for takes more; from memory one takes about 0.001."""

_ASKED_MS = 0.002
"""Asking for a row takes 0.004 if it is on disk, 0.001 if it is in memory."""

_ADVISED_ROWS = 32
"""Rows that are asked for ahead: asking for all could take longer than the deadline allows."""


class Limits(NamedTuple):
    """When to stop, on the clock of ``perf_counter_ns``, 0 for never, and what to expect of the disk.

    Attributes
    ----------
    walk_ns, call_ns : int
        Deadlines of the walk and of the whole call.
    cold : bool
        Rows are likely not in memory.
    """

    walk_ns: int = 0
    call_ns: int = 0
    cold: bool = False


NO_LIMITS = Limits()


class _Taken(NamedTuple):
    """What one query's rescoring gave and took."""

    addresses: Addresses
    scores: Floats
    margin: float
    missed: float
    late: bool
    rows_read: int
    cold_rows: int


def search(
    snapshot: Snapshot,
    queries: Floats,
    k: int,
    plan: Plan,
    started: float,
    limits: Limits = NO_LIMITS,
    scope: Scope | None = None,
) -> Hits:
    """Answer queries by both tiers.

    Parameters
    ----------
    snapshot : Snapshot
        What to search.
    queries : ndarray, shape (n, store_dim), float32
        Of unit length under cosine.
    k : int
        Results a query.
    plan : Plan
        How.
    started : float
        ``perf_counter()`` when the call came in, for the statistics.
    limits : Limits
        What may be spent.
    scope : Scope, optional
        Which rows may be found; all by default.

    Returns
    -------
    Hits
        Of shape (n, min(k, rows)); fewer where the deadline came before so many were rescored.
    """
    scope = snapshot.scope if scope is None else scope
    if len(queries) == 1 and scope.road is not None and wants_share(plan, snapshot.rows, scope.rows):
        prefix = prefixes_of(queries, plan.prefix_dim, unit=snapshot.config.metric == "cosine")[0]
        share = scope.road.share_near(prefix)
        plan = by_share(plan, share, snapshot.rows, scope.rows, may_scan=not limits.call_ns)
    hits = _once(snapshot, scope, queries, k, plan, started, limits)
    while hits.missed > plan.misses > 0.0 and not hits.late and plan.candidates < scope.rows:
        if hits.plan.strategy != "scan":
            break
        # what was asked has little to do with these rows: their prefixes tell little, and more must be read
        wider = min(_WIDER * plan.candidates, scope.rows)
        plan = msgspec.structs.replace(plan, ef=wider, candidates=wider)
        before, hits = hits.stats, _once(snapshot, scope, queries, k, plan, started, limits)
        hits = hits._replace(stats=before.added(hits.stats))
    return hits


def _once(
    snapshot: Snapshot, scope: Scope, queries: Floats, k: int, plan: Plan, started: float, limits: Limits
) -> Hits:
    k = min(k, scope.rows)
    if len(queries) == 1 and scope.road is not None:
        hits = _by_road(snapshot, scope, queries, k, plan, started, limits)
        if hits is not None:
            return hits
    coarse_started = perf_counter()
    prefixes = prefixes_of(queries, plan.prefix_dim, unit=snapshot.config.metric == "cosine")
    found = find_candidates(scope, prefixes, plan, limits)
    rescore_started = perf_counter()
    beyond = scope.rows - found.addresses.shape[1]
    taken = [
        _rescore(snapshot, Scorer(query, snapshot.config.dtype), addresses, guesses, beyond, k, plan, limits)
        for query, addresses, guesses in zip(queries, found.addresses, found.scores, strict=True)
    ]
    finished = perf_counter()
    k = min((len(one.addresses) for one in taken), default=k)
    rows_read = sum(one.rows_read for one in taken)
    if found.scanned == len(scope.parts):
        plan = msgspec.structs.replace(plan, strategy="scan", early_stop=0.0)
    return Hits(
        np.array([one.addresses[:k] for one in taken], np.int64).reshape(len(queries), k),
        np.array([one.scores[:k] for one in taken], np.float32).reshape(len(queries), k),
        plan,
        SearchStats(
            total_ms=(finished - started) * 1e3,
            coarse_ms=(rescore_started - coarse_started) * 1e3,
            rescore_ms=(finished - rescore_started) * 1e3,
            queries=len(queries),
            parts_walked=len(scope.parts) - found.scanned,
            parts_scanned=found.scanned,
            rows_read=rows_read,
            bytes_read=rows_read * snapshot.row_bytes,
            cold_rows=sum(one.cold_rows for one in taken),
            distances=found.distances,
        ),
        late=found.late or any(one.late for one in taken),
        margin=float(np.mean([one.margin for one in taken])) if taken else 0.0,
        missed=float(np.mean([one.missed for one in taken])) if taken else 0.0,
    )


def _by_road(
    snapshot: Snapshot, scope: Scope, queries: Floats, k: int, plan: Plan, started: float, limits: Limits
) -> Hits | None:
    """Answer one query compiled; None where that is not to be had or found too little."""
    road, scan = scope.road, plan.strategy == "scan"
    if road is None or not road.takes(k, plan.ef, scan=scan):
        return None
    prefix = prefixes_of(queries, plan.prefix_dim, unit=snapshot.config.metric == "cosine")[0]
    found = road.answer(
        prefix,
        queries[0],
        k,
        plan.ef,
        plan.candidates,
        scan=scan,
        stop=plan.early_stop,
        few=plan.misses,
        walk_deadline_ns=limits.walk_ns,
        deadline_ns=limits.call_ns,
        cold=limits.cold,
    )
    partly = plan.early_stop or plan.misses or scan
    enough = k if partly else max(k, min(plan.candidates, plan.ef, scope.rows) * _ENOUGH)
    if found.rows_read < enough and not found.late:
        return None  # deleted rows crowd this place, or the graph has parts that the walk did not reach
    return Hits(
        found.rows[None],
        found.scores[None],
        plan,
        SearchStats(
            total_ms=(perf_counter() - started) * 1e3,
            coarse_ms=found.coarse_ms,
            rescore_ms=found.rescore_ms,
            queries=1,
            parts_walked=int(not scan),
            parts_scanned=int(scan),
            rows_read=found.rows_read,
            bytes_read=found.rows_read * snapshot.row_bytes,
            cold_rows=found.cold_rows,
            distances=found.distances,
        ),
        late=found.late,
        margin=found.margin,
        missed=found.missed,
    )


class Found(NamedTuple):
    """Addresses of candidates and their prefix scores, best first, and what finding them took.

    `walk_ms`: the time of the walk where one compiled walk was all there was to do, else 0.
    """

    addresses: Addresses
    scores: Floats
    scanned: int
    distances: int
    late: bool
    walk_ms: float = 0.0


def find_candidates(scope: Scope, prefixes: Floats, plan: Plan, limits: Limits) -> Found:
    """Find each prefix's candidates in all parts of a scope."""
    found, scores, scanned, distances, late = [], [], 0, 0, False
    for part in scope.parts:
        best = part.tier.search(
            prefixes,
            plan.ef,
            min(plan.candidates, part.rows),
            scan=plan.strategy == "scan",
            among=part.among,
            deadline_ns=limits.walk_ns,
        )
        found.append(best.rows + part.first if part.addresses is None else part.addresses[best.rows])
        scores.append(best.scores)
        scanned += best.scanned
        distances += best.distances
        late |= best.late
    if not found:
        none = np.empty((len(prefixes), 0))
        return Found(none.astype(np.int64), none.astype(np.float32), 0, 0, late=False)
    if len(found) == 1:
        walk_ms = best.walk_ms if scope.road else 0.0
        return Found(found[0], scores[0], scanned, distances, late, walk_ms)
    together = np.concatenate(scores, axis=1)
    order = np.argsort(-together, axis=1, kind="stable")[:, : plan.candidates]
    addresses = np.take_along_axis(np.concatenate(found, axis=1), order, axis=1)
    return Found(addresses, np.take_along_axis(together, order, axis=1), scanned, distances, late)


def _rescore(
    snapshot: Snapshot,
    scorer: Scorer,
    addresses: Addresses,
    guesses: Floats,
    beyond: int,
    k: int,
    plan: Plan,
    limits: Limits,
) -> _Taken:
    """Score candidates exactly, best first, in chunks, until the plan's end or the deadline is reached."""
    scores = np.empty(len(addresses), np.float32)
    done, cold_rows, margin, missed = 0, 0, 0.0, math.inf
    cold, late, advised = limits.cold, False, 0
    while done < len(addresses):
        patient = done and not limits.call_ns and not plan.early_stop and not plan.misses and not cold
        slow = cold and limits.call_ns  # else what is found must not depend on times
        size = len(addresses) if patient else _CHUNK_ROWS if done and not slow else _FIRST_ROWS
        chunk = addresses[done : done + size]
        began = perf_counter_ns()
        if cold and advised < done + size:
            advised = max(advised, done)
            asked = addresses[advised : advised + _ADVISED_ROWS]
            snapshot.advise(asked)
            advised += len(asked)
            if perf_counter_ns() - began > len(asked) * _ASKED_MS * 1e6:
                cold_rows += len(asked)
        scores[done : done + len(chunk)] = snapshot.rescore(scorer, chunk)
        now = perf_counter_ns()
        done += len(chunk)
        if not cold and now - began > len(chunk) * _WAITED_MS * 1e6:
            cold = True
            cold_rows += len(chunk)
        if done < k:
            continue
        if done == len(addresses):
            break
        if plan.early_stop and done >= MARGIN_ROWS:
            margin = _margin(scores[:done], k)
            if margin >= plan.early_stop:
                break
        if plan.misses and done >= k + _BEFORE_MISSES:
            before, missed = missed, expected_misses(guesses, scores[:done], k)
            if max(missed, before) <= plan.misses:  # one may be too low by chance: it takes two
                break
        if limits.call_ns and now > limits.call_ns:
            late = True
            break
    scores = scores[:done]
    best = np.argsort(-scores, kind="stable")[:k]
    if done >= MARGIN_ROWS and len(best) == k:
        margin = margin or _margin(scores, k)
    if not plan.misses:
        missed = 0.0
    elif done == len(addresses):
        missed = _misses_beyond(guesses, scores, k, beyond) if beyond and done > k + 2 else 0.0
    return _Taken(addresses[:done][best], scores[best], margin, missed, late, done, cold_rows)


def _margin(scores: Floats, k: int) -> float:
    """Return how many standard deviations the k-th best score stands above those rescored last."""
    last = scores[-MARGIN_ROWS:].astype(np.float64)  # squares must not overflow
    kth = np.partition(scores, len(scores) - k)[len(scores) - k]
    return float((kth - last.mean()) / max(float(last.std()), 1e-12))


def expected_misses(guesses: Floats, scores: Floats, k: int, first: int | None = None) -> float:
    """Return how many of the candidates that were not rescored can be expected among the best k.

    A full score is taken to lie about its regression on the prefix score as those known so far do.

    Parameters
    ----------
    guesses : ndarray, shape (n,)
        Prefix scores of all candidates, best first.
    scores : ndarray, shape (m,)
        Full scores of the first m, at least k and 3.
    k : int
        Results.
    first : int, optional
        The first candidate that counts; by default the first that was not rescored.
    """
    count = len(scores)
    known, full = guesses[:count].astype(np.float64), scores.astype(np.float64)
    x, y = known.mean(), full.mean()
    varied, spread = max(float(known.var()), 1e-12), float(full.var())
    slope = float(((known - x) * (full - y)).mean()) / varied
    slope = min(max(slope, 0.0), math.sqrt(spread / varied))
    rest = math.sqrt(max(spread - slope * slope * varied, 1e-12) * count / (count - 2))
    kth = np.partition(full, count - k)[count - k]
    others = guesses[count if first is None else first :].astype(np.float64)
    above = (kth - y - slope * (others - x)) / rest
    return float(sum(0.5 * math.erfc(one * math.sqrt(0.5)) for one in above.tolist()))


def _misses_beyond(guesses: Floats, scores: Floats, k: int, beyond: int) -> float:
    """Return the same of `beyond` rows that are no candidates; the last ones show how it goes on."""
    some = min(len(guesses) // 2, _TAIL_ROWS)
    last = expected_misses(guesses, scores, k, len(guesses) - some)
    before = expected_misses(guesses, scores, k, len(guesses) - 2 * some) - last
    if before <= 0.0:
        return 0.0
    ratio = min(last / before, _SLOWEST)
    return min(last * ratio / (1.0 - ratio), float(beyond))
