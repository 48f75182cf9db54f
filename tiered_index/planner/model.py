"""What was measured, and what it predicts: recall and time of any plan, for any k.

Times of a plan are the sum of three stages: finding candidates, rescoring them, and the rest of the call.
Their means add, and so do the squares of how far their quantiles stand above the means. Between measured
widths of the beam, and between measured k, the logarithm of the misses (1 - recall) is linear in the
logarithm of ef or k, and times are linear in ef; ``python -m benchmarks planner`` shows how well that holds.
"""

from __future__ import annotations

import math
from typing import Literal, NamedTuple

import msgspec
import numpy as np
from numpy.typing import NDArray

from tiered_index.planner.among import Among
from tiered_index.planner.margins import Curve
from tiered_index.planner.plan import EXACT, Plan, Strategy
from tiered_index.planner.times import Quantiles, Reading, Times, added, quantiles

Source = Literal["given", "live", "stored"]

FRACTIONS = (1.0, 0.75, 0.5, 0.375, 0.25)
"""Candidates for each unit of ef. Cold, a row costs ten times what a unit of ef does."""

FINE_STEP = 1.05
"""Ratio between neighbouring widths among which a plan is chosen."""

STORED_MISSES = 1.3
"""By how much misses are multiplied when only stored vectors were asked: real queries may miss more. On
arXiv sentences they missed less: with floors that allowed twice the misses, titles missed a quarter."""

MISSES_PER_ROWS = 0.3
"""Exponent with which misses grow with rows: .031 at 250,000 and .048 at 1,000,000, at an equal plan."""

TIME_PER_DOUBLING = 0.06
"""Share by which a walk grows when rows double: 329 us at 250,000, 363 us at 1,000,000, at an equal plan."""

_LEAST_MISS = 1e-4
UNBOUNDED = 1.3
"""Times of scans and exact searches count so much more: nothing ends them at the deadline."""

_SLACK = 1.1
"""Plans this much slower than the best are kept: observed times may put them before it."""


class Walked(msgspec.Struct, frozen=True):
    """Candidates found at one prefix dimension and ef.

    Attributes
    ----------
    strategy : {"graph", "scan"}
        For a scan, ef is how many rows were asked for.
    prefix_dim, ef : int
        What was measured.
    coarse : Times
        Finding them.
    recall, error : dict
        For each k, mean recall@k after rescoring each of the fractions of ef, and its standard error; -1
        where that is fewer rows than k.
    codes : float
        Prefixes that were scored, in the mean; 0 where that was not counted.
    """

    strategy: Strategy
    prefix_dim: int
    ef: int
    coarse: Times
    recall: dict[int, tuple[float, ...]]
    error: dict[int, tuple[float, ...]]
    codes: float = 0.0


class Stopped(msgspec.Struct, frozen=True):
    """A plan that stops early, measured whole for one k; `claim` is as of :class:`Calibration`."""

    k: int
    plan: Plan
    recall: float
    error: float
    coarse: Times
    rescore: Times
    total: Times
    rows_read: float
    claim: float | None = None
    codes: float = 0.0


class Calibration(msgspec.Struct, frozen=True, kw_only=True):
    """What was measured of one index on one machine.

    Attributes
    ----------
    fingerprint : str
        Of the machine and the versions.
    generation, rows : int
        The state of the index.
    made : str
        When; ISO 8601, UTC.
    source : {"given", "live", "stored"}
        Whether the queries were given, kept from live searches, or are stored vectors.
    queries : int
        How many.
    asked_ks, ks : tuple of int
        For which recall@k was to be measured, and was: an index may have fewer rows; ascending.
    walked, stopped : tuple
        Plans of all effort, and plans that stop early.
    hot, cold : Reading
        Rescoring rows from memory and from disk; cold is None where that could not be measured.
    rest : Times
        Of a call, beside the two stages.
    exact : Times
        Scoring every full vector.
    margins : dict
        For each k, pairs of margin and mean recall, ascending; see :mod:`tiered_index.planner.expect`.
    scores : dict
        For each k, mean and standard deviation of the best score and of the k-th.
    seconds : float
        What the measuring took.
    rebuilt : int
        Which coarse tier was measured: the generation that rebuilt it, or 0.
    among : Among or None
        Walks and scans among the rows of filters; None where none were measured.
    fractions : tuple of float
        How many candidates were tried for each unit of ef.
    claims : dict
        For each k, pairs of a walk's ef and the mean recall that margins of its answers tell.
    """

    fingerprint: str
    generation: int
    rows: int
    made: str
    source: Source
    queries: int
    asked_ks: tuple[int, ...]
    ks: tuple[int, ...]
    walked: tuple[Walked, ...]
    stopped: tuple[Stopped, ...]
    hot: Reading
    cold: Reading | None
    rest: Times
    exact: Times
    margins: dict[int, Curve]
    scores: dict[int, tuple[float, float, float, float]]
    seconds: float
    rebuilt: int = 0
    among: Among | None = None
    fractions: tuple[float, ...] = FRACTIONS
    claims: dict[int, Curve] = {}


