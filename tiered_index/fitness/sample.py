"""What is measured: a sample of documents and queries, from any source that can be ingested."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any, Literal, NamedTuple

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from tiered_index.config import PREFIX_DIM_STEP, Dtype, Metric
from tiered_index.errors import (
    DimensionError,
    IdError,
    NonFiniteVectorError,
    NotAnIndexError,
    ParameterError,
    ZeroVectorError,
)
from tiered_index.fitness.qrels import Qrels
from tiered_index.index import Index
from tiered_index.opening import index_exists, open_index
from tiered_index.sources import Columns, Source, open_source
from tiered_index.storage.snapshot import Snapshot
from tiered_index.validate.ids import id_array, id_keys
from tiered_index.validate.vectors import Floats, as_matrix, row_norms

QuerySource = Literal["given", "live", "held out"]

SAMPLE_BYTES = 512 << 20
"""What the sample may take in memory; vectors of many dimensions are sampled more thinly."""

MIN_DIM = 2 * PREFIX_DIM_STEP
MIN_DOCS = 100
"""Fewer say nothing."""

_DOCS_PER_HELD_OUT = 4
"""At least so many documents stay for each row that is held out for a query."""


class Sample(NamedTuple):
    """What is measured.

    Attributes
    ----------
    docs : ndarray, shape (n, dim), float32
        Documents; of unit length under cosine.
    queries : ndarray, shape (q, dim), float32
        Queries, none of them among the documents; of unit length under cosine.
    doc_ids, query_ids : list of str
        Empty where no judgements were given.
    total_rows : int
        Of the whole source.
    metric, dtype
        As they are, or would be, stored.
    query_source : {"given", "live", "held out"}
        Where the queries come from.
    prefix_dim : int or None
        Of an index.
    """

    docs: Floats
    queries: Floats
    doc_ids: list[str]
    query_ids: list[str]
    total_rows: int
    metric: Metric
    dtype: Dtype
    query_source: QuerySource
    prefix_dim: int | None = None


class Wanted(NamedTuple):
    """How much to draw, and how.

    Attributes
    ----------
    rows, queries : int
        At most.
    id_column, vector_column : str or None
        As ingestion takes them; ids are looked at only where there are judgements.
    seed : int
        Draws the sample.
    """

    rows: int
    queries: int
    id_column: str | None
    vector_column: str | None
    seed: int


def take_sample(
    vectors: Any, queries: Any, qrels: Qrels | None, metric: Metric | None, wanted: Wanted
) -> Sample:
    """Draw documents and queries, at random but for those that are judged.

    Raises
    ------
    InvalidInputError
        One of its subclasses: a source that cannot be read, rows that cannot be taken, or too few; ids of
        judgements that are not there.
    """
    if isinstance(vectors, Index):
        return _of_index(vectors, queries, qrels, metric, wanted)
    if isinstance(vectors, str | os.PathLike) and _is_index(vectors):
        with open_index(vectors, mode="r") as index:
            return _of_index(index, queries, qrels, metric, wanted)
    random = np.random.default_rng(wanted.seed)
    metric = metric or "cosine"
    columns = Columns(wanted.id_column if qrels is not None else None, wanted.vector_column, [])
    source = open_source(vectors, columns)
    _check_dim(source.dim)
    given = _given(queries, qrels, source.dim, metric, columns, wanted, random)
    rows = _with_held_out(wanted, source.dim, held_out=given is None)
    kept = None if qrels is None else set(qrels.docs)
    drawn = _draw(vectors, source, rows, kept, metric, random)
    dtype: Dtype = "float16" if source.half else "float32"
    return _assemble(drawn, given, qrels, metric, dtype, wanted.queries, random)


def _with_held_out(wanted: Wanted, dim: int, *, held_out: bool) -> int:
    """Return how many rows to draw for documents, and for queries where they are rows too."""
    rows = min(wanted.rows, SAMPLE_BYTES // (4 * dim))
    return rows + min(wanted.queries, rows // _DOCS_PER_HELD_OUT) if held_out else rows


def _check_dim(dim: int) -> None:
    if dim < MIN_DIM:
        raise DimensionError(f"vectors of {dim} dimensions have no prefixes to measure; {MIN_DIM} are needed")


def _is_index(path: str | os.PathLike[str]) -> bool:
    try:
        return Path(path).is_dir() and index_exists(path)
    except NotAnIndexError:  # a folder of Parquet files
        return False


class _Drawn(NamedTuple):
    vectors: Floats
    ids: list[str]
    total: int


def _draw(
    given: Any,
    source: Source,
    rows: int,
    kept: set[str] | None,
    metric: Metric,
    random: np.random.Generator,
) -> _Drawn:
    array = given
    if isinstance(given, str | os.PathLike) and os.fspath(given).endswith(".npy"):
        array = np.load(given, mmap_mode="r")  # open_source has found it to be a matrix
    if isinstance(array, np.ndarray):  # the rows that are wanted, and no others, are read
        chosen = random.choice(len(array), min(rows, len(array)), replace=False)
        judged = [int(name) for name in kept or () if name.isdecimal() and int(name) < len(array)]
        chosen = np.union1d(chosen, np.array(judged, np.int64))
        with np.errstate(over="ignore"):  # what does not fit is refused below
            matrix = np.ascontiguousarray(array[chosen], np.float32)
        _checked(matrix, metric, chosen)
        return _Drawn(matrix, list(map(str, chosen.tolist())), len(array))
    return _stream(source, rows, kept, metric, random)


def _stream(
    source: Source, rows: int, kept: set[str] | None, metric: Metric, random: np.random.Generator
) -> _Drawn:
    """Draw from a stream of any length (Vitter's algorithm R, 1985), beside the rows that are judged."""
    drawn = np.empty((min(rows, source.rows or rows), source.dim), np.float32)
    ids = np.empty(len(drawn) if kept is not None else 0, np.object_)
    judged: list[Floats] = []
    judged_ids: list[str] = []
    total = seen = 0
    for batch in source.batches():
        matrix = as_matrix(batch.vectors, source.dim, total)
        _checked(matrix, metric, total + np.arange(len(matrix)))
        names = None
        total += len(matrix)
        if kept is not None:
            names = np.array([None if name is None else str(name) for name in _values(batch.ids)], np.object_)
            mine = np.fromiter((name in kept for name in names), bool, len(names))
            judged.append(matrix[mine])
            judged_ids += names[mine].tolist()
            matrix, names = matrix[~mine], names[~mine]
        number = seen + np.arange(len(matrix))
        slots = np.where(number < len(drawn), number, random.integers(0, number + 1))
        seen += len(matrix)
        hits = slots < len(drawn)
        drawn[slots[hits]] = matrix[hits]
        if names is not None:
            ids[slots[hits]] = names[hits]
    drawn, ids = drawn[:seen], ids[:seen]
    if not judged:
        return _Drawn(drawn, ids.tolist(), total)
    return _Drawn(np.concatenate([*judged, drawn]), judged_ids + ids.tolist(), total)


def _values(ids: Any) -> list[Any]:
    return list(ids.to_pylist()) if isinstance(ids, pa.Array | pa.ChunkedArray) else list(ids)


class _Queries(NamedTuple):
    vectors: Floats
    ids: list[str]
    source: QuerySource


def _given(
    queries: Any,
    qrels: Qrels | None,
    dim: int,
    metric: Metric,
    columns: Columns,
    wanted: Wanted,
    random: np.random.Generator,
) -> _Queries | None:
    """Read the queries; of too many, those that are judged come first."""
    if queries is None:
        if qrels is not None:
            raise ParameterError("qrels are about queries, which must be given too")
        return None
    source = open_source(queries, columns)
    if source.dim != dim:
        raise DimensionError(f"queries have {source.dim} dimensions, the vectors {dim}")
    parts, ids, total = [], [], 0
    for batch in source.batches():
        matrix = as_matrix(batch.vectors, dim, total)
        parts.append(_checked(matrix, metric, total + np.arange(len(matrix))))
        if qrels is not None:
            numbers = range(total, total + len(parts[-1]))
            ids += [str(name) for name in (numbers if batch.ids is None else _values(batch.ids))]
        total += len(parts[-1])
    if not total:
        raise ParameterError("queries must not be empty")
    order = random.permutation(total)
    if qrels is not None:
        _check_known(qrels.queries, set(ids), "queries")
        judged = set(qrels.queries)
        order = np.array(sorted(order.tolist(), key=lambda row: ids[row] not in judged))
    order = np.sort(order[: wanted.queries])
    return _Queries(np.concatenate(parts)[order], [ids[row] for row in order] if ids else [], "given")


def _check_known(named: list[str], known: set[str], what: str) -> None:
    unknown = [row for row, name in enumerate(named) if name not in known]
    if unknown:
        raise IdError(f"qrels: {named[unknown[0]]!r} is not among the {what}", unknown)


def _assemble(
    drawn: _Drawn,
    given: _Queries | None,
    qrels: Qrels | None,
    metric: Metric,
    dtype: Dtype,
    max_queries: int,
    random: np.random.Generator,
    prefix_dim: int | None = None,
) -> Sample:
    docs, ids = drawn.vectors, drawn.ids
    if qrels is not None:
        _check_known(qrels.docs, set(ids), "vectors")
    if given is None:
        count = min(max_queries, len(docs) // (_DOCS_PER_HELD_OUT + 1))
        order = random.permutation(len(docs))
        given = _Queries(docs[order[:count]], [], "held out")
        docs = docs[np.sort(order[count:])]
    if len(docs) < MIN_DOCS:
        raise ParameterError(f"{len(docs)} vectors are too few to measure; at least {MIN_DOCS} are needed")
    queries = given.vectors
    if metric == "cosine":
        docs, queries = _unit(docs), _unit(queries)
    if qrels is None:
        ids = []
    return Sample(
        docs, queries, ids, given.ids, drawn.total, metric, dtype, given.source, prefix_dim=prefix_dim
    )


def _checked(matrix: Floats, metric: Metric, rows: NDArray[np.int64]) -> Floats:
    """Return the matrix if every row is finite, and has a direction under cosine."""
    bad = ~np.isfinite(matrix).all(axis=1)
    if bad.any():
        raise NonFiniteVectorError("vectors must be finite as float32", rows[bad].tolist())
    if metric == "cosine":
        zero = row_norms(matrix) == 0
        if zero.any():
            raise ZeroVectorError("a zero vector has no cosine", rows[zero].tolist())
    return matrix


def _unit(matrix: Floats) -> Floats:
    """Bring rows to unit length, in place: samples are copies, and large."""
    matrix *= (1 / row_norms(matrix)).astype(np.float32)[:, None]
    return matrix


def _of_index(
    index: Index, queries: Any, qrels: Qrels | None, metric: Metric | None, wanted: Wanted
) -> Sample:
    """Sample an index's stored vectors; without queries, take those it was asked, if it knows enough."""
    index.config.check_same(metric=metric)
    snapshot, config = index.snapshot(), index.config
    _check_dim(config.store_dim)
    random = np.random.default_rng(wanted.seed)
    columns = Columns(wanted.id_column if qrels is not None else None, wanted.vector_column, [])
    given = _given(queries, qrels, config.dim, config.metric, columns, wanted, random)
    asked = index.known_queries() if given is None else None
    if given is not None:
        given = given._replace(vectors=given.vectors[:, : config.store_dim])
    elif asked is not None:
        given = _Queries(np.array(asked[: wanted.queries]), [], "live")
    rows = min(wanted.rows, SAMPLE_BYTES // (4 * config.store_dim))
    addresses = snapshot.sample(min(rows + (wanted.queries if given is None else 0), snapshot.rows), random)
    if qrels is not None:
        addresses = np.union1d(addresses, _judged(snapshot, qrels))
    ids = list(map(str, snapshot.ids(addresses).tolist())) if qrels is not None else []
    drawn = _Drawn(snapshot.vectors(addresses).astype(np.float32), ids, snapshot.rows)
    return _assemble(
        drawn, given, qrels, config.metric, config.dtype, wanted.queries, random, config.prefix_dim
    )


def stored_sample(index: Index, rows: int, queries: int) -> Sample:
    """Sample an index's stored vectors, with others of them for queries."""
    snapshot, config = index.snapshot(), index.config
    random = np.random.default_rng(0)
    addresses = snapshot.sample(min(rows + queries, snapshot.rows), random)
    drawn = _Drawn(snapshot.vectors(addresses).astype(np.float32), [], snapshot.rows)
    return _assemble(drawn, None, None, config.metric, config.dtype, queries, random, config.prefix_dim)


def _judged(snapshot: Snapshot, qrels: Qrels) -> NDArray[np.int64]:
    """Return the addresses of the judged documents that the index holds."""
    names: list[Any] = sorted(set(qrels.docs))
    if snapshot.manifest.id_kind == "int64":
        names = [int(name) for name in names if name.lstrip("-").isdecimal()]
    ids = id_array(names, snapshot.manifest.id_kind)
    addresses = snapshot.find(ids, id_keys(ids))
    return addresses[addresses >= 0]
