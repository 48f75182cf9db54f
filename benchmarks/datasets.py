"""Data sets by name: unit vectors, queries that are not among them, and the exact truth.

Names
-----
``arxiv-250k``, ``arxiv-1m``
    Folders ``arxiv-250000`` and ``arxiv-1000000`` below ``--data`` or ``TIERED_INDEX_BENCH_DATA``.
``docstrings``
    The demo's documents and model; held-out titles are the queries.
``synthetic``, ``synthetic-ROWSxDIM``
    Clusters with a decaying spectrum, :func:`tiered_index.testing.matryoshka_vectors`.
``dbpedia-1536``, ``dbpedia-3072``
    A million DBpedia entities under text-embedding-3-large, from the Hugging Face hub.
a path
    A folder as below, or a .npy or Parquet file, of which every n-th row is held out as a query.

All become a folder with ``vectors.npy`` float32 (n, dim), ``queries.npy`` and ``truth.npy`` (q, 100).
"""

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from tiered_index.sources import Columns, open_source
from tiered_index.testing import matryoshka_vectors

DATA_VARIABLE = "TIERED_INDEX_BENCH_DATA"
TRUTH_K = 100
QUERIES = 1_000
SYNTHETIC = (100_000, 1_024)
_ARXIV = {"arxiv-250k": "arxiv-250000", "arxiv-1m": "arxiv-1000000"}
_DBPEDIA = {
    "dbpedia-1536": "Qdrant/dbpedia-entities-openai3-text-embedding-3-large-1536-1M",
    "dbpedia-3072": "Qdrant/dbpedia-entities-openai3-text-embedding-3-large-3072-1M",
}
_BLOCK_ROWS = 20_000
_CLUSTERS = 256

Vectors = NDArray[np.float32]


class DataSetError(Exception):
    """A data set that cannot be had; the message says why and what to do."""


class DataSet(NamedTuple):
    """A folder with vectors.npy, queries.npy and truth.npy."""

    name: str
    folder: Path

    @property
    def vectors(self) -> Vectors:
        """The rows, mapped."""
        mapped: Vectors = np.load(self.folder / "vectors.npy", mmap_mode="r")
        return mapped

    @property
    def truth(self) -> NDArray[np.int64]:
        """The exact best rows of each query, best first."""
        rows: NDArray[np.int64] = np.load(self.folder / "truth.npy")
        return rows


def load(name: str, work: Path, data: Path | None = None) -> DataSet:
    """Return a data set, prepared below `work` if it is not a folder already.

    Parameters
    ----------
    name : str
        As in the module's list.
    work : Path
        Prepared data sets are kept in ``work/data`` from run to run.
    data : Path, optional
        Where the large folders are; ``TIERED_INDEX_BENCH_DATA`` by default.

    Raises
    ------
    DataSetError
        Unknown, missing, or not to be downloaded.
    """
    if name in _ARXIV:
        return DataSet(name, _large(name, data))
    target = work / "data" / re.sub(r"[^A-Za-z0-9._-]+", "-", name).strip("-")
    if name.startswith("synthetic"):
        return _prepared(name, target, lambda: _synthetic(name))
    if name == "docstrings":
        return _prepared(name, target, lambda: _docstrings(work / "data" / "demo"))
    if name in _DBPEDIA:
        return _prepared(name, target, lambda: _held_out(_read(_download(name))))
    path = Path(name)
    if (path / "vectors.npy").exists():
        return DataSet(path.name, path)
    if path.exists() and (path.is_dir() or path.suffix in (".npy", ".parquet")):
        return _prepared(path.stem, target, lambda: _held_out(_read(str(path))))
    known = ", ".join([*_ARXIV, "docstrings", "synthetic-ROWSxDIM", *_DBPEDIA])
    raise DataSetError(f"{name!r} is neither a data set ({known}) nor a folder, .npy or Parquet file")


