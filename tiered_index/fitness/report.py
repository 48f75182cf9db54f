"""What was found of a model's prefixes: figures, and what follows from them in words."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Literal

import msgspec

from tiered_index.config import Dtype, Metric
from tiered_index.fitness.intervals import Estimate
from tiered_index.fitness.sample import QuerySource

Kind = Literal["matryoshka", "slightly", "no", "unclear"]
Keep = Literal["recall", "ndcg"]


class Found(msgspec.Struct, frozen=True, kw_only=True):
    """What a prefix finds after rescoring so many candidates, or alone.

    Attributes
    ----------
    candidates : int
        How many; 0 for the ranking of the prefix alone.
    recall : Estimate
        Share of the true best k.
    rotated_recall : Estimate
        The same of vectors that a PCA of the documents rotated.
    rotation_gain : Estimate
        By how much that is more.
    ndcg, mrr : Estimate or None
        By the judgements.
    ndcg_share : Estimate or None
        nDCG as a share of that of full vectors.
    """

    candidates: int
    recall: Estimate
    rotated_recall: Estimate
    rotation_gain: Estimate
    ndcg: Estimate | None = None
    mrr: Estimate | None = None
    ndcg_share: Estimate | None = None


class Prefix(msgspec.Struct, frozen=True, kw_only=True):
    """A number of leading dimensions.

    Attributes
    ----------
    dim : int
        How many.
    alone : Found
        By the ranking of the prefix alone.
    rescored : tuple of Found
        After rescoring candidates, by rising number.
    shuffled_recall : tuple of float
        Recall of as many dimensions drawn at random, one for each draw; empty for all dimensions.
    advantage : Estimate or None
        By how much the prefix alone finds more than such draws; the interval is for one more draw.
    gap : float
        Mean cosine of true neighbours less that of random pairs, in standard deviations of the latter.
    judged_gap : float or None
        The same of queries and documents that were judged relevant to them.
    energy, rotated_energy : float
        Share of the squared norm that the prefix holds, and that it holds of rotated vectors.
    coarse_bytes : int
        Codes and graph of a million rows, in memory.
    dollars : float or None
        What that costs a month, at the price that was given.
    """

    dim: int
    alone: Found
    rescored: tuple[Found, ...]
    shuffled_recall: tuple[float, ...]
    advantage: Estimate | None
    gap: float
    judged_gap: float | None
    energy: float
    rotated_energy: float
    coarse_bytes: int
    dollars: float | None = None

    def after(self, candidates: int) -> Found:
        """Return what is found after rescoring so many candidates."""
        return next(found for found in self.rescored if found.candidates == candidates)


class Choice(msgspec.Struct, frozen=True):
    """A prefix and a number of candidates to rescore."""

    prefix_dim: int
    candidates: int


class Fitness(msgspec.Struct, frozen=True, kw_only=True):
    """How far the leading dimensions of a model's vectors stand for all of them.

    ``print`` it for the verdict and a table, or :meth:`save` it as a page with plots.

    Attributes
    ----------
    kind : {"matryoshka", "slightly", "no", "unclear"}
        Whether leading dimensions carry clearly more than others, hardly more, no more; or that it cannot
        be told.
    verdict : tuple of str
        What was found, in sentences; the first is a headline.
    cautions : tuple of str
        What the figures do not say.
    advantage : Estimate
        By how much leading dimensions find more of the true neighbours than as many drawn at random, in the
        mean over the prefixes up to half of all dimensions; the interval is for one more draw.
    smallest : Choice
        The smallest prefix that keeps `share` (with its interval's lower end), and the fewest candidates for
        it, at most `within`; all dimensions keep everything.
    smallest_rotated : Choice
        The same of rotated vectors, by recall.
    rotation : {"pca"} or None
        "pca" where it clearly helps on real queries.
    dim, k, metric, dtype
        What was measured: dimensions, results a query, how vectors are compared, how they are on disk.
    rows, total_rows, queries, judged_queries : int
        Sampled rows, those of the source, queries, and those of them with judgements.
    query_source : {"given", "live", "held out"}
        Given, asked of the index before, or stored vectors.
    share, keep, within
        What a prefix must keep, of what, and after how many candidates at most.
    prefix_dim : int or None
        The index's, or the one that was asked about.
    prefixes : tuple of Prefix
        By rising dimension; the last has all.
    full_bytes : int
        Full vectors of a million rows, on disk.
    full_hnsw_bytes : int
        What full vectors of a million rows would take in memory as float32 under a graph.
    price_gb_month : float or None
        Dollars, for memory.
    seconds : float
        What it took.
    """

    kind: Kind
    verdict: tuple[str, ...]
    cautions: tuple[str, ...]
    advantage: Estimate
    smallest: Choice
    smallest_rotated: Choice
    rotation: Literal["pca"] | None
    dim: int
    k: int
    metric: Metric
    dtype: Dtype
    rows: int
    total_rows: int
    queries: int
    judged_queries: int
    query_source: QuerySource
    share: float
    keep: Keep
    within: int
    prefix_dim: int | None
    prefixes: tuple[Prefix, ...]
    full_bytes: int
    full_hnsw_bytes: int
    price_gb_month: float | None
    seconds: float

    @property
    def matryoshka(self) -> bool:
        """Whether leading dimensions clearly carry more than others."""
        return self.kind == "matryoshka"

    def __str__(self) -> str:
        return "\n".join([*self.verdict, "", *table_lines(self), "", legend(self), *self.cautions])

    def html(self) -> str:
        """Return a page with the verdict, plots and all figures, in one file.

        Raises
        ------
        MissingDependencyError
            matplotlib is not installed.
        """
        from tiered_index.fitness.page import page

        return page(self)

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write the page."""
        text = self.html()
        Path(path).write_text(text, encoding="utf-8")


def header(fitness: Fitness) -> tuple[str, ...]:
    """Return the heads of the short table."""
    after = [f"after {found.candidates}" for found in fitness.prefixes[0].rescored]
    judged = ["nDCG", f"after {fitness.within}"] if fitness.judged_queries else []
    price = ["$"] if fitness.price_gb_month is not None else []
    return ("dims", "alone", "random", "PCA", *after, *judged, "gap", "energy", "MB", *price)


def legend(fitness: Fitness) -> str:
    """Say what the columns of the short table are."""
    price = " and dollars a month" if fitness.price_gb_month is not None else ""
    return (
        f"recall@{fitness.k} of the prefix alone, of as many dimensions at random, of the prefix after a PCA "
        "rotation, and after rescoring candidates; gap: standard deviations between neighbours and random "
        f"pairs; energy: share of the squared norm; MB{price}: memory for a million rows."
    )


def rows_of(fitness: Fitness) -> list[tuple[str, ...]]:
    """Return the cells of the short table, a row for each prefix."""
    rows = []
    for p in fitness.prefixes:
        shuffled = f"{sum(p.shuffled_recall) / len(p.shuffled_recall):.3f}" if p.shuffled_recall else "-"
        judged = []
        if p.alone.ndcg is not None:
            after = p.after(fitness.within).ndcg
            judged = [f"{p.alone.ndcg.value:.3f}", "-" if after is None else f"{after.value:.3f}"]
        rows.append(
            (
                str(p.dim),
                f"{p.alone.recall.value:.3f}",
                shuffled,
                f"{p.alone.rotated_recall.value:.3f}",
                *(f"{found.recall.value:.3f}" for found in p.rescored),
                *judged,
                f"{p.gap:.1f}",
                f"{p.energy:.2f}",
                f"{p.coarse_bytes / 1e6:,.0f}",
                *([f"{p.dollars:.2f}"] if p.dollars is not None else []),
            )
        )
    return rows


def table_lines(fitness: Fitness) -> list[str]:
    """Return the short table as lines of text."""
    cells = [header(fitness), *rows_of(fitness)]
    widths = [max(len(row[i]) for row in cells) for i in range(len(cells[0]))]
    return ["  ".join(cell.rjust(width) for cell, width in zip(row, widths, strict=True)) for row in cells]
