"""FAISS IVF-RaBitQ: one bit a dimension after a random rotation, the best refined by full vectors."""

from __future__ import annotations

from math import sqrt
from typing import Any, ClassVar

import faiss
import numpy as np

from benchmarks.peers import Setting, Vectors
from benchmarks.peers.faiss_hnsw import FaissPeer

_TRAIN_ROWS_A_LIST = 64
_LARGE = 1_000_000


class Adapter(FaissPeer):
    """IndexRefineFlat over IndexPreTransform over IndexIVFRaBitQ."""

    BUILT_WITH: ClassVar[Setting] = {"lists": "4 sqrt(rows)", "rotation": True, "bits": 1}

    def settings(self, k: int, rows: int) -> list[Setting]:
        """Return numbers of lists to visit and of candidates to refine, as multiples of k."""
        lists = _lists(rows)
        factors = (4, 10, 20) if k <= 10 else (2, 4, 8)
        shares = (0.01, 0.02, 0.04, 0.08, 0.16)
        probes = sorted({max(round(lists * share), 1) for share in shares})
        return [{"nprobe": n, "refine": f} for n in probes for f in factors]

    def build(self, vectors: Vectors) -> None:
        """Train on a sample, add the rows, and write the file."""
        lists = _lists(len(vectors))
        # RaBitQ's error bound holds for rotated vectors only; without RR recall falls by a third
        spec = f"RR{self.dim},IVF{lists},RaBitQ,RFlat"
        index = faiss.index_factory(self.dim, spec, faiss.METRIC_INNER_PRODUCT)
        step = max(len(vectors) // (_TRAIN_ROWS_A_LIST * lists), 1)
        index.train(np.ascontiguousarray(vectors[::step]))
        index.add(np.asarray(vectors))
        self.save(index)

    def parameters(self, k: int, **setting: Any) -> Any:  # noqa: ARG002
        """Set both on the index, for the refining index takes none a search; return nothing."""
        space = faiss.ParameterSpace()
        space.set_index_parameter(self.index, "nprobe", setting["nprobe"])
        space.set_index_parameter(self.index, "k_factor_rf", setting["refine"])


def _lists(rows: int) -> int:
    """Return FAISS's advice for up to a million rows, 4 sqrt(n), rounded to a power of two."""
    wanted = 4 * sqrt(min(rows, _LARGE))
    return int(2 ** round(np.log2(max(wanted, 1))))
