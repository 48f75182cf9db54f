"""Floors under filters: calibration measures filters that it makes, and plans rest on that."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from time import perf_counter
from typing import Any

import numpy as np
import pytest

import tiered_index as ti
from tiered_index import calibrate_filters as filters
from tiered_index.compiled import get_engine
from tiered_index.exact import exact_among
from tiered_index.limits import Limits
from tiered_index.planner.among import Among
from tiered_index.planner.plan import Plan
from tiered_index.search import search
from tiered_index.storage.road import Road
from tiered_index.testing import exact_top_k, matryoshka_vectors, recall_at_k

DIM, ROWS = 48, 24_000

pytestmark = pytest.mark.skipif(get_engine() is None, reason="without the compiled engine FAISS filters")


@pytest.fixture(scope="module")
def data() -> tuple[np.ndarray, np.ndarray]:
    both = (matryoshka_vectors(n, DIM, seed=8, stream=stream) for stream, n in enumerate((ROWS, 400)))
    vectors, queries = both
    return vectors, queries


@pytest.fixture(scope="module")
def index(data: tuple, tmp_path_factory: pytest.TempPathFactory) -> Any:
    made = ti.open(
        tmp_path_factory.mktemp("filters") / "i.tidx", DIM, prefix_dim=24, graph_degree=12, ef_construction=40
    )
    share = np.random.default_rng(5).random(ROWS)
    topic = data[0] @ data[0][11] > np.quantile(data[0] @ data[0][11], 0.7)
    made.add(np.arange(ROWS), data[0], {"share": share, "topic": topic})
    made.delete(np.arange(0, ROWS, 997))
    made.calibrate(data[1][:200], k=(1, 10))
    yield made
    made.close()


def measured(index: ti.Index) -> Among | None:
    chooser = index._planning.chooser
    return None if chooser is None else chooser.calibration.among


def test_it_is_measured_and_kept_with_the_index(index: ti.Index) -> None:
    known = measured(index)
    assert known is not None
    assert known.k == 10
    assert "dense" in known.kinds
    assert all(0.0 <= recall <= 1.0 for curve in known.kinds.values() for _, recall in curve)
    assert known.slower >= 1.0
    assert known.scan_ms > 0.0
    assert known.linked is not None
    assert "dense" in known.linked.kinds
    assert known.linked.everywhere == known.everywhere
    assert known.nearness is None
    assert known.linked.nearness is not None
    assert known.linked.nearness.k == 10
    with ti.open(index.path, mode="r") as again:
        assert measured(again) == known


def test_exact_answers_of_filters_are_exact(index: ti.Index, data: tuple) -> None:
    snapshot = index._current.get()
    draw = np.random.default_rng(2)
    live = snapshot.segments[0].live
    masks = [draw.random(ROWS) < share for share in (0.5, 0.01, 0.0002)]
    queries = data[1][:20] / np.linalg.norm(data[1][:20], axis=1, keepdims=True)
    found = exact_among(snapshot, queries.astype(np.float32), 10, 0, masks)
    for mask, rows in zip(masks, found, strict=True):
        held = np.flatnonzero(mask & live)
        truth, _ = exact_top_k(data[0][held], data[1][:20], min(10, len(held)))
        assert recall_at_k(rows, held[truth]) >= 0.999


def test_masks_hold_no_query_and_nothing_deleted(index: ti.Index) -> None:
    own = np.arange(1, 4_000, 40)
    masks = filters._masks(index._current.get(), 0, own)
    for mask in masks:
        assert not mask[own].any()
        assert not mask[::997].any()
    shares = [*filters.RANDOM, *[filters.TOPIC_SHARE] * filters.TOPICS]
    shares += [1.0 - filters.TOPIC_SHARE] * filters.OTHERS
    unions = len(filters.UNIONS)
    assert [mask.mean() for mask in masks[:-unions]] == pytest.approx(shares, abs=0.02)
    for mask, share in zip(masks[-unions:], filters.UNIONS, strict=True):
        assert share - 0.02 <= mask.mean() < share + 0.1  # whole groups
    assert not (masks[-unions] & ~masks[-1]).any()


def test_topics_that_were_deleted_are_no_filters(index: ti.Index, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever is left of the rows, filters that hold none of them are left out."""
    snapshot = index._current.get()
    (live,) = snapshot.segments
    topic = filters._masks(snapshot, 0, None)[len(filters.RANDOM)]
    monkeypatch.setattr(live, "live", live.live & ~topic)
    left = filters._masks(snapshot, 0, None)
    made = len(filters.RANDOM) + filters.TOPICS + filters.OTHERS + len(filters.UNIONS)
    assert 0 < len(left) < made
    assert all(mask.any() for mask in left)


