"""The manifest: one JSON file a generation, that names all there is and ends with its own digest."""

from __future__ import annotations

import base64

import msgspec
import pyarrow as pa
import xxhash

from tiered_index.config import CodeKind, IdKind, IndexConfig
from tiered_index.encoding import TextConfig
from tiered_index.errors import CorruptIndexError
from tiered_index.storage.files import FileEntry

FORMAT_VERSION = 4
"""1 had no columns.roaring; its writers would remove those as garbage. 3 has rotations and coarse tiers that
were rebuilt, which 2 would misread, and encoders. 4 has codes of bytes, and sketches of tails."""

REBUILT_VERSION = 3
PLAIN_VERSION = 2
"""What is written of an index without what came later, so that earlier versions of this package read it."""

COARSE_FILE = "coarse.faiss"
"""The coarse tier a segment is born with; one that was rebuilt has another name beside it."""

ROTATION = "rotation-"
"""What the names of rotations begin with."""

_NAME_DIGITS = 12
_SUFFIX = ".json"
_DIGEST = b',\n "digest": "xxh3-128:%s"\n}\n'


class Tombstones(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The deleted rows of a segment, as of one generation.

    Attributes
    ----------
    file : str
        A serialised roaring bitmap in the segment's folder.
    rows : int
        How many rows it holds.
    entry : FileEntry
        Size and digest of the file.
    """

    file: str
    rows: int
    entry: FileEntry


class RotationFile(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The rotation of an index.

    Attributes
    ----------
    file : str
        A .npy file in the index folder.
    entry : FileEntry
        Size and digest of the file.
    """

    file: str
    entry: FileEntry


class SegmentEntry(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A segment as the manifest names it.

    Attributes
    ----------
    name : str
        Its folder under ``segments``.
    rows : int
        How many rows it holds.
    has_graph : bool
        Whether the coarse tier's file holds a graph, or codes alone.
    files : dict of str to FileEntry
        Size and digest of each file.
    footer : FileEntry
        Size and digest of the end of rows.parquet, which is read before its vectors can be.
    tombstones : Tombstones or None
        Rows that were deleted since.
    coarse : str
        Which of the files is the coarse tier's.
    code : {"bf16", "sq8"}
        What a dimension is in it.
    sketch : str or None
        Which of the files is the sketch of tails.
    """

    name: str
    rows: int
    has_graph: bool
    files: dict[str, FileEntry]
    footer: FileEntry
    tombstones: Tombstones | None = None
    coarse: str = COARSE_FILE
    code: CodeKind = "bf16"
    sketch: str | None = None

    @property
    def tiers(self) -> tuple[str, str, str | None]:
        """What tells the segment's files, without tombstones, from those of other generations."""
        return self.name, self.coarse, self.sketch

    @property
    def version(self) -> tuple[str, str, str | None, str | None]:
        """What tells the segment as of this generation from itself as of others."""
        return *self.tiers, self.tombstones.file if self.tombstones else None

    @property
    def live_rows(self) -> int:
        """How many rows are not deleted."""
        return self.rows - (self.tombstones.rows if self.tombstones else 0)


class Manifest(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """One committed state of the index.

    Attributes
    ----------
    format : int
        Version of the folder's format.
    store_id : str
        Drawn when the index was made: tells a generation of this index from another's.
    generation, parent : int
        Number of this state, and of the one it came from; the first is 1, its parent 0.
    created : str
        Time of the commit, ISO 8601, UTC.
    config : IndexConfig
        The settings: the coarse tier's are those of all segments.
    id_kind : {"str", "int64"} or None
        None until a first row decides.
    metadata_schema : str or None
        The metadata columns, an Arrow schema message in base64; None until a first row decides.
    segments : tuple of SegmentEntry
        Oldest first.
    text : TextConfig or None
        Which encoder the vectors are from, where that is known.
    rotation : RotationFile or None
        What vectors and queries are turned by before prefixes are cut.
    rebuilt : int
        The generation whose rebuild made the coarse tier what it is; 0 if it is what it was made as.
    """

    format: int
    store_id: str
    generation: int
    parent: int
    created: str
    config: IndexConfig
    id_kind: IdKind | None
    metadata_schema: str | None
    segments: tuple[SegmentEntry, ...]
    text: TextConfig | None = None
    rotation: RotationFile | None = None
    rebuilt: int = 0

    def schema(self) -> pa.Schema | None:
        """Return the metadata columns, or None before the first row."""
        if self.metadata_schema is None:
            return None
        return pa.ipc.read_schema(pa.py_buffer(base64.b64decode(self.metadata_schema)))


def encode_schema(schema: pa.Schema) -> str:
    """Return a schema as a manifest keeps it."""
    return base64.b64encode(schema.remove_metadata().serialize().to_pybytes()).decode("ascii")


def format_of(manifest: Manifest) -> int:
    """Return the oldest version of the format that says all that a manifest says."""
    if manifest.config.tail_sketch or any(segment.code != "bf16" for segment in manifest.segments):
        return FORMAT_VERSION
    newer = manifest.rotation is not None or manifest.rebuilt or manifest.text is not None
    return REBUILT_VERSION if newer else PLAIN_VERSION


def encode(manifest: Manifest) -> bytes:
    """Return the bytes of a manifest file."""
    fields = msgspec.to_builtins(manifest)
    if manifest.format <= PLAIN_VERSION:
        del fields["rotation"], fields["rebuilt"], fields["text"], fields["config"]["rotation"]
    for segment in fields["segments"]:
        if manifest.format <= PLAIN_VERSION:
            del segment["coarse"]
        if manifest.format <= REBUILT_VERSION:
            del segment["code"], segment["sketch"]
    if manifest.format <= REBUILT_VERSION:
        del fields["config"]["tail_sketch"]
    body = msgspec.json.format(msgspec.json.encode(fields), indent=1).removesuffix(b"}").rstrip()
    return body + _DIGEST % xxhash.xxh3_128_hexdigest(body).encode()


def decode(data: bytes, source: str) -> Manifest:
    """Read a manifest file.

    Raises
    ------
    CorruptIndexError
        The digest or the form is wrong, or a newer version wrote it; `source` is named.
    """
    body, mark, _ = data.rpartition(_DIGEST.partition(b"%s")[0])
    if not mark or data != body + _DIGEST % xxhash.xxh3_128_hexdigest(body).encode():
        raise CorruptIndexError(f"{source}: the manifest's digest is wrong")
    try:
        version = msgspec.json.decode(body + b"}", type=_Version).format
        if version > FORMAT_VERSION:
            raise CorruptIndexError(
                f"{source}: format {version}, written by a newer version of this package; this one reads "
                f"up to {FORMAT_VERSION}"
            )
        return msgspec.json.decode(body + b"}", type=Manifest)
    except msgspec.MsgspecError as error:
        raise CorruptIndexError(f"{source}: not a manifest: {error}") from error


def file_name(generation: int) -> str:
    """Return the name of a generation's manifest."""
    return f"{generation:0{_NAME_DIGITS}d}{_SUFFIX}"


def generation_of(name: str) -> int | None:
    """Return the generation a file name stands for; None if it is no manifest's."""
    stem = name.removesuffix(_SUFFIX)
    return int(stem) if name.endswith(_SUFFIX) and len(stem) >= _NAME_DIGITS and stem.isdecimal() else None


class _Version(msgspec.Struct):
    format: int
