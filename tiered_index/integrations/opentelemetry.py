"""OpenTelemetry: what an index does and finds, read when the meter's reader asks.

::

    from tiered_index.integrations.opentelemetry import collect

    collect(index)

Needs the extra ``metrics``; the service brings the SDK and its exporter. Nothing is added to a search but
counting it. OpenTelemetry has no histogram that is read rather than written to, so the times of searches
are counters: ``tiered_index.search.bucket``, with the bucket's upper end in seconds as the attribute ``le``
and calls that took no longer, and ``tiered_index.search.seconds``.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import cache
from weakref import WeakKeyDictionary

from tiered_index.errors import MissingDependencyError
from tiered_index.index import Index
from tiered_index.integrations.measures import Measure, Source, with_index
from tiered_index.watch.tally import BUCKETS_MS

try:
    from opentelemetry.metrics import CallbackOptions, Meter, Observation, get_meter
except ImportError as error:
    raise MissingDependencyError("metrics need: pip install 'tiered-index[metrics]'") from error

_COUNTERS = (
    "searches",
    "queries",
    "rows_read",
    "bytes_read",
    "cold_rows",
    "search.bucket",
    "search.seconds",
    "watch.answered",
    "watch.dropped",
    "watch.failed",
)
_GAUGES = (
    "generation",
    "rows",
    "watch.busy",
    "recall",
    "recall.low",
    "recall.high",
    "recall.queries",
    "recall.below",
    "recall.floor",
    "drift",
    "drift.distance",
    "drift.threshold",
)


def collect(index: Index, meter: Meter | None = None, *, name: str | None = None) -> None:
    """Let a meter observe what an index does: searches, their times, rows, recall and drift where watched.

    Parameters
    ----------
    index : Index
        Open; once it is closed, there is nothing more to observe of it.
    meter : Meter, optional
        Several indexes may share one; each has its attribute ``index``. By default the global one named
        ``tiered_index``.
    name : str, optional
        That attribute; the folder's name by default. No two indexes of a meter may have the same.

    Raises
    ------
    MissingDependencyError
        On import, without ``opentelemetry-api``.
    ParameterError
        Another open index of the meter has this attribute.
    """
    meter = _own_meter() if meter is None else meter
    sources = _sources.get(meter)
    found = with_index(sources or [], index, name)
    if sources is None:
        sources = _sources[meter] = []
        for instrument in _COUNTERS:
            meter.create_observable_counter(f"tiered_index.{instrument}", [_callback(instrument, sources)])
        for instrument in _GAUGES:
            meter.create_observable_gauge(f"tiered_index.{instrument}", [_callback(instrument, sources)])
    sources[:] = found


@cache
def _own_meter() -> Meter:
    """Return the global meter: as long as no provider is set, each that is asked for is another."""
    return get_meter("tiered_index")


def _callback(name: str, sources: list[Source]) -> Callable[[CallbackOptions], list[Observation]]:
    def observe(_: CallbackOptions) -> list[Observation]:
        found = (number for source in sources for number in _numbers(source))
        return [Observation(number.value, number.labels) for number in found if number.name == name]

    return observe


def _numbers(source: Source) -> Iterator[Measure]:
    measured = source.measured()
    yield from measured.numbers
    for one in measured.latencies:
        count = 0
        for end, bucket in zip([*(ms / 1e3 for ms in BUCKETS_MS), "inf"], one.buckets, strict=True):
            count += bucket
            yield Measure("search.bucket", "counter", "", {**one.labels, "le": str(end)}, count)
        yield Measure("search.seconds", "counter", "", one.labels, one.seconds)


_sources: WeakKeyDictionary[Meter, list[Source]] = WeakKeyDictionary()
