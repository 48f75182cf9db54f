"""One query of a search whose plan is decided: two arrays of numbers say all that is the same for each.

What a search takes beside its walk is mostly the interpreter's, and more so after a walk has emptied the
caches of it. Here a query goes from what the caller gave to ids and scores in one call of few arguments.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final

import numpy as np
from numba import carray, njit
from numpy.typing import NDArray

from tiered_index.compiled import FAR_FEWER_NEAR, FEWER_NEAR, NONE_NEAR, OTHERWISE
from tiered_index.compiled.answer import answer
from tiered_index.compiled.beam import (
    FULL,
    LATE,
    ROWS_READ,
    SIZE,
    STATE_FIELDS,
    row_of,
)
from tiered_index.compiled.operations import (
    load_i64,
    pointer_f32,
    pointer_f64,
    pointer_i32,
    pointer_i64,
    size_of_file,
)
from tiered_index.compiled.products import dot_f32
from tiered_index.compiled.rescore import FULL_FIELDS
from tiered_index.compiled.room import (
    BEAM,
    BEAM_SIZE,
    ORDER,
    ORDER_SIZE,
    PREFIX,
    QUERY,
    QUERY_SIZE,
    RECENT,
    RECENT_SIZE,
    SPILL,
    SPILL_SIZE,
    STATE,
    SUMS,
    SUMS_SIZE,
    TABLE,
    TABLE_SIZE,
    room,
)
from tiered_index.compiled.sketch import BITS, DESCRIPTOR, FILE_SIZE
from tiered_index.compiled.walk import ENTRY, GRAPH_FIELDS, TOP_LEVEL, approach, is_live
from tiered_index.limits import Limits
from tiered_index.planner.plan import Plan

# What is the same for each query, in an array of int64; graph and full tier come first
K: Final = 20
EF: Final = 21
CANDIDATES: Final = 22
PREFIX_DIM: Final = 23
UNIT: Final = 24  # whether queries are scaled to unit length
TIMED: Final = 25  # whether there are deadlines
WALK_NS: Final = 26  # from the beginning of the call to the deadline of the walk
CALL_NS: Final = 27  # and of the whole
COLD: Final = 28
LIVE: Final = 29  # address of a bit a row, or 0
SEEDS: Final = 30  # address of rows to begin with, int64
SEEDS_COUNT: Final = 31
IDS: Final = 32  # address of each row's id, int64, or 0 where ids are texts
FIRST: Final = 33  # address of row 0 in the snapshot
ENOUGH: Final = 34  # rows to read, unless a deadline comes first
DIRECTIONS: Final = 35  # address of those whose components make prefixes, float32, or 0
ROWS: Final = 36  # address of rows to score and no others, int32
ROWS_COUNT: Final = 37  # 0 to walk
NEAR_EF: Final = 38  # beam, and rows, that tell how many of those near the query may be found
NEAR_ROWS: Final = 39
FILES: Final = 40  # of three files, descriptor and least size
FIELDS: Final = 46

# and of float64
STOP: Final = 0
FEW: Final = 1
SAFE_LOW: Final = 2  # squares of lengths between these are safe to divide by
SAFE_HIGH: Final = 3
LEAST_NEAR: Final = 4  # share of rows near the query that must be among those that may be found, or 0
MOST_MISSED: Final = 5  # what may be expected to be missed
LEAST_FAR: Final = 6  # share of rows near the query below which it is far fewer

# What is said of an answer, in an array of float64
MARGIN: Final = 0
MISSED: Final = 1
TOLD_LATE: Final = 2  # from here on, what the walk reports
TOLD: Final = 2 + STATE_FIELDS - LATE

# What is returned where it is not how many rows were found, besides what the package names
GROW: Final = -1  # the room is too small


@njit(nogil=True, cache=True)
def _look_around(fields, at, prefix_dim, state, graph, seeds):  # type: ignore[no-untyped-def]
    """Return which share of the rows near the query may be found.

    `graph` becomes one whose walk begins where they are; the first of `seeds` become such of them.
    """
    beam = carray(pointer_i64(at[BEAM]), (at[BEAM_SIZE],))
    table = carray(pointer_i32(at[TABLE]), (at[TABLE_SIZE],))
    approach(graph, at[PREFIX], prefix_dim, fields[NEAR_EF], fields[NEAR_ROWS], beam, table, state)
    graph[ENTRY], graph[TOP_LEVEL] = row_of(beam[0]), 0
    live = 0
    for i in range(state[SIZE]):
        row = row_of(beam[i])
        if is_live(fields[LIVE], row):
            if live < len(seeds):
                seeds[live] = row
            live += 1
    return live / state[SIZE]


@njit(nogil=True, cache=True)
def answer_prepared(fields, reals, sketch, at, query, started, rows, ids, scores, told):  # type: ignore[no-untyped-def]
    """Answer one query.

    Return how many rows were found, :data:`GROW`, or a negative number that the package names.

    Parameters
    ----------
    fields, reals, sketch : arrays
        As named in this module and the sketch's.
    at : int64 array
        Where there is room to work in, as named in :mod:`tiered_index.compiled.room`.
    query : float32 array
        As the caller gave it.
    started : int
        When the call came in, on the clock of ``perf_counter_ns``.
    rows, ids, scores, told : arrays
        Get the addresses, ids and scores of what is found, best first, and what it took.
    """
    for file in range(3):
        if size_of_file(fields[FILES + 2 * file]) < fields[FILES + 2 * file + 1]:
            return OTHERWISE
    if sketch[BITS] > 0 and size_of_file(sketch[DESCRIPTOR]) < sketch[FILE_SIZE]:
        return OTHERWISE
    dim, prefix_dim = len(query), fields[PREFIX_DIM]
    if at[BEAM_SIZE] < 2 * fields[EF] or at[QUERY_SIZE] < dim:
        return GROW
    given = query.ctypes.data
    whole = carray(pointer_f32(at[QUERY]), (dim,))
    prefix = carray(pointer_f32(at[PREFIX]), (prefix_dim,))
    square = np.float64(dot_f32(given, given, dim))
    if not reals[SAFE_LOW] < square < reals[SAFE_HIGH]:
        return OTHERWISE
    scale = np.float32(1.0 / np.sqrt(square)) if fields[UNIT] else np.float32(1.0)
    for i in range(dim):
        whole[i] = query[i] * scale
    if fields[DIRECTIONS]:
        for i in range(prefix_dim):
            prefix[i] = dot_f32(fields[DIRECTIONS] + 4 * dim * i, at[QUERY], dim)
    else:
        for i in range(prefix_dim):
            prefix[i] = whole[i]
    if fields[UNIT]:
        part = np.float64(dot_f32(at[PREFIX], at[PREFIX], prefix_dim))
        if not reals[SAFE_LOW] < part < reals[SAFE_HIGH]:
            return OTHERWISE
        scale = np.float32(1.0 / np.sqrt(part))
        for i in range(prefix_dim):
            prefix[i] *= scale
    state = carray(pointer_i64(at[STATE]), (STATE_FIELDS,))
    graph, seeds = fields[:GRAPH_FIELDS], carray(pointer_i64(fields[SEEDS]), (fields[SEEDS_COUNT],))
    if reals[LEAST_NEAR] > 0.0:
        graph, seeds = graph.copy(), seeds.copy()
        share = _look_around(fields, at, prefix_dim, state, graph, seeds)
        if share < reals[LEAST_NEAR]:
            if share == 0.0:
                return NONE_NEAR
            return FAR_FEWER_NEAR if share < reals[LEAST_FAR] else FEWER_NEAR
    found, told[MARGIN], told[MISSED] = answer(
        graph,
        fields[GRAPH_FIELDS : GRAPH_FIELDS + FULL_FIELDS],
        sketch,
        prefix,
        whole,
        fields[K],
        fields[EF],
        fields[CANDIDATES],
        reals[STOP],
        reals[FEW],
        fields[LIVE],
        carray(pointer_i32(fields[ROWS]), (fields[ROWS_COUNT],)),
        seeds,
        started + fields[WALK_NS] if fields[TIMED] else 0,
        started + fields[CALL_NS] if fields[TIMED] else 0,
        fields[COLD] != 0,
        carray(pointer_i64(at[BEAM]), (at[BEAM_SIZE],)),
        carray(pointer_i64(at[ORDER]), (at[ORDER_SIZE],)),
        carray(pointer_i64(at[SPILL]), (at[SPILL_SIZE],)),
        carray(pointer_i32(at[TABLE]), (at[TABLE_SIZE],)),
        carray(pointer_f32(at[RECENT]), (at[RECENT_SIZE],)),
        carray(pointer_f64(at[SUMS]), (at[SUMS_SIZE],)),
        scores,
        rows,
        state,
    )
    if state[FULL]:
        return GROW
    if not state[LATE] and (state[ROWS_READ] < fields[ENOUGH] or told[MISSED] > reals[MOST_MISSED]):
        return OTHERWISE
    for i in range(LATE, STATE_FIELDS):
        told[TOLD_LATE + i - LATE] = state[i]
    for i in range(found):
        if fields[IDS]:
            ids[i] = load_i64(fields[IDS] + 8 * rows[i])
        rows[i] += fields[FIRST]
    return found


class Prepared:
    """Answers queries one by one, as it was once decided; any number of threads may ask.

    Parameters
    ----------
    graph, full, sketch : ndarray
        What the tiers are; see :mod:`tiered_index.compiled.engine`.
    files : sequence of (int, int)
        Descriptor and size of the three files that are mapped.
    numbers : ndarray of int64, or None
        Each row's id; None where ids are texts.
    first : int
        Address of row 0.
    k : int
        Results a query.
    plan : Plan
        A walk, or a scan of `rows`.
    limits : Limits
        Deadlines counted from the beginning of a call.
    enough : int
        What finds fewer rows than these, and not for want of time, is no answer.
    unit : bool
        Whether queries are scaled to unit length.
    safe : (float, float)
        Squares of lengths between these are safe to divide by.
    directions : ndarray of float32, shape (prefix_dim or more, dim), or None
        Those whose components make prefixes, of a rotated index.
    near : (int, int, (float, float))
        Beam and rows that tell which share of the rows near a query may be found, the least that it must
        be for the plan, and below which it is far less; with a share of 0 it does not matter.
    live, rows, seeds
        Which rows may be found; see :func:`tiered_index.compiled.engine.walk`.
    kept : object
        What else must live as long as addresses in `graph` are used.
    """

    __slots__ = ("_ef", "_fields", "_ids", "_k", "_kept", "_reals", "_sketch")

    def __init__(
        self,
        graph: NDArray[np.int64],
        full: NDArray[np.int64],
        sketch: NDArray[np.int64],
        files: Sequence[tuple[int, int]],
        numbers: NDArray[np.int64] | None,
        first: int,
        k: int,
        plan: Plan,
        limits: Limits,
        enough: int,
        *,
        unit: bool,
        safe: tuple[float, float],
        directions: NDArray[np.float32] | None,
        near: tuple[int, int, tuple[float, float]],
        live: int = 0,
        rows: NDArray[np.int32] | None = None,
        seeds: NDArray[np.int64] | None = None,
        kept: object = None,
    ) -> None:
        fields = np.zeros(FIELDS, np.int64)
        fields[:GRAPH_FIELDS] = graph
        fields[GRAPH_FIELDS : GRAPH_FIELDS + FULL_FIELDS] = full
        fields[K], fields[EF], fields[CANDIDATES] = k, plan.ef, plan.candidates
        fields[PREFIX_DIM], fields[UNIT] = plan.prefix_dim, unit
        fields[TIMED], fields[COLD] = limits.call_ns > 0, limits.cold
        fields[WALK_NS], fields[CALL_NS] = limits.walk_ns, limits.call_ns
        fields[LIVE], fields[FIRST], fields[ENOUGH] = live, first, enough
        fields[NEAR_EF], fields[NEAR_ROWS], (least, far) = near
        if rows is not None:
            fields[ROWS], fields[ROWS_COUNT] = rows.ctypes.data, len(rows)
        if seeds is not None:
            fields[SEEDS], fields[SEEDS_COUNT] = seeds.ctypes.data, len(seeds)
        if directions is not None:
            fields[DIRECTIONS] = directions.ctypes.data
        if numbers is not None:
            fields[IDS] = numbers.ctypes.data
        fields[FILES:] = np.array(files).reshape(-1)
        self._fields = fields
        self._sketch = sketch
        certain = rows is None or not plan.misses or plan.candidates >= len(rows)
        most = np.inf if certain else plan.misses
        self._reals = np.array([plan.early_stop, plan.misses, *safe, least, most, far])
        self._k, self._ef = k, plan.ef
        self._ids = numbers is not None
        self._kept = (numbers, rows, seeds, directions, kept)  # as long as their addresses are used

    def answer(self, query: NDArray[np.float32], started_ns: int) -> Any:
        """Answer one query of the right type and shape.

        Returns
        -------
        tuple or int
            Addresses, ids (None where they are texts), scores, and what it took: the fields of
            :class:`~tiered_index.compiled.answered.Answered` from `margin` on, times in ns. Else
            :data:`~tiered_index.compiled.OTHERWISE` where the query cannot be scaled, a file has become
            shorter, or too little was found, or why the plan is not for it.
        """
        k = self._k
        rows, ids = np.empty(k, np.int64), np.empty(k, np.int64)
        scores, told = np.empty(k, np.float32), np.empty(TOLD, np.float64)
        if not query.flags.carray:  # another type, which would be compiled for
            query = np.array(query)
        while True:
            found = answer_prepared(
                self._fields,
                self._reals,
                self._sketch,
                room.fields,
                query,
                started_ns,
                rows,
                ids,
                scores,
                told,
            )
            if found != GROW:
                break
            room.beam_of(2 * self._ef)
            room.make_query(len(query))
            if room.state[FULL]:
                room.make_spill()
                room.state[FULL] = 0
        if found < k:
            if found < 0:
                return found
            rows, ids, scores = rows[:found], ids[:found], scores[:found]
        return rows, ids if self._ids else None, scores, told
