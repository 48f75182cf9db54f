"""Watching an index: what is watched, by which truth, and that nothing of it disturbs the service.

Most tests have no thread: they take the samples, and then do its work step by step.
"""

from __future__ import annotations

import gc
import logging
import os
import subprocess
import sys
import threading
import time
import weakref
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.compute as pc
import pytest

import tiered_index as ti
from tiered_index.planner.feedback import Feedback
from tiered_index.planner.misses import Correction
from tiered_index.testing import exact_top_k, matryoshka_vectors, recall_at_k
from tiered_index.watch import samples as sampling
from tiered_index.watch.watch import Watch

from ..conftest import DIM, ROWS

DEFAULTS: dict[str, Any] = {
    "rate": 1.0,
    "share": 1.0,
    "window": 1_000,
    "window_seconds": None,
    "floors": None,
    "on_below": None,
    "correct": True,
    "max_waiting": 100_000,
    "state": False,
    "state_seconds": 5.0,
}


def still(index: ti.Index, **settings: Any) -> Watch:
    """A watch whose thread was not started."""
    onlooker = index._onlooker()
    return Watch(onlooker, index._current, index._planning, index, **{**DEFAULTS, **settings})


def finish(watch: Watch) -> None:
    """Do what the thread would."""
    while watch._work.step():
        pass


def group(watch: Watch, by: str, name: str = "", k: int = 10) -> Any:
    return next(g for g in watch.report().groups if (g.by, g.name, g.k) == (by, name, k))


def narrow(index: ti.Index, query: np.ndarray, k: int = 10, **asked: Any) -> ti.SearchResult:
    """A search that misses some."""
    return index.search(query, k, prefix_dim=8, candidates=k, **asked)


# What is watched, by which truth


def test_recall_is_that_of_the_answers(filled: ti.Index, vectors: np.ndarray, queries: np.ndarray) -> None:
    watch = still(filled)
    found = [narrow(filled, query).ids for query in queries]
    finish(watch)
    truth, _ = exact_top_k(vectors, queries, 10)
    report = watch.report()
    assert (report.taken, report.answered, report.waiting, report.failed) == (50, 50, 0, 0)
    whole = group(watch, "all")
    assert whole.total.recall == pytest.approx(recall_at_k(found, truth))
    assert 0.3 < whole.total.recall < 0.95
    assert whole.total.low < whole.total.recall < whole.total.high
    assert whole.floor is None
    assert {(g.by, g.name) for g in report.groups} == {("all", ""), ("plan", "scan d=8 C=10")}


def test_by_tag_profile_and_k(filled: ti.Index, vectors: np.ndarray, queries: np.ndarray) -> None:
    filled.profiles = {"exact": ti.Budget(min_recall=1.0)}
    watch = still(filled, floors={"hard": 0.8})
    hard = [narrow(filled, query, tag="hard").ids for query in queries[:20]]
    for query in queries[20:]:
        filled.search(query, 5, tag="easy", profile="exact")
    finish(watch)
    truth, _ = exact_top_k(vectors, queries[:20], 10)
    assert group(watch, "tag", "hard").total.recall == pytest.approx(recall_at_k(hard, truth))
    assert group(watch, "tag", "hard").floor == pytest.approx(0.8)
    easy = group(watch, "tag", "easy", 5)
    assert (easy.total.recall, easy.total.queries, easy.floor) == (1.0, 30, 1.0)
    assert group(watch, "profile", "exact", 5).total.queries == 30
    assert group(watch, "plan", "exact", 5).total.queries == 30


@pytest.mark.parametrize(
    "where",
    [
        {"year": 2003},
        {"year": {"$gte": 2010}},
        {"year": {"$in": {2003: "a view of a dict cannot be copied"}.keys()}},
        pc.field("year") == 2003,
        {},
    ],
)
def test_filters_are_watched_among_what_matches(filled: ti.Index, queries: np.ndarray, where: Any) -> None:
    watch = still(filled)
    found = [narrow(filled, query, where=where).ids for query in queries]
    if isinstance(where, dict):
        where.clear()  # the caller's own, and may change
    finish(watch)
    where = {"year": 2003} if not isinstance(where, dict) else where
    report = watch.report()
    assert (report.failed, report.answered) == (0, 50)
    assert len(found) == 50
    assert 0.2 < group(watch, "all").total.recall <= 1.0


