"""Bulk loading: every source, which columns are taken, resuming, and what is said meanwhile."""

from __future__ import annotations

import io
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

import tiered_index as ti
from tiered_index.progress import Progress, clock, progress_line
from tiered_index.testing import exact_top_k, recall_at_k

ROWS = 60
PART = 20

Make = Callable[[pa.Table, Path], Any]


def vectors_of(table: pa.Table, name: str = "vector") -> np.ndarray:
    return np.array(table[name].to_pylist(), np.float32)


def as_type(table: pa.Table, kind: Callable[[int], pa.DataType]) -> pa.Table:
    """Return the table with its vectors in another type of list."""
    vectors = vectors_of(table)
    wanted = kind(vectors.shape[1])
    rows = list(vectors.astype(wanted.value_type.to_pandas_dtype()))
    return table.set_column(1, "vector", pa.array(rows, wanted))


def write(table: pa.Table, path: Path) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(table, path)
    return path


def write_parts(table: pa.Table, folder: Path) -> list[Path]:
    return [
        write(table.slice(start, PART), folder / f"part-{start:03d}.parquet")
        for start in range(0, len(table), PART)
    ]


def save(array: np.ndarray, folder: Path) -> Path:
    np.save(folder / "vectors.npy", array)
    return folder / "vectors.npy"


def stream(table: pa.Table) -> pa.RecordBatchReader:
    return pa.RecordBatchReader.from_batches(table.schema, iter(table.to_batches(max_chunksize=7)))


def parquet(kind: Callable[[int], pa.DataType]) -> Make:
    return lambda table, folder: write(as_type(table, kind), folder / "a.parquet")


def glob(table: pa.Table, folder: Path) -> str:
    write_parts(table, folder)
    write(table, folder / "other.parquet")
    return str(folder / "part-*.parquet")


def nested(table: pa.Table, folder: Path) -> Path:
    first, *_ = write_parts(table, folder / "data" / "deep")
    first.rename(folder / "data" / "a.parquet")
    (folder / "data" / "notes.txt").touch()
    return folder / "data"


WITH_COLUMNS: dict[str, Make] = {
    "Parquet, lists of float": parquet(lambda dim: pa.list_(pa.float32())),
    "Parquet, fixed size lists": parquet(lambda dim: pa.list_(pa.float32(), dim)),
    "Parquet, lists of double": parquet(lambda dim: pa.list_(pa.float64())),
    "Parquet, large lists": parquet(lambda dim: pa.large_list(pa.float32())),
    "path as text": lambda table, folder: str(write(table, folder / "a.parquet")),
    "Parquet by glob": glob,
    "folder of Parquet": nested,
    "table": lambda table, folder: table,
    "table in chunks": lambda table, folder: pa.concat_tables([table.slice(0, 33), table.slice(33)]),
    "record batch": lambda table, folder: table.combine_chunks().to_batches()[0],
    "record batch reader": lambda table, folder: table.to_reader(),
    "generator": lambda table, folder: stream(table),
    "polars lists": lambda table, folder: pl.from_arrow(as_type(table, lambda dim: pa.list_(pa.float32()))),
    "polars arrays": lambda table, folder: pl.from_arrow(table),
    "polars categories": lambda table, folder: pl.from_arrow(table).with_columns(
        pl.col("title").cast(pl.Categorical)
    ),
    "pandas": lambda table, folder: table.to_pandas(),
    "dictionary": lambda table, folder: table.set_column(2, "title", table["title"].dictionary_encode()),
}

WITHOUT_COLUMNS: dict[str, Make] = {
    ".npy float32": lambda table, folder: save(vectors_of(table), folder),
    ".npy float64": lambda table, folder: save(vectors_of(table).astype(np.float64), folder),
    ".npy Fortran order": lambda table, folder: save(np.asfortranarray(vectors_of(table)), folder),
    ".npy as text": lambda table, folder: str(save(vectors_of(table), folder)),
    "array": lambda table, folder: vectors_of(table),
    "array float64": lambda table, folder: vectors_of(table).astype(np.float64),
    "memory map": lambda table, folder: np.load(save(vectors_of(table), folder), mmap_mode="r"),
}

