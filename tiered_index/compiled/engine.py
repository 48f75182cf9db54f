"""What Python calls of the compiled road: addresses in, arrays out."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tiered_index.compiled import answer as both
from tiered_index.compiled import batch as many
from tiered_index.compiled import scan as scanning
from tiered_index.compiled import sketch as sketching
from tiered_index.compiled import walk as coarse
from tiered_index.compiled.answered import Answered, AnsweredMany, Floats, Rows
from tiered_index.compiled.beam import COARSE_NS, DISTANCES, FULL, LATE, ROW_SHIFT, SIZE, STATE_FIELDS
from tiered_index.compiled.beam import MAX_ROWS as MAX_ROWS
from tiered_index.compiled.links import link as link
from tiered_index.compiled.prepared import Prepared
from tiered_index.compiled.room import room as _room
from tiered_index.compiled.sketch import SKETCH_FIELDS
from tiered_index.limits import NO_LIMITS
from tiered_index.planner.plan import Plan
from tiered_index.sketch import ROUNDS

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
    return np.array([codes, code_bytes, offsets, links, *degrees, entry, level, ranges, 0, 0], np.int64)


def linked(graph: Rows, places: int, links: int) -> Rows:
    """Return a graph some of whose rows are linked among themselves too, by address; see :func:`link`."""
    found = graph.copy()
    found[coarse.PLACES], found[coarse.AMONG] = places, links
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
    room = _room
    beam = room.beam_of(2 * ef)  # a scan sorts them out when there are twice as many
    state, address, size = room.state, prefix.ctypes.data, len(prefix)
    while True:
        if len(rows):
            scanning.scan_all(graph, address, size, rows, ef, beam, state)
        else:
            coarse.walk(graph, address, size, ef, live, seeds, beam, room.table, state, deadline_ns)
        if not state[FULL]:
            break
        room.make_spill()
    keys = beam[: state[SIZE]]
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
) -> tuple[Rows, float]:
    """Walk as :func:`walk` does; return rows in the order of scores that sketches estimate, and the ms."""
    walk(graph, prefix, ef, live=live, seeds=seeds)
    room = _room
    if not query.flags.writeable:
        query = query.copy()
    sketching.arrange(sketch, query, len(prefix), room.beam, room.order, room.sums, room.state)
    state = room.state
    found: Rows = (room.order[: state[SIZE]] >> ROW_SHIFT) & (MAX_ROWS - 1)
    return found, int(state[COARSE_NS]) / 1e6


def near(graph: Rows, prefix: Floats, ef: int, count: int) -> Rows:
    """Return about the `count` nearest rows of the whole graph, as a beam of `ef` meets them."""
    room = _room
    beam, state = room.beam_of(count), room.state
    coarse.approach(graph, prefix.ctypes.data, len(prefix), ef, count, beam, room.table, state)
    found: Rows = (beam[: state[SIZE]] >> ROW_SHIFT) & (MAX_ROWS - 1)
    return found


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
    stop: float = 0.0,
    few: float = 0.0,
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
    stop : float
        Margin at which the walk ends early; 0 spends all of ef and candidates.
    few : float
        Rescoring ends when so few of the best k can be expected among the candidates that remain; 0 rescores
        all. Not together with `stop`.
    live, rows, seeds
        As for :func:`walk`.
    walk_deadline_ns, deadline_ns : int
        Of the walk and of both, on the clock of ``perf_counter_ns``; 0 for none.
    cold : bool
        Rows are likely not in memory: ask for them ahead of need, from the first on.
    """
    room = _room
    beam = room.beam_of(2 * ef)
    state = room.state
    top_scores, top_rows = np.empty(k, np.float32), np.empty(k, np.int64)
    if not (query.flags.writeable and prefix.flags.writeable):  # another type, which would be compiled for
        query, prefix = query.copy(), prefix.copy()
    while True:
        found, margin, missed = both.answer(
            graph,
            full,
            sketch,
            prefix,
            query,
            k,
            ef,
            candidates,
            float(stop),
            float(few),
            live,
            rows,
            seeds,
            walk_deadline_ns,
            deadline_ns,
            bool(cold),
            beam,
            room.order,
            room.spill,
            room.table,
            room.recent,
            room.sums,
            top_scores,
            top_rows,
            state,
        )
        if not state[FULL]:
            break
        room.make_spill()
    late, distances, read, cold_rows, coarse_ns, rescore_ns = state[LATE:].tolist()
    return Answered(
        top_rows[:found],
        top_scores[:found],
        margin,
        missed,
        bool(late),
        distances,
        read,
        cold_rows,
        coarse_ns / 1e6,
        rescore_ns / 1e6,
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
    stop: float = 0.0,
    few: float = 0.0,
    live: int = 0,
    rows: NDArray[np.int32] = NO_ROWS,
    seeds: Rows = NO_SEEDS,
    walk_deadline_ns: int = 0,
    deadline_ns: int = 0,
    cold: bool = False,
) -> AnsweredMany:
    """Answer queries, shape (n, d) and (n, dim), with several threads; else as :func:`answer`."""
    n = len(queries)
    top_scores, top_rows = np.empty((n, k), np.float32), np.empty((n, k), np.int64)
    found, margins, missed = np.zeros(n, np.int64), np.zeros(n), np.zeros(n)
    if not (queries.flags.writeable and prefixes.flags.writeable):
        queries, prefixes = queries.copy(), prefixes.copy()
    starts = iter(range(0, n, _AT_ONCE))  # the next is taken by whoever is free

    def some() -> Rows:
        room, totals = _room, np.zeros(STATE_FIELDS, np.int64)
        beam = room.beam_of(2 * ef)
        for start in starts:
            part, done = slice(start, start + _AT_ONCE), 0
            size = len(queries[part])
            while done < size:
                done = many.answer_many(
                    done,
                    graph,
                    full,
                    sketch,
                    prefixes[part],
                    queries[part],
                    k,
                    ef,
                    candidates,
                    float(stop),
                    float(few),
                    live,
                    rows,
                    seeds,
                    walk_deadline_ns,
                    deadline_ns,
                    bool(cold),
                    beam,
                    room.order,
                    room.spill,
                    room.table,
                    room.recent,
                    room.sums,
                    top_scores[part],
                    top_rows[part],
                    found[part],
                    margins[part],
                    missed[part],
                    room.state,
                    totals,
                )
                if done < size:
                    room.make_spill()
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
        margins,
        missed,
        bool(late),
        distances,
        read,
        cold_rows,
        coarse_ns / 1e6 / (helpers + 1),
        rescore_ns / 1e6 / (helpers + 1),
    )


