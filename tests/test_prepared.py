"""Prepared searches: the same answers as the general way gives, and that way where they cannot answer."""

from __future__ import annotations

import os
import weakref
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import tiered_index as ti
from tiered_index.compiled import DISABLE, OTHERWISE
from tiered_index.planner.plan import EXACT
from tiered_index.prepared import PreparedSearches
from tiered_index.storage.segment import LOOKUP_FILE
from tiered_index.testing import exact_top_k, matryoshka_vectors

engine = pytest.importorskip("tiered_index.compiled.engine")
compiled = pytest.importorskip("tiered_index.compiled.prepared")

DIM, PREFIX_DIM, ROWS = 64, 32, 7_000
SETTINGS: list[dict[str, Any]] = [
    {},
    {"metric": "dot"},
    {"dtype": "float16"},
    {"metric": "dot", "dtype": "float16"},
    {"tail_sketch": 1},
    {"metric": "dot", "dtype": "float16", "tail_sketch": 4},
]
PLANS: list[dict[str, Any]] = [
    {},
    {"k": 1, "ef": 24},
    {"k": 40, "candidates": 100},
    {"prefix_dim": 16},
    {"latency_budget_ms": 1e6},
]

pytestmark = pytest.mark.skipif(DISABLE in os.environ, reason="the compiled engine is switched off")


@pytest.fixture(scope="module")
def data() -> tuple[np.ndarray, np.ndarray]:
    return matryoshka_vectors(ROWS, DIM, seed=7), matryoshka_vectors(40, DIM, seed=7, stream=1)


@pytest.fixture
def make(tmp_path: Path, data: tuple) -> Iterator[Callable[..., ti.Index]]:
    opened: list[ti.Index] = []

    def made(*, texts: bool = False, **settings: Any) -> ti.Index:
        index = ti.open(
            tmp_path / f"{len(opened)}.tidx",
            DIM,
            prefix_dim=PREFIX_DIM,
            merge_policy=ti.NoMergePolicy(),
            **settings,
        )
        opened.append(index)
        index.add([f"row {i}" for i in range(ROWS)] if texts else np.arange(ROWS) + 5, data[0])
        return index

    yield made
    for index in opened:
        index.close()


@pytest.fixture
def only(monkeypatch: pytest.MonkeyPatch) -> Callable[[str], None]:
    """Let searches go one way only."""

    def way(name: str) -> None:
        if name == "prepared":
            monkeypatch.setattr("tiered_index.reader.ask", None)
        else:
            monkeypatch.setattr(PreparedSearches, "search", lambda *_: None)

    return way


def assert_same(one: ti.SearchResult, other: ti.SearchResult) -> None:
    """Both say the same. Queries are scaled with other roundings, so rows that tie may change places."""
    assert set(one.ids) == set(other.ids)
    np.testing.assert_allclose(one.scores, other.scores, rtol=2e-5)
    assert (one.plan, one.generation, one.complete) == (other.plan, other.generation, other.complete)
    assert one.degraded_reason == other.degraded_reason
    assert one.estimated_recall == pytest.approx(other.estimated_recall, abs=1e-5)
    for name in ("queries", "parts_walked", "parts_scanned", "rows_read", "bytes_read"):
        assert getattr(one.stats, name) == getattr(other.stats, name), name
    assert one.stats.distances == pytest.approx(other.stats.distances, rel=0.05)
    assert one.stats.total_ms >= one.stats.coarse_ms + one.stats.rescore_ms > 0.0


def both_ways(index: ti.Index, queries: np.ndarray, only: Callable) -> list[ti.SearchResult]:
    """Return answers to all plans by prepared searches alone, which are those of the general way."""
    asked = [(query, plan) for plan in PLANS for query in queries]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("tiered_index.reader.ask", None)
        prepared = [index.search(query, **plan) for query, plan in asked]
    only("general")
    for result, (query, plan) in zip(prepared, asked, strict=True):
        assert_same(result, index.search(query, **plan))
    return prepared


@pytest.mark.parametrize("metric", ["cosine", "dot"])
def test_rotated_answers_are_those_of_the_general_way(
    make: Callable[..., ti.Index], data: tuple, only: Callable, metric: str
) -> None:
    index = make(metric=metric)
    index.rebuild_coarse(rotation="pca")
    both_ways(index, data[1], only)