def exact_rows(vectors: Vectors, queries: Vectors, k: int = TRUTH_K) -> NDArray[np.int64]:
    """Return each query's best rows by inner product, block by block, so that any size fits in memory."""
    rows = np.empty((len(queries), 0), np.int64)
    scores = np.empty((len(queries), 0), np.float32)
    for first in range(0, len(vectors), _BLOCK_ROWS):
        block = queries @ np.asarray(vectors[first : first + _BLOCK_ROWS]).T
        numbers = np.broadcast_to(np.arange(first, first + block.shape[1]), block.shape)
        scores, rows = np.concatenate([scores, block], axis=1), np.concatenate([rows, numbers], axis=1)
        order = np.argsort(-scores, axis=1, kind="stable")[:, :k]
        scores, rows = np.take_along_axis(scores, order, axis=1), np.take_along_axis(rows, order, axis=1)
    return rows


def _large(name: str, data: Path | None) -> Path:
    root = data or (Path(os.environ[DATA_VARIABLE]) if DATA_VARIABLE in os.environ else None)
    if root is None:
        raise DataSetError(f"{name}: say where it is, with --data or {DATA_VARIABLE}")
    for folder in (root / _ARXIV[name], root / name, root):
        if all((folder / f"{part}.npy").exists() for part in ("vectors", "queries", "truth")):
            return folder
    raise DataSetError(f"{name}: there is no {_ARXIV[name]} with vectors, queries and truth.npy in {root}")


def _prepared(name: str, folder: Path, make: Any) -> DataSet:
    if not (folder / "truth.npy").exists():
        vectors, queries = make()
        folder.mkdir(parents=True, exist_ok=True)
        np.save(folder / "vectors.npy", vectors)
        np.save(folder / "queries.npy", queries)
        np.save(folder / "truth.npy", exact_rows(vectors, queries))  # last: it marks the folder as whole
    return DataSet(name, folder)


def _synthetic(name: str) -> tuple[Vectors, Vectors]:
    size = re.fullmatch(r"synthetic(?:-(\d+)x(\d+))?", name)
    if size is None:
        raise DataSetError(f"{name!r}: write synthetic-ROWSxDIM, for example synthetic-20000x512")
    rows, dim = (int(size[1]), int(size[2])) if size[1] else SYNTHETIC
    count = min(QUERIES, max(rows // 10, 1))
    return (
        matryoshka_vectors(rows, dim, clusters=_CLUSTERS),
        matryoshka_vectors(count, dim, clusters=_CLUSTERS, stream=1),
    )


def _docstrings(folder: Path) -> tuple[Vectors, Vectors]:
    import pyarrow.parquet as pq

    import tiered_index as ti
    from tiered_index.demo.run import Demo

    demo = Demo(folder, print)
    demo.build()
    ids = pq.read_table(folder / "documents.parquet", columns=["id"])["id"]
    with ti.open(demo.index_path, mode="r") as index:
        column = index.get(ids, include_vectors=True)["vector"].combine_chunks()
    vectors = column.flatten().to_numpy().reshape(len(ids), -1)
    return _unit(vectors), _unit(demo.queries()[:QUERIES])


def _download(name: str) -> str:
    try:
        from huggingface_hub import snapshot_download

        folder = snapshot_download(_DBPEDIA[name], repo_type="dataset", allow_patterns="*.parquet")
    except Exception as error:
        raise DataSetError(
            f"{name}: {_DBPEDIA[name]} could not be downloaded from the Hugging Face hub "
            f"({type(error).__name__}: {error}); where there is no network, download its Parquet files "
            "elsewhere and give the path of their folder instead"
        ) from error
    return str(Path(folder) / "data")


def _read(path: str) -> Vectors:
    parts = []
    for batch in open_source(path, Columns(None, None, ())).batches():
        column = batch.vectors
        if not isinstance(column, np.ndarray):
            column = column.flatten().to_numpy(zero_copy_only=False).reshape(len(column), -1)
        parts.append(np.asarray(column, np.float32))
    return _unit(np.concatenate(parts))


def _held_out(rows: Vectors) -> tuple[Vectors, Vectors]:
    step = max(len(rows) // QUERIES, 2)
    held = np.zeros(len(rows), bool)
    held[::step] = True
    return rows[~held], rows[held][:QUERIES]


def _unit(rows: Any) -> Vectors:
    norms = np.linalg.norm(rows, axis=1, keepdims=True)
    unit: Vectors = np.ascontiguousarray(rows / np.where(norms == 0, 1, norms), np.float32)
    return unit
