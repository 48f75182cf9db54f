"""What looks on when a search was answered."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from tiered_index.errors import ParameterError
from tiered_index.prepared import Called
from tiered_index.results import SearchResult
from tiered_index.storage.snapshot import Snapshot
from tiered_index.watch.samples import Samples
from tiered_index.watch.tally import Counter

if TYPE_CHECKING:
    from tiered_index.watch.watch import Watch


class Onlooker:
    """Counts searches, and takes samples of them, where either was asked for."""

    def __init__(self) -> None:
        self.counter: Counter | None = None
        self.samples: Samples | None = None
        self.watch: Watch | None = None

    def saw(
        self,
        snapshot: Snapshot,
        result: SearchResult,
        query: Any,
        called: Called,
        tag: str | None,
        where: Any = None,
        group_by: str | None = None,
    ) -> None:
        """Take note of a search; 0.13 us for nearly all, and one more where searches are counted."""
        counter, samples = self.counter, self.samples
        if counter is not None:
            counter.add(result)
        if samples is not None:
            samples.saw(snapshot, result, query, called, tag, where, grouped=group_by is not None)


def check_tag(tag: Any) -> None:
    """Raise ParameterError unless a tag is a string."""
    if not isinstance(tag, str):
        raise ParameterError(f"tag must be a string, not {tag!r}")
