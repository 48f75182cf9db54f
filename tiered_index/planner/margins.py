"""What the margin that an answer ends with tells of its recall."""

from __future__ import annotations

import numpy as np

MARGIN_BINS = 12

Curve = tuple[tuple[float, float], ...]
Pairs = list[tuple[float, float]]
"""Of each answer, its margin and its recall."""


def margin_curve(pairs: Pairs) -> Curve:
    """Return mean recall by margin in bins of equal size, made to rise (pool adjacent violators)."""
    ordered = sorted(pairs)
    bins = [part for part in np.array_split(np.array(ordered).reshape(-1, 2), MARGIN_BINS) if len(part)]
    blocks = [[part[:, 0].mean(), part[:, 1].mean(), len(part)] for part in bins]
    merged: list[list[float]] = []
    for block in blocks:
        merged.append(list(block))
        while len(merged) > 1 and merged[-2][1] > merged[-1][1]:
            (a, b, n), (c, d, m) = merged[-2:]
            merged[-2:] = [[(a * n + c * m) / (n + m), (b * n + d * m) / (n + m), n + m]]
    return tuple((float(margin), float(recall)) for margin, recall, _ in merged)


def at(curve: Curve, place: float) -> float:
    """Return what a curve tells at a place, between its points and beyond them as at the last."""
    places, values = zip(*curve, strict=True)
    return float(np.interp(place, places, values))


def claim_of(curve: Curve, pairs: Pairs) -> float:
    """Return the mean recall that the margins of a plan's answers tell.

    Of walks that end early it is too much, of wide ones too little: with a hundred results, 250,000 rows
    and titles as queries, .89 where .82 was found, and .96 where .98 was.
    """
    return float(np.mean([at(curve, margin) for margin, _ in pairs]))
