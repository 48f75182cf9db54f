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
    among,
    dot_bf16,
    load_i32,
    load_i64,
    load_u8,
    lowest,
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
_AHEAD: Final = 16  # vectors asked for ahead of the one that is scored
_LOOK: Final = 3  # expansions between looks at the clock, less one; a power of two, less one
_PASS_AHEAD: Final = 3  # lists of links asked for ahead of the one that is read
_ENOUGH: Final = 24  # rows that may be found, met in a step, after which no more links are followed
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
def ask(code, lines):  # type: ignore[no-untyped-def]
    """Ask for the cache lines of a code."""
    for line in range(lines):
        prefetch(code + line * _LINE)


@njit(nogil=True, cache=True, inline="always")
def _visit(row, seen, count, table, mask):  # type: ignore[no-untyped-def]
    """Note that a row was met; return whether it was not before."""
    slot = ((row * _HASH) >> 7) & mask
    while table[slot] != -1:
        if table[slot] == row:
            return False
        slot = (slot + 1) & mask
    table[slot] = row
    seen[count] = row
    return True


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
def begin(graph, prefix, dims, room, live, seeds, beam, seen, table, state):  # type: ignore[no-untyped-def]
    """Descend to level 0, and begin the beam, which holds `room`, with the row found there and `seeds`.

    If that row may not be found it stands before all others: it is expanded first, and leaves the beam.
    """
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
                ask(codes + row * code_bytes, lines)
            for i in range(graph[DEGREE]):
                row = np.int64(load_i32(links + 4 * i))
                if row < 0:
                    break
                score = dot_bf16(codes + row * code_bytes, prefix, dims)
                distances += 1
                if score > best:
                    best, nearest, moved = score, row, True
    if not is_live(live, nearest):
        best = np.float32(np.inf)
    beam[0] = (ordered(best) << 32) | (nearest << ROW_SHIFT)
    seen[0] = nearest
    state[SIZE] = 1
    state[NEXT] = 0
    state[SEEN] = 1
    state[MASK] = _MIN_TABLE - 1
    _rehash(seen, 1, table, state[MASK])
    for row in seeds[: room - 1]:
        if row != nearest:
            score = dot_bf16(codes + row * code_bytes, prefix, dims)
            distances += 1
            _visit(row, seen, state[SEEN], table, state[MASK])
            state[SEEN] += 1
            _put(beam, beam.ctypes.data, state[SIZE], room, (ordered(score) << 32) | (row << ROW_SHIFT))
            state[SIZE] += 1
    state[DISTANCES] = distances


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


@njit(nogil=True, cache=True, inline="always")
def is_live(live, row):  # type: ignore[no-untyped-def]
    """Return whether a row may be found; `live` is the address of a bit a row, or 0 if all may."""
    return live == 0 or (load_u8(live + (row >> 3)) >> (row & 7)) & 1


@njit(nogil=True, cache=True)
def _fresh_among(graph, links, live, fresh, passed, seen, count, table, mask, lines):  # type: ignore[no-untyped-def]
    """Collect rows that may be found and were not met; return how many, and how many were met in all.

    They are linked from `links`, or from rows linked there that may not be found, nearest first.
    """
    codes, code_bytes, degree = graph[CODES], graph[CODE_BYTES], graph[BASE_DEGREE]
    link_lines = (4 * degree + _LINE - 1) // _LINE
    new = passing = 0
    for first in range(0, degree, 16):
        bits = among(live, links + 4 * first, degree - first)
        chosen, others = bits & 0xFFFF, (bits >> 16) & ~bits
        while chosen:
            row = np.int64(load_i32(links + 4 * (first + lowest(chosen))))
            chosen &= chosen - 1
            if _visit(row, seen, count, table, mask):
                count += 1
                fresh[new] = row
                ask(codes + row * code_bytes, lines)
                new += 1
        while others:
            row = np.int64(load_i32(links + 4 * (first + lowest(others))))
            others &= others - 1
            passed[passing] = row
            passing += 1
            prefetch(graph[OFFSETS] + 8 * row)
    for j in range(min(_PASS_AHEAD, passing)):
        ahead = graph[LINKS] + 4 * load_i64(graph[OFFSETS] + 8 * passed[j])
        for line in range(link_lines):
            prefetch(ahead + line * _LINE)
    for j in range(passing):
        if new >= _ENOUGH:
            break
        if j + _PASS_AHEAD < passing:
            ahead = graph[LINKS] + 4 * load_i64(graph[OFFSETS] + 8 * passed[j + _PASS_AHEAD])
            for line in range(link_lines):
                prefetch(ahead + line * _LINE)
        if not _visit(passed[j], seen, count, table, mask):
            continue
        count += 1
        links = graph[LINKS] + 4 * load_i64(graph[OFFSETS] + 8 * passed[j])
        for first in range(0, degree, 16):
            chosen = among(live, links + 4 * first, degree - first) & 0xFFFF
            while chosen and new < len(fresh):
                row = np.int64(load_i32(links + 4 * (first + lowest(chosen))))
                chosen &= chosen - 1
                if _visit(row, seen, count, table, mask):
                    count += 1
                    fresh[new] = row
                    ask(codes + row * code_bytes, lines)
                    new += 1
    return new, count