@pytest.mark.parametrize("settings", SETTINGS)
@pytest.mark.parametrize("texts", [False, True])
@pytest.mark.parametrize("fewer", [False, True])
def test_answers_are_those_of_the_general_way(
    make: Callable[..., ti.Index], data: tuple, only: Callable, settings: Any, texts: bool, fewer: bool
) -> None:
    index = make(texts=texts, **settings)
    if fewer:
        index.delete(index.get(where={}, limit=900)["id"])
    prepared = both_ways(index, data[1] * 3, only)
    for result in prepared:
        assert result.plan.strategy == "graph"
        assert result.stats.parts_walked == 1
    assert prepared[0].metadata.num_rows == 10
    assert prepared[0].to_arrow()["id"].to_pylist() == prepared[0].ids.tolist()


FILTERS: list[dict[str, Any]] = [
    {"tenth": {"$lt": 9}},
    {"tenth": {"$in": [1, 4, 5, 6, 7]}},
    {"tenth": 3},
    {"tenth": 3, "n": {"$lt": 700}},
    {"n": {"$lt": 4}},
]


@pytest.fixture
def labelled(make: Callable[..., ti.Index], data: tuple, tmp_path: Path) -> Iterator[ti.Index]:
    random = np.random.default_rng(1)
    with ti.open(tmp_path / "labelled.tidx", DIM, prefix_dim=PREFIX_DIM) as index:
        index.add(np.arange(ROWS), data[0], {"n": np.arange(ROWS), "tenth": random.integers(0, 10, ROWS)})
        yield index


@pytest.mark.parametrize("where", FILTERS)
@pytest.mark.parametrize("plan", [{}, {"k": 3}, {"ef": 24, "candidates": 12}, {"latency_budget_ms": 1e6}])
def test_filtered_answers_are_those_of_the_general_way(
    labelled: ti.Index, data: tuple, only: Callable, where: Any, plan: Any
) -> None:
    prepared = [labelled.search(query, where=where, **plan) for query in data[1]]
    searches = [one for _, one in labelled._current.get().matching(where).prepared.values()]
    only("general")
    for result, query in zip(prepared, data[1], strict=True):
        assert_same(result, labelled.search(query, where=where, **plan))
    (answered,) = searches
    assert answered._otherwise <= len(data[1]) // 2  # else this would compare the general way with itself
    if plan == {} and len(where) == 1:
        recall = [
            np.isin(one.ids, labelled.search(query, where=where, exact=True).ids).mean()
            for one, query in zip(prepared, data[1], strict=True)
        ]
        assert np.mean(recall) > 0.95


def test_where_most_queries_want_another_way_none_is_prepared(labelled: ti.Index, data: tuple) -> None:
    where = {"tenth": {"$lt": 4}}
    labelled.search(data[1][0], where=where)
    ((_, searches),) = labelled._current.get().matching(where).prepared.values()
    searches._answer = lambda *_: OTHERWISE
    expected = [one.ids.tolist() for one in (labelled.search(query, where=where) for query in data[1])]
    assert searches._answer is None
    calls = searches._calls
    assert [labelled.search(query, where=where).ids.tolist() for query in data[1]] == expected
    assert searches._calls == calls


def test_filters_that_look_alike_are_told_apart(labelled: ti.Index, data: tuple) -> None:
    query = data[1][0]
    for n in (1, 1.0):
        assert labelled.search(query, where={"n": n}).ids.tolist() == [1]
    for bad in ({"n": True}, {"n": "1"}, {"n": {"$lt": True}}, {"tenth": {"$in": [1, True]}}):
        with pytest.raises(ti.FilterError):
            labelled.search(query, where=bad)
    many = {"n": {"$in": list(range(100, 300))}}
    assert labelled.count(many) == 200
    assert set(labelled.search(query, 200, where=many).ids) == set(range(100, 300))
    with pytest.raises(ti.FilterError):
        labelled.search(query, where=[1])
    with pytest.raises(ti.DimensionError):
        labelled.search(query[:3], where={"n": 1})


def test_files_of_an_earlier_generation_are_let_go_of(labelled: ti.Index, data: tuple) -> None:
    query = data[1][0]
    labelled.search(query)
    labelled.search(query, where={"tenth": 3})
    gone = weakref.ref(labelled._current.get())
    labelled.add([ROWS], data[0][:1], {"n": [ROWS], "tenth": [1]})
    assert gone() is None  # without the garbage collector's help


