"""Prometheus: what an index does and finds, read when it is scraped.

::

    from prometheus_client import start_http_server
    from tiered_index.integrations.prometheus import collect

    collect(index)
    start_http_server(9100)

Needs the extra ``metrics``. Nothing is added to a search but counting it, which takes a microsecond.
"""

from __future__ import annotations

from collections.abc import Iterator
from weakref import WeakKeyDictionary

from tiered_index.errors import MissingDependencyError
from tiered_index.index import Index
from tiered_index.integrations.measures import Source, with_index
from tiered_index.watch.tally import BUCKETS_MS

try:
    from prometheus_client import REGISTRY, CollectorRegistry
    from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily
    from prometheus_client.metrics_core import Metric
    from prometheus_client.registry import Collector
except ImportError as error:
    raise MissingDependencyError("metrics need: pip install 'tiered-index[metrics]'") from error

_PREFIX = "tiered_index_"
_TIMES = f"{_PREFIX}search_seconds"


def collect(
    index: Index,
    registry: CollectorRegistry = REGISTRY,
    *,
    name: str | None = None,
    processes: bool = False,
) -> None:
    """Let a registry read what an index does: searches, their times, rows, recall and drift where watched.

    Parameters
    ----------
    index : Index
        Open; once it is closed, there is nothing more to read of it.
    registry : CollectorRegistry
        Several indexes may share one; each has its label ``index``.
    name : str, optional
        That label; the folder's name by default. No two indexes of a registry may have the same.
    processes : bool
        For several worker processes of one service, of which each answers some scrapes: every number gets a
        label ``process``, and those of the others are read from what their watches leave in the index
        folder (or the folder given as ``state=``), a few seconds old. Each must call ``index.watch()``.

    Raises
    ------
    MissingDependencyError
        On import, without ``prometheus-client``.
    ParameterError
        Another open index of the registry has this label.
    """
    collector = _collectors.get(registry)
    known = [] if collector is None else collector.sources
    sources = with_index(known, index, name, processes=processes)
    if collector is None:
        collector = _collectors[registry] = _Collector()
        registry.register(collector)
    collector.sources = sources


class _Collector(Collector):
    """All indexes of a registry: a name may stand in it once."""

    def __init__(self) -> None:
        self.sources: list[Source] = []

    def describe(self) -> list[Metric]:
        """Return the one metric that is always there, so that registering reads nothing."""
        return [HistogramMetricFamily(_TIMES, "Wall time of searches.", labels=["index"])]

    def collect(self) -> Iterator[Metric]:
        """Read."""
        measured = [source.measured() for source in self.sources]
        families: dict[str, CounterMetricFamily | GaugeMetricFamily] = {}
        for number in (number for one in measured for number in one.numbers):
            family = families.get(number.name)
            if family is None:
                kind = CounterMetricFamily if number.kind == "counter" else GaugeMetricFamily
                said = _PREFIX + number.name.replace(".", "_")
                family = families[number.name] = kind(said, number.about)
            family.add_sample(
                family.name + ("_total" if number.kind == "counter" else ""), number.labels, number.value
            )
        times = HistogramMetricFamily(_TIMES, "Wall time of searches.")
        ends = [*(str(ms / 1e3) for ms in BUCKETS_MS), "+Inf"]
        for one in (one for each in measured for one in each.latencies):
            count = 0
            for end, bucket in zip(ends, one.buckets, strict=True):
                count += bucket
                times.add_sample(f"{_TIMES}_bucket", {**one.labels, "le": end}, count)
            times.add_sample(f"{_TIMES}_count", one.labels, count)
            times.add_sample(f"{_TIMES}_sum", one.labels, one.seconds)
        yield from families.values()
        yield times


_collectors: WeakKeyDictionary[CollectorRegistry, _Collector] = WeakKeyDictionary()
