"""One query through both tiers in one call: walk, rescoring, early stop and deadline.

Candidates are rescored best first. A row that has to be waited for shows that the page cache is cold;
from then on the system is told which rows come next (100 random rows of 4 KiB: 1.2 ms so, 7.4 ms one
after the other).

With early stopping the walk begins narrow and is widened while it pays; half as many rows as the beam
holds, met on the way, are rescored too. What remains to be found lies below what was rescored last, so the
walk ends when the k-th best score stands `stop` standard deviations above that. A random forest over
twenty features of the score profile needed as many candidates as this one number.

Among the rows of a filter scores lie otherwise, the more so the less the filter has to do with the query.
There full scores are regressed on prefix scores as they are read, and rescoring ends when few of the
candidates that remain can be expected among the best k. At 0.25 of ten, looked at once, recall@10 was 0.97
to 0.99 under eleven filters of 250,000 sentences, for 86 to 174 rows read on average; under one that had
nothing to do with the queries 0.95, for 399.
"""

from __future__ import annotations

import math

import numpy as np
from numba import njit

from tiered_index.compiled.beam import (
    COARSE_NS,
    COLD,
    COLD_ROWS,
    FULL,
    LATE,
    RESCORE_NS,
    ROWS_READ,
    SCORED,
    SIZE,
    row_of,
)
from tiered_index.compiled.operations import (
    load_f32,
    load_i64,
    nanoseconds,
    prefetch,
    real,
    will_need,
)
from tiered_index.compiled.products import dot_f16, dot_f32
from tiered_index.compiled.scan import rank, scan
from tiered_index.compiled.walk import begin, settle

# What a full tier is, in an array of int64
MAPPING = 0  # address of the file
BASES = 1  # address of each row group's offset in it, int64
GROUP_SHIFT = 2  # rows of a group, as a power of two
ROW_BYTES = 3
DIM = 4
HALF = 5  # whether numbers are float16
NORMS = 6  # address of one over each row's length, float32, or 0
DESCRIPTOR = 7

WINDOW = 16
"""Rows that stand for what would be rescored next. 8 and 32 did as well or worse at recall 0.95."""

SUMS = 5
"""Of prefix scores, full scores, and their products."""

_SAMPLED = 32
_SLOWEST = 0.98  # of misses in 64 rows, the share in the 64 that follow
_ROOT_HALF = math.sqrt(0.5)
_CHUNK = 8  # rows between looks at the clock, which takes 80 ns on a virtual machine
_WAITED_NS = 10_000  # a row that is waited for takes more; from memory one takes about 300
_ASKED_NS = 1_500  # asking for a row takes 3,000 if it is on disk, 500 if it is in memory
_ADVISED = 32  # rows that are asked for at a time
_LINE = 64
_PREFETCHED = 8 * _LINE  # of the row after the next, then of the next; the machine's own prefetcher follows


@njit(nogil=True, cache=True, inline="always")
def _offset(full, row):  # type: ignore[no-untyped-def]
    group = row >> full[GROUP_SHIFT]
    within = row & ((1 << full[GROUP_SHIFT]) - 1)
    return load_i64(full[BASES] + 8 * group) + within * full[ROW_BYTES]


@njit(nogil=True, cache=True)
def _score(full, query, row):  # type: ignore[no-untyped-def]
    address = full[MAPPING] + _offset(full, row)
    score = dot_f16(address, query, full[DIM]) if full[HALF] else dot_f32(address, query, full[DIM])
    return score * load_f32(full[NORMS] + 4 * row) if full[NORMS] else score


@njit(nogil=True, cache=True)
def _advise(full, beam, first, last, most, state):  # type: ignore[no-untyped-def]
    """Ask for at most `most` rows that are not scored yet; return the place behind the last of them."""
    began = nanoseconds()
    asked = 0
    most = min(most, _ADVISED)
    while first < last and asked < most:
        if not beam[first] & SCORED:
            will_need(full[DESCRIPTOR], _offset(full, row_of(beam[first])), full[ROW_BYTES])
            asked += 1
        first += 1
    if nanoseconds() - began > asked * _ASKED_NS:
        state[COLD_ROWS] += asked
    return first


