"""Times as means and quantiles, and how they add."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Self

import msgspec
import numpy as np
from numpy.typing import NDArray

Quantiles = NDArray[np.float64]
"""Mean, p50, p95, p99 in milliseconds, on the last axis."""


class Times(msgspec.Struct, frozen=True, array_like=True):
    """Mean and quantiles of a time, in milliseconds."""

    mean: float
    p50: float
    p95: float
    p99: float

    @classmethod
    def of(cls, samples: Sequence[float]) -> Self:
        """Summarise samples; for the mean, the worst hundredth counts as the 99th percentile."""
        p50, p95, p99 = np.quantile(samples, (0.5, 0.95, 0.99)).tolist()
        return cls(float(np.minimum(samples, p99).mean()), p50, p95, p99)


class Reading(msgspec.Struct, frozen=True):
    """Time to rescore rows: what a call takes, and each row."""

    call: Times
    row: Times

    def of(self, rows: Any) -> Quantiles:
        """Return the times of rescoring so many rows, shape (..., 4)."""
        return quantiles(self.call) + np.asarray(rows, float)[..., None] * quantiles(self.row)


def quantiles(times: Times) -> Quantiles:
    """Return times as an array."""
    return np.array(msgspec.structs.astuple(times))


def added(*stages: Quantiles) -> Quantiles:
    """Add stages that vary independently: means, and the squares of how far quantiles stand above them."""
    total, squares = np.zeros(4), np.zeros(2)
    for stage in stages:
        total = total + stage
        above = np.maximum(stage[..., 2:] - stage[..., :1], 0.0)
        squares = squares + above * above
    total[..., 2:] = total[..., :1] + np.sqrt(squares)
    return total
