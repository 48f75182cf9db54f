"""Walks among the rows of a filter: how much wider their beam is for the recall of one among all rows.

Rows that match lie at random, or they are what a query is about, or they have little to do with it: a walk
then finds less of them. How much less depends on model and corpus, so it is measured, over filters that are
made for it and queries with known answers.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import Literal, Protocol, get_args

import msgspec
import numpy as np
from numpy.typing import NDArray

from tiered_index.planner.nearness import Nearness, fit

Kind = Literal["dense", "level", "thin", "bare", "sparse", "apart", "far"]

DENSE = 0.5
"""So many of all rows match: a walk hardly notices."""

NEAR, FAR = 0.8, 0.25
"""How often rows near the query match, as often as all rows do being 1: where fewer rows match, "apart" is
below `NEAR`, "far" below `FAR`, and "sparse" the rest; where so many do, these are "thin", "bare" and
"level", and all together "dense": nobody looked what is near."""

OF_FEW: tuple[Kind, ...] = ("sparse", "apart", "far")
OF_MANY: tuple[Kind, ...] = ("level", "thin", "bare")
"""Kinds by what is near, where fewer rows match, and where so many do."""

EFS = (24, 48, 96, 192, 384, 768)
PAIRS = 96
"""Queries with filters that are asked, of each kind."""

FEWEST_PAIRS = 24
ERRORS = 0.5
"""Standard errors by which recall is taken to be less than was measured, so that floors are kept on queries
and filters that were not seen."""

MOST_WIDER = 8.0
_TIMED_EF = 96
_LEAST_MISS = 1e-3

Curve = tuple[tuple[int, float], ...]
"""Pairs of ef and mean recall, ascending."""


class Among(msgspec.Struct, frozen=True):
    """What was measured of walks and scans among matching rows.

    Attributes
    ----------
    k : int
        For which recall was measured.
    everywhere : tuple of (int, float)
        Pairs of ef and recall of walks without a filter, all candidates rescored.
    kinds : dict of str to tuple of (int, float)
        The same with filters, of those kinds that were met often enough, less :data:`ERRORS`.
    slower : float
        Times as long as a walk among all rows takes one of the same ef among some.
    scan_ms : float
        Time in which a scan scores a matching row.
    nearness : Nearness or None
        What such walks miss by how near their best are, where that was measured.
    linked : Among or None
        The same where matching rows are linked among themselves, if that was measured.
    """

    k: int
    everywhere: Curve
    kinds: dict[Kind, Curve]
    slower: float
    scan_ms: float
    nearness: Nearness | None = None
    linked: Among | None = None

    def everywhere_at(self, ef: float) -> float:
        """Return the recall of a walk among all rows."""
        return _recall_at(self.everywhere, ef)

    def wider(self, kind: Kind, recall: float) -> float | None:
        """Return times as wide as without a filter a beam must be for `recall`; None if it was not met."""
        if kind not in self.kinds:
            return None
        without = _ef_for(self.everywhere, recall)
        return min(max(_ef_for(self.kinds[kind], recall) / without, 1.0), MOST_WIDER)

    def recall(self, kind: Kind, ef: float) -> float | None:
        """Return the recall to expect with a beam; None if the kind was not met.

        With a narrower beam than was measured it misses as many times more as one without a filter does, and
        below what was measured without it finds the less, the narrower it is.
        """
        if kind not in self.kinds:
            return None
        curve, (narrowest, _) = self.kinds[kind], self.everywhere[0]
        missed = 1.0 - _recall_at(curve, ef)
        if ef < curve[0][0]:
            without = self.everywhere_at(curve[0][0])
            missed *= (1.0 - self.everywhere_at(ef)) / max(1.0 - without, _LEAST_MISS)
        return max(1.0 - missed, 0.0) * min(ef / narrowest, 1.0)


class Subject(Protocol):
    """What is measured: an index, some filters, and queries with known answers."""

    k: int
    everywhere: Curve
    shares: Sequence[float]
    """Of each filter, the share of all rows that match."""

    near: NDArray[np.float64]
    """Of the rows near each query, the share that match each filter, shape (filters, queries)."""

    def among(self, chosen: int) -> AbstractContextManager[object]:
        """Return what is entered while a filter's rows are walked."""

    def takes(self, chosen: int, ef: int) -> bool:
        """Return whether a filter's rows are walked with such a beam, rather than scanned."""

    def walk(self, query: int, chosen: int, ef: int) -> tuple[float, float, float]:
        """Return recall and milliseconds of a walk among a filter's rows.

        And the prefix score of the k-th best that it found.
        """

    def walk_all(self, query: int, ef: int) -> tuple[float, float]:
        """Return recall and milliseconds of a walk among all rows."""

    def scan(self, query: int, chosen: int) -> float:
        """Return the milliseconds of a scan, for each matching row."""


