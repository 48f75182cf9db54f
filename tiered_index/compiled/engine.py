"""What Python calls of the compiled road: addresses in, arrays out."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tiered_index.compiled.answered import Answered, AnsweredMany, Floats, Rows
from tiered_index.compiled.kernels import kernels
from tiered_index.compiled.layout import (
    AMONG,
    AMONG_DEGREE,
    COARSE_NS,
    DIM,
    DISTANCES,
    FAILED,
    FULL_AT,
    FULL_FIELDS,
    GRAPH_AT,
    GRAPH_FIELDS,
    LATE,
    MARGIN,
    MISSED,
    NEARNESS,
    PLACES,
    ROW_SHIFT,
    SAID,
    SEARCH_FIELDS,
    SKETCH_AT,
    SKETCH_FIELDS,
    STATE_FIELDS,
    K,
)
from tiered_index.compiled.layout import MAX_ROWS as MAX_ROWS
from tiered_index.compiled.prepared import Prepared as Prepared
from tiered_index.compiled.room import own

MAX_K = 512
"""The best rows are kept by insertion; with more of them NumPy's partition is faster."""

_AT_ONCE = 32
"""Queries of a batch that a thread answers without the interpreter."""

NO_ROWS = np.empty(0, np.int32)
NO_SEEDS = np.empty(0, np.int64)
NO_SKETCH = np.zeros(SKETCH_FIELDS, np.int64)


def graph_fields(
    codes: int,
    code_bytes: int,
    offsets: int,
    links: int,
    degrees: tuple[int, int],
    entry: int,
    level: int,
    ranges: int,
) -> Rows:
    """Describe a graph to :func:`walk` and :func:`answer`; the addresses must stay valid."""
    return np.array([codes, code_bytes, offsets, links, *degrees, entry, level, ranges, 0, 0, 0], np.int64)


def linked(graph: Rows, places: int, links: int, kept: int) -> Rows:
    """Return a graph some of whose rows have `kept` links among themselves, by address; see :func:`link`."""
    found = graph.copy()
    found[PLACES], found[AMONG], found[AMONG_DEGREE] = places, links, kept
    return found


def full_fields(
    mapping: int,
    bases: int,
    group_shift: int,
    row_bytes: int,
    dim: int,
    half: bool,
    norms: int,
    fd: int,
    *,
    copied: bool = False,
) -> Rows:
    """Describe a full tier to :func:`answer`; the addresses must stay valid."""
    return np.array([mapping, bases, group_shift, row_bytes, dim, half, norms, fd, copied], np.int64)


def sketch_fields(*fields: int) -> Rows:
    """Describe a sketch, by its addresses, to :func:`answer`; they must stay valid."""
    return np.array(fields, np.int64)


def walk(
    graph: Rows,
    prefix: Floats,
    ef: int,
    *,
    live: int = 0,
    rows: NDArray[np.int32] = NO_ROWS,
    seeds: Rows = NO_SEEDS,
    deadline_ns: int = 0,
) -> tuple[Rows, Floats, int, bool, float]:
    """Find the best rows for one prefix, in the graph or among those given.

    Parameters
    ----------
    graph : ndarray
        From :func:`graph_fields`.
    prefix : ndarray, shape (d,), float32, C-contiguous
        d is at most the width of the codes.
    ef : int
        Beam width.
    live : int
        Address of a bit a row in whole int32, lowest first, or 0 if all may be found.
    rows : ndarray of int32
        Score these only, without the graph; empty to walk.
    seeds : ndarray of int64
        Rows that may be found, to begin a walk with besides the entry point.
    deadline_ns : int
        On the clock of ``perf_counter_ns``; 0 for none.

    Returns
    -------
    rows, scores : ndarray
        Best first.
    distances : int
        Codes that were scored.
    late : bool
        The deadline came first.
    ms : float
        Time of the walk.
    """
    room = own.room
    beam = room.beam_of(2 * ef)  # a scan sorts them out when there are twice as many
    prefix, rows, seeds = _plain(prefix, np.float32), _plain(rows, np.int32), _plain(seeds, np.int64)
    described, numbers = graph.ctypes.data, (prefix.ctypes.data, len(prefix), ef)
    if len(rows):
        size = kernels().scan(described, *numbers, rows.ctypes.data, len(rows), room.address)
    else:
        begun = seeds.ctypes.data, len(seeds)
        size = kernels().walk(described, *numbers, live, *begun, deadline_ns, room.address)
    keys, state = beam[: _done(size)], room.state
    found = (keys >> ROW_SHIFT) & (MAX_ROWS - 1)
    bits = (keys >> 32).astype(np.int32)
    scores = np.where(bits < 0, bits ^ 0x7FFFFFFF, bits).astype(np.int32).view(np.float32)
    late, distances = bool(state[LATE]), int(state[DISTANCES])
    return found, scores, distances, late, int(state[COARSE_NS]) / 1e6


