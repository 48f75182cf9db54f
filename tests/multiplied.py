"""The query that codes are multiplied with on this machine."""

from __future__ import annotations

import numpy as np
import pytest

products = pytest.importorskip("tiered_index.compiled.products")


def as_multiplied(query: np.ndarray) -> np.ndarray:
    """Return the query that codes are multiplied with on this machine."""
    if not products.ROUNDS:
        return query
    bits = query.view(np.uint32).astype(np.int64)
    low = bits & 0xFFFF
    up = (low > 0x8000) | ((low == 0x8000) & ((bits >> 16) & 1 == 1))
    return (((bits >> 16) + up) << 16).astype(np.uint32).view(np.float32)