def test_scores_are_exact(make: Callable[..., ti.Index], data: tuple, only: Callable) -> None:
    index = make()
    only("prepared")
    truth, scores = exact_top_k(data[0], data[1], 10)
    for query, rows, exact in zip(data[1], truth, scores, strict=True):
        result = index.search(query, ef=140, candidates=140)
        assert (result.plan.ef, result.plan.candidates) == (140, 140)
        if (result.ids - 5).tolist() == rows.tolist():
            np.testing.assert_allclose(result.scores, exact, rtol=1e-5)
    found = [index.search(query, ef=140, candidates=140).ids - 5 for query in data[1]]
    assert np.mean([np.isin(f, t).mean() for f, t in zip(found, truth, strict=True)]) > 0.9


def test_planned_searches_are_prepared_too(
    make: Callable[..., ti.Index], data: tuple, only: Callable
) -> None:
    index = make()
    index.calibrate(data[1], k=(10,), seconds=2.0)
    index.profiles = {"legal": ti.Budget(min_recall=0.95)}
    only("prepared")
    for asked in ({"min_recall": 0.8}, {"profile": "legal"}, {"budget": ti.Budget(min_recall=0.9)}):
        planned = index.explain(**asked).plan
        result = index.search(data[1][0], **asked)
        assert result.plan == planned
        assert 0.0 < result.estimated_recall <= 1.0
        assert result.degraded_reason is None


def test_what_was_committed_is_found(make: Callable[..., ti.Index], data: tuple, only: Callable) -> None:
    index = make()
    query = data[1][0]
    for _ in range(3):
        assert 1 not in index.search(query).ids
    index.add([1], query[None])
    index.optimize()  # one graph again
    only("prepared")
    result = index.search(query)
    assert (result.ids[0], result.generation) == (1, index.generations()[-1].generation)
    assert result.scores[0] == pytest.approx(1.0)


def test_what_is_asked_may_change(make: Callable[..., ti.Index], data: tuple) -> None:
    index = make()
    index.calibrate(data[1], k=(10,), seconds=2.0)
    query = data[1][0]
    seen = []
    for floor in (0.7, 0.99, 1.0):  # the first two may be kept by the same plan, if that is the fastest
        index.budget = ti.Budget(min_recall=floor)
        index.profiles = {"one": ti.Budget(min_recall=floor)}
        planned = index.explain(query).plan
        for asked in ({}, {"profile": "one"}):
            result = index.search(query, **asked)
            if result.plan.strategy == "graph":
                assert result.plan == planned
            seen.append(result.plan)
    assert seen[::2] == seen[1::2]
    assert seen[0] != seen[4] == EXACT
    index.budget = None
    assert index.search(query).plan.early_stop == 0


def test_corrections_from_observed_times_decide_again(
    make: Callable[..., ti.Index], data: tuple, monkeypatch: pytest.MonkeyPatch
) -> None:
    index = make()
    index.calibrate(data[1], k=(10,), seconds=2.0)
    planning, decided = index._planning, []
    decide = planning.decide
    monkeypatch.setattr(
        planning, "decide", lambda *asked, **more: decided.append(decide(*asked, **more)) or decided[-1]
    )

    def expected() -> float:
        index.search(data[1][0], prefix_dim=PREFIX_DIM)
        index.search(data[1][0], prefix_dim=PREFIX_DIM)
        return decided[-1].prediction.total.p50

    before = expected()
    assert len(decided) == 1
    for _ in range(400):  # a machine that has become much slower
        planning.chooser.feedback.observe((1.0, 1.0), (30.0, 30.0), 10, 0)
    assert expected() > 2 * before
    assert len(decided) == 2


