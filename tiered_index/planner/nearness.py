"""What a walk missed, told by how near the best rows are that it found.

Where rows match a filter, some queries have little to do with any of them: the best lie apart from each
other, and a walk misses more. How much it missed is seen when it is done, by the prefix score of the last
of the best k that it found; and it is the same line under all filters. Fitted to 900 pairs of a query and a
filter made for it, among a million sentences, it foretold that walks of ef=168 under seven other filters miss
.029, .065, .078, .116, .040, .046 and .129 of other queries' best ten. They missed .039, .039, .091, .100,
.040, .043 and .102. So a walk as wide as most queries want is done for all, and a wider one after it for
those whose best are not near enough.

It is not one line where rows lie in tight clusters, and those that match are some of these, apart from each
other: a walk ends in the wrong one, among rows as near as those of another filter whose best they are. How
much more is missed there than the line says is measured too, for floors.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import lru_cache
from typing import NamedTuple

import msgspec
import numpy as np
from numpy.typing import NDArray

from tiered_index.blas import product

WIDER, WIDEST = 3, 8
"""Times as wide a second walk is. Under those filters 2 and 6, or 4 and 12, took as much for .95 to .96."""

SCORES = 64
"""Quantiles of scores that are kept."""

LEAST_PAIRS = 96

_LEAST_FOUND = 1e-4
_HALVINGS = 50
_ROUNDS = 50
_PRIOR = 1e-3

_SURE = 2.0
"""Answers of which all was missed that the misses of one filter are drawn towards the line by."""

Floats = NDArray[np.float64]


class Nearness(msgspec.Struct, frozen=True):
    """How the recall of walks goes with how near the best are that they find.

    Attributes
    ----------
    k : int
        Which of the best is looked at, from 1; recall is that of so many.
    base, by_ef, by_score : float
        Of the logarithm of misses over hits: what it is, what it changes by with the logarithm of ef, and by
        a prefix score of 1.
    scores : tuple of float
        Quantiles of the prefix scores of the queries and filters that were measured, ascending.
    worst : float
        Times as much as the line says was missed under the filter where it says the least of it; at least 1.
    """

    k: int
    base: float
    by_ef: float
    by_score: float
    scores: tuple[float, ...]
    worst: float = 1.0

    def missed(self, ef: Floats | float, score: Floats | float) -> Floats:
        """Return what share of the best a walk is expected to miss; arrays are taken elementwise."""
        line = self.base + self.by_ef * np.log(ef) + self.by_score * np.asarray(score, np.float64)
        return np.asarray(1.0 / (1.0 + np.exp(-np.clip(line, -50.0, 50.0))))

    def score(self, ef: float, missed: float) -> float:
        """Return the score below which a walk is expected to miss more than a share of the best."""
        missed = min(missed, 1.0 - _LEAST_FOUND)
        return (math.log(missed / (1.0 - missed)) - self.base - self.by_ef * math.log(ef)) / self.by_score


class Steps(NamedTuple):
    """When a walk is followed by another.

    Attributes
    ----------
    wider, widest, scan : float
        Prefix scores below which a walk of :data:`WIDER` times the beam follows, or of :data:`WIDEST` times,
        or a scan of all matching rows; none is above the one before, and -inf where it never follows.
    """

    wider: float
    widest: float
    scan: float


def fit(
    k: int,
    efs: Sequence[float],
    scores: Sequence[float],
    recalls: Sequence[float],
    filters: Sequence[int] | None = None,
) -> Nearness | None:
    """Fit the line to walks; None where they are too few, or where it does not fall as it must.

    Parameters
    ----------
    k : int
        Results a query.
    efs, scores, recalls : sequences of float
        Of each walk its beam, the prefix score of the k-th best that it found, and its recall@k.
    filters : sequence of int, optional
        Which filter each walk was among the rows of, -1 where `worst` is not to tell of it; the same one by
        default.
    """
    held = np.isfinite(scores)
    score, recall = np.asarray(scores)[held], np.asarray(recalls)[held]
    among = np.zeros(len(score), np.int64) if filters is None else np.asarray(filters)[held]
    ef = np.asarray(efs, np.float64)[held]
    if len(score) < LEAST_PAIRS:
        return None
    terms = np.stack([np.ones_like(score), np.log(ef), score], axis=1)
    middle, spread = terms.mean(axis=0), terms.std(axis=0)
    middle[0], spread[0] = 0.0, 1.0
    if not spread.all():
        return None
    line = _logistic((terms - middle) / spread, 1.0 - recall) / spread
    by_ef, by_score = float(line[1]), float(line[2])
    if by_ef >= 0.0 or by_score >= 0.0:
        return None
    quantiles = np.quantile(score, (np.arange(SCORES) + 0.5) / SCORES)
    begin = float(line[0] - np.vecdot(line[1:], middle[1:]))
    found = Nearness(k, begin, by_ef, by_score, tuple(quantiles.tolist()))
    told = among >= 0
    seen, said = (
        np.bincount(among[told], misses[told]) for misses in (1.0 - recall, found.missed(ef, score))
    )
    worst = float(((seen + _SURE) / (said + _SURE)).max(initial=1.0))
    return msgspec.structs.replace(found, worst=worst)


def _logistic(terms: Floats, share: Floats) -> Floats:
    """Return the weights of a logistic regression, by Newton's method; a prior keeps them finite."""
    weights = np.zeros(terms.shape[1])
    prior = _PRIOR * len(share)
    for _ in range(_ROUNDS):
        expected = 1.0 / (1.0 + np.exp(-np.clip(product(terms, weights), -50.0, 50.0)))
        slope = product(terms.T, share - expected) - prior * weights
        curve = product(terms.T * (expected * (1.0 - expected)), terms) + prior * np.eye(len(weights))
        step = np.linalg.solve(curve, slope)
        weights += np.clip(step, -2.0, 2.0)
        if np.abs(step).max() < 1e-9:
            break
    return weights