@pytest.mark.parametrize("linked", [False, True])
@pytest.mark.parametrize("floor", [0.85, 0.93])
def test_floors_are_kept_under_filters(index: ti.Index, data: tuple, floor: float, linked: bool) -> None:
    index.filter_links_mb = None if linked else 0
    table = index.get(where={})
    ids = np.array(table["id"])
    columns = {name: np.array(table[name]) for name in ("share", "topic")}
    for where, held in (
        ({"share": {"$lt": 0.7}}, columns["share"] < 0.7),
        ({"topic": True}, columns["topic"]),
        ({"topic": False}, ~columns["topic"]),
    ):
        truth, _ = exact_top_k(data[0][ids[held]], data[1][200:], 10)
        assert index.warm(where) == (linked and held.mean() < 0.75 and held.sum() > 8_192)
        found = [index.search(query, where=where, min_recall=floor) for query in data[1][200:]]
        recall = recall_at_k([one.ids for one in found], ids[held][truth])
        assert recall >= floor - 0.02  # two hundred other queries
        estimates = [one.estimated_recall for one in found]
        assert None not in estimates
        assert float(np.mean(estimates)) <= recall + 0.02
        assert all(one.degraded_reason is None for one in found)
    plan = index.search(data[1][300], where={"share": {"$lt": 0.7}}, min_recall=floor).plan
    assert plan.strategy == "graph"


def hard_and_easy(data: tuple, rows: np.ndarray) -> np.ndarray:
    """Return queries among those that have the least to do with some rows, and the most."""
    order = np.argsort(np.sort(data[1][200:] @ data[0][rows].T, axis=1)[:, -10])
    found: np.ndarray = data[1][200:][np.concatenate([order[:25], order[-25:]])]
    return found


@pytest.mark.parametrize("floor", [None, 0.93])
def test_a_walk_whose_best_are_not_near_enough_is_followed_by_another(
    index: ti.Index, data: tuple, floor: float | None
) -> None:
    index.filter_links_mb = None
    where = {"share": {"$lt": 0.45}}
    assert index.warm(where)
    table = index.get(where=where)
    ids = np.array(table["id"])
    queries = hard_and_easy(data, ids)
    explained = index.explain(where=where, min_recall=floor)
    first = explained.plan
    plans = [first, *(one.plan for one in explained.follows)]
    assert 2 <= len(plans) <= 4
    assert all(one.place == 10 for one in explained.follows)
    assert f"then:  {plans[1].strategy}" in str(explained)
    prepared = [index.search(query, where=where, min_recall=floor) for query in queries]
    others = [index.search(query, where=where, min_recall=floor, strict=True) for query in queries]
    assert [one.plan for one in prepared] == [one.plan for one in others]
    assert all(one.plan in plans for one in prepared)
    walked = np.array([one.plan != first for one in prepared])
    assert walked[:25].mean() > walked[25:].mean()
    assert walked.any()
    truth, _ = exact_top_k(data[0][ids], queries, 10)
    assert recall_at_k([one.ids for one in prepared], ids[truth]) >= (floor or 0.95) - 0.02
    for one, other in zip(prepared, others, strict=True):
        assert one.ids.tolist() == other.ids.tolist()
        assert one.stats.distances == other.stats.distances  # of both walks
        assert one.estimated_recall == pytest.approx(other.estimated_recall)
    alone = [index.search(query, where=where, ef=first.ef, candidates=first.ef) for query in queries]
    for one, only, again in zip(prepared, alone, walked, strict=True):
        if again:
            assert one.stats.distances > only.stats.distances


