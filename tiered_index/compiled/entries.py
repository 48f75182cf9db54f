"""What is called from outside of compiled code: whole numbers in, a whole number out.

Those that find rows leave them in the beam and return how many there are.

Room to work in, graphs, sketches and searches are given by the addresses of arrays that
:mod:`tiered_index.compiled.layout` describes.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final

from numba import carray, njit

from tiered_index.compiled import links as linking
from tiered_index.compiled import queries
from tiered_index.compiled import scan as scanning
from tiered_index.compiled import sketch as sketching
from tiered_index.compiled import walk as walking
from tiered_index.compiled.layout import (
    BEAM,
    BEAM_SIZE,
    GRAPH_FIELDS,
    ORDER,
    ORDER_SIZE,
    ROOM_FIELDS,
    SIZE,
    SKETCH_FIELDS,
    STATE,
    STATE_FIELDS,
    SUMS,
    SUMS_SIZE,
    TABLE,
    TABLE_SIZE,
)
from tiered_index.compiled.operations import pointer_f32, pointer_f64, pointer_i32, pointer_i64

_entry = njit(no_cpython_wrapper=True, no_cfunc_wrapper=True)


@njit(inline="always")
def _graph(address):  # type: ignore[no-untyped-def]
    return carray(pointer_i64(address), (GRAPH_FIELDS,))


@njit(inline="always")
def _worked_in(room):  # type: ignore[no-untyped-def]
    """Return the beam, the table and the state of a room."""
    at = carray(pointer_i64(room), (ROOM_FIELDS,))
    return (
        carray(pointer_i64(at[BEAM]), (at[BEAM_SIZE],)),
        carray(pointer_i32(at[TABLE]), (at[TABLE_SIZE],)),
        carray(pointer_i64(at[STATE]), (STATE_FIELDS,)),
    )


@_entry
def walk(graph, prefix, dims, ef, live, seeds, seeds_count, deadline, room):  # type: ignore[no-untyped-def]
    """See :func:`tiered_index.compiled.walk.walk`; `seeds` are int64."""
    beam, table, state = _worked_in(room)
    begun = carray(pointer_i64(seeds), (seeds_count,))
    walking.walk(_graph(graph), prefix, dims, ef, live, begun, beam, table, state, deadline)
    return state[SIZE]


@_entry
def scan(graph, prefix, dims, ef, rows, rows_count, room):  # type: ignore[no-untyped-def]
    """See :func:`tiered_index.compiled.scan.scan_all`; `rows` are int32."""
    beam, _, state = _worked_in(room)
    scanned = carray(pointer_i32(rows), (rows_count,))
    scanning.scan_all(_graph(graph), prefix, dims, scanned, ef, beam, state)
    return state[SIZE]


@_entry
def approach(graph, prefix, dims, ef, count, room):  # type: ignore[no-untyped-def]
    """See :func:`tiered_index.compiled.walk.approach`."""
    beam, table, state = _worked_in(room)
    walking.approach(_graph(graph), prefix, dims, ef, count, beam, table, state)
    return state[SIZE]


@_entry
def arrange(sketch, query, dim, dims, room):  # type: ignore[no-untyped-def]
    """See :func:`tiered_index.compiled.sketch.arrange`; the query has `dim` dimensions."""
    at = carray(pointer_i64(room), (ROOM_FIELDS,))
    beam, _, state = _worked_in(room)
    sketching.arrange(
        carray(pointer_i64(sketch), (SKETCH_FIELDS,)),
        carray(pointer_f32(query), (dim,)),
        dims,
        beam,
        carray(pointer_i64(at[ORDER]), (at[ORDER_SIZE],)),
        carray(pointer_f64(at[SUMS]), (at[SUMS_SIZE],)),
        state,
    )
    return state[SIZE]


@_entry
def link(graph, live, rows, rows_count, first, last, considered, met, met_count, links, kept):  # type: ignore[no-untyped-def]
    """See :func:`tiered_index.compiled.links.link`."""
    linking.link(
        _graph(graph),
        live,
        carray(pointer_i32(rows), (rows_count,)),
        first,
        last,
        considered,
        carray(pointer_i32(met), (met_count,)),
        carray(pointer_i32(links), (rows_count, kept)),
    )
    return last


ENTRIES: Final[dict[str, Callable[..., Any]]] = {
    "walk": walk,
    "scan": scan,
    "approach": approach,
    "arrange": arrange,
    "link": link,
    "answer_many": _entry(queries.answer_many),
    "answer_prepared": _entry(queries.answer_prepared),
}
