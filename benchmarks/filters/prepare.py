"""What is made once and kept from run to run: columns, the index, exact answers."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

import tiered_index as ti
from benchmarks.datasets import DataSetError
from benchmarks.filter_peers import Columns
from benchmarks.filters.cases import FAR, Case, make_cases, mask_of
from benchmarks.filters.own import K
from benchmarks.filters.truth import best_rows
from benchmarks.filters.worker import COLUMNS_FILE
from benchmarks.peers import Vectors

INDEX = "filtered.tidx"
TENANTS = 5_000
SEED = 1
_METADATA = ("category", "month", "paper")
_BATCH_ROWS = 65_536
_MADE_OF = "made-of.json"
_NEAREST = "nearest.npy"


class Prepared(NamedTuple):
    """Everything that is asked, and the answers.

    Attributes
    ----------
    vectors, queries : ndarray
        The rows, mapped, and the queries that are asked, every second one.
    columns : Columns
        What filters name.
    papers : list
        What rows are grouped by.
    cases : list of Case
        The filters.
    nearest : ndarray, shape (queries, FAR)
        The exact best rows of all.
    truth : list of ndarray, shape (queries, K)
        For each case, the exact best rows that match.
    build_seconds, calibration_seconds : float
        What the index took.
    """

    vectors: Vectors
    queries: Vectors
    columns: Columns
    papers: list[Any]
    cases: list[Case]
    nearest: NDArray[np.int64]
    truth: list[NDArray[np.int64]]
    build_seconds: float
    calibration_seconds: float


def prepare(data: Path, metadata: Path, work: Path, say: Any = print) -> Prepared:
    """Make in `work` what is not there yet.

    Parameters
    ----------
    data : Path
        A folder with vectors.npy, of unit length, and queries.npy.
    metadata : Path
        A Parquet file with columns category, month and paper, whose first rows are the vectors'.
    work : Path
        For this data alone.
    say : callable
        Called with lines to show.

    Raises
    ------
    DataSetError
        The files do not belong together, or `work` belongs to others.
    """
    vectors: Vectors = np.load(data / "vectors.npy", mmap_mode="r")
    queries: Vectors = np.load(data / "queries.npy")
    if len(queries) < 2 or queries.shape[1] != vectors.shape[1]:
        raise DataSetError(f"{data}: vectors {vectors.shape} and queries {queries.shape} do not fit")
    table = _read(metadata, len(vectors))
    work.mkdir(parents=True, exist_ok=True)
    _claim(work, {"data": str(data.resolve()), "metadata": str(metadata.resolve()), "shape": vectors.shape})
    columns = _columns(table)
    columns.save(work / COLUMNS_FILE)
    seconds = _ingested(vectors, queries, table, columns, work, say)
    asked = queries[1::2]
    if not (work / _NEAREST).exists():
        say("exact answers of all rows ...")
        every = [lambda first, last: None]  # noqa: ARG005
        np.save(work / _NEAREST, best_rows(vectors, asked, min(FAR, len(vectors)), every)[0])
    nearest = np.load(work / _NEAREST)
    cases = make_cases(columns, nearest)
    truth = _truth(vectors, asked, cases, columns, work, say)
    return Prepared(vectors, asked, columns, table["paper"].to_pylist(), cases, nearest, truth, *seconds)


def _read(metadata: Path, rows: int) -> pa.Table:
    names = pq.read_schema(metadata).names
    if missing := [name for name in _METADATA if name not in names]:
        raise DataSetError(f"{metadata}: there is no column {missing[0]!r}")
    table = pq.read_table(metadata, columns=list(_METADATA)).slice(0, rows)
    if len(table) < rows:
        raise DataSetError(f"{metadata}: {len(table)} rows, for {rows} vectors")
    return table.combine_chunks()


def _claim(work: Path, made_of: dict[str, Any]) -> None:
    """Note what a folder is made of, or see that it is the same."""
    words, note = json.dumps(made_of), work / _MADE_OF
    if note.exists() and note.read_text() != words:
        raise DataSetError(f"{work} was made of other files: {note.read_text()}")
    note.write_text(words)


def _columns(table: pa.Table) -> Columns:
    rows = len(table)
    draw = np.random.default_rng(SEED)
    category = table["category"].cast(pa.string()).combine_chunks().dictionary_encode()
    return Columns(
        category=category.indices.fill_null(-1).to_numpy(zero_copy_only=False).astype(np.int32),
        names=np.array(category.dictionary.to_pylist(), np.str_),
        month=table["month"].fill_null(0).to_numpy().astype(np.int32),  # no filter asks for it
        tenant=draw.integers(TENANTS, size=rows).astype(np.int32),
        share=(draw.permutation(rows) + 0.5) / rows,
    )


def _ingested(
    vectors: Vectors, queries: Vectors, table: pa.Table, columns: Columns, work: Path, say: Any
) -> tuple[float, float]:
    """Build and calibrate the index, and return the seconds of both."""
    record = work / "built.json"
    if not record.exists():
        say("building the index ...")
        table = table.append_column("tenant", pa.array(columns.tenant))
        table = table.append_column("share", pa.array(columns.share))
        batches = _batches(vectors, table)
        with ti.open(work / INDEX, dim=vectors.shape[1]) as index:
            # rows that an interrupted run left are passed over
            built = ti.ingest(batches, index, progress=False, skip_existing=True, calibrate_seconds=0)
            calibration = index.calibrate(queries[::2], (K,))
        record.write_text(json.dumps([built.seconds, calibration.seconds]))
    built_s, calibrated_s = json.loads(record.read_text())
    return built_s, calibrated_s


def _batches(vectors: Vectors, table: pa.Table) -> pa.RecordBatchReader:
    rows, dim = vectors.shape
    schema = pa.schema([("id", pa.int64()), *table.schema, ("vector", pa.list_(pa.float32(), dim))])

    def read() -> Iterator[pa.RecordBatch]:
        for first in range(0, rows, _BATCH_ROWS):
            part = np.asarray(vectors[first : first + _BATCH_ROWS])
            (held,) = table.slice(first, len(part)).combine_chunks().to_batches()
            vector = pa.FixedSizeListArray.from_arrays(pa.array(part.reshape(-1)), dim)
            numbers = pa.array(np.arange(first, first + len(part)))
            yield pa.record_batch([numbers, *held.columns, vector], schema=schema)

    return pa.RecordBatchReader.from_batches(schema, read())


def _truth(
    vectors: Vectors, queries: Vectors, cases: list[Case], columns: Columns, work: Path, say: Any
) -> list[NDArray[np.int64]]:
    """Return the exact answers, kept in a file that says to which filters."""
    path = work / "truth.npz"
    asked = json.dumps([[case.name, case.wheres] for case in cases])
    if path.exists():
        with np.load(path) as kept:
            if str(kept["asked"]) == asked:
                return [kept[f"rows_{number}"] for number in range(len(cases))]
    say(f"exact answers of {len(cases)} filters ...")
    found = best_rows(vectors, queries, K, [mask_of(case, columns) for case in cases])
    np.savez(path, asked=asked, **{f"rows_{number}": rows for number, rows in enumerate(found)})  # type: ignore[arg-type]
    return found
