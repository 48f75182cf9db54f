"""lookup.arrow: ids by row and rows by id, mapped, not loaded."""

from __future__ import annotations

from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from tiered_index.errors import CorruptIndexError
from tiered_index.lazily import pc
from tiered_index.mapped import MappedFile
from tiered_index.resident import Extent
from tiered_index.validate.ids import Keys

NOT_FOUND = -1


class LookupBuilder:
    """Gathers the ids, keys and inverse norms of a segment, and refuses an id that comes again.

    Keys are kept in sorted runs that double in length, so that checking each batch against all before it
    costs O(n log n) in all.
    """

    def __init__(self) -> None:
        self._ids: list[pa.Array] = []
        self._norms: list[NDArray[np.float32]] = []
        self._runs: list[tuple[Keys, NDArray[np.uint32]]] = []
        self._forgotten: list[tuple[Keys, NDArray[np.uint32]]] = []
        self.rows = 0

    def append(self, ids: pa.Array, keys: Keys, inverse_norms: NDArray[np.float32] | None) -> None:
        """Add rows."""
        order = np.argsort(keys, kind="stable")
        run = (keys[order], (order + self.rows).astype(np.uint32))
        while self._runs and len(self._runs[-1][0]) <= 2 * len(run[0]):
            run = _merge(self._runs.pop(), run)
        self._runs.append(run)
        self._ids.append(ids)
        if inverse_norms is not None:
            self._norms.append(inverse_norms)
        self.rows += len(ids)

    def find(self, ids: pa.Array, keys: Keys) -> NDArray[np.int64]:
        """Return the row of each id among those added so far, or -1."""
        found = np.full(len(keys), NOT_FOUND, np.int64)
        for sorted_keys, sorted_rows in self._runs:  # oldest first
            rows = _find(ids, keys, sorted_keys, sorted_rows, self._take)
            found = np.where(rows >= 0, rows, found)
        return found

    def forget(self, first: int) -> None:
        """Let no row from `first` on stand for its id any more: a row before it may have that id."""
        for i, (keys, rows) in enumerate(self._runs):
            kept = rows < first
            self._forgotten.append((keys[~kept], rows[~kept]))
            self._runs[i] = keys[kept], rows[kept]

    def serialize(self, id_type: pa.DataType) -> pa.Buffer:
        """Return the bytes of the Arrow file."""
        # of rows with the same id the last one counts
        self._runs[:0] = self._forgotten
        self._forgotten.clear()
        runs = self._runs
        while len(runs) > 1:
            later = runs.pop()
            runs.append(_merge(runs.pop(), later))
        keys, rows = runs[0] if runs else (np.empty(0, np.uint64), np.empty(0, np.uint32))
        columns: dict[str, pa.Array] = {
            "id": pa.concat_arrays(self._ids) if self._ids else pa.array([], id_type),
            "key": pa.array(keys),
            "row": pa.array(rows),
        }
        if self._norms:
            columns["inverse_norm"] = pa.array(np.concatenate(self._norms))
        batch = pa.record_batch(columns)
        sink = pa.BufferOutputStream()
        with pa.ipc.new_file(sink, batch.schema) as writer:
            writer.write_batch(batch)
        return sink.getvalue()

    def _take(self, rows: NDArray[np.int64]) -> pa.Array:
        return pa.chunked_array(self._ids).take(pa.array(rows)).combine_chunks()