def test_the_filter_that_counts_is_that_of_the_call(filled: ti.Index, queries: np.ndarray) -> None:
    watch = still(filled)
    where = {"year": {"$in": [2003, 2004]}}
    found = [narrow(filled, query, where=where).ids for query in queries]
    true = [filled.search(query, 10, where=where, exact=True).ids for query in queries]
    where["year"]["$in"].append(2005)
    finish(watch)
    watched = [g for g in watch.report().groups if g.by == "plan" and g.name != "exact"]
    assert sum(g.total.queries * g.total.recall for g in watched) / 50 == pytest.approx(
        recall_at_k(found, true)
    )


def test_a_filter_that_nothing_matches_tells_nothing(filled: ti.Index, queries: np.ndarray) -> None:
    watch = still(filled)
    assert len(filled.search(queries[0], where={"year": 1}).ids) == 0
    finish(watch)
    report = watch.report()
    assert (report.answered, report.failed, report.groups) == (1, 0, ())


def test_several_queries_are_watched_one_by_one(
    filled: ti.Index, vectors: np.ndarray, queries: np.ndarray, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sampling, "MOST_OF_A_CALL", 1_000)
    watch = still(filled)
    found = narrow(filled, queries, tag="batch").ids
    finish(watch)
    truth, _ = exact_top_k(vectors, queries, 10)
    batch = group(watch, "tag", "batch")
    assert (batch.total.queries, batch.total.recall) == (50, pytest.approx(recall_at_k(found, truth)))
    filled.search(queries[:0])
    assert watch.report().taken == 50


def test_a_call_of_many_queries_gives_a_few(filled: ti.Index, queries: np.ndarray) -> None:
    watch = still(filled)
    filled.search(np.tile(queries, (4, 1)))
    assert watch.report().taken == sampling.MOST_OF_A_CALL
    watch = still(filled, rate=0.05)
    for _ in range(100):
        filled.search(queries)
    assert 170 < watch.report().taken < 330  # of 5,000; 250 and five standard deviations


def test_grouped_searches_are_counted_and_not_watched(filled: ti.Index, queries: np.ndarray) -> None:
    watch = still(filled)
    filled.search(queries[0], 3, group_by="year")
    finish(watch)
    report = watch.report()
    assert (report.grouped, report.taken, report.answered) == (1, 0, 0)
    assert "group_by, which are not watched" in str(report)


def test_the_truth_is_that_of_the_generation_that_answered(
    filled: ti.Index, vectors: np.ndarray, queries: np.ndarray
) -> None:
    watch = still(filled)
    before = [narrow(filled, query, tag="before").ids for query in queries]
    filled.delete(np.arange(0, ROWS, 2))
    after = [narrow(filled, query, tag="after").ids for query in queries]
    filled.delete(np.arange(1, ROWS, 4))
    filled.optimize()
    finish(watch)
    truth, _ = exact_top_k(vectors, queries, 10)
    assert group(watch, "tag", "before").total.recall == pytest.approx(recall_at_k(before, truth))
    truth = np.arange(1, ROWS, 2)[exact_top_k(vectors[1::2], queries, 10)[0]]
    assert group(watch, "tag", "after").total.recall == pytest.approx(recall_at_k(after, truth))
    assert watch.report().generation == filled.search(queries[0]).generation - 2  # a deletion, a merge


def test_queries_of_a_snapshot_share_a_pass(
    filled: ti.Index, queries: np.ndarray, monkeypatch: pytest.MonkeyPatch
) -> None:
    from tiered_index.watch import work

    sizes: list[int] = []
    original = work.exact_answers
    monkeypatch.setattr(
        work, "exact_answers", lambda s, q, *rest: sizes.append(len(q)) or original(s, q, *rest)
    )
    watch = still(filled)
    for i, query in enumerate(queries):
        filled.search(query)
        if i == 29:
            filled.delete([1])
    finish(watch)
    assert sizes == [30, 20]


@pytest.mark.parametrize("settings", [{"metric": "dot"}, {"dtype": "float16"}, {"store_dim": 48}])
def test_other_settings(
    make_index: Callable[..., ti.Index], vectors: np.ndarray, queries: np.ndarray, settings: dict[str, Any]
) -> None:
    index = make_index(**settings)
    index.add(np.arange(ROWS), vectors)
    watch = still(index)
    for query in queries:
        index.search(query.tolist(), 10)  # candidates enough for all to be found
        index.search(query, 10, exact=True)
    finish(watch)
    assert group(watch, "plan", "exact").total.recall == 1.0
    assert group(watch, "all").total.recall > 0.98


