"""The writer's side of an open index: its lock, its batches, and the upkeep after commits."""

from __future__ import annotations

import logging
import os
import threading
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, nullcontext, suppress
from typing import Literal

from tiered_index.errors import (
    CommitUncertainError,
    IndexNotFoundError,
    ParameterError,
    ReadOnlyError,
    TieredIndexError,
    disk_errors,
)
from tiered_index.storage.compact import Merge
from tiered_index.storage.current import Current
from tiered_index.storage.garbage import collect
from tiered_index.storage.lock import WriterLock
from tiered_index.storage.manifest import Manifest
from tiered_index.storage.policy import MergePolicy, SegmentSize, merge_all
from tiered_index.storage.rebuild import FEW_ROWS, Rebuild, Wanted
from tiered_index.storage.request import Commit, Request
from tiered_index.storage.snapshot import Snapshot
from tiered_index.storage.transaction import Transaction

Mode = Literal["rw", "r"]

_REPLACED = "was removed or replaced since it was opened: open it again"

_log = logging.getLogger("tiered_index")


class Writer:
    """Makes transactions of one process, one at a time, and merges segments after them.

    Parameters
    ----------
    current : Current
        Moved to each new generation.
    mode : {"rw", "r"}
        "r" refuses to write.
    keep_generations : int
        How many generations are kept.
    policy : MergePolicy
        What is merged after a commit.
    """

    def __init__(self, current: Current, mode: Mode, keep_generations: int, policy: MergePolicy) -> None:
        self._current = current
        self._store = current.store
        self._mode = mode
        self._keep_generations = keep_generations
        self._policy = policy
        self._lock: WriterLock | None = None
        self._collected = False
        self._mutex = threading.RLock()
        self._merging = threading.RLock()
        self._batch: Transaction | None = None
        self._changing = False  # or True: what rows are taken from may call this thread's writes again
        self._waiting: deque[Request] = deque()
        self._process = os.getpid()

    def run(self, change: Callable[[Transaction], int], *, alone: bool = False) -> int:
        """Make a change durable and return what it returns.

        Changes that threads ask for while a commit is under way become one commit together: the first of
        them to get the mutex makes all of them. Each stands alone even so; one that raises leaves no trace.
        With `alone` the thread that asks makes it itself, in a commit of its own: for what runs code of the
        caller's, or takes from a stream what cannot be taken again.
        """
        self._check_may_write()  # in a forked child, the mutex may be held for ever
        request = Request(change)
        queue = deque((request,)) if alone else self._waiting
        try:
            if not alone:
                queue.append(request)
            with self._mutex:
                self._refuse_within()
                if self._batch is not None:  # the mutex is this thread's own, and so is the batch
                    self._check_may_write()
                    try:
                        self._changing = True
                        return change(self._batch)
                    finally:
                        self._changing = False
                if not request.done:
                    self._commit(request, queue)
        finally:
            # Ctrl-C while waiting, or a batch: nobody else must make the change later. One that comes now may
            # keep it in the queue; but signals are handled between calls only, so not before this.
            request.withdrawn = True
            with suppress(ValueError):
                queue.remove(request)
        return request.result()

    @contextmanager
    def batch(self) -> Iterator[None]:
        """Make all changes of this thread inside the block one."""
        self._check_may_write()
        with self._mutex:
            self._refuse_in_batch("batch()")
            transaction = Transaction(self._store, self._newest())
            self._batch = transaction
            try:
                yield
            except BaseException:
                transaction.abandon()
                raise
            finally:
                self._batch = None
            self._advance(transaction.commit())
            self._maintain()

    def _commit(self, own: Request, queue: deque[Request]) -> None:
        transaction, commit = Transaction(self._store, self._newest()), Commit()
        taken: list[Request] = []
        try:
            if own not in queue:  # lost between being taken and made, to another thread's Ctrl-C
                queue.append(own)
            try:
                self._changing = True
                while queue:
                    taken.append(queue.popleft())
                    taken[-1].apply(transaction, commit)
            finally:
                self._changing = False
            self._advance(transaction.commit())
            commit.ended = (None,)
        except Exception as error:
            commit.ended = (error,)
            return
        except BaseException:  # Ctrl-C is for this thread
            if commit.ended is None:
                transaction.abandon()
                if transaction.publishing:
                    commit.ended = (
                        CommitUncertainError(f"{self._store.root}: interrupted while committing"),
                    )
                else:  # for the next thread to make
                    queue.extendleft(request for request in reversed(taken) if request is not own)
            raise
        self._maintain()

    def optimize(self) -> None:
        """Merge all segments and collect garbage; writes of other threads go on meanwhile."""
        self._check_may_write()
        with self._mutex:
            self._refuse_in_batch("optimize()")
            self._newest()
        with self._merging:
            snapshot = self._current.get()
            if len(snapshot.segments) > 1 or any(live.deleted for live in snapshot.segments):
                for names in merge_all(_sizes(snapshot)):
                    self._merge(names)
            with self._mutex:
                collect(self._store, self._keep_generations)

    def rebuild(self, decide: Callable[[Snapshot], Wanted | None]) -> bool:
        """Make the coarse tier anew; writes of other threads go on until the last, short, step.

        Parameters
        ----------
        decide : callable
            Given the newest snapshot, says what is wanted; None if the coarse tier is that already.

        Returns
        -------
        bool
            Whether anything was done.
        """
        with self._mutex:
            self._refuse_in_batch("rebuild_coarse()")
            self._newest()
        with self._merging:  # merged segments would have to be built again
            wanted = decide(self._current.get())
            if wanted is None:
                return False
            rebuild = Rebuild(self._store, self._current.get().manifest, wanted)
            try:
                while rebuild.write(self._current.get()) > FEW_ROWS:
                    pass  # so many rows may have come meanwhile that the last step would take long
                with self._mutex:
                    newest = self._newest()
                    rebuild.write(newest)
                    committed = rebuild.commit(newest)
                    self._advance(committed)
            except CommitUncertainError:
                raise
            except TieredIndexError:
                rebuild.abandon()
                raise
            with self._mutex, suppress(TieredIndexError):  # it is committed, whatever comes of this
                collect(self._store, self._keep_generations)
        return True

    def restore(self, generation: int) -> None:
        """Commit an earlier generation's content as the newest."""
        with self._mutex:
            self._refuse_in_batch("restore()")
        with self._merging, self._mutex:  # a merge of rows that come back would lose them
            newest = self._locked()  # what is asked for may be garbage, which goes when it is committed anew
            earlier = self._store.manifest(generation)
            Snapshot(earlier, self._store.segments, newest)  # raises unless all of it is there
            committed = self._store.commit(
                newest.manifest,
                config=earlier.config,
                segments=earlier.segments,
                id_kind=earlier.id_kind,
                metadata_schema=earlier.metadata_schema,
                rotation=earlier.rotation,
                rebuilt=earlier.rebuilt,
            )
            self._advance(committed)
            with suppress(TieredIndexError):  # it is restored, and the next write collects
                self._collect_first()

    def check_may_close(self) -> None:
        """Raise ParameterError in a batch of this thread; wait for those of others."""
        if self._process == os.getpid():
            with self._mutex:
                self._refuse_in_batch("close()")

    def close(self) -> None:
        """Close the snapshot and let the next writer in."""
        # in a forked child another thread's hold on the mutex would last for ever
        with self._mutex if self._process == os.getpid() else nullcontext():
            self._current.close()
            if self._lock is not None:
                self._lock.release()
                self._lock = None

    def may_write(self) -> bool:
        """Return whether the index was opened to write, and by this process."""
        return self._mode == "rw" and self._process == os.getpid()

    def _newest(self) -> Snapshot:
        """Hold the writer's lock, without what earlier writers left, and return the newest generation."""
        newest = self._locked()
        self._collect_first()
        return newest

    def _collect_first(self) -> None:
        """Collect what is not to be kept, unless that was done since the lock was taken."""
        if not self._collected:
            collect(self._store, self._keep_generations)
            self._collected = True

    def _locked(self) -> Snapshot:
        """Hold the writer's lock and return the newest generation; all that is kept is kept still."""
        self._check_may_write()
        if self._lock is not None:
            if not self._lock.in_place():
                raise IndexNotFoundError(f"{self._store.root}: the folder or its lock {_REPLACED}")
            return self._moved()
        lock = WriterLock(self._store.root)
        # a manifest that a killed writer linked may not be durable yet, and what came before it goes now
        try:
            with disk_errors(f"{self._store.manifests}: cannot be synced"):
                self._store.files.sync_folder(self._store.manifests)
            self._store.check_same(self._current.get().manifest)
            newest = self._moved()
        except BaseException:
            lock.release()
            raise
        self._lock = lock
        return newest

    def _moved(self) -> Snapshot:
        """Return the newest generation: of another writer, or of a commit of ours whose last step failed."""
        if self._store.generations()[-1:] != [self._current.get().manifest.generation]:
            self._current.refresh()
            if self._store.generations()[-1:] != [self._current.get().manifest.generation]:
                raise IndexNotFoundError(f"{self._store.root}: what is there is older, so it {_REPLACED}")
        return self._current.get()

    def _advance(self, committed: Manifest) -> None:
        """Open what was committed."""
        try:
            self._current.advance(committed)
        except TieredIndexError as error:
            raise CommitUncertainError(
                f"generation {committed.generation} is committed, but cannot be opened: {error}"
            ) from error

    def _check_may_write(self) -> None:
        self._current.get()
        if self._mode == "r":
            raise ReadOnlyError(f"{self._store.root}: was opened to read, with mode='r' or generation=")
        if self._process != os.getpid():
            raise ReadOnlyError(f"{self._store.root}: was opened before a fork; open it again to write")

    def _refuse_within(self) -> None:
        if self._changing:
            raise ParameterError(f"{self._store.root}: is being written, by rows that would write to it")

    def _refuse_in_batch(self, call: str) -> None:
        self._refuse_within()
        if self._batch is not None:
            raise ParameterError(f"{call} cannot be part of a batch")

    def _maintain(self) -> None:
        """Merge what the policy wants merged. The commit before it is durable whatever happens here."""
        held = True  # for all that is known: Ctrl-C may come between any two steps
        try:
            try:
                # not where optimize() is at it in another thread
                held = self._merging.acquire(blocking=False)
                if held:
                    self._merge_wanted()
            finally:
                if held:
                    self._merging.release()
        except RuntimeError as error:  # Ctrl-C came before it was held, and is what counts
            raise error.__context__ or error from None

    def _merge_wanted(self) -> None:
        try:
            merged = False
            while names := self._policy.choose(_sizes(self._current.get())):
                self._merge(names)
                merged = True
            if merged:
                collect(self._store, self._keep_generations)
        except Exception as error:  # whoever wrote would take it for a write that failed, and write again
            reason = f"{type(error).__name__}: {error}"
            _log.warning("%s: segments could not be merged: %s", self._store.root, reason)

    def _merge(self, names: Sequence[str]) -> None:
        merge = Merge(self._store, self._current.get(), names)
        try:
            merge.write()
            with self._mutex:
                self._advance(merge.commit(self._newest()))
        finally:
            merge.end()


def _sizes(snapshot: Snapshot) -> list[SegmentSize]:
    return [SegmentSize(live.entry.name, live.entry.rows, live.rows) for live in snapshot.segments]
