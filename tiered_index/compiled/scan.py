"""Scoring the codes of some rows, all of them, and keeping the best."""

from __future__ import annotations

from typing import Final

import numpy as np
from numba import njit

from tiered_index.compiled.beam import (
    COARSE_NS,
    DISTANCES,
    ROW_SHIFT,
    SIZE,
)
from tiered_index.compiled.codes import dot_codes, lines_of
from tiered_index.compiled.operations import nanoseconds, ordered
from tiered_index.compiled.walk import CODE_BYTES, CODES, RANGES, ask, asked

_AHEAD: Final = 16  # codes asked for ahead of the one that is scored


@njit(nogil=True, cache=True)
def _best_of(beam, first, room, size):  # type: ignore[no-untyped-def]
    """Put the best of ``beam[first:size]`` into ``beam[first:room]``, unordered; return their least."""
    low, high = first, size - 1
    while low < high:
        pivot = beam[(low + high) >> 1]
        i, j = low, high
        while i <= j:
            while beam[i] > pivot:
                i += 1
            while beam[j] < pivot:
                j -= 1
            if i <= j:
                beam[i], beam[j] = beam[j], beam[i]
                i += 1
                j -= 1
        if room - 1 <= j:
            high = j
        elif room - 1 >= i:
            low = i
        else:
            break
    return beam[room - 1]


@njit(nogil=True, cache=True)
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
                least = _best_of(beam, 0, room, size)
                size = room
    if size > room:
        _best_of(beam, 0, room, size)
        size = room
    state[SIZE] = size
    state[DISTANCES] += len(rows)


@njit(nogil=True, cache=True)
def rank(beam, first, last, size):  # type: ignore[no-untyped-def]
    """Put the best of ``beam[first:size]`` into ``beam[first:last]``, best first."""
    if last < size:
        _best_of(beam, first, last, size)
    beam[first:last] = np.sort(beam[first:last])[::-1]


@njit(nogil=True, cache=True)
def scan_all(graph, prefix, dims, rows, ef, beam, state):  # type: ignore[no-untyped-def]
    """Score `rows` and nothing else; the beam then holds the best of them."""
    started = nanoseconds()
    state[:] = 0
    scan(graph, asked(graph, prefix, dims), dims, rows, ef, beam, state)
    rank(beam, 0, state[SIZE], state[SIZE])
    state[COARSE_NS] = nanoseconds() - started