HALF: dict[str, Make] = {
    "Parquet, lists of float16": parquet(lambda dim: pa.list_(pa.float16())),
    "Parquet, fixed size lists of float16": parquet(lambda dim: pa.list_(pa.float16(), dim)),
    "table of float16": lambda table, folder: as_type(table, lambda dim: pa.list_(pa.float16())),
    ".npy float16": lambda table, folder: save(vectors_of(table).astype(np.float16), folder),
    "array float16": lambda table, folder: vectors_of(table).astype(np.float16),
}


@pytest.fixture
def table(vectors: np.ndarray) -> pa.Table:
    """Ids from 0, vectors, titles and years."""
    return pa.table(
        {
            "id": np.arange(ROWS),
            "vector": pa.FixedSizeListArray.from_arrays(
                pa.array(vectors[:ROWS].reshape(-1)), vectors.shape[1]
            ),
            "title": [f"row {i}" for i in range(ROWS)],
            "year": [2_000 + i for i in range(ROWS)],
        }
    )


@pytest.fixture
def target(tmp_path: Path) -> Path:
    return tmp_path / "target.tidx"


@pytest.fixture
def holds(queries: np.ndarray) -> Callable[..., None]:
    """Check that an index holds the rows, both tiers of them, and nothing else."""

    def check(path: Path, ids: list[Any], vectors: np.ndarray, **columns: list[Any]) -> None:
        with ti.open(path, mode="r") as index:
            assert index.count() == len(ids)
            found = index.get(ids, include_vectors=True)
            assert found["id"].to_pylist() == ids
            assert found.drop_columns(["id", "vector"]).to_pydict() == columns
            np.testing.assert_array_equal(np.array(found["vector"].to_pylist(), vectors.dtype), vectors)
            cut = queries[:, : index.config.store_dim]
            truth = [[ids[row] for row in rows] for rows in exact_top_k(vectors, cut, 10)[0]]
            result = index.search(queries, k=10)
            assert (result.plan.strategy, result.plan.candidates) == ("scan", 128)
            assert recall_at_k(result.ids, truth) == 1.0

    return check


@pytest.mark.parametrize("make", WITH_COLUMNS.values(), ids=WITH_COLUMNS)
def test_sources_with_columns(
    make: Make, table: pa.Table, tmp_path: Path, target: Path, holds: Callable[..., None]
) -> None:
    report = ti.ingest(make(table, tmp_path), target)
    assert (report.rows, report.skipped) == (ROWS, 0)
    title, year = table["title"].to_pylist(), table["year"].to_pylist()
    holds(target, list(range(ROWS)), vectors_of(table), title=title, year=year)


@pytest.mark.parametrize("make", WITHOUT_COLUMNS.values(), ids=WITHOUT_COLUMNS)
def test_sources_without_columns_are_numbered(
    make: Make, table: pa.Table, tmp_path: Path, target: Path, holds: Callable[..., None]
) -> None:
    assert ti.ingest(make(table, tmp_path), str(target)).rows == ROWS
    holds(target, list(range(ROWS)), vectors_of(table))


@pytest.mark.parametrize("make", HALF.values(), ids=HALF)
@pytest.mark.parametrize(
    ("settings", "dtype"),
    [({}, "float16"), ({"dtype": "float32"}, "float32"), ({"dtype": "float16"}, "float16")],
)
def test_the_type_is_that_of_a_half_precision_source(
    make: Make, table: pa.Table, tmp_path: Path, target: Path, settings: dict[str, Any], dtype: str
) -> None:
    ti.ingest(make(table, tmp_path), target, columns=[], **settings)
    with ti.open(target) as index:
        assert index.config.dtype == dtype
        stored = np.array(index.get(range(ROWS), include_vectors=True)["vector"].to_pylist())
    np.testing.assert_array_equal(stored, vectors_of(table).astype(np.float16))


def test_an_empty_folder_is_a_new_index_too(table: pa.Table, target: Path) -> None:
    target.mkdir()
    ti.ingest(vectors_of(table).astype(np.float16), target)
    with ti.open(target) as index:
        assert index.config.dtype == "float16"


