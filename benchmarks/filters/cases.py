"""The filters that are asked, made of the columns and of what the queries are about."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from benchmarks.filter_peers import Columns, Where
from benchmarks.filters.truth import Mask

SHARES = (0.9, 0.5, 0.1, 0.03, 0.01, 0.001)
FEW_ROWS = 10
SMALL_CATEGORY = 0.015
NOT_THE_LARGEST = 4
NEAR, FAR = 100, 1_000
"""A query's own category is the most frequent among so many of its best rows; a category that has nothing
to do with it has none among so many."""
FAR_AMONG = 8


class Case(NamedTuple):
    """A filter, or one a query.

    Attributes
    ----------
    name : str
        For tables.
    family : str
        "random", "topic", "own topic", "other topic", "time", "tenant" or "joined".
    wheres : list
        One filter for all queries, or one for each.
    fresh : bool
        Each search meets a filter that was not asked before, as with thousands of tenants.
    """

    name: str
    family: str
    wheres: list[Where]
    fresh: bool = False

    def where(self, query: int) -> Where:
        """Return a query's filter."""
        return self.wheres[query if len(self.wheres) > 1 else 0]


def make_cases(columns: Columns, nearest: NDArray[np.int64]) -> list[Case]:
    """Return the cases.

    Parameters
    ----------
    columns : Columns
        Of the rows.
    nearest : ndarray, shape (queries, FAR)
        The exact best rows among all.
    """
    rows, queries = len(columns.share), len(nearest)
    counts = np.bincount(columns.category[columns.category >= 0], minlength=len(columns.names))
    order = np.argsort(-counts, kind="stable")
    names: list[str] = columns.names[order].tolist()
    small = names[int(np.argmin(np.abs(counts[order] / rows - SMALL_CATEGORY)))]
    largest: dict[str, Any] = {"category": names[0]}
    begin, end, recent = (
        int(month) for month in np.quantile(columns.month, (0.5, 0.75, 0.8), method="nearest")
    )
    tenants = np.random.default_rng(2).permutation(np.unique(columns.tenant))
    found = [Case(f"random {share:g}", "random", [{"share": {"$lt": share}}]) for share in SHARES]
    found.append(Case(f"{FEW_ROWS} rows", "random", [{"share": {"$lt": FEW_ROWS / rows}}]))
    found.append(Case("no row", "random", [{"share": {"$lt": 0.0}}]))
    for place, words in ((0, "the largest"), (2, "the 3rd"), (5, "the 6th")):
        if place < len(names):
            found.append(Case(f"category: {words}", "topic", [{"category": names[place]}]))
    found.append(Case(f"category: of {SMALL_CATEGORY:.1%}", "topic", [{"category": small}]))
    others: Where = {"category": {"$nin": names[:NOT_THE_LARGEST]}}
    found.append(Case(f"not the largest {NOT_THE_LARGEST}", "topic", [others]))
    own, other = _topics(columns, nearest, order)
    found.append(Case("the query's own topic", "own topic", [{"category": str(name)} for name in own]))
    found.append(Case("a topic far away", "other topic", [{"category": str(name)} for name in other]))
    found.append(Case("months: a quarter", "time", [{"month": {"$gte": begin, "$lt": end}}]))
    asked = tenants[np.arange(queries) % len(tenants)].tolist()
    found.append(Case("a tenant each", "tenant", [{"tenant": tenant} for tenant in asked], fresh=True))
    both: Where = {"$and": [largest, {"month": {"$gte": recent}}]}
    found.append(Case("$and: category, months", "joined", [both]))
    return found


def _topics(
    columns: Columns, nearest: NDArray[np.int64], order: NDArray[np.intp]
) -> tuple[NDArray[np.str_], NDArray[np.str_]]:
    """Return each query's own category, and one that its best rows are not in."""
    own, other = [], []
    large = order[:FAR_AMONG]
    for best in nearest:
        near, far = (_counted(columns, best[:count]) for count in (NEAR, FAR))
        own.append(int(near.argmax()) if near.any() else int(order[0]))
        other.append(int(large[far[large].argmin()]))  # the first without any is the largest of those
    return columns.names[own], columns.names[other]


def _counted(columns: Columns, rows: NDArray[np.int64]) -> NDArray[np.intp]:
    codes = columns.category[rows]
    return np.bincount(codes[codes >= 0], minlength=len(columns.names))


def mask_of(case: Case, columns: Columns) -> Mask:
    """Return which rows match, block by block."""
    if len(case.wheres) == 1:
        held = columns.matches(case.wheres[0])
        return lambda first, last: held[first:last]
    (column,) = {name for where in case.wheres for name in where}  # all are equalities of one column
    values: NDArray[Any] = getattr(columns, column)
    asked = columns.asked(column, [where[column] for where in case.wheres])
    return lambda first, last: values[None, first:last] == asked[:, None]


def match_counts(case: Case, columns: Columns, queries: int) -> NDArray[np.int64]:
    """Return how many rows match each query's filter."""
    known: dict[str, int] = {}
    for where in case.wheres:
        if str(where) not in known:
            known[str(where)] = int(columns.matches(where).sum())
    return np.array([known[str(case.where(query))] for query in range(queries)], np.int64)