@njit(nogil=True, cache=True)
def _keep(score, row, k, found, top_scores, top_rows):  # type: ignore[no-untyped-def]
    """Put a row into the best k, sorted; return how many there are."""
    if found == k and score <= top_scores[k - 1]:
        return found
    at = found if found < k else k - 1
    while at > 0 and top_scores[at - 1] < score:
        top_scores[at] = top_scores[at - 1]
        top_rows[at] = top_rows[at - 1]
        at -= 1
    top_scores[at] = score
    top_rows[at] = row
    return min(found + 1, k)


@njit(nogil=True, cache=True)
def rescore(  # type: ignore[no-untyped-def]
    full, query, k, beam, last, limit, recent, sums, top_scores, top_rows, found, state, deadline
):
    """Score the rows of ``beam[:last]`` that are not scored yet, at most `limit` in all; return found."""
    looked = nanoseconds()
    in_chunk = 0
    left = limit - state[ROWS_READ]
    advised = _advise(full, beam, 0, last, left, state) if state[COLD] else last
    for i in range(last):
        key = beam[i]
        if key & SCORED:
            continue
        row = row_of(key)
        beam[i] = key | SCORED
        if state[ROWS_READ] == limit:
            break
        for ahead in range(1, min(3, last - i)):  # the farther one's page must be looked up first
            line = full[MAPPING] + _offset(full, row_of(beam[i + ahead])) + (2 - ahead) * _PREFETCHED
            for at in range(0, _PREFETCHED, _LINE):
                prefetch(line + at)
        score = _score(full, query, row)
        recent[state[ROWS_READ] % WINDOW] = score
        guess, whole = np.float64(real(key >> 32)), np.float64(score)
        sums[0] += guess
        sums[1] += whole
        sums[2] += guess * guess
        sums[3] += guess * whole
        sums[4] += whole * whole
        state[ROWS_READ] += 1
        found = _keep(score, row, k, found, top_scores, top_rows)
        in_chunk += 1
        if in_chunk == _CHUNK or (state[COLD] and deadline > 0):
            now = nanoseconds()
            if deadline > 0 and now > deadline and found == k and i + 1 < last:
                state[LATE] = 1
                break
            if now - looked > in_chunk * _WAITED_NS and not state[COLD]:
                state[COLD] = 1
                state[COLD_ROWS] += in_chunk
                advised = i + 1
            if advised < last and i + _ADVISED // 2 >= advised:
                left = limit - state[ROWS_READ] - (advised - i - 1)
                advised = _advise(full, beam, advised, last, left, state)
                now = nanoseconds()
            looked, in_chunk = now, 0
    return found


@njit(nogil=True, cache=True)
def margin(kth, recent):  # type: ignore[no-untyped-def]
    """Return how many standard deviations the k-th best score stands above the last rescored."""
    mean = 0.0
    for score in recent:
        mean += score
    mean /= len(recent)
    variance = 0.0
    for score in recent:
        variance += (score - mean) ** 2
    deviation = np.sqrt(variance / len(recent))
    return (kth - mean) / max(deviation, 1e-12)