@pytest.mark.parametrize(("latency_ms", "stands"), [(1.0, True), (1e4, False)])
def test_a_decision_for_a_short_budget_stands_for_some_calls(
    make: Callable[..., ti.Index],
    data: tuple,
    monkeypatch: pytest.MonkeyPatch,
    latency_ms: float,
    stands: bool,
) -> None:
    """Whatever is observed of times; not of the page cache, and not when there is another calibration."""
    index = make()
    index.calibrate(data[1], k=(10,), seconds=2.0)
    monkeypatch.setattr("tiered_index.prepared.DECIDED_CALLS", 8)
    monkeypatch.setattr("tiered_index.prepared.LEARN_AFTER_NS", 0)
    planning, decided, corrected_by = index._planning, [], []
    feedback, decide = planning.chooser.feedback, planning.decide
    monkeypatch.setattr(feedback, "observe", lambda *_, then, **__: corrected_by.append(then.coarse))
    monkeypatch.setattr(
        planning, "decide", lambda *asked, **more: decided.append(decide(*asked, **more)) or decided[-1]
    )

    def decisions(calls: int) -> int:
        before = len(decided)
        for _ in range(calls):
            index.search(data[1][0], ef=100, latency_budget_ms=latency_ms)
        return len(decided) - before

    assert decisions(1) == 1
    feedback._state = feedback._state._replace(coarse=2.0)
    assert decisions(7) == (0 if stands else 1)
    assert corrected_by[-1] == (1.0 if stands else 2.0)
    assert decisions(8) == (1 if stands else 0)
    assert corrected_by[-1] == 2.0
    feedback._state = feedback._state._replace(cold_share=0.5)
    assert decisions(1) == 1
    planning.use(planning.chooser.calibration)
    assert decisions(2) == 1


@pytest.mark.parametrize("way", ["prepared", "general"])
@pytest.mark.parametrize("asked", [{"latency_budget_ms": 1e4}, {}])
def test_a_search_with_a_deadline_is_learnt_from_when_the_next_comes_in(
    make: Callable[..., ti.Index],
    data: tuple,
    only: Callable,
    monkeypatch: pytest.MonkeyPatch,
    way: str,
    asked: dict[str, float],
) -> None:
    index = make()
    index.calibrate(data[1], k=(10,), seconds=2.0)
    learnt: list[Any] = []
    monkeypatch.setattr(index._planning.chooser.feedback, "observe", lambda *seen, **_: learnt.append(seen))
    monkeypatch.setattr("tiered_index.prepared.LEARN_AFTER_NS", 0)
    only(way)
    for calls in range(1, 4):
        index.search(data[1][0], ef=100, **asked)
        assert len(learnt) == calls - ("latency_budget_ms" in asked)


@pytest.mark.parametrize(("after_ns", "count"), [(0, None), (10**18, 1)])
def test_a_query_is_learnt_from_if_it_comes_some_time_after_the_last_one(
    make: Callable[..., ti.Index],
    data: tuple,
    only: Callable,
    monkeypatch: pytest.MonkeyPatch,
    after_ns: int,
    count: int | None,
) -> None:
    index = make()
    index.calibrate(data[1], k=(10,), seconds=2.0)
    learnt = []
    monkeypatch.setattr(index._planning.chooser.feedback, "observe", lambda *seen, **_: learnt.append(seen))
    monkeypatch.setattr("tiered_index.prepared.LEARN_AFTER_NS", after_ns)
    only("prepared")
    for query in data[1]:
        index.search(query, min_recall=0.5)
    assert len(learnt) == (count or len(data[1]))
    (predicted, observed, rows_read, cold_rows) = learnt[0]
    assert min(*predicted, *observed) > 0.0
    assert rows_read >= 10
    assert cold_rows >= 0


def test_queries_are_kept_to_calibrate_with(make: Callable[..., ti.Index], data: tuple) -> None:
    index = make()
    for query in data[1]:
        index.search(query * 2)
    np.testing.assert_allclose(index._planning.live_queries(), data[1], rtol=1e-5)


def test_numbers_that_equal_those_of_a_prepared_search_are_refused_as_ever(
    make: Callable[..., ti.Index], data: tuple
) -> None:
    index = make()
    query = data[1][0]
    for name, good, bad in (
        ("ef", 200, 200.0),
        ("candidates", 100, 100.0),
        ("prefix_dim", 16, np.float64(16)),
        ("latency_budget_ms", 1, True),
        ("min_recall", 1, True),
        ("min_recall", 1.0, True),
    ):
        index.search(query, **{name: good})
        with pytest.raises(ti.ParameterError, match=name.removesuffix("_budget_ms")):
            index.search(query, **{name: bad})
    expected = index.search(query, ef=200).ids.tolist()
    assert index.search(query, ef=np.int64(200)).ids.tolist() == expected


