"""The full tier: what is written is read in place, and what cannot be is refused by row group."""

from __future__ import annotations

import ctypes
import mmap
import os
import sys
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

import tiered_index as ti
from tiered_index.full.parquet_rows import ParquetRows
from tiered_index.full.parquet_writer import ROW_GROUP_ROWS, ParquetRowsWriter, file_schema

DIM = 12
ROWS = ROW_GROUP_ROWS * 2 + 100
METADATA = pa.schema([("n", pa.int64()), ("tags", pa.list_(pa.string()))])


def write(path: Path, dtype: str, rows: int = ROWS, dim: int = DIM) -> np.ndarray:
    vectors = np.random.default_rng(0).normal(size=(rows, dim)).astype(dtype)
    with path.open("wb") as sink:
        writer = ParquetRowsWriter(sink, file_schema(pa.int64(), METADATA, dim, dtype))
        for start in range(0, rows, 5_000):  # batches that do not line up with row groups
            part = vectors[start : start + 5_000]
            n = np.arange(start, start + len(part))
            metadata = pa.table([pa.array(n * 2), [["t"] * (i % 3) for i in n.tolist()]], schema=METADATA)
            writer.append(pa.array(n), metadata, part)
        writer.finish()
    return vectors


@pytest.mark.parametrize("dtype", ["float32", "float16"])
def test_gather_and_blocks_return_what_was_written(tmp_path: Path, dtype: str) -> None:
    vectors = write(tmp_path / "rows.parquet", dtype)
    rows = ParquetRows(str(tmp_path / "rows.parquet"), DIM, dtype, ROWS)
    wanted = np.array([0, ROWS - 1, ROW_GROUP_ROWS - 1, ROW_GROUP_ROWS, 2 * ROW_GROUP_ROWS, 5, 5])
    np.testing.assert_array_equal(rows.gather(wanted), vectors[wanted])
    blocks = [(first, block.copy()) for first, block in rows.blocks()]
    assert [first for first, _ in blocks] == [0, ROW_GROUP_ROWS, 2 * ROW_GROUP_ROWS]
    np.testing.assert_array_equal(np.concatenate([block for _, block in blocks]), vectors)
    columns = rows.columns(["tags", "n"], wanted)
    assert columns.column_names == ["tags", "n"]
    assert columns["n"].to_pylist() == (wanted * 2).tolist()
    assert columns["tags"].to_pylist() == [["t"] * (i % 3) for i in wanted.tolist()]
    rows.close()


@pytest.mark.parametrize("tail", [100, 2_000])
def test_vectors_begin_with_a_page_of_memory(tmp_path: Path, tail: int) -> None:
    path = tmp_path / "rows.parquet"
    write(path, "float32", rows=ROW_GROUP_ROWS * 2 + tail)
    rows = ParquetRows(str(path), DIM, "float32", ROW_GROUP_ROWS * 2 + tail)
    bases = np.ctypeslib.as_array((ctypes.c_int64 * rows.group_count).from_address(rows.addresses()[1]))
    aligned = bases if tail > 1_000 else bases[:-1]  # a page of zeros would be much before a few rows
    # how long a page's checksum is in its header cannot be known before: once in 16 times a byte shorter
    assert set((-aligned % 4_096).tolist()) <= {0, 1}
    assert 0 in -aligned % 4_096
    rows.close()


