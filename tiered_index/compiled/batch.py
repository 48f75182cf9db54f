"""Many queries in one call, so that threads of Python need the interpreter once for all of theirs."""

from __future__ import annotations

import numpy as np
from numba import njit

from tiered_index.compiled.answer import answer
from tiered_index.compiled.beam import (
    DISTANCES,
    FULL,
    LATE,
    STATE_FIELDS,
)


@njit(nogil=True, cache=True)
def answer_many(  # type: ignore[no-untyped-def]
    first,
    graph,
    full,
    sketch,
    prefixes,
    queries,
    k,
    ef,
    candidates,
    stop,
    few,
    live,
    rows,
    seeds,
    walk_deadline,
    deadline,
    cold,
    beam,
    order,
    spill,
    table,
    recent,
    sums,
    top_scores,
    top_rows,
    found,
    margins,
    missed,
    state,
    totals,
):
    """Answer queries from `first` on; return how many are answered, fewer where `spill` has no room left.

    Parameters are those of :func:`~tiered_index.compiled.answer.answer`, with one row or number a query in
    what belongs to one. `totals` adds up what `state` reports.
    """
    for i in range(first, len(queries)):
        found[i], margins[i], missed[i] = answer(
            graph,
            full,
            sketch,
            prefixes[i],
            queries[i],
            k,
            ef,
            candidates,
            stop,
            few,
            live,
            rows,
            seeds,
            walk_deadline,
            deadline,
            cold,
            beam,
            order,
            spill,
            table,
            recent,
            sums,
            top_scores[i],
            top_rows[i],
            state,
        )
        if state[FULL]:
            return i
        totals[LATE] = max(totals[LATE], state[LATE])
        for field in range(DISTANCES, STATE_FIELDS):
            totals[field] += state[field]
    return np.int64(len(queries))