def test_what_is_no_such_query_goes_the_general_way(make: Callable[..., ti.Index], data: tuple) -> None:
    index = make()
    query = data[1][0]
    expected = index.search(query).ids.tolist()
    unaligned = np.frombuffer(b"x" + query.tobytes(), np.uint8)[1:].view(np.float32)
    others = [
        query.astype(np.float64),
        query.tolist(),
        query.astype(">f4"),
        np.repeat(query, 2)[::2],
        unaligned,
    ]
    read_only = query.copy()
    read_only.flags.writeable = False
    for other in [*others, read_only]:
        assert index.search(other).ids.tolist() == expected
    assert index.search(query[None]).ids.tolist() == [expected]


@pytest.mark.parametrize("metric", ["cosine", "dot"])
def test_bad_input_is_named_as_ever(make: Callable[..., ti.Index], data: tuple, metric: str) -> None:
    index = make(metric=metric)
    query = data[1][0]
    index.search(query)
    index.search(query, k=1)
    for number in (np.nan, np.inf):
        bad = query.copy()
        bad[3] = number
        with pytest.raises(ti.NonFiniteVectorError):
            index.search(bad)
    with pytest.raises(ti.DimensionError):
        index.search(query[:-1])
    if metric == "cosine":
        with pytest.raises(ti.ZeroVectorError):
            index.search(np.zeros(DIM, np.float32))
        tail = np.zeros(DIM, np.float32)
        tail[-1] = 1.0
        with pytest.raises(ti.ZeroVectorError, match="first 32"):
            index.search(tail)
    else:
        assert len(index.search(np.zeros(DIM, np.float32))) == 10
    for asked in ({"k": True}, {"k": 10.0}, {"k": 0}, {"k": [3]}, {"profile": "none"}, {"min_recall": 2.0}):
        with pytest.raises(ti.ParameterError):
            index.search(query, **asked)


def test_tiny_and_huge_queries(make: Callable[..., ti.Index], data: tuple) -> None:
    index = make()
    for query in data[1][:5]:
        expected = index.search(query)
        for scale in (1e-30, 1e-12, 1e12, 1e18):
            found = index.search(query * np.float32(scale))
            assert found.ids.tolist() == expected.ids.tolist()
            np.testing.assert_allclose(found.scores, expected.scores, rtol=1e-5)


def test_room_grows(make: Callable[..., ti.Index], data: tuple, monkeypatch: pytest.MonkeyPatch) -> None:
    index = make()
    index.calibrate(data[1], k=(10,), seconds=2.0)
    plans = [{"ef": 140}, {"min_recall": 0.9}]
    expected = [index.search(query, **plan).ids.tolist() for plan in plans for query in data[1]]
    room = type(compiled.own.room)()
    monkeypatch.setattr(compiled.own, "room", room)
    found = [index.search(query, **plan).ids.tolist() for plan in plans for query in data[1]]
    assert found == expected
    assert len(room.beam) >= 280
    assert len(room.query) >= DIM


def test_a_deadline_that_passed(make: Callable[..., ti.Index], data: tuple, only: Callable) -> None:
    index = make()
    index.calibrate(data[1], k=(10,), seconds=2.0)
    result = index.search(data[1][0], latency_budget_ms=1e-3)
    if result.plan.strategy != "exact":  # which may be measured to be the fastest: there are few rows
        only("prepared")
        result = index.search(data[1][0], latency_budget_ms=1e-3)
    assert result.complete == (result.plan.strategy == "exact")
    assert "the plan is expected to take" in result.degraded_reason


def test_strict_searches_raise(make: Callable[..., ti.Index], data: tuple) -> None:
    index = make()
    index.calibrate(data[1], k=(10,), seconds=2.0)
    index.search(data[1][0], latency_budget_ms=1e-3)
    with pytest.raises(ti.BudgetNotMetError):
        index.search(data[1][0], latency_budget_ms=1e-3, strict=True)


def test_a_lookup_cut_while_open(make: Callable[..., ti.Index], data: tuple) -> None:
    index = make()
    index.search(data[1][0])
    path = index._current.get().segments[0].segment.folder / LOOKUP_FILE
    os.truncate(path, path.stat().st_size // 2)
    with pytest.raises(ti.CorruptIndexError, match="was cut"):
        index.search(data[1][0])


def test_a_closed_index(make: Callable[..., ti.Index], data: tuple) -> None:
    index = make()
    result = index.search(data[1][0])
    index.close()
    with pytest.raises(ti.IndexClosedError):
        index.search(data[1][0])
    assert len(result.ids) == 10
    assert result.stats.rows_read >= 10
