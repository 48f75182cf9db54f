"""The file of a rotation: an orthonormal matrix, as NumPy writes it."""

from __future__ import annotations

import io
import secrets
from contextlib import closing
from pathlib import Path

import numpy as np

from tiered_index.errors import CorruptIndexError
from tiered_index.storage.files import Files, HashingFile, entry_of
from tiered_index.storage.manifest import ROTATION, RotationFile
from tiered_index.storage.segment import check_size, read_whole
from tiered_index.validate.vectors import Floats


def write_rotation(files: Files, root: Path, rotation: Floats, written: list[Path]) -> RotationFile:
    """Write a rotation, shape (store_dim, store_dim), durably, and return what names it.

    Its path is added to `written` first, so that what is left of it after an error can be removed.
    """
    data = io.BytesIO()
    np.save(data, np.ascontiguousarray(rotation, "<f4"), allow_pickle=False)
    name = f"{ROTATION}{secrets.token_hex(8)}.npy"
    written.append(root / name)
    with closing(HashingFile(files, root / name)) as file:
        file.write(data.getbuffer())
        entry = file.finish()
    files.sync_folder(root)
    return RotationFile(name, entry)


def read_directions(root: Path, rotation: RotationFile, dim: int, prefix_dim: int) -> Floats:
    """Return the directions whose components make prefixes, shape (prefix_dim, dim), C-contiguous.

    Raises
    ------
    CorruptIndexError
        The file is missing, or not what was written.
    """
    path = root / rotation.file
    check_size(path, rotation.entry)
    data = read_whole(path)
    if entry_of(data) != rotation.entry:
        raise CorruptIndexError(f"{path}: the digest is wrong")
    try:
        matrix = np.load(io.BytesIO(data), allow_pickle=False)
    except (ValueError, EOFError, OSError) as error:
        raise CorruptIndexError(f"{path}: cannot be read as .npy: {error}") from error
    if matrix.shape != (dim, dim) or matrix.dtype != np.float32:
        raise CorruptIndexError(f"{path}: {matrix.dtype} of shape {matrix.shape}, not float32 of {dim, dim}")
    return directions(matrix, prefix_dim)


def directions(rotation: Floats, prefix_dim: int) -> Floats:
    """Return the first `prefix_dim` columns of a rotation as rows: one pass over each makes one component."""
    return np.ascontiguousarray(rotation[:, :prefix_dim].T, np.float32)
