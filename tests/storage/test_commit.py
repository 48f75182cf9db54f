"""Committing: the newest generation is found, never overwritten, never silently replaced."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import BinaryIO

import numpy as np
import pytest

import tiered_index as ti
from tiered_index.storage.commit import Store
from tiered_index.storage.files import Files


def test_a_taken_generation_is_not_overwritten(
    make_index: Callable[..., ti.Index], vectors: np.ndarray
) -> None:
    index = make_index()
    store = Store(index.path, Files())
    stale = store.newest()
    index.add([1], vectors[:1])
    with pytest.raises(ti.IndexLockedError, match="committed this generation"):
        store.commit(stale)
    assert store.newest().segments != ()
    assert sorted(p.suffix for p in store.manifests.iterdir()) == [".json", ".json"]


def test_a_damaged_newest_manifest_raises(make_index: Callable[..., ti.Index], vectors: np.ndarray) -> None:
    index = make_index()
    index.add([1], vectors[:1])
    index.close()
    newest = max((index.path / "manifests").iterdir())
    newest.write_bytes(newest.read_bytes()[:-5])
    with pytest.raises(ti.CorruptIndexError, match=newest.name):
        ti.open(index.path)


def test_lost_manifests_do_not_make_garbage_of_the_rest(
    make_index: Callable[..., ti.Index], vectors: np.ndarray
) -> None:
    index = make_index()
    index.add([1], vectors[:1])
    index.close()
    saved = {path: path.read_bytes() for path in (index.path / "manifests").iterdir()}
    for path in saved:
        path.unlink()
    with pytest.raises(ti.CorruptIndexError, match="manifests are missing"):
        ti.open(index.path, dim=64)
    for path, data in saved.items():
        path.write_bytes(data)
    with ti.open(index.path) as again:
        assert len(again) == 1


@pytest.mark.parametrize("name", ["rows.parquet", "coarse.faiss", "lookup.arrow", "columns.roaring"])
@pytest.mark.parametrize("damage", ["missing", "shorter", "longer"])
def test_missing_and_resized_files_are_named(
    make_index: Callable[..., ti.Index], vectors: np.ndarray, name: str, damage: str
) -> None:
    index = make_index()
    index.add(np.arange(50), vectors[:50], {"year": [2025] * 50})
    index.close()
    (file,) = index.path.rglob(name)
    if damage == "missing":
        file.unlink()
    else:
        file.write_bytes(file.read_bytes()[:-1] if damage == "shorter" else file.read_bytes() + b"x")
    with pytest.raises(ti.CorruptIndexError, match=name):
        ti.open(index.path)


class FullDisk(Files):
    """Fails to create any file whose name ends as asked."""

    def __init__(self, ending: str) -> None:
        self.ending = ending

    def create(self, path: Path) -> BinaryIO:
        if path.name.endswith(self.ending):
            raise OSError(28, "No space left on device")
        return super().create(path)


@pytest.mark.parametrize(
    "ending", ["rows.parquet", "coarse.faiss", "lookup.arrow", "columns.roaring", ".tmp"]
)
def test_a_failed_write_leaves_the_index_as_it_was(
    make_index: Callable[..., ti.Index], vectors: np.ndarray, ending: str
) -> None:
    index = make_index()
    years = {"year": [2025] * 20}
    index.add(np.arange(20), vectors[:20], years)
    index._current.store.files = FullDisk(ending)
    with pytest.raises(ti.StorageError, match="No space left"):
        index.add(np.arange(20, 40), vectors[20:40], years)
    assert len(index) == 20
    assert not list((index.path / "manifests").glob("*.tmp"))
    assert len(list((index.path / "segments").iterdir())) == 1
    index._current.store.files = Files()
    index.add(np.arange(20, 40), vectors[20:40], years)
    assert len(index) == 40
