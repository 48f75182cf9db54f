"""The index of this package, asked with filters: its plans, answers and times."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path
from statistics import mean
from time import perf_counter
from typing import Any

import numpy as np
from numpy.typing import NDArray

import tiered_index as ti
from benchmarks.filter_peers import Columns
from benchmarks.filters.cases import Case
from benchmarks.filters.truth import NO_ROW, share_found
from benchmarks.peers import Vectors

K = 10
GROUP_COLUMN = "paper"
FLOORS = (0.9, 0.95, 0.98)
EXACT_QUERIES = 20
EXACT_SECONDS = 10.0
FIRST_USES = 5
FIRST_SECONDS = 10.0
_WARM_QUERIES = 20

Search = Callable[[int], ti.SearchResult]
"""Given the place of a query."""


class Own:
    """The index of a folder, and the queries that it is asked.

    Parameters
    ----------
    path : Path
        The index.
    queries : ndarray
        Those that it was not calibrated with.
    """

    def __init__(self, path: Path, queries: Vectors) -> None:
        self._path = path
        self._queries = queries
        self._index = self.reopened()
        self._unlinked = self.reopened()
        self._unlinked.filter_links_mb = 0

    def reopened(self) -> ti.Index:
        """Return the index, just opened and warm, in which no filter was asked yet."""
        index = ti.open(self._path, mode="r")
        for query in self._queries[:_WARM_QUERIES]:
            index.search(query, K)
        return index

    def plain(self) -> tuple[list[float], list[ti.SearchResult]]:
        """Ask without a filter."""
        return timed(lambda i: self._index.search(self._queries[i], K), len(self._queries))

    def link(self, case: Case) -> dict[str, Any]:
        """Link the rows of a case's filters, as happens to those that are asked again and again.

        Returns
        -------
        dict
            `filters`, how many are linked now; `ms`, the longest that took; `mb`, what all links take.
        """
        linked, longest = 0, 0.0
        for where in {str(where): where for where in ([] if case.fresh else case.wheres)}.values():
            began = perf_counter()
            linked += self._index.warm(where)
            longest = max(longest, (perf_counter() - began) * 1e3)
        return {"filters": linked, "ms": longest, "mb": self._index.stats().filter_links_bytes / 1e6}

    def unlinked(self, case: Case) -> tuple[list[float], list[ti.SearchResult]]:
        """Ask with filters that were asked before, of an index that links no rows."""
        if case.fresh:
            return self.filtered(case)
        return timed(
            lambda i: self._unlinked.search(self._queries[i], K, where=case.where(i)), len(self._queries)
        )

    def filtered(self, case: Case) -> tuple[list[float], list[ti.SearchResult]]:
        """Ask with a case's filters: ones that were asked before, or ones that were not."""
        index = self.reopened() if case.fresh else self._index
        try:
            return timed(lambda i: index.search(self._queries[i], K, where=case.where(i)), len(self._queries))
        finally:
            if case.fresh:
                index.close()

    def floored(self, case: Case | None, floor: float) -> tuple[list[float], list[ti.SearchResult]]:
        """Ask with a recall floor, with a case's filters or without."""
        return timed(
            lambda i: self._index.search(
                self._queries[i], K, where=None if case is None else case.where(i), min_recall=floor
            ),
            len(self._queries),
        )

    def exact(self, case: Case) -> tuple[list[float], list[ti.SearchResult]]:
        """Score every matching row's full vector; for few of the queries.

        Filters were asked before or were not, as those of :meth:`filtered`.
        """
        index = self.reopened() if case.fresh else self._index
        search: Search = lambda i: index.search(  # noqa: E731
            self._queries[i], K, where=case.where(i), exact=True
        )
        try:
            search(-1 if case.fresh else 0)
            return timed(search, min(EXACT_QUERIES, len(self._queries) - 1), EXACT_SECONDS)
        finally:
            if case.fresh:
                index.close()

    def first_uses(self, case: Case) -> dict[str, float]:
        """Time searches whose filter is new to the index."""
        took: list[float] = []
        if len(case.wheres) > 1:
            with self.reopened() as index:
                # the first query of each filter
                places = list({str(case.where(i)): i for i in reversed(range(len(self._queries)))}.values())
                search: Search = lambda i: index.search(  # noqa: E731
                    self._queries[places[i]], K, where=case.where(places[i])
                )
                took, _ = timed(search, len(places), FIRST_SECONDS)
        else:
            for repeat in range(FIRST_USES):
                query = self._queries[repeat % len(self._queries)]
                with self.reopened() as index:
                    began = perf_counter()
                    index.search(query, K, where=case.where(0))
                    took.append((perf_counter() - began) * 1e3)
        return {"p50_ms": float(np.median(took)), "max_ms": max(took), "count": len(took)}

    def grouped(self) -> tuple[list[float], list[ti.SearchResult]]:
        """Ask for the best rows of different groups."""
        return timed(
            lambda i: self._index.search(self._queries[i], K, group_by=GROUP_COLUMN), len(self._queries)
        )

    def close(self) -> None:
        """Close the index."""
        self._index.close()
        self._unlinked.close()


