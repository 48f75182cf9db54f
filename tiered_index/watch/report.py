"""What watching found: frozen values, as text, as a table, as a dict."""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import Any, Literal

import msgspec

from tiered_index.watch.drift import Drift
from tiered_index.watch.intervals import recall_interval

By = Literal["all", "tag", "profile", "plan"]

_HEADER = ("searches", "k", "queries", "recall", "95 % interval", "floor", "since start", "95 % interval", "")


class Watched(msgspec.Struct, frozen=True, kw_only=True):
    """The mean recall of some queries.

    Attributes
    ----------
    queries : int
        How many were answered exactly.
    recall, low, high : float
        Mean recall@k, and the ends of its 95 % interval; see :mod:`tiered_index.watch.intervals`.
    deviation : float
        Standard deviation of single queries' recalls.
    """

    queries: int
    recall: float
    low: float
    high: float
    deviation: float

    @classmethod
    def of(cls, queries: int, mean: float, deviation: float, k: int) -> Watched:
        """Make one from the moments of recalls@k."""
        interval = recall_interval(queries, mean, deviation, k)
        return cls(
            queries=queries,
            recall=interval.mean,
            low=interval.low,
            high=interval.high,
            deviation=deviation,
        )


class WatchedGroup(msgspec.Struct, frozen=True, kw_only=True):
    """Searches with something in common, and their recall.

    Attributes
    ----------
    by : {"all", "tag", "profile", "plan"}
        What they have in common.
    name : str
        The tag, the profile or the plan; empty for all.
    k : int
        Results a query.
    window, total : Watched
        The last ones, and all since the start.
    floor : float or None
        What was asked of those in the window, in the mean; None if nothing was.
    below : bool
        Whether the recall is below the floor, beyond doubt; False where there is none.
    """

    by: By
    name: str
    k: int
    window: Watched
    total: Watched
    floor: float | None
    below: bool


class RecallChange(msgspec.Struct, frozen=True, kw_only=True):
    """A group that fell below its floor, or no longer is below it.

    Attributes
    ----------
    below : bool
        True if it fell, False if it recovered or no query with a floor is left in the window.
    by, name, k
        The group, as in :class:`WatchedGroup`.
    floor : float
        What was asked, or last was.
    recall, low, high : float
        Of the window: the mean and the ends of the interval that decided.
    queries : int
        How many queries that rests on; 0, and `recall` NaN, where none with a floor is left.
    """

    below: bool
    by: By
    name: str
    k: int
    floor: float
    recall: float
    low: float
    high: float
    queries: int

    def __str__(self) -> str:
        what = f"recall@{self.k} of {group_words(self.by, self.name)}"
        if not self.queries:
            return f"{what} has no floor any more, and was below {self.floor:.3f}: no query with one is left"
        where = "below its floor of" if self.below else "back at its floor of"
        return (
            f"{what} is {where} {self.floor:.3f}: {self.recall:.3f} ({self.low:.3f} to {self.high:.3f}) "
            f"over {self.queries} queries"
        )


class WatchReport(msgspec.Struct, frozen=True, kw_only=True):
    """What watching found so far.

    Attributes
    ----------
    rate : float
        Share of the queries that are taken.
    seconds : float
        How long it has been watching.
    running : bool
        Whether it still is.
    generation : int
        Of the newest state that was watched; 0 before the first.
    taken, answered, waiting : int
        Queries that were taken, answered exactly, and wait for that.
    dropped, failed, grouped : int
        Queries that came while too many waited, whose exact answer failed, and searches with ``group_by``,
        which are not watched.
    busy : float
        Share of one core that the watching took since its start.
    groups : tuple of WatchedGroup
        Of all searches, and by tag, profile and plan.
    drift : Drift or None
        Whether queries are unlike calibration's; None before enough were seen, or where those are not kept.
    corrected : dict of str to (float, float)
        By how much predicted misses are multiplied for what was seen, at least and at most, by family of
        plans; empty where predictions stand.
    """

    rate: float
    seconds: float
    running: bool
    generation: int
    taken: int
    answered: int
    waiting: int
    dropped: int
    failed: int
    grouped: int
    busy: float
    groups: tuple[WatchedGroup, ...]
    drift: Drift | None
    corrected: dict[str, tuple[float, float]]

    def to_dict(self) -> dict[str, Any]:
        """Return it as plain dicts, lists and numbers."""
        found: dict[str, Any] = msgspec.to_builtins(self)
        return found

    def __str__(self) -> str:
        return "\n".join([*self.lines(), "", *table(self.groups)])

    def lines(self) -> list[str]:
        """Return what there is to say beside the table."""
        said = [
            f"{self.answered:,} of {self.taken:,} queries answered exactly ({self.rate:.1%} of those asked), "
            f"{self.busy:.1%} of a core over {self.seconds:,.0f} s" + ("" if self.running else "; stopped")
        ]
        lost = [
            f"{count:,} {what}"
            for count, what in (
                (self.waiting, "wait"),
                (self.dropped, "dropped, for too many waited"),
                (self.failed, "failed"),
                (self.grouped, "searches with group_by, which are not watched"),
            )
            if count
        ]
        if lost:
            said.append("; ".join(lost))
        said += [drift_words(self.drift)]
        if self.corrected:
            factors = ", ".join(
                f"{name} x {low:.2g} to {high:.2g}" for name, (low, high) in self.corrected.items()
            )
            said.append(f"predicted misses are corrected: {factors}")
        return said