class Options(NamedTuple):
    """Plans to choose among, for one k, with what is expected of each.

    Attributes
    ----------
    plans : list of Plan
        n of them; an exact one is the last.
    recall, error : ndarray, shape (n,)
        Mean recall@k, and its standard error.
    coarse, rescore, rest : ndarray, shape (n, 4)
        Times by stage.
    """

    plans: list[Plan]
    recall: NDArray[np.float64]
    error: NDArray[np.float64]
    coarse: Quantiles
    rescore: Quantiles
    rest: Quantiles

    def take(self, places: NDArray[np.int64] | slice) -> Options:
        """Return some of them."""
        plans = self.plans[places] if isinstance(places, slice) else [self.plans[i] for i in places]
        return Options(plans, *(array[places] for array in self[1:]))


def options(
    calibration: Calibration, k: int, rows: int, cold_share: float = 0.0, *, worthwhile: bool = True
) -> Options:
    """Return plans, finely spaced, with what is predicted of them.

    Parameters
    ----------
    calibration : Calibration
        What was measured.
    k : int
        Results a query.
    rows : int
        Rows the index holds now.
    cold_share : float
        Share of rescored rows that come from disk.
    worthwhile : bool
        Leave out what others beat clearly: nine of ten.
    """
    growth = max(rows, 1) / max(calibration.rows, 1)
    slower = max(1.0 + TIME_PER_DOUBLING * math.log2(growth), 0.1)
    reading = _reading(calibration, cold_share)
    groups = [_fine(walks, k, calibration, reading) for walks in _families(calibration)]
    groups.append(_early(calibration, k, reading if cold_share else None))
    for group in groups:
        scans = bool(group.plans) and group.plans[0].strategy == "scan"
        group.coarse[:] *= growth if scans else slower
    exact = quantiles(calibration.exact)[None] * growth
    groups.append(Options([EXACT], np.ones(1), np.zeros(1), np.zeros((1, 4)), exact, np.zeros((1, 4))))
    plans = [plan for group in groups for plan in group.plans]
    recall, error, coarse, rescore = (np.concatenate([group[i] for group in groups]) for i in range(1, 5))
    worse, wider = growth**MISSES_PER_ROWS, 1.0
    if calibration.source == "stored":
        worse, wider = worse * STORED_MISSES, 2.0
    recall = 1.0 - np.minimum((1.0 - recall) * worse, 1.0)
    rest = np.broadcast_to(quantiles(calibration.rest), coarse.shape).copy()
    rest[-1] = 0.0  # an exact search was timed whole
    found = Options(plans, recall, error * wider, coarse, rescore, rest)
    return _worthwhile(found) if worthwhile else found


def _worthwhile(found: Options) -> Options:
    """Drop what others beat clearly at equal or higher recall, by every time that choosing looks at."""
    total = added(found.coarse, found.rescore, found.rest)
    mean, high = total[:, 0], total[:, 3]
    kept = np.array([plan.strategy == "exact" for plan in found.plans])
    for times in (mean, high, to_deadline(found.plans, high)):
        order = np.lexsort((times, -found.recall))
        kept[order] |= times[order] <= np.minimum.accumulate(times[order]) * _SLACK
    return found.take(np.flatnonzero(kept))


