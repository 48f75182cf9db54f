"""Bulk ingestion from Parquet: rows a second, peak memory, and bytes on disk."""

from __future__ import annotations

import json
import threading
from pathlib import Path
from time import sleep
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

import tiered_index as ti
from benchmarks.environment import facts, memory_mb

_BATCH = 50_000


def run(data: Path, work: Path) -> dict[str, Any]:
    """Ingest ``vectors.npy`` of `data`, rewritten as Parquet, into a new index in `work`.

    The source has a string id, a list<float> vector and one row group: the hardest form for bounded
    memory. Peak memory is sampled every 20 ms.
    """
    work.mkdir(parents=True, exist_ok=True)
    source = work / "source.parquet"
    vectors = np.load(data / "vectors.npy", mmap_mode="r")
    if not source.exists():
        _write_source(vectors, source)
    start, peak = memory_mb()["anonymous"], [0.0]
    done = threading.Event()

    def watch() -> None:
        while not done.is_set():
            peak[0] = max(peak[0], memory_mb()["anonymous"])
            sleep(0.02)

    watcher = threading.Thread(target=watch)
    watcher.start()
    try:
        report = ti.ingest(str(source), work / "ingested.tidx")
    finally:
        done.set()
        watcher.join()
    with ti.open(work / "ingested.tidx", mode="r") as index:
        stats = index.stats()
    disk = sum(p.stat().st_size for p in (work / "ingested.tidx").rglob("*") if p.is_file())
    ids = sum(len(f"doc-{i}") for i in range(len(vectors)))
    content = vectors.nbytes + stats.coarse_codes_bytes + stats.coarse_graph_bytes + ids
    return {
        "facts": facts(),
        "rows": report.rows,
        "dim": vectors.shape[1],
        "seconds": report.seconds,
        "rows_per_second": report.rows / report.seconds,
        "anonymous_mb_at_start": start,
        "peak_anonymous_mb": peak[0],
        "disk_mb": disk / 1e6,
        "vectors_codes_graph_ids_mb": content / 1e6,
        "disk_ratio": disk / content,
    }


def _write_source(vectors: Any, path: Path) -> None:
    schema = pa.schema([("id", pa.string()), ("vector", pa.list_(pa.float32()))])
    with pq.ParquetWriter(path, schema, compression="NONE", use_dictionary=False) as writer:
        batches = []
        for start in range(0, len(vectors), _BATCH):
            part = np.ascontiguousarray(vectors[start : start + _BATCH])
            offsets = pa.array(np.arange(0, part.size + 1, part.shape[1]), pa.int32())
            lists = pa.ListArray.from_arrays(offsets, pa.array(part.reshape(-1)))
            ids = pa.array([f"doc-{i}" for i in range(start, start + len(part))])
            batches.append(pa.record_batch([ids, lists], schema=schema))
        writer.write_table(pa.Table.from_batches(batches), row_group_size=len(vectors))


def show(figures: dict[str, Any]) -> None:
    """Print the figures."""
    print(f"{figures['rows']:,} rows in {figures['seconds']:.0f} s, {figures['rows_per_second']:,.0f} rows/s")
    print(f"peak {figures['peak_anonymous_mb']:.0f} MB anonymous; disk {figures['disk_ratio']:.4f} x content")
    print(json.dumps(figures))
