"""Verifying: every byte against its digest, and every row's parts against each other."""

from __future__ import annotations

from collections.abc import Iterator

import msgspec
import numpy as np
from numpy.typing import NDArray

from tiered_index.blas import product
from tiered_index.coarse.prefix_graph import CoarseTier
from tiered_index.errors import CorruptIndexError, GenerationNotFoundError, TieredIndexError
from tiered_index.storage.column_index import postings_of
from tiered_index.storage.commit import Store
from tiered_index.storage.live import LiveSegment
from tiered_index.storage.manifest import Manifest
from tiered_index.storage.policy import SegmentSize, merge_all
from tiered_index.storage.segment import Segment, check_digest
from tiered_index.storage.snapshot import directions_of
from tiered_index.validate.metadata import ID_COLUMN
from tiered_index.validate.vectors import Floats, prepared_again, row_norms

_PRODUCT_ERROR = 1e-5
"""What float32 may lose of a component along a direction, as a share of the vector's length: BLAS adds in
another order when it is given other rows beside it."""

_SMALLEST_NORM = 1e-38


class VerifyReport(msgspec.Struct, frozen=True, kw_only=True):
    """What was found.

    Attributes
    ----------
    generation : int
        The state that was verified.
    rows : int
        Rows compared, deleted ones included.
    bytes : int
        Bytes compared with their digests.
    problems : list of str
        Each names a file or a segment; empty if all is well. Bitmaps of columns that are wrong can be
        written anew, and the problem says how.
    """

    generation: int
    rows: int
    bytes: int
    problems: list[str]

    @property
    def ok(self) -> bool:
        """Whether all is well."""
        return not self.problems


def verify(store: Store, manifest: Manifest) -> VerifyReport:
    """Compare every file of a generation with its digest, and every row's id, code and norm with its vector.

    The bitmaps of columns are compared with the columns.

    Files are read once for the digest and once for the rows; nothing is kept in memory but a row group
    and the codes.

    Raises
    ------
    GenerationNotFoundError
        A writer collected the generation's files meanwhile; refresh, and verify the newest.
    """
    problems: list[str] = []
    rows = size = 0
    directions = None
    sizes = [SegmentSize(entry.name, entry.rows, entry.live_rows) for entry in manifest.segments]
    rewritten = {name for names in merge_all(sizes) for name in names}
    if manifest.rotation is not None:
        size += manifest.rotation.entry.size
        try:
            directions = directions_of(manifest, store.root)
        except CorruptIndexError as error:
            problems.append(str(error))
    for entry in manifest.segments:
        folder = store.segments / entry.name
        files = [(folder / name, file) for name, file in entry.files.items()]
        if entry.tombstones is not None:
            files.append((folder / entry.tombstones.file, entry.tombstones.entry))
        before = len(problems)
        for path, file in files:
            size += file.size
            try:
                check_digest(path, file)
            except CorruptIndexError as error:
                problems.append(str(error))
        if len(problems) > before:
            continue  # a damaged file is not parsed
        try:
            segment = Segment(folder, entry, manifest.config)
            LiveSegment(segment, entry)
            problems += _compare_rows(segment, manifest, directions)
            problems += _compare_columns(segment, rewritten=entry.name in rewritten)
            segment.close()
        except TieredIndexError as error:
            problems.append(str(error))
        rows += entry.rows
    if problems and manifest.generation not in store.generations():
        raise GenerationNotFoundError(
            f"{store.root}: generation {manifest.generation} was collected meanwhile"
        )
    return VerifyReport(generation=manifest.generation, rows=rows, bytes=size, problems=problems)


def _compare_rows(segment: Segment, manifest: Manifest, directions: Floats | None) -> Iterator[str]:
    config = manifest.config
    unit = config.metric == "cosine"
    comparable = directions is not None or manifest.rotation is None
    codes = segment.coarse.codes()
    norms = segment.lookup.inverse_norms
    for first, vectors in segment.full.blocks():
        rows = first + np.arange(len(vectors))
        ids = segment.lookup.ids(rows)
        stored = segment.full.columns([ID_COLUMN], rows)[ID_COLUMN].combine_chunks()
        if not stored.cast(ids.type).equals(ids):
            yield f"{segment.folder}: ids of rows {first} and on differ between the tiers"
        prepared = prepared_again(vectors, config, directions)
        given = vectors.astype(np.float32, copy=False)
        if comparable and not _are_codes(
            segment.coarse, codes[rows], prepared.prefixes, given, directions, unit=unit
        ):
            yield f"{segment.folder}: codes of rows {first} and on are not those of their vectors"
        if segment.sketch is not None and not segment.sketch.holds(
            first, prepared.stored, prepared.inverse_norms
        ):
            yield f"{segment.folder}: sketches of rows {first} and on are not those of their vectors"
        found = prepared.inverse_norms
        if norms is not None and found is not None and not np.array_equal(found, norms[rows]):
            yield f"{segment.folder}: norms of rows {first} and on are not those of their vectors"


def _are_codes(
    tier: CoarseTier,
    codes: NDArray[np.uint8],
    prefixes: Floats,
    vectors: Floats,
    directions: Floats | None,
    *,
    unit: bool,
) -> bool:
    """Tell whether codes are those of prefixes: exactly, or as nearly as a rotation can be repeated."""
    if directions is None:
        return np.array_equal(tier.encode(prefixes), codes)
    scale = row_norms(vectors)
    if unit:  # what is lost grew as the prefix did
        scale /= np.maximum(row_norms(product(vectors, directions.T)), _SMALLEST_NORM)
    allowed = tier.tolerance(prefixes) + _PRODUCT_ERROR * scale[:, None]
    return bool((np.abs(tier.decode(codes) - prefixes) <= allowed).all())


def _compare_columns(segment: Segment, *, rewritten: bool) -> Iterator[str]:
    """Yield what is wrong and what mends it; `rewritten` tells whether optimize() would write the segment."""
    if segment.columns is None:
        return
    for name in segment.columns.names:
        if segment.columns.postings(name) != postings_of(segment.full.column(name)):
            mend = "optimize() writes them anew"
            if not rewritten:  # then no row of it was deleted
                known = segment.lookup.ids(np.zeros(1, np.int64))[0].as_py()
                mend = f"upsert() the row with id {known!r} as it is, then {mend}"
            yield (
                f"{segment.folder}: bitmaps of the column {name!r} are not those of its values, which are "
                f"sound: {mend}"
            )
