"""Runs the demo: collect, train, ingest, ask, and measure what each prefix dimension costs and finds."""

from __future__ import annotations

import sys
from pathlib import Path
from statistics import median
from typing import Any

import msgspec
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import xxhash

import tiered_index as ti
from tiered_index.demo import train
from tiered_index.demo.collect import collect
from tiered_index.stats import graph_node_bytes
from tiered_index.testing import recall_at_k

QUESTIONS = (
    "compress data with gzip",
    "run a command and capture its output",
    "singular value decomposition of a matrix",
    "read a csv file into a table",
    "wait for several coroutines at once",
)
PREFIX_DIMS = (64, 128, 192, 256)
K = 10
_REPEATS = 5
_INGEST_ROWS = 8_192

_DOCUMENTS, _MODEL, _INDEX, _KEY, _PLOT = (
    "documents.parquet",
    "model",
    "docs.tidx",
    "built-from.txt",
    "demo.png",
)


class Answer(msgspec.Struct, frozen=True):
    """A question and what was found."""

    question: str
    hits: list[dict[str, Any]]
    plan: ti.Plan
    ms: float


class DimensionRow(msgspec.Struct, frozen=True, kw_only=True):
    """What one way to search costs and finds.

    Attributes
    ----------
    prefix_dim : int
        Dimensions that find candidates; the full dimension for exact search.
    strategy : str
        The plan's.
    recall_prefix : float
        recall@10 of the ten best prefixes, no more rescored.
    recall : float
        recall@10 after rescoring the default number of candidates.
    ms : float
        Median wall time of a search, one query at a time.
    memory_mb : float
        Memory of a coarse tier of so many dimensions, codes of a byte each and graph; of exact search in
        memory, the float32 vectors and no graph.
    """

    prefix_dim: int
    strategy: str
    recall_prefix: float
    recall: float
    ms: float
    memory_mb: float


class DemoReport(msgspec.Struct, frozen=True, kw_only=True):
    """All the demo shows."""

    rows: int
    dim: int
    queries: int
    answers: list[Answer]
    table: list[DimensionRow]
    plot: str | None


