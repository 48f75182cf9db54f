"""A snapshot: one generation, every file of it open."""

from __future__ import annotations

from collections.abc import Hashable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from tiered_index.errors import CorruptIndexError
from tiered_index.filters.key import key_of
from tiered_index.filters.nodes import Node
from tiered_index.filters.parse import parse
from tiered_index.full.parquet_writer import file_schema
from tiered_index.full.rescore import Scorer
from tiered_index.storage.live import ROW_BITS, ROW_MASK, LiveSegment
from tiered_index.storage.lookup import NOT_FOUND
from tiered_index.storage.manifest import Manifest
from tiered_index.storage.matching import Matching, match
from tiered_index.storage.recent import Recent
from tiered_index.storage.rotation import read_directions
from tiered_index.storage.scope import whole
from tiered_index.storage.segment import MAPPED, Held, Segment
from tiered_index.validate.ids import ID_TYPES, Keys
from tiered_index.validate.metadata import ID_COLUMN, VECTOR_COLUMN
from tiered_index.validate.vectors import Floats, prefixes_of

MATCHINGS_BYTES = 32 << 20
"""What a snapshot holds of the rows that matched its last filters."""

_MOST_PARSED = 8_192


def directions_of(manifest: Manifest, root: Path, earlier: Snapshot | None = None) -> Floats | None:
    """Return a generation's rotation, as far as its prefixes need it: see :func:`read_directions`."""
    width = manifest.config.prefix_dim
    if manifest.rotation is None:
        return None
    if earlier is not None and (earlier.manifest.rotation, earlier.config.prefix_dim) == (
        manifest.rotation,
        width,
    ):
        return earlier.directions
    return read_directions(root, manifest.rotation, manifest.config.store_dim, width)


def _columns_of(manifest: Manifest, schema: pa.Schema | None) -> pa.Schema | None:
    """Return what filters may name; None as long as there are no rows."""
    kind = manifest.id_kind
    return None if kind is None else pa.schema([(ID_COLUMN, ID_TYPES[kind]), *(schema or ())])


