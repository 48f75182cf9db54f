"""The compiled road against FAISS, NumPy and the exact oracle: the same rows, whichever walks."""

from __future__ import annotations

import json
import multiprocessing
import os
import shutil
import subprocess
import sys
import warnings
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from time import perf_counter, perf_counter_ns
from typing import Any

import msgspec
import numpy as np
import pytest

import tiered_index as ti
from tiered_index.coarse import _faiss
from tiered_index.coarse.prefix_graph import SCAN_ROWS_PER_EF, CoarseTier
from tiered_index.compiled import DISABLE
from tiered_index.compiled.layout import (
    BEAM_SIZE,
    MIN_TABLE,
    ORDER,
    PREFIX,
    QUERY_SIZE,
    TABLE,
    TABLE_SIZE,
    TOP_LEVEL,
)
from tiered_index.compiled.room import Room
from tiered_index.limits import NO_LIMITS, Limits
from tiered_index.results import Hits
from tiered_index.search import search
from tiered_index.storage.segment import COARSE_FILE, ROWS_FILE
from tiered_index.testing import exact_top_k, matryoshka_vectors, recall_at_k

from .multiplied import multiplied

engine = pytest.importorskip("tiered_index.compiled.engine")

DIM, PREFIX_DIM, ROWS = 64, 32, 12_000
SMALL_ROWS = 6_000

FAR_NS = 10**13
TOLERANCE = {"float32": 2e-6, "float16": 2e-5}
ENGINES = ["compiled", "faiss"]

pytestmark = pytest.mark.skipif(DISABLE in os.environ, reason="the compiled engine is switched off")


def plan_of(ef: int = 128, candidates: int | None = None, **more: Any) -> ti.Plan:
    settings = {"prefix_dim": PREFIX_DIM, "candidates": candidates or ef, **more}
    return ti.Plan(strategy="graph", ef=ef, **settings)


def ask(index: ti.Index, query: np.ndarray, k: int, plan: ti.Plan, limits: Limits = NO_LIMITS) -> Hits:
    """Search by a plan that Index.search does not offer."""
    return search(index._current.get(), query[None], k, plan, perf_counter(), limits)


def graph_of(index: ti.Index) -> CoarseTier:
    return index._current.get().segments[0].segment.coarse


def unit(vectors: np.ndarray) -> np.ndarray:
    return np.ascontiguousarray(vectors / np.linalg.norm(vectors, axis=-1, keepdims=True), np.float32)


def assert_alike(a: tuple[Any, Any], b: tuple[Any, Any], tolerance: float = TOLERANCE["float32"]) -> None:
    """Two rankings (rows, scores) are the same apart from rows whose scores tie."""
    scores = [dict(zip(np.asarray(rows).tolist(), map(float, found), strict=True)) for rows, found in (a, b)]
    assert len(scores[0]) == len(scores[1]) == len(a[0]) == len(b[0])
    np.testing.assert_allclose(a[1], b[1], rtol=tolerance, atol=tolerance)
    for one, other in (scores, scores[::-1]):
        for row, score in one.items():  # a row that only one has ties with the other's last
            assert score == pytest.approx(other.get(row, min(other.values())), rel=tolerance, abs=tolerance)


@pytest.fixture(scope="module")
def data() -> tuple[np.ndarray, np.ndarray]:
    return matryoshka_vectors(ROWS, DIM, seed=4), matryoshka_vectors(40, DIM, seed=4, stream=1)


@pytest.fixture(scope="module")
def index(data: tuple, tmp_path_factory: pytest.TempPathFactory) -> Iterator[ti.Index]:
    with ti.open(tmp_path_factory.mktemp("one") / "g.tidx", DIM, prefix_dim=PREFIX_DIM) as index:
        index.add(np.arange(ROWS), data[0])
        assert index._current.get().scope.road is not None
        yield index


@pytest.fixture(scope="module")
def thinned(index: ti.Index, tmp_path_factory: pytest.TempPathFactory) -> Iterator[ti.Index]:
    """The same rows, but for every fourth."""
    folder = tmp_path_factory.mktemp("thinned") / "g.tidx"
    shutil.copytree(index.path, folder)
    with ti.open(folder, merge_policy=ti.NoMergePolicy()) as index:
        index.delete(np.arange(0, ROWS, 4))
        assert index._current.get().scope.road is not None
        yield index


