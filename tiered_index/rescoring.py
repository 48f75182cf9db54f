"""Rescoring with NumPy: candidates by their full vectors, best first, in chunks."""

from __future__ import annotations

import math
from time import perf_counter_ns
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from tiered_index.full.rescore import Scorer
from tiered_index.limits import Limits
from tiered_index.planner.plan import Plan
from tiered_index.storage.snapshot import Snapshot
from tiered_index.validate.vectors import Floats

Addresses = NDArray[np.int64]

MARGIN_ROWS = 16
"""Rows rescored last, which stand for those that would be next."""

_BEFORE_MISSES = 12
"""Rows beyond k that are rescored before it is asked how many are missed."""

SKETCHED_ROWS = (4, 8)
"""The same in the order of sketches; and the rows that are read then, at least, before it is asked again."""

_TAIL_ROWS = 64
_SLOWEST = 0.98
"""Of misses in so many rows, the share in as many that follow."""

_FIRST_ROWS = 8
_CHUNK_ROWS = 32
"""Rows between looks at the clock; NumPy's calls for a chunk take as long as 20 rows from memory."""

_WAITED_MS = 0.02
"""A row that is waited for takes more; from memory one takes about 0.001."""

_ASKED_MS = 0.002
"""Asking for a row takes 0.004 if it is on disk, 0.001 if it is in memory."""

_ADVISED_ROWS = 32
"""Rows that are asked for ahead: asking for all could take longer than the deadline allows."""


class Candidates(NamedTuple):
    """One query's candidates, in the order in which they are rescored.

    `guesses`: what is known of their scores. `margin`, `missed`: of the best k by guesses, over the last that
    were found; and how many of the best are expected among rows that are no candidates. Both are None where
    prefix scores are all that is known.
    """

    addresses: Addresses
    guesses: Floats
    margin: float | None = None
    missed: float | None = None


class Taken(NamedTuple):
    """What one query's rescoring gave and took."""

    addresses: Addresses
    scores: Floats
    margin: float
    missed: float
    late: bool
    rows_read: int
    cold_rows: int


def by_sketch(
    snapshot: Snapshot, query: Floats, addresses: Addresses, scores: Floats, beyond: int, k: int, plan: Plan
) -> Candidates:
    """Put what was found, best prefix first, in the order of scores that sketches estimate.

    Of it are candidates as many as the plan says, or all if it says when to end. Every segment has a sketch,
    also those without a graph, so that all rows are ordered alike.
    """
    estimates = snapshot.estimates(query, plan.prefix_dim, addresses, scores).astype(np.float32)
    order = np.argsort(-estimates, kind="stable")[: plan.candidates]
    margin = _margin(estimates, k) if len(estimates) >= max(k, MARGIN_ROWS) else 0.0
    missed = 0.0
    if plan.misses and beyond and len(estimates) > k + 2:
        missed = _misses_beyond(scores, estimates, k, beyond)
    return Candidates(addresses[order], estimates[order], margin, missed)


def rescore(
    snapshot: Snapshot,
    scorer: Scorer,
    candidates: Candidates,
    beyond: int,
    k: int,
    plan: Plan,
    limits: Limits,
) -> Taken:
    """Score candidates exactly, best first, in chunks, until the plan's end or the deadline is reached."""
    addresses, guesses = candidates.addresses, candidates.guesses
    sketched = candidates.margin is not None
    if sketched:  # of the walk's end the order of sketches tells nothing
        beyond = 0
    scores = np.empty(len(addresses), np.float32)
    done, cold_rows, margin, missed = 0, 0, 0.0, math.inf
    cold, late, advised = limits.cold, False, 0
    while done < len(addresses):
        patient = done and not limits.call_ns and not plan.misses and not cold
        slow = cold and limits.call_ns  # else what is found must not depend on times
        size = len(addresses) if patient else _CHUNK_ROWS if done and not slow else _FIRST_ROWS
        if sketched and plan.misses and not slow:
            size = max(done >> 2, SKETCHED_ROWS[1]) if done else k + SKETCHED_ROWS[0]
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
        if plan.misses and sketched:
            missed = _misses_by_estimates(guesses, scores[:done], k)
            if missed <= plan.misses:
                break
        elif plan.misses and done >= k + _BEFORE_MISSES:
            before, missed = missed, expected_misses(guesses, scores[:done], k)
            if max(missed, before) <= plan.misses:  # one may be too low by chance: it takes two
                break
        if limits.call_ns and now > limits.call_ns:
            late = True
            break
    scores = scores[:done]
    best = np.argsort(-scores, kind="stable")[:k]
    if done >= MARGIN_ROWS and len(best) == k:
        margin = _margin(scores, k)
    if not plan.misses:
        missed = 0.0
    elif done == len(addresses):
        missed = _misses_beyond(guesses, scores, k, beyond) if beyond and done > k + 2 else 0.0
    if candidates.margin is not None:
        margin, missed = candidates.margin, missed + (candidates.missed or 0.0)
    return Taken(addresses[:done][best], scores[best], margin, missed, late, done, cold_rows)


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


def _misses_by_estimates(estimates: Floats, scores: Floats, k: int) -> float:
    """Return the same where guesses are estimates, about which full scores lie as those known so far do."""
    count, full = len(scores), scores.astype(np.float64)
    spread = math.sqrt(max(float(((full - estimates[:count]) ** 2).mean()), 1e-24))
    kth = np.partition(full, count - k)[count - k]
    above = (kth - estimates[count:].astype(np.float64)) / spread
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