def test_an_index_keeps_its_type_whatever_the_source_s(table: pa.Table, target: Path) -> None:
    ti.ingest(table.slice(0, PART), target)
    half = as_type(table.slice(PART), lambda dim: pa.list_(pa.float16()))
    assert ti.ingest(half, target).rows == ROWS - PART
    with ti.open(target) as index:
        assert (index.config.dtype, index.count()) == ("float32", ROWS)


def test_more_rows_than_a_batch_and_columns_stay_together(
    vectors: np.ndarray, target: Path, tmp_path: Path
) -> None:
    ids = [f"id {i}" for i in range(9_000)]
    dim = vectors.shape[1]
    flat = pa.array(np.tile(vectors, (9, 1)).reshape(-1))
    big = pa.table(
        {"id": ids, "vector": pa.FixedSizeListArray.from_arrays(flat, dim), "number": list(range(9_000))}
    )
    ti.ingest(write(big, tmp_path / "big.parquet"), target, prefix_dim=8)
    with ti.open(target) as index:
        assert index.stats().segments == 1
        found = index.get(["id 8999", "id 0", "id 8192"], include_vectors=True)
    assert found["number"].to_pylist() == [8_999, 0, 8_192]
    np.testing.assert_array_equal(vectors_of(found), vectors[[999, 0, 192]])


@pytest.mark.parametrize(
    ("choice", "id_of", "columns"),
    [
        ({}, int, ["title", "year"]),
        ({"id_column": "title", "columns": []}, "row {}".format, []),
        ({"id_column": "title", "columns": ["year"]}, "row {}".format, ["year"]),
        ({"id_column": None}, int, ["title", "year"]),
        ({"columns": ["year"]}, int, ["year"]),
        ({"columns": ["year", "title"]}, int, ["year", "title"]),
        ({"columns": []}, int, []),
        ({"vector_column": "vector"}, int, ["title", "year"]),
    ],
)
@pytest.mark.parametrize("as_file", [False, True], ids=["stream", "file"])
def test_which_columns_are_taken(
    table: pa.Table,
    tmp_path: Path,
    target: Path,
    holds: Callable[..., None],
    choice: dict[str, Any],
    id_of: Callable[[int], Any],
    columns: list[str],
    as_file: bool,
) -> None:
    ti.ingest(write(table, tmp_path / "a.parquet") if as_file else table, target, **choice)
    kept = {name: table[name].to_pylist() for name in columns}
    holds(target, [id_of(i) for i in range(ROWS)], vectors_of(table), **kept)
    with ti.open(target) as index:
        assert index.schema.names == columns


def test_ids_are_numbered_in_place_of_those_of_the_source(table: pa.Table, target: Path) -> None:
    shifted = table.set_column(0, "id", pa.array([f"id {i}" for i in range(ROWS)]))
    ti.ingest(shifted, target, id_column=None)
    with ti.open(target) as index:
        assert index.get([59])["title"].to_pylist() == ["row 59"]


@pytest.mark.parametrize(
    ("names", "chosen"),
    [
        (["v"], "v"),
        (["other", "vector"], "vector"),
        (["other", "embedding"], "embedding"),
        (["other", "embeddings"], "embeddings"),
        (["embedding", "vector"], "vector"),
    ],
)
def test_the_vector_column_is_found(
    table: pa.Table, target: Path, holds: Callable[..., None], names: list[str], chosen: str
) -> None:
    vectors = vectors_of(table)
    columns = {name: pa.array(list(vectors if name == chosen else -vectors)) for name in names}
    tags = pa.array([[i] for i in range(ROWS)])  # numbers in lists, but no floats
    ti.ingest(pa.table({"id": table["id"], "tags": tags, **columns}), target, columns=["tags"])
    holds(target, list(range(ROWS)), vectors, tags=tags.to_pylist())