def table(groups: Iterable[WatchedGroup]) -> list[str]:
    """Return groups as a table's lines."""
    rows = [_HEADER, *map(_cells_of, groups)]
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return [
        "  ".join(
            cell.ljust(width) if i == 0 else cell.rjust(width)
            for i, (cell, width) in enumerate(zip(row, widths, strict=True))
        ).rstrip()
        for row in rows
    ]


def _cells_of(group: WatchedGroup) -> tuple[str, ...]:
    return (
        group_words(group.by, group.name),
        str(group.k),
        f"{group.window.queries:,}",
        *_cells(group.window),
        "" if group.floor is None else f"{group.floor:.3f}",
        *_cells(group.total),
        "BELOW" if group.below else "",
    )


def group_words(by: str, name: str) -> str:
    """Put a group into words."""
    return "all" if by == "all" else f"{by} {name}"


def drift_words(drift: Drift | None) -> str:
    """Put drift into words."""
    if drift is None or not drift.compared:
        return "drift: not enough to compare with calibration's queries"
    sources = {"given": "given", "live": "earlier", "stored": "stored vectors as"}
    asked = f"calibration's {drift.reference} {sources[drift.source]} queries"
    if not drift.drifted:
        return f"drift: none; {drift.queries} queries are like {asked}"
    differing = ", ".join(
        f"{one.feature} (median {one.live:.3f}, was {one.calibration:.3f}; distance {one.statistic:.2f}, "
        f"chance {one.threshold:.2f})"
        for one in drift.compared
        if one.differs
    )
    return f"drift: {drift.queries} queries are unlike {asked}, by {differing}; calibrate() again"


def pooled(groups: Iterable[WatchedGroup]) -> list[WatchedGroup]:
    """Join groups of several processes that have everything in common."""
    alike: dict[tuple[By, str, int], list[WatchedGroup]] = {}
    for group in groups:
        alike.setdefault((group.by, group.name, group.k), []).append(group)
    found = []
    for (by, name, k), several in alike.items():
        floors = [(group.floor, group.window.queries) for group in several if group.floor is not None]
        weight = sum(queries for _, queries in floors)
        found.append(
            WatchedGroup(
                by=by,
                name=name,
                k=k,
                window=_joined([group.window for group in several], k),
                total=_joined([group.total for group in several], k),
                floor=sum(floor * queries for floor, queries in floors) / weight if weight else None,
                below=any(group.below for group in several),
            )
        )
    return found


def _joined(parts: list[Watched], k: int) -> Watched:
    """Return the moments of several samples together."""
    queries = sum(part.queries for part in parts)
    if not queries:
        return Watched.of(0, math.nan, 0.0, k)
    seen = [part for part in parts if part.queries]
    mean = sum(part.recall * part.queries for part in seen) / queries
    squares = sum(
        part.deviation**2 * (part.queries - 1) + part.queries * (part.recall - mean) ** 2 for part in seen
    )
    return Watched.of(queries, mean, math.sqrt(squares / (queries - 1)) if queries > 1 else 0.0, k)


def _cells(watched: Watched) -> tuple[str, str]:
    if not watched.queries:
        return "-", "-"
    return f"{watched.recall:.3f}", f"{watched.low:.3f} to {watched.high:.3f}"
