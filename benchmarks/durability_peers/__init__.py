"""What is asked of each store: to write acknowledged batches, and to be read again.

A module per store has ``Store``, which follows :class:`Peer`, and ``PACKAGE``, whose version counts.
"""

from __future__ import annotations

import importlib
import os
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any, NamedTuple, Protocol

import numpy as np
from numpy.typing import NDArray

PEERS = __name__
DIM = 32
BATCH = 5

Vectors = NDArray[np.float32]


class Variant(NamedTuple):
    """A store, used in one way; `flips` unless another way makes the same files and reads them alike."""

    module: str
    options: dict[str, Any]
    flips: bool = True


VARIANTS = {
    "tiered-index": Variant("tiered", {"verify": False}),
    "tiered-index, verify()": Variant("tiered", {"verify": True}),
    "FAISS file, replaced": Variant("faiss_file", {"sync_file": False, "sync_folder": False}),
    "FAISS file, synced and replaced": Variant(
        "faiss_file", {"sync_file": True, "sync_folder": False}, flips=False
    ),
    "FAISS file, synced, replaced, folder synced": Variant(
        "faiss_file", {"sync_file": True, "sync_folder": True}, flips=False
    ),
    "LanceDB": Variant("lance", {}),
    "Qdrant Edge": Variant("qdrant", {"flush": False}),
    "Qdrant Edge, flush() after each update": Variant("qdrant", {"flush": True}, flips=False),
    "Chroma": Variant("chroma", {}),
}


class Peer(Protocol):
    """A store in a folder that holds nothing or what it wrote before."""

    def __init__(self, folder: Path, **options: Any) -> None: ...

    def add(self, ids: list[int], vectors: Vectors) -> None:
        """Add rows; they are acknowledged when this returns."""

    def rows(self) -> dict[int, Vectors]:
        """Return all rows."""

    def nearest(self, queries: Vectors) -> list[int]:
        """Return the id of the row with the highest inner product with each query."""

    def close(self) -> None:
        """Close the store as its makers say."""


def module(name: str) -> Any:
    """Return the module of a variant's store."""
    return importlib.import_module(f"{__name__}.{VARIANTS[name].module}")


def open_peer(name: str, folder: Path) -> Peer:
    """Open a variant's store."""
    peer: Peer = module(name).Store(folder, **VARIANTS[name].options)
    return peer


def vectors(ids: list[int]) -> Vectors:
    """Return the unit vectors of rows."""
    drawn = np.array([np.random.default_rng(i).normal(size=DIM) for i in ids])
    drawn /= np.linalg.norm(drawn, axis=1, keepdims=True)
    return drawn.astype(np.float32)


def write(pipe: Connection, name: str, folder: Path, batches: int, close: bool) -> None:
    """Wait for a word, add batches, and send the number of each when it is acknowledged."""
    module(name)
    vectors([0])
    pipe.send_bytes(b"ready")
    pipe.recv_bytes()
    try:
        peer = open_peer(name, folder)
        pipe.send_bytes(b"open")
        for batch in range(batches):
            ids = list(range(batch * BATCH, (batch + 1) * BATCH))
            peer.add(ids, vectors(ids))
            pipe.send_bytes(b"%d" % batch)
        if close:
            peer.close()
            pipe.send_bytes(b"closed")
    except BaseException as error:  # Rust's panics too
        pipe.send_bytes(f"{type(error).__name__}: {error}"[:500].encode())
    os._exit(0)  # no way out may tidy up


def look(pipe: Connection, name: str, folder: Path, acknowledged: int) -> None:
    """Open a store and send one word: ``right``, ``lost``, ``wrong``, or ``error:`` and which.

    Of the batch after the acknowledged ones there may be all or nothing or some rows: not every store
    promises that a batch is one.
    """
    pipe.send_bytes(b"ready")
    pipe.recv_bytes()
    try:
        peer = open_peer(name, folder)
        found = peer.rows()
        promised = list(range(acknowledged * BATCH))
        perhaps = set(range((acknowledged + 1) * BATCH))
        if not set(promised) <= set(found):
            word = f"lost: {len(set(promised) - set(found))} of {len(promised)} rows"
        elif not set(found) <= perhaps:
            word = "wrong: rows that were never added"
        elif any(not np.array_equal(found[i], vectors([i])[0]) for i in found):
            word = "wrong: other vectors"
        elif promised and peer.nearest(vectors(promised)) != promised:
            word = "wrong: searches do not find the nearest row"
        else:
            word = "right"
    except BaseException as error:  # Rust's panics too
        word = f"error: {type(error).__name__}: {error}"[:500]
    pipe.send_bytes(word.encode())
    os._exit(0)