def test_a_vector_column_that_is_named_wins(
    table: pa.Table, target: Path, holds: Callable[..., None]
) -> None:
    whole = pa.array([[i + 1] * 64 for i in range(ROWS)])
    ti.ingest(
        table.append_column("numbers", whole), target, vector_column="numbers", columns=[], metric="dot"
    )
    with ti.open(target) as index:
        stored = index.get([0, 59], include_vectors=True)["vector"].to_pylist()
    assert stored == [[1.0] * 64, [60.0] * 64]


def test_settings_of_a_new_index(table: pa.Table, target: Path, holds: Callable[..., None]) -> None:
    ti.ingest(table, target, store_dim=48, prefix_dim=16, columns=[])
    with ti.open(target) as index:
        config = index.config
        assert (config.dim, config.store_dim, config.prefix_dim) == (64, 48, 16)
        assert (config.metric, config.dtype) == ("cosine", "float32")
    holds(target, list(range(ROWS)), vectors_of(table)[:, :48])


@pytest.mark.parametrize(
    "settings", [{"metric": "dot"}, {"prefix_dim": 16}, {"store_dim": 32}, {"dtype": "float16"}]
)
@pytest.mark.parametrize("opened", [False, True], ids=["path", "index"])
def test_settings_other_than_the_index_s(
    table: pa.Table, target: Path, settings: dict[str, Any], opened: bool
) -> None:
    with ti.open(target, 64) as index:
        with pytest.raises(ti.ConfigMismatchError, match=next(iter(settings))):
            ti.ingest(table, index if opened else target, **settings)
        assert index.stats().generation == 1


@pytest.mark.parametrize("opened", [False, True], ids=["path", "index"])
def test_an_index_that_holds_rows_grows(
    table: pa.Table, target: Path, holds: Callable[..., None], opened: bool
) -> None:
    with ti.open(target, 64, prefix_dim=32) as index:
        metadata = table.slice(0, PART).select(["title", "year"])
        index.add(range(PART), vectors_of(table)[:PART], metadata)
        if opened:
            assert ti.ingest(table.slice(PART), index).rows == ROWS - PART
            assert index.count() == ROWS
    if not opened:
        assert ti.ingest(table.slice(PART), target).rows == ROWS - PART
    title, year = table["title"].to_pylist(), table["year"].to_pylist()
    holds(target, list(range(ROWS)), vectors_of(table), title=title, year=year)


@pytest.mark.parametrize("opened", [False, True], ids=["path", "index"])
def test_vectors_of_another_dimension_than_the_index_s(table: pa.Table, target: Path, opened: bool) -> None:
    with ti.open(target, 32) as index:
        if opened:
            with pytest.raises(ti.DimensionError, match="64"):
                ti.ingest(table, index)
        assert index.stats().generation == 1
    if not opened:
        with pytest.raises(ti.DimensionError, match="64"):
            ti.ingest(table, target)


@pytest.mark.parametrize(("commit_rows", "segments"), [(1, 3), (PART, 3), (PART + 1, 2), (ROWS, 1)])
def test_commits_are_of_about_so_many_rows(
    table: pa.Table, tmp_path: Path, target: Path, commit_rows: int, segments: int
) -> None:
    write_parts(table, tmp_path / "parts")
    ti.ingest(tmp_path / "parts", target, commit_rows=commit_rows)
    with ti.open(target) as index:
        stats = index.stats()
    assert (stats.rows, stats.segments, stats.generation) == (ROWS, segments, 1 + segments)


class Impatient(io.StringIO):
    """A terminal that ends what goes round in circles."""

    def write(self, text: str) -> int:
        assert self.tell() < 10_000, "nothing is ever done"
        return super().write(text)


@pytest.mark.parametrize("commit_rows", [0, -1, 1.5, None, True])
def test_commit_rows_out_of_range(
    table: pa.Table, target: Path, monkeypatch: pytest.MonkeyPatch, commit_rows: Any
) -> None:
    monkeypatch.setattr(sys, "stderr", Impatient())
    with pytest.raises(ti.ParameterError, match="commit_rows"):
        ti.ingest(table, target, commit_rows=commit_rows, progress=True)
    assert not target.exists()


