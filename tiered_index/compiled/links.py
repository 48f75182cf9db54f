"""Links among the rows of a filter: what a walk among them looks up, collected once.

A walk among matching rows finds the way through those that do not match anew at each step, and takes two to
four times as long as one among all. Where a filter is asked again and again, each matching row is linked to
the nearest of the matching rows that such a step would find: the walk is then one like any other.
"""

from __future__ import annotations

from typing import Final

import numpy as np
from numba import njit

from tiered_index.compiled.beam import row_of
from tiered_index.compiled.codes import dot_codes, lines_of
from tiered_index.compiled.layout import BASE_DEGREE, CODE_BYTES, CODES, LINKS, OFFSETS, RANGES, ROW_SHIFT
from tiered_index.compiled.operations import (
    load_f32,
    load_i32,
    load_i64,
    load_u8,
    ordered,
    prefetch,
    store_i32,
)
from tiered_index.compiled.sorting import best_of
from tiered_index.compiled.walk import ask, asked, is_live

_AHEAD: Final = 8  # lists of links asked for ahead of the one that is read
_LINE: Final = 64


@njit(inline="always")
def _ask_links(graph, row):  # type: ignore[no-untyped-def]
    links = graph[LINKS] + 4 * load_i64(graph[OFFSETS] + 8 * row)
    for at in range(0, 4 * graph[BASE_DEGREE], _LINE):
        prefetch(links + at)


@njit
def _decode(graph, row, numbers):  # type: ignore[no-untyped-def]
    """Write what a row's code stands for."""
    code, ranges, width = graph[CODES] + row * graph[CODE_BYTES], graph[RANGES], len(numbers)
    if ranges:
        for i in range(width):
            step = load_f32(ranges + 4 * (width + i)) / np.float32(255.0)
            numbers[i] = load_f32(ranges + 4 * i) + (load_u8(code + i) + np.float32(0.5)) * step
    else:
        for i in range(width):
            half = np.int64(load_u8(code + 2 * i)) | (np.int64(load_u8(code + 2 * i + 1)) << 8)
            store_i32(numbers.ctypes.data + 4 * i, half << 16)


@njit
def _found(graph, live, row, place, met, near, others):  # type: ignore[no-untyped-def]
    """Collect into `near` matching rows that are linked directly, then by one other; return how many."""
    degree = graph[BASE_DEGREE]
    met[row] = place
    count = passing = 0
    direct = graph[LINKS] + 4 * load_i64(graph[OFFSETS] + 8 * row)
    for i in range(degree):
        linked = np.int64(load_i32(direct + 4 * i))
        if linked < 0:
            break
        if is_live(live, linked):
            met[linked] = place
            near[count] = linked
            count += 1
        else:
            others[passing] = linked
            passing += 1
    for i in range(min(passing, _AHEAD)):
        _ask_links(graph, others[i])
    for i in range(passing):
        if count == len(near):
            break
        if i + _AHEAD < passing:
            _ask_links(graph, others[i + _AHEAD])
        indirect = graph[LINKS] + 4 * load_i64(graph[OFFSETS] + 8 * others[i])
        for j in range(degree):
            linked = np.int64(load_i32(indirect + 4 * j))
            if linked < 0 or count == len(near):
                break
            if is_live(live, linked) and met[linked] != place:
                met[linked] = place
                near[count] = linked
                count += 1
    return count


@njit
def link(graph, live, rows, first, last, considered, met, links):  # type: ignore[no-untyped-def]
    """Fill ``links[first:last]`` for ``rows[first:last]`` with the nearest of `considered` rows.

    Those are matching rows that are linked directly in the graph, then by one other.

    Parameters
    ----------
    graph : int64 array
        As the walk's module names it.
    live : int
        Address of a bit a row of the graph.
    rows : int32 array
        All those whose bit is set.
    first, last : int
        Which of them are done.
    considered : int
        At least the graph's degree.
    met : int32 array
        Of the graph's length; at first below all of `rows`' places, from one call to the next as it was left.
    links : int32 array, shape (rows, kept)
        Rows of the graph, -1 after the last.
    """
    codes, code_bytes, ranges = graph[CODES], graph[CODE_BYTES], graph[RANGES]
    kept, width = links.shape[1], code_bytes if ranges else code_bytes // 2
    others, near = np.empty(graph[BASE_DEGREE], np.int64), np.empty(considered, np.int64)
    numbers, lines = np.empty(width, np.float32), lines_of(width, ranges)
    for place in range(first, last):
        row = np.int64(rows[place])
        count = _found(graph, live, row, place, met, near, others)
        if count > kept:
            for i in range(count):
                ask(codes + near[i] * code_bytes, lines)
            _decode(graph, row, numbers)
            query = asked(graph, numbers.ctypes.data, width)
            for i in range(count):
                score = dot_codes(codes + near[i] * code_bytes, query.ctypes.data, width, ranges)
                near[i] = (ordered(score) << 32) | (near[i] << ROW_SHIFT)
            best_of(near, 0, kept, count)
            for i in range(kept):
                near[i] = row_of(near[i])
        for i in range(kept):
            links[place, i] = near[i] if i < count else -1
