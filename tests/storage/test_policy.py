"""What merge policies choose, and which settings they refuse."""

from __future__ import annotations

import math
from typing import Any

import pytest

import tiered_index as ti
from tiered_index.storage.policy import SegmentSize


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"fanout": 1}, "fanout must be at least 2, not 1"),
        ({"fanout": 0}, "fanout must be at least 2, not 0"),
        ({"fanout": -3}, "fanout must be at least 2"),
        ({"fanout": 2.5}, "fanout must be a whole number"),
        ({"fanout": True}, "fanout must be a whole number"),
        ({"max_deleted_share": math.nan}, "max_deleted_share must be a number between 0 and 1, not nan"),
        ({"max_deleted_share": -0.1}, "max_deleted_share must be"),
        ({"max_deleted_share": 30}, "max_deleted_share must be"),
        ({"max_deleted_share": True}, "max_deleted_share must be"),
        ({"max_deleted_share": "0.3"}, "max_deleted_share must be"),
    ],
)
def test_settings_that_would_merge_for_ever_or_never_are_refused(settings: dict[str, Any], said: str) -> None:
    with pytest.raises(ti.ParameterError, match=said):
        ti.SizeTieredPolicy(**settings)


@pytest.mark.parametrize("share", [0, 0.5, 1.0])
def test_the_least_fanout_comes_to_an_end(share: float) -> None:
    policy = ti.SizeTieredPolicy(fanout=2, max_deleted_share=share)
    segments = [SegmentSize(str(i), 1, 1) for i in range(8)]
    while names := policy.choose(segments):
        rows = sum(segment.live_rows for segment in segments if segment.name in names)
        segments = [segment for segment in segments if segment.name not in names]
        segments.append(SegmentSize("+".join(names), rows, rows))
    assert [segment.rows for segment in segments] == [8]