def spoiled(table: pa.Table, row: int, value: float = np.nan) -> pa.Table:
    vectors = vectors_of(table)
    vectors[row] = value
    return table.set_column(1, "vector", pa.array(list(vectors)))


def test_going_on_after_an_error_in_the_middle(
    table: pa.Table, tmp_path: Path, target: Path, holds: Callable[..., None]
) -> None:
    folder = tmp_path / "parts"
    write_parts(spoiled(table, 25), folder)
    with pytest.raises(ti.NonFiniteVectorError) as caught:
        ti.ingest(folder, target, commit_rows=PART)
    assert caught.value.rows == (25,)
    title, year = table["title"].to_pylist(), table["year"].to_pylist()
    holds(target, list(range(PART)), vectors_of(table)[:PART], title=title[:PART], year=year[:PART])
    assert len(list((target / "segments").iterdir())) == 1

    write_parts(table, folder)
    with pytest.raises(ti.DuplicateIdError) as known:
        ti.ingest(folder, target, commit_rows=PART)
    assert known.value.rows == (0, 1, 2, 3, 4)

    report = ti.ingest(folder, target, commit_rows=PART, skip_existing=True)
    assert (report.rows, report.skipped) == (ROWS - PART, PART)
    holds(target, list(range(ROWS)), vectors_of(table), title=title, year=year)

    with ti.open(target) as index:
        generation = index.stats().generation
        report = ti.ingest(folder, index, skip_existing=True)
        assert (report.rows, report.skipped) == (0, ROWS)
        assert (index.count(), index.stats().generation) == (ROWS, generation)


@pytest.mark.parametrize(
    "make", [*WITH_COLUMNS.values(), HALF["table of float16"]], ids=[*WITH_COLUMNS, "table of float16"]
)
def test_known_rows_among_others_are_passed_over(
    make: Make, table: pa.Table, tmp_path: Path, target: Path
) -> None:
    known = [3, 30, 59]
    ti.ingest(table.take(pa.array(known)).set_column(2, "title", pa.array(["old"] * 3)), target)
    report = ti.ingest(make(table, tmp_path), target, skip_existing=True)
    assert (report.rows, report.skipped) == (ROWS - 3, 3)
    with ti.open(target) as index:
        found = index.get(range(ROWS), include_vectors=True)
    expected = ["old" if i in known else f"row {i}" for i in range(ROWS)]
    assert found["title"].to_pylist() == expected
    np.testing.assert_allclose(vectors_of(found), vectors_of(table), atol=1e-3)


def test_numbered_rows_are_passed_over(table: pa.Table, target: Path, holds: Callable[..., None]) -> None:
    vectors = vectors_of(table)
    ti.ingest(vectors[:PART], target)
    report = ti.ingest(vectors, target, skip_existing=True)
    assert (report.rows, report.skipped) == (ROWS - PART, PART)
    holds(target, list(range(ROWS)), vectors)


def test_skipping_in_a_batch_knows_what_the_batch_did(
    table: pa.Table, target: Path, holds: Callable[..., None]
) -> None:
    vectors = vectors_of(table)
    how: dict[str, Any] = {"skip_existing": True, "calibrate_seconds": 0, "check_prefix": False}
    ti.ingest(vectors[:PART], target)
    with ti.open(target) as index:
        with index.batch():
            index.delete(range(5))
            index.add(range(PART, PART + 3), vectors[PART : PART + 3])
            report = ti.ingest(vectors[: PART + 6], index, **how)
            assert (report.rows, report.skipped) == (5 + 3, PART + 6 - 8)
            again = ti.ingest(vectors[: PART + 6], index, **how)
            assert (again.rows, again.skipped) == (0, PART + 6)
            with pytest.raises(ti.DuplicateIdError):
                ti.ingest(pa.table({"id": [100, 100], "vector": list(vectors[:2])}), index, **how)
        assert len(index) == PART + 6
    holds(target, list(range(PART + 6)), vectors[: PART + 6])


def test_skipping_does_not_hide_an_id_that_stands_twice_in_the_source(table: pa.Table, target: Path) -> None:
    twice = pa.concat_tables([table.slice(0, PART), table.slice(0, PART)])
    with pytest.raises(ti.DuplicateIdError):
        ti.ingest(twice, target, skip_existing=True)
    with ti.open(target) as index:
        assert index.count() == 0


