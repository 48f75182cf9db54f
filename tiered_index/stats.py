"""What an index holds and what it takes."""

from __future__ import annotations

import msgspec

from tiered_index.config import IndexConfig
from tiered_index.encoding import TextConfig
from tiered_index.storage.segment import COLUMNS_FILE, LOOKUP_FILE, ROWS_FILE
from tiered_index.storage.snapshot import Snapshot

_FLOAT32_BYTES = 4


class IndexStats(msgspec.Struct, frozen=True, kw_only=True):
    """Counts, and bytes by tier.

    Attributes
    ----------
    rows, segments, generation : int
        What there is.
    deleted_rows : int
        Rows that were deleted but still take room until their segments are merged.
    config : IndexConfig
        The settings.
    text : TextConfig or None
        The encoder whose vectors these are, and the column that keeps the texts, where that is known.
    id_kind : str or None
        "str" or "int64"; None before the first rows.
    columns : dict of str to str
        Metadata columns and their Arrow types.
    coarse_codes_bytes, coarse_graph_bytes : int
        The tier in memory: prefixes and graph. They are mapped, so worker processes share them.
    sketch_bytes : int
        Sketches of tails, mapped too and held in memory as the coarse tier is; 0 without them.
    lookup_bytes : int
        Ids and inverse norms, mapped too; of it only what is asked for is read.
    locked_bytes : int
        Of these so many are locked in memory; see ``coarse_memory`` of :func:`open`.
    filter_links_bytes : int
        Links among the rows of filters that are asked often, held by this process; see :meth:`Index.warm`.
    coarse_disk_bytes, full_disk_bytes, lookup_disk_bytes, columns_disk_bytes : int
        Files on disk; the full tier's hold the metadata too, the last ones bitmaps of columns for filters.
    full_hnsw_bytes : int
        What the same rows would take in memory as float32 vectors of all dimensions under an HNSW graph
        of the same degree.
    """

    rows: int
    deleted_rows: int
    segments: int
    generation: int
    config: IndexConfig
    text: TextConfig | None
    id_kind: str | None
    columns: dict[str, str]
    coarse_codes_bytes: int
    coarse_graph_bytes: int
    sketch_bytes: int
    lookup_bytes: int
    locked_bytes: int
    filter_links_bytes: int
    coarse_disk_bytes: int
    full_disk_bytes: int
    lookup_disk_bytes: int
    columns_disk_bytes: int
    full_hnsw_bytes: int


def index_stats(snapshot: Snapshot) -> IndexStats:
    """Add up a snapshot's segments."""
    manifest = snapshot.manifest
    memory = [live.segment.coarse.memory_bytes() for live in snapshot.segments]
    disk = {
        name: sum(entry.files[name].size for entry in manifest.segments if name in entry.files)
        for name in (ROWS_FILE, LOOKUP_FILE, COLUMNS_FILE)
    }
    node_bytes = graph_node_bytes(manifest.config.graph_degree)
    return IndexStats(
        rows=snapshot.rows,
        deleted_rows=sum(len(live.deleted) for live in snapshot.segments),
        segments=len(snapshot.segments),
        generation=manifest.generation,
        config=manifest.config,
        text=manifest.text,
        id_kind=manifest.id_kind,
        columns={field.name: str(field.type) for field in snapshot.schema or ()},
        coarse_codes_bytes=sum(codes for codes, _ in memory),
        coarse_graph_bytes=sum(graph for _, graph in memory),
        sketch_bytes=sum(entry.files[entry.sketch].size for entry in manifest.segments if entry.sketch),
        lookup_bytes=disk[LOOKUP_FILE],
        locked_bytes=sum(live.segment.locked_bytes for live in snapshot.segments),
        filter_links_bytes=snapshot.links_bytes,
        coarse_disk_bytes=sum(entry.files[entry.coarse].size for entry in manifest.segments),
        full_disk_bytes=disk[ROWS_FILE],
        lookup_disk_bytes=disk[LOOKUP_FILE],
        columns_disk_bytes=disk[COLUMNS_FILE],
        full_hnsw_bytes=snapshot.rows * (_FLOAT32_BYTES * manifest.config.dim + node_bytes),
    )


def graph_node_bytes(degree: int) -> int:
    """Return about how many bytes HNSW's links take a node, in FAISS.

    2 M links of 4 bytes on the lowest level, M on each of the 1 / (M - 1) levels above it that a node is
    on in the mean, an offset of 8 and a level of 4.
    """
    return round(4 * (2 * degree + degree / (degree - 1)) + 8 + 4)