def ordered(
    graph: Rows,
    sketch: Rows,
    prefix: Floats,
    query: Floats,
    ef: int,
    *,
    live: int = 0,
    seeds: Rows = NO_SEEDS,
) -> tuple[Rows, float, int]:
    """Walk as :func:`walk` does; return rows as scores that sketches estimate order them, ms, distances."""
    walk(graph, prefix, ef, live=live, seeds=seeds)
    room, query = own.room, _plain(query, np.float32)
    numbers = query.ctypes.data, len(query), len(prefix)
    size = _done(kernels().arrange(sketch.ctypes.data, *numbers, room.address))
    found: Rows = (room.order[:size] >> ROW_SHIFT) & (MAX_ROWS - 1)
    return found, int(room.state[COARSE_NS]) / 1e6, int(room.state[DISTANCES])


def near(graph: Rows, prefix: Floats, ef: int, count: int) -> Rows:
    """Return about the `count` nearest rows of the whole graph, as a beam of `ef` meets them."""
    room, prefix = own.room, _plain(prefix, np.float32)
    beam, numbers = room.beam_of(count), (prefix.ctypes.data, len(prefix), ef, count)
    size = _done(kernels().approach(graph.ctypes.data, *numbers, room.address))
    found: Rows = (beam[:size] >> ROW_SHIFT) & (MAX_ROWS - 1)
    return found


def link(
    graph: Rows,
    live: int,
    rows: NDArray[np.int32],
    first: int,
    last: int,
    considered: int,
    met: NDArray[np.int32],
    links: NDArray[np.int32],
) -> None:
    """Link rows of a graph among themselves; see :func:`tiered_index.compiled.links.link`."""
    linked = rows.ctypes.data, len(rows), first, last, considered
    made = met.ctypes.data, len(met), links.ctypes.data, links.shape[1]
    _done(kernels().link(graph.ctypes.data, live, *linked, *made))


def answer(
    graph: Rows,
    full: Rows,
    prefix: Floats,
    query: Floats,
    k: int,
    ef: int,
    candidates: int,
    *,
    sketch: Rows = NO_SKETCH,
    patience: int = 0,
    few: float = 0.0,
    place: int = 0,
    live: int = 0,
    rows: NDArray[np.int32] = NO_ROWS,
    seeds: Rows = NO_SEEDS,
    walk_deadline_ns: int = 0,
    deadline_ns: int = 0,
    cold: bool = False,
) -> Answered:
    """Answer one query through both tiers of one segment.

    Parameters
    ----------
    graph, full : ndarray
        From :func:`graph_fields` and :func:`full_fields`.
    prefix, query : ndarray, shape (d,) and (dim,), float32, C-contiguous
        Of unit length under cosine.
    k, ef, candidates : int
        The plan; k at most :data:`MAX_K`.
    sketch : ndarray
        From :func:`sketch_fields`, of what orders candidates before they are read.
    patience : int
        The walk ends early after so many expansions in a row that find nothing better; 0 spends all of ef.
    few : float
        Rescoring ends when so few of the best k can be expected among the candidates that remain; 0 rescores
        all.
    place : int
        Which of the best that a walk finds tells how near they are, from 1; 0 for none.
    live, rows, seeds
        As for :func:`walk`.
    walk_deadline_ns, deadline_ns : int
        Of the walk and of both, on the clock of ``perf_counter_ns``; 0 for none.
    cold : bool
        Rows are likely not in memory: ask for them ahead of need, from the first on.
    """
    found = answer_many(
        graph,
        full,
        prefix[None],
        query[None],
        k,
        ef,
        candidates,
        threads=1,
        sketch=sketch,
        patience=patience,
        few=few,
        place=place,
        live=live,
        rows=rows,
        seeds=seeds,
        walk_deadline_ns=walk_deadline_ns,
        deadline_ns=deadline_ns,
        cold=cold,
    )
    count = found.found[0]
    return Answered(
        found.rows[0, :count],
        found.scores[0, :count],
        float(found.margins[0]),
        float(found.missed[0]),
        float(found.nearness[0]),
        *found[6:],
    )