@pytest.mark.parametrize("skipping", [False, True], ids=["all new", "some skipped"])
@pytest.mark.parametrize("source", ["stream", "files"])
@pytest.mark.parametrize(
    ("error", "spoil"),
    [
        pytest.param(ti.NonFiniteVectorError, lambda t: spoiled(t, 47), id="NaN"),
        pytest.param(ti.ZeroVectorError, lambda t: spoiled(t, 47, 0), id="zero"),
        pytest.param(
            ti.DimensionError,
            lambda t: t.set_column(
                1, "vector", pa.array([v[:5] if i == 47 else v for i, v in enumerate(vectors_of(t))])
            ),
            id="short",
        ),
        pytest.param(
            ti.IdError,
            lambda t: t.set_column(0, "id", pa.array([None if i == 47 else i for i in range(ROWS)])),
            id="null id",
        ),
    ],
)
def test_rows_are_named_by_their_place_in_the_whole_source(
    table: pa.Table,
    tmp_path: Path,
    target: Path,
    error: type[ti.InvalidInputError],
    spoil: Callable[[pa.Table], pa.Table],
    source: str,
    skipping: bool,
) -> None:
    if skipping:
        ti.ingest(pa.concat_tables([table.slice(0, 4), table.slice(40, 5)]), target)
    wrong = spoil(table)
    write_parts(wrong, tmp_path / "parts")
    given = stream(wrong) if source == "stream" else tmp_path / "parts"
    with pytest.raises(error) as caught:
        ti.ingest(given, target, skip_existing=skipping)
    assert caught.value.rows == (47,)
    with ti.open(target) as index:
        assert index.count() == (9 if skipping else 0)
    assert len(list((target / "segments").iterdir())) == skipping


def test_an_id_that_comes_again_in_another_file(table: pa.Table, tmp_path: Path, target: Path) -> None:
    again = table.set_column(0, "id", pa.array([*range(ROWS - 1), 5]))
    write_parts(again, tmp_path / "parts")
    with pytest.raises(ti.DuplicateIdError, match="5") as caught:
        ti.ingest(tmp_path / "parts", target)
    assert caught.value.rows[-1] == ROWS - 1
    assert list((target / "segments").iterdir()) == []


def test_files_with_other_columns_than_the_first(table: pa.Table, tmp_path: Path, target: Path) -> None:
    folder = tmp_path / "parts"
    write_parts(table, folder)
    write(table.slice(PART, PART).drop_columns("year"), folder / "part-020.parquet")
    with pytest.raises(ti.MetadataError, match="year"):
        ti.ingest(folder, target)
    assert list((target / "segments").iterdir()) == []


def junk(name: str, data: bytes) -> Make:
    def make(table: pa.Table, folder: Path) -> Path:
        (folder / name).write_bytes(data)
        return folder / name

    return make


def cut(table: pa.Table, folder: Path) -> Path:
    path = write(table, folder / "a.parquet")
    path.write_bytes(path.read_bytes()[:-100])
    return path


