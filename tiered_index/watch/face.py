"""What an open index offers of watching."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping

from tiered_index.errors import ParameterError
from tiered_index.planning import Planning
from tiered_index.storage.current import Current
from tiered_index.watch.onlooker import Onlooker
from tiered_index.watch.report import RecallChange, WatchReport
from tiered_index.watch.tally import Counter, Tally
from tiered_index.watch.watch import (
    DEFAULT_RATE,
    DEFAULT_SHARE,
    DEFAULT_STATE_SECONDS,
    DEFAULT_WAITING,
    DEFAULT_WINDOW,
    Watch,
)


class Watchable:
    """Part of :class:`tiered_index.reader.Reader`."""

    _current: Current
    _planning: Planning
    _watch: Onlooker | None = None

    def watch(
        self,
        rate: float = DEFAULT_RATE,
        *,
        share: float = DEFAULT_SHARE,
        window: int = DEFAULT_WINDOW,
        window_seconds: float | None = None,
        floors: Mapping[str, float] | None = None,
        on_below: Callable[[RecallChange], object] | None = None,
        correct: bool = True,
        max_waiting: int = DEFAULT_WAITING,
        state: bool | str | os.PathLike[str] = True,
        state_seconds: float = DEFAULT_STATE_SECONDS,
    ) -> Watch:
        """Answer a share of live queries exactly, in the background, and follow their recall.

        A thread reads all vectors for each batch of queries that wait; callers only add to a queue. It
        compares with the generation that answered, and with the same filter. Searches with ``group_by``
        are counted, not watched. Recall is kept by tag, by profile and by plan, for each k; where it falls
        below its floor, beyond doubt, the logger ``tiered_index.watch`` and `on_below` are told, and again
        when it is back or no query with a floor is left. What was missed corrects what the planner expects,
        so that floors are kept by queries that are harder than those of the calibration.

        Parameters
        ----------
        rate : float
            Share of the queries, above 0 and at most 1.
        share : float
            Share of one core that the thread may take, waiting for the disk included.
        window : int
            Queries of each group that its running recall rests on, the last ones.
        window_seconds : float, optional
            How far back they may go.
        floors : mapping of str to float, optional
            Floors by tag; else they are the `min_recall` that searches ask for.
        on_below : callable, optional
            Given a :class:`RecallChange`, from the thread; what it raises is logged.
        correct : bool
            Correct the planner's predictions.
        max_waiting : int
            Queries that may wait; those that come then are dropped, and counted.
        state : bool or path
            Where to leave a small file every `state_seconds`, for ``tiered-index info --watch``: True in the
            index folder, a folder, or False for none.
        state_seconds : float
            How often.

        Returns
        -------
        Watch
            Stop it by :meth:`Watch.stop`, by leaving its ``with`` block, or by closing the index.

        Raises
        ------
        ParameterError
            A value out of its range, or the index is being watched.
        IndexClosedError
            After ``close()``.
        """
        self._current.get()
        onlooker = self._onlooker()
        if self.watching is not None and self.watching.running:
            raise ParameterError("the index is being watched: stop that first")
        return Watch(
            onlooker,
            self._current,
            self._planning,
            self,
            rate=rate,
            share=share,
            window=window,
            window_seconds=window_seconds,
            floors=floors,
            on_below=on_below,
            correct=correct,
            max_waiting=max_waiting,
            state=state,
            state_seconds=state_seconds,
        ).start()

    def watch_report(self) -> WatchReport:
        """Return what watching found so far; after it was stopped, what it found until then.

        Raises
        ------
        ParameterError
            The index was never watched.
        """
        if self.watching is None:
            raise ParameterError("the index was not watched: call watch() first")
        return self.watching.report()

    @property
    def watching(self) -> Watch | None:
        """The watch that runs, or the last that did; None before the first."""
        return None if self._watch is None else self._watch.watch

    def tally(self) -> Tally:
        """Return what searches took since this was first called: that begins the counting."""
        onlooker = self._onlooker()
        if onlooker.counter is None:
            onlooker.counter = Counter()
        return onlooker.counter.total()

    def _onlooker(self) -> Onlooker:
        if self._watch is None:
            self._watch = Onlooker()
        return self._watch

    def _stop_watching(self) -> None:
        if self.watching is not None:
            self.watching.stop()
