"""The snapshot that an open index answers from."""

from __future__ import annotations

from tiered_index.errors import IndexClosedError
from tiered_index.forkable import ForkableLock
from tiered_index.storage.commit import Store
from tiered_index.storage.manifest import Manifest
from tiered_index.storage.snapshot import Snapshot


class Current:
    """The snapshot that an open index answers from.

    Parameters
    ----------
    store : Store
        The index folder.
    snapshot : Snapshot
        The first one.
    """

    def __init__(self, store: Store, snapshot: Snapshot) -> None:
        self.store = store
        self._snapshot: Snapshot | None = snapshot
        self._moving = ForkableLock()  # not while files are opened

    @property
    def closed(self) -> bool:
        """Whether :meth:`close` was called."""
        return self._snapshot is None

    def get(self) -> Snapshot:
        """Return the snapshot; raise IndexClosedError after :meth:`close`."""
        snapshot = self._snapshot
        if snapshot is None:
            raise IndexClosedError(f"{self.store.root}: the index was closed")
        return snapshot

    def advance(self, manifest: Manifest) -> None:
        """Move to the generation of `manifest`, taking over what is open of it.

        The snapshot before is not closed: a search may be using it, and results read metadata from it
        later. Its files are let go of when the last of those is.
        """
        snapshot = self.get()
        if manifest.generation != snapshot.manifest.generation:
            self._move(Snapshot(manifest, self.store.segments, snapshot))

    def refresh(self) -> bool:
        """Move to the newest generation; return whether there was a newer one.

        Raises
        ------
        IndexNotFoundError
            The index is gone, or another one is in its place.
        """
        before = self.get()
        if self.store.generations()[-1:] == [before.manifest.generation]:
            return False  # a look at a folder: services do this every second
        return self._move(self.store.snapshot(before))

    def _move(self, newer: Snapshot) -> bool:
        """Answer from a snapshot, unless another thread opened one as new meanwhile, or closed the index."""
        with self._moving.lock:
            if newer.manifest.generation <= self.get().manifest.generation:
                return False
            self._snapshot = newer
            return True

    def close(self) -> None:
        """Let go of the snapshot's files."""
        with self._moving.lock:
            snapshot, self._snapshot = self._snapshot, None
        if snapshot is not None:
            snapshot.close()