def load() -> Any:
    """Compile, or read from the cache, what a search needs, so that no search waits for it."""
    codes = np.zeros((1, 32), np.uint8)
    offsets, links = np.array([0, 1], np.int64), np.full(1, -1, np.int32)
    vectors, bases = np.zeros((1, 16), np.float32), np.zeros(1, np.int64)
    query = np.zeros(16, np.float32)
    graph = graph_fields(codes.ctypes.data, 32, offsets.ctypes.data, links.ctypes.data, (1, 1), 0, 0, 0)
    full = full_fields(vectors.ctypes.data, bases.ctypes.data, 13, 64, 16, False, 0, -1)
    walk(graph, query, 1)
    near(graph, query, 1, 1)
    walk(graph, query, 1, rows=links[:1] + 1)
    link(graph, links.ctypes.data, links[:0], 0, 0, links, links[None])
    record, signs = np.zeros(16, np.uint8), np.ones(8 * ROUNDS, np.float32)
    addresses = record.ctypes.data, signs.ctypes.data
    ordered(graph, sketch_fields(addresses[0], 16, 1, 1, 8, 8, addresses[1], 1, -1, 0), query, query, 1)
    answer_many(graph, full, query[None], query[None], 1, 1, 1, threads=1)
    plan = Plan(strategy="graph", prefix_dim=16, ef=1, candidates=1)
    file = (-1, -1)
    Prepared(
        graph,
        full,
        NO_SKETCH,
        [file] * 3,
        None,
        0,
        1,
        plan,
        NO_LIMITS,
        1,
        unit=False,
        safe=(-1.0, 1.0),
        directions=None,
        near=(1, 1, (0.0, 0.0)),
    ).answer(query, 0)
    return answer(graph, full, query, query, 1, 1, 1)
