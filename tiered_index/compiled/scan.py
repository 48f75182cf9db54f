"""Scoring the codes of some rows, all of them, and keeping the best."""

from __future__ import annotations

from typing import Final

import numpy as np
from numba import njit

from tiered_index.compiled.codes import dot_codes, lines_of
from tiered_index.compiled.layout import COARSE_NS, CODE_BYTES, CODES, DISTANCES, RANGES, ROW_SHIFT, SIZE
from tiered_index.compiled.operations import nanoseconds, ordered
from tiered_index.compiled.sorting import best_of, rank
from tiered_index.compiled.walk import ask, asked

_AHEAD: Final = 16  # codes asked for ahead of the one that is scored


@njit
def scan(graph, query, dims, rows, room, beam, state):  # type: ignore[no-untyped-def]
    """Score the codes of `rows`; the beam then holds the best `room`, in no order. It is twice as long."""
    codes, code_bytes, ranges = graph[CODES], graph[CODE_BYTES], graph[RANGES]
    prefix, lines = query.ctypes.data, lines_of(dims, ranges)
    size, least = 0, np.iinfo(np.int64).min
    for i in range(len(rows)):
        if i + _AHEAD < len(rows):
            ask(codes + rows[i + _AHEAD] * code_bytes, lines)
        row = np.int64(rows[i])
        key = (ordered(dot_codes(codes + row * code_bytes, prefix, dims, ranges)) << 32) | (row << ROW_SHIFT)
        if key > least:
            beam[size] = key
            size += 1
            if size == 2 * room:
                least = best_of(beam, 0, room, size)
                size = room
    if size > room:
        best_of(beam, 0, room, size)
        size = room
    state[SIZE] = size
    state[DISTANCES] += len(rows)


@njit
def scan_all(graph, prefix, dims, rows, ef, beam, state):  # type: ignore[no-untyped-def]
    """Score `rows` and nothing else; the beam then holds the best of them."""
    started = nanoseconds()
    state[:] = 0
    scan(graph, asked(graph, prefix, dims), dims, rows, ef, beam, state)
    rank(beam, 0, state[SIZE], state[SIZE])
    state[COARSE_NS] = nanoseconds() - started
