"""Garbage: manifests that are no longer kept, and files that no manifest names."""

from __future__ import annotations

from collections import defaultdict
from contextlib import suppress

from tiered_index.errors import TieredIndexError
from tiered_index.storage.commit import CALIBRATION, Store
from tiered_index.storage.manifest import ROTATION, Manifest, file_name
from tiered_index.storage.segment import remove_segment

MIN_KEEP_GENERATIONS = 1
DEFAULT_KEEP_GENERATIONS = 3


def collect(store: Store, keep: int) -> None:
    """Remove all but the newest `keep` generations, and what only they or nobody named.

    The writer's lock must be held. Readers keep what they have open. If a manifest that is to be kept
    cannot be read, nothing is removed: what it names is not known. Files that cannot be removed now are
    garbage the next time too.
    """
    generations = store.generations()
    try:
        kept = [store.manifest(generation) for generation in generations[-keep:]]
    except TieredIndexError:
        return
    with suppress(OSError):
        for generation in generations[:-keep]:
            store.files.unlink(store.manifests / file_name(generation))
        for name in store.files.names(store.manifests):
            if name.endswith(".tmp"):
                store.files.unlink(store.manifests / name)
        if generations[:-keep]:
            # else a manifest could come back after a power cut, without what it names
            store.files.sync_folder(store.manifests)
        _collect_segments(store, kept)
        rotations = {manifest.rotation.file for manifest in kept if manifest.rotation is not None}
        for name in store.files.names(store.root):
            unfinished = name.startswith(CALIBRATION) and name.endswith(".tmp")
            if unfinished or (name.startswith(ROTATION) and name not in rotations):
                store.files.unlink(store.root / name)


def _collect_segments(store: Store, kept: list[Manifest]) -> None:
    named: defaultdict[str, set[str]] = defaultdict(set)
    for manifest in kept:
        for entry in manifest.segments:
            named[entry.name] |= {*entry.files, *([entry.tombstones.file] if entry.tombstones else [])}
    for name in store.files.names(store.segments):
        folder = store.segments / name
        if name in store.unfinished:
            continue
        if name not in named:
            remove_segment(store.files, folder)
            continue
        for file in store.files.names(folder):
            if file not in named[name]:
                store.files.unlink(folder / file)