class Snapshot:
    """What a reader sees: the rows of one generation.

    A row is addressed by its segment's number, shifted left by :data:`ROW_BITS`, plus its place there.

    Parameters
    ----------
    manifest : Manifest
        The generation.
    folder : Path
        The ``segments`` folder.
    earlier : Snapshot, optional
        An open one, whose segments are used again where this generation still names them.
    held : Held
        How this process holds it; as `earlier`, if there is one.

    Raises
    ------
    CorruptIndexError
        A file is missing or not what was written.
    """

    def __init__(
        self, manifest: Manifest, folder: Path, earlier: Snapshot | None = None, held: Held = MAPPED
    ) -> None:
        self.held: Held = held if earlier is None else earlier.held
        known = {live.entry.version: live for live in earlier.segments} if earlier is not None else {}
        opened = {live.entry.tiers: live.segment for live in known.values()}
        self.manifest = manifest
        self.config = manifest.config
        self.schema = manifest.schema()
        self.directions = directions_of(manifest, folder.parent, earlier)
        self.segments: tuple[LiveSegment, ...] = tuple(
            known.get(entry.version)
            or LiveSegment(
                opened.get(entry.tiers) or Segment(folder / entry.name, entry, manifest.config, self.held),
                entry,
            )
            for entry in manifest.segments
        )
        self.row_bytes = self.config.store_dim * np.dtype(self.config.dtype).itemsize
        self.scope = whole(self.segments)
        self.rows = self.scope.rows
        self._matchings: Recent[Matching] = Recent(MATCHINGS_BYTES)
        self._linked: dict[Hashable, Matching] = {}  # changed by a copy: others may look at it meanwhile
        self._parsed: Recent[Node] = Recent(_MOST_PARSED)
        self._columns = _columns_of(manifest, self.schema)
        self.prepared: dict[Hashable, Any] = {}
        """Searches among all rows that are prepared."""

    def prefixes(self, queries: Floats, prefix_dim: int) -> Floats:
        """Return the prefixes of queries, shape (n, prefix_dim), as the coarse tier takes them."""
        unit = self.config.metric == "cosine"
        return prefixes_of(queries, prefix_dim, unit=unit, directions=self.directions)

    def rescore(self, scorer: Scorer, addresses: NDArray[np.int64]) -> NDArray[np.float32]:
        """Return the exact scores of the rows at `addresses`."""
        if len(self.segments) == 1:  # the address is the row
            return self.segments[0].segment.rescore(scorer, addresses)
        scores = np.empty(len(addresses), np.float32)
        for number, places, rows in self.split(addresses):
            scores[places] = self.segments[number].segment.rescore(scorer, rows)
        return scores

    def estimates(
        self, query: Floats, prefix_dim: int, addresses: NDArray[np.int64], scores: Floats
    ) -> NDArray[np.float64]:
        """Return scores that sketches estimate of the rows at `addresses`, whose prefix scores are given."""
        found = np.empty(len(addresses))
        for number, places, rows in self.split(addresses):
            sketch = self.segments[number].segment.sketch
            if sketch is None:
                raise CorruptIndexError(f"{self.segments[number].segment.folder}: a sketch is missing")
            found[places] = sketch.estimates(query, prefix_dim, rows, scores[places])
        return found

    def advise(self, addresses: NDArray[np.int64]) -> None:
        """Ask the system to begin reading the rows at `addresses`."""
        for number, _, rows in self.split(addresses):
            self.segments[number].segment.full.advise(rows)

    def evict(self, addresses: NDArray[np.int64] | None = None) -> bool:
        """Drop the rows at `addresses`, or all, from memory; return whether that can be asked."""
        if addresses is None:
            return all(live.segment.full.evict() for live in self.segments)
        return all(
            self.segments[number].segment.full.evict(rows) for number, _, rows in self.split(addresses)
        )

    def vectors(self, addresses: NDArray[np.int64]) -> NDArray[Any]:
        """Return the full vectors at `addresses`, as they are stored, shape (n, store_dim)."""
        vectors = np.empty((len(addresses), self.config.store_dim), self.config.dtype)
        for number, places, rows in self.split(addresses):
            vectors[places] = self.segments[number].segment.full.gather(rows)
        return vectors

    def sample(self, count: int, random: np.random.Generator) -> NDArray[np.int64]:
        """Return the addresses of `count` different rows, chosen at random."""
        addresses = np.concatenate(
            [(number << ROW_BITS) + live.live_rows() for number, live in enumerate(self.segments)]
        )
        return random.choice(addresses, count, replace=False)

    def find(self, ids: pa.Array, keys: Keys) -> NDArray[np.int64]:
        """Return the address of each id, or -1."""
        found = np.full(len(keys), NOT_FOUND, np.int64)
        for number, live in enumerate(self.segments):
            rows = live.find(ids, keys)
            found = np.where(rows >= 0, rows + (number << ROW_BITS), found)
        return found

    def matching(self, where: Any) -> Matching:
        """Return the rows that match a filter.

        Parameters
        ----------
        where : mapping or pyarrow.compute.Expression
            See :mod:`tiered_index.filters`.

        Raises
        ------
        FilterError
            It names unknown columns or operators, or values that do not fit.
        """
        key = key_of(where)
        node = None if key is None else self._parsed.get(key)
        if node is None:
            node = self._parse(where)
            if key is not None:
                self._parsed.put(key, node, 1)
        found = self._linked.get(node) or self._matchings.get(node)
        if found is None:
            found = match(node, self.segments)
            self._matchings.put(node, found, found.bytes)
        return found

    @property
    def linked(self) -> list[Matching]:
        """The rows of filters that are linked among themselves."""
        return list(self._linked.values())

    @property
    def links_bytes(self) -> int:
        """What links among the rows of filters take in memory."""
        return sum(matching.links_bytes for matching in self.linked)

    def weigh(self, matching: Matching) -> None:
        """Count what the rows of a filter take now that more is prepared for them."""
        self._matchings.put(matching.key, matching, matching.bytes)

    def hold(self, matching: Matching) -> None:
        """Keep the rows of a filter, which are linked, until :meth:`let_go`; by one thread at a time."""
        self._linked = {**self._linked, matching.key: matching}

    def let_go(self, matching: Matching) -> None:
        """Keep the rows of a filter no longer than those of others."""
        self._linked = {key: held for key, held in self._linked.items() if held is not matching}

    def _parse(self, where: Any) -> Node:
        return parse(where, self._columns)

    def ids(self, addresses: NDArray[np.int64]) -> NDArray[Any]:
        """Return the ids at `addresses`: an array of str objects, or of int64."""
        if len(self.segments) == 1:
            return self.segments[0].segment.lookup.values(addresses)
        kind = self.manifest.id_kind
        ids = np.empty(len(addresses), np.int64 if kind == "int64" else np.object_)
        for number, places, rows in self.split(addresses):
            ids[places] = self.segments[number].segment.lookup.values(rows)
        return ids

    def table(self, addresses: NDArray[np.int64], *, vectors: bool) -> pa.Table:
        """Return the rows at `addresses`, in that order: id, metadata and, if asked, vector."""
        metadata = self.schema if self.schema is not None else pa.schema([])
        id_type = ID_TYPES[self.manifest.id_kind or "str"]
        wanted = file_schema(id_type, metadata, self.config.store_dim, self.config.dtype)
        if not vectors:
            wanted = wanted.remove(len(wanted) - 1)
        parts = [wanted.empty_table()]
        order = []
        for number, places, rows in self.split(addresses):
            segment = self.segments[number].segment
            columns = [segment.lookup.ids(rows)]
            if len(metadata):
                columns += segment.full.columns(metadata.names, rows).columns
            if vectors:
                flat = pa.array(segment.full.gather(rows).reshape(-1))
                columns.append(pa.FixedSizeListArray.from_arrays(flat, type=wanted.field(VECTOR_COLUMN).type))
            parts.append(pa.table(columns, schema=wanted))
            order.append(places)
        table = pa.concat_tables(parts)
        if len(order) > 1:
            table = table.take(pa.array(np.argsort(np.concatenate(order), kind="stable")))
        return table.combine_chunks()

    def split(
        self, addresses: NDArray[np.int64]
    ) -> Iterator[tuple[int, NDArray[np.intp], NDArray[np.int64]]]:
        """Split addresses into (segment, places in `addresses`, rows of the segment)."""
        numbers = addresses >> ROW_BITS
        if len(self.segments) == 1:
            if len(addresses):
                yield 0, np.arange(len(addresses)), addresses
            return
        for number in np.unique(numbers).tolist():
            places = np.flatnonzero(numbers == number)
            yield number, places, addresses[places] & ROW_MASK

    def close(self) -> None:
        """Close every segment."""
        for live in self.segments:
            live.segment.close()
