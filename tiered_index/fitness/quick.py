"""What an ingestion asks at its end, in about a second: whether the prefix carries."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from tiered_index.config import PREFIX_DIM_STEP
from tiered_index.fitness.intervals import Bootstrap, Estimate, stands_out
from tiered_index.fitness.ranks import Rows, View, places_of, rankings
from tiered_index.fitness.sample import Sample, stored_sample
from tiered_index.index import Index

MIN_ROWS = 10_000
"""Smaller indexes are not judged: a sample says little of them, and scoring every row is quick."""

ROWS = 8_192
QUERIES = 200
K = 10
_SHUFFLES = 8

FEW, MANY = 20, 100
"""Candidates out of the sample: few, for a larger index needs more for the same; and what plans rescore."""

SPECIAL = 0.015
"""What leading dimensions must find more than others, at the interval's lower end. In six samples each it was
0.035 and more for Matryoshka vectors, 0.005 and less for two kinds of others."""

ENOUGH_OF_FEW = 0.9
"""A prefix whose first FEW candidates hold so much does, Matryoshka or not. 512 of 1,024 shuffled dimensions
and 256 of 384 of a model that is not Matryoshka hold 0.91, a half and two thirds as many 0.71 and 0.68."""

ENOUGH_OF_MANY = 0.8
"""Below, the prefix is too short even of Matryoshka vectors: 64 of 1,024 dimensions hold 0.70 to 0.78, 128
hold 0.84 to 0.90."""


class Glance(NamedTuple):
    """What is seen of a prefix at a glance.

    Attributes
    ----------
    advantage : Estimate
        By how much leading dimensions find more of the true top than others.
    few, many : float
        Shares of the true top among the first FEW and MANY candidates.
    """

    advantage: Estimate
    few: float
    many: float


def glance(sample: Sample, width: int) -> Glance:
    """Measure a prefix, and whether leading dimensions are special.

    The fewer they are the clearer it shows, so it is the mean of three prefixes, up to `width` and to half of
    all. At 384 of 1,024 alone, one sample in eight of Matryoshka vectors looked like any other.
    """
    full = sample.docs.shape[1]
    most = min(width, full // 2)
    dims = sorted({max(most // part // PREFIX_DIM_STEP, 1) * PREFIX_DIM_STEP for part in (1, 2, 4)})
    random = np.random.default_rng(_SHUFFLES)
    shuffles = [View(dims, K, order=random.permutation(full)) for _ in range(_SHUFFLES)]
    views = [View(sorted({*dims, width, full}), MANY), *shuffles]
    plain, *shuffled = rankings(sample.docs, sample.queries, views, sample.metric)
    truth = plain[full][:, :K]

    def found(ranked: dict[int, Rows]) -> NDArray[np.float64]:
        shares = [(places_of(truth, ranked[dim][:, :K]) < K).mean(axis=1) for dim in dims]
        mean: NDArray[np.float64] = np.mean(shares, axis=0)
        return mean

    by_chance = np.stack([found(ranked) for ranked in shuffled])
    places = places_of(truth, plain[width])
    return Glance(
        stands_out(found(plain), by_chance, Bootstrap(len(places))),
        float((places < FEW).mean()),
        float((places < MANY).mean()),
    )


def doubt(index: Index) -> str | None:
    """Return what speaks against the prefix of an index, in words; None if nothing does.

    A sample of stored vectors, some of them as queries, is ranked by leading dimensions and by eight choices
    of as many at random. Reads at most ``ROWS + QUERIES`` vectors.
    """
    width, full = index.config.prefix_dim, index.config.store_dim
    if len(index) < MIN_ROWS or width == full or index.config.rotation != "none":
        return None  # a rotation was asked for, and what it does is told by `fitness` alone
    seen = glance(stored_sample(index, ROWS, QUERIES), width)
    here = f"of {ROWS:,} rows that were looked at,"
    so = (
        "Searches will miss rows, or rescore many. "
        f"'tiered-index fitness {index.path}' tells which prefix_dim would do, and whether a rotation helps; "
        "check_prefix=False leaves this check out."
    )
    low, high = 100 * seen.advantage.low, 100 * seen.advantage.high
    if seen.advantage.low < SPECIAL and seen.few < ENOUGH_OF_FEW:
        return (
            f"These vectors do not look Matryoshka: {here} leading dimensions find no more of the true "
            f"top {K} than others ({low:+.1f} to {high:+.1f} points), and by the first {width} of {full} the "
            f"best {FEW} hold {seen.few:.0%} of it. {so}"
        )
    if seen.many < ENOUGH_OF_MANY:
        return (
            f"A prefix of {width} of {full} dimensions is short: {here} the best {MANY} by it hold "
            f"{seen.many:.0%} of the true top {K}. {so}"
        )
    return None