def in_memory(path: Path) -> np.ndarray:
    """Return which pages of a file the system holds."""
    libc, size = ctypes.CDLL(None, use_errno=True), path.stat().st_size
    libc.mincore.argtypes = [ctypes.c_void_p, ctypes.c_size_t, ctypes.c_void_p]
    with path.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as mapping:
        pages = np.zeros(-(-size // mmap.PAGESIZE), np.uint8)
        whole = np.frombuffer(mapping, np.uint8)
        assert libc.mincore(whole.ctypes.data, size, pages.ctypes.data) == 0
        del whole
    return pages & 1 == 1


@pytest.mark.skipif(sys.platform != "linux", reason="asks Linux which pages it holds")
def test_opening_reads_no_vectors(tmp_path: Path) -> None:
    """Not even ahead of what it looks at, as far as the system reads ahead."""
    path, dim, rows = tmp_path / "rows.parquet", 256, 4 * ROW_GROUP_ROWS
    write(path, "float32", rows, dim)
    with path.open("rb") as file:
        os.fsync(file.fileno())
        os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
    if in_memory(path).any():
        pytest.skip("this file system keeps files in memory")
    found = ParquetRows(str(path), dim, "float32", rows)
    bases = np.ctypeslib.as_array((ctypes.c_int64 * found.group_count).from_address(found.addresses()[1]))
    held = in_memory(path)
    for base in bases[:2].tolist():  # the last are near the footer
        first, last = (place // mmap.PAGESIZE for place in (base, base + ROW_GROUP_ROWS * dim * 4))
        assert held[first + 1 : last].sum() == 0
    found.close()


@pytest.mark.parametrize("dtype", ["float32", "float16"])
def test_the_file_is_ordinary_parquet(tmp_path: Path, dtype: str) -> None:
    path = tmp_path / "rows.parquet"
    vectors = write(path, dtype)
    table = pq.read_table(path, page_checksum_verification=True)
    np.testing.assert_array_equal(np.stack(table["vector"].to_numpy(zero_copy_only=False)), vectors)
    overhead = path.stat().st_size - vectors.nbytes
    assert overhead < vectors.nbytes * 0.15 + 20 * ROWS  # ids, tags and levels, at a tiny dimension


def rewrite(path: Path, **options: object) -> None:
    table = pq.read_table(path)
    defaults: dict = {
        "compression": "NONE",
        "use_dictionary": False,
        "row_group_size": ROW_GROUP_ROWS,
        "data_page_size": 2**31 - 1,
        "max_rows_per_page": 2**31 - 1,
    }
    pq.write_table(table, path, **{**defaults, **options})


@pytest.mark.parametrize(
    ("options", "problem"),
    [
        ({"compression": "zstd"}, "row group 0 .*compressed with ZSTD"),
        ({"use_dictionary": True}, "row group 0 .*encoded as .*DICTIONARY"),
        ({"row_group_size": 1_000}, "row group 0 .*1000 rows, not 8192"),
        ({"data_page_size": 4_096, "max_rows_per_page": 500}, "row group 0 .*several data pages"),
        (
            {"column_encoding": {"vector.list.element": "BYTE_STREAM_SPLIT"}},
            "row group 0 .*BYTE_STREAM_SPLIT",
        ),
    ],
)
def test_other_layouts_are_refused(tmp_path: Path, options: dict, problem: str) -> None:
    path = tmp_path / "rows.parquet"
    write(path, "float32")
    rewrite(path, **options)
    with pytest.raises(ti.LayoutError, match=problem) as error:
        ParquetRows(str(path), DIM, "float32", ROWS)
    assert str(path) in str(error.value)


def test_a_rewrite_in_the_right_layout_is_accepted(tmp_path: Path) -> None:
    path = tmp_path / "rows.parquet"
    vectors = write(path, "float32")
    rewrite(path)
    rows = ParquetRows(str(path), DIM, "float32", ROWS)
    np.testing.assert_array_equal(rows.gather(np.arange(ROWS)), vectors)


def test_a_later_row_group_is_named(tmp_path: Path) -> None:
    path = tmp_path / "rows.parquet"
    write(path, "float32")
    table = pq.read_table(path)
    with pq.ParquetWriter(
        path,
        table.schema,
        compression="NONE",
        use_dictionary=False,
        data_page_size=2**31 - 1,
        max_rows_per_page=2**31 - 1,
    ) as writer:
        for start, stop in ((0, ROW_GROUP_ROWS), (ROW_GROUP_ROWS, ROW_GROUP_ROWS + 50), (0, 10)):
            writer.write_table(table.slice(start, stop - start))
    with pytest.raises(ti.LayoutError, match="row group 1 "):
        ParquetRows(str(path), DIM, "float32", ROW_GROUP_ROWS + 60)


def test_wrong_dimension_type_or_count_is_corrupt(tmp_path: Path) -> None:
    path = tmp_path / "rows.parquet"
    write(path, "float32", rows=100)
    for dim, dtype, rows in ((DIM + 1, "float32", 100), (DIM, "float16", 100), (DIM, "float32", 99)):
        with pytest.raises(ti.CorruptIndexError, match=r"rows\.parquet"):
            ParquetRows(str(path), dim, dtype, rows)
    path.write_bytes(b"PAR1 no Parquet")
    with pytest.raises(ti.CorruptIndexError, match=r"rows\.parquet"):
        ParquetRows(str(path), DIM, "float32", 100)
    path.write_bytes(b"")
    with pytest.raises(ti.CorruptIndexError, match=r"rows\.parquet"):
        ParquetRows(str(path), DIM, "float32", 100)
