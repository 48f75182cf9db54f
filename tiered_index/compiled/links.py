"""Links among the rows of a filter: what a walk among them looks up, collected once.

A walk among matching rows finds the way through those that do not match anew at each step, and takes two to
four times as long as one among all. Where a filter is asked again and again, each matching row is given as
many links as it has in the graph, to the matching rows that such a step would find, and to more of them: the
walk is then one like any other.
"""

from __future__ import annotations

from typing import Final

import numpy as np
from numba import njit

from tiered_index.compiled.layout import BASE_DEGREE, LINKS, OFFSETS
from tiered_index.compiled.operations import load_i32, load_i64, prefetch
from tiered_index.compiled.walk import is_live

_AHEAD: Final = 8  # lists of links asked for ahead of the one that is read
_LINE: Final = 64


@njit(inline="always")
def _ask_links(graph, row):  # type: ignore[no-untyped-def]
    links = graph[LINKS] + 4 * load_i64(graph[OFFSETS] + 8 * row)
    for at in range(0, 4 * graph[BASE_DEGREE], _LINE):
        prefetch(links + at)


@njit
def link(graph, live, rows, first, last, met, links):  # type: ignore[no-untyped-def]
    """Fill ``links[first:last]`` for ``rows[first:last]``: matching rows linked directly, then by one other.

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
    met : int32 array
        Of the graph's length; at first below all of `rows`' places, from one call to the next as it was left.
    links : int32 array, shape (rows, degree)
        Rows of the graph, -1 after the last.
    """
    degree = graph[BASE_DEGREE]
    others = np.empty(degree, np.int64)
    for place in range(first, last):
        row = np.int64(rows[place])
        met[row] = place
        count = passing = 0
        direct = graph[LINKS] + 4 * load_i64(graph[OFFSETS] + 8 * row)
        for i in range(degree):
            linked = np.int64(load_i32(direct + 4 * i))
            if linked < 0:
                break
            if is_live(live, linked):
                met[linked] = place
                links[place, count] = linked
                count += 1
            else:
                others[passing] = linked
                passing += 1
        for i in range(min(passing, _AHEAD)):
            _ask_links(graph, others[i])
        for i in range(passing):
            if count == degree:
                break
            if i + _AHEAD < passing:
                _ask_links(graph, others[i + _AHEAD])
            indirect = graph[LINKS] + 4 * load_i64(graph[OFFSETS] + 8 * others[i])
            for j in range(degree):
                linked = np.int64(load_i32(indirect + 4 * j))
                if linked < 0 or count == degree:
                    break
                if is_live(live, linked) and met[linked] != place:
                    met[linked] = place
                    links[place, count] = linked
                    count += 1
        links[place, count:] = -1
