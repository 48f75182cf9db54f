"""Makes the index that ``test_format`` opens: once for each version of the format, and never again."""

from __future__ import annotations

from pathlib import Path

import numpy as np

import tiered_index as ti
from tiered_index.coarse.prefix_graph import GRAPH_MIN_ROWS
from tiered_index.storage.manifest import FORMAT_VERSION
from tiered_index.testing import matryoshka_vectors

DIM = 16
"""Those of versions before 4 are half as long."""

ROWS = GRAPH_MIN_ROWS
FOLDER = Path(__file__).parent / f"format-{FORMAT_VERSION}"


def content(dim: int = DIM) -> tuple[list[str], np.ndarray, dict[str, list]]:
    """Return ids, vectors and metadata of the index before its changes."""
    numbers = range(ROWS + 10)
    metadata = {"n": list(numbers), "even": [None if i % 5 == 0 else i % 2 == 0 for i in numbers]}
    return [f"id-{i}" for i in numbers], matryoshka_vectors(ROWS + 10, dim, seed=3), metadata


def main() -> None:
    """Make a graph segment, a small one, tombstones of both, sketches, and earlier generations."""
    ids, vectors, metadata = content()
    encoder = ti.CallableEncoder(lambda texts: vectors[[int(text) for text in texts]], name="rows", dim=DIM)
    options = {"prefix_dim": 8, "graph_degree": 4, "ef_construction": 16, "merge_policy": ti.NoMergePolicy()}
    with ti.TextIndex.open(FOLDER, encoder, text_column=None, keep_generations=8, **options) as texts:
        index = texts.index
        for part in (slice(0, ROWS), slice(ROWS, None)):
            index.add(ids[part], vectors[part], {name: values[part] for name, values in metadata.items()})
        index.delete(["id-1", f"id-{ROWS}"])
        index.rebuild_coarse(tail_sketch=1)


if __name__ == "__main__":
    main()