@pytest.mark.parametrize("linked", [False, True])
@pytest.mark.parametrize("floor", [None, 0.93])
@pytest.mark.parametrize("most", [0.45, 0.05])
def test_queries_asked_together_are_answered_as_one_by_one(
    index: ti.Index, data: tuple, most: float, floor: float | None, linked: bool
) -> None:
    index.filter_links_mb = None if linked else 0
    where = {"share": {"$lt": most}}
    assert index.warm(where) == (linked and most > 0.1)
    queries = hard_and_easy(data, np.array(index.get(where=where)["id"]))
    alone = [index.search(query, where=where, min_recall=floor, strict=True) for query in queries]
    together = index.search(queries, where=where, min_recall=floor)
    assert together.ids.tolist() == [one.ids.tolist() for one in alone]
    np.testing.assert_allclose(together.scores, [one.scores for one in alone], atol=1e-5)
    assert together.plan in [one.plan for one in alone]
    assert together.complete
    assert together.estimated_recall == pytest.approx(np.mean([one.estimated_recall for one in alone]))
    assert together.stats.queries == len(queries)
    assert together.stats.rows_read >= sum(one.stats.rows_read for one in alone)
    assert together.stats.total_ms > together.stats.coarse_ms > 0.0
    assert index.search(queries[:0], where=where, min_recall=floor).ids.shape == (0, 10)
    if linked and most > 0.1:
        assert len({one.plan for one in alone}) > 1


@pytest.mark.parametrize(("queries", "deadline", "looks"), [(8, 0, 8), (8, 1, 0), (1, 1, 1)])
def test_batches_with_a_deadline_do_not_look_around_for_each_query(
    index: ti.Index,
    data: tuple,
    monkeypatch: pytest.MonkeyPatch,
    queries: int,
    deadline: int,
    looks: int,
) -> None:
    index.filter_links_mb = 0
    snapshot, looked = index.snapshot(), []
    scope = snapshot.matching({"share": {"$lt": 0.45}}).scope
    share_near = Road.share_near
    monkeypatch.setattr(Road, "share_near", lambda *asked: looked.append(1) or share_near(*asked))
    plan = Plan(strategy="graph", prefix_dim=24, ef=64, candidates=64, misses=0.2)
    limits = Limits(call_ns=deadline * 2**62)  # far away
    hits = search(snapshot, data[1][-queries:], 10, plan, perf_counter(), limits, scope)
    assert len(looked) == looks
    assert hits.addresses.shape == (queries, 10)
    assert not hits.late


def test_plans_by_links_rest_on_what_was_measured_by_links(index: ti.Index) -> None:
    snapshot, planning, budget = index.snapshot(), index._planning, ti.Budget(min_recall=0.9)
    known = measured(index)
    assert known is not None
    for linked, among in ((False, known), (True, known.linked)):
        decision = planning.decide(snapshot, 10, 1, budget, {}, 0, 12_000, linked=linked)
        assert decision.relied == among


def test_too_little_time_leaves_it_out(data: tuple, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(filters, "LEAST_INDEXED", 5_000)

    def never(*_: Any) -> None:
        raise AssertionError

    seconds: Callable[..., float] = filters.filters_seconds
    assert seconds(1_000_000, 1.0) > seconds(1_000, 0.01) > 0.0
    with ti.open(tmp_path / "s.tidx", DIM, prefix_dim=24, graph_degree=8, ef_construction=20) as index:
        index.add(np.arange(6_000), data[0][:6_000])
        monkeypatch.setattr("tiered_index.calibration.calibrate_filters", never)
        index.calibrate(data[1][:60], k=10, seconds=0.5)
        assert measured(index) is None


def test_small_indexes_are_scanned_and_not_measured(data: tuple, tmp_path: Path) -> None:
    with ti.open(tmp_path / "s.tidx", DIM, prefix_dim=24, graph_degree=8, ef_construction=20) as index:
        index.add(np.arange(5_000), data[0][:5_000], {"even": np.arange(5_000) % 2 == 0})
        index.calibrate(data[1][:60], k=10)
        assert measured(index) is None
        result = index.search(data[1][70], where={"even": True}, min_recall=0.9)
        truth, _ = exact_top_k(data[0][:5_000:2], data[1][70:71], 10)
        assert recall_at_k([result.ids], 2 * truth) >= 0.9
