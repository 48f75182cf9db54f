"""What an ingestion asks at its end, in about a second: whether the prefix carries."""

from __future__ import annotations

import numpy as np

from tiered_index.fitness.intervals import Bootstrap, stands_out
from tiered_index.fitness.ranks import View, places_of, rankings
from tiered_index.fitness.sample import stored_sample
from tiered_index.index import Index

MIN_ROWS = 10_000
"""Smaller indexes are not judged: a sample says little of them, and scoring every row is quick."""

ROWS = 8_192
QUERIES = 200
K = 10
_SHUFFLES = 8

FEW, MANY = 20, 100
"""Candidates out of the sample: few, for a larger index needs more for the same; and what plans rescore."""

ENOUGH_OF_FEW = 0.9
"""A prefix whose first FEW candidates hold so much does, Matryoshka or not. 512 of 1,024 shuffled dimensions
and 256 of 384 of a model that is not Matryoshka hold 0.91, a half and two thirds as many 0.71 and 0.68."""

ENOUGH_OF_MANY = 0.8
"""Below, the prefix is too short even of Matryoshka vectors: 64 of 1,024 dimensions hold 0.70 to 0.78, 128
hold 0.84 to 0.90."""


def doubt(index: Index) -> str | None:
    """Return what speaks against the prefix of an index, in words; None if nothing does.

    A sample of stored vectors, some of them as queries, is ranked by the prefix and by eight choices of as
    many dimensions at random. Reads at most ``ROWS + QUERIES`` vectors.
    """
    config = index.config
    width, full = config.prefix_dim, config.store_dim
    if len(index) < MIN_ROWS or width == full:
        return None
    sample = stored_sample(index, ROWS, QUERIES)
    random = np.random.default_rng(_SHUFFLES)
    shuffles = [View([width], K, order=random.permutation(full)) for _ in range(_SHUFFLES)]
    plain, *shuffled = rankings(
        sample.docs, sample.queries, [View([width, full], MANY), *shuffles], config.metric
    )
    truth = plain[full][:, :K]
    places = places_of(truth, plain[width])
    by_chance = np.stack([(places_of(truth, found[width]) < K).mean(axis=1) for found in shuffled])
    better = stands_out((places < K).mean(axis=1), by_chance, Bootstrap(len(places)))
    few, many = float((places < FEW).mean()), float((places < MANY).mean())
    among = f"among {len(sample.docs):,} of the rows"
    so = (
        "Searches will miss rows, or rescore many. "
        f"'tiered-index fitness {index.path}' tells which prefix_dim would do, and whether a rotation helps; "
        "check_prefix=False leaves this check out."
    )
    points = f"{100 * better.low:+.1f} to {100 * better.high:+.1f} points"
    if better.low <= 0 and few < ENOUGH_OF_FEW:
        return (
            f"These vectors do not look Matryoshka: {among}, the first {width} of {full} dimensions find no "
            f"more of the true top {K} than any {width} ({points}), and their first {FEW} candidates hold "
            f"{few:.0%} of it. {so}"
        )
    if many < ENOUGH_OF_MANY:
        return (
            f"A prefix of {width} of {full} dimensions is short: {among}, its first {MANY} candidates hold "
            f"{many:.0%} of the true top {K}. {so}"
        )
    return None
