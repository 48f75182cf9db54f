"""Whole queries over raw addresses: many of one search, or one of a search that is prepared."""

from __future__ import annotations

import numpy as np
from numba import carray, njit

from tiered_index.compiled import FAR_FEWER_NEAR, FEWER_NEAR, HARD, NONE_NEAR, OTHERWISE
from tiered_index.compiled.answer import answer
from tiered_index.compiled.beam import row_of
from tiered_index.compiled.layout import (
    BEAM,
    BEAM_SIZE,
    BITS,
    CANDIDATES,
    DIM,
    DIRECTIONS,
    DISTANCES,
    DONE_BY,
    EF,
    ENOUGH,
    ENTRY,
    FEW,
    FILE_SIZE,
    FILES,
    FIRST,
    FULL_AT,
    FULL_FIELDS,
    GRAPH_AT,
    GRAPH_FIELDS,
    GROW,
    IDS,
    IS_COLD,
    LATE,
    LEAST,
    LEAST_FAR,
    LEAST_NEAR,
    LIVE,
    MARGIN,
    MISSED,
    MOST_MISSED,
    NEAR_EF,
    NEAR_ROWS,
    NEARNESS,
    ORDER,
    ORDER_SIZE,
    PATIENCE,
    PLACE,
    PREFIX,
    PREFIX_DIM,
    PREPARED_FIELDS,
    PREPARED_REALS,
    QUERY,
    QUERY_SIZE,
    REALS,
    RECENT,
    RECENT_SIZE,
    ROOM_FIELDS,
    ROWS,
    ROWS_COUNT,
    ROWS_READ,
    SAFE_HIGH,
    SAFE_LOW,
    SAID,
    SEARCH_FIELDS,
    SEARCH_REALS,
    SEEDS,
    SEEDS_COUNT,
    SIZE,
    SKETCH_AT,
    SKETCH_DESCRIPTOR,
    SKETCH_FIELDS,
    STATE,
    STATE_FIELDS,
    SUMS,
    SUMS_SIZE,
    TABLE,
    TABLE_SIZE,
    TIMED,
    TOLD,
    TOLD_LATE,
    TOO_FAR,
    TOP_LEVEL,
    UNIT,
    WALK_BY,
    K,
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
from tiered_index.compiled.walk import approach, is_live


@njit(inline="always")
def _answer(graph, fields, reals, at, prefix, query, seeds, walk_by, done_by, scores, rows, state):  # type: ignore[no-untyped-def]
    return answer(
        graph,
        fields[FULL_AT : FULL_AT + FULL_FIELDS],
        fields[SKETCH_AT : SKETCH_AT + SKETCH_FIELDS],
        prefix,
        query,
        fields[K],
        fields[EF],
        fields[CANDIDATES],
        fields[PATIENCE],
        reals[FEW],
        fields[PLACE],
        reals[LEAST],
        fields[LIVE],
        carray(pointer_i32(fields[ROWS]), (fields[ROWS_COUNT],)),
        seeds,
        walk_by,
        done_by,
        fields[IS_COLD] != 0,
        carray(pointer_i64(at[BEAM]), (at[BEAM_SIZE],)),
        carray(pointer_i64(at[ORDER]), (at[ORDER_SIZE],)),
        carray(pointer_i32(at[TABLE]), (at[TABLE_SIZE],)),
        carray(pointer_f32(at[RECENT]), (at[RECENT_SIZE],)),
        carray(pointer_f64(at[SUMS]), (at[SUMS_SIZE],)),
        scores,
        rows,
        state,
    )


def answer_many(search, reals, count, prefixes, queries, scores, rows, found, told, totals, room):  # type: ignore[no-untyped-def]
    """Answer queries; return how many.

    Parameters
    ----------
    search, reals, room : int
        Addresses of what :mod:`tiered_index.compiled.layout` names.
    count : int
        How many queries.
    prefixes, queries : int
        Addresses of float32 numbers, those of a query one after the other.
    scores, rows, found, told : int
        Addresses of what gets scores and rows of each query, best first, how many they are, and the final
        margin, how many of the best are expected among candidates that were not read, and how near the best
        of a walk are.
    totals : int
        Address of what adds up what the walks report.
    """
    fields, at = carray(pointer_i64(search), (SEARCH_FIELDS,)), carray(pointer_i64(room), (ROOM_FIELDS,))
    numbers = carray(pointer_f64(reals), (SEARCH_REALS,))
    state = carray(pointer_i64(at[STATE]), (STATE_FIELDS,))
    total = carray(pointer_i64(totals), (STATE_FIELDS,))
    graph = fields[GRAPH_AT : GRAPH_AT + GRAPH_FIELDS]
    seeds = carray(pointer_i64(fields[SEEDS]), (fields[SEEDS_COUNT],))
    k, prefix_dim, dim = fields[K], fields[PREFIX_DIM], fields[FULL_AT + DIM]
    counts, said = carray(pointer_i64(found), (count,)), carray(pointer_f64(told), (SAID * count,))
    for i in range(count):
        counts[i], said[SAID * i + MARGIN], said[SAID * i + MISSED], said[SAID * i + NEARNESS] = _answer(
            graph,
            fields,
            numbers,
            at,
            carray(pointer_f32(prefixes + 4 * i * prefix_dim), (prefix_dim,)),
            carray(pointer_f32(queries + 4 * i * dim), (dim,)),
            seeds,
            fields[WALK_BY],
            fields[DONE_BY],
            carray(pointer_f32(scores + 4 * i * k), (k,)),
            carray(pointer_i64(rows + 8 * i * k), (k,)),
            state,
        )
        total[LATE] = max(total[LATE], state[LATE])
        for field in range(DISTANCES, STATE_FIELDS):
            total[field] += state[field]
    return count


@njit
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


def answer_prepared(search, room, given, started, rows, ids, scores, told):  # type: ignore[no-untyped-def]
    """Answer one query.

    Return how many rows were found, :data:`~tiered_index.compiled.layout.GROW`, or a negative number that
    the package names.

    Parameters
    ----------
    search, room : int
        Addresses of what :mod:`tiered_index.compiled.layout` names.
    given : int
        Address of that of the query as the caller gave it, float32.
    started : int
        When the call came in, on the clock of ``perf_counter_ns``.
    rows, ids, scores, told : int
        Addresses of those of what gets the addresses, ids and scores of what is found, best first, and what
        it took.
    """
    fields, at = carray(pointer_i64(search), (PREPARED_FIELDS,)), carray(pointer_i64(room), (ROOM_FIELDS,))
    reals = carray(pointer_f64(fields[REALS]), (PREPARED_REALS,))
    for file in range(3):
        if size_of_file(fields[FILES + 2 * file]) < fields[FILES + 2 * file + 1]:
            return OTHERWISE
    if (
        fields[SKETCH_AT + BITS] > 0
        and size_of_file(fields[SKETCH_AT + SKETCH_DESCRIPTOR]) < fields[SKETCH_AT + FILE_SIZE]
    ):
        return OTHERWISE
    dim, prefix_dim = fields[FULL_AT + DIM], fields[PREFIX_DIM]
    if at[BEAM_SIZE] < 2 * fields[EF] or at[QUERY_SIZE] < dim:
        return GROW
    query = carray(pointer_f32(load_i64(given)), (dim,))
    whole = carray(pointer_f32(at[QUERY]), (dim,))
    prefix = carray(pointer_f32(at[PREFIX]), (prefix_dim,))
    square = np.float64(dot_f32(load_i64(given), load_i64(given), dim))
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
    graph = fields[GRAPH_AT : GRAPH_AT + GRAPH_FIELDS]
    seeds = carray(pointer_i64(fields[SEEDS]), (fields[SEEDS_COUNT],))
    if reals[LEAST_NEAR] > 0.0:
        graph, seeds = graph.copy(), seeds.copy()
        share = _look_around(fields, at, prefix_dim, state, graph, seeds)
        if share < reals[LEAST_NEAR]:
            if share == 0.0:
                return NONE_NEAR
            return FAR_FEWER_NEAR if share < reals[LEAST_FAR] else FEWER_NEAR
    k = fields[K]
    best = carray(pointer_i64(load_i64(rows)), (k,))
    said = carray(pointer_f64(load_i64(told)), (TOLD,))
    found, said[MARGIN], said[MISSED], said[NEARNESS] = _answer(
        graph,
        fields,
        reals,
        at,
        prefix,
        whole,
        seeds,
        started + fields[WALK_BY] if fields[TIMED] else 0,
        started + fields[DONE_BY] if fields[TIMED] else 0,
        carray(pointer_f32(load_i64(scores)), (k,)),
        best,
        state,
    )
    for i in range(LATE, STATE_FIELDS):
        said[TOLD_LATE + i - LATE] = state[i]
    if found == TOO_FAR:
        return HARD
    if not state[LATE] and (state[ROWS_READ] < fields[ENOUGH] or said[MISSED] > reals[MOST_MISSED]):
        return OTHERWISE
    if fields[IDS]:
        numbers = carray(pointer_i64(load_i64(ids)), (k,))
        for i in range(found):
            numbers[i] = load_i64(fields[IDS] + 8 * best[i])
    for i in range(found):
        best[i] += fields[FIRST]
    return found