@njit(nogil=True, cache=True)
def advance(graph, prefix, dims, ef, room, live, beam, spill, seen, table, state, deadline):  # type: ignore[no-untyped-def]
    """Expand rows until the best `ef` of a beam of `room` are; keep what falls out if `spill` has room.

    Where not all rows may be found, the way leads through those that may not: their links are followed,
    and their codes are not read.
    """
    codes, code_bytes = graph[CODES], graph[CODE_BYTES]
    lines = (2 * dims + _LINE - 1) // _LINE
    degree = graph[BASE_DEGREE]
    link_lines = (4 * degree + _LINE - 1) // _LINE
    fresh = np.empty(2 * degree, np.int64)
    passed = np.empty(degree if live else 0, np.int64)
    address = beam.ctypes.data
    keep = len(spill) > 0
    size, at, count, mask, spilled = state[SIZE], state[NEXT], state[SEEN], state[MASK], state[SPILLED]
    hops = 0
    while at < min(size, ef):
        hops += 1
        if deadline > 0 and hops & _LOOK == 0 and nanoseconds() > deadline:
            state[LATE] = 1
            break
        if count + 3 * degree > len(seen):
            state[FULL] = 1
            break
        if 2 * (count + 3 * degree) > mask:
            mask = 2 * mask + 1
            _rehash(seen, count, table, mask)
        row = row_of(beam[at])
        links = graph[LINKS] + 4 * load_i64(graph[OFFSETS] + 8 * row)
        if is_live(live, row):
            beam[at] |= EXPANDED
            follow = at + 1
        else:  # the entry point, which led here
            size -= 1
            move(address + 8 * at, address + 8 * (at + 1), 8 * (size - at))
            follow = at
        while follow < size and beam[follow] & EXPANDED:
            follow += 1
        if follow < size:  # the next to expand, unless better ones are met now
            ahead = graph[LINKS] + 4 * load_i64(graph[OFFSETS] + 8 * row_of(beam[follow]))
            for line in range(link_lines):
                prefetch(ahead + line * _LINE)
        if live:
            new, count = _fresh_among(graph, links, live, fresh, passed, seen, count, table, mask, lines)
        else:
            new = 0
            for i in range(degree):
                row = np.int64(load_i32(links + 4 * i))
                if row < 0:
                    break
                if _visit(row, seen, count, table, mask):
                    count += 1
                    fresh[new] = row
                    if new < _AHEAD:
                        ask(codes + row * code_bytes, lines)
                    new += 1
        highest = size
        for i in range(new):
            if i + _AHEAD < new:
                ask(codes + fresh[i + _AHEAD] * code_bytes, lines)
            score = dot_bf16(codes + fresh[i] * code_bytes, prefix, dims)
            key = (ordered(score) << 32) | (fresh[i] << ROW_SHIFT)
            if size == room:
                last = beam[size - 1]
                if keep:
                    spill[spilled] = min(last, key)
                    spilled += 1
                if key <= last:
                    continue
            place = _put(beam, address, size, room, key)
            if place <= at:
                prefetch(graph[OFFSETS] + 8 * fresh[i])
            highest = min(highest, place)
            size = min(size + 1, room)
        state[DISTANCES] += new
        at = min(at, highest)
        while at < size and beam[at] & EXPANDED:
            at += 1
        if at < size:
            links = graph[LINKS] + 4 * load_i64(graph[OFFSETS] + 8 * row_of(beam[at]))
            for line in range(link_lines):
                prefetch(links + line * _LINE)
    state[SIZE], state[NEXT], state[SEEN], state[MASK], state[SPILLED] = size, at, count, mask, spilled


@njit(nogil=True, cache=True)
def settle(graph, prefix, dims, ef, more, live, beam, spill, seen, table, state, deadline):  # type: ignore[no-untyped-def]
    """Advance with a beam of `ef`, or widen it to that.

    With `more`, the beam also keeps half as many again, which were met and not expanded; `spill` must then
    have room, for it may become wider.
    """
    room = ef + ef // 2 if more else ef
    if 0 < state[WIDTH] < ef:
        widen(beam, spill, room, state)
    state[WIDTH] = ef
    advance(graph, prefix, dims, ef, room, live, beam, spill, seen, table, state, deadline)


@njit(nogil=True, cache=True)
def walk(graph, prefix, dims, ef, live, seeds, beam, seen, table, state, deadline):  # type: ignore[no-untyped-def]
    """Walk from the top; the beam then holds the best rows, best first."""
    started = nanoseconds()
    state[:] = 0
    begin(graph, prefix, dims, ef, live, seeds, beam, seen, table, state)
    advance(graph, prefix, dims, ef, ef, live, beam, beam[:0], seen, table, state, deadline)
    state[COARSE_NS] = nanoseconds() - started


@njit(nogil=True, cache=True)
def approach(graph, prefix, dims, ef, room, beam, seen, table, state):  # type: ignore[no-untyped-def]
    """Walk with a beam of `ef`; of all rows that were met, the beam then holds the best `room`."""
    state[:] = 0
    begin(graph, prefix, dims, room, 0, beam[:0], beam, seen, table, state)
    advance(graph, prefix, dims, ef, room, 0, beam, beam[:0], seen, table, state, 0)
