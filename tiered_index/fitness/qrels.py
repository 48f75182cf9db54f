"""Judgements of relevance: TREC files, tables and mappings; nDCG and MRR by ir-measures."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from tiered_index.errors import DuplicateIdError, IdError, MissingDependencyError, SourceError
from tiered_index.fitness.ranks import Rows

COLUMNS = ("query_id", "doc_id", "relevance")
"""Of a table of judgements."""

_TREC_FIELDS = 4


class Qrels(NamedTuple):
    """Judgements, one an element; ids as strings."""

    queries: list[str]
    docs: list[str]
    relevance: list[int]


class Quality(NamedTuple):
    """nDCG@k and MRR@k, one value a judged query."""

    ndcg: NDArray[np.float64]
    mrr: NDArray[np.float64]


def read_qrels(source: Any) -> Qrels:
    """Read judgements of relevance.

    Parameters
    ----------
    source : path, mapping or table
        A TREC file of lines ``query 0 document relevance``; a Parquet file, or a table with
        ``__arrow_c_stream__``, of the columns query_id, doc_id and relevance; or a mapping of query ids to
        mappings of document ids to whole numbers.

    Raises
    ------
    SourceError
        Not readable as any of them; names the row, counted from zero.
    IdError
        A null for an id.
    DuplicateIdError
        A pair that is judged twice.
    """
    if isinstance(source, str | os.PathLike):
        path = os.fspath(source)
        rows = _table(_parquet(path), path) if path.endswith(".parquet") else _trec(path)
    elif isinstance(source, Mapping):
        rows = _mapping(source)
    elif hasattr(source, "__arrow_c_stream__"):
        rows = _table(pa.table(source), "the qrels")
    else:
        raise SourceError(f"qrels must be a path, a mapping or a table, not {type(source).__name__}")
    found = Qrels([], [], [])
    seen: set[tuple[str, str]] = set()
    for row, (query, doc, relevance) in enumerate(rows):
        if query is None or doc is None:
            raise IdError("a judgement must name a query and a document", [row])
        if isinstance(relevance, bool) or not isinstance(relevance, int | np.integer):
            raise SourceError(f"qrels: a relevance must be a whole number, not {relevance!r}", [row])
        pair = (str(query), str(doc))
        if pair in seen:
            raise DuplicateIdError(
                f"qrels: query {pair[0]!r} and document {pair[1]!r} are judged twice", [row]
            )
        seen.add(pair)
        found.queries.append(pair[0])
        found.docs.append(pair[1])
        found.relevance.append(int(relevance))
    if not any(relevance > 0 for relevance in found.relevance):
        raise SourceError("qrels: no document is relevant to any query")
    return found


_Judgement = tuple[Any, Any, Any]


def _trec(path: str) -> Iterator[_Judgement]:
    try:
        with open(path, encoding="utf-8") as file:
            for row, line in enumerate(file):
                fields = line.split()
                if len(fields) != _TREC_FIELDS:
                    raise SourceError(
                        f"{path}: a TREC line is 'query 0 document relevance', not {line.strip()!r}", [row]
                    )
                try:
                    relevance = int(fields[3])
                except ValueError:
                    raise SourceError(
                        f"{path}: a relevance must be a whole number, not {fields[3]!r}", [row]
                    ) from None
                yield fields[0], fields[2], relevance
    except (OSError, UnicodeDecodeError) as error:
        raise SourceError(f"{path}: cannot be read as TREC qrels: {error}") from error


def _parquet(path: str) -> pa.Table:
    try:
        return pq.read_table(path)
    except (OSError, pa.ArrowException) as error:
        raise SourceError(f"{path}: cannot be read as Parquet: {error}") from error


def _table(table: pa.Table, name: str) -> Iterator[_Judgement]:
    missing = [column for column in COLUMNS if column not in table.column_names]
    if missing:
        raise SourceError(f"{name}: no columns {missing}; there are {table.column_names}")
    return zip(*(table[column].to_pylist() for column in COLUMNS), strict=True)


def _mapping(source: Mapping[Any, Any]) -> Iterator[_Judgement]:
    for query, judged in source.items():
        if not isinstance(judged, Mapping):
            raise SourceError(f"qrels: query {query!r} must have a mapping of documents, not {judged!r}")
        for doc, relevance in judged.items():
            yield query, doc, relevance


class Judge:
    """Judgements of a sample, to measure rankings by.

    Parameters
    ----------
    qrels : Qrels
        Judgements.
    query_ids, doc_ids : sequence of str
        Of the sample's rows.
    k : int
        Cutoff of both measures.

    Attributes
    ----------
    queries : ndarray, shape (m,), int64
        Rows of the judged queries.
    pairs : ndarray, shape (2, n), int64
        Rows of queries and of documents that are relevant to them.
    """

    def __init__(self, qrels: Qrels, query_ids: Sequence[str], doc_ids: Sequence[str], k: int) -> None:
        import ir_measures

        rows = {name: row for row, name in enumerate(query_ids)}
        places = {name: row for row, name in enumerate(doc_ids)}
        judged: dict[str, dict[str, int]] = {}
        pairs = []
        for query, doc, relevance in zip(*qrels, strict=True):
            if query in rows:  # of many queries some were drawn
                judged.setdefault(query, {})[str(places[doc])] = relevance
                if relevance > 0:
                    pairs.append((rows[query], places[doc]))
        self.queries = np.array(sorted(rows[query] for query in judged), np.int64)
        self.pairs = np.array(pairs, np.int64).reshape(-1, 2).T
        self._names = [query_ids[row] for row in self.queries]
        self._ndcg, self._mrr = ir_measures.nDCG @ k, ir_measures.RR @ k
        self._evaluator = ir_measures.evaluator([self._ndcg, self._mrr], judged)
        self._k = k

    def quality(self, found: Rows) -> Quality:
        """Measure rankings of all the sample's queries, shape (queries, n), n at least k."""
        best = found[self.queries, : self._k]
        scores = [float(self._k - place) for place in range(best.shape[1])]  # no ties, which trec_eval breaks
        run = {
            name: dict(zip(map(str, rows), scores, strict=True))
            for name, rows in zip(self._names, best.tolist(), strict=True)
        }
        place_of = {name: place for place, name in enumerate(self._names)}
        result = Quality(np.zeros(len(self._names)), np.zeros(len(self._names)))
        for metric in self._evaluator.iter_calc(run):
            values = result.ndcg if metric.measure == self._ndcg else result.mrr
            values[place_of[metric.query_id]] = metric.value
        return result


def check_installed() -> None:
    """Raise MissingDependencyError unless judgements can be used."""
    try:
        import ir_measures  # noqa: F401
    except ModuleNotFoundError as error:
        raise MissingDependencyError(
            "nDCG and MRR need ir-measures: pip install 'tiered-index[fitness]'"
        ) from error
