"""A plan: what a search does, in numbers."""

from __future__ import annotations

import math
from typing import Literal

import msgspec

from tiered_index.config import check_prefix_dim, in_range
from tiered_index.errors import ParameterError

Strategy = Literal["graph", "scan", "exact"]

BEYOND_K = 12
"""Beams that find as much for two k are to each other as those k are, with so much added to each."""

MAX_K = 16_384
MAX_EF = 65_536

DEFAULT_EF = 128
DEFAULT_CANDIDATES = 128
"""On 250,000 sentences with titles as queries, 256 of 1,024 dimensions, M=24, recall@10 and time were
.962 in 282 us at ef=96 with 96 candidates; .969 in 329 us at 128 with 96, .973 in 351 us with 128; .977 in
389 us at 144 with 144. HNSW on all dimensions took 308 us for .967, but 428 us for .973."""

CANDIDATES_PER_K = 5
"""Candidates for each result asked for, beyond k = 25. There, recall@100 was .904 in 0.77 ms with 300
candidates, .933 in 1.07 ms with 400 and .950 in 1.23 ms with 500."""


SKETCHED_CANDIDATES = {1: (2.0, 16), 2: (1.3, 7), 4: (1.15, 4)}
"""Candidates for each result, and more, where sketches of so many bits order what the walk found. Of 128, and
for recall@100 of 500, they kept .972, .973 and .974 where all had .974, and .947, .946 and .950 of .950."""


class Plan(msgspec.Struct, frozen=True, kw_only=True):
    """What a search does.

    Attributes
    ----------
    strategy : {"graph", "scan", "exact"}
        How candidates are found: by walking the graph, by scoring every prefix, or not at all, because
        every full vector is scored.
    prefix_dim : int
        Leading dimensions that find candidates; 0 for "exact".
    ef : int
        Beam width of the walk; 0 for "exact".
    candidates : int
        Rows that are rescored by their full vectors; 0 for "exact", which scores all.
    early_stop : int
        When the walk ends before ef is spent: after so many rows in a row whose links led to nothing among
        the best k and a dozen more. 0 spends all. Where FAISS walks, all is spent.
    misses : float
        When rescoring ends before all candidates are spent: as soon as no more than this many of the best k
        are expected among those that remain. 0 spends all.
    """

    strategy: Strategy
    prefix_dim: int
    ef: int
    candidates: int
    early_stop: int = 0
    misses: float = 0.0


EXACT = Plan(strategy="exact", prefix_dim=0, ef=0, candidates=0)


def make_plan(
    k: int,
    width: int,
    *,
    prefix_dim: int | None = None,
    ef: int | None = None,
    candidates: int | None = None,
    exact: bool = False,
    sketch: int = 0,
) -> Plan:
    """Return the default plan for k results, with what the caller fixed.

    Parameters
    ----------
    k : int
        Results a query.
    width : int
        Dimensions of the coarse tier.
    prefix_dim, ef, candidates : int, optional
        Fixed by the caller. An `ef` below `candidates` is raised to it, as FAISS does.
    exact : bool
        Score every full vector; excludes the three above.
    sketch : int
        Bits of the sketches that order what the walk finds, or 0.

    Raises
    ------
    ParameterError
        A number out of range, or fewer candidates or a narrower beam than k.
    """
    in_range("k", k, 1, MAX_K)
    if exact:
        fixed = {"prefix_dim": prefix_dim, "ef": ef, "candidates": candidates}
        given = [name for name, value in fixed.items() if value is not None]
        if given:
            raise ParameterError(f"exact=True scores every vector: leave out {', '.join(given)}")
        return EXACT
    prefix_dim = width if prefix_dim is None else check_prefix_dim(prefix_dim, width)
    if ef is not None:
        in_range("ef", ef, k, MAX_EF)
    widest = max(DEFAULT_CANDIDATES, CANDIDATES_PER_K * k)
    if candidates is None:
        candidates = widest
        if sketch and prefix_dim == width:  # of fewer dimensions sketches do not know what lies between
            per_result, more = SKETCHED_CANDIDATES[sketch]
            candidates = min(math.ceil(per_result * k) + more, widest)
            ef = widest if ef is None else ef
        if ef is not None:
            candidates = min(candidates, ef)
    else:
        in_range("candidates", candidates, k, MAX_EF)
    ef = max(candidates, DEFAULT_EF if ef is None else ef)
    return Plan(strategy="graph", prefix_dim=prefix_dim, ef=ef, candidates=candidates)