def kinds_of(share: float, near: float) -> tuple[Kind, ...]:
    """Return the kinds of a filter for a query, by the shares of all rows and of those near it that match."""
    ratio = near / share
    step = 2 if ratio < FAR else 1 if ratio < NEAR else 0
    return ("dense", OF_MANY[step]) if share >= DENSE else (OF_FEW[step],)


def measure_among(subject: Subject, *, near: bool = False) -> Among | None:
    """Measure; None where there is no walk to be measured among matching rows.

    With `near`, also what walks miss by how near the best are that they find.
    What a filter loses of the recall is told best by the same queries without it: some are hard, either way.
    """
    if len(subject.everywhere) < 2:
        return None
    pairs = _pairs(subject)
    walked: dict[tuple[Kind, int], list[tuple[float, ...]]] = defaultdict(list)
    nearness: list[tuple[float, float, float, int]] = []
    for chosen, asked in enumerate(pairs):
        with subject.among(chosen) if asked else nullcontext():
            for ef in EFS:
                for query, kinds_met in asked.items() if subject.takes(chosen, ef) else ():
                    recall, ms, score = subject.walk(query, chosen, ef)
                    alone = subject.walk_all(query, ef)
                    for kind in kinds_met:
                        walked[kind, ef].append((recall, ms, *alone))
                    # where so many rows match it is looked around instead
                    nearness.append((ef, score, recall, chosen if subject.shares[chosen] < DENSE else -1))
    kinds: dict[Kind, Curve] = {}
    slower = [1.0]
    for kind in get_args(Kind):
        met = sum(kind in kinds_met for asked in pairs for kinds_met in asked.values())
        curve = []
        for ef in EFS:
            taken = walked[kind, ef]
            if len(taken) < FEWEST_PAIRS or len(taken) < met:
                break
            seen, without = np.split(np.array(taken), 2, axis=1)
            more = seen[:, 0] - without[:, 0]
            change = float(more.mean()) - ERRORS * float(more.std()) / math.sqrt(len(more))
            curve.append((ef, max(_recall_at(subject.everywhere, ef) + min(change, 0.0), 0.0)))
            if ef == _TIMED_EF and kind in ("dense", "sparse"):
                slower.append(float(np.median(seen[:, 1]) / np.median(without[:, 1])))
        if len(curve) > 1:
            kinds[kind] = tuple(curve)
    if not kinds:
        return None
    fewest = int(np.argmin(subject.shares))
    scans = [subject.scan(query, fewest) for query in range(min(PAIRS, subject.near.shape[1]))]
    line = fit(subject.k, *zip(*nearness, strict=True)) if near else None
    return Among(subject.k, subject.everywhere, kinds, max(slower), float(np.median(scans)), line)


def _pairs(subject: Subject) -> list[dict[int, list[Kind]]]:
    """Return of each filter the queries that it is asked with, and of which kinds they are."""
    filters, queries = subject.near.shape
    found: list[dict[int, list[Kind]]] = [defaultdict(list) for _ in range(filters)]
    counts: dict[Kind, int] = defaultdict(int)
    for turn in range(filters):
        for query in range(queries):  # each with another filter, before one has a second
            chosen = (query + turn) % filters
            for kind in kinds_of(subject.shares[chosen], float(subject.near[chosen, query])):
                if counts[kind] < PAIRS:
                    counts[kind] += 1
                    found[chosen][query].append(kind)
    return found


def _recall_at(curve: Curve, ef: float) -> float:
    efs, misses = _logs(curve)
    return 1.0 - math.exp(float(np.interp(math.log(ef), efs, misses)))


def _logs(curve: Curve) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Return the logarithms of ef and of misses, the latter made to fall."""
    misses = np.minimum.accumulate([max(1.0 - recall, _LEAST_MISS) for _, recall in curve])
    return np.log([ef for ef, _ in curve]), np.log(misses)


def _ef_for(curve: Curve, recall: float) -> float:
    """Return the ef for a recall: between what was measured, and beyond it as the line goes on."""
    efs, misses = _logs(curve)
    wanted = math.log(max(1.0 - recall, _LEAST_MISS))
    slope = (misses[-1] - misses[0]) / (efs[-1] - efs[0])
    if wanted > misses[0] or slope >= 0.0:
        return math.exp(efs[0])
    if wanted < misses[-1]:
        return math.exp(min(efs[-1] + (wanted - misses[-1]) / slope, efs[-1] + math.log(MOST_WIDER)))
    falling = misses - 1e-9 * np.arange(len(misses))  # of equal ones the first
    return math.exp(float(np.interp(-wanted, -falling, efs)))
