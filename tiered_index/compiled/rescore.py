"""Scoring full vectors, best candidates first.

A row that has to be waited for shows that the page cache is cold; from then on the system is told which rows
come next (100 random rows of 4 KiB: 1.2 ms so, 7.4 ms one after the other).
"""

from __future__ import annotations

import numpy as np
from numba import njit

from tiered_index.compiled.beam import row_of
from tiered_index.compiled.layout import (
    BASES,
    COLD,
    COLD_ROWS,
    COPIED,
    DESCRIPTOR,
    DIM,
    GROUP_SHIFT,
    HALF,
    LATE,
    MAPPING,
    NORMS,
    ROW_BYTES,
    ROWS_READ,
    SCORED,
    UNREAD,
    WINDOW,
)
from tiered_index.compiled.operations import (
    load_f32,
    load_i64,
    nanoseconds,
    prefetch,
    read_at,
    real,
    will_need,
)
from tiered_index.compiled.products import dot_f16, dot_f32

_CHUNK = 8  # rows between looks at the clock, which takes 80 ns on a virtual machine
_WAITED_NS = 10_000  # a row that is waited for takes more; from memory one takes about 300
_ASKED_NS = 1_500  # asking for a row takes 3,000 if it is on disk, 500 if it is in memory
_ADVISED = 32  # rows that are asked for at a time
_LINE = 64
_PREFETCHED = 8 * _LINE  # of the row after the next, then of the next; the machine's own prefetcher follows


@njit(inline="always")
def _offset(full, row):  # type: ignore[no-untyped-def]
    group = row >> full[GROUP_SHIFT]
    within = row & ((1 << full[GROUP_SHIFT]) - 1)
    return load_i64(full[BASES] + 8 * group) + within * full[ROW_BYTES]


@njit
def _score(full, query, row, copy, state):  # type: ignore[no-untyped-def]
    if full[COPIED]:
        address = copy.ctypes.data
        if read_at(full[DESCRIPTOR], address, full[ROW_BYTES], _offset(full, row)) < full[ROW_BYTES]:
            state[UNREAD] = 1
            return np.float32(0.0)
    else:
        address = full[MAPPING] + _offset(full, row)
    score = dot_f16(address, query, full[DIM]) if full[HALF] else dot_f32(address, query, full[DIM])
    return score * load_f32(full[NORMS] + 4 * row) if full[NORMS] else score


@njit
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


@njit
def keep(score, row, k, found, top_scores, top_rows):  # type: ignore[no-untyped-def]
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


@njit
def rescore(  # type: ignore[no-untyped-def]
    full, query, k, beam, last, limit, recent, sums, top_scores, top_rows, found, state, deadline
):
    """Score the rows of ``beam[:last]`` that are not scored yet, at most `limit` in all; return found.

    One that cannot be read, because its file was cut or the disk failed, ends it.
    """
    copied = full[COPIED] != 0
    copy = np.empty(full[ROW_BYTES] if copied else 0, np.uint8)
    looked = nanoseconds()
    in_chunk, chunk = 0, 1  # a first row that is waited for is not the last
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
        for ahead in range(
            1, min(1 if copied else 3, last - i)
        ):  # the farther one's page must be looked up first
            line = full[MAPPING] + _offset(full, row_of(beam[i + ahead])) + (2 - ahead) * _PREFETCHED
            for at in range(0, _PREFETCHED, _LINE):
                prefetch(line + at)
        score = _score(full, query, row, copy, state)
        if state[UNREAD]:
            break
        recent[state[ROWS_READ] % WINDOW] = score
        guess, whole = np.float64(real(key >> 32)), np.float64(score)
        sums[0] += guess
        sums[1] += whole
        sums[2] += guess * guess
        sums[3] += guess * whole
        sums[4] += whole * whole
        state[ROWS_READ] += 1
        found = keep(score, row, k, found, top_scores, top_rows)
        in_chunk += 1
        if in_chunk == chunk or (state[COLD] and deadline > 0):
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
            looked, in_chunk, chunk = now, 0, _CHUNK
    return found
