"""What each prefix finds, from rankings."""

from __future__ import annotations

from typing import NamedTuple

import msgspec
import numpy as np
from numpy.typing import NDArray

from tiered_index.blas import product
from tiered_index.config import DEFAULT_GRAPH_DEGREE
from tiered_index.fitness.energy import energies, gaps
from tiered_index.fitness.intervals import Bootstrap, Estimate, stands_out
from tiered_index.fitness.qrels import Judge, Quality
from tiered_index.fitness.ranks import Rows, View, places_of, rankings
from tiered_index.fitness.report import Found, Prefix
from tiered_index.fitness.sample import Sample
from tiered_index.rotation import fit_rotation
from tiered_index.stats import graph_node_bytes

SHUFFLES = 8
FIT_ROWS = 20_000
"""Documents that the rotation is fitted to."""

MILLION = 1_000_000
_CODE_BYTES = 1  # of a dimension in a graph


class Ranked(NamedTuple):
    """Rankings by prefix dimension, best rows first; shuffled ones by permutation and dimension."""

    plain: dict[int, Rows]
    rotated: dict[int, Rows]
    shuffled: list[dict[int, Rows]]
    rotation: NDArray[np.float32]


def rank(sample: Sample, dims: list[int], k: int, count: int, seed: int) -> Ranked:
    """Rank by every prefix: plain, rotated, and as many dimensions at random."""
    random = np.random.default_rng([seed, SHUFFLES])
    dim = dims[-1]
    some = random.choice(len(sample.docs), min(FIT_ROWS, len(sample.docs)), replace=False)
    rotation = fit_rotation(sample.docs[np.sort(some)])
    halves = [d for d in dims if d <= dim // 2]
    shuffles = [View(halves, k, order=random.permutation(dim)) for _ in range(SHUFFLES)]
    plain, rotated, *shuffled = rankings(
        sample.docs,
        sample.queries,
        [View(dims, count), View(dims, count, rotation=rotation), *shuffles],
        sample.metric,
    )
    return Ranked(plain, rotated, shuffled, rotation)


class Figures:
    """Turns rankings into figures."""

    def __init__(
        self, sample: Sample, ranked: Ranked, judge_of: Judge | None, k: int, steps: list[int]
    ) -> None:
        self._k, self._steps = k, steps
        self._dims = list(ranked.plain)
        self._boot = Bootstrap(len(sample.queries))
        self._ranked = ranked
        full = ranked.plain[self._dims[-1]]
        self._truth = full[:, :k]
        self._shuffled = {
            dim: np.stack([self._recall(found[dim], k) for found in ranked.shuffled])
            for dim in ranked.shuffled[0]
        }
        self._alone = {dim: self._recall(found, k) for dim, found in ranked.plain.items()}
        self._energy = energies(sample.docs, self._dims)
        self._rotated_energy = energies(sample.docs, self._dims, ranked.rotation)
        pairs = np.stack([np.repeat(np.arange(len(self._truth)), k), self._truth.reshape(-1)])
        self._gap = gaps(sample.docs, sample.queries, pairs, self._dims)
        self._judge = judge_of
        self._sample = sample
        if judge_of is not None:
            self._judge_boot = Bootstrap(len(judge_of.queries))
            self._full_quality = judge_of.quality(full)
            self._judged_gap = gaps(sample.docs, sample.queries, judge_of.pairs, self._dims)

    def _recall(self, found: Rows, candidates: int) -> NDArray[np.float64]:
        """Return the share of each query's true best that is among its first candidates."""
        shares: NDArray[np.float64] = (places_of(self._truth, found[:, :candidates]) < candidates).mean(
            axis=1
        )
        return shares

    def advantage(self) -> Estimate:
        """Estimate the mean advantage of leading dimensions over shuffled ones."""
        alone = np.mean([self._alone[dim] for dim in self._shuffled], axis=0)
        return stands_out(alone, np.mean(list(self._shuffled.values()), axis=0), self._boot)

    def prefix(self, dim: int, price: float | None) -> Prefix:
        """Put together what is known of a prefix."""
        shuffled = self._shuffled.get(dim)
        coarse = MILLION * (_CODE_BYTES * dim + graph_node_bytes(DEFAULT_GRAPH_DEGREE))
        return Prefix(
            dim=dim,
            alone=self._found(dim, 0),
            rescored=tuple(self._found(dim, count) for count in self._steps),
            shuffled_recall=() if shuffled is None else tuple(shuffled.mean(axis=1).tolist()),
            advantage=None if shuffled is None else stands_out(self._alone[dim], shuffled, self._boot),
            gap=self._gap[dim],
            judged_gap=None if self._judge is None else self._judged_gap[dim],
            energy=self._energy[dim],
            rotated_energy=self._rotated_energy[dim],
            coarse_bytes=coarse,
            dollars=None if price is None else price * coarse / 1e9,
        )

    def _found(self, dim: int, candidates: int) -> Found:
        plain = self._recall(self._ranked.plain[dim], candidates or self._k)
        rotated = self._recall(self._ranked.rotated[dim], candidates or self._k)
        found = Found(
            candidates=candidates,
            recall=self._boot.mean(plain),
            rotated_recall=self._boot.mean(rotated),
            rotation_gain=self._boot.mean(rotated - plain),
        )
        if self._judge is None:
            return found
        quality = self._quality(self._judge, dim, candidates)
        return msgspec.structs.replace(
            found,
            ndcg=self._judge_boot.mean(quality.ndcg),
            mrr=self._judge_boot.mean(quality.mrr),
            ndcg_share=self._judge_boot.ratio(quality.ndcg, self._full_quality.ndcg),
        )

    def _quality(self, judge_of: Judge, dim: int, candidates: int) -> Quality:
        """Measure a ranking by its prefix, or the best of its candidates by full vectors."""
        rows = self._ranked.plain[dim]
        if candidates:
            rows = self._rescored(rows[:, :candidates])
        return judge_of.quality(rows)

    def _rescored(self, rows: Rows) -> Rows:
        docs, queries = self._sample.docs, self._sample.queries
        best = np.empty((len(rows), self._k), np.int64)
        for query, some in enumerate(rows):
            best[query] = some[np.argsort(-product(docs[some], queries[query]), kind="stable")[: self._k]]
        return best
