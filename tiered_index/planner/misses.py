"""What watched searches missed corrects how many misses calibration predicts.

For each family of plans, and at each of a few :data:`LEVELS` of predicted misses, two sums are kept: how
many neighbours were predicted to be missed, and how many were. Their ratio, whose logarithm is drawn
towards that of all families together (and that towards 0) where little was seen, multiplies predictions.
Families and levels stand by themselves because queries that are harder do not miss more by one factor at
all efforts: of plans that stop early, more patience soon helps them no more.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from tiered_index.planner.plan import Plan

LEVELS = (0.0003, 0.001, 0.003, 0.01, 0.03, 0.1, 0.3)
"""Shares of the best k that are predicted to be missed, at which corrections are kept."""

MEMORY = 1_500
"""Observations after which what was seen weighs a third of what it did: 500 watched queries, for each tells
of its own plan and of two others."""

PRIOR = 4.0
"""How many missed neighbours weigh as much as the calibration does."""

LEVEL_PRIOR = 8.0
"""How many missed neighbours at a level of a family weigh as much as those of all do."""

LEAN = 1.0
"""Standard errors of a ratio by which a correction leans towards more misses, so that floors are kept by
what is not known yet. With half of one, harder queries stayed .01 below a floor of .9."""

MIN_FACTOR, MAX_FACTOR = 0.5, 500.0
_GRAIN = 0.1
"""Corrections move by ten per cent at least, so that choices made before are found again."""

_LOGS = np.log(LEVELS)


class Family(NamedTuple):
    """Plans that differ in their effort only; `ef` is 0 unless they stop early."""

    strategy: str
    prefix_dim: int
    ef: int


class Correction:
    """Logarithms of factors, by family and level; compared by identity, for choices are looked up by it."""

    def __init__(self, families: dict[Family, NDArray[np.float64]], others: float) -> None:
        self._families = families
        self._others = others

    def recall(self, plans: Sequence[Plan], recall: NDArray[np.float64]) -> NDArray[np.float64]:
        """Return predicted recalls of plans, corrected: what is 1 stays 1, and order is kept in a family."""
        misses = 1.0 - recall
        logs = np.log(np.maximum(misses, 1e-12))
        more = logs + self._others
        found = [family_of(plan) for plan in plans]
        for family, factors in self._families.items():
            own = np.array([one == family for one in found], bool)
            # fewer misses predicted never become more than those of a level above
            at_levels = np.maximum.accumulate(_LOGS + factors)
            inside = np.clip(logs[own], _LOGS[0], _LOGS[-1])
            more[own] = np.interp(inside, _LOGS, at_levels) + (logs[own] - inside)
        corrected: NDArray[np.float64] = 1.0 - np.minimum(np.exp(more), 1.0)
        return np.where(misses <= 0.0, 1.0, corrected)

    def close_to(self, other: Correction) -> bool:
        """Return whether no factor is more than a step from another's."""
        if self._families.keys() != other._families.keys():
            return False
        moved = [abs(self._others - other._others)]
        for family, factors in self._families.items():
            moved.append(float(np.abs(factors - other._families[family]).max()))
        return max(moved) <= _GRAIN

    def factors(self) -> dict[str, tuple[float, float]]:
        """Return the least and the greatest factor of each family, by its name."""
        return {
            f"{family.strategy} d={family.prefix_dim}" + (f" ef<={family.ef}" if family.ef else ""): (
                float(np.exp(factors.min())),
                float(np.exp(factors.max())),
            )
            for family, factors in sorted(self._families.items())
        }


class _Sums:
    """Missed neighbours at each level: predicted, and seen."""

    def __init__(self) -> None:
        self.predicted = np.zeros(len(LEVELS))
        self.observed = np.zeros(len(LEVELS))


class Misses:
    """Follows observed against predicted misses; for one thread."""

    def __init__(self) -> None:
        self._families: dict[Family, _Sums] = {}
        self._excess = 0.0
        self._used: Correction | None = None

    def observe(self, plan: Plan, predicted: float, missed: int, k: int) -> None:
        """Take in the answer to one query.

        Parameters
        ----------
        plan : Plan
            What was done.
        predicted : float
            Share of the best k that calibration predicts to be missed by it, uncorrected.
        missed, k : int
            How many were, of how many.
        """
        share = 1.0 - 1.0 / MEMORY
        for sums in self._families.values():
            sums.predicted *= share
            sums.observed *= share
        expected = predicted * k
        if self._used is not None:
            expected = k * float(1.0 - self._used.recall([plan], np.array([1.0 - predicted]))[0])
        self._excess = self._excess * share + (missed - expected) ** 2 - expected
        own = self._families.setdefault(family_of(plan), _Sums())
        weights = _weights(predicted)
        own.predicted += weights * predicted * k
        own.observed += weights * missed

    def correction(self) -> Correction | None:
        """Return what to correct predictions by: the same as before where it moved little."""
        if not self._families:
            return None
        families = list(self._families.values())
        observed = sum(float(sums.observed.sum()) for sums in families)
        predicted = sum(float(sums.predicted.sum()) for sums in families)
        # hard queries miss several neighbours: so much more do counts vary than if each were independent
        clumped = 1.0 + max(self._excess, 0.0) / (observed + PRIOR)
        others, _ = _drawn(observed, predicted, PRIOR * clumped, 0.0)
        found = {}
        for family, sums in self._families.items():
            logs, sure = _drawn(sums.observed, sums.predicted, LEVEL_PRIOR * clumped, others)
            logs = logs + LEAN * sure * np.sqrt(clumped / (sums.observed + 1.0))
            found[family] = np.clip(logs, math.log(MIN_FACTOR), math.log(MAX_FACTOR))
        correction = Correction(found, float(others))
        if self._used is None or not correction.close_to(self._used):
            self._used = correction
        return self._used


def family_of(plan: Plan) -> Family:
    """Return the family of a plan."""
    return Family(plan.strategy, plan.prefix_dim, plan.ef if plan.early_stop else 0)


def _drawn(observed: Any, predicted: Any, prior: float, towards: Any) -> tuple[Any, Any]:
    """Return ratios' logarithms, drawn towards another where little was seen, and the weight of what was."""
    seen = np.maximum(observed, predicted)
    sure = seen / (seen + prior)
    return sure * np.log((observed + 0.5) / (predicted + 0.5)) + (1.0 - sure) * towards, sure


def _weights(predicted: float) -> NDArray[np.float64]:
    """Return by how much a prediction belongs to each level: to its two neighbours, in logarithms."""
    weights = np.zeros(len(LEVELS))
    at = float(np.interp(math.log(max(predicted, 1e-12)), _LOGS, np.arange(len(LEVELS))))
    low = min(int(at), len(LEVELS) - 2)
    weights[low], weights[low + 1] = 1.0 - (at - low), at - low
    return weights