@njit(nogil=True, cache=True)
def misses(sums, count, kth, beam, first, size):  # type: ignore[no-untyped-def]
    """Return how many of ``beam[first:size]`` can be expected to score above `kth`.

    A full score is taken to lie about its regression on the prefix score as those read so far do. Of many
    rows a few dozen are looked at, evenly spaced. Fewer than three full scores tell nothing.
    """
    if count < 3:
        return np.float64(size - first)
    x, y = sums[0] / count, sums[1] / count
    xx = max(sums[2] / count - x * x, 1e-12)
    yy = max(sums[4] / count - y * y, 0.0)
    slope = min(max((sums[3] / count - x * y) / xx, 0.0), np.sqrt(yy / xx))
    spread = np.sqrt(max(yy - slope * slope * xx, 1e-12) * count / (count - 2))
    step = max((size - first) // _SAMPLED, 1)
    total = 0.0
    for i in range(first + step // 2, size, step):
        above = (kth - y - slope * (real(beam[i] >> 32) - x)) / spread
        total += 0.5 * math.erfc(above * _ROOT_HALF) * step
    return total


@njit(nogil=True, cache=True)
def _misses_beyond(sums, count, kth, beam, size, beyond):  # type: ignore[no-untyped-def]
    """Return the same of `beyond` rows that found no room in a beam, whose last rows show how it goes on."""
    some = min(size // 2, 2 * _SAMPLED)
    last = misses(sums, count, kth, beam, size - some, size)
    before = misses(sums, count, kth, beam, size - 2 * some, size - some)
    if beyond <= 0 or before <= 0.0:
        return 0.0
    ratio = min(last / before, _SLOWEST)
    return min(last * ratio / (1.0 - ratio), np.float64(beyond))


@njit(nogil=True, cache=True)
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
        if last == size and not state[LATE]:
            if beyond <= 0 or found < k:
                return found, 0.0
            return found, _misses_beyond(sums, state[ROWS_READ], top_scores[k - 1], beam, size, beyond)
        # the next ones, among which most of the misses are, in order; of the others a sample
        following = min(size, last + max(last >> 2, _SAMPLED // 2))
        if beyond >= 0:
            rank(beam, last, following, size)
        count, kth = state[ROWS_READ], top_scores[found - 1]
        missed = misses(sums, count, kth, beam, last, following)
        missed += misses(sums, count, kth, beam, following, size)
        if state[LATE] or count >= limit or max(missed, before) <= few:
            return found, missed
        last, before = following, missed


@njit(nogil=True, cache=True)
def answer(  # type: ignore[no-untyped-def]
    graph,
    full,
    prefix_numbers,
    query_numbers,
    k,
    ef,
    candidates,
    stop,
    few,
    live,
    rows,
    seeds,
    walk_deadline,
    deadline,
    cold,
    beam,
    spill,
    table,
    recent,
    sums,
    top_scores,
    top_rows,
    state,
):
    """Answer one query.

    Return how many rows were found, the final margin, and how many of the best k are expected among the
    candidates that were not rescored.

    Parameters
    ----------
    graph, full : int64 arrays
        The tiers, as named in this module and the walk's.
    prefix_numbers, query_numbers : float32 arrays
        The query's leading dimensions, and all of them.
    k, ef, candidates : int
        The plan; with early stopping the most that may be spent.
    stop : float
        Margin at which the walk ends; 0 walks and rescores all.
    few : float
        Of the candidates, how many of the best k may be expected among those not rescored; 0 for no such
        end. Not together with `stop`.
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
    beam, spill, table, recent, sums, top_scores, top_rows, state : arrays
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
    now_ef = min(ef, k + 12) if stop > 0.0 else ef
    kept = spill if stop > 0.0 else spill[:0]
    scanned = len(rows) > 0
    if scanned:
        scan(graph, prefix, dims, rows, ef, beam, state)
    else:
        begin(graph, prefix, dims, now_ef, live, seeds, beam, table, state)
    while True:
        if not scanned:
            settle(
                graph,
                prefix,
                dims,
                now_ef,
                stop > 0.0,
                live,
                beam,
                kept,
                table,
                state,
                walk_deadline,
            )
            if state[FULL]:
                return 0, reached, missed
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
        clock = nanoseconds()
        state[RESCORE_NS] += clock - walked
        if found == k and state[ROWS_READ] >= WINDOW:
            reached = margin(top_scores[k - 1], recent)
        if scanned or state[LATE] or now_ef >= ef or state[SIZE] < now_ef or state[ROWS_READ] >= candidates:
            break
        if reached >= stop:
            break
        now_ef = min(ef, now_ef + (now_ef >> 1))
    return found, reached, missed
