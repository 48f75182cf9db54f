"""What there is to measure of an index in use, whatever the library that carries it."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from typing import Literal, NamedTuple

from tiered_index.errors import IndexClosedError, ParameterError
from tiered_index.index import Index
from tiered_index.watch.report import WatchReport
from tiered_index.watch.state import read_states
from tiered_index.watch.tally import Tally

Labels = dict[str, str]


class Measure(NamedTuple):
    """A number with a name.

    Attributes
    ----------
    name : str
        Words joined by dots; that of a counter without "total".
    kind : {"counter", "gauge"}
        Whether it only grows.
    about : str
        What it is.
    labels : dict of str to str
        What tells it from others of its name.
    value : float
        The number.
    """

    name: str
    kind: Literal["counter", "gauge"]
    about: str
    labels: Labels
    value: float


class Latencies(NamedTuple):
    """A histogram of the searches' times: calls by bucket, as in :class:`Tally`, and the seconds of all."""

    labels: Labels
    buckets: tuple[int, ...]
    seconds: float


class Measured(NamedTuple):
    """All that was measured."""

    numbers: list[Measure]
    latencies: list[Latencies]


class Source:
    """One open index, and perhaps the other processes that serve it.

    Parameters
    ----------
    index : Index
        From now on its searches are counted.
    name : str
        Its label.
    processes : bool
        Label numbers by process, and give those that others left of their watches in the index folder.
    """

    def __init__(self, index: Index, name: str, *, processes: bool) -> None:
        self.index = index
        self.name = name
        self._processes = processes
        index.tally()

    def measured(self) -> Measured:
        """Return what there is now; nothing once the index is closed."""
        numbers: list[Measure] = []
        latencies: list[Latencies] = []
        labels = {"index": self.name}
        try:
            stats, tally = self.index.stats(), self.index.tally()
        except IndexClosedError:
            return Measured([], [])
        if self._processes:
            labels["process"] = str(os.getpid())
        watch = self.index.watching
        report = None if watch is None else watch.report()
        parts: list[tuple[Labels, int, int, Tally | None, WatchReport | None]] = [
            (labels, stats.generation, stats.rows, tally, report)
        ]
        if self._processes and watch is not None and watch.state_folder is not None:
            parts += [
                ({**labels, "process": str(s.pid)}, s.generation, s.rows, s.tally, s.report)
                for s in read_states(watch.state_folder)
                if s.alive and s.pid != os.getpid()
            ]
        for own, generation, rows, counted, watched in parts:
            numbers += [
                Measure("generation", "gauge", "State of the index that answers.", own, generation),
                Measure("rows", "gauge", "Rows in it.", own, rows),
            ]
            if counted is not None:
                numbers += _counted(counted, own)
                latencies.append(Latencies(own, counted.latencies, counted.seconds))
            if watched is not None:
                numbers += _watched(watched, own)
        return Measured(numbers, latencies)


def with_index(
    sources: Sequence[Source], index: Index, name: str | None, *, processes: bool = False
) -> list[Source]:
    """Return sources with one of an index, in the place of its earlier one and without closed ones.

    Raises
    ------
    ParameterError
        Another open index has its label: the numbers of both would be told as one's.
    """
    others = [source for source in sources if source.index is not index and not source.index.closed]
    label = index.path.name if name is None else name
    for other in others:
        if other.name == label:
            raise ParameterError(
                f"metrics of {other.index.path} are labelled {label!r} already: give those of {index.path} "
                "another name="
            )
    return [*others, Source(index, label, processes=processes)]


def _counted(tally: Tally, labels: Labels) -> Iterator[Measure]:
    outcomes = (
        ("complete", tally.complete),
        ("degraded", tally.degraded - tally.late),
        ("late", tally.late),
    )
    for outcome, count in outcomes:
        yield Measure(
            "searches",
            "counter",
            "Searches that kept what was asked, kept less, or were cut short by their deadline.",
            {**labels, "outcome": outcome},
            count,
        )
    for name, about, count in (
        ("queries", "Queries that searches asked.", tally.queries),
        ("rows_read", "Full vectors that searches read.", tally.rows_read),
        ("bytes_read", "Bytes of full vectors that searches read.", tally.bytes_read),
        ("cold_rows", "Full vectors that searches had to wait for.", tally.cold_rows),
    ):
        yield Measure(name, "counter", about, labels, count)


def _watched(report: WatchReport, labels: Labels) -> Iterator[Measure]:
    for name, about, count in (
        ("watch.answered", "Live queries that were answered exactly.", report.answered),
        ("watch.dropped", "Live queries that came while too many waited for it.", report.dropped),
        ("watch.failed", "Live queries whose exact answer failed.", report.failed),
    ):
        yield Measure(name, "counter", about, labels, count)
    yield Measure("watch.busy", "gauge", "Share of a core that watching takes.", labels, report.busy)
    for group in report.groups:
        if group.by == "plan":  # there are too many of them
            continue
        own = {**labels, "by": group.by, "name": group.name, "k": str(group.k)}
        window = group.window
        numbers = [
            ("recall", "Mean recall of the last watched queries.", window.recall),
            ("recall.low", "Lower end of its 95 % interval.", window.low),
            ("recall.high", "Upper end of its 95 % interval.", window.high),
            ("recall.queries", "Queries it rests on.", window.queries),
            ("recall.below", "1 where it is below its floor beyond doubt.", group.below),
        ]
        if group.floor is not None:
            numbers.append(("recall.floor", "What was asked.", group.floor))
        for name, about, value in numbers:
            yield Measure(name, "gauge", about, own, value)
    if report.drift is not None:
        about = "1 where live queries are unlike calibration's."
        yield Measure("drift", "gauge", about, labels, report.drift.drifted)
        for one in report.drift.compared:
            own = {**labels, "feature": one.feature.replace(" ", "_")}
            about = "How far the distribution of live queries is from calibration's."
            yield Measure("drift.distance", "gauge", about, own, one.statistic)
            about = "What chance hardly passes."
            yield Measure("drift.threshold", "gauge", about, own, one.threshold)
