"""What was measured of an index, kept beside it: one file, replaced as a whole.

It is advice, not data. A search never needs it, so it is no part of any generation; if it is damaged or
from another version, it counts as missing.
"""

from __future__ import annotations

import secrets
from contextlib import suppress
from pathlib import Path
from typing import NamedTuple

import msgspec
import numpy as np
import xxhash
from numpy.typing import NDArray

from tiered_index.errors import disk_errors
from tiered_index.planner.model import Calibration
from tiered_index.storage.commit import CALIBRATION, Store

_VERSION = 2
_DIGEST_BYTES = 16
_TRIES = 3


class _File(msgspec.Struct, frozen=True, array_like=True):
    version: int
    calibration: Calibration
    shape: tuple[int, int]
    queries: bytes


class Kept(NamedTuple):
    """A calibration and the queries it was made with, shape (n, store_dim), float32, as they are searched."""

    calibration: Calibration
    queries: NDArray[np.float32]


def write_calibration(store: Store, kept: Kept) -> None:
    """Put a calibration in the place of the one before, durably.

    Raises
    ------
    StorageError
        The disk failed; the one before is still there.
    """
    queries = np.ascontiguousarray(kept.queries, np.float32)
    shape = (int(queries.shape[0]), int(queries.shape[1]))
    data = msgspec.msgpack.encode(_File(_VERSION, kept.calibration, shape, queries.tobytes()))
    target = store.root / CALIBRATION
    with disk_errors(f"{target}: cannot be written"):
        for left in reversed(range(_TRIES)):
            try:
                _put(store, data, target)
            except FileNotFoundError:  # a writer of another process took ours for garbage
                if not left or not store.root.exists():
                    raise
            else:
                return


def _put(store: Store, data: bytes, target: Path) -> None:
    temporary = store.root / f"{CALIBRATION}-{secrets.token_hex(8)}.tmp"
    file = store.files.create(temporary)
    try:
        rest = memoryview(xxhash.xxh3_128_digest(data) + data)
        while rest:
            rest = rest[file.write(rest) :]
        store.files.sync(file)
        file.close()
        store.files.replace(temporary, target)
        store.files.sync_folder(store.root)
    except BaseException:
        file.close()
        with suppress(OSError):
            store.files.unlink(temporary)
        raise


def read_calibration(store: Store) -> Kept | None:
    """Return what was kept, or None."""
    try:
        data = store.files.read(store.root / CALIBRATION)
        if xxhash.xxh3_128_digest(data[_DIGEST_BYTES:]) != data[:_DIGEST_BYTES]:
            return None
        file = msgspec.msgpack.decode(memoryview(data)[_DIGEST_BYTES:], type=_File)
        if file.version != _VERSION:
            return None
        return Kept(file.calibration, np.frombuffer(file.queries, np.float32).reshape(file.shape))
    except (OSError, msgspec.MsgspecError, ValueError):
        return None
