"""Calibrating an index: with which queries, against which answers, when, and who sees it."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import tiered_index as ti
from tiered_index import calibration as calibrating
from tiered_index.calibration import MAX_QUERIES, MIN_QUERIES, Queries, stored_queries
from tiered_index.recalibrate import CALIBRATE_MIN_ROWS
from tiered_index.storage.calibration import read_calibration
from tiered_index.storage.commit import CALIBRATION
from tiered_index.testing import exact_top_k, matryoshka_vectors, recall_at_k

DIM, PREFIX_DIM, ROWS = 32, 16, 5_000


@pytest.fixture(scope="module")
def vectors() -> np.ndarray:
    return matryoshka_vectors(ROWS, DIM, decay=0.3, seed=10)


@pytest.fixture(scope="module")
def queries() -> np.ndarray:
    return matryoshka_vectors(264, DIM, decay=0.3, seed=10, stream=1)


Make = Callable[..., ti.Index]


@pytest.fixture
def make(tmp_path: Path, vectors: np.ndarray) -> Iterator[Make]:
    """Make an index of the first rows, in one commit or several."""
    opened: list[ti.Index] = []

    def made(rows: int = 600, parts: int = 1, **settings: Any) -> ti.Index:
        policy = {"merge_policy": ti.NoMergePolicy()} if parts > 1 else {}
        index = ti.open(tmp_path / "r.tidx", DIM, prefix_dim=PREFIX_DIM, **policy, **settings)
        opened.append(index)
        for part in np.array_split(np.arange(rows), parts):
            index.add(part, vectors[part])
        return index

    yield made
    for index in opened:
        index.close()


@pytest.fixture
def truths(monkeypatch: pytest.MonkeyPatch) -> list[tuple[Queries, np.ndarray]]:
    """What calibrations asked, and the answers that they took for true."""
    seen: list[tuple[Queries, np.ndarray]] = []
    original = calibrating._truth

    def watched(snapshot: Any, asked: Queries, k: int, seconds: float | None) -> Any:
        answers, asked, time = original(snapshot, asked, k, seconds)
        seen.append((asked, answers))
        return answers, asked, time

    monkeypatch.setattr(calibrating, "_truth", watched)
    return seen


def live_search(index: ti.Index, queries: np.ndarray) -> None:
    for query in queries:
        index.search(query)


# Queries


def test_given_queries(make: Make, vectors: np.ndarray, queries: np.ndarray, truths: list) -> None:
    index = make()
    made = index.calibrate(queries[:64] * 3, (10, 1, 10))
    assert (made.source, made.queries, made.ks) == ("given", 64, (1, 10))
    assert (made.rows, made.generation) == (600, index.search(queries[0]).generation)
    assert made.seconds > 0
    np.testing.assert_array_equal(truths[0][1], exact_top_k(vectors[:600], queries[:64], 10)[0])
    assert "64 given queries" in index.explain().basis
    assert index.explain(min_recall=0.9).concern is None
    one = index.calibrate(queries[0], (10,), seconds=1)  # a single query is one of them
    assert (one.queries, one.source) == (1, "given")


@pytest.mark.parametrize(
    ("metric", "dtype"), [("cosine", "float32"), ("cosine", "float16"), ("dot", "float32")]
)
def test_given_queries_that_are_rows_do_not_find_themselves(
    make: Make, vectors: np.ndarray, queries: np.ndarray, truths: list, metric: str, dtype: str
) -> None:
    index = make(metric=metric, dtype=dtype)
    rows = np.arange(100, 140)
    for others, source in ((0, "stored"), (60, "given")):
        made = index.calibrate(np.concatenate([queries[:others], vectors[rows]]), (1, 10))
        asked, answers = truths[-1]
        best = exact_top_k(vectors[:600], vectors[rows], 11)[0]
        assert best[:, 0].tolist() == rows.tolist()
        assert recall_at_k(answers[others:], best[:, 1:]) >= 0.99  # float16 puts some into another order
        assert not (answers[others:] == rows[:, None]).any()
        assert asked.own.tolist() == [-1] * others + rows.tolist()
        known = exact_top_k(vectors[:600], queries[: max(others, 1)], 10)[0]
        assert others == 0 or recall_at_k(answers[:others], known) >= 0.99
        assert (made.source, made.ks) == (source, (1, 10))


def test_a_few_given_queries_may_be_rows(
    make: Make, vectors: np.ndarray, queries: np.ndarray, truths: list
) -> None:
    """Some are asked for what is there; what is close to a row is not that row."""
    index = make()
    near = vectors[:40] + 1e-3
    index.calibrate(np.concatenate([queries[:100], near, vectors[:3]]), (10,))
    asked, answers = truths[-1]
    assert asked.own is None
    assert answers[-3:, 0].tolist() == [0, 1, 2]


def test_queries_that_are_given_twice_count_once(make: Make, queries: np.ndarray, truths: list) -> None:
    index = make()
    made = index.calibrate(np.repeat(queries[[5, 3]], 50, axis=0), (1,))
    assert made.queries == 2
    np.testing.assert_allclose(truths[-1][0].vectors, queries[[5, 3]], rtol=1e-6)
    assert index.calibrate(np.repeat(queries, 5, axis=0), (1,), seconds=1).queries <= len(queries)


def test_two_queries_promise_little(make: Make, queries: np.ndarray) -> None:
    """All that was seen was found, and a floor may be missed by others all the same."""
    index = make(ROWS)
    index.calibrate(queries[:2], (1,))
    assert index.explain(k=1, min_recall=0.95).plan.strategy == "exact"
    index.calibrate(queries[:200], (1,))
    assert index.explain(k=1, min_recall=0.95).plan.strategy != "exact"


def test_live_queries_are_used_when_there_are_enough(make: Make, queries: np.ndarray, truths: list) -> None:
    index = make()
    live_search(index, queries[: MIN_QUERIES - 1])
    index.search(queries[100:200])  # a batch and an exact search are not kept
    index.search(queries[100], exact=True)
    assert index.calibrate(k=(5,), seconds=0.5).source == "stored"
    live_search(index, queries[MIN_QUERIES - 1 : MIN_QUERIES])
    made = index.calibrate(k=(5,), seconds=0.5)
    assert (made.source, made.queries) == ("live", MIN_QUERIES)
    np.testing.assert_allclose(truths[-1][0].vectors, queries[:MIN_QUERIES], rtol=1e-6)
    assert index.calibrate(queries[:40], (5,), seconds=0.5).source == "given"
    assert "earlier queries" not in index.explain().basis


def test_the_reservoir_is_a_fair_sample_of_bounded_size(make: Make) -> None:
    planning = make()._planning
    for i in range(3_000):
        if planning.due():
            planning.keep(np.full(DIM, i, np.float32))
    kept = planning.live_queries()[:, 0]
    assert len(kept) == len(set(kept.tolist())) == 512
    assert 1_200 < kept.mean() < 1_800  # 1,500, give or take 38


@pytest.mark.parametrize(
    "settings",
    [{}, {"metric": "dot"}, {"dtype": "float16"}, {"metric": "dot", "dtype": "float16"}, {"store_dim": 24}],
)
@pytest.mark.parametrize("parts", [1, 3])
def test_stored_queries_never_find_themselves(
    make: Make, vectors: np.ndarray, truths: list, settings: dict[str, Any], parts: int
) -> None:
    index = make(400, parts, **settings)
    index.delete(np.arange(0, 400, 5))
    made = index.calibrate(k=(1, 10), seconds=2)
    assert (made.source, made.rows) == ("stored", 320)
    asked, truth = truths[0]
    assert len(np.unique(asked.own)) == 320
    assert not (truth == asked.own[: len(truth), None]).any()
    snapshot = index._current.get()
    ids = snapshot.ids(asked.own)
    assert not set(ids.tolist()) & set(range(0, 400, 5))
    kept = np.flatnonzero(np.arange(400) % 5)
    stored = vectors[:, : index.config.store_dim].astype(index.config.dtype).astype(np.float32)
    nearest, _ = exact_top_k(stored[kept], stored[ids], 11, index.config.metric)
    for own, found, others in zip(ids, truth, kept[nearest], strict=False):
        expected = [other for other in others.tolist() if other != own][:10]
        # scores that tie in float16 may change places
        assert len(set(snapshot.ids(found).tolist()) & set(expected)) >= 9
    assert made.walked[-1].recall[1][0] <= 1.0
    assert "stored vectors as queries" in index.explain().basis


def test_stored_queries_are_the_same_each_time(make: Make) -> None:
    index = make(2_000)
    first, second = (stored_queries(index._current.get(), MAX_QUERIES) for _ in range(2))
    assert len(first.vectors) == MAX_QUERIES
    np.testing.assert_array_equal(first.own, second.own)
    np.testing.assert_allclose(np.linalg.norm(first.vectors, axis=1), 1.0, rtol=1e-6)


def test_a_row_is_not_its_own_answer_in_what_is_measured(make: Make) -> None:
    # two rows a place: the twin is the one true answer, and prefixes find it at once
    index = make(2)
    base = matryoshka_vectors(200, DIM, seed=4)
    index.upsert(np.arange(400), np.concatenate([base, base]))
    made = index.calibrate(k=(1,), seconds=2)
    first = next(walk for walk in made.walked if walk.strategy == "scan")
    assert (first.ef, first.recall[1][0]) == (1, 1.0)


@pytest.mark.parametrize(
    ("asked", "error"),
    [
        ({"queries": np.zeros((0, DIM))}, "must not be empty"),
        ({"queries": np.zeros((3, DIM))}, "zero query"),
        ({"queries": np.ones((3, 5))}, "shape"),
        ({"k": ()}, "at least one k"),
        ({"k": (1, 0)}, "k must be"),
        ({"k": (1.5,)}, r"1\.5"),
        ({"seconds": 0}, "above 0, not 0"),
        ({"seconds": -1}, "above 0, not -1"),
        ({"seconds": float("nan")}, "not nan"),
    ],
)
def test_calls_that_cannot_be_measured(make: Make, asked: dict[str, Any], error: str) -> None:
    index = make(50)
    with pytest.raises(ti.InvalidInputError, match=error):
        index.calibrate(**asked)
    assert not (index.path / CALIBRATION).exists()
    assert index.explain().expected is None


def test_empty_and_closed_indexes_cannot_be_measured(make: Make, queries: np.ndarray) -> None:
    index = make(1)
    with pytest.raises(ti.ParameterError, match="an index of 1 rows"):
        index.calibrate(queries)
    index.close()
    with pytest.raises(ti.IndexClosedError):
        index.calibrate(queries)


# Indexes of any shape


@pytest.mark.parametrize(
    ("rows", "parts", "settings"),
    [
        (2, 1, {}),
        (30, 1, {}),
        (2_000, 1, {}),
        (2_000, 4, {"dtype": "float16"}),
        (5_000, 1, {"metric": "dot"}),
        (5_000, 2, {}),
    ],
)
def test_floors_hold_on_any_index(
    make: Make, vectors: np.ndarray, queries: np.ndarray, rows: int, parts: int, settings: dict[str, Any]
) -> None:
    index = make(rows, parts, **settings)
    if rows > 100:
        index.delete(np.arange(0, rows, 3))
    left = np.arange(rows) if rows <= 100 else np.flatnonzero(np.arange(rows) % 3)
    made = index.calibrate(queries[:64], (1, 10))
    assert made.rows == len(left)
    assert made.ks == tuple(sorted({1, min(10, len(left))}))
    truth = left[exact_top_k(vectors[left], queries[64:], 10, index.config.metric)[0]]
    for floor in (0.6, 0.95):
        results = [index.search(query, min_recall=floor) for query in queries[64:]]
        recalls = [recall_at_k(found.ids, true) for found, true in zip(results, truth, strict=True)]
        assert np.mean(recalls) >= floor - 3.5 * np.std(recalls) / np.sqrt(len(recalls)) - 0.005
        assert {found.degraded_reason for found in results} == {None}
    if rows < 4_096:
        assert {walk.strategy for walk in made.walked} <= {"scan"}


# Keeping it


def test_it_is_kept_with_the_index(make: Make, queries: np.ndarray) -> None:
    index = make()
    made = index.calibrate(queries[:40], (1, 7), seconds=0.5)
    kept = read_calibration(index._current.store)
    assert kept.calibration == made
    np.testing.assert_allclose(kept.queries, queries[:40], rtol=1e-6)
    index.calibrate(k=(1,), seconds=0.5)
    assert len(read_calibration(index._current.store).queries) == 0  # they are in the index
    index.calibrate(queries[:40], (1, 7), seconds=0.5)
    explained = index.explain(k=7, min_recall=0.8)
    index.close()
    for mode in ("r", "rw"):
        with ti.open(index.path, mode=mode) as again:
            assert again.explain(k=7, min_recall=0.8) == explained


def test_readers_see_it_after_refresh(make: Make, queries: np.ndarray) -> None:
    index = make()
    with ti.open(index.path, mode="r") as reader:
        assert reader.explain().expected is None
        index.calibrate(queries[:40], (1,), seconds=0.5)
        assert reader.explain().expected is None
        assert reader.refresh() is False  # there is no newer generation
        assert "40 given queries" in reader.explain().basis
        index.calibrate(queries[:33], (1,), seconds=0.5)
        reader.refresh()
        assert "33 given queries" in reader.explain().basis


def test_another_process_sees_it(make: Make, queries: np.ndarray) -> None:
    index = make()
    code = (
        "import json, sys, tiered_index as ti\n"
        "index = ti.open(sys.argv[1], mode='r')\n"
        "print(json.dumps(index.explain().basis), flush=True)\n"
        "sys.stdin.readline()\n"
        "index.refresh()\n"
        "print(json.dumps(index.explain().basis), flush=True)"
    )
    with subprocess.Popen(
        [sys.executable, "-W", "ignore", "-c", code, str(index.path)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    ) as child:
        assert "nothing was measured" in json.loads(child.stdout.readline())
        index.calibrate(queries[:40], (1,), seconds=0.5)
        child.stdin.write("now\n")
        child.stdin.flush()
        assert "40 given queries" in json.loads(child.stdout.readline())
    assert child.returncode == 0


def test_an_index_that_is_read_keeps_it_in_memory(make: Make, queries: np.ndarray) -> None:
    index = make()
    with ti.open(index.path, mode="r") as reader:
        reader.calibrate(queries[:40], (1,), seconds=0.5)
        assert reader.explain().expected is not None
        assert not (index.path / CALIBRATION).exists()
    with ti.open(index.path, mode="r") as reader:
        assert reader.explain().expected is None


# Measuring again


@pytest.mark.parametrize("source", ["given", "live", "stored"])
def test_optimize_measures_again_with_the_same_queries(
    make: Make, queries: np.ndarray, truths: list, source: str
) -> None:
    index = make(600, 3)
    if source == "live":
        live_search(index, queries[:50])
    first = index.calibrate(queries[:50] if source == "given" else None, (2, 9))
    index.delete(np.arange(100))
    index.optimize(calibrate_seconds=5)
    kept = read_calibration(index._current.store)
    again = kept.calibration
    assert (first.source, again.source) == (source, source)
    assert (first.rows, again.rows, again.ks) == (600, 500, (2, 9))
    assert again.generation > first.generation
    assert index._planning.chooser.calibration == again
    if source != "stored":
        np.testing.assert_array_equal(truths[0][0].vectors, truths[1][0].vectors)
        assert len(kept.queries) == again.queries == 50
    else:
        assert again.queries == 500


def test_optimize_measures_again_with_the_rows_that_were_given(
    make: Make, vectors: np.ndarray, truths: list
) -> None:
    index = make(600, 3)
    index.calibrate(vectors[200:250], (3,))
    index.delete(np.arange(240, 300))
    index.optimize(calibrate_seconds=5)
    (first, _), (again, _) = truths
    np.testing.assert_array_equal(first.vectors, again.vectors)
    assert first.source == again.source == "stored"
    assert (again.own >= 0).sum() == 40  # the others are there no more
    assert read_calibration(index._current.store).calibration.queries == 50


def test_optimize_measures_only_what_was_measured_before(make: Make, queries: np.ndarray) -> None:
    index = make(600, 3)
    index.optimize()
    assert not (index.path / CALIBRATION).exists()
    made = index.calibrate(queries[:40], (1,), seconds=0.5)
    index.add([9_999], queries[:1])
    index.optimize(calibrate_seconds=0)
    assert read_calibration(index._current.store).calibration == made


def test_growth_is_told(make: Make, vectors: np.ndarray, queries: np.ndarray) -> None:
    index = make(400)
    index.calibrate(queries[:40], (1,), seconds=0.5)
    before = index.explain(k=1, min_recall=0.9)
    assert "rows have changed" not in before.basis
    index.add(np.arange(400, 1_000), vectors[400:1_000])
    assert "rows have changed by +150% since" in index.explain().basis
    index.delete(np.arange(900))
    assert "rows have changed by -75% since" in index.explain().basis


def test_ingestion_measures_large_indexes(vectors: np.ndarray, tmp_path: Path) -> None:
    def ingested(name: str, rows: int, **settings: Any) -> Path:
        report = ti.ingest(vectors[:rows], tmp_path / name, id_column=None, prefix_dim=PREFIX_DIM, **settings)
        assert report.rows == rows
        return tmp_path / name / CALIBRATION

    assert not ingested("small", CALIBRATE_MIN_ROWS - 1, calibrate_seconds=1).exists()
    assert not ingested("unasked", CALIBRATE_MIN_ROWS, calibrate_seconds=0).exists()
    assert ingested("large", CALIBRATE_MIN_ROWS, calibrate_seconds=1).exists()
    with ti.open(tmp_path / "large", mode="r") as index:
        calibration = index._planning.chooser.calibration
        assert (calibration.source, calibration.rows) == ("stored", CALIBRATE_MIN_ROWS)
        assert calibration.ks == (1, 10, 100)


def test_ingestion_measures_again_what_real_queries_told(
    make: Make, vectors: np.ndarray, queries: np.ndarray
) -> None:
    index = make(4_000)
    index.calibrate(queries[:40], (3,), seconds=0.5)
    ids = {"id": np.arange(4_000, ROWS), "vector": list(vectors[4_000:])}
    import pyarrow as pa

    ti.ingest(pa.table(ids), index, calibrate_seconds=1)
    again = index._planning.chooser.calibration
    assert (again.source, again.rows, again.ks, again.queries) == ("given", ROWS, (3,), 40)
