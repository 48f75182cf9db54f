"""An embedded vector index for Matryoshka (MRL) embeddings.

The first 256 dimensions of every vector live in memory under one FAISS HNSW graph and find candidates;
the full vectors live on disk, once, in plain Parquet that is mapped in place, and rank them.

::

    import tiered_index as ti

    with ti.open("news.tidx", dim=1536) as index:
        index.add(ids, vectors, metadata={"title": titles})
        hit = index.search(query, k=10)

How the parts depend on each other, each only on those to its right::

    text -> index, ingest -> watch -> ask, explain -> planning, calibration -> search, exact, results
        -> storage -> coarse, full -> compiled, filters, planner, validate -> sketch -> config, errors

``fitness`` measures vectors or an index, through ``sources`` and ``index``; ingestion ends with a glance.
``planner`` is given numbers and knows none of the tiers; ``sketch`` stands between them.
``coarse`` alone knows FAISS, ``compiled`` alone Numba.
"""

from __future__ import annotations

from importlib.metadata import version

from tiered_index.config import Budget, IndexConfig
from tiered_index.encoding import EncoderIdentity, TextConfig
from tiered_index.errors import (
    BudgetNotMetError,
    CommitUncertainError,
    ConfigMismatchError,
    CorruptIndexError,
    DimensionError,
    DuplicateIdError,
    EncoderError,
    EncoderMismatchError,
    FilterError,
    GenerationNotFoundError,
    IdError,
    IndexClosedError,
    IndexLockedError,
    IndexNotFoundError,
    InvalidInputError,
    LayoutError,
    MemoryLockWarning,
    MetadataError,
    MissingDependencyError,
    NonFiniteVectorError,
    NotAnIndexError,
    ParameterError,
    PrefixWarning,
    ReadOnlyError,
    SourceError,
    StorageError,
    StorageFullError,
    TextError,
    TieredIndexError,
    VectorRangeError,
    ZeroVectorError,
)
from tiered_index.explain import Explanation
from tiered_index.fitness import Fitness, fitness
from tiered_index.index import Index
from tiered_index.ingest import IngestReport, ingest
from tiered_index.opening import open_index as open  # noqa: A004 - ti.open, as in gzip.open
from tiered_index.planner.model import Calibration
from tiered_index.planner.plan import Plan
from tiered_index.reader import Generation
from tiered_index.results import SearchResult, SearchStats
from tiered_index.stats import IndexStats
from tiered_index.storage.policy import MergePolicy, NoMergePolicy, SizeTieredPolicy
from tiered_index.storage.verify import VerifyReport
from tiered_index.text.callables import CallableEncoder
from tiered_index.text.encoder import Encoder
from tiered_index.text.index import TextIndex
from tiered_index.text.openai_encoder import OpenAIEncoder
from tiered_index.text.sentence_transformer import SentenceTransformerEncoder
from tiered_index.watch.report import RecallChange, WatchReport
from tiered_index.watch.tally import Tally
from tiered_index.watch.watch import Watch

__version__ = version("tiered-index")

__all__ = [
    "Budget",
    "BudgetNotMetError",
    "Calibration",
    "CallableEncoder",
    "CommitUncertainError",
    "ConfigMismatchError",
    "CorruptIndexError",
    "DimensionError",
    "DuplicateIdError",
    "Encoder",
    "EncoderError",
    "EncoderIdentity",
    "EncoderMismatchError",
    "Explanation",
    "FilterError",
    "Fitness",
    "Generation",
    "GenerationNotFoundError",
    "IdError",
    "Index",
    "IndexClosedError",
    "IndexConfig",
    "IndexLockedError",
    "IndexNotFoundError",
    "IndexStats",
    "IngestReport",
    "InvalidInputError",
    "LayoutError",
    "MemoryLockWarning",
    "MergePolicy",
    "MetadataError",
    "MissingDependencyError",
    "NoMergePolicy",
    "NonFiniteVectorError",
    "NotAnIndexError",
    "OpenAIEncoder",
    "ParameterError",
    "Plan",
    "PrefixWarning",
    "ReadOnlyError",
    "RecallChange",
    "SearchResult",
    "SearchStats",
    "SentenceTransformerEncoder",
    "SizeTieredPolicy",
    "SourceError",
    "StorageError",
    "StorageFullError",
    "Tally",
    "TextConfig",
    "TextError",
    "TextIndex",
    "TieredIndexError",
    "VectorRangeError",
    "VerifyReport",
    "Watch",
    "WatchReport",
    "ZeroVectorError",
    "fitness",
    "ingest",
    "open",
]
