"""The whole road: add, get, search by every plan, reopen; every recall against exact truth."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
from collections.abc import Callable
from datetime import date
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

import tiered_index as ti
from tiered_index.coarse.prefix_graph import GRAPH_MIN_ROWS
from tiered_index.testing import exact_top_k, matryoshka_vectors, recall_at_k

from .conftest import DIM, ROWS

GRAPH_ROWS = 6_000


@pytest.fixture(scope="module")
def graph_data() -> tuple[np.ndarray, np.ndarray]:
    return matryoshka_vectors(GRAPH_ROWS, DIM, seed=2), matryoshka_vectors(100, DIM, seed=2, stream=1)


@pytest.fixture(scope="module")
def graph_index(graph_data: tuple, tmp_path_factory: pytest.TempPathFactory) -> ti.Index:
    """One segment, large enough for a graph, and searched with an ef small enough to walk it."""
    index = ti.open(tmp_path_factory.mktemp("graph") / "g.tidx", dim=DIM, prefix_dim=32)
    index.add(np.arange(GRAPH_ROWS), graph_data[0])
    return index


@pytest.mark.parametrize("dtype", ["float32", "float16"])
@pytest.mark.parametrize("metric", ["cosine", "dot"])
def test_default_search_finds_the_truth(
    make_index: Callable[..., ti.Index], vectors: np.ndarray, queries: np.ndarray, metric: str, dtype: str
) -> None:
    scaled = vectors * np.linspace(0.5, 2.0, ROWS, dtype=np.float32)[:, None]  # lengths matter under dot
    index = make_index(metric=metric, dtype=dtype)
    index.add(np.arange(ROWS), scaled)
    truth, scores = exact_top_k(scaled.astype(dtype), queries, 10, metric)
    result = index.search(queries)
    assert (result.plan.strategy, result.plan.prefix_dim) == ("scan", 32)
    assert recall_at_k(result.ids, truth) >= 0.95
    hit = index.search(queries[0])
    assert hit.ids.tolist() == result.ids[0].tolist()
    found = hit.ids[0] == truth[0, 0]
    assert found
    np.testing.assert_allclose(hit.scores[0], scores[0, 0], rtol=2e-6)


@pytest.mark.parametrize("metric", ["cosine", "dot"])
@pytest.mark.parametrize("dtype", ["float32", "float16"])
def test_exact_search_is_exact(
    make_index: Callable[..., ti.Index], vectors: np.ndarray, queries: np.ndarray, metric: str, dtype: str
) -> None:
    index = make_index(metric=metric, dtype=dtype)
    for start in (0, 300):  # two segments
        stop = start + 300 if start == 0 else ROWS
        index.add(np.arange(start, stop), vectors[start:stop])
    truth, scores = exact_top_k(vectors.astype(dtype), queries, 10, metric)
    result = index.search(queries, exact=True)
    assert result.plan.strategy == "exact"
    assert recall_at_k(result.ids, truth) >= 0.998  # float32 may swap equals at the end
    np.testing.assert_allclose(result.scores, scores, rtol=1e-4, atol=1e-6)
    assert result.stats.rows_read == ROWS


@pytest.mark.parametrize("prefix_dim", [8, 16, 24, 32])
def test_every_prefix_dimension_walks_the_same_graph(
    graph_index: ti.Index, graph_data: tuple, prefix_dim: int
) -> None:
    vectors, queries = graph_data
    truth, _ = exact_top_k(vectors, queries, 10)
    result = graph_index.search(queries, prefix_dim=prefix_dim, ef=140, candidates=140)
    assert result.plan == ti.Plan(strategy="graph", prefix_dim=prefix_dim, ef=140, candidates=140)
    assert result.stats.parts_walked == 1
    # what an exact search over the prefixes would have put among the candidates
    prefixes, asked = vectors[:, :prefix_dim], queries[:, :prefix_dim]
    codes = vectors[:, :32] / np.linalg.norm(vectors[:, :32], axis=1, keepdims=True)
    prefixes = codes[:, :prefix_dim]
    best, _ = exact_top_k(prefixes, asked, 140, "dot")
    possible = np.mean([len(set(b) & set(t)) / 10 for b, t in zip(best, truth, strict=True)])
    assert recall_at_k(result.ids, truth) >= possible - 0.02


def test_more_effort_finds_more(graph_index: ti.Index, graph_data: tuple) -> None:
    vectors, queries = graph_data
    truth, _ = exact_top_k(vectors, queries, 10)
    recalls = []
    for ef in (10, 30, 140):
        result = graph_index.search(queries, ef=ef)
        assert (result.plan.strategy, result.plan.ef) == ("graph", ef)
        recalls.append(recall_at_k(result.ids, truth))
    assert recalls[0] < recalls[1] < recalls[2]
    assert recalls[2] >= 0.95


def test_a_batch_answers_as_its_queries_do_alone(graph_index: ti.Index, graph_data: tuple) -> None:
    _, queries = graph_data
    batch = graph_index.search(queries[:20], k=5, ef=100)
    assert batch.ids.shape == batch.scores.shape == (20, 5)
    for i, query in enumerate(queries[:20]):
        alone = graph_index.search(query, k=5, ef=100)
        assert alone.ids.tolist() == batch.ids[i].tolist()
        np.testing.assert_allclose(alone.scores, batch.scores[i], rtol=1e-6)


def test_segments_answer_as_one(
    make_index: Callable[..., ti.Index], vectors: np.ndarray, queries: np.ndarray
) -> None:
    whole, split = make_index("whole.tidx"), make_index("split.tidx")
    whole.add(np.arange(ROWS), vectors)
    for start in range(0, ROWS, 170):
        split.add(np.arange(start, min(start + 170, ROWS)), vectors[start : start + 170])
    a, b = whole.search(queries), split.search(queries)
    assert split.stats().segments == 6
    assert b.stats.parts_scanned == 1
    assert a.ids.tolist() == b.ids.tolist()


def test_k_larger_than_the_index(make_index: Callable[..., ti.Index], vectors: np.ndarray) -> None:
    index = make_index()
    index.add(np.arange(7), vectors[:7])
    for exact in (False, True):
        assert sorted(index.search(vectors[0], k=50, exact=exact).ids.tolist()) == list(range(7))
        assert index.search(vectors[:3], k=50, exact=exact).ids.shape == (3, 7)


def test_an_empty_index_finds_nothing(make_index: Callable[..., ti.Index], vectors: np.ndarray) -> None:
    index = make_index()
    for exact in (False, True):
        assert index.search(vectors[0], exact=exact).ids.shape == (0,)
        assert index.search(vectors[:4], exact=exact).ids.shape == (4, 0)
    assert len(index) == index.count() == 0
    assert index.get(["a"]).num_rows == 0
    assert index.search(vectors[0]).to_arrow().num_rows == 0


def test_no_queries(filled: ti.Index) -> None:
    result = filled.search(np.empty((0, DIM), np.float32))
    assert result.ids.shape == (0, 10)


def test_k_beyond_the_graph_returns_every_row(graph_index: ti.Index, graph_data: tuple) -> None:
    result = graph_index.search(graph_data[1][0], k=GRAPH_ROWS + 5)
    assert sorted(result.ids.tolist()) == list(range(GRAPH_ROWS))
    assert result.plan.strategy == "scan"


def test_reopened_index_answers_the_same(
    make_index: Callable[..., ti.Index], vectors: np.ndarray, queries: np.ndarray, tmp_path: Path
) -> None:
    index = make_index()
    index.add([f"doc-{i}" for i in range(ROWS)], vectors)
    before = index.search(queries)
    index.close()
    with ti.open(tmp_path / "test.tidx", mode="r") as again:
        after = again.search(queries)
        assert after.plan.strategy == "scan"
        assert after.ids.tolist() == before.ids.tolist()
        assert len(again) == ROWS
        with pytest.raises(ti.ReadOnlyError):
            again.add(["new"], vectors[:1])


def test_get_returns_what_was_put_in(filled: ti.Index, vectors: np.ndarray) -> None:
    rows = [17, 999, 0, 5_000, 3]
    table = filled.get(rows, include_vectors=True)
    assert table["id"].to_pylist() == [17, 999, 0, 3]
    assert table["title"].to_pylist() == ["row 17", "row 999", "row 0", "row 3"]
    stored = np.stack(table["vector"].to_numpy(zero_copy_only=False))
    np.testing.assert_array_equal(stored, vectors[[17, 999, 0, 3]])
    assert filled.get([1]).column_names == ["id", "title", "year"]


def test_get_across_segments_and_row_groups(make_index: Callable[..., ti.Index]) -> None:
    vectors = matryoshka_vectors(10_000, 16, seed=3)
    index = make_index(dim=16, prefix_dim=16)
    index.add(np.arange(9_000), vectors[:9_000], {"n": np.arange(9_000)})
    index.add(np.arange(9_000, 10_000), vectors[9_000:], {"n": np.arange(9_000, 10_000)})
    wanted = [9_500, 8_191, 8_192, 0, 8_999, 9_000]
    table = index.get(wanted, include_vectors=True)
    assert table["id"].to_pylist() == table["n"].to_pylist() == wanted
    np.testing.assert_array_equal(np.stack(table["vector"].to_numpy(zero_copy_only=False)), vectors[wanted])


def test_stored_prefix_ranks_by_the_prefix(
    make_index: Callable[..., ti.Index], vectors: np.ndarray, queries: np.ndarray
) -> None:
    index = make_index(store_dim=40)
    index.add(np.arange(ROWS), vectors)
    truth, scores = exact_top_k(vectors[:, :40], queries[:, :40], 10)
    result = index.search(queries, exact=True)
    assert result.plan.strategy == "exact"
    assert recall_at_k(result.ids, truth) >= 0.998
    np.testing.assert_allclose(result.scores, scores, rtol=1e-4)
    assert index.get([0], include_vectors=True)["vector"].type.list_size == 40


def test_metadata_of_every_scalar_type(make_index: Callable[..., ti.Index], vectors: np.ndarray) -> None:
    table = pa.table(
        {
            "text": pa.array(["a", None, "ü"]),
            "flag": pa.array([True, None, False]),
            "small": pa.array([1, 2, None], pa.int8()),
            "real": pa.array([1.5, None, -2.0], pa.float64()),
            "day": pa.array([date(2020, 1, 1), None, date(1999, 12, 31)]),
            "at": pa.array([0, 1, None], pa.timestamp("us", "UTC")),
            "raw": pa.array([b"\x00\xff", b"", None], pa.binary()),
            "money": pa.array([None, "1.25", "3.50"]).cast(pa.decimal128(9, 2)),
            "tags": pa.array([["x", "y"], [], None], pa.list_(pa.string())),
            "dict": pa.array(["p", "q", None]).dictionary_encode(),
        }
    )
    index = make_index()
    index.add(["a", "b", "c"], vectors[:3], table)
    back = index.get(["a", "b", "c"]).drop_columns("id")
    assert back.to_pylist() == table.to_pylist()
    assert back.schema.field("money").type == pa.decimal128(9, 2)
    assert back.schema.field("dict").type == pa.string()


def test_result_forms(filled: ti.Index, vectors: np.ndarray) -> None:
    one = filled.search(vectors[3], k=4)
    assert one.metadata["title"].to_pylist() == [f"row {i}" for i in one.ids]
    assert one.metadata["title"][0].as_py() == "row 3"
    table = one.to_arrow()
    assert table.column_names == ["rank", "id", "score", "title", "year"]
    assert table["rank"].to_pylist() == [1, 2, 3, 4]
    many = filled.search(vectors[3:5], k=4)
    frame = many.to_pandas()
    assert frame["query"].tolist() == [0] * 4 + [1] * 4
    assert frame["id"].tolist() == many.ids.reshape(-1).tolist()
    assert frame["title"].tolist() == [f"row {i}" for i in frame["id"]]
    assert len(one) == 4
    assert np.all(np.diff(one.scores) <= 0)


def test_stats_count_what_a_search_did(filled: ti.Index, vectors: np.ndarray) -> None:
    stats = filled.search(vectors[:2], k=3, candidates=30).stats
    assert (stats.queries, stats.rows_read, stats.bytes_read) == (2, 60, 60 * DIM * 4)
    assert 0 < stats.coarse_ms + stats.rescore_ms <= stats.total_ms


def test_index_stats_add_up(graph_index: ti.Index) -> None:
    stats = graph_index.stats()
    files = {p.name: p.stat().st_size for p in graph_index.path.rglob("*") if p.is_file()}
    assert stats.coarse_disk_bytes == files["coarse.faiss"]
    assert stats.full_disk_bytes == files["rows.parquet"]
    assert stats.lookup_disk_bytes == files["lookup.arrow"]
    assert stats.columns_disk_bytes == files.get("columns.roaring", 0)
    assert stats.coarse_codes_bytes == GRAPH_ROWS * 32
    assert 0.97 < (stats.coarse_codes_bytes + stats.coarse_graph_bytes) / files["coarse.faiss"] <= 1.0
    assert GRAPH_ROWS >= GRAPH_MIN_ROWS


def test_a_second_writer_is_refused_and_let_in_after_close(
    make_index: Callable[..., ti.Index], vectors: np.ndarray, tmp_path: Path
) -> None:
    first = make_index()
    second = ti.open(tmp_path / "test.tidx")
    first.add([1], vectors[:1])
    with pytest.raises(ti.IndexLockedError, match=str(os.getpid())):
        second.add([2], vectors[1:2])
    first.close()
    second.add([2], vectors[1:2])  # and it sees what the first one wrote
    assert len(second) == 2
    with pytest.raises(ti.DuplicateIdError):
        second.add([1], vectors[:1])
    second.close()


def test_threads_search_while_one_writes(
    make_index: Callable[..., ti.Index], vectors: np.ndarray, queries: np.ndarray
) -> None:
    index = make_index()
    index.add(np.arange(200), vectors[:200])
    failures: list[str] = []
    stop = threading.Event()

    def look() -> None:
        while not stop.is_set():
            result = index.search(queries[:4], k=5)
            rows = result.ids.max()
            if rows >= 200 + 100 * (result.generation - 2):
                failures.append(f"row {rows} in generation {result.generation}")

    threads = [threading.Thread(target=look) for _ in range(3)]
    for thread in threads:
        thread.start()
    for start in range(200, ROWS, 100):
        index.add(np.arange(start, start + 100), vectors[start : start + 100])
    stop.set()
    for thread in threads:
        thread.join()
    assert failures == []
    assert len(index) == ROWS


def test_a_forked_child_can_search_after_a_parallel_search(graph_index: ti.Index, tmp_path: Path) -> None:
    script = (
        "import os, sys, warnings, numpy as np, tiered_index as ti\n"
        "warnings.simplefilter('ignore')\n"
        "index = ti.open(sys.argv[1], mode='r')\n"
        f"queries = np.random.default_rng(0).normal(size=(64, {DIM})).astype('f4')\n"
        "before = index.search(queries, ef=100).ids.tolist()\n"
        "child = os.fork()\n"
        "if child == 0:\n"
        "    os._exit(0 if index.search(queries, ef=100).ids.tolist() == before else 1)\n"
        "sys.exit(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))\n"
    )
    done = subprocess.run([sys.executable, "-c", script, str(graph_index.path)], timeout=60, check=False)
    assert done.returncode == 0


def test_a_forked_child_can_scan_after_its_parent_used_faiss_itself(
    graph_index: ti.Index, tmp_path: Path
) -> None:
    """The child imports this package's part of it, and must not look for the threads that the parent had."""
    script = (
        "import os, sys, warnings, faiss, numpy as np, tiered_index as ti\n"
        "warnings.simplefilter('ignore')\n"
        f"queries = np.random.default_rng(0).normal(size=(512, {DIM})).astype('f4')\n"
        "faiss.omp_set_num_threads(2)\n"
        "faiss.knn(queries, queries, 10)\n"
        "index = ti.open(sys.argv[1], mode='r')\n"
        "child = os.fork()\n"
        "if child == 0:\n"
        "    found = index.search(queries, k=10, ef=10_000)\n"
        "    os._exit(0 if found.plan.strategy == 'scan' else 1)\n"
        "sys.exit(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))\n"
    )
    done = subprocess.run([sys.executable, "-c", script, str(graph_index.path)], timeout=60, check=False)
    assert done.returncode == 0