def answer_many(
    graph: Rows,
    full: Rows,
    prefixes: Floats,
    queries: Floats,
    k: int,
    ef: int,
    candidates: int,
    *,
    threads: int,
    sketch: Rows = NO_SKETCH,
    patience: int = 0,
    few: float = 0.0,
    place: int = 0,
    live: int = 0,
    rows: NDArray[np.int32] = NO_ROWS,
    seeds: Rows = NO_SEEDS,
    walk_deadline_ns: int = 0,
    deadline_ns: int = 0,
    cold: bool = False,
) -> AnsweredMany:
    """Answer queries, shape (n, d) and (n, dim), with several threads; else as :func:`answer`."""
    prefixes, queries = _plain(prefixes, np.float32), _plain(queries, np.float32)
    rows, seeds = _plain(rows, np.int32), _plain(seeds, np.int64)
    n, dim, prefix_dim = len(queries), int(full[DIM]), prefixes.shape[1]
    top_scores, top_rows = np.empty((n, k), np.float32), np.empty((n, k), np.int64)
    found, told = np.zeros(n, np.int64), np.zeros((n, SAID))
    search = np.empty(SEARCH_FIELDS, np.int64)
    search[GRAPH_AT : GRAPH_AT + GRAPH_FIELDS] = graph
    search[FULL_AT : FULL_AT + FULL_FIELDS] = full
    search[SKETCH_AT : SKETCH_AT + SKETCH_FIELDS] = sketch
    asked = (k, ef, candidates, patience, prefix_dim)
    may_be_found = (live, rows.ctypes.data, len(rows), seeds.ctypes.data, len(seeds))
    search[K:] = (*asked, *may_be_found, cold, walk_deadline_ns, deadline_ns, place)
    reals = np.array([few, -np.inf])
    what = search.ctypes.data, reals.ctypes.data
    given = [(prefixes.ctypes.data, 4 * prefix_dim), (queries.ctypes.data, 4 * dim)]
    places = (
        (top_scores.ctypes.data, 4 * k),
        (top_rows.ctypes.data, 8 * k),
        (found.ctypes.data, 8),
        (told.ctypes.data, 8 * SAID),
    )
    starts = iter(range(0, n, _AT_ONCE))  # the next is taken by whoever is free

    def some() -> Rows:
        room, totals = own.room, np.zeros(STATE_FIELDS, np.int64)
        room.beam_of(2 * ef)
        for start in starts:
            size = min(_AT_ONCE, n - start)
            addresses = [address + start * width for address, width in (*given, *places)]
            _done(kernels().answer_many(*what, size, *addresses, totals.ctypes.data, room.address))
        return totals

    helpers = max(min(threads, -(-n // _AT_ONCE)), 1) - 1
    if helpers > 0:
        with ThreadPoolExecutor(helpers) as pool:
            others = [pool.submit(some) for _ in range(helpers)]
            totals = some()
            totals += sum(other.result() for other in others)
    else:
        totals = some()
    late, distances, read, cold_rows, coarse_ns, rescore_ns = totals[LATE:].tolist()
    return AnsweredMany(
        top_rows,
        top_scores,
        found,
        told[:, MARGIN],
        told[:, MISSED],
        told[:, NEARNESS],
        bool(late),
        distances,
        read,
        cold_rows,
        coarse_ns / 1e6 / (helpers + 1),
        rescore_ns / 1e6 / (helpers + 1),
    )


def _plain(array: NDArray[Any], kind: type) -> NDArray[Any]:
    """Return numbers of a kind, one after the other: an address tells nothing else of them."""
    return np.ascontiguousarray(array, kind)


def _done(returned: int) -> int:
    """Return what a kernel did, unless it failed."""
    if returned == FAILED:
        raise RuntimeError("compiled code ended with an error")
    return returned
