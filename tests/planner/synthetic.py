"""Calibrations that follow simple laws, drawn from a seed."""

from __future__ import annotations

from typing import Any

import numpy as np

from tiered_index.planner.model import FRACTIONS, Calibration, Stopped, Walked
from tiered_index.planner.plan import Plan
from tiered_index.planner.times import Reading, Times

KS = (1, 10, 100)
ROWS = 100_000
WIDTH = 256
EFS = np.array([4, 8, 16, 32, 64, 128, 256, 512, 1024])
SCANS = (1, 4, 16, 64, 256, 1024)
STOPS = (4, 9, 18, 35)


def times(mean: float, spread: float = 0.5) -> Times:
    return Times(mean, 0.95 * mean, (1 + spread) * mean, (1 + 2 * spread) * mean)


def calibration(seed: int, **changes: Any) -> Calibration:
    """Return a calibration whose recalls and times rise with effort."""
    draw = np.random.default_rng(seed)
    hot = Reading(times(draw.uniform(0.001, 0.01)), times(draw.uniform(0.0002, 0.002)))
    walked = [*_scans(draw)]
    for width in (WIDTH, WIDTH // 2)[: draw.integers(1, 3)]:
        walked += _walks(draw, width)
    fields = {
        "fingerprint": "a machine",
        "generation": 3,
        "rows": ROWS,
        "made": "2026-01-01T00:00:00+00:00",
        "source": "given",
        "queries": 200,
        "asked_ks": KS,
        "ks": KS,
        "walked": tuple(walked),
        "stopped": tuple(_stopped(draw, hot)),
        "hot": hot,
        "cold": Reading(times(0.1), times(0.02)),
        "rest": times(0.01),
        "exact": times(draw.uniform(20, 50), 0.1),
        "margins": dict.fromkeys(KS, ((0.0, 0.5), (2.0, 0.9), (4.0, 1.0))),
        "scores": dict.fromkeys(KS, (0.8, 0.1, 0.6, 0.05)),
        "seconds": 1.0,
    }
    return Calibration(**{**fields, **changes})


ERROR = 0.004
"""The same everywhere: then a plan that is beaten in recall is beaten at every floor too."""


def _walks(draw: np.random.Generator, width: int) -> list[Walked]:
    efs = np.sort(draw.choice(EFS, draw.integers(3, len(EFS) + 1), replace=False))
    efs = np.union1d(efs, EFS[-2:])  # so that every k has plans
    coarse = (
        0.01 + width / WIDTH * np.cumsum(draw.uniform(0.5, 1.5, len(efs)) * np.diff(efs, prepend=0)) / 500
    )
    slope, hard = draw.uniform(0.6, 1.4), draw.uniform(0.3, 1.0) * (2 * WIDTH / width - 1)
    tables: list[dict[int, tuple[float, ...]]] = [{} for _ in efs]
    for k in KS:
        scale = hard * k**0.3 * draw.uniform(0.7, 1.0)
        misses = np.minimum(scale * (efs / 3.0) ** -slope * draw.uniform(0.8, 1.0, len(efs)), 1.0)
        misses = np.minimum.accumulate(misses)
        for table, ef, missed in zip(tables, efs.tolist(), misses, strict=True):
            table[k] = tuple(
                float(1 - min(missed * fraction**-0.3, 1.0)) if round(ef * fraction) >= k else -1.0
                for fraction in FRACTIONS
            )
    error = {k: (ERROR,) * len(FRACTIONS) for k in KS}
    return [
        Walked("graph", width, ef, times(float(time)), table, error)
        for ef, time, table in zip(efs.tolist(), coarse, tables, strict=True)
    ]


def _scans(draw: np.random.Generator) -> list[Walked]:
    time, slope = draw.uniform(1, 4), draw.uniform(0.7, 1.5)
    nothing = (-1.0,) * (len(FRACTIONS) - 1)
    return [
        Walked(
            "scan",
            WIDTH,
            size,
            times(float(time + size / 5_000)),
            {k: (1 - min((size / k + 0.5) ** -slope, 1.0) if size >= k else -1.0, *nothing) for k in KS},
            dict.fromkeys(KS, (ERROR, *nothing)),
        )
        for size in SCANS
    ]


def _stopped(draw: np.random.Generator, hot: Reading) -> list[Stopped]:
    found = []
    for k in KS:
        for ef in (4 * (k + 12), 10 * (k + 12)):
            misses = np.sort(draw.uniform(0.001, 0.4, len(STOPS)))[::-1]
            rows = np.cumsum(draw.uniform(1, ef / 2, len(STOPS))) + k
            for stop, missed, read in zip(STOPS, misses.tolist(), rows.tolist(), strict=True):
                plan = Plan(strategy="graph", prefix_dim=WIDTH, ef=ef, candidates=2 * ef, early_stop=stop)
                coarse, rescore = times(0.01 + read / 600, 0.8), Times(*hot.of(read).tolist())
                total = times(coarse.mean + rescore.mean + 0.01, 0.6)
                found.append(Stopped(k, plan, 1 - missed, ERROR, coarse, rescore, total, read))
    return found