@given(
    kind=st.sampled_from(["str", "int64"]),
    sizes=st.lists(st.integers(0, 30), min_size=1, max_size=4),
    dim=st.sampled_from([2, 7, 8, 20]),
    data=st.data(),
)
def test_any_sequence_of_adds_is_a_dict(
    tmp_path_factory: pytest.TempPathFactory, kind: str, sizes: list[int], dim: int, data: st.DataObject
) -> None:
    total = sum(sizes)
    texts = st.text(st.characters(exclude_categories=["Cs"]), max_size=8)
    numbers = st.integers(-(2**63), 2**63 - 1)
    ids = data.draw(
        st.lists(texts if kind == "str" else numbers, min_size=total, max_size=total, unique=True)
    )
    vectors = np.random.default_rng(total).normal(size=(total, dim)).astype(np.float32)
    with ti.open(tmp_path_factory.mktemp("dict") / "d.tidx", dim=dim) as index:
        start = 0
        for size in sizes:
            index.add(ids[start : start + size], vectors[start : start + size])
            start += size
        assert len(index) == total
        back = index.get(ids, include_vectors=True)
        assert back["id"].to_pylist() == ids
        if total:
            np.testing.assert_array_equal(np.stack(back["vector"].to_numpy(zero_copy_only=False)), vectors)
            result = index.search(vectors[-1], k=total)
            assert set(result.ids.tolist()) == set(ids)
            truth, _ = exact_top_k(vectors, vectors[-1:], 1)
            assert result.plan.strategy == "scan"
            np.testing.assert_allclose(result.scores[0], 1.0, rtol=1e-5)
            assert truth.shape == (1, 1)