@lru_cache(maxsize=256)
def steps_for(
    known: Nearness, ef: float, scan: float, missed: float, most: float, *, kept: bool = False
) -> Steps:
    """Return when to walk again, so that no more than `missed` of the best is missed on average.

    Averages are over the queries and filters that were measured. A second walk is done where the first is
    expected to miss more than `most`, and besides where it finds the most for what it takes.

    Parameters
    ----------
    known : Nearness
        What was measured.
    ef : float
        Beam of the first walk.
    scan : float
        What a scan takes, which misses nothing, as the beam of a walk that takes as long.
    missed, most : float
        Shares of the best, between 0 and 1.
    kept : bool
        Whether a scan follows, however long it takes, where the widest walk may miss more than `most`.
    """
    scores = np.array(known.scores)
    scans = scan <= WIDEST * ef
    misses = known.missed(np.array([ef, WIDER * ef, WIDEST * ef])[:, None], scores)
    more = np.array([0.0, WIDER * ef, scan if scans else WIDEST * ef])
    if scans:
        misses[2] = 0.0
    costs = np.where((misses > most) & (more < more[2])[:, None], np.inf, more[:, None])
    low, high = 0.0, more[2] / _LEAST_FOUND  # what finding all of the best is worth
    for _ in range(_HALVINGS):
        worth = (low + high) / 2
        done = (costs + worth * misses).argmin(axis=0)
        enough = np.take_along_axis(misses, done[None], axis=0).mean() <= missed
        low, high = (low, worth) if enough else (worth, high)
    done = (costs + high * misses).argmin(axis=0)
    wider = _below(scores, done >= 1)
    widest = min(_below(scores, done == 2), wider)
    if scans:
        return Steps(wider, widest, widest)
    return Steps(wider, widest, min(known.score(WIDEST * ef, most), widest) if kept else -math.inf)


def _below(scores: Floats, asked: NDArray[np.bool_]) -> float:
    """Return the score below which all lie up to the highest that is asked for."""
    if not asked.any():
        return -math.inf
    last = int(np.flatnonzero(asked)[-1])
    return math.inf if last == len(scores) - 1 else float((scores[last] + scores[last + 1]) / 2)
