"""One query through both tiers in one call: walk, rescoring, early stop and deadline.

Candidates are rescored best first.

Among the rows of a filter scores lie otherwise, the more so the less the filter has to do with the query.
There full scores are regressed on prefix scores as they are read, and rescoring ends when few of the
candidates that remain can be expected among the best k. At 0.25 of ten, looked at once, recall@10 was 0.97
to 0.99 under eleven filters of 250,000 sentences, for 86 to 174 rows read on average; under one that had
nothing to do with the queries 0.95, for 399.

Where rows have sketches of their tails, all that the walk found is put in order of estimated full scores
first, and those stand for full scores where the margin is asked. A plan's candidates are then so many rows,
the best of that order. To end reading when few of the rest were expected among the best, by the known error
of the estimates, saved 6 (two bits) to 15 of 100 rows at equal recall.
"""

from __future__ import annotations

import numpy as np
from numba import njit

from tiered_index.compiled.beam import row_of
from tiered_index.compiled.layout import (
    BITS,
    COARSE_NS,
    COLD,
    LATE,
    RESCORE_NS,
    ROWS_READ,
    SIZE,
    TOO_FAR,
    UNREAD,
    WINDOW,
)
from tiered_index.compiled.misses import margin, misses, misses_beyond, misses_by_estimates
from tiered_index.compiled.operations import nanoseconds, real
from tiered_index.compiled.rescore import keep, rescore
from tiered_index.compiled.scan import scan
from tiered_index.compiled.sketch import estimate, planes_of, share_of
from tiered_index.compiled.sorting import rank
from tiered_index.compiled.walk import advance, asked, begin

FIRST_BEYOND = 4
"""Rows beyond k that are read, in the order of sketches, before it is asked how many are missed."""

NEXT_ROWS = 8
"""Rows that are read then, at least, before it is asked again."""

WATCHED_BEYOND = 12
"""Rows beyond k that a walk with patience watches. Of 10, 16, 24, 32, 40 and 48 rows in all, for ten results,
24 and 32 did best."""

_LEAST_FOLLOWING = 16
_ENOUGH = 0.9  # of ef, what a walk must have found where fewer are read


@njit
def _best_estimates(order, count, k, recent, top_scores, top_rows):  # type: ignore[no-untyped-def]
    """Take ``order[:count]`` for what was rescored; return how many the best k are."""
    found = 0
    for i in range(count):
        score = real(order[i] >> 32)
        recent[i % WINDOW] = score
        found = keep(score, row_of(order[i]), k, found, top_scores, top_rows)
    return found


@njit
def _until_few_are_missed(  # type: ignore[no-untyped-def]
    full, query, k, beam, beyond, limit, few, recent, sums, top_scores, top_rows, state, deadline
):
    """Rescore the beam from its best on, until `few` of the rest are expected among the best k.

    Return how many were found, and how many are still expected. A beam that a scan filled is not ranked yet;
    `beyond` rows found no room in it. After a walk it is -1.
    """
    size = state[SIZE]
    found, last = 0, min(size, k + 12)
    before = np.inf  # one estimate may be too low by chance: it takes two
    if beyond >= 0:
        rank(beam, 0, last, size)
    while True:
        found = rescore(
            full, query, k, beam, last, limit, recent, sums, top_scores, top_rows, found, state, deadline
        )
        if state[UNREAD]:
            return found, 0.0
        if last == size and not state[LATE]:
            if beyond <= 0 or found < k:
                return found, 0.0
            return found, misses_beyond(sums, state[ROWS_READ], top_scores[k - 1], beam, size, beyond)
        # the next ones, among which most of the misses are, in order; of the others a sample
        following = min(size, last + max(last >> 2, _LEAST_FOLLOWING))
        if beyond >= 0:
            rank(beam, last, following, size)
        count, kth = state[ROWS_READ], top_scores[found - 1]
        missed = misses(sums, count, kth, beam, last, following)
        missed += misses(sums, count, kth, beam, following, size)
        if state[LATE] or count >= limit or max(missed, before) <= few:
            return found, missed
        last, before = following, missed


@njit
def _read_in_order(  # type: ignore[no-untyped-def]
    full, query, k, order, count, candidates, few, recent, sums, top_scores, top_rows, state, deadline
):
    """Rescore the best `candidates` of ``order[:count]``, or until `few` of the rest are expected.

    Return how many were found, and how many are still expected.
    """
    last = min(count, candidates)
    rank(order, 0, count if few > 0.0 else last, count)
    found, missed = 0, 0.0
    if few > 0.0:
        last = min(last, k + FIRST_BEYOND)
    while True:
        found = rescore(
            full,
            query,
            k,
            order,
            last,
            candidates,
            recent,
            sums,
            top_scores,
            top_rows,
            found,
            state,
            deadline,
        )
        if few <= 0.0 or found == 0 or state[UNREAD]:
            break
        missed = misses_by_estimates(sums, state[ROWS_READ], top_scores[found - 1], order, last, count)
        if state[LATE] or last == min(count, candidates) or missed <= few:
            break
        last = min(count, candidates, last + max(last >> 2, NEXT_ROWS))
    return found, missed


