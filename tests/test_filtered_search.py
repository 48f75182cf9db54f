"""search(where=): k rows that match, as the oracle finds them among those alone, whichever way is taken."""

from __future__ import annotations

import json
import multiprocessing
import os
import shutil
import warnings
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from itertools import pairwise
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pyarrow.compute as pc
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from typer.testing import CliRunner

import tiered_index as ti
from tiered_index.cli import app
from tiered_index.coarse import prefix_graph
from tiered_index.compiled import get_engine
from tiered_index.planner import filtered as filtering
from tiered_index.planner.filtered import EXACT_ROWS, SCAN_ROWS_PER_EF
from tiered_index.storage import road
from tiered_index.testing import exact_top_k, matryoshka_vectors, recall_at_k

DIM, PREFIX_DIM, ROWS = 64, 32, 9_500
ENDS = (0, 4_400, 8_700, 9_200, ROWS)
"""Of the segments of the index that is split: two with graphs, two without."""

ENGINES = ["compiled", "faiss"]
AMPLE = 1e6

VECTORS = matryoshka_vectors(ROWS, DIM, seed=12)
QUERIES = matryoshka_vectors(140, DIM, seed=12, stream=1)
CENTRES = matryoshka_vectors(6, DIM, seed=13)
CLUSTER = np.argmax(VECTORS @ CENTRES.T, axis=1)
RANDOM = np.random.default_rng(1).permutation(ROWS)
ASKED = QUERIES[:12]

Answer = Callable[..., tuple[np.ndarray, np.ndarray]]


def columns(rows: Any) -> dict[str, list[Any]]:
    kept = np.arange(ROWS)[rows]
    return {"n": kept.tolist(), "r": RANDOM[kept].tolist(), "cluster": [f"c{c}" for c in CLUSTER[kept]]}


def below(limit: int) -> np.ndarray:
    """Return which rows match {"r": {"$lt": limit}}."""
    return np.less(RANDOM, limit)


def best(mask: np.ndarray, queries: np.ndarray, k: int = 10) -> list[np.ndarray]:
    """Return each query's best rows among those of the mask."""
    rows = np.flatnonzero(mask)
    return list(rows[exact_top_k(VECTORS[rows], queries, k)[0]])