def test_columns_named_as_those_of_a_result_keep_their_values(
    make_index: Callable[..., ti.Index], vectors: np.ndarray
) -> None:
    index = make_index()
    index.add(["a", "b"], vectors[:2], {"score": [7, 8], "rank": ["x", "y"], "query": [1, 2]})
    one, many = index.search(vectors[0], 1).to_arrow(), index.search(vectors[:2], 1).to_arrow()
    assert one.column_names == ["rank", "id", "score", "metadata.score", "metadata.rank", "query"]
    assert (one["metadata.score"].to_pylist(), one["metadata.rank"].to_pylist()) == ([7], ["x"])
    assert many["metadata.query"].to_pylist() == [1, 2]
    nothing = index.search(vectors[0], 1, where={"score": 9}).to_arrow()
    assert nothing.num_rows == 0
    assert nothing.schema.field("id").type == pa.string()


@pytest.mark.skipif(not hasattr(os, "fork"), reason="fork")
def test_a_forked_child_may_not_write_and_need_not_wait_to_hear_it(
    make_index: Callable[..., ti.Index], vectors: np.ndarray
) -> None:
    index = make_index()
    index.add([1], vectors[:1])
    held, done = threading.Event(), threading.Event()

    def hold() -> None:
        with index._writer._mutex:
            held.set()
            done.wait()

    holder = threading.Thread(target=hold)
    holder.start()
    held.wait()
    child = os.fork()
    if not child:
        signal.alarm(20)  # ends it if it waits for the mutex, which nobody lets go of in this process
        try:
            index.add([2], vectors[:1])
        except ti.ReadOnlyError:
            os._exit(0)
        os._exit(1)
    _, status = os.waitpid(child, 0)
    done.set()
    holder.join()
    assert os.waitstatus_to_exitcode(status) == 0