@njit
def answer(  # type: ignore[no-untyped-def]
    graph,
    full,
    sketch,
    prefix_numbers,
    query_numbers,
    k,
    ef,
    candidates,
    patience,
    few,
    place,
    least,
    live,
    rows,
    seeds,
    walk_deadline,
    deadline,
    cold,
    beam,
    order,
    table,
    recent,
    sums,
    top_scores,
    top_rows,
    state,
):
    """Answer one query.

    Return how many rows were found, the final margin, which is 0 where the walk was late, how many of the
    best k are expected among the candidates that were not rescored, and how near the best of a walk are.

    Parameters
    ----------
    graph, full, sketch : int64 arrays
        The tiers and what stands between them, as named in this module, the walk's and the sketch's.
    prefix_numbers, query_numbers : float32 arrays
        The query's leading dimensions, and all of them.
    k, ef, candidates : int
        The plan; the most that may be spent where it may end early.
    patience : int
        Expansions in a row that find nothing better, after which the walk ends; 0 for no such end.
    few : float
        Of the candidates, how many of the best k may be expected among those not rescored; 0 for no such end.
    place : int
        Which of the best that a walk finds tells how near they are, by its prefix score; 0 for none.
    least : float
        Below that nothing is rescored, and :data:`TOO_FAR` is returned, unless the walk ended late.
    live : int
        Address of a bit a row in whole int32, lowest first, for a walk; 0 if all rows may be found.
    rows : int32 array
        Score the codes of these, and keep the best `ef`; empty to walk the graph.
    seeds : int64 array
        Rows that a walk begins with besides the entry point.
    walk_deadline, deadline : int
        Of the walk and of the whole call, on the clock of ``perf_counter_ns``; 0 for none.
    cold : bool
        Whether rows are asked for before they are scored, from the first on.
    beam, order, table, recent, sums, top_scores, top_rows, state : arrays
        Room to work in.
    """
    clock = nanoseconds()
    prefix, dims = prefix_numbers.ctypes.data, len(prefix_numbers)
    query = query_numbers.ctypes.data
    state[:] = 0
    sums[:] = 0.0
    state[COLD] = cold
    found = 0
    reached = missed = np.float64(0.0)
    nearness = np.float64(np.inf)
    scanned, cut = len(rows) > 0, False
    packed = asked(graph, prefix, dims)
    if scanned:
        scan(graph, packed, dims, rows, ef, beam, state)
    else:
        begin(graph, packed, dims, ef, live, seeds, beam, table, state)
        watched = k + WATCHED_BEYOND
        advance(graph, packed, dims, ef, ef, live, beam, table, state, walk_deadline, watched, patience)
        cut = state[LATE] > 0  # of what the walk did not come to, no margin tells
        if place > 0:
            near = real(beam[place - 1] >> 32) if place <= state[SIZE] else -np.inf
            nearness = np.float64(near)
            if nearness < least and not state[LATE]:
                state[COARSE_NS] += nanoseconds() - clock
                return TOO_FAR, reached, missed, nearness
    if sketch[BITS] > 0:
        size = state[SIZE]
        if scanned:
            rank(beam, 0, size, size)
        elif size < _ENOUGH * ef and patience == 0 and few == 0.0 and not state[LATE]:
            return 0, reached, missed, nearness  # rows that may be found are few here, or the graph has parts
        planes, half_step, total = planes_of(sketch, query_numbers)
        share = share_of(sketch, query, dims)
        count = estimate(sketch, planes, half_step, total, share, beam, size, order, sums)
        found = _best_estimates(order, count, k, recent, top_scores, top_rows)
        if found == k and count >= WINDOW and not cut:
            reached = margin(top_scores[k - 1], recent)
        walked = nanoseconds()
        state[COARSE_NS] += walked - clock
        estimated = sums.copy()
        sums[:] = 0.0
        found, missed = _read_in_order(
            full,
            query,
            k,
            order,
            count,
            candidates,
            few,
            recent,
            sums,
            top_scores,
            top_rows,
            state,
            deadline,
        )
        if few > 0.0 and scanned and found == k:
            missed += misses_beyond(estimated, count, top_scores[k - 1], beam, size, len(rows) - size)
        state[RESCORE_NS] += nanoseconds() - walked
    else:
        walked = nanoseconds()
        state[COARSE_NS] += walked - clock
        if few > 0.0:
            found, missed = _until_few_are_missed(
                full,
                query,
                k,
                beam,
                len(rows) - state[SIZE] if scanned else -1,
                candidates,
                few,
                recent,
                sums,
                top_scores,
                top_rows,
                state,
                deadline,
            )
        else:
            if scanned:
                size, state[SIZE] = state[SIZE], min(state[SIZE], candidates)
                rank(beam, 0, state[SIZE], size)
            found = rescore(
                full,
                query,
                k,
                beam,
                state[SIZE],
                candidates,
                recent,
                sums,
                top_scores,
                top_rows,
                found,
                state,
                deadline,
            )
        state[RESCORE_NS] += nanoseconds() - walked
        if found == k and state[ROWS_READ] >= WINDOW and not cut:
            reached = margin(top_scores[k - 1], recent)
    if state[UNREAD]:  # no answer: another way says what is wrong
        found = state[ROWS_READ] = state[LATE] = 0
    return found, reached, missed, nearness
