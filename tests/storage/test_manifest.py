"""The manifest: what is read is what was written, or an error that says why not."""

from __future__ import annotations

import pyarrow as pa
import pytest

import tiered_index as ti
from tiered_index.config import make_config
from tiered_index.storage.files import FileEntry
from tiered_index.storage.manifest import (
    FORMAT_VERSION,
    Manifest,
    SegmentEntry,
    decode,
    encode,
    encode_schema,
    file_name,
    generation_of,
)


@pytest.fixture
def manifest() -> Manifest:
    schema = pa.schema([("title", pa.string()), ("at", pa.timestamp("us", "UTC"))])
    return Manifest(
        format=FORMAT_VERSION,
        store_id="ab" * 16,
        generation=7,
        parent=6,
        created="2026-01-01T00:00:00.000+00:00",
        config=make_config(64, prefix_dim=32),
        id_kind="str",
        metadata_schema=encode_schema(schema),
        segments=(
            SegmentEntry("s", 3, False, {"rows.parquet": FileEntry(10, "00" * 16)}, FileEntry(5, "11" * 16)),
        ),
    )


def test_round_trip(manifest: Manifest) -> None:
    data = encode(manifest)
    assert decode(data, "here") == manifest
    assert manifest.schema().names == ["title", "at"]
    assert data.rstrip().endswith(b'"\n}')


def test_every_changed_byte_is_noticed(manifest: Manifest) -> None:
    data = encode(manifest)
    for at in range(len(data)):
        for flip in (0x01, 0xFF):
            changed = bytearray(data)
            changed[at] ^= flip
            with pytest.raises(ti.CorruptIndexError, match="here"):
                decode(bytes(changed), "here")


def test_every_truncation_is_noticed(manifest: Manifest) -> None:
    data = encode(manifest)
    for length in range(len(data)):
        with pytest.raises(ti.CorruptIndexError, match="here"):
            decode(data[:length], "here")


def test_a_newer_format_says_so(manifest: Manifest) -> None:
    import msgspec

    newer = msgspec.structs.replace(manifest, format=FORMAT_VERSION + 1)
    with pytest.raises(ti.CorruptIndexError, match="newer version"):
        decode(encode(newer), "here")


def test_file_names() -> None:
    assert generation_of(file_name(12)) == 12
    assert generation_of(file_name(10**13)) == 10**13
    for stranger in ("12.json", "ab.tmp", "00000000000x.json", "000000000012.json.tmp"):
        assert generation_of(stranger) is None
