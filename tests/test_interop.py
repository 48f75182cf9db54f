"""The folder is a Parquet data set: other readers see what the index returns."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import duckdb
import numpy as np
import pandas as pd
import polars as pl
import pyarrow.dataset as ds
import pytest

import tiered_index as ti
from tiered_index.testing import matryoshka_vectors

ROWS, DIM = 9_000, 24  # more than one row group


@pytest.fixture(scope="module", params=["float32", "float16"])
def rows_file(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> tuple[ti.Index, Path]:
    index = ti.open(tmp_path_factory.mktemp("interop") / "i.tidx", dim=DIM, dtype=request.param)
    ids = [f"id-{i}" for i in range(ROWS)]
    metadata = {"year": np.arange(ROWS) % 30, "title": [f"t{i}" if i % 7 else None for i in range(ROWS)]}
    index.add(ids, matryoshka_vectors(ROWS, DIM), metadata)
    (file,) = index.path.glob("segments/*/rows.parquet")
    return index, file


@pytest.fixture
def expected(rows_file: tuple[ti.Index, Path]) -> tuple[list, list, list, np.ndarray]:
    table = rows_file[0].get([f"id-{i}" for i in range(ROWS)], include_vectors=True)
    vectors = np.stack(table["vector"].to_numpy(zero_copy_only=False)).astype(np.float32)
    return table["id"].to_pylist(), table["year"].to_pylist(), table["title"].to_pylist(), vectors


def read_duckdb(path: Path) -> tuple[list, list, list, np.ndarray]:
    found = duckdb.read_parquet(str(path)).select("id, year, title, vector::float[]")
    rows = found.fetchall()
    ids, years, titles, vectors = zip(*rows, strict=True)
    return list(ids), list(years), list(titles), np.array(vectors, np.float32)


def read_polars(path: Path) -> tuple[list, list, list, np.ndarray]:
    frame = pl.read_parquet(path)
    vectors = frame["vector"].to_numpy().astype(np.float32)
    return frame["id"].to_list(), frame["year"].to_list(), frame["title"].to_list(), vectors


def read_pandas(path: Path) -> tuple[list, list, list, np.ndarray]:
    frame = pd.read_parquet(path)
    titles = [None if pd.isna(t) else t for t in frame["title"]]
    vectors = np.stack(frame["vector"].to_list()).astype(np.float32)
    return frame["id"].tolist(), frame["year"].tolist(), titles, vectors


def read_dataset(path: Path) -> tuple[list, list, list, np.ndarray]:
    table = ds.dataset(path.parent.parent.glob("*/rows.parquet").__next__(), format="parquet").to_table()
    vectors = np.stack(table["vector"].to_numpy(zero_copy_only=False)).astype(np.float32)
    return table["id"].to_pylist(), table["year"].to_pylist(), table["title"].to_pylist(), vectors


@pytest.mark.parametrize("read", [read_duckdb, read_polars, read_pandas, read_dataset])
def test_other_readers_agree(
    rows_file: tuple[ti.Index, Path],
    expected: tuple[list, list, list, np.ndarray],
    read: Callable[[Path], tuple[list, list, list, np.ndarray]],
) -> None:
    ids, years, titles, vectors = read(rows_file[1])
    assert (ids, years, titles) == expected[:3]
    np.testing.assert_array_equal(vectors, expected[3])
