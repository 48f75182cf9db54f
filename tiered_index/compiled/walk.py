"""The walk through one HNSW graph: FAISS's best-first search, asking for vectors before it needs them.

The beam is one sorted array of 64-bit keys: score, row and two flags. A walk whose beam may be widened
later also keeps, unsorted, the rows that found no room in it; it then goes on from where it stands, and
finds what a walk with the wider beam would have found.

References
----------
Malkov and Yashunin, "Efficient and robust approximate nearest neighbor search using Hierarchical
Navigable Small World graphs", 2018.
"""

from __future__ import annotations

from typing import Final

import numpy as np
from numba import njit

from tiered_index.compiled.operations import (
    dot_bf16,
    load_i32,
    load_i64,
    load_u8,
    move,
    nanoseconds,
    ordered,
    prefetch,
)

# What a graph is, in an array of int64
CODES: Final = 0  # address of the codes
CODE_BYTES: Final = 1
OFFSETS: Final = 2  # address of each row's first link, int64
LINKS: Final = 3  # address of the links, int32, -1 after the last of a level
BASE_DEGREE: Final = 4  # links of a row on level 0
DEGREE: Final = 5  # and on each above
ENTRY: Final = 6
TOP_LEVEL: Final = 7
GRAPH_FIELDS: Final = 8

# How far a walk has come, in an array of int64
SIZE: Final = 0  # rows in the beam
NEXT: Final = 1  # place in it of the first that may not be expanded yet
SEEN: Final = 2  # rows visited
MASK: Final = 3  # size of the visited table, less one
FULL: Final = 4  # `seen` has no room left
SPILLED: Final = 5  # rows met and not in the beam, kept for a wider one
COLD: Final = 6  # rows must be waited for
WIDTH: Final = 7  # of the beam
LATE: Final = 8  # the deadline passed; from here on, what is reported
DISTANCES: Final = 9
ROWS_READ: Final = 10
COLD_ROWS: Final = 11  # of them, rows that were waited for
COARSE_NS: Final = 12
RESCORE_NS: Final = 13
STATE_FIELDS: Final = 14

EXPANDED: Final = 1
SCORED: Final = 2
ROW_SHIFT: Final = 2
MAX_ROWS: Final = 1 << 30
_ROW_MASK: Final = MAX_ROWS - 1

_MIN_TABLE: Final = 4096
_LINE: Final = 64
_AHEAD: Final = 8  # vectors asked for ahead of the one that is scored
_LOOK: Final = 3  # expansions between looks at the clock, less one; a power of two, less one
_HASH: Final = 0x9E3779B1


@njit(nogil=True, cache=True, inline="always")
def row_of(key):  # type: ignore[no-untyped-def]
    """Return the row of a key of the beam."""
    return (key >> ROW_SHIFT) & _ROW_MASK


@njit(nogil=True, cache=True)
def _rehash(seen, count, table, mask):  # type: ignore[no-untyped-def]
    table[: mask + 1] = -1
    for i in range(count):
        at = ((np.int64(seen[i]) * _HASH) >> 7) & mask
        while table[at] != -1:
            at = (at + 1) & mask
        table[at] = seen[i]


@njit(nogil=True, cache=True)
def _ask(code, lines):  # type: ignore[no-untyped-def]
    for line in range(lines):
        prefetch(code + line * _LINE)


@njit(nogil=True, cache=True)
def begin(graph, prefix, dims, beam, seen, table, state):  # type: ignore[no-untyped-def]
    """Descend to level 0, and begin the beam with the row found there."""
    codes, code_bytes = graph[CODES], graph[CODE_BYTES]
    lines = (2 * dims + _LINE - 1) // _LINE
    nearest = graph[ENTRY]
    best = dot_bf16(codes + nearest * code_bytes, prefix, dims)
    distances = 1
    for level in range(graph[TOP_LEVEL], 0, -1):
        moved = True
        while moved:
            moved = False
            first = load_i64(graph[OFFSETS] + 8 * nearest) + graph[BASE_DEGREE] + (level - 1) * graph[DEGREE]
            links = graph[LINKS] + 4 * first
            for i in range(graph[DEGREE]):
                row = np.int64(load_i32(links + 4 * i))
                if row < 0:
                    break
                _ask(codes + row * code_bytes, lines)
            for i in range(graph[DEGREE]):
                row = np.int64(load_i32(links + 4 * i))
                if row < 0:
                    break
                score = dot_bf16(codes + row * code_bytes, prefix, dims)
                distances += 1
                if score > best:
                    best, nearest, moved = score, row, True
    beam[0] = (ordered(best) << 32) | (nearest << ROW_SHIFT)
    seen[0] = nearest
    state[SIZE] = 1
    state[NEXT] = 0
    state[SEEN] = 1
    state[MASK] = _MIN_TABLE - 1
    state[DISTANCES] = distances
    _rehash(seen, 1, table, state[MASK])


@njit(nogil=True, cache=True, inline="always")
def _put(beam, address, size, room, key):  # type: ignore[no-untyped-def]
    """Put a key into the sorted beam, whose last falls out if it is full; return its place."""
    low, high = 0, size
    while low < high:
        middle = (low + high) >> 1
        if beam[middle] >= key:
            low = middle + 1
        else:
            high = middle
    last = size - 1 if size == room else size
    move(address + 8 * (low + 1), address + 8 * low, 8 * (last - low))
    beam[low] = key
    return low