def timed(
    search: Search, count: int, seconds: float | None = None
) -> tuple[list[float], list[ti.SearchResult]]:
    """Ask one query after another, for at most so many seconds; return milliseconds and results."""
    took: list[float] = []
    results: list[ti.SearchResult] = []
    until = None if seconds is None else perf_counter() + seconds
    for place in range(count):
        began = perf_counter()
        results.append(search(place))
        took.append((perf_counter() - began) * 1e3)
        if until is not None and perf_counter() > until:
            break
    return took, results


def percentiles(took: Sequence[float]) -> dict[str, float]:
    """Return p50, p95 and p99 in milliseconds."""
    p50, p95, p99 = np.quantile(took, (0.5, 0.95, 0.99)).tolist()
    return {"p50_ms": p50, "p95_ms": p95, "p99_ms": p99}


def answered(
    found: Sequence[Sequence[int]],
    case: Case | None,
    truth: NDArray[np.int64],
    matches: NDArray[np.int64],
    columns: Columns,
) -> dict[str, Any]:
    """Return what answers are worth, of any system.

    Returns
    -------
    dict
        recall; `rows`, the mean number that came back; `short`, how many answers have fewer rows than
        min(k, matches); `wrong`, how many have rows that do not match, or one twice.
    """
    wanted = np.minimum(matches[: len(found)], K)
    wrong = 0
    for place, rows in enumerate(found):
        held = case is None or columns.matches(case.where(place), np.array(rows, np.int64)).all()
        wrong += not held or len(set(rows)) < len(rows)
    return {
        "recall": share_found(found, truth),
        "rows": mean(map(len, found)),
        "short": sum(len(rows) < least for rows, least in zip(found, wanted.tolist(), strict=True)),
        "wrong": wrong,
        "queries": len(found),
    }


def described(results: Sequence[ti.SearchResult]) -> dict[str, Any]:
    """Return how an index came by its answers, and what it says of them.

    Of few rows all are read, which counts as a strategy of its own.
    """
    estimated = [r.estimated_recall for r in results if r.estimated_recall is not None]
    return {
        "strategies": dict(Counter(_way(result.plan) for result in results).most_common()),
        "plan": str(results[-1].plan),
        "rows_read": mean(result.stats.rows_read for result in results),
        "distances": mean(result.stats.distances for result in results),
        "estimated_recall": mean(estimated) if estimated else None,
    }


def _way(plan: ti.Plan) -> str:
    return "all read" if plan.strategy == "scan" and not plan.misses else plan.strategy


def groups_found(
    results: Sequence[ti.SearchResult], papers: Sequence[Any], nearest: NDArray[np.int64]
) -> dict[str, float]:
    """Return how many groups came back, and the share of the true best ones among them.

    Parameters
    ----------
    results : sequence of SearchResult
        With ``group_by``.
    papers : sequence
        Each row's group.
    nearest : ndarray, shape (queries, n)
        Exact best rows, more than hold k groups.
    """
    shares, counts = [], []
    for result, rows in zip(results, nearest.tolist(), strict=True):
        true = list(dict.fromkeys(papers[row] for row in rows if row != NO_ROW))[:K]
        counts.append(len(set(result.groups or ())))
        shares.append(len(set(true) & set(result.groups or ())) / len(true))
    return {"groups": mean(counts), "fewest_groups": min(counts), "recall": mean(shares)}
