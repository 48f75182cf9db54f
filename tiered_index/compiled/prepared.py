"""One query of a search whose plan is decided: an array of numbers says all that is the same for each.

What a search takes beside its walk is mostly the interpreter's, and more so after a walk has emptied the
caches of it. Here a query goes from what the caller gave to ids and scores in one call, which is told
addresses.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from tiered_index.compiled import HARD
from tiered_index.compiled.answered import TooFar
from tiered_index.compiled.kernels import kernels
from tiered_index.compiled.layout import (
    CANDIDATES,
    DIM,
    DIRECTIONS,
    DONE_BY,
    EF,
    ENOUGH,
    FAILED,
    FILES,
    FIRST,
    FULL_AT,
    FULL_FIELDS,
    GRAPH_AT,
    GRAPH_FIELDS,
    GROW,
    IDS,
    IS_COLD,
    LIVE,
    NEAR_EF,
    NEAR_ROWS,
    PATIENCE,
    PLACE,
    PREFIX_DIM,
    PREPARED_FIELDS,
    REALS,
    ROWS,
    ROWS_COUNT,
    SEEDS,
    SEEDS_COUNT,
    SKETCH_AT,
    SKETCH_FIELDS,
    TIMED,
    TOLD,
    UNIT,
    WALK_BY,
    K,
)
from tiered_index.compiled.room import own
from tiered_index.limits import Limits
from tiered_index.planner.plan import Plan

_ADDRESS: Final = object.__basicsize__
"""Where an ndarray object holds the address of its numbers: what NumPy's interface for C promises."""


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
    place : int
        Which of the best that a walk finds tells how near they are, from 1; 0 for none.
    least : float
        The least that its prefix score must be for the plan.
    live, rows, seeds
        Which rows may be found; see :func:`tiered_index.compiled.engine.walk`.
    kept : object
        What else must live as long as addresses in `graph` are used.
    """

    __slots__ = ("_address", "_answer", "_dim", "_ef", "_ids", "_k", "_kept")

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
        place: int,
        least: float,
        live: int = 0,
        rows: NDArray[np.int32] | None = None,
        seeds: NDArray[np.int64] | None = None,
        kept: object = None,
    ) -> None:
        fields = np.zeros(PREPARED_FIELDS, np.int64)
        fields[GRAPH_AT : GRAPH_AT + GRAPH_FIELDS] = graph
        fields[FULL_AT : FULL_AT + FULL_FIELDS] = full
        fields[SKETCH_AT : SKETCH_AT + SKETCH_FIELDS] = sketch
        fields[K], fields[EF], fields[CANDIDATES] = k, plan.ef, plan.candidates
        fields[PATIENCE], fields[PREFIX_DIM], fields[UNIT] = plan.early_stop, plan.prefix_dim, unit
        fields[TIMED], fields[IS_COLD] = limits.call_ns > 0, limits.cold
        fields[WALK_BY], fields[DONE_BY] = limits.walk_ns, limits.call_ns
        fields[LIVE], fields[FIRST], fields[ENOUGH] = live, first, enough
        fields[NEAR_EF], fields[NEAR_ROWS], (near_enough, far) = near
        fields[PLACE] = place
        if rows is not None:
            fields[ROWS], fields[ROWS_COUNT] = rows.ctypes.data, len(rows)
        if seeds is not None:
            fields[SEEDS], fields[SEEDS_COUNT] = seeds.ctypes.data, len(seeds)
        if directions is not None:
            fields[DIRECTIONS] = directions.ctypes.data
        if numbers is not None:
            fields[IDS] = numbers.ctypes.data
        certain = rows is None or not plan.misses or plan.candidates >= len(rows)
        most = np.inf if certain else plan.misses
        reals = np.array([plan.misses, least, *safe, near_enough, most, far])
        fields[REALS] = reals.ctypes.data
        fields[FILES:] = np.array(files).reshape(-1)
        self._address = fields.ctypes.data
        self._k, self._ef, self._dim = k, plan.ef, int(full[DIM])
        self._ids = numbers is not None
        self._answer = kernels().answer_prepared
        # as long as their addresses are used
        self._kept = (fields, reals, numbers, rows, seeds, directions, kept)

    def answer(self, query: NDArray[np.float32], started_ns: int) -> Any:
        """Answer one query of the right type and shape.

        Returns
        -------
        tuple or int
            Addresses, ids (None where they are texts), scores, and what it took: the fields of
            :class:`~tiered_index.compiled.answered.Answered` from `margin` on, times in ns. Else
            :data:`~tiered_index.compiled.OTHERWISE` where the query cannot be scaled, a file has become
            shorter, or too little was found, or why the plan is not for it; or a
            :class:`~tiered_index.compiled.answered.TooFar`.
        """
        k, room = self._k, own.room
        rows, ids = np.empty(k, np.int64), np.empty(k, np.int64)
        scores, told = np.empty(k, np.float32), np.empty(TOLD, np.float64)
        if not (query.flags.c_contiguous and query.flags.aligned):
            query = np.array(query)
        while True:
            found = self._answer(
                self._address,
                room.address,
                id(query) + _ADDRESS,
                started_ns,
                id(rows) + _ADDRESS,
                id(ids) + _ADDRESS,
                id(scores) + _ADDRESS,
                id(told) + _ADDRESS,
            )
            if found != GROW:
                break
            room.beam_of(2 * self._ef)
            room.make_query(self._dim)
        if found < k:
            if found == FAILED:
                raise RuntimeError("compiled code ended with an error")
            if found == HARD:
                return TooFar(told)
            if found < 0:
                return found
            rows, ids, scores = rows[:found], ids[:found], scores[:found]
        return rows, ids if self._ids else None, scores, told
