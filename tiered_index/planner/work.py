"""What walks take, told by what they do: a machine that is shared makes some of them seem slow, or quick.

Plans are measured one after another. Where other programs, or other machines on the same host, come and go,
one walk takes twice as long as a wider one that was measured a second later, and choosing would believe it.
But what a walk has to do is counted: how many codes it scores, and how wide the beam is into which it puts
them. Times of all walks, drawn through these counts, tell which of them were disturbed.
"""

from __future__ import annotations

from collections.abc import Sequence

import msgspec
import numpy as np
from numpy.typing import NDArray

from tiered_index.planner.model import Stopped, Walked
from tiered_index.planner.times import Times, quantiles

FAR = 0.15
"""Measured times count as they are if they are no further from what all together tell. Times of 70 walks
of 4 to 4,096 units of ef, the least of four rounds each, stood 18 % from it at most, 4 % as a rule."""

_LEAST = 8
_ROUNDS = 40
_EXACT = 0.01
_RIDGE = 1e-12


def evened(walks: Sequence[Walked]) -> list[Walked]:
    """Return walks of one prefix dimension with times that fit what they do."""
    by = _factors(walks)
    return [msgspec.structs.replace(walk, coarse=_times(walk.coarse, by[i])) for i, walk in enumerate(walks)]


def beside(walks: Sequence[Walked], stopped: Sequence[Stopped]) -> list[Stopped]:
    """Return plans that stop early with times that fit what they, and walks of the same dimension, do.

    A moment that slows a walk slows the rescoring that comes after it too.
    """
    by = _factors([*walks, *stopped])[len(walks) :]
    return [
        msgspec.structs.replace(
            one,
            coarse=_times(one.coarse, by[i]),
            rescore=_times(one.rescore, by[i]),
            total=_times(one.total, by[i]),
        )
        for i, one in enumerate(stopped)
    ]


def _factors(walks: Sequence[Walked | Stopped]) -> NDArray[np.float64]:
    efs = [walk.ef if isinstance(walk, Walked) else walk.plan.ef for walk in walks]
    codes, ms = [walk.codes for walk in walks], [walk.coarse.mean for walk in walks]
    return factors(*(np.array(column, float) for column in (codes, efs, ms)))


def _times(times: Times, factor: float) -> Times:
    return Times(*(quantiles(times) * factor).tolist())


def factors(
    codes: NDArray[np.float64], efs: NDArray[np.float64], ms: NDArray[np.float64]
) -> NDArray[np.float64]:
    """Return by what to multiply measured times.

    Parameters
    ----------
    codes : ndarray, shape (n,)
        How many prefixes each walk scored, in the mean; 0 where that was not counted.
    efs : ndarray, shape (n,)
        Widths of the beams.
    ms : ndarray, shape (n,)
        Mean times.

    Returns
    -------
    ndarray, shape (n,)
        1 for times no more than :data:`FAR` from what the work tells, all 1 where too little is known. The
        line is drawn by the least absolute errors, as shares of the times: of walks that were disturbed it
        takes no notice as long as they are the fewer.
    """
    if len(ms) < _LEAST or min(codes.min(), ms.min()) <= 0.0:
        return np.ones(len(ms))
    work = np.stack([np.ones(len(ms)), codes, efs, codes * efs, efs * efs], axis=1)
    shares = work / work.max(axis=0) / ms[:, None]
    told = weights = np.ones(len(ms))  # in units of what was measured
    for _ in range(_ROUNDS):  # least squares, weighted again and again, until they are the absolute errors
        weighted = shares * weights[:, None]
        square = np.einsum("ij,ik->jk", weighted, shares)
        square += np.eye(len(square)) * _RIDGE * np.trace(square)  # widths may all be one, and codes
        told = np.einsum("ij,j->i", shares, np.linalg.solve(square, weighted.sum(axis=0)))
        weights = 1.0 / np.maximum(np.abs(told - 1.0), _EXACT)
    if told.min() <= 0.0:
        return np.ones(len(ms))
    return np.asarray(told * np.clip(1.0 / told, 1.0 - FAR, 1.0 + FAR))
