"""Opening and creating indexes."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any, Literal

from tiered_index.config import Dtype, IndexConfig, Metric, in_range, make_config, one_of
from tiered_index.encoding import TextConfig
from tiered_index.errors import (
    CommitUncertainError,
    CorruptIndexError,
    IndexLockedError,
    IndexNotFoundError,
)
from tiered_index.index import Index
from tiered_index.storage.commit import Store
from tiered_index.storage.current import Current
from tiered_index.storage.files import Files
from tiered_index.storage.garbage import DEFAULT_KEEP_GENERATIONS, MIN_KEEP_GENERATIONS
from tiered_index.storage.policy import MergePolicy, SizeTieredPolicy
from tiered_index.storage.segment import Held
from tiered_index.storage.snapshot import Snapshot
from tiered_index.storage.writer import Mode, Writer

FullReads = Literal["mapped", "copied"]
CoarseMemory = Literal["mapped", "locked"]


def open_index(
    path: str | os.PathLike[str],
    dim: int | None = None,
    *,
    metric: Metric | None = None,
    prefix_dim: int | None = None,
    store_dim: int | None = None,
    dtype: Dtype | None = None,
    graph_degree: int | None = None,
    ef_construction: int | None = None,
    tail_sketch: bool | int | None = None,
    mode: Mode = "rw",
    generation: int | None = None,
    keep_generations: int = DEFAULT_KEEP_GENERATIONS,
    merge_policy: MergePolicy | None = None,
    full_reads: FullReads = "mapped",
    coarse_memory: CoarseMemory = "mapped",
) -> Index:
    """Open an index, or create it if there is none and `dim` is given.

    The settings are fixed when the index is created; given again later, they must be those it has. Those of
    the coarse tier change by :meth:`Index.rebuild_coarse`: from then on the new ones are its settings.

    Parameters
    ----------
    path : path
        The index folder.
    dim : int, optional
        Length of the vectors; needed to create.
    metric : {"cosine", "dot"}, default "cosine"
        How full vectors are compared; higher is better.
    prefix_dim : int, default 256
        Leading dimensions held in memory; a multiple of 8, or all.
    store_dim : int, optional
        Leading dimensions kept on disk and ranked by; all by default.
    dtype : {"float32", "float16"}, default "float32"
        How full vectors are stored.
    graph_degree : int, default 24
        M of HNSW.
    ef_construction : int, default 100
        Beam width while graphs are built.
    tail_sketch : bool or {1, 2, 4}, default False
        Hold so many bits (True: one) of each dimension after the prefix in memory too, to order candidates
        by before their full vectors are read: far fewer are.
    mode : {"rw", "r"}
        "r" neither creates nor writes.
    generation : int, optional
        Open this earlier state, to read; see :meth:`Index.generations`.
    keep_generations : int, default 3
        How many of the newest states this writer keeps.
    merge_policy : MergePolicy, optional
        When this writer merges segments; :class:`SizeTieredPolicy` by default.
    full_reads : {"mapped", "copied"}
        How this process reads full vectors. Those that it maps are faster by 0.7 us each (4 KiB, in the page
        cache), and their pages, which the system shares and takes back as it does the rest of its page
        cache, count as memory of the process. Copied ones do not.
    coarse_memory : {"mapped", "locked"}
        Whether the system may take back what this process maps of the coarse tier, sketches, ids and norms,
        where memory is short; a walk then waits for the disk. Locked ones it may not: they must fit into the
        memory there is, and into RLIMIT_MEMLOCK, else :class:`MemoryLockWarning` says that they are not;
        ``stats().locked_bytes`` is how much is. Forked processes share what their parent locks, as long as
        it has the index open.

    Raises
    ------
    ParameterError
        A setting out of range.
    IndexNotFoundError
        There is none, and `dim` is not given or `mode` is "r".
    ConfigMismatchError
        The index, or the generation that is asked for, has other settings.
    NotAnIndexError
        The path is a file, or a folder of something else.
    GenerationNotFoundError
        The generation is not kept.
    CorruptIndexError
        Files are missing or damaged.
    """
    one_of("mode", mode, ("rw", "r"))
    held = holding(full_reads, coarse_memory)
    in_range("keep_generations", keep_generations, MIN_KEEP_GENERATIONS)
    if generation is not None:
        generation, mode = in_range("generation", generation, 1), "r"
    settings = {
        "store_dim": store_dim,
        "prefix_dim": prefix_dim,
        "metric": metric,
        "dtype": dtype,
        "graph_degree": graph_degree,
        "ef_construction": ef_construction,
        "tail_sketch": tail_sketch,
    }
    store = Store(Path(path), Files())
    if store.exists():
        asked = store.newest() if generation is None else store.manifest(generation)
        asked.config.check_same(dim=dim, **settings)
    elif dim is None or mode == "r":
        advice = "" if mode == "r" else "; give dim= to create one"
        raise IndexNotFoundError(f"{path}: there is no index here{advice}")
    else:
        _create(store, make_config(dim, **settings))  # type: ignore[arg-type]
        store.newest().config.check_same(dim=dim, **settings)
    current = Current(
        store, store.snapshot(held=held) if generation is None else _earlier(store, generation, held)
    )
    return Index(current, Writer(current, mode, keep_generations, merge_policy or SizeTieredPolicy()))


def _create(store: Store, config: IndexConfig, text: TextConfig | None = None) -> None:
    """Create an index, unless another process or thread does at the same time."""
    try:
        store.create(config, text)
    except (IndexLockedError, CommitUncertainError):  # it was first, and may have collected our manifest
        if not store.exists():
            raise


def _earlier(store: Store, generation: int, held: Held) -> Snapshot:
    """Open a generation that is kept."""
    try:
        return Snapshot(store.manifest(generation), store.segments, held=held)
    except CorruptIndexError:
        store.manifest(generation)  # raises what is true if a writer collected it meanwhile
        raise


def holding(full_reads: FullReads, coarse_memory: CoarseMemory) -> Held:
    """Check how a process is to hold the tiers."""
    return Held(
        copied=one_of("full_reads", full_reads, ("mapped", "copied")) == "copied",
        locked=one_of("coarse_memory", coarse_memory, ("mapped", "locked")) == "locked",
    )


def create_for_texts(path: str | os.PathLike[str], dim: int, text: TextConfig, **settings: Any) -> None:
    """Create an index that knows its encoder; `settings` are those of :func:`open_index`, or None."""
    _create(Store(Path(path), Files()), make_config(dim, **settings), text)


def index_exists(path: str | os.PathLike[str]) -> bool:
    """Tell whether there is an index at `path`; raise NotAnIndexError if there is something else."""
    return Store(Path(path), Files()).exists()