class Demo:
    """The demo's folder: documents, model and index, built when they are missing or out of date.

    Parameters
    ----------
    folder : Path
        Where everything is kept.
    say : callable
        Called with lines to show.
    """

    def __init__(self, folder: Path, say: Any) -> None:
        self._folder = folder
        self._say = say
        self._model: Any = None

    def build(self) -> None:
        """Collect, train and ingest, unless this environment's documents were built already."""
        key = environment_key()
        marker = self._folder / _KEY
        if marker.exists() and marker.read_text() == key:
            return
        train.check_dependencies()
        self._folder.mkdir(parents=True, exist_ok=True)
        if not marker.exists():
            self._check_own()
        marker.unlink(missing_ok=True)
        self._say("collecting the docstrings of this Python's library and packages ...")
        documents = collect()
        pq.write_table(documents, self._folder / _DOCUMENTS)
        self._say(
            f"{documents.num_rows:,} documents; training a Matryoshka model on them (about a minute) ..."
        )
        self._model = train.train(documents, self._folder / _MODEL, self._say)
        self._say("embedding and indexing ...")
        _remove_index(self._folder / _INDEX)
        report = ti.ingest(_embedded(documents, self._model), self._folder / _INDEX)
        self._say(f"{report.rows:,} rows embedded and indexed in {report.seconds:.1f} s")
        marker.write_text(key)

    def ask(self, question: str, k: int = 3) -> Answer:
        """Search for a question."""
        with ti.open(self._folder / _INDEX, mode="r") as index:
            query = train.encode(self._loaded(), [question])[0]
            index.search(query, k=k)  # the first search maps the graph in; show what the next ones take
            result = index.search(query, k=k)
            return Answer(question, result.to_arrow().to_pylist(), result.plan, result.stats.total_ms)

    def measure(self) -> list[DimensionRow]:
        """Search with held-out titles at each prefix dimension, against exact search."""
        queries = self.queries()
        with ti.open(self._folder / _INDEX, mode="r") as index:
            truth = index.search(queries, k=K, exact=True)
            exact_ms = median(index.search(q, k=K, exact=True).stats.total_ms for q in queries[:20])
            found = {
                (dim, candidates): index.search(queries, k=K, prefix_dim=dim, candidates=candidates)
                for dim in PREFIX_DIMS
                for candidates in (K, None)
            }
            times: dict[int, list[float]] = {dim: [] for dim in PREFIX_DIMS}
            for _ in range(_REPEATS):  # in turn, so that a busy moment falls on all of them
                for dim in PREFIX_DIMS:
                    times[dim] += [index.search(q, k=K, prefix_dim=dim).stats.total_ms for q in queries]
            config, rows = index.config, len(index)
        node = graph_node_bytes(config.graph_degree)
        table = [
            DimensionRow(
                prefix_dim=dim,
                strategy=found[dim, None].plan.strategy,
                recall_prefix=recall_at_k(found[dim, K].ids, truth.ids),
                recall=recall_at_k(found[dim, None].ids, truth.ids),
                ms=median(times[dim]),
                memory_mb=rows * (dim + node) / 1e6,
            )
            for dim in PREFIX_DIMS
        ]
        exact = DimensionRow(
            prefix_dim=config.dim,
            strategy="exact",
            recall_prefix=1.0,
            recall=1.0,
            ms=exact_ms,
            memory_mb=rows * 4 * config.dim / 1e6,
        )
        return [*table, exact]

    def queries(self) -> Any:
        """Return embeddings of the titles that training left out."""
        titles = pq.read_table(self._folder / _DOCUMENTS, columns=["title"])["title"].to_pylist()
        return train.encode(self._loaded(), titles[:: train.HELD_OUT_EVERY])

    @property
    def plot_path(self) -> Path:
        """Where the plot goes."""
        return self._folder / _PLOT

    @property
    def index_path(self) -> Path:
        """The index."""
        return self._folder / _INDEX

    def _loaded(self) -> Any:
        if self._model is None:
            self._model = train.load(self._folder / _MODEL)
        return self._model

    def _check_own(self) -> None:
        strangers = {path.name for path in self._folder.iterdir()} - {_DOCUMENTS, _MODEL, _INDEX, _PLOT}
        if strangers:
            raise ti.NotAnIndexError(f"{self._folder}: a folder of something else ({min(strangers)!r})")


def environment_key() -> str:
    """Return a digest of this Python and its installed packages: what the documents depend on."""
    from importlib.metadata import distributions

    names = sorted(f"{d.name} {d.version}" for d in distributions())
    return xxhash.xxh3_128_hexdigest("\n".join([sys.version, *names]).encode())


def _embedded(documents: pa.Table, model: Any) -> pa.RecordBatchReader:
    """Embed the documents as they are read."""
    vector = pa.list_(pa.float32(), train.DIM)
    schema = documents.schema.append(pa.field("vector", vector))

    def batches() -> Any:
        for batch in documents.to_batches(max_chunksize=_INGEST_ROWS):
            pairs = zip(batch["title"].to_pylist(), batch["text"].to_pylist(), strict=True)
            vectors = train.encode(model, [f"{title} {text}" for title, text in pairs])
            flat = pa.array(np.ascontiguousarray(vectors, np.float32).reshape(-1))
            column = pa.FixedSizeListArray.from_arrays(flat, type=vector)
            yield pa.record_batch([*batch.columns, column], schema=schema)

    return pa.RecordBatchReader.from_batches(schema, batches())


def _remove_index(path: Path) -> None:
    """Remove the index of an earlier environment; everything in it can be built again."""
    import shutil

    if path.exists():
        shutil.rmtree(path)