@pytest.fixture(scope="module")
def wide(data: tuple, tmp_path_factory: pytest.TempPathFactory) -> Callable[[int], ti.Index]:
    """Make indexes whose coarse tier is as wide as their vectors."""
    made: dict[int, ti.Index] = {}

    def make(width: int) -> ti.Index:
        if width not in made:
            made[width] = ti.open(tmp_path_factory.mktemp("wide") / "g.tidx", width, prefix_dim=width)
            made[width].add(np.arange(SMALL_ROWS), unit(data[0][:SMALL_ROWS, :width]))
        return made[width]

    return make


@pytest.fixture(scope="module")
def split(data: tuple, tmp_path_factory: pytest.TempPathFactory) -> Iterator[ti.Index]:
    """Two graphs and a small segment without one, from three commits."""
    folder = tmp_path_factory.mktemp("split") / "g.tidx"
    with ti.open(folder, DIM, prefix_dim=PREFIX_DIM, merge_policy=ti.NoMergePolicy()) as index:
        for first, last in ((0, 5_500), (5_500, 11_000), (11_000, ROWS)):
            index.add(np.arange(first, last), data[0][first:last])
        yield index


@pytest.fixture(scope="module")
def split_thinned(split: ti.Index, tmp_path_factory: pytest.TempPathFactory) -> Iterator[ti.Index]:
    """The same, but for every fourth row."""
    folder = tmp_path_factory.mktemp("split-thinned") / "g.tidx"
    shutil.copytree(split.path, folder)
    with ti.open(folder, merge_policy=ti.NoMergePolicy()) as index:
        index.delete(np.arange(0, ROWS, 4))
        yield index


@pytest.fixture
def walked_by(monkeypatch: pytest.MonkeyPatch) -> Callable[[ti.Index, str], None]:
    """Let FAISS walk an open index for the time of a test."""

    def switch(index: ti.Index, name: str) -> None:
        if name == "faiss":
            snapshot = index._current.get()
            monkeypatch.setattr(snapshot, "scope", snapshot.scope._replace(road=None))
            for live in snapshot.segments:
                monkeypatch.setattr(live.segment.coarse, "fields", None)

    return switch