def check(results: list[ti.SearchResult], mask: np.ndarray, queries: np.ndarray, k: int = 10) -> float:
    """Return the recall of single searches, after a look at what holds of each of them."""
    truth = best(mask, queries, k)
    for result, query, true in zip(results, queries, truth, strict=True):
        assert result.ids.shape == result.scores.shape == (min(k, mask.sum()),)
        assert len(set(result.ids.tolist())) == len(true)
        assert mask[result.ids].all()
        assert np.all(np.diff(result.scores) <= 0)
        np.testing.assert_allclose(result.scores, VECTORS[result.ids] @ query, rtol=1e-4, atol=1e-5)
        assert result.complete
        assert result.degraded_reason is None
    return recall_at_k([result.ids for result in results], truth)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same rows as one segment, as four, and as one that was calibrated."""
    folder = tmp_path_factory.mktemp("filtered")
    made = {"dim": DIM, "prefix_dim": PREFIX_DIM, "graph_degree": 16, "ef_construction": 60}
    with ti.open(folder / "one", merge_policy=ti.NoMergePolicy(), **made) as index:
        index.add(np.arange(ROWS), VECTORS, columns(slice(None)))
    with ti.open(folder / "split", merge_policy=ti.NoMergePolicy(), **made) as index:
        for first, last in pairwise(ENDS):
            part = slice(first, last)
            index.add(np.arange(first, last), VECTORS[part], columns(part))
    shutil.copytree(folder / "one", folder / "calibrated")
    with ti.open(folder / "calibrated") as index:
        index.calibrate(QUERIES[40:], (1, 10))
    return folder


@pytest.fixture
def opened(folder: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[..., ti.Index]]:
    """Open one of them to read, walked by the compiled engine or by FAISS."""
    indexes: list[ti.Index] = []

    def open_one(name: str = "one", walker: str = "compiled") -> ti.Index:
        if walker == "faiss":
            for module in (prefix_graph, road):
                monkeypatch.setattr(module, "get_engine", lambda: None)
        elif get_engine() is None:
            pytest.skip("there is no compiled engine")
        indexes.append(ti.open(folder / name, mode="r"))
        return indexes[-1]

    yield open_one
    for index in indexes:
        index.close()


@pytest.fixture
def walks(monkeypatch: pytest.MonkeyPatch) -> None:
    """Walk where as few rows as there are in these tests would be scanned."""
    monkeypatch.setattr(filtering, "SCAN_ROWS_PER_EF", 4)
    for module in (prefix_graph, road):
        monkeypatch.setattr(module, "SCAN_ROWS_PER_EF", 1)


def cases() -> list[Any]:
    """Filters of every selectivity, and of those that have something to do with the queries."""
    half = {"r": {"$lt": ROWS // 2}}
    few = {"r": {"$lt": 10}}
    every = np.ones(ROWS, bool)
    return [
        pytest.param({}, every, id="all"),
        pytest.param({"r": {"$ne": 17}}, RANDOM != 17, id="all but one"),
        pytest.param(half, below(ROWS // 2), id="half"),
        pytest.param({"r": {"$lt": 950}}, below(950), id="tenth"),
        pytest.param({"r": {"$lt": EXACT_ROWS + 1}}, below(EXACT_ROWS + 1), id="129"),
        pytest.param({"r": {"$lt": EXACT_ROWS}}, below(EXACT_ROWS), id="128"),
        pytest.param(few, below(10), id="ten"),
        pytest.param({"r": {"$in": [3, 500, 7]}}, np.isin(RANDOM, [3, 500, 7]), id="three"),
        pytest.param({"n": 8_999}, np.arange(ROWS) == 8_999, id="one row"),
        pytest.param({"r": -1}, ~every, id="none"),
        pytest.param({"n": {"$gte": 8_800}}, np.arange(ROWS) >= 8_800, id="the end"),
        pytest.param({"$or": [few, {"cluster": "c1"}]}, below(10) | (CLUSTER == 1), id="or"),
        pytest.param({**half, "cluster": {"$ne": "c1"}}, below(ROWS // 2) & (CLUSTER != 1), id="and"),
    ]


# What is found


@pytest.mark.parametrize("walker", ENGINES)
@pytest.mark.parametrize("name", ["one", "split"])
@pytest.mark.parametrize(("where", "mask"), cases())
def test_at_any_selectivity(
    opened: Callable[..., ti.Index], name: str, walker: str, where: Any, mask: np.ndarray
) -> None:
    index = opened(name, walker)
    results = [index.search(query, where=where) for query in ASKED]
    assert check(results, mask, ASKED) >= (1.0 if mask.sum() <= EXACT_ROWS else 0.97)
    batch = index.search(ASKED, where=where)
    truth = best(mask, ASKED)
    assert batch.ids.shape == (len(ASKED), min(10, mask.sum()))
    assert mask[batch.ids].all()
    assert recall_at_k(batch.ids, truth) >= 0.97
    exact = index.search(ASKED, where=where, exact=True)
    assert exact.plan.strategy == "exact"
    assert exact.ids.tolist() == np.array(truth).tolist()
    assert exact.stats.rows_read == mask.sum()
    if not mask.all():
        assert {result.plan.strategy for result in (*results, batch)} == {"scan"}
        assert all(result.stats.parts_walked == 0 for result in results)
        assert all(result.estimated_recall is not None for result in results)


@pytest.mark.parametrize("walker", ENGINES)
@pytest.mark.parametrize("name", ["one", "split"])
@pytest.mark.parametrize("kind", ["near", "far", "unrelated"])
@pytest.mark.parametrize("strategy", ["scan", "graph"])
def test_filters_that_have_to_do_with_the_query(
    opened: Callable[..., ti.Index],
    name: str,
    walker: str,
    kind: str,
    strategy: str,
    request: pytest.FixtureRequest,
) -> None:
    if strategy == "graph":
        request.getfixturevalue("walks")
    index = opened(name, walker)
    results, truth = [], []
    for query in ASKED:
        clusters = np.argsort(CENTRES @ query)  # the last is its own
        chosen = {"near": clusters[-2:], "far": clusters[:3], "unrelated": np.array([])}[kind]
        where, mask = {"cluster": {"$in": [f"c{c}" for c in chosen]}}, np.isin(CLUSTER, chosen)
        if kind == "unrelated":
            where, mask = {"r": {"$lt": 3_000}}, below(3_000)
        results.append(index.search(query, where=where))
        truth += best(mask, query[None])
        assert mask[results[-1].ids].all()
        assert len(results[-1]) == 10
    taken = {result.plan.strategy for result in results}
    if (kind, strategy) == ("far", "graph"):
        # what is far is noticed, and scanned; and FAISS's walk may find too few, and then all are scanned
        assert taken <= {"graph", "scan"}
    else:
        assert taken == {strategy}
    if taken == {"graph"}:
        assert all(result.stats.parts_walked for result in results)
        assert all(result.estimated_recall is None for result in results)
        assert bool(results[0].stats.distances) == (walker == "compiled" or name == "split")
    assert recall_at_k([result.ids for result in results], truth) >= (0.97 if strategy == "scan" else 0.9)


@pytest.mark.parametrize("walker", ENGINES)
def test_a_walk_among_many_rows_is_what_the_planner_takes(
    opened: Callable[..., ti.Index], walker: str
) -> None:
    """Without any patch: more rows than a scan of ef * SCAN_ROWS_PER_EF."""
    index, ef = opened("one", walker), 24
    mask = below(9_000)
    assert mask.sum() > SCAN_ROWS_PER_EF * ef
    results = [index.search(query, where={"r": {"$lt": 9_000}}, ef=ef) for query in ASKED]
    assert {(r.plan.strategy, r.plan.ef, r.stats.parts_walked) for r in results} == {("graph", ef, 1)}
    assert check(results, mask, ASKED) >= 0.85


@pytest.mark.parametrize("walker", ENGINES)
@pytest.mark.parametrize("ef", [1, 8, 13, 17])
def test_a_walk_of_few_rows(opened: Callable[..., ti.Index], walker: str, ef: int) -> None:
    index, mask = opened("one", walker), below(9_000)
    for k in {1, min(ef, 10)}:
        results = [index.search(query, k, where={"r": {"$lt": 9_000}}, ef=ef) for query in ASKED]
        assert {result.plan.strategy for result in results} == {"graph"}
        assert check(results, mask, ASKED, k) >= (0.4 if ef == 1 else 0.6)


@pytest.mark.parametrize("walker", ENGINES)
@pytest.mark.parametrize("matches", [5, 100, 700, 9_000])
def test_more_results_than_matches(opened: Callable[..., ti.Index], walker: str, matches: int) -> None:
    index, mask, where = opened("split", walker), below(matches), {"r": {"$lt": matches}}
    for k in (matches, matches + 1, 9_400):
        results = [index.search(query, k, where=where) for query in ASKED[:3]]
        wanted = [set(true.tolist()) for true in best(mask, ASKED[:3], k)]
        assert [set(result.ids.tolist()) for result in results] == wanted
        assert index.search(ASKED[:3], k, where=where).ids.shape == (3, matches)


@settings(max_examples=25, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    low=st.integers(0, ROWS),
    size=st.one_of(st.integers(0, 300), st.integers(0, ROWS)),
    k=st.integers(1, 60),
    name=st.sampled_from(["one", "split"]),
    number=st.integers(0, 15),
)
def test_any_range(folder: Path, low: int, size: int, k: int, name: str, number: int) -> None:
    """Of numbers that have nothing to do with the query, and of rows that lie together."""
    with ti.open(folder / name, mode="r") as index:
        query = QUERIES[number : number + 1]
        for column, values in (("r", RANDOM), ("n", np.arange(ROWS))):
            mask = (values >= low) & (values < low + size)
            result = index.search(query[0], k, where={column: {"$gte": low, "$lt": low + size}})
            assert check([result], mask, query, k) >= 0.7
            assert result.plan.strategy in (("scan",) if not mask.all() else ("scan", "graph"))


def test_a_filter_that_all_rows_match_is_none(opened: Callable[..., ti.Index]) -> None:
    for name in ("one", "split", "calibrated"):
        index = opened(name)
        for asked in ({}, {"ef": 60}, {"min_recall": 0.9}):
            for where in ({}, {"r": {"$gte": 0}}, pc.scalar(True)):
                for query in ASKED[:4]:
                    plain = index.search(query, exact=False, **asked)
                    same = index.search(query, exact=False, where=where, **asked)
                    assert same.ids.tolist() == plain.ids.tolist()
                    assert same.plan.strategy == plain.plan.strategy
                    assert (same.estimated_recall is None) == (plain.estimated_recall is None)


def test_expressions(opened: Callable[..., ti.Index]) -> None:
    index = opened("split")
    expression = (pc.field("r") < 3_000) & (pc.field("cluster") != "c0")
    mask = below(3_000) & (CLUSTER != 0)
    results = [index.search(query, where=expression) for query in ASKED]
    assert check(results, mask, ASKED) >= 0.97
    both = {"$and": [expression, {"n": {"$lt": 4_000}}]}
    results = [index.search(query, where=both) for query in ASKED]
    assert check(results, mask & (np.arange(ROWS) < 4_000), ASKED) >= 0.97


def test_filters_that_cannot_be_asked(opened: Callable[..., ti.Index]) -> None:
    index = opened()
    for where in ({"colour": 3}, {"r": "three"}, {"r": {"$near": 3}}, 3, "r < 3", {"vector": 3}):
        for asked in ({}, {"exact": True}, {"group_by": "cluster"}):
            with pytest.raises(ti.FilterError):
                index.search(ASKED[0], where=where, **asked)
        with pytest.raises(ti.FilterError):
            index.explain(where=where)
    with pytest.raises(ti.ParameterError, match="exact"):
        index.search(ASKED[0], where={"r": 1}, exact=True, ef=20)
    with pytest.raises(ti.ParameterError, match="k must be"):
        index.search(ASKED[0], 0, where={"r": 1})
    with pytest.raises(ti.DimensionError):
        index.search(ASKED[0, :8], where={"r": 1})


def test_no_queries_and_no_rows(opened: Callable[..., ti.Index], make_index: Callable[..., ti.Index]) -> None:
    index, empty = opened(), make_index()
    for asked in ({}, {"exact": True}):
        none = index.search(np.empty((0, DIM), np.float32), where={"r": {"$lt": 500}}, **asked)
        assert none.ids.shape == (0, 10)
        assert index.search(ASKED, where={"r": -1}, **asked).ids.shape == (len(ASKED), 0)
        assert index.search(ASKED[0], where={"r": -1}, **asked).to_arrow().num_rows == 0
        assert empty.search(ASKED[0], where={"any": 3}, **asked).ids.shape == (0,)


# Plans


@pytest.mark.parametrize("walker", ENGINES)
@pytest.mark.parametrize("name", ["one", "split"])
def test_numbers_that_are_fixed(opened: Callable[..., ti.Index], name: str, walker: str) -> None:
    index, where, mask = opened(name, walker), {"r": {"$lt": 2_000}}, below(2_000)
    results = [index.search(query, where=where, ef=60, candidates=40) for query in ASKED]
    for result in results:
        assert (result.plan.strategy, result.plan.ef, result.plan.candidates) == ("scan", 60, 40)
        assert result.stats.rows_read == 40
        assert result.estimated_recall is None  # of what was not rescored nothing is known
    assert check(results, mask, ASKED) >= 0.9
    narrow = [index.search(query, where=where, prefix_dim=8) for query in ASKED]
    assert {(r.plan.prefix_dim, r.plan.strategy) for r in narrow} == {(8, "scan")}
    assert check(narrow, mask, ASKED) >= 0.9
    few = index.search(ASKED[0], where={"r": {"$lt": 30}}, candidates=200)
    assert (few.plan.candidates, few.stats.rows_read, few.estimated_recall) == (30, 30, 1.0)


@pytest.mark.parametrize("rows", [4_000, 4_200])
def test_more_is_read_where_prefixes_tell_little(tmp_path: Path, rows: int) -> None:
    """So little that more than the first candidates are needed."""
    vectors, queries = (np.random.default_rng(n).normal(size=(n, DIM)).astype(np.float32) for n in (rows, 16))
    with ti.open(tmp_path / "i", DIM, prefix_dim=16, ef_construction=16) as index:
        index.add(np.arange(rows), vectors, {"n": np.arange(rows)})
        assert (index._current.get().segments[0].segment.coarse.fields is None) == (
            rows < 4_096 or get_engine() is None
        )
        truth, _ = exact_top_k(vectors[:3_500], queries, 10)
        results = [index.search(query, where={"n": {"$lt": 3_500}}) for query in queries]
        assert {result.plan.strategy for result in results} == {"scan"}
        assert max(result.stats.rows_read for result in results) > 1_000
        assert max(result.plan.candidates for result in results) > 512
        first = [
            index.search(query, where={"n": {"$lt": 3_500}}, ef=512, candidates=512) for query in queries
        ]
        recalls = [recall_at_k([result.ids for result in some], truth) for some in (first, results)]
        assert recalls[0] < 0.75
        assert recalls[1] >= 0.85


@pytest.mark.parametrize("walker", ENGINES)
@pytest.mark.parametrize(("prefix_dim", "above"), [(32, 0.01), (16, 0.05), (8, 0.08)])
@pytest.mark.parametrize("matches", [300, 2_000, 6_000])
def test_estimates_are_not_above_what_is_found(
    opened: Callable[..., ti.Index], walker: str, prefix_dim: int, above: float, matches: int
) -> None:
    index, mask, where = opened("one", walker), below(matches), {"r": {"$lt": matches}}
    some = QUERIES[:70]
    results = [index.search(query, where=where, prefix_dim=prefix_dim) for query in some]
    achieved = check(results, mask, some)
    estimated = np.mean([result.estimated_recall for result in results])
    assert {result.plan.strategy for result in results} == {"scan"}
    assert estimated <= achieved + above
    assert estimated >= 0.9
    batch = index.search(ASKED, where=where, prefix_dim=prefix_dim)
    assert batch.estimated_recall == pytest.approx(estimated, abs=0.05)


@pytest.mark.parametrize("walker", ENGINES)
def test_floors(opened: Callable[..., ti.Index], walker: str) -> None:
    index, mask, where = opened("calibrated", walker), below(3_000), {"r": {"$lt": 3_000}}
    read = []
    for floor in (0.5, 0.9, 0.97):
        results = [index.search(query, where=where, min_recall=floor) for query in ASKED]
        assert {result.plan.strategy for result in results} == {"scan"}
        assert check(results, mask, ASKED) >= floor
        read.append(sum(result.stats.rows_read for result in results))
    assert read == sorted(read)
    certain = index.search(ASKED, where=where, min_recall=1.0)
    assert certain.plan.strategy == "exact"
    assert certain.ids.tolist() == np.array(best(mask, ASKED)).tolist()
    assert certain.estimated_recall == 1.0
    plain = opened("one", walker).search(ASKED[0], where=where, min_recall=0.9)
    assert (plain.plan.strategy, plain.stats.rows_read) == ("exact", 3_000)
    assert "not calibrated" in plain.degraded_reason


def test_budgets(opened: Callable[..., ti.Index]) -> None:
    index, mask, where = opened("calibrated"), below(3_000), {"r": {"$lt": 3_000}}
    index.profiles = {"slow": ti.Budget(latency_ms=AMPLE), "sure": ti.Budget(min_recall=0.9)}
    for asked, strategy in (
        ({"latency_budget_ms": AMPLE}, "exact"),
        ({"latency_budget_ms": AMPLE, "min_recall": 0.9}, "scan"),
        ({"profile": "slow"}, "exact"),
        ({"profile": "sure"}, "scan"),
        ({"budget": ti.Budget(latency_ms=AMPLE, min_recall=0.9), "strict": True}, "scan"),
        ({"latency_budget_ms": AMPLE, "ef": 100}, "scan"),
    ):
        results = [index.search(query, where=where, **asked) for query in ASKED]
        assert check(results, mask, ASKED) >= 0.9
        # with so much time every matching vector may be scored; with a floor, the prefixes are
        assert {result.plan.strategy for result in results} == {strategy}
    index.budget = ti.Budget(min_recall=1.0)
    assert index.search(ASKED[0], where=where).plan.strategy == "exact"


@pytest.mark.parametrize("walker", ENGINES)
@pytest.mark.parametrize("name", ["one", "split", "calibrated"])
def test_a_budget_that_is_over(opened: Callable[..., ti.Index], name: str, walker: str) -> None:
    index = opened(name, walker)
    for matches in (1, 10, 3_000, 9_000):
        mask = below(matches)
        for query in ASKED[:4]:
            result = index.search(query, where={"r": {"$lt": matches}}, latency_budget_ms=0.001)
            assert len(result) == min(10, matches)
            assert mask[result.ids].all()
            assert result.degraded_reason is not None
            # a busy machine may have measured that nothing is quicker than to score so few rows exactly
            assert not result.complete or result.plan.strategy == "exact" or result.stats.rows_read <= 64
            assert result.complete or result.estimated_recall is None
            np.testing.assert_allclose(result.scores, VECTORS[result.ids] @ query, rtol=1e-4, atol=1e-5)
    with pytest.raises(ti.BudgetNotMetError):
        index.search(ASKED[0], where={"r": {"$lt": 3_000}}, latency_budget_ms=0.001, strict=True)


def test_what_is_found_whole_is_not_degraded(opened: Callable[..., ti.Index]) -> None:
    """Whatever a walk among all rows would miss."""
    index, where = opened("calibrated"), {"r": {"$lt": 10}}
    for asked in (
        {"min_recall": 0.999_999, "latency_budget_ms": AMPLE},
        {"min_recall": 0.999_999, "ef": 10},
        {"min_recall": 0.999_999, "prefix_dim": 8},
    ):
        result = index.search(ASKED[0], where=where, strict=True, **asked)
        assert sorted(result.ids.tolist()) == np.flatnonzero(below(10)).tolist()
        assert (result.estimated_recall, result.degraded_reason) == (1.0, None)
    said = index.explain(min_recall=0.999_999, latency_budget_ms=AMPLE, where=where)
    assert said.concern is None


# Other rows


def test_changes(folder: Path, tmp_path: Path) -> None:
    """Deleted rows, rows that changed their vector and their columns, and all of them merged."""
    shutil.copytree(folder / "split", tmp_path / "i")
    draw = np.random.default_rng(7)
    vectors, r, alive = VECTORS.copy(), RANDOM.copy(), np.ones(ROWS, bool)
    with ti.open(tmp_path / "i", merge_policy=ti.NoMergePolicy(), keep_generations=9) as index:
        before = index.generations()[-1].generation
        dead = draw.choice(ROWS, 2_000, replace=False)
        index.delete(dead)
        alive[dead] = False
        # half of the rows that are not deleted, and some that were: now like the queries
        changed = np.concatenate([draw.choice(np.flatnonzero(alive), 300, replace=False), dead[:100]])
        near = np.repeat(QUERIES[:16], 25, axis=0)
        vectors[changed] = near + 0.1 * draw.normal(size=near.shape).astype(np.float32)
        r[changed] = draw.integers(0, ROWS, len(changed))
        alive[changed] = True
        index.upsert(
            changed, vectors[changed], {"n": changed, "r": r[changed], "cluster": ["new"] * len(changed)}
        )

        def look(index: ti.Index) -> None:
            for limit, least in ((ROWS, 0.97), (4_000, 0.97), (600, 0.97), (100, 1.0)):
                mask = alive & (r < limit)
                where = {"r": {"$lt": limit}}
                rows = np.flatnonzero(mask)
                truth = rows[exact_top_k(vectors[rows], ASKED, 10)[0]]
                found = [index.search(query, where=where).ids for query in ASKED]
                assert all(mask[ids].all() and len(set(ids.tolist())) == 10 for ids in found)
                assert recall_at_k(found, truth) >= least
                assert recall_at_k(index.search(ASKED, where=where).ids, truth) >= least
                assert index.search(ASKED, where=where, exact=True).ids.tolist() == truth.tolist()
            new = index.search(ASKED[3], 1_000, where={"cluster": "new"}).ids
            assert sorted(new.tolist()) == sorted(changed.tolist())

        look(index)
        index.optimize(calibrate_seconds=0)
        assert index.stats().segments == 1
        look(index)
        with ti.open(index.path, mode="r") as again:
            look(again)
        with ti.open(index.path, generation=before) as earlier:
            results = [earlier.search(query, where={"r": {"$lt": 600}}) for query in ASKED]
            assert check(results, below(600), ASKED) >= 0.97
            assert {result.generation for result in results} == {before}


@pytest.mark.parametrize("walker", ENGINES)
@pytest.mark.parametrize(("metric", "dtype"), [("dot", "float32"), ("cosine", "float16"), ("dot", "float16")])
def test_other_numbers(
    tmp_path: Path, walker: str, metric: Any, dtype: str, monkeypatch: pytest.MonkeyPatch, walks: None
) -> None:
    if walker == "faiss":
        for module in (prefix_graph, road):
            monkeypatch.setattr(module, "get_engine", lambda: None)
    rows = 4_500
    lengths = np.random.default_rng(5).uniform(0.7, 1.4, (rows, 1)).astype(np.float32)
    vectors, queries = (VECTORS[:rows] * lengths).astype(dtype), ASKED * np.float32(3.0)
    made = {"prefix_dim": PREFIX_DIM, "metric": metric, "dtype": dtype, "ef_construction": 40}
    with ti.open(tmp_path / "i", DIM, **made) as index:
        index.add([f"row {i}" for i in range(rows)], vectors, {"r": RANDOM[:rows]})
        strategies = set()
        for limit in (300, 2_000, 9_000):
            allowed = np.flatnonzero(RANDOM[:rows] < limit)
            truth, scores = exact_top_k(vectors[allowed], queries, 10, metric)
            names = [[f"row {i}" for i in allowed[one]] for one in truth]
            results = [index.search(query, where={"r": {"$lt": limit}}) for query in queries]
            strategies |= {result.plan.strategy for result in results}
            assert recall_at_k([result.ids for result in results], names) >= 0.93
            exact = index.search(queries, where={"r": {"$lt": limit}}, exact=True)
            assert recall_at_k(exact.ids, names) >= 0.99
            np.testing.assert_allclose(exact.scores, scores, rtol=2e-3)
        assert strategies == {"scan", "graph"}


# Explaining


def test_explain(opened: Callable[..., ti.Index]) -> None:
    index, where = opened("calibrated"), {"r": {"$lt": 1_900}}
    said = index.explain(where=where, min_recall=0.9)
    assert (said.matches, said.selectivity, said.plan.strategy) == (1_900, 0.2, "scan")
    assert (said.expected, said.alternatives, said.actual) == (None, [], None)
    assert "where: 1,900 rows match, 20.00% of all" in str(said).split("\n")
    assert f"until {said.plan.misses:g} misses are expected" in str(said)
    assert index.search(ASKED[0], where=where, min_recall=0.9).plan == said.plan
    truth = best(below(1_900), ASKED)
    for query, true in zip(ASKED, truth, strict=True):
        said = index.explain(query, where=where, exact=True)
        assert said.actual.recall == pytest.approx(recall_at_k(np.array(said.actual.ids), true))
        assert said.actual.ids == index.search(query, where=where).ids.tolist()
        assert msgspec.json.decode(msgspec.json.encode(said), type=ti.Explanation) == said
    every, none, plain = index.explain(where={}), index.explain(where={"r": -1}), index.explain()
    assert (every.matches, every.selectivity, every.plan) == (ROWS, 1.0, plain.plan)
    assert every.expected == plain.expected
    assert (plain.matches, plain.selectivity) == (None, None)
    assert "where:" not in str(plain)
    assert (none.matches, none.selectivity) == (0, 0.0)
    nothing = index.explain(ASKED[0], where={"r": -1}, exact=True)
    assert nothing.actual.ids == []


def run(*arguments: object, code: int = 0) -> str:
    result = CliRunner().invoke(app, [str(a) for a in arguments])
    assert result.exit_code == code, result.output
    return result.stderr if code else result.stdout


def test_the_command_line(folder: Path) -> None:
    path, where = folder / "calibrated", json.dumps({"r": {"$lt": 1_900}})
    asked = [path, "--like", 17, "--where", where]
    said = json.loads(run("search", *asked, "--json"))
    found = [hit["id"] for hit in said["hits"]]
    assert found == best(below(1_900), VECTORS[17:18])[0].tolist()
    assert said["plan"]["strategy"] == "scan"
    assert [hit["r"] for hit in said["hits"]] == RANDOM[found].tolist()
    said = json.loads(run("search", *asked, "-k", 3, "--group-by", "cluster", "--group-size", 2, "--json"))
    clusters = [hit["cluster"] for hit in said["hits"]]
    assert len(clusters) == 6
    assert clusters[::2] == clusters[1::2]
    assert len(set(clusters)) == 3
    said = json.loads(run("explain", *asked, "--exact", "--json"))
    assert (said["matches"], said["selectivity"]) == (1_900, 0.2)
    assert said["actual"]["recall"] == 1.0
    shown = run("explain", path, "--where", where)
    assert "1,900 rows match" in shown
    assert "cluster" in run("search", *asked)
    for command in ("search", "explain"):
        for wrong in ("{r: 3}", "3", '{"colour": 3}'):
            error = run(command, path, "--like", 17, "--where", wrong, code=1)
            assert error.startswith("FilterError")
            assert error.count("\n") == 1
    assert run("search", *asked, "--group-by", "colour", code=1).startswith("FilterError")


# Threads and processes


def test_threads_with_filters_of_their_own(opened: Callable[..., ti.Index], walks: None) -> None:
    index, again = opened("one"), opened("split")
    wheres = [{"r": {"$lt": limit}} for limit in (0, 5, 300, 2_500, 6_000, 9_000)]

    def look(number: int) -> list[Any]:
        found = []
        for i in range(60):
            query, where = ASKED[(i + number) % len(ASKED)], wheres[(i * 5 + number) % len(wheres)]
            result = (index, again)[i % 2].search(query, where=where)
            assert np.all(RANDOM[result.ids] < where["r"]["$lt"])
            found.append((result.ids.tolist(), result.plan.strategy))
        return found

    with ThreadPoolExecutor(4) as threads:  # first, when no filter was looked at yet
        together = list(threads.map(look, range(4)))
    assert together == [look(number) for number in range(4)]
    assert {strategy for found in together for _, strategy in found} == {"scan", "graph"}


def test_a_forked_child(opened: Callable[..., ti.Index], walks: None) -> None:
    index = opened("one")

    def look() -> list[Any]:
        wheres = [{"r": {"$lt": limit}} for limit in (5, 2_500, 9_000)]
        return [index.search(query, where=where).ids.tolist() for where in wheres for query in ASKED]

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