def test_the_coin_is_fair(filled: ti.Index, queries: np.ndarray) -> None:
    watch = still(filled, rate=0.2)
    for _ in range(20):
        for query in queries:
            filled.search(query, 1)
    assert 140 < watch.report().taken < 260  # of 1,000


# Bounds


def test_too_many_are_dropped_and_counted(filled: ti.Index, queries: np.ndarray) -> None:
    watch = still(filled, max_waiting=7)
    for query in queries:
        filled.search(query)
    report = watch.report()
    assert (report.taken, report.waiting, report.dropped) == (50, 7, 43)
    assert "43 dropped" in str(report)
    finish(watch)
    filled.search(queries[0])
    assert watch.report().dropped == 43


def test_a_caller_is_not_kept_waiting(filled: ti.Index, queries: np.ndarray) -> None:
    """Nothing of what a caller does can block, or read a vector."""
    watch = still(filled)
    reads = filled._current.get().segments[0].segment.full
    original, type(reads).blocks = type(reads).blocks, None
    try:
        filled.search(queries[0])
    finally:
        type(reads).blocks = original
    assert len(watch._samples) == 1


def test_failures_are_counted_and_do_not_end_it(
    filled: ti.Index, queries: np.ndarray, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    from tiered_index.watch import work

    watch = still(filled)
    filled.search(queries[0])
    with monkeypatch.context() as patched:
        patched.setattr(work, "exact_answers", lambda *_: 1 / 0)
        finish(watch)
    assert watch.report().failed == 1
    assert "could not be watched" in caplog.text
    filled.search(queries[1])
    finish(watch)
    assert watch.report().answered == 1


# Alarms


def test_a_group_below_its_floor_is_told_of(
    filled: ti.Index, queries: np.ndarray, caplog: pytest.LogCaptureFixture
) -> None:
    told: list[ti.RecallChange] = []

    def tell(change: ti.RecallChange) -> None:
        told.append(change)
        raise RuntimeError("a callback's own fault")

    watch = still(filled, floors={"legal": 0.99}, on_below=tell, window=50)
    with caplog.at_level(logging.INFO, "tiered_index.watch"):
        for query in queries:
            narrow(filled, query, tag="legal")
        finish(watch)
        for query in queries:
            filled.search(query, 10, exact=True, tag="legal")
        finish(watch)
    assert [(c.below, c.by, c.name) for c in told] == [(True, "tag", "legal"), (False, "tag", "legal")]
    assert [r.levelname for r in caplog.records] == ["WARNING", "ERROR", "INFO", "ERROR"]
    assert {r.name for r in caplog.records} == {"tiered_index.watch"}
    assert "recall@10 of tag legal is below its floor of 0.990" in caplog.text
    assert not group(watch, "tag", "legal").below


def test_silence_ends_an_alarm(filled: ti.Index, queries: np.ndarray) -> None:
    told: list[ti.RecallChange] = []
    settings: dict[str, Any] = {"floors": {"legal": 0.99}, "window_seconds": 1.0, "state_seconds": 600}
    with filled.watch(1.0, share=1.0, on_below=told.append, **settings) as watch:
        for query in queries:
            narrow(filled, query, tag="legal")
        assert watch.settle(30)
        assert [(c.below, c.name) for c in told] == [(True, "legal")]
        end = time.monotonic() + 30
        while len(told) == 1 and time.monotonic() < end:
            time.sleep(0.05)
        assert [(c.below, c.name, c.queries) for c in told[1:]] == [(False, "legal", 0)]
        assert not group(watch, "tag", "legal").below


def test_the_floor_is_what_was_asked(filled: ti.Index, queries: np.ndarray) -> None:
    told: list[ti.RecallChange] = []
    filled.profiles = {"kept": ti.Budget(min_recall=0.99), "fast": ti.Budget(latency_ms=50)}
    watch = still(filled, on_below=told.append)
    for query in queries:
        narrow(filled, query, profile="kept")
        narrow(filled, query, profile="fast")
    finish(watch)
    assert sorted((c.by, c.name) for c in told) == [("all", ""), ("profile", "kept")]
    assert [c.floor for c in told] == pytest.approx([0.99, 0.99])
    assert group(watch, "profile", "fast").floor is None


# Drift and correction


@pytest.fixture(scope="module")
def large(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An index with a graph, calibrated with queries of its own kind."""
    path = tmp_path_factory.mktemp("watched") / "l.tidx"
    with ti.open(path, DIM, prefix_dim=32) as index:
        index.add(np.arange(6_000), matryoshka_vectors(6_000, DIM, seed=1, decay=0.3))
        index.calibrate(kind(200, 1), (10,), seconds=4)
    return path


def kind(count: int, stream: int, noise: float = 0.0) -> np.ndarray:
    """Queries as calibration asked them, or blurred: with neighbours that prefixes tell less of."""
    queries = matryoshka_vectors(count, DIM, seed=1, decay=0.3, stream=stream)
    return queries + noise * np.random.default_rng(stream).normal(size=queries.shape).astype(np.float32)


def test_drift(large: Path, caplog: pytest.LogCaptureFixture) -> None:
    with ti.open(large, mode="r") as index:
        watch = still(index, window=200)
        for query in kind(200, 2):
            index.search(query)
        finish(watch)
        same = watch.report().drift
        assert same is not None
        assert (same.drifted, same.reference, same.source) == (False, 200, "given")
        assert {one.feature for one in same.compared} == {"best score", "score gap", "prefix energy"}
        assert "drift: none" in str(watch.report())
        for query in kind(200, 3, noise=0.3):
            index.search(query)
        finish(watch)
        other = watch.report().drift
        assert other is not None
        assert other.drifted
        assert "are unlike calibration's" in caplog.text
        assert "calibrate() again" in str(watch.report())


def test_drift_against_stored_vectors(tmp_path: Path) -> None:
    with ti.open(tmp_path / "s.tidx", DIM, prefix_dim=32) as index:
        index.add(np.arange(1_000), kind(1_000, 0))
        index.calibrate(k=(10,), seconds=1)
        watch = still(index)
        for query in kind(150, 5):  # other rows of the same distribution
            index.search(query)
        finish(watch)
        drift = watch.report().drift
        assert drift is not None
        assert (drift.source, drift.reference, drift.drifted) == ("stored", 256, False)


def test_without_a_calibration_there_is_none(filled: ti.Index, queries: np.ndarray) -> None:
    watch = still(filled)
    for _ in range(3):
        filled.search(queries)
    finish(watch)
    assert watch.report().drift is None
    assert watch.report().corrected == {}


def test_floors_are_kept_by_queries_that_are_harder(large: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The same floor, before and after what was watched corrected the planner.

    Which plan is the fastest depends on the machine, and with it what it misses at first: so what is
    found is compared with what was promised. How busy it is meanwhile is not to change the plan.
    """
    monkeypatch.setattr(Feedback, "observe", lambda *_, **__: None)
    vectors = matryoshka_vectors(6_000, DIM, seed=1, decay=0.3)
    hard = kind(1_000, 4, noise=0.14)
    truth, _ = exact_top_k(vectors, hard, 10)
    floor = 0.9
    with ti.open(large, mode="r") as index:
        first = [index.search(query, min_recall=floor) for query in hard]
        if {result.plan.strategy for result in first} != {"graph"}:
            pytest.skip("a scan, which misses less, was measured to be the fastest plan")
        before = recall_at_k([result.ids for result in first], truth)
        promised = index.explain(min_recall=floor).expected.recall
        assert before < promised - 0.03  # the queries are harder than calibration's
        watch = still(index)
        for part in np.array_split(hard, 20):
            for query in part:
                index.search(query, min_recall=floor)
            finish(watch)
        watch.stop()
        assert max(high for _, high in watch.report().corrected.values()) > 2.0
        after = [index.search(query, min_recall=floor) for query in hard]
        explained = index.explain(min_recall=floor)
        assert {result.plan for result in after} == {explained.plan}
        kept = recall_at_k([result.ids for result in after], truth)
        assert kept >= floor - 0.01
        assert explained.expected.recall == pytest.approx(kept, abs=0.03)


def test_where_no_plan_keeps_the_floor_every_vector_is_scored(large: Path) -> None:
    with ti.open(large, mode="r") as index:
        watch = still(index)
        asked = kind(600, 4, noise=0.5)
        for part in np.array_split(asked, 20):
            found = [index.search(query, min_recall=0.98) for query in part]
            finish(watch)
        assert {result.plan.strategy for result in found} == {"exact"}
        assert group(watch, "all").window.recall > 0.5


def test_without_correct_predictions_stand(large: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """How busy the machine is meanwhile is not to change the plan."""
    monkeypatch.setattr(Feedback, "observe", lambda *_, **__: None)
    with ti.open(large, mode="r") as index:
        plan = index.explain(min_recall=0.9).plan
        watch = still(index, correct=False)
        for query in kind(200, 4, noise=0.3):
            index.search(query, min_recall=0.9)
        finish(watch)
        assert watch.report().corrected == {}
        assert index.explain(min_recall=0.9).plan == plan


def test_a_new_calibration_begins_anew(large: Path) -> None:
    with ti.open(large, mode="r") as index:
        watch = still(index)
        for query in kind(200, 4, noise=0.3):
            index.search(query, min_recall=0.9)
        finish(watch)
        assert watch.report().corrected
        index.calibrate(kind(100, 6, noise=0.3), (10,), seconds=2)
        assert watch.report().corrected == {}
        index.search(kind(1, 7)[0])
        finish(watch)


def test_what_only_exact_search_keeps_is_tried_again(large: Path) -> None:
    with ti.open(large, mode="r") as index:
        chooser = index._planning.chooser
        chooser.feedback.use_misses(Correction({}, np.log(500.0)))  # wrong, by far
        watch = still(index)
        for query in kind(60, 8):
            assert index.search(query, min_recall=0.97).plan.strategy == "exact"
        finish(watch)
        assert index.search(kind(1, 9)[0], min_recall=0.97).plan.strategy != "exact"


# The handle, the thread, and the end


def test_a_watch_with_its_thread(filled: ti.Index, vectors: np.ndarray, queries: np.ndarray) -> None:
    with filled.watch(1.0, share=1.0, state=False) as watch:
        assert watch.running
        assert filled.watching is watch
        found = [narrow(filled, query).ids for query in queries]
        assert watch.settle(60)
        truth, _ = exact_top_k(vectors, queries, 10)
        assert group(watch, "all").total.recall == pytest.approx(recall_at_k(found, truth))
        with pytest.raises(ti.ParameterError, match="is being watched"):
            filled.watch()
    assert not watch.running
    assert repr(watch) == "Watch(rate=1, stopped)"
    filled.search(queries[0])
    report = filled.watch_report()
    assert (report.answered, report.running) == (50, False)
    assert "stopped" in str(report)
    assert report.to_dict()["groups"][0]["total"]["queries"] == 50
    with filled.watch(0.5, state=False) as again:
        assert again.report().taken == 0
    assert again.settle(1)


def test_it_keeps_to_its_share(
    filled: ti.Index, queries: np.ndarray, monkeypatch: pytest.MonkeyPatch
) -> None:
    slept: list[float] = []
    watch = still(filled, share=0.2)
    clock = iter(np.arange(0.0, 1_000.0, 0.25))  # each look at it takes a quarter of a second
    monkeypatch.setattr("tiered_index.watch.watch.perf_counter", lambda: float(next(clock)))
    monkeypatch.setattr(watch._stopping, "wait", lambda seconds: slept.append(seconds) or False)
    watch._resumed = float(next(clock))
    assert watch._pause()
    assert slept == [pytest.approx(0.5 * (1 / 0.2 - 1))]


def test_stopping_while_busy(filled: ti.Index, queries: np.ndarray, monkeypatch: pytest.MonkeyPatch) -> None:
    from tiered_index.watch import truth

    monkeypatch.setattr(truth, "PIECE_ROWS", 1)
    watch = filled.watch(1.0, share=0.001, state=False)  # a piece takes far longer than stopping may
    for query in queries:
        filled.search(query)
    while len(watch._samples) == 50:
        pass
    filled.close()
    assert not watch._thread.is_alive()
    report = watch.report()
    assert (report.taken, report.answered, report.waiting, report.dropped) == (50, 0, 0, 50)
    with pytest.raises(ti.IndexClosedError):
        filled.watch()


def test_an_index_that_is_let_go_of_ends_its_watch(tmp_path: Path, vectors: np.ndarray) -> None:
    index = ti.open(tmp_path / "gone.tidx", DIM)
    index.add(np.arange(10), vectors[:10])
    watch = index.watch(1.0, state=False)
    seen = weakref.ref(index)
    del index
    gc.collect()
    watch._thread.join(10)
    assert seen() is None
    assert not watch.running


def test_the_callback_may_stop_it(filled: ti.Index, queries: np.ndarray) -> None:
    done = threading.Event()

    def stop(_: ti.RecallChange) -> None:
        filled.watching.stop()
        done.set()

    with filled.watch(1.0, share=1.0, floors={"t": 0.999}, on_below=stop, state=False) as watch:
        for query in queries:
            narrow(filled, query, tag="t")
        assert done.wait(30)
        watch._thread.join(30)
        assert not watch._thread.is_alive()


@pytest.mark.filterwarnings("ignore:This process .* is multi-threaded:DeprecationWarning")
def test_after_a_fork_the_child_searches_and_is_not_watched(filled: ti.Index, queries: np.ndarray) -> None:
    with filled.watch(1.0, share=1.0, max_waiting=20, state=False) as watch:
        filled.search(queries[0])
        pid = os.fork()
        if pid == 0:
            code = 1
            try:
                for _ in range(3):
                    for query in queries:
                        filled.search(query)
                report = filled.watch_report()
                own = filled.watch(1.0, state=False)
                filled.search(queries[0])
                settled = own.settle(20)
                filled.close()
                code = 0 if not report.running and settled and own.report().answered == 1 else 2
            finally:
                os._exit(code)
        assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0
        filled.search(queries[1])
        assert watch.settle(30)
        assert watch.report().answered == 2


def test_an_interpreter_that_ends_without_closing(tmp_path: Path) -> None:
    code = (
        "import sys, numpy as np, tiered_index as ti\n"
        "index = ti.open(sys.argv[1], 64)\n"
        "index.add(np.arange(9000), np.random.default_rng(0).normal(size=(9000, 64)))\n"
        "watch = index.watch(1.0, share=0.01)\n"
        "for _ in range(50): index.search(np.ones(64, np.float32))\n"
        "print('asked')\n"
    )
    command = [sys.executable, "-c", code, str(tmp_path / "e.tidx")]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert (done.returncode, done.stdout, done.stderr) == (0, "asked\n", "")


def test_threads_search_while_a_writer_commits(filled: ti.Index, queries: np.ndarray) -> None:
    problems: list[BaseException] = []

    def ask() -> None:
        try:
            for query in np.tile(queries, (4, 1)):
                assert len(filled.search(query, tag="t").ids) == 10
        except BaseException as error:
            problems.append(error)

    with filled.watch(0.3, share=1.0, state=False, max_waiting=10_000) as watch:
        threads = [threading.Thread(target=ask) for _ in range(3)]
        for thread in threads:
            thread.start()
        for i in range(10):
            filled.delete([i])
            watch.report()
        for thread in threads:
            thread.join()
        assert problems == []
        assert watch.settle(60)
        report = watch.report()
        assert report.failed == report.dropped == 0
        assert report.answered == report.taken > 50


@pytest.mark.parametrize(
    "settings",
    [
        {"rate": 0},
        {"rate": 1.5},
        {"rate": True},
        {"rate": "1"},
        {"share": 0},
        {"share": 2},
        {"window": 3},
        {"window": 1.5},
        {"window_seconds": 0},
        {"floors": [0.9]},
        {"floors": {"a": 2}},
        {"floors": {3: 0.9}},
        {"on_below": 3},
        {"max_waiting": 0},
        {"state": 3},
        {"state_seconds": -1},
    ],
)
def test_settings_are_checked(filled: ti.Index, queries: np.ndarray, settings: dict[str, Any]) -> None:
    with pytest.raises(ti.ParameterError):
        filled.watch(**settings)
    filled.search(queries[0])
    with pytest.raises(ti.ParameterError, match="not watched"):
        filled.watch_report()


def test_tags_are_strings(filled: ti.Index, queries: np.ndarray) -> None:
    with pytest.raises(ti.ParameterError, match="tag must be a string, not 3"):
        filled.search(queries[0], tag=3)


# Counting


def test_searches_are_counted_once_asked_for(filled: ti.Index, queries: np.ndarray) -> None:
    filled.search(queries[0])
    assert filled.tally().queries == 0
    filled.search(queries)
    results = [filled.search(query, 5) for query in queries[:7]]
    filled.search(queries[0], min_recall=0.5)  # not calibrated: every vector is scored, and it says so
    tally = filled.tally()
    assert (tally.complete, tally.degraded, tally.late, tally.queries) == (8, 1, 0, 58)
    assert sum(tally.latencies) == 9
    assert tally.rows_read > sum(result.stats.rows_read for result in results)
    assert tally.seconds > 0


def test_no_thread_loses_a_count(filled: ti.Index, queries: np.ndarray) -> None:
    filled.tally()
    threads = [
        threading.Thread(target=lambda: [filled.search(query, 1) for query in queries]) for _ in range(4)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert filled.tally().complete == 200