def run(code: str, *arguments: object, **environment: str) -> str:
    done = subprocess.run(
        [sys.executable, "-c", code, *map(str, arguments)],
        env={**os.environ, **environment},
        cwd=Path(__file__).parent.parent,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


# The walk


def assert_walks_alike(tier: CoarseTier, prefixes: np.ndarray, ef: int, count: int) -> None:
    """The walk finds as much as FAISS's, which expands a row only when it is sure to be the best."""
    _, graph = tier._view(prefixes.shape[1])
    scores = multiplied(tier, prefixes)
    ours, theirs, best = [], [], []
    for prefix, exact in zip(prefixes, scores, strict=True):
        rows, _ = _faiss.search(graph, prefix[None], count, _faiss.search_parameters(ef))
        assert rows.min() >= 0
        found = tier.search(prefix[None], ef, count)
        assert not found.scanned
        assert found.distances > ef  # FAISS does not count them: the engine answered
        assert len(set(found.rows[0].tolist())) == count
        np.testing.assert_allclose(found.scores[0], exact[found.rows[0]], rtol=2e-6, atol=2e-6)
        assert np.all(np.diff(found.scores[0]) <= 0)
        ours.append(found.rows[0])
        theirs.append(rows[0])
        best.append(np.argsort(-exact, kind="stable")[:count])
    assert recall_at_k(ours, best) >= recall_at_k(theirs, best) - 0.01


@pytest.mark.parametrize("prefix_dim", [8, 16, 24, 32])
@pytest.mark.parametrize("ef", [1, 10, 60, 290])
def test_the_walk_finds_what_faiss_finds(index: ti.Index, data: tuple, ef: int, prefix_dim: int) -> None:
    tier = graph_of(index)
    assert tier.fields[TOP_LEVEL] >= 1  # there are levels to descend
    assert_walks_alike(tier, unit(data[1][:, :prefix_dim]), ef, ef)
    assert_walks_alike(tier, unit(data[1][:, :prefix_dim]), ef, -(-ef // 3))


@pytest.mark.parametrize(("width", "prefix_dim"), [(64, 64), (64, 56), (50, 50), (50, 48), (33, 33)])
def test_the_walk_at_any_width(
    wide: Callable[[int], ti.Index], data: tuple, width: int, prefix_dim: int
) -> None:
    index = wide(width)
    for ef in (12, 140):
        assert_walks_alike(graph_of(index), unit(data[1][:, :prefix_dim]), ef, ef)
    truth, _ = exact_top_k(data[0][:SMALL_ROWS, :width], data[1][:, :width], 10)
    found = [index.search(query[:width], prefix_dim=prefix_dim).ids for query in data[1]]
    assert recall_at_k(found, truth) >= 0.99


def test_the_walk_among_rows_that_are_left(thinned: ti.Index, data: tuple) -> None:
    (part,) = thinned._current.get().scope.parts
    for query in unit(data[1][:, :PREFIX_DIM]):
        found = part.tier.search(query[None], 100, 80, among=part.among)
        assert found.rows.shape == (1, 80)
        assert np.all(found.rows % 4)
        assert np.all(np.diff(found.scores) <= 0)


@pytest.mark.parametrize("ef", [30, 97, 250])
@pytest.mark.parametrize("k", [1, 10, 25])
def test_a_walk_without_end_of_patience_is_a_walk(index: ti.Index, data: tuple, k: int, ef: int) -> None:
    road = index._current.get().scope.road
    for query in data[1]:
        prefix = unit(query[:PREFIX_DIM])
        fixed, patient = (
            road.answer(prefix, query, k, ef, ef, scan=False, patience=patience) for patience in (0, 10**6)
        )
        assert patient.distances == fixed.distances
        assert patient.rows.tolist() == fixed.rows.tolist()


@pytest.mark.parametrize("k", [1, 10, 40])
def test_the_less_patience_the_less_is_scored(index: ti.Index, data: tuple, k: int) -> None:
    road, ef = index._current.get().scope.road, 290
    truth, _ = exact_top_k(data[0], data[1], k)
    scored, recalls = [], []
    for patience in (1, 4, 12, 40, 0):
        found = [
            road.answer(unit(query[:PREFIX_DIM]), query, k, ef, ef, scan=False, patience=patience)
            for query in data[1]
        ]
        assert all(len(one.rows) == k for one in found)
        scored.append(sum(one.distances for one in found))
        recalls.append(recall_at_k([one.rows for one in found], truth))
    assert scored == sorted(scored)
    assert scored[0] < 0.5 * scored[-1]
    assert scored[2] < 0.8 * scored[-1]
    assert recalls == pytest.approx(sorted(recalls), abs=0.01)
    assert recalls[-2] >= recalls[-1] - 0.01


@pytest.mark.parametrize("ef", [1_530, 1_536, 1_537, 3_000])
def test_a_beam_that_is_searched_for_the_place_of_a_key(index: ti.Index, data: tuple, ef: int) -> None:
    """Narrower ones are passed over by vector instructions."""
    graph, every = graph_of(index).fields, np.arange(ROWS, dtype=np.int32)
    for query in unit(data[1][:6, :PREFIX_DIM]):
        found, scores, *_ = engine.walk(graph, query, ef)
        assert len(set(found.tolist())) == len(found) == ef
        assert np.all(np.diff(scores) <= 0)
        best, exact, *_ = engine.walk(graph, query, ef, rows=every)
        np.testing.assert_allclose(scores[:1_000], exact[:1_000], atol=1e-6)
        assert len(np.intersect1d(found, best)) >= 0.99 * ef


def test_a_walk_with_patience_among_deleted_rows(thinned: ti.Index, data: tuple) -> None:
    scored = []
    for query in data[1]:
        fixed = ask(thinned, query, 10, plan_of(120))
        patient = ask(thinned, query, 10, plan_of(120, early_stop=12))
        assert fixed.stats.rows_read == 120
        for hits in (fixed, patient):
            assert hits.stats.distances > 0
            assert np.all(hits.addresses[0] % 4)
        scored.append([fixed.stats.distances, patient.stats.distances])
        assert len(np.intersect1d(fixed.addresses, patient.addresses)) >= 7
    assert sum(patient for _, patient in scored) < 0.9 * sum(fixed for fixed, _ in scored)


def test_many_results_are_kept_in_order(index: ti.Index, data: tuple) -> None:
    road, ef = index._current.get().scope.road, 700
    for query in data[1][:5]:
        prefix = unit(query[:PREFIX_DIM])
        rows = engine.walk(graph_of(index).fields, prefix, ef)[0]
        order, scores = exact_top_k(data[0][rows], query[None], engine.MAX_K)
        found = road.answer(prefix, query, engine.MAX_K, ef, ef, scan=False)
        assert_alike((found.rows, found.scores), (rows[order[0]], scores[0]))


@pytest.mark.parametrize("stop", [0, 10**6])
def test_rows_that_are_met_again_are_found_once(index: ti.Index, data: tuple, stop: int) -> None:
    def answers() -> list[Any]:
        hits = [ask(index, query, 40, plan_of(290, early_stop=stop)) for query in data[1][:16]]
        walks = [engine.walk(graph_of(index).fields, unit(q[:PREFIX_DIM]), 290) for q in data[1][:8]]
        return [hit.addresses[0].tolist() for hit in hits] + [rows.tolist() for rows, *_ in walks]

    def distances() -> int:
        return sum(engine.walk(graph_of(index).fields, unit(q[:PREFIX_DIM]), 290)[2] for q in data[1][:8])

    def with_a_small_table() -> list[Any]:
        found, scored = answers(), distances()
        room = engine.own.room
        room.table = room._placed(room.table[:MIN_TABLE], TABLE, TABLE_SIZE)
        again = answers()
        assert distances() > 1.1 * scored  # many were met again and scored again
        assert all(len(set(one)) == len(one) for one in again)
        return [found, again]

    with ThreadPoolExecutor(1) as thread:  # whose arrays are its own
        assert thread.submit(with_a_small_table).result() == [answers()] * 2


def test_a_query_that_may_not_be_written(tmp_path: Path, data: tuple) -> None:
    with ti.open(tmp_path / "g.tidx", DIM, prefix_dim=PREFIX_DIM, metric="dot") as index:
        index.add(np.arange(SMALL_ROWS), data[0][:SMALL_ROWS])
        query = data[1][0].copy()
        expected = index.search(query).ids.tolist()
        query.flags.writeable = False
        assert index.search(query).ids.tolist() == expected


# The whole road


def answers(path: str, queries: np.ndarray) -> list[list[Any]]:
    """Return ids and scores of single queries by several plans; also called in another process."""
    plans = [{}, {"prefix_dim": 16}, {"k": 1, "ef": 24}, {"k": 40, "candidates": 100}, {"k": 600}]
    with ti.open(path, mode="r") as index:
        results = [index.search(query, **plan) for plan in plans for query in queries]
        return [[r.ids.tolist(), r.scores.tolist(), r.stats.distances] for r in results]


@pytest.mark.parametrize("name", ["index", "thinned", "split", "split_thinned"])
def test_without_the_engine_answers_are_the_same(
    name: str, data: tuple, tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    path, queries = request.getfixturevalue(name).path, data[1][:12]
    np.save(tmp_path / "queries.npy", queries)
    code = (
        "import json, sys, numpy as np; from tests.test_compiled import answers\n"
        "print(json.dumps(answers(sys.argv[1], np.load(sys.argv[2]))))"
    )
    without = json.loads(run(code, path, tmp_path / "queries.npy", **{DISABLE: "1"}))
    with_engine = answers(str(path), queries)
    if name != "split_thinned":  # whose graphs are small enough to be scanned
        assert [r[2] for r in with_engine[:12]] != [r[2] for r in without[:12]]  # FAISS does not count
    if "thinned" not in name:
        for a, b in zip(with_engine, without, strict=True):
            assert_alike(a[:2], b[:2])
        return
    # FAISS's beam holds live rows only, the engine's is wider and holds all: not the same candidates
    alive = np.flatnonzero(np.arange(ROWS) % 4)
    truth, _ = exact_top_k(data[0][alive], queries, 10)
    for found in (with_engine, without):
        assert all(np.all(np.array(rows) % 4) for rows, _, _ in found)
        assert recall_at_k([rows for rows, _, _ in found[:12]], alive[truth]) >= 0.97


@pytest.mark.parametrize("dtype", ["float32", "float16"])
@pytest.mark.parametrize("metric", ["cosine", "dot"])
def test_results_are_those_of_the_oracle(tmp_path: Path, data: tuple, metric: str, dtype: str) -> None:
    lengths = np.random.default_rng(5).uniform(0.8, 1.25, (SMALL_ROWS, 1)).astype(np.float32)
    vectors, queries = data[0][:SMALL_ROWS] * lengths, data[1] * np.float32(3.0)
    settings = {"dim": DIM, "prefix_dim": PREFIX_DIM, "metric": metric, "dtype": dtype}
    with ti.open(tmp_path / "g.tidx", **settings, merge_policy=ti.NoMergePolicy()) as index:
        index.add([f"row {i}" for i in range(SMALL_ROWS)], vectors)
        alive = np.ones(SMALL_ROWS, bool)
        for dead in (np.empty(0, int), np.random.default_rng(6).choice(SMALL_ROWS, 1_500, replace=False)):
            index.delete([f"row {i}" for i in dead])
            alive[dead] = False
            rows = np.flatnonzero(alive)
            truth, scores = exact_top_k(vectors[alive].astype(dtype), queries, 10, metric)
            expected = [[f"row {i}" for i in rows[best]] for best in truth]
            compiled = [index.search(query, ef=140) for query in queries]
            assert index._current.get().scope.road is not None
            assert all(result.stats.distances for result in compiled)
            assert recall_at_k([r.ids for r in compiled], expected) >= 0.97
            for result, best, query in zip(compiled, scores, queries, strict=True):
                assert np.all(result.scores <= best + TOLERANCE[dtype] * (np.abs(best) + 1))
                found = [int(name[4:]) for name in result.ids]
                order, exact = exact_top_k(vectors[found].astype(dtype), query[None], 10, metric)
                assert_alike((found, result.scores), (np.array(found)[order[0]], exact[0]), TOLERANCE[dtype])
            if not len(dead):
                with pytest.MonkeyPatch.context() as patch:
                    snapshot = index._current.get()
                    patch.setattr(snapshot, "scope", snapshot.scope._replace(road=None))
                    plain = [index.search(query, ef=140) for query in queries]
                for a, b in zip(compiled, plain, strict=True):
                    assert_alike((a.ids, a.scores), (b.ids, b.scores), TOLERANCE[dtype])


def test_deleted_rows_are_never_found(thinned: ti.Index, data: tuple) -> None:
    queries = np.concatenate([data[1], data[0][:40:4]])  # the last ones were deleted themselves
    alive = np.flatnonzero(np.arange(ROWS) % 4)
    truth, _ = exact_top_k(data[0][alive], queries, 10)
    found = [thinned.search(query) for query in queries]
    assert all(len(result.ids) == 10 and np.all(result.ids % 4) for result in found)
    assert recall_at_k([result.ids for result in found], alive[truth]) >= 0.98
    for k in (1, 100, 250):
        assert all(len(set(thinned.search(query, k, ef=290).ids.tolist())) == k for query in queries[:10])


def test_k_live_rows_where_all_near_ones_are_deleted(index: ti.Index, data: tuple, tmp_path: Path) -> None:
    shutil.copytree(index.path, tmp_path / "g.tidx")
    query = data[1][0]
    near, _ = exact_top_k(unit(data[0][:, :PREFIX_DIM]), query[None, :PREFIX_DIM], 200)
    alive = np.setdiff1d(np.arange(ROWS), near)
    truth, _ = exact_top_k(data[0][alive], query[None], 10)
    with ti.open(tmp_path / "g.tidx", merge_policy=ti.NoMergePolicy()) as holed:
        holed.delete(near[0])
        assert holed._current.get().scope.road is not None
        found = holed.search(query).ids
        assert len(set(found.tolist()) & set(alive.tolist())) == 10
        assert recall_at_k(found, alive[truth[0]]) >= 0.8


def test_a_graph_beside_a_segment_without_live_rows(data: tuple, tmp_path: Path) -> None:
    folder = tmp_path / "g.tidx"
    with ti.open(folder, DIM, prefix_dim=PREFIX_DIM, merge_policy=ti.NoMergePolicy()) as index:
        index.add(np.arange(100), data[0][:100])
        index.add(np.arange(100, SMALL_ROWS), data[0][100:SMALL_ROWS])
        assert index._current.get().scope.road is None
        index.delete(np.arange(100))
        truth, _ = exact_top_k(data[0][100:SMALL_ROWS], data[1], 10)
        found = [index.search(query, ef=140) for query in data[1]]
        assert all(result.stats.distances for result in found)
        assert recall_at_k([result.ids for result in found], truth + 100) >= 0.98


def test_several_segments_are_walked_one_by_one(
    split: ti.Index, data: tuple, walked_by: Callable[..., None]
) -> None:
    truth, _ = exact_top_k(data[0], data[1], 10)
    found = [split.search(query) for query in data[1]]
    assert split._current.get().scope.road is None
    assert {(r.stats.parts_walked, r.stats.parts_scanned) for r in found} == {(2, 1)}
    assert recall_at_k([result.ids for result in found], truth) >= 0.99
    walked_by(split, "faiss")
    plain = [split.search(query) for query in data[1]]
    for a, b in zip(found, plain, strict=True):
        assert a.stats.distances > b.stats.distances  # FAISS does not count
        assert_alike((a.ids, a.scores), (b.ids, b.scores))


def test_deleted_rows_of_several_segments_are_never_found(split_thinned: ti.Index, data: tuple) -> None:
    alive = np.flatnonzero(np.arange(ROWS) % 4)
    truth, _ = exact_top_k(data[0][alive], data[1], 10)
    found = [split_thinned.search(query) for query in data[1]]
    assert all(len(result.ids) == 10 and np.all(result.ids % 4) for result in found)
    assert recall_at_k([result.ids for result in found], alive[truth]) >= 0.98


def test_many_results_are_left_to_the_generic_path(index: ti.Index, data: tuple) -> None:
    road = index._current.get().scope.road
    for scan in (False, True):
        taken = [road.takes(k, 100, scan=scan) for k in (0, 1, engine.MAX_K, engine.MAX_K + 1)]
        assert taken == [False, True, True, False]
    wide = ROWS // SCAN_ROWS_PER_EF
    assert [road.takes(10, ef, scan=False) for ef in (wide - 1, wide)] == [True, False]
    assert road.takes(10, wide, scan=True)
    truth, _ = exact_top_k(data[0], data[1][:10], 600)
    found = [index.search(query, 600) for query in data[1][:10]]
    assert {result.plan.strategy for result in found} == {"scan"}
    assert recall_at_k([result.ids for result in found], truth) >= 0.99


# Early stop and deadlines


@pytest.mark.parametrize("walker", ENGINES)
def test_early_stop_walks_less(
    index: ti.Index, data: tuple, walked_by: Callable[..., None], walker: str
) -> None:
    walked_by(index, walker)
    truth, _ = exact_top_k(data[0], data[1], 10)
    scored, recalls = [], []
    for stop in (4, 12, 0):
        plan = plan_of(early_stop=stop)
        hits = [ask(index, query, 10, plan) for query in data[1]]
        for hit in hits:
            assert hit.plan == plan
            assert not hit.late
            assert 10 <= hit.stats.rows_read <= plan.candidates
        scored.append(sum(hit.stats.distances for hit in hits))
        recalls.append(recall_at_k([hit.addresses[0] for hit in hits], truth))
    if walker == "compiled":
        assert scored[0] < scored[1] < scored[2]
        assert recalls[0] <= recalls[1] <= recalls[2]
    else:  # FAISS walks to the end
        assert recalls[0] == recalls[1] == recalls[2]
    assert recalls[0] >= 0.7
    assert recalls[2] >= 0.99


@pytest.mark.parametrize("walker", ENGINES)
def test_the_margin_is_that_of_what_was_rescored_last(
    index: ti.Index, data: tuple, walked_by: Callable[..., None], walker: str
) -> None:
    walked_by(index, walker)
    for query in unit(data[1]):
        hits = ask(index, query, 10, plan_of())
        rows = graph_of(index).search(unit(query[None, :PREFIX_DIM]), 128, 128).rows[0]
        assert hits.stats.rows_read == len(rows) == 128
        scores = data[0][rows] @ query
        recent = scores[-16:]
        wanted = (np.sort(scores)[-10] - recent.mean()) / recent.std()
        assert hits.margin == pytest.approx(wanted, rel=1e-3)


@pytest.mark.parametrize("walker", ENGINES)
@pytest.mark.parametrize("stop", [0, 12])
@pytest.mark.parametrize("k", [1, 10, 60])
def test_a_deadline_that_passed(
    index: ti.Index, data: tuple, walked_by: Callable[..., None], k: int, stop: int, walker: str
) -> None:
    walked_by(index, walker)
    for query in data[1][:8]:
        hits = ask(index, query, k, plan_of(250, early_stop=stop), Limits(call_ns=perf_counter_ns() - 1))
        assert hits.late
        assert hits.addresses.shape == hits.scores.shape == (1, k)
        assert k <= hits.stats.rows_read < k + 40
        _, scores = exact_top_k(data[0][hits.addresses[0]], query[None], k)
        np.testing.assert_allclose(hits.scores, scores, rtol=1e-5)


@pytest.mark.parametrize("walker", ENGINES)
@pytest.mark.parametrize("name", ["index", "thinned", "split", "split_thinned"])
def test_a_far_deadline_changes_nothing(
    data: tuple, walked_by: Callable[..., None], name: str, walker: str, request: pytest.FixtureRequest
) -> None:
    index = request.getfixturevalue(name)
    walked_by(index, walker)
    far = perf_counter_ns() + FAR_NS
    for query in data[1][:8]:
        for plan in (plan_of(), plan_of(early_stop=12)):
            free = ask(index, query, 10, plan)
            for limits in (Limits(call_ns=far), Limits(walk_ns=far, call_ns=far), Limits(cold=True)):
                hits = ask(index, query, 10, plan, limits)
                assert not hits.late
                assert hits.stats.rows_read == free.stats.rows_read
                assert_alike((hits.addresses[0], hits.scores[0]), (free.addresses[0], free.scores[0]))


def test_the_walk_ends_at_its_deadline(index: ti.Index, split: ti.Index, data: tuple) -> None:
    for query in data[1][:8]:
        passed = Limits(walk_ns=perf_counter_ns() - 1)
        hits, free = ask(index, query, 10, plan_of(290), passed), ask(index, query, 10, plan_of(290))
        assert hits.late
        assert hits.addresses.shape == (1, 10)
        assert 0 < hits.stats.distances < free.stats.distances
        several, free = ask(split, query, 10, plan_of(), passed), ask(split, query, 10, plan_of())
        assert several.addresses.shape == (1, 10)
        assert 0 < several.stats.distances < free.stats.distances


# Threads and processes


def test_threads_answer_as_one(index: ti.Index, thinned: ti.Index, data: tuple) -> None:
    def look(number: int) -> list[Any]:
        found = []
        for i in range(3 * len(data[1])):
            query = data[1][(i + 7 * number) % len(data[1])]
            where = (index, thinned)[i % 2]
            hits = ask(where, query, 10, plan_of((60, 128, 290)[i % 3], early_stop=4 * (i % 5)))
            found.append((hits.addresses.tolist(), hits.scores.tolist(), hits.stats.rows_read))
        return found

    alone = [look(number) for number in range(4)]
    with ThreadPoolExecutor(4) as threads:
        assert list(threads.map(look, range(4))) == alone


def test_a_forked_child_answers_alike(index: ti.Index, data: tuple) -> None:
    def look() -> list[Any]:
        return [index.search(query).ids.tolist() for query in data[1]]

    before = look()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # newer Pythons warn of threads; the child uses none of them
        child = multiprocessing.get_context("fork").Process(
            target=lambda: os._exit(0 if look() == before else 1)
        )
        child.start()
    child.join(60)
    if child.is_alive():
        child.kill()
    assert child.exitcode == 0
    assert look() == before


# Scanning all rows


@pytest.mark.parametrize("count", [1, 5])
def test_all_rows_are_scanned_compiled(
    index: ti.Index, data: tuple, monkeypatch: pytest.MonkeyPatch, count: int
) -> None:
    """And FAISS, which a process that walks does not hold, is not asked."""

    def refused(*_: Any, **__: Any) -> None:
        raise AssertionError("FAISS was asked")

    monkeypatch.setattr(_faiss, "search", refused)
    queries = unit(data[1][:count])
    scores = multiplied(graph_of(index), unit(queries[:, :PREFIX_DIM]))
    for candidates in (60, ROWS):
        plan = msgspec.structs.replace(plan_of(candidates), strategy="scan")
        hits = search(index._current.get(), queries, 10, plan, perf_counter())
        assert hits.plan == plan
        assert (hits.stats.parts_walked, hits.stats.parts_scanned) == (0, 1)
        assert (hits.stats.distances, hits.stats.rows_read) == (count * ROWS, count * candidates)
        for query, by_prefix, found in zip(queries, scores, hits.addresses, strict=True):
            best = np.argsort(-by_prefix, kind="stable")[:candidates]
            truth, _ = exact_top_k(unit(data[0][best]), query[None], 10, "dot")
            assert found.tolist() == best[truth[0]].tolist()


def test_all_rows_of_a_tier_are_scanned_compiled(
    index: ti.Index, data: tuple, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where a walk would see most of them, too."""
    tier, prefix = graph_of(index), unit(data[1][:1, :PREFIX_DIM])
    (exact,) = multiplied(tier, prefix)
    monkeypatch.setattr(tier, "_view", None)
    for ef, scan in ((50, True), (ROWS // SCAN_ROWS_PER_EF, False)):
        found = tier.search(prefix, ef, 50, scan=scan)
        assert (found.scanned, found.distances) == (True, ROWS)
        assert_alike((found.rows[0], found.scores[0]), (np.argsort(-exact)[:50], np.sort(exact)[::-1][:50]))


# Without Numba


def test_importing_does_not_import_numba() -> None:
    code = "import sys, tiered_index, tiered_index.cli; print('numba' in sys.modules)"
    assert run(code).strip() == "False"


def test_a_walk_takes_neither_faiss_nor_arrow_s_functions(
    index: ti.Index, data: tuple, tmp_path: Path
) -> None:
    """Which each process would hold, unless rows are so few that they are scanned now and then."""
    np.save(tmp_path / "queries.npy", data[1][:40])
    code = (
        "import json, sys, numpy as np, tiered_index as ti\n"
        "from tiered_index.coarse import prefix_graph\n"
        "prefix_graph.SCANNED_ROWS = 0\n"
        "index = ti.open(sys.argv[1], mode='r')\n"
        "queries = np.load(sys.argv[2])\n"
        "found = [index.search(query) for query in queries]\n"
        "loaded = [name in sys.modules for name in ('faiss', 'pyarrow.compute', 'numba')]\n"
        "print(json.dumps([[one.ids.tolist() for one in found], found[0].plan.strategy, loaded]))"
    )
    ids, strategy, loaded = json.loads(run(code, index.path, tmp_path / "queries.npy"))
    assert strategy == "graph"
    assert loaded == [False, False, False]
    assert ids == [index.search(query).ids.tolist() for query in data[1][:40]]


def test_switched_off_numba_is_not_imported(index: ti.Index, data: tuple, tmp_path: Path) -> None:
    np.save(tmp_path / "query.npy", data[1][0])
    code = (
        "import sys, numpy as np, tiered_index as ti\n"
        "index = ti.open(sys.argv[1], mode='r')\n"
        "index.search(np.load(sys.argv[2]))\n"
        "print('numba' in sys.modules)"
    )
    assert run(code, index.path, tmp_path / "query.npy", **{DISABLE: "1"}).strip() == "False"


def test_without_numba_faiss_walks(index: ti.Index, data: tuple, tmp_path: Path) -> None:
    np.save(tmp_path / "query.npy", data[1][0])
    code = (
        "import json, sys, warnings\n"
        "warnings.simplefilter('error')\n"
        "warnings.filterwarnings('ignore', message='builtin type')\n"
        "class Missing:\n"
        "    def find_spec(self, name, path=None, target=None):\n"
        "        if name.split('.')[0] in ('numba', 'llvmlite'):\n"
        "            raise ModuleNotFoundError(name)\n"
        "sys.meta_path.insert(0, Missing())\n"
        "import numpy as np, tiered_index as ti\n"
        "index = ti.open(sys.argv[1], mode='r')\n"
        "assert index._current.get().scope.road is None\n"
        "result = index.search(np.load(sys.argv[2]))\n"
        "print(json.dumps([result.ids.tolist(), result.scores.tolist(), result.plan.strategy]))"
    )
    ids, scores, strategy = json.loads(run(code, index.path, tmp_path / "query.npy"))
    assert strategy == "graph"
    result = index.search(data[1][0])
    assert_alike((ids, scores), (result.ids, result.scores))


# Files that change or go


@pytest.mark.parametrize("file", [COARSE_FILE, ROWS_FILE])
@pytest.mark.parametrize("name", ["index", "split"])
def test_a_file_cut_while_open(
    data: tuple, tmp_path: Path, file: str, name: str, request: pytest.FixtureRequest
) -> None:
    shutil.copytree(request.getfixturevalue(name).path, tmp_path / "g.tidx")
    with ti.open(tmp_path / "g.tidx", mode="r") as index:
        assert index.search(data[1][0]).stats.distances
        path = index._current.get().segments[0].segment.folder / file
        os.truncate(path, path.stat().st_size // 2)
        for _ in range(2):
            with pytest.raises(ti.CorruptIndexError, match=f"{file}: was cut"):
                index.search(data[1][0])


def test_a_closed_index(index: ti.Index, data: tuple) -> None:
    again = ti.open(index.path, mode="r")
    snapshot = again._current.get()
    assert snapshot.scope.road is not None
    again.close()
    with pytest.raises(ti.IndexClosedError):
        again.search(data[1][0])
    with pytest.raises(ti.IndexClosedError):  # as for a search that began before
        search(snapshot, data[1][:1], 10, plan_of(), perf_counter())
    with pytest.raises(ti.IndexClosedError):
        snapshot.segments[0].segment.coarse.search(unit(data[1][:1, :PREFIX_DIM]), 50, 10)
    assert len(index.search(data[1][0])) == 10


@pytest.mark.parametrize("grow", ["beam_of", "make_query"])
def test_a_room_that_did_not_grow_to_the_end_is_not_taken_for_grown(
    grow: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Compiled code looks at the sizes of the beam and the query alone: those come last."""
    room, looked_at = Room(), BEAM_SIZE if grow == "beam_of" else QUERY_SIZE
    placed, before = room._placed, int(room.fields[looked_at])
    others: list[int] = []

    def interrupted(array: np.ndarray, address: int, size: int | None = None) -> np.ndarray:
        if size == looked_at:
            raise KeyboardInterrupt
        others.append(address)
        return placed(array, address, size)

    monkeypatch.setattr(room, "_placed", interrupted)
    with pytest.raises(KeyboardInterrupt):
        getattr(room, grow)(10_000)
    assert int(room.fields[looked_at]) == before
    assert set(others) == ({ORDER, TABLE} if grow == "beam_of" else {PREFIX})