class Lookup:
    """The ids of one segment.

    Parameters
    ----------
    path : str
        A file that :class:`LookupBuilder` wrote.
    rows : int
        How many it must hold.

    Raises
    ------
    CorruptIndexError
        Not such a file.
    """

    def __init__(self, path: str, rows: int) -> None:
        self.mapped = MappedFile(path)
        try:
            with pa.memory_map(path) as source:  # arrays keep the mapping
                batch = pa.ipc.open_file(source).get_batch(0)
            self._ids: pa.Array = batch["id"]
            numbers = pa.types.is_int64(self._ids.type)
            self.numbers: NDArray[np.int64] | None = _view(self._ids) if numbers else None
            """The ids, where they are int64."""
            self._keys: Keys = _view(batch["key"])
            self._rows: NDArray[np.uint32] = _view(batch["row"])
            self._norms: NDArray[np.float32] | None = (
                _view(batch["inverse_norm"]) if "inverse_norm" in batch.schema.names else None
            )
        except (pa.ArrowException, KeyError, OSError) as error:
            raise CorruptIndexError(f"{path}: not a readable lookup file: {error}") from error
        if batch.num_rows != rows:
            raise CorruptIndexError(f"{path}: {batch.num_rows} ids, where {rows} were written")

    def check(self) -> None:
        """Raise if the file was closed or has become shorter."""
        self.mapped.check()

    def extents(self) -> list[Extent]:
        """Return the mapped memory that searches read: what rows' ids and norms are, not where an id is."""
        held = [(one.address, one.size) for one in self._ids.buffers() if one is not None]
        return held if self._norms is None else [*held, (self._norms.ctypes.data, self._norms.nbytes)]

    @property
    def inverse_norms(self) -> NDArray[np.float32] | None:
        """One over each stored vector's length; None under the dot metric."""
        self.mapped.check()
        return self._norms

    @property
    def id_type(self) -> pa.DataType:
        """The Arrow type of the ids."""
        return self._ids.type

    def ids(self, rows: NDArray[np.int64]) -> pa.Array:
        """Return the ids of `rows`, in that order."""
        self.mapped.check()
        return self._ids.take(pa.array(rows))

    def values(self, rows: NDArray[np.int64]) -> NDArray[Any]:
        """Return the ids of `rows` as an array of int64, or of str objects."""
        self.mapped.check()
        if self.numbers is not None:
            return self.numbers[rows]
        texts: NDArray[Any] = self.ids(rows).to_numpy(zero_copy_only=False)
        return texts

    def find(self, ids: pa.Array, keys: Keys) -> NDArray[np.int64]:
        """Return the row of each id, or -1."""
        self.mapped.check()
        return _find(ids, keys, self._keys, self._rows, self.ids)

    def close(self) -> None:
        """Let go of the file; arrays that were handed out stay valid."""
        self.mapped.close()


def _find(
    ids: pa.Array, keys: Keys, sorted_keys: Keys, sorted_rows: NDArray[np.uint32], take: Any
) -> NDArray[np.int64]:
    # An id stands twice if its first row was deleted in the same batch: the last of equals is the one.
    found = np.full(len(keys), NOT_FOUND, np.int64)
    places = np.searchsorted(sorted_keys, keys, side="right") - 1
    open_ = np.arange(len(keys))
    while len(open_):
        open_ = open_[places[open_] >= 0]
        open_ = open_[sorted_keys[places[open_]] == keys[open_]]
        if not len(open_):
            break
        rows = sorted_rows[places[open_]].astype(np.int64)
        if pa.types.is_int64(ids.type):  # the key is the id
            found[open_] = rows
            break
        # Two strings may share a key: compare the strings, and go on to the one before of the same key.
        same = pc.equal(take(rows), ids.take(pa.array(open_))).to_numpy(zero_copy_only=False)
        found[open_[same]] = rows[same]
        open_ = open_[~same]
        places[open_] -= 1
    return found


def _merge(
    a: tuple[Keys, NDArray[np.uint32]], b: tuple[Keys, NDArray[np.uint32]]
) -> tuple[Keys, NDArray[np.uint32]]:
    keys = np.concatenate([a[0], b[0]])
    order = np.argsort(keys, kind="stable")  # two sorted runs: close to linear
    return keys[order], np.concatenate([a[1], b[1]])[order]


def _view(array: pa.Array) -> Any:
    """View numbers without nulls; Arrow's to_numpy would import pandas where it is installed, in 0.1 s."""
    return np.from_dlpack(array)
