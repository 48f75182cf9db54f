"""What the compiled road multiplies on this machine."""

from __future__ import annotations

import numpy as np
import pytest

from tiered_index.coarse import _faiss
from tiered_index.coarse.prefix_graph import CoarseTier

codes = pytest.importorskip("tiered_index.compiled.codes")


def rounded(query: np.ndarray) -> np.ndarray:
    """Return the query that bf16 codes are multiplied with on this machine."""
    if not codes.ROUNDS:
        return query
    bits = query.view(np.uint32).astype(np.int64)
    low = bits & 0xFFFF
    up = (low > 0x8000) | ((low == 0x8000) & ((bits >> 16) & 1 == 1))
    return (((bits >> 16) + up) << 16).astype(np.uint32).view(np.float32)


def multiplied(tier: CoarseTier, queries: np.ndarray, rows: np.ndarray | None = None) -> np.ndarray:
    """Return the product of each query, shape (n, d), with the codes of rows, as this machine rounds it."""
    some = tier.codes() if rows is None else tier.codes()[rows]
    dim = queries.shape[1]
    if tier.code == "bf16":
        return rounded(queries).astype(np.float64) @ tier.decode(some)[:, :dim].astype(np.float64).T
    ranges = _faiss.ranges_of(tier._index)
    return np.stack(
        [multiplied_bytes(query, some[:, :dim], ranges.reshape(2, -1)[:, :dim]) for query in queries]
    )


def multiplied_bytes(query: np.ndarray, some: np.ndarray, ranges: np.ndarray) -> np.ndarray:
    """Return the product of a query with bytes that stand for steps of lows and spans, shape (2, d)."""
    low, span = ranges.astype(np.float64)
    step = (span.astype(np.float32) / np.float32(255)).astype(np.float64)
    given = query.astype(np.float64)
    stepped = (query * step.astype(np.float32)).astype(np.float32).astype(np.float64)
    always = given @ (low + 0.5 * step)
    if not codes.MOST:
        return always + some.astype(np.float64) @ stepped
    sizes = np.abs(stepped)
    least = sizes.sum() / ((2**31 - 1) / 255 - len(query))  # so that no sum passes 32 bits
    scale = np.float64(np.float32(max(sizes.max() / codes.MOST, least))) or 1.0
    whole = np.rint((stepped.astype(np.float32) / np.float32(scale)).astype(np.float32)).astype(np.float64)
    return always + 128 * (stepped - scale * whole).sum() + scale * (some.astype(np.float64) @ whole)
