"""The package itself, with its defaults, with sketches of tails, or with full vectors that are not mapped."""

from __future__ import annotations

from typing import Any, ClassVar

import tiered_index as ti
from benchmarks.peers import Peer, Searcher, Setting, Vectors, widths


class Adapter(Peer):
    """An index folder; prefixes in memory, full vectors mapped or copied."""

    PACKAGE = "tiered-index"
    BUILT_WITH: ClassVar[Setting] = {}
    WRITE = "add() of one row: a durable commit"

    def settings(self, k: int, rows: int) -> list[Setting]:  # noqa: ARG002
        """Return floors of recall, beams with as many candidates, and the default plan among them."""
        narrow, wide = widths(k, 24, 32, 48, 64, 96), widths(k, 160, 256, 384)
        floors = [{"min_recall": floor} for floor in (0.8, 0.85, 0.9, 0.93, 0.95, 0.97, 0.98, 0.99)]
        if "tail_sketch" in self.options:  # few of a beam are read then, as many as by default
            return [*floors, *({"ef": width} for width in narrow), {}, *({"ef": width} for width in wide)]
        return [*floors, *map(_plan, narrow), {}, *map(_plan, wide)]

    def build(self, vectors: Vectors) -> None:
        """Ingest the rows."""
        settings = {name: value for name, value in self.options.items() if name != "full_reads"}
        ti.ingest(vectors, self.folder / "index.tidx", progress=False, **settings)

    def open(self, *, mapped: bool) -> None:
        """Open the index; where memory is short, rows are not to push the coarse tier out of it."""
        self._index = ti.open(
            self.folder / "index.tidx",
            full_reads=self.options.get("full_reads", "mapped"),
            coarse_memory="locked" if mapped else "mapped",
        )

    def searcher(self, k: int, **setting: Any) -> Searcher:
        """Return the index's search."""
        index = self._index
        return lambda query: index.search(query, k, **setting).ids

    def many(self, queries: Vectors, k: int, **setting: Any) -> Any:
        """Search all queries in one call."""
        return self._index.search(queries, k, **setting).ids

    def write(self, row: int, vector: Vectors) -> None:
        """Add a row."""
        self._index.add([row], vector[None])

    def close(self) -> None:
        """Close the index."""
        self._index.close()


def _plan(width: int) -> Setting:
    return {"ef": width, "candidates": width}
