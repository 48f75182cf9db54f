"""For tests, of this package and of those that use it: the exact oracle and synthetic embeddings."""

from __future__ import annotations

from tiered_index.testing.oracle import exact_top_k, recall_at_k
from tiered_index.testing.synthetic import matryoshka_vectors

__all__ = ["exact_top_k", "matryoshka_vectors", "recall_at_k"]