def to_deadline(plans: list[Plan], high: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return the times to hold against a latency budget, of plans whose p99 is `high`."""
    return high * [1.0 if plan.strategy == "graph" else UNBOUNDED for plan in plans]


def _reading(calibration: Calibration, cold_share: float) -> Reading:
    hot, cold = calibration.hot, calibration.cold
    if not cold_share or cold is None:
        return hot

    def mixed(first: Times, second: Times) -> Times:
        return Times(*(quantiles(first) * (1.0 - cold_share) + quantiles(second) * cold_share).tolist())

    return Reading(mixed(hot.call, cold.call), mixed(hot.row, cold.row))


def _families(calibration: Calibration) -> list[list[Walked]]:
    """Group what differs in ef only, ascending."""
    groups: dict[tuple[str, int], list[Walked]] = {}
    for walked in calibration.walked:
        groups.setdefault((walked.strategy, walked.prefix_dim), []).append(walked)
    return [sorted(group, key=lambda walked: walked.ef) for group in groups.values()]


def _fine(walks: list[Walked], k: int, calibration: Calibration, reading: Reading) -> Options:
    """Interpolate one family to a fine grid of ef and to k; beyond the largest k, ef grows with it."""
    ks = calibration.ks
    known, scale = min(k, ks[-1]), max(k / ks[-1], 1.0)
    every, walks = walks, [walk for walk in walks if walk.ef >= known]
    plans: list[Plan] = []
    recalls, errors, coarse = [], [], []
    if walks:
        efs = np.array([walk.ef for walk in walks], float)
        count = max(round(math.log(efs[-1] / efs[0], FINE_STEP)), 0) + 1
        fine = np.unique(np.rint(np.concatenate([efs, np.geomspace(efs[0], efs[-1], count)])))
        times = np.stack([quantiles(walk.coarse) for walk in walks])
        time = np.stack([np.interp(fine, efs, column) for column in times.T], axis=1)
        walked = walks[0].strategy
        for i, fraction in enumerate(calibration.fractions[: None if walked == "graph" else 1]):
            # of all: those too narrow for k tell of the smaller k that was measured
            recall, error = (part[len(every) - len(walks) :] for part in _at_k(every, i, fraction, known, ks))
            valid = recall >= 0.0
            if not valid.any():
                continue
            misses = np.log(np.maximum(1.0 - recall[valid], _LEAST_MISS))
            at = fine[fine >= efs[valid][0]]
            recalls.append(1.0 - np.exp(np.interp(np.log(at), np.log(efs[valid]), misses)))
            errors.append(np.interp(np.log(at), np.log(efs[valid]), error[valid]))
            coarse.append(time[fine >= efs[valid][0]] * (scale if walked == "graph" else 1.0))
            for ef in np.ceil(at * scale).astype(int).tolist():
                candidates = max(round(ef * fraction), k)
                width = walks[0].prefix_dim
                plans.append(
                    Plan(strategy=walked, prefix_dim=width, ef=max(ef, candidates), candidates=candidates)
                )
    return _options(plans, recalls, errors, coarse, [reading.of([plan.candidates for plan in plans])])


def _at_k(
    walks: list[Walked], place: int, fraction: float, k: int, ks: tuple[int, ...]
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Return each walk's recall@k and its error, between the measured k; -1 where it is not known."""
    above = next(i for i, known in enumerate(ks) if known >= k)

    def column(name: str, known: int) -> NDArray[np.float64]:
        return np.array([getattr(walk, name)[known][place] for walk in walks])

    high = column("recall", ks[above]), column("error", ks[above])
    if ks[above] == k or above == 0:
        return high
    low = column("recall", ks[above - 1]), column("error", ks[above - 1])
    at = math.log(k / ks[above - 1]) / math.log(ks[above] / ks[above - 1])
    with np.errstate(divide="ignore", invalid="ignore"):
        misses = [np.log(np.maximum(1.0 - recall, _LEAST_MISS)) for recall in (low[0], high[0])]
    recall = 1.0 - np.exp(misses[0] + at * (misses[1] - misses[0]))
    error = low[1] + at * (high[1] - low[1])
    # too narrow for the larger k: as the smaller k with a beam that is as much narrower
    efs = np.array([walk.ef for walk in walks], float)
    known = low[0] >= 0.0
    alone = (high[0] < 0.0) & (efs * fraction >= k)
    if known.any():
        alone &= efs * ks[above - 1] / k >= efs[known][0]  # of beams that no walk had nothing is known
        narrower = np.interp(np.log(efs * ks[above - 1] / k), np.log(efs[known]), misses[0][known])
        recall[alone], error[alone] = (1.0 - np.exp(narrower))[alone], low[1][alone]
        if (between := known & (high[0] >= 0.0)).any():  # a wider beam is known to reach no more
            recall[alone] = np.minimum(recall[alone], recall[between][0])
    recall[~known | ((high[0] < 0.0) & ~alone)] = -1.0
    return recall, error


def _early(calibration: Calibration, k: int, reading: Reading | None) -> Options:
    """Return the plans that stop early, with plans between those that differ in their patience only."""
    plans: list[Plan] = []
    recalls, errors = [], []
    coarse: list[Quantiles] = []
    rescore: list[Quantiles] = []
    groups: dict[tuple[int, int, float], list[Stopped]] = {}
    for stopped in calibration.stopped if reading is None else ():  # row by row, cold reads take longer
        if stopped.k == k:
            plan = stopped.plan
            groups.setdefault((plan.ef, plan.candidates, plan.misses), []).append(stopped)
    for group in groups.values():
        group.sort(key=lambda stopped: stopped.plan.early_stop)
        stops = np.array([stopped.plan.early_stop for stopped in group])
        between = np.geomspace(stops[0], stops[-1], 4 * len(stops) - 3).round().astype(np.int64)
        fine = np.unique(np.concatenate([stops, between]))
        plans += [msgspec.structs.replace(group[0].plan, early_stop=stop) for stop in fine.tolist()]
        misses = [math.log(max(1.0 - stopped.recall, _LEAST_MISS)) for stopped in group]
        recalls.append(1.0 - np.exp(np.interp(fine, stops, misses)))
        errors.append(np.interp(fine, stops, [stopped.error for stopped in group]))
        for stage, times in (("coarse", coarse), ("rescore", rescore)):
            columns = np.stack([quantiles(getattr(stopped, stage)) for stopped in group]).T
            times.append(np.stack([np.interp(fine, stops, column) for column in columns], axis=1))
    return _options(plans, recalls, errors, coarse, rescore)


def _options(
    plans: list[Plan],
    recalls: list[NDArray[np.float64]],
    errors: list[NDArray[np.float64]],
    coarse: list[Quantiles],
    rescore: list[Quantiles],
) -> Options:
    if not plans:
        none = np.empty((0, 4))
        return Options([], np.empty(0), np.empty(0), none, none, none)
    stages = np.concatenate(coarse), np.concatenate(rescore)
    return Options(plans, np.concatenate(recalls), np.concatenate(errors), *stages, np.empty((0, 4)))
