"""Intel's Scalable Vector Search: Vamana over LeanVec, LVQ, or float16 where those two do not run."""

from __future__ import annotations

from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import svs  # type: ignore[import-not-found]

from benchmarks.peers import Peer, Searcher, Setting, Vectors, widths


class Adapter(Peer):
    """Three folders: configuration, graph and data. LeanVec and LVQ end the process on other processors."""

    BUILT_WITH: ClassVar[Setting] = {
        "alpha": 0.95,  # its documentation's for inner product
        "graph_max_degree": 64,
        "window_size": 200,
        "max_candidate_pool_size": 400,
        "prune_to": 60,
    }

    PACKAGE = "scalable-vs"
    WRITE = "none: the static index takes no rows"

    def settings(self, k: int, rows: int) -> list[Setting]:  # noqa: ARG002
        """Return values of search_window_size."""
        return [{"window": w} for w in widths(k, 10, 16, 24, 32, 48, 64, 96, 160, 256)]

    def build(self, vectors: Vectors) -> None:
        """Compress, build the graph, and save both."""
        parameters = svs.VamanaBuildParameters(**self.BUILT_WITH)
        kind = self.options["compression"]
        raw = self.folder / "raw.fvecs"
        data: Any = np.asarray(vectors, np.float16)
        if kind != "float16":
            svs.write_vecs(np.asarray(vectors), str(raw))
            data = self._compress(kind, svs.VectorDataLoader(str(raw), svs.DataType.float32))
        index = svs.Vamana.build(parameters, data, svs.DistanceType.MIP, num_threads=self.cores)
        index.save(*self._folders)
        raw.unlink(missing_ok=True)

    def _compress(self, kind: str, rows: Any) -> Any:
        if kind == "lvq":
            return svs.LVQLoader(rows, primary=4, residual=8)
        return svs.LeanVecLoader(
            rows,
            leanvec_dims=max(self.dim // 4, 32),
            primary_kind=svs.LeanVecKind.lvq8,
            secondary_kind=svs.LeanVecKind.lvq8,
        )

    def open(self, *, mapped: bool) -> None:  # noqa: ARG002 - it cannot be mapped
        """Load the three folders."""
        configuration, graph, data = self._folders
        loaders = {"leanvec": svs.LeanVecLoader, "lvq": svs.LVQLoader, "float16": svs.VectorDataLoader}
        loader = loaders[self.options["compression"]](data)
        self._index = svs.Vamana(
            configuration, svs.GraphLoader(graph), loader, svs.DistanceType.MIP, num_threads=1
        )

    def threads(self, count: int) -> None:
        """Set the size of its pool."""
        self._index.num_threads = count

    def searcher(self, k: int, **setting: Any) -> Searcher:
        """Return a search of one query."""
        index = self._index
        index.search_window_size = setting["window"]
        return lambda query: index.search(query, k)[0][0]

    def many(self, queries: Vectors, k: int, **setting: Any) -> Any:
        """Search all queries in one call."""
        self._index.search_window_size = setting["window"]
        return self._index.search(queries, k)[0]

    def write(self, row: int, vector: Vectors) -> None:
        """Refuse."""
        raise NotImplementedError(self.WRITE)

    @property
    def _folders(self) -> tuple[str, str, str]:
        below: Path = self.folder
        return str(below / "configuration"), str(below / "graph"), str(below / "data")
