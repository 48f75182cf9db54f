"""Grouped search: the best rows of each group, so that one group does not crowd out the others."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tiered_index.config import in_range
from tiered_index.errors import DimensionError, ParameterError
from tiered_index.planner.plan import MAX_EF, MAX_K
from tiered_index.results import SearchResult
from tiered_index.storage.groups import check_groups, group_values
from tiered_index.storage.snapshot import Snapshot

_FIRST = 4
"""Rows that are searched for, for each that is wanted; then so many times more, until it is enough."""


def grouped(
    snapshot: Snapshot,
    answer: Callable[[int, Mapping[str, Any]], SearchResult],
    k: int,
    column: str,
    size: int,
    fixed: Mapping[str, Any],
    *,
    once: bool,
) -> SearchResult:
    """Search for the best rows of each of k groups, among the best :data:`MAX_K` rows at most.

    Where these hold too few groups, the result says so.

    Parameters
    ----------
    snapshot : Snapshot
        What is searched.
    answer : callable
        Given how many rows are wanted, and what of the plan is fixed, searches for them.
    k, size : int
        Groups, and rows of each.
    column : str
        Whose values make the groups.
    fixed : mapping
        Parts of the plan that the caller fixed, None where not. How many rows a group's search is for depends
        on the data: an `ef` or `candidates` below that is raised to it.
    once : bool
        There is no time for a second search.

    Raises
    ------
    FilterError
        There is no such column, or its values are not ones that can be equal.
    ParameterError
        A number out of range, or groups of more rows together than a search returns.
    DimensionError
        Several queries.
    """
    in_range("k", k, 1, MAX_K)
    in_range("group_size", size, 1, MAX_K)
    if k * size > MAX_K:
        raise ParameterError(f"k={k} groups of group_size={size} are {k * size} rows: more than {MAX_K}")
    widths = {name: fixed[name] for name in ("ef", "candidates") if fixed[name] is not None}
    for name, width in widths.items():
        in_range(name, width, k, MAX_EF)
    check_groups(snapshot, column)
    wanted = min(_FIRST * k * size, MAX_K)
    while True:
        result = answer(wanted, {**fixed, **{name: max(width, wanted) for name, width in widths.items()}})
        if result.ids.ndim != 1:
            raise DimensionError("group_by= takes one query, not several")
        values = group_values(snapshot, column, result.addresses)
        places, groups, full = _places(values, k, size)
        if full or once or len(result) < wanted or wanted == MAX_K:
            fewer = None
            more = len(result) == wanted < snapshot.rows  # which were not looked at
            if more and (groups < k or not (full or once)):
                found = f"{groups} of {k} groups were found" if groups < k else "not all groups are full"
                fewer = f"{found} among the best {wanted} rows"
            result.keep(places, fewer)
            result.groups = [values[place] for place in places.tolist()]
            return result
        wanted = min(_FIRST * wanted, MAX_K)


def _places(values: list[object], k: int, size: int) -> tuple[NDArray[np.int64], int, bool]:
    """Return the places of the best `size` rows of the first k groups.

    And how many groups these are, and whether they are k and all full.
    """
    groups: dict[object, list[int]] = {}
    for place, value in enumerate(values):
        group = groups.setdefault((place, None) if _is_alone(value) else value, [])
        if len(group) < size:
            group.append(place)
    best = list(groups.values())[:k]
    full = len(best) == k and all(len(group) == size or _is_alone(values[group[0]]) for group in best)
    return np.array([place for group in best for place in group], np.int64), len(best), full


def _is_alone(value: object) -> bool:
    """Return whether a value equals no other: null, and NaN."""
    return value is None or value != value
