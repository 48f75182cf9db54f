"""Prometheus and OpenTelemetry, by what their own libraries read."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest
from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.metrics.export import InMemoryMetricReader
from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.parser import text_string_to_metric_families

import tiered_index as ti
from tiered_index.integrations import opentelemetry, prometheus
from tiered_index.watch.state import folder_of, read_states
from tiered_index.watch.tally import BUCKETS_MS

from ..watch.test_watch import finish, narrow, still


def ask(index: ti.Index, queries: np.ndarray) -> None:
    """Eleven calls, of which one keeps less than was asked, and a watch of them."""
    watch = still(index, state=True)
    for query in queries[:9]:
        narrow(index, query, tag="t", min_recall=0.5)
    index.search(queries[:20], 5)
    index.search(queries[0], min_recall=0.9)  # not calibrated: degraded
    finish(watch)
    watch._write_state()


def scraped(registry: CollectorRegistry) -> dict[tuple[str, frozenset[tuple[str, str]]], float]:
    text = generate_latest(registry).decode()
    names = [line.split()[2] for line in text.splitlines() if line.startswith("# TYPE")]
    assert len(names) == len(set(names))  # one family a name, however many indexes
    return {
        (sample.name, frozenset(sample.labels.items())): sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
    }


def test_prometheus(filled: ti.Index, queries: np.ndarray) -> None:
    registry = CollectorRegistry(auto_describe=True)
    prometheus.collect(filled, registry)
    ask(filled, queries)
    found = scraped(registry)

    def value(name: str, /, **labels: str) -> float:
        return found[f"tiered_index_{name}", frozenset({"index": "test.tidx", **labels}.items())]

    assert value("searches_total", outcome="complete") == 10
    assert value("searches_total", outcome="degraded") == 1
    assert value("searches_total", outcome="late") == 0
    assert value("queries_total") == 30
    assert value("rows") == len(filled)
    assert value("generation") == filled.stats().generation
    assert value("rows_read_total") == filled.tally().rows_read
    assert value("watch_answered_total") == 30
    group = next(g for g in filled.watch_report().groups if g.by == "tag")
    own = {"by": "tag", "name": "t", "k": "10"}
    assert value("recall", **own) == pytest.approx(group.window.recall)
    assert value("recall_low", **own) == pytest.approx(group.window.low)
    assert value("recall_high", **own) == pytest.approx(group.window.high)
    assert value("recall_floor", **own) == 0.5
    assert value("recall_below", **own) == 0
    assert not any(("by", "plan") in labels for _, labels in found)
    buckets = [value("search_seconds_bucket", le=str(ms / 1e3)) for ms in BUCKETS_MS]
    assert buckets == sorted(buckets)
    assert value("search_seconds_bucket", le="+Inf") == value("search_seconds_count") == 11
    assert value("search_seconds_sum") == pytest.approx(filled.tally().seconds)


def test_several_indexes_share_a_registry(filled: ti.Index, make_index: Any, vectors: np.ndarray) -> None:
    other = make_index("other.tidx")
    other.add([1, 2], vectors[:2])
    registry = CollectorRegistry()
    prometheus.collect(filled, registry)
    prometheus.collect(other, registry, name="second")
    prometheus.collect(other, registry, name="second")  # again is once
    found = scraped(registry)
    assert found["tiered_index_rows", frozenset({("index", "second")})] == 2
    assert found["tiered_index_rows", frozenset({("index", "test.tidx")})] == len(filled)
    other.close()
    assert not any(("index", "second") in labels for _, labels in scraped(registry))


def meter_of(reader: InMemoryMetricReader) -> Any:
    return MeterProvider([reader]).get_meter("test")


@pytest.mark.parametrize(
    ("module", "make"),
    [(prometheus, CollectorRegistry), (opentelemetry, lambda: meter_of(InMemoryMetricReader()))],
    ids=["prometheus", "opentelemetry"],
)
def test_two_indexes_of_one_label_are_refused(
    module: Any, make: Any, make_index: Any, tmp_path: Path
) -> None:
    (tmp_path / "other").mkdir()
    one, two, where = make_index("news.tidx"), make_index("other/news.tidx"), make()
    module.collect(one, where)
    with pytest.raises(
        ti.ParameterError, match=r"news\.tidx are labelled 'news\.tidx' already.*other.*name="
    ):
        module.collect(two, where)
    module.collect(two, where, name="other")
    with pytest.raises(ti.ParameterError, match="labelled 'other' already"):
        module.collect(one, where, name="other")
    module.collect(two, make())  # elsewhere it is alone
    one.close()
    module.collect(two, where)  # the label is free again


def test_processes_of_one_service(filled: ti.Index, queries: np.ndarray) -> None:
    registry = CollectorRegistry()
    prometheus.collect(filled, registry, processes=True)
    ask(filled, queries)
    own, others = str(os.getpid()), os.getppid()
    state = read_states(folder_of(filled.path))[0]
    assert state.tally is not None
    another = msgspec.structs.replace(state, pid=others, generation=77)
    (folder_of(filled.path) / f"{others}-aaaaaa.json").write_bytes(msgspec.json.encode(another))
    found = scraped(registry)
    generations = {
        dict(labels)["process"]: v for (n, labels), v in found.items() if n.endswith("_generation")
    }
    assert generations == {own: filled.stats().generation, str(others): 77}
    counts = [v for (name, _), v in found.items() if name == "tiered_index_search_seconds_count"]
    assert counts == [11, 11]


def test_opentelemetry(filled: ti.Index, queries: np.ndarray, make_index: Any, vectors: np.ndarray) -> None:
    reader = InMemoryMetricReader()
    meter = meter_of(reader)
    opentelemetry.collect(filled, meter)
    other = make_index("other.tidx")
    other.add([1, 2], vectors[:2])
    opentelemetry.collect(other, meter)
    ask(filled, queries)
    points: dict[tuple[str, frozenset[tuple[str, Any]]], float] = {}
    monotonic = {}
    data = reader.get_metrics_data()
    assert data is not None
    for metric in data.resource_metrics[0].scope_metrics[0].metrics:
        monotonic[metric.name] = getattr(metric.data, "is_monotonic", None)
        for point in metric.data.data_points:
            points[metric.name, frozenset((point.attributes or {}).items())] = point.value

    def value(name: str, /, **labels: str) -> float:
        return points[f"tiered_index.{name}", frozenset({"index": "test.tidx", **labels}.items())]

    assert value("searches", outcome="complete") == 10
    assert value("searches", outcome="degraded") == 1
    assert value("search.bucket", le="inf") == 11
    assert value("search.seconds") == pytest.approx(filled.tally().seconds)
    assert value("recall.queries", by="tag", name="t", k="10") == 9
    assert points["tiered_index.rows", frozenset({("index", "other.tidx")})] == 2
    assert monotonic["tiered_index.searches"] is True
    assert monotonic["tiered_index.recall"] is None


def test_indexes_are_told_that_were_there_before_the_provider(tmp_path: Path) -> None:
    """In a process of its own: a provider is set once."""
    code = (
        "import numpy as np, tiered_index as ti\n"
        "from opentelemetry import metrics\n"
        "from opentelemetry.sdk.metrics import MeterProvider\n"
        "from opentelemetry.sdk.metrics.export import InMemoryMetricReader\n"
        "from tiered_index.integrations.opentelemetry import collect\n"
        "one, two, three = (ti.open(name, 8) for name in 'abc')\n"
        "collect(one)\n"
        "collect(two)\n"
        "reader = InMemoryMetricReader()\n"
        "metrics.set_meter_provider(MeterProvider([reader]))\n"
        "collect(three)\n"
        "found = reader.get_metrics_data().resource_metrics[0].scope_metrics[0].metrics\n"
        "rows = next(one for one in found if one.name == 'tiered_index.rows').data.data_points\n"
        "print(sorted(point.attributes['index'] for point in rows))\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True, check=True
    )
    assert (done.stdout, done.stderr) == ("['a', 'b', 'c']\n", "")


@pytest.mark.parametrize(
    ("name", "missing"), [("prometheus", "prometheus_client"), ("opentelemetry", "opentelemetry")]
)
def test_what_is_missing_is_named(name: str, missing: str) -> None:
    code = (
        "import sys\n"
        f"sys.modules[{missing!r}] = None\n"
        "import tiered_index as ti\n"
        "try:\n"
        f"    import tiered_index.integrations.{name}\n"
        "except ti.MissingDependencyError as error:\n"
        "    print(error)\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "metrics need: pip install 'tiered-index[metrics]'\n"
