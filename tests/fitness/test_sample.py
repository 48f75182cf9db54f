"""Samples from every source: how many, which, in which order, and what is refused."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

import tiered_index as ti
from tiered_index.fitness import sample as module
from tiered_index.fitness.qrels import read_qrels
from tiered_index.fitness.sample import Sample, Wanted, stored_sample, take_sample

from ..conftest import DIM, ROWS


def table(vectors: np.ndarray) -> pa.Table:
    return pa.table({"id": [f"d{i}" for i in range(len(vectors))], "embedding": list(vectors)})


def sources(vectors: np.ndarray, folder: Path) -> dict[str, Any]:
    np.save(folder / "v.npy", vectors)
    pq.write_table(table(vectors), folder / "v.parquet")
    reader = pa.RecordBatchReader.from_batches
    return {
        "array": vectors,
        "npy": folder / "v.npy",
        "parquet": str(folder / "v.parquet"),
        "stream": reader(table(vectors).schema, table(vectors).to_batches(max_chunksize=70)),
    }


def draw(source: Any, queries: Any = None, qrels: Any = None, max_queries: int = 40, **wanted: Any) -> Sample:
    settings = {
        "rows": 300,
        "queries": max_queries,
        "id_column": "id",
        "vector_column": None,
        "seed": 0,
    } | wanted
    judged = None if qrels is None else read_qrels(qrels)
    return take_sample(source, queries, judged, settings.pop("metric", None), Wanted(**settings))


def rows_of(some: np.ndarray, vectors: np.ndarray) -> list[int]:
    """Say which rows these are; each must be one of them, of unit length or as it was."""
    near = some @ vectors.T
    assert (near.max(axis=1) > 0.9999).all()
    return near.argmax(axis=1).tolist()


@pytest.mark.parametrize("form", ["array", "npy", "parquet", "stream"])
def test_a_sample_is_of_different_rows_with_queries_held_out(
    form: str, vectors: np.ndarray, tmp_path: Path
) -> None:
    given = sources(vectors * 3, tmp_path)[form]
    found = draw(given)
    docs, queries = rows_of(found.docs, vectors), rows_of(found.queries, vectors)
    assert (len(docs), len(queries)) == (300, 40)
    assert len({*docs, *queries}) == 340
    assert 350 < np.mean(docs) < 650  # of 0 to 999
    assert found.query_source == "held out"
    assert found.total_rows == ROWS
    np.testing.assert_allclose(np.linalg.norm(found.docs, axis=1), 1, rtol=1e-5)
    again = draw(sources(vectors * 3, tmp_path)[form])
    np.testing.assert_array_equal(again.docs, found.docs)
    assert rows_of(draw(sources(vectors, tmp_path)[form], seed=1).docs, vectors) != docs


def test_a_folder_of_files_is_no_index(vectors: np.ndarray, tmp_path: Path) -> None:
    (tmp_path / "parts").mkdir()
    for part in range(2):
        pq.write_table(table(vectors[500 * part : 500 * (part + 1)]), tmp_path / "parts" / f"{part}.parquet")
    assert draw(tmp_path / "parts").total_rows == ROWS


def test_every_row_of_a_stream_is_as_likely(vectors: np.ndarray, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "MIN_DOCS", 1)
    few = table(vectors[:60])
    seen = np.zeros(60)
    for seed in range(200):
        stream = pa.RecordBatchReader.from_batches(few.schema, few.to_batches(max_chunksize=7))
        for row in rows_of(draw(stream, vectors[:2], rows=20, seed=seed).docs, vectors[:60]):
            seen[row] += 1
    assert seen.sum() == 4_000
    assert ((seen - 66.7) ** 2 / 66.7).sum() * 60 / 40 < 104.2  # chi-squared of 59 degrees, one in 4,000


@pytest.mark.parametrize("form", ["array", "npy", "parquet", "stream"])
def test_what_is_judged_is_in_the_sample(
    form: str, vectors: np.ndarray, queries: np.ndarray, tmp_path: Path
) -> None:
    name = "" if form in ("array", "npy") else "d"
    asked = (
        queries if name == "" else pa.table({"id": [str(i) for i in range(50)], "embedding": list(queries)})
    )
    wanted = [3, 500, 999]
    qrels = {"7": {f"{name}{row}": 1 for row in wanted}, "49": {f"{name}3": 1}}
    found = draw(sources(vectors, tmp_path)[form], asked, qrels, rows=200, max_queries=10)
    assert {f"{name}{row}" for row in wanted} <= set(found.doc_ids)
    assert {"7", "49"} <= set(found.query_ids)
    assert len(found.query_ids) == len(found.queries) == 10
    assert 200 <= len(found.docs) <= 203
    docs = [int(one.removeprefix("d")) for one in found.doc_ids]
    assert rows_of(found.docs, vectors) == docs
    assert rows_of(found.queries, queries) == [int(one) for one in found.query_ids]


def test_long_vectors_are_sampled_more_thinly(vectors: np.ndarray, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "SAMPLE_BYTES", 4 * DIM * 150)
    assert len(draw(vectors).docs) == 150


def test_dot_keeps_lengths(vectors: np.ndarray) -> None:
    assert np.linalg.norm(draw(vectors * 3, metric="dot").docs, axis=1).mean() == pytest.approx(3, rel=1e-4)


def test_what_was_given_stays_as_it_was(vectors: np.ndarray, queries: np.ndarray) -> None:
    given, asked = vectors * 2, queries * 2
    draw(given, asked, rows=ROWS)
    np.testing.assert_array_equal(given, vectors * 2)
    np.testing.assert_array_equal(asked, queries * 2)


def test_an_index_by_itself_or_by_its_folder(filled: ti.Index, vectors: np.ndarray) -> None:
    filled.delete(range(100))
    for form in (filled, filled.path, str(filled.path)):
        found = draw(form)
        assert (found.prefix_dim, found.total_rows, len(found.docs)) == (32, ROWS - 100, 300)
        assert min(rows_of(found.docs, vectors)) >= 100
        assert found.query_source == "held out"
    with pytest.raises(ti.ConfigMismatchError, match="metric"):
        draw(filled, metric="dot")


def test_an_index_knows_the_queries_it_was_calibrated_with(
    make_index: Callable[..., ti.Index], vectors: np.ndarray, queries: np.ndarray
) -> None:
    index = make_index(store_dim=48)
    index.add(range(ROWS), vectors)
    index.calibrate(queries, k=10, seconds=0.1)
    found = draw(index.path, queries=None)
    assert found.query_source == "live"
    assert found.queries.shape == (40, 48)
    assert (
        len(set(rows_of(found.queries, queries[:, :48] / np.linalg.norm(queries[:, :48], axis=1)[:, None])))
        == 40
    )
    given = draw(index, queries[:5])
    assert (given.query_source, given.queries.shape) == ("given", (5, 48))


def test_an_index_with_judgements(filled: ti.Index, vectors: np.ndarray, queries: np.ndarray) -> None:
    found = draw(filled, queries, {"1": {"999": 1, "0": 2}}, rows=150)
    assert {"0", "999"} <= set(found.doc_ids)
    assert rows_of(found.docs, vectors) == [int(one) for one in found.doc_ids]
    with pytest.raises(ti.IdError, match=r"'x' is not among the vectors \(row 1\)"):
        draw(filled, queries, {"1": {"999": 1, "x": 2}})


def test_stored_samples_have_other_rows_for_queries(filled: ti.Index, vectors: np.ndarray) -> None:
    found = stored_sample(filled, 200, 30)
    assert (len(found.docs), len(found.queries)) == (200, 30)
    assert not set(rows_of(found.docs, vectors)) & set(rows_of(found.queries, vectors))


def changed(vectors: np.ndarray, row: int, value: float) -> np.ndarray:
    other = vectors.copy()
    other[row] = value
    return other


@pytest.mark.parametrize("form", ["array", "npy", "parquet", "stream"])
@pytest.mark.parametrize(("value", "error"), [(np.nan, ti.NonFiniteVectorError), (0.0, ti.ZeroVectorError)])
def test_rows_that_cannot_be_taken_are_named(
    form: str, value: float, error: type[Exception], vectors: np.ndarray, tmp_path: Path
) -> None:
    with pytest.raises(error, match="row 777"):
        draw(sources(changed(vectors, 777, value), tmp_path)[form], vectors[:9], rows=ROWS)
    with pytest.raises(error, match="row 7"):
        draw(vectors, changed(vectors[:9], 7, value))


@pytest.mark.parametrize(
    ("arguments", "error", "match"),
    [
        ({"queries": np.ones((3, DIM + 1))}, ti.DimensionError, "65 dimensions, the vectors 64"),
        ({"queries": np.ones((0, DIM))}, ti.ParameterError, "not be empty"),
        ({"qrels": {"0": {"0": 1}}}, ti.ParameterError, "must be given too"),
        ({"queries": np.ones((3, DIM)), "qrels": {"0": {"1000": 1}}}, ti.IdError, "'1000' is not.*vectors"),
        ({"queries": np.ones((3, DIM)), "qrels": {"0": {"1": 1}, "3": {"1": 1}}}, ti.IdError, "'3'.*row 1"),
        ({"rows": 99}, ti.ParameterError, "99 vectors are too few"),
        ({"source": np.full((200, 64), 1e39)}, ti.NonFiniteVectorError, "finite as float32 .rows 0, 1"),
        ({"source": "nowhere.npy"}, ti.SourceError, "nowhere"),
        ({"source": 5}, ti.SourceError, "not int"),
    ],
)
def test_what_is_refused(
    arguments: dict[str, Any], error: type[Exception], match: str, vectors: np.ndarray
) -> None:
    with pytest.raises(error, match=match):
        draw(**({"source": vectors} | arguments))
