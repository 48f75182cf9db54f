"""Recalls by group: over a window and since the start, and whether they keep their floors."""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Iterable, Mapping
from typing import NamedTuple

from tiered_index.watch.intervals import recall_interval
from tiered_index.watch.report import By, RecallChange, Watched, WatchedGroup

ALARM_LEVEL = 0.999
"""Of the interval whose upper end must fall below the floor. It is looked at after every batch, so that the
95 % that are reported would raise alarms without a cause: simulated with a true recall at the floor, 3,000
queries and a look after each ten of them, 95 % did in 24 to 31 % of runs, this in 1.5 to 2.5 %."""

ALARM_QUERIES = 10
"""Queries before the first alarm."""

_DIGITS = 9
"""Of means: sums that values come to and go from are not exact, and recalls of 1 must have a mean of 1."""

MOST_GROUPS = 256
"""Groups of a kind that are held; then the one that was seen last longest ago goes."""


class Key(NamedTuple):
    """What makes a group; see :class:`tiered_index.watch.report.WatchedGroup`."""

    by: By
    name: str
    k: int


class _Seen(NamedTuple):
    at: float
    recall: float
    floor: float | None


class _Sums:
    """Sums that values come to and go from."""

    def __init__(self) -> None:
        self.queries = 0
        self.recalls = 0.0
        self.squares = 0.0
        self.floors = 0.0

    def change(self, seen: _Seen, by: int) -> None:
        """Take in a query (1), or let one go (-1)."""
        self.queries += by
        self.recalls += by * seen.recall
        self.squares += by * seen.recall**2
        self.floors += by * (seen.floor or 0.0)

    def moments(self) -> tuple[int, float, float]:
        """Return count, mean and standard deviation."""
        queries = self.queries
        if not queries:
            return 0, math.nan, 0.0
        mean = self.recalls / queries
        spread = max(self.squares - queries * mean * mean, 0.0)
        deviation = math.sqrt(spread / (queries - 1)) if queries > 1 else 0.0
        return queries, round(mean, _DIGITS), deviation

    def floor(self) -> float | None:
        """Return the mean floor; None without queries."""
        queries = self.queries  # once: its thread may change it
        return round(self.floors / queries, _DIGITS) if queries else None


class Group:
    """Recalls of one group; for one thread, that others may read meanwhile."""

    def __init__(self, key: Key) -> None:
        self.key = key
        self.below = False
        self._floor = math.nan
        self._recent: deque[_Seen] = deque()
        self._window = _Sums()
        self._asked = _Sums()
        self._total = _Sums()

    def add(self, at: float, recall: float, floor: float | None) -> None:
        """Take in one query."""
        seen = _Seen(at, recall, floor)
        self._recent.append(seen)
        self._total.change(seen, 1)
        self._window.change(seen, 1)
        if floor is not None:
            self._asked.change(seen, 1)

    def expire(self, most: int, since: float) -> bool:
        """Drop all but so many, and what came before `since`; return whether there was something to drop."""
        held = len(self._recent)
        while self._recent and (len(self._recent) > most or self._recent[0].at < since):
            gone = self._recent.popleft()
            self._window.change(gone, -1)
            if gone.floor is not None:
                self._asked.change(gone, -1)
        return len(self._recent) < held

    def report(self) -> WatchedGroup:
        """Return what there is to say."""
        floor = self._asked.floor()
        return WatchedGroup(
            by=self.key.by,
            name=self.key.name,
            k=self.key.k,
            window=Watched.of(*self._window.moments(), self.key.k),
            total=Watched.of(*self._total.moments(), self.key.k),
            floor=floor,
            below=self.below and floor is not None,  # its end may not have been told yet
        )

    def change(self) -> RecallChange | None:
        """Return whether the group fell below its floor or no longer is, since this was last asked.

        While only a few queries with a floor are left, what was said stands; with the last of them it ends.
        """
        queries, mean, deviation = self._asked.moments()
        floor = self._asked.floor()
        over = self.below and floor is None
        if queries < ALARM_QUERIES and not over:
            return None
        floor = self._floor if floor is None else floor
        interval = recall_interval(queries, mean, deviation, self.key.k, ALARM_LEVEL)
        below = (mean < floor and not over) if self.below else interval.high < floor
        if below == self.below:
            return None
        self.below, self._floor = below, floor
        return RecallChange(
            below=below,
            by=self.key.by,
            name=self.key.name,
            k=self.key.k,
            floor=floor,
            recall=mean,
            low=interval.low,
            high=interval.high,
            queries=queries,
        )


class Groups:
    """All groups; for one thread, that others may read meanwhile.

    Parameters
    ----------
    window : int
        Queries of a group that its window holds.
    window_seconds : float or None
        How far it goes back.
    floors : mapping
        Floors by tag, which go before what a search asked for.
    """

    def __init__(self, window: int, window_seconds: float | None, floors: Mapping[str, float]) -> None:
        self._window = window
        self._seconds = window_seconds
        self._floors = dict(floors)
        self._groups: dict[By, dict[Key, Group]] = {"all": {}, "tag": {}, "profile": {}, "plan": {}}

    def add(
        self,
        at: float,
        recall: float,
        k: int,
        *,
        floor: float | None,
        tag: str | None,
        profile: str | None,
        plan: str,
    ) -> list[Key]:
        """Take in one query, and return the groups whose floors it may have moved."""
        own = floor if tag is None else self._floors.get(tag, floor)
        keys = [Key("all", "", k), Key("plan", plan, k)]
        if tag is not None:
            keys.append(Key("tag", tag, k))
        if profile is not None:
            keys.append(Key("profile", profile, k))
        for key in keys:
            alike = self._groups[key.by]
            group = alike.pop(key, None) or Group(key)
            alike[key] = group  # the last in the order: those not seen for long come first
            if len(alike) > MOST_GROUPS:
                del alike[next(iter(alike))]
            group.add(at, recall, own if key.by == "tag" else floor)
            self._expire(group, at)
        return [key for key in keys if key.by != "plan"]

    def changes(self, keys: Iterable[Key], now: float) -> list[RecallChange]:
        """Return which of some groups fell below their floors or no longer are."""
        found = []
        for key in dict.fromkeys(keys):
            group = self._groups[key.by].get(key)
            if group is not None:
                self._expire(group, now)
                change = group.change()
                found += [change] if change is not None else []
        return found

    def expire(self, now: float) -> list[RecallChange]:
        """Drop what is beyond the window of every group; return what that changed."""
        moved = [
            key
            for alike in self._groups.values()
            for key, group in alike.items()
            if self._expire(group, now) and key.by != "plan"
        ]
        return self.changes(moved, now)

    def report(self) -> tuple[WatchedGroup, ...]:
        """Return all groups: all searches first, then by tag, profile and plan."""
        found: list[WatchedGroup] = []
        for alike in self._groups.values():
            groups = list(alike.copy().values())  # in one step: the thread may change it
            found += [group.report() for group in sorted(groups, key=lambda group: group.key)]
        return tuple(found)

    def _expire(self, group: Group, now: float) -> bool:
        return group.expire(self._window, -math.inf if self._seconds is None else now - self._seconds)