@njit(nogil=True, cache=True)
def widen(beam, spill, room, state):  # type: ignore[no-untyped-def]
    """Fill the beam up to `room` with the best rows that found no room before."""
    address = beam.ctypes.data
    size = state[SIZE]
    kept = 0
    for i in range(state[SPILLED]):
        key = spill[i]
        if size == room:
            last = beam[room - 1]
            if key <= last:
                spill[kept] = key
                kept += 1
                continue
            spill[kept] = last
            kept += 1
        _put(beam, address, size, room, key)
        size = min(size + 1, room)
    state[SIZE], state[SPILLED] = size, kept
    at = 0
    while at < size and beam[at] & EXPANDED:
        at += 1
    state[NEXT] = at


@njit(nogil=True, cache=True)
def advance(graph, prefix, dims, ef, room, beam, spill, seen, table, state, deadline):  # type: ignore[no-untyped-def]
    """Expand rows until the best `ef` of a beam of `room` are; keep what falls out if `spill` has room."""
    codes, code_bytes = graph[CODES], graph[CODE_BYTES]
    lines = (2 * dims + _LINE - 1) // _LINE
    degree = graph[BASE_DEGREE]
    fresh = np.empty(degree, np.int64)
    address = beam.ctypes.data
    keep = len(spill) > 0
    size, at, count, mask, spilled = state[SIZE], state[NEXT], state[SEEN], state[MASK], state[SPILLED]
    hops = 0
    while at < min(size, ef):
        hops += 1
        if deadline > 0 and hops & _LOOK == 0 and nanoseconds() > deadline:
            state[LATE] = 1
            break
        if count + degree > len(seen):
            state[FULL] = 1
            break
        if 2 * (count + degree) > mask:
            mask = 2 * mask + 1
            _rehash(seen, count, table, mask)
        beam[at] |= EXPANDED
        links = graph[LINKS] + 4 * load_i64(graph[OFFSETS] + 8 * row_of(beam[at]))
        new = 0
        for i in range(degree):
            row = np.int64(load_i32(links + 4 * i))
            if row < 0:
                break
            slot = ((row * _HASH) >> 7) & mask
            while table[slot] != -1 and table[slot] != row:
                slot = (slot + 1) & mask
            if table[slot] == -1:
                table[slot] = row
                seen[count] = row
                count += 1
                fresh[new] = row
                if new < _AHEAD:
                    _ask(codes + row * code_bytes, lines)
                new += 1
        lowest = size
        for i in range(new):
            if i + _AHEAD < new:
                _ask(codes + fresh[i + _AHEAD] * code_bytes, lines)
            score = dot_bf16(codes + fresh[i] * code_bytes, prefix, dims)
            key = (ordered(score) << 32) | (fresh[i] << ROW_SHIFT)
            if size == room:
                last = beam[size - 1]
                if keep:
                    spill[spilled] = min(last, key)
                    spilled += 1
                if key <= last:
                    continue
            lowest = min(lowest, _put(beam, address, size, room, key))
            size = min(size + 1, room)
        state[DISTANCES] += new
        at = min(at, lowest)
        while at < size and beam[at] & EXPANDED:
            at += 1
        if at < size:
            links = graph[LINKS] + 4 * load_i64(graph[OFFSETS] + 8 * row_of(beam[at]))
            for line in range((4 * degree + _LINE - 1) // _LINE):
                prefetch(links + line * _LINE)
    state[SIZE], state[NEXT], state[SEEN], state[MASK], state[SPILLED] = size, at, count, mask, spilled


@njit(nogil=True, cache=True, inline="always")
def is_live(live, row):  # type: ignore[no-untyped-def]
    """Return whether a row may be found; `live` is the address of a bit a row, or 0 if all may."""
    return live == 0 or (load_u8(live + (row >> 3)) >> (row & 7)) & 1


@njit(nogil=True, cache=True)
def settle(graph, prefix, dims, ef, more, live, beam, spill, seen, table, state, deadline):  # type: ignore[no-untyped-def]
    """Advance until the beam holds `ef` rows that may be found, or has no room for as many others.

    With `more`, it also keeps half as many again, which were met and not expanded. `spill` must have
    room where the beam may become wider: with `more`, and where not all rows may be found.
    """
    width = max(ef, state[WIDTH])
    widest = 2 * len(beam) // 3 if more else len(beam)
    while True:
        room = width + width // 2 if more else width
        if 0 < state[WIDTH] < width:
            widen(beam, spill, room, state)
        state[WIDTH] = width
        advance(graph, prefix, dims, width, room, beam, spill, seen, table, state, deadline)
        if not live or state[FULL] or state[LATE] or state[SIZE] < width:
            return
        missing = ef
        for i in range(min(state[SIZE], width)):
            missing -= is_live(live, row_of(beam[i]))
        if missing <= 0 or width >= widest:
            return
        width = min(width + 2 * missing, widest)


@njit(nogil=True, cache=True)
def walk(graph, prefix, dims, ef, live, beam, spill, seen, table, state, deadline):  # type: ignore[no-untyped-def]
    """Walk from the top; the beam then holds the best rows, best first."""
    started = nanoseconds()
    state[:] = 0
    begin(graph, prefix, dims, beam, seen, table, state)
    settle(graph, prefix, dims, ef, False, live, beam, spill, seen, table, state, deadline)
    state[COARSE_NS] = nanoseconds() - started