def damaged(column: int) -> Make:
    """Damage the first page of a column in the file's second half; its footer stays as it was."""

    def make(table: pa.Table, folder: Path) -> Path:
        path = folder / "a.parquet"
        pq.write_table(table, path, row_group_size=ROWS // 2)
        chunk = pq.read_metadata(path).row_group(1).column(column)
        data = bytearray(path.read_bytes())
        data[chunk.data_page_offset : chunk.data_page_offset + 16] = b"\xff" * 16
        path.write_bytes(data)
        return path

    return make


def zipped(table: pa.Table, folder: Path) -> Path:
    np.savez(folder / "a.npz", vectors_of(table))
    return (folder / "a.npz").rename(folder / "a.npy")


def two(table: pa.Table, names: tuple[str, str]) -> pa.Table:
    return pa.table([table["id"], table["vector"], table["vector"]], names=["id", *names])


NOT_SOURCES: dict[str, tuple[Make, dict[str, Any]]] = {
    "missing file": (lambda table, folder: folder / "none.parquet", {}),
    "missing .npy": (lambda table, folder: folder / "none.npy", {}),
    "glob of nothing": (lambda table, folder: str(folder / "*.parquet"), {}),
    "folder of nothing": (lambda table, folder: folder, {}),
    "no Parquet": (junk("a.parquet", b"something else, of some length"), {}),
    "empty file": (junk("a.parquet", b""), {}),
    "Parquet cut short": (cut, {}),
    "no .npy": (junk("a.npy", b"something else"), {}),
    "empty .npy": (junk("a.npy", b""), {}),
    ".npz by the name of .npy": (zipped, {}),
    ".npy of objects": (lambda table, folder: save(np.array([[{}]]), folder), {}),
    ".npy with one axis": (lambda table, folder: save(np.zeros(64), folder), {}),
    "array with one axis": (lambda table, folder: np.zeros(64), {}),
    "array with three axes": (lambda table, folder: np.zeros((2, 3, 64)), {}),
    "array of text": (lambda table, folder: np.array([["1", "2"]]), {}),
    "nested lists": (lambda table, folder: [[1.0, 2.0]], {}),
    "nothing": (lambda table, folder: None, {}),
    "one column": (lambda table, folder: table["vector"], {}),
    "one column of polars": (lambda table, folder: pl.Series([[1.0, 2.0]]), {}),
    "no rows": (lambda table, folder: table.slice(0, 0), {}),
    "no rows in files": (lambda table, folder: write(table.slice(0, 0), folder / "a.parquet"), {}),
    "no id column": (lambda table, folder: table, {"id_column": "key"}),
    "no id column in a file": (
        lambda table, folder: write(table, folder / "a.parquet"),
        {"id_column": "key"},
    ),
    "no vector column of this name": (lambda table, folder: table, {"vector_column": "embedding"}),
    "text for vectors": (lambda table, folder: table, {"vector_column": "title"}),
    "no vector column": (lambda table, folder: table.drop_columns("vector"), {}),
    "two vector columns": (lambda table, folder: two(table, ("a", "b")), {}),
    "two vector columns of one name": (lambda table, folder: two(table, ("vector", "vector")), {}),
    "ids of .npy by a column": (lambda table, folder: save(np.ones((9, 64)), folder), {"id_column": "key"}),
    "vectors of an array by a column": (lambda table, folder: np.ones((9, 64)), {"vector_column": "vector"}),
    "metadata of an array": (lambda table, folder: np.ones((9, 64)), {"columns": ["title"]}),
    "no such metadata": (lambda table, folder: table, {"columns": ["title", "price"]}),
    "DataFrame that Arrow cannot take": (
        lambda table, folder: pd.DataFrame({"id": [1, "a"], "vector": [[1.0, 2.0]] * 2}),
        {},
    ),
}


@pytest.mark.parametrize(("make", "choice"), NOT_SOURCES.values(), ids=NOT_SOURCES)
def test_what_is_no_source_makes_no_index(
    make: Make, choice: dict[str, Any], table: pa.Table, tmp_path: Path, target: Path
) -> None:
    with pytest.raises(ti.SourceError):
        ti.ingest(make(table, tmp_path), target, **choice)
    assert not target.exists()


@pytest.mark.parametrize(
    ("source", "said"),
    [("nix", "nix: no such file"), (".", "no Parquet files"), ("*.parquet", "no Parquet")],
)
def test_what_is_not_there_is_told_from_what_holds_no_parquet(
    source: str, said: str, tmp_path: Path, target: Path
) -> None:
    with pytest.raises(ti.SourceError, match=said):
        ti.ingest(tmp_path / source, target)


@pytest.mark.parametrize("wrong", ["no Parquet", "no vectors", "no ids"])
def test_every_file_is_looked_at_before_anything_is_written(
    table: pa.Table, tmp_path: Path, target: Path, wrong: str
) -> None:
    last = write_parts(table, tmp_path / "parts")[-1]
    if wrong == "no Parquet":
        last.write_bytes(b"something else")
    else:
        write(table.drop_columns("vector" if wrong == "no vectors" else "id"), last)
    with pytest.raises(ti.SourceError, match=last.name):
        ti.ingest(tmp_path / "parts", target, commit_rows=PART)
    assert not target.exists()


@pytest.mark.parametrize("column", [0, 1, 2], ids=["id", "vector", "title"])
def test_a_file_that_is_damaged_in_the_middle(
    table: pa.Table, tmp_path: Path, target: Path, column: int
) -> None:
    with pytest.raises(ti.SourceError, match=r"a\.parquet"):
        ti.ingest(damaged(column)(table, tmp_path), target)


@pytest.mark.parametrize("error", [ValueError, KeyError, OSError, RuntimeError])
@pytest.mark.parametrize(("batches", "commit_rows", "commits"), [(0, PART, 0), (2, PART, 2), (2, ROWS, 0)])
def test_a_stream_that_breaks_keeps_what_was_committed(
    table: pa.Table, target: Path, error: type[Exception], batches: int, commit_rows: int, commits: int
) -> None:
    def breaking() -> Iterator[pa.RecordBatch]:
        yield from table.to_batches(max_chunksize=PART)[:batches]
        raise error("the line is dead")

    reader = pa.RecordBatchReader.from_batches(table.schema, breaking())
    with pytest.raises(ti.SourceError, match="the line is dead"):
        ti.ingest(reader, target, commit_rows=commit_rows)
    assert target.exists() == (batches > 0)
    if batches:
        with ti.open(target) as index:
            assert index.count() == PART * commits
        assert len(list((target / "segments").iterdir())) == commits


def test_progress_is_silent_when_nobody_watches(
    table: pa.Table, target: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    ti.ingest(table, target)
    ti.ingest(table, target, skip_existing=True, progress=False)
    assert capsys.readouterr() == ("", "")


def test_progress_that_is_asked_for_ends_with_a_line(
    table: pa.Table, target: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    ti.ingest(table, target, progress=True)
    said = capsys.readouterr()
    assert said.out == ""
    last = said.err.rpartition("\r\x1b[K")[2]
    assert last.startswith("60 rows, ")
    assert last.endswith("\n")
    assert " rows/s in 0:0" in last


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


@pytest.mark.parametrize(
    ("stream", "show", "shown"),
    [
        (Terminal, None, True),
        (Terminal, False, False),
        (io.StringIO, None, False),
        (io.StringIO, True, True),
    ],
)
def test_progress_is_shown_on_terminals_or_when_asked_for(
    stream: type[io.StringIO], show: bool | None, shown: bool
) -> None:
    output = stream()
    progress = Progress(10, show, output)
    progress.update(5)
    progress.note("writing")
    progress.finish(10)
    assert ("5 of 10 rows" in output.getvalue(), "writing" in output.getvalue()) == (shown, shown)
    assert output.getvalue().endswith("\n") == shown


@pytest.mark.parametrize(
    ("rows", "total", "seconds", "line"),
    [
        (412_160, 1_000_000, 19.6267, "412,160 of 1,000,000 rows, 21,000 rows/s, 0:28 left"),
        (1_000, None, 2.0, "1,000 rows, 500 rows/s"),
        (1_000, 1_000, 2.0, "1,000 rows, 500 rows/s"),
        (0, 1_000, 2.0, "0 of 1,000 rows, 0 rows/s"),
        (0, None, 0.0, "0 rows, 0 rows/s"),
        (1, 7_201, 1.0, "1 of 7,201 rows, 1 rows/s, 2:00:00 left"),
    ],
)
def test_progress_line(rows: int, total: int | None, seconds: float, line: str) -> None:
    assert progress_line(rows, total, seconds) == line


def test_progress_line_before_any_time_has_passed() -> None:
    assert progress_line(5, 10, 0.0).startswith("5 of 10 rows")


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(0, "0:00"), (42.4, "0:42"), (59.6, "1:00"), (60, "1:00"), (3_599.9, "1:00:00"), (3_723, "1:02:03")],
)
def test_clock(seconds: float, text: str) -> None:
    assert clock(seconds) == text
