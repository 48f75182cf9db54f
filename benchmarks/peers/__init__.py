"""The systems that are compared: one module each, with an ``Adapter`` that follows :class:`Peer`.

Vectors and queries are of unit length, so inner product, cosine and L2 rank alike; each adapter takes
the one that is fastest there. Grids begin at what the makers' documentation advises and widen until
recall is close to 1. Rows are numbered from 0, and an answer is a sequence of row numbers.
"""

from __future__ import annotations

import importlib
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, ClassVar, NamedTuple

import numpy as np
from numpy.typing import NDArray

Vectors = NDArray[np.float32]
Setting = dict[str, Any]
Searcher = Callable[[Vectors], Any]


class System(NamedTuple):
    """A peer, used in one way; those of one family are drawn in one colour."""

    label: str
    family: str
    module: str
    options: dict[str, Any]


SYSTEMS = {
    "tiered-index": System("tiered-index", "tiered-index", "tiered", {}),
    "tiered-sketched": System("tiered-index, sketched", "tiered-index", "tiered", {"tail_sketch": 2}),
    "tiered-copied": System(
        "tiered-index, sketched, copied",
        "tiered-index",
        "tiered",
        {"tail_sketch": 2, "full_reads": "copied"},
    ),
    "faiss-hnsw-flat": System("FAISS HNSWFlat", "FAISS", "faiss_hnsw", {"storage": "Flat"}),
    "faiss-hnsw-sq8": System("FAISS HNSW SQ8", "FAISS", "faiss_hnsw", {"storage": "SQ8"}),
    "faiss-ivf-rabitq": System("FAISS IVF-RaBitQ + refine", "FAISS", "faiss_rabitq", {}),
    "svs-leanvec": System("SVS Vamana LeanVec", "SVS", "scalable_vs", {"compression": "leanvec"}),
    "svs-lvq": System("SVS Vamana LVQ4x8", "SVS", "scalable_vs", {"compression": "lvq"}),
    "svs-float16": System("SVS Vamana float16", "SVS", "scalable_vs", {"compression": "float16"}),
    "lancedb-hnsw-sq": System("LanceDB IVF_HNSW_SQ + refine", "LanceDB", "lance", {"index": "HnswSq"}),
    "lancedb-rq": System("LanceDB IVF_RQ + refine", "LanceDB", "lance", {"index": "IvfRq"}),
    "lancedb-pq": System("LanceDB IVF_PQ + refine", "LanceDB", "lance", {"index": "IvfPq"}),
    "qdrant-int8": System("Qdrant Edge int8 + rescore", "Qdrant Edge", "qdrant", {"code": "int8"}),
    "qdrant-binary": System("Qdrant Edge binary + rescore", "Qdrant Edge", "qdrant", {"code": "binary"}),
    "zvec-hnsw": System("Zvec HNSW", "Zvec", "zvec_hnsw", {"code": "float32"}),
    "zvec-int8": System("Zvec HNSW int8 + refine", "Zvec", "zvec_hnsw", {"code": "int8"}),
    "zvec-rabitq": System("Zvec HNSW RaBitQ + refine", "Zvec", "zvec_hnsw", {"code": "rabitq"}),
    "usearch-bf16": System("USearch bf16", "USearch", "usearch_hnsw", {"dtype": "bf16"}),
    "usearch-i8": System("USearch i8", "USearch", "usearch_hnsw", {"dtype": "i8"}),
    "hnswlib": System("hnswlib", "hnswlib", "hnswlib_hnsw", {}),
}
OURS = "tiered-index"


class Peer(ABC):
    """An index in a folder.

    Parameters
    ----------
    folder : Path
        Holds nothing before :meth:`build`, then the index.
    dim : int
        Length of the vectors.
    cores : int
        How many the machine lets this process use.
    options : dict
        The system's.
    """

    PACKAGE: ClassVar[str]
    """Distribution whose version is recorded."""

    WRITE: ClassVar[str]
    """What a one-row write does here; how durable it is differs between systems."""

    BUILT_WITH: ClassVar[Setting]
    """What was chosen for the build, for the record; an index that was built with something else is not
    used again."""

    def __init__(self, folder: Path, dim: int, cores: int, **options: Any) -> None:
        self.folder = folder
        self.dim = dim
        self.cores = cores
        self.options = options

    @property
    def built_with(self) -> Setting:
        """:attr:`BUILT_WITH`, and what the options say otherwise."""
        return {**self.BUILT_WITH, **self.options.get("built_with", {})}

    @abstractmethod
    def settings(self, k: int, rows: int) -> list[Setting]:
        """Return the grid: keyword arguments of :meth:`searcher`."""

    @abstractmethod
    def build(self, vectors: Vectors) -> None:
        """Write the index of all rows into the folder, with all cores."""

    @abstractmethod
    def open(self, *, mapped: bool) -> None:
        """Open what was built: as advised for speed, or, if `mapped`, for a machine short of memory."""

    @abstractmethod
    def searcher(self, k: int, **setting: Any) -> Searcher:
        """Return what answers one query; all that can be prepared, is."""

    def threads(self, count: int) -> None:  # noqa: B027 - most have nothing to do
        """Use so many threads from now on, where the library has a pool of its own."""

    def many(self, queries: Vectors, k: int, **setting: Any) -> Sequence[Any]:
        """Answer all queries with all cores; by threads, unless the library has a call for it."""
        search = self.searcher(k, **setting)
        with ThreadPoolExecutor(self.cores) as pool:
            parts = pool.map(lambda part: [search(q) for q in part], np.array_split(queries, 4 * self.cores))
            return [answer for part in parts for answer in part]

    @abstractmethod
    def write(self, row: int, vector: Vectors) -> None:
        """Add one row, as :attr:`WRITE` says; raise NotImplementedError where there is no such thing."""

    def close(self) -> None:  # noqa: B027 - most have nothing to do
        """Close the index."""


def make_peer(name: str, folder: Path, dim: int, cores: int) -> Peer:
    """Return the adapter of a system; importing its library."""
    system = SYSTEMS[name]
    module = importlib.import_module(f"{__name__}.{system.module}")
    peer: Peer = module.Adapter(folder, dim, cores, **system.options)
    return peer


def widths(k: int, *values: int) -> list[int]:
    """Return beam widths: `values`, which suit ten results, widened for many more; none below k."""
    factor = max(k / 40, 1)
    return sorted({max(round(value * factor), k) for value in values})
