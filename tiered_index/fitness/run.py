"""Measures what each prefix finds, beside shuffled and rotated dimensions."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from time import perf_counter
from typing import Any, get_args

import numpy as np

from tiered_index.config import (
    DEFAULT_GRAPH_DEGREE,
    PREFIX_DIM_STEP,
    Metric,
    check_prefix_dim,
    in_range,
    one_of,
)
from tiered_index.errors import ParameterError
from tiered_index.fitness.figures import MILLION, Figures, rank
from tiered_index.fitness.qrels import Judge, check_installed, read_qrels
from tiered_index.fitness.report import Fitness, Keep
from tiered_index.fitness.sample import Sample, Wanted, take_sample
from tiered_index.fitness.verdict import Case, judge
from tiered_index.stats import graph_node_bytes

CANDIDATES = (20, 50, 100, 200)
ROWS = 100_000
QUERIES = 500
_FLOAT32_BYTES = 4


def fitness(
    vectors: Any,
    queries: Any = None,
    qrels: Any = None,
    *,
    k: int = 10,
    dims: Sequence[int] | None = None,
    candidates: Sequence[int] = CANDIDATES,
    share: float = 0.95,
    within: int = 100,
    keep: Keep = "recall",
    prefix_dim: int | None = None,
    metric: Metric | None = None,
    id_column: str | None = "id",
    vector_column: str | None = None,
    rows: int = ROWS,
    max_queries: int = QUERIES,
    price_gb_month: float | None = None,
    seed: int = 0,
    progress: Callable[[str], None] = lambda _: None,
) -> Fitness:
    """Measure what the leading dimensions of a model's vectors are good for.

    Every prefix ranks a sample of the documents, exactly, and is compared with full vectors; with as many
    dimensions drawn at random (eight permutations of them, of documents and queries alike), which tells
    whether leading ones are special; and with those of a PCA of the documents. Intervals are of 95 %:
    percentile bootstrap over the queries, paired for differences; for the comparison with permutations also
    by their own spread.

    Parameters
    ----------
    vectors : path, array, Arrow stream or Index
        Documents: anything that :func:`tiered_index.ingest` takes, or an index, open or by its folder.
    queries : path, array or Arrow stream, optional
        Real ones. Without them an index's queries of before are taken, else rows are held out, for which
        figures are rosier than for real queries.
    qrels : path, mapping or table, optional
        Judgements, for nDCG and MRR: a TREC file, a Parquet file or table of the columns query_id, doc_id
        and relevance, or a mapping of mappings. Rows of arrays have their numbers for ids.
    k : int
        Results a query.
    dims : sequence of int, optional
        Prefixes to measure, multiples of 8; half of all dimensions and all of them are measured too.
    candidates : sequence of int
        Numbers of candidates to rescore, at least k.
    share : float
        What the smallest prefix must keep, above 0 and at most 1.
    within : int
        After rescoring at most so many candidates.
    keep : {"recall", "ndcg"}
        Of what. nDCG needs `qrels`.
    prefix_dim : int, optional
        A prefix to say something about; an index's own by default.
    metric : {"cosine", "dot"}, default "cosine"
        How vectors are compared; an index's own.
    id_column, vector_column : str, optional
        Of tables, as ingestion takes them; ids are looked at only with `qrels`.
    rows, max_queries : int
        How many are drawn at most; of long vectors fewer rows, so that the sample takes at most 512 MB.
    price_gb_month : float, optional
        Dollars for a GB of memory and a month.
    seed : int
        Draws sample and permutations.
    progress : callable
        Told, in a few words, what is being done.

    Returns
    -------
    Fitness
        Figures, verdict and recommendations; ``print`` it, or ``save`` a page.

    Raises
    ------
    InvalidInputError
        One of its subclasses, naming the value and the row.
    MissingDependencyError
        `qrels` without ir-measures.
    """
    started = perf_counter()
    k = in_range("k", k, 1)
    wanted = Wanted(
        in_range("rows", rows, k), in_range("max_queries", max_queries, 2), id_column, vector_column, seed
    )
    one_of("keep", keep, get_args(Keep))
    _check_number("share", share, 1.0)
    if price_gb_month is not None:
        _check_number("price_gb_month", price_gb_month)
    if metric is not None:
        one_of("metric", metric, get_args(Metric))
    asked = {in_range("candidates", count, k) for count in _several("candidates", candidates)}
    steps = sorted(asked | {in_range("within", within, k)})
    if keep == "ndcg" and qrels is None:
        raise ParameterError('keep="ndcg" needs qrels')
    judged = None
    if qrels is not None:
        check_installed()
        judged = read_qrels(qrels)
    progress("reading the sample")
    sample = take_sample(vectors, queries, judged, metric, wanted)
    if steps[-1] > len(sample.docs):
        raise ParameterError(f"candidates must be at most {len(sample.docs)}, the rows, not {steps[-1]}")
    prefix_dim = sample.prefix_dim if prefix_dim is None else prefix_dim
    measured = _dims(sample.docs.shape[1], dims, prefix_dim)
    judge_of = None if judged is None else Judge(judged, sample.query_ids, sample.doc_ids, k)
    progress("ranking by every prefix")
    ranked = rank(sample, measured, k, steps[-1], seed)
    figures = Figures(sample, ranked, judge_of, k, steps)
    prefixes = tuple(figures.prefix(dim, price_gb_month) for dim in measured)
    case = Case(figures.advantage(), prefixes, sample.query_source, share, within, keep, k, prefix_dim)
    verdict = judge(case)
    dim = measured[-1]
    return Fitness(
        kind=verdict.kind,
        verdict=verdict.sentences,
        cautions=_cautions(sample),
        advantage=case.advantage,
        smallest=verdict.smallest,
        smallest_rotated=verdict.smallest_rotated,
        rotation="pca" if verdict.rotation_helps and sample.query_source != "held out" else None,
        dim=dim,
        k=k,
        metric=sample.metric,
        dtype=sample.dtype,
        rows=len(sample.docs),
        total_rows=sample.total_rows,
        queries=len(sample.queries),
        judged_queries=0 if judge_of is None else len(judge_of.queries),
        query_source=sample.query_source,
        share=share,
        keep=keep,
        within=within,
        prefix_dim=prefix_dim,
        prefixes=prefixes,
        full_bytes=MILLION * dim * np.dtype(sample.dtype).itemsize,
        full_hnsw_bytes=MILLION * (_FLOAT32_BYTES * dim + graph_node_bytes(DEFAULT_GRAPH_DEGREE)),
        price_gb_month=price_gb_month,
        seconds=perf_counter() - started,
    )


def default_dims(dim: int) -> list[int]:
    """Return powers of two and one and a half times them, from about a sixteenth of `dim` on, and `dim`."""
    first = max(PREFIX_DIM_STEP, 1 << (max(dim // 16, 1).bit_length() - 1))
    powers = [first << i for i in range(dim.bit_length()) if first << i < dim]
    between = [p + p // 2 for p in powers if p + p // 2 < dim and (p // 2) % PREFIX_DIM_STEP == 0]
    return sorted({*powers, *between, dim})


def _dims(dim: int, asked: Sequence[int] | None, prefix_dim: int | None) -> list[int]:
    found = {dim, dim // 2 // PREFIX_DIM_STEP * PREFIX_DIM_STEP}
    wanted = default_dims(dim) if asked is None else _several("dims", asked)
    found |= {check_prefix_dim(one, dim) for one in wanted}
    if prefix_dim is not None:
        found.add(check_prefix_dim(prefix_dim, dim))
    return sorted(found)


def _several(name: str, values: Any) -> list[Any]:
    if isinstance(values, str) or not isinstance(values, Iterable):
        raise ParameterError(f"{name} must be a sequence of whole numbers, not {values!r}")
    return list(values)


def _check_number(name: str, value: Any, most: float = float("inf")) -> None:
    number = isinstance(value, int | float) and not isinstance(value, bool)
    if not number or not 0 < value <= most or value == float("inf"):
        raise ParameterError(
            f"{name} must be a number above 0{'' if most > 1 else ' and at most 1'}, not {value!r}"
        )


def _cautions(sample: Sample) -> tuple[str, ...]:
    said = [
        (
            f"Measured on {len(sample.docs):,} of {sample.total_rows:,} rows with {len(sample.queries):,} "
            "queries, by exact rankings; the graph misses a little more, and more rows need more candidates."
        )
    ]
    if sample.query_source == "held out":
        said.append(
            "Stored vectors were held out for queries, and are none: such figures are often too rosy, above "
            "all for a rotation, which was fitted to their like. Give real queries."
        )
    if sample.query_source == "live":
        said.append("The queries are those that the index was asked or calibrated with before.")
    return tuple(said)
