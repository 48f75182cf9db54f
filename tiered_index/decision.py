"""What was decided about a search before it began."""

from __future__ import annotations

from typing import NamedTuple

from tiered_index.config import Budget
from tiered_index.limits import Limits
from tiered_index.planner.among import Among
from tiered_index.planner.choose import Prediction
from tiered_index.planner.filtered import Followed
from tiered_index.planner.plan import Plan


class Decision(NamedTuple):
    """How a search is to be done.

    Attributes
    ----------
    plan : Plan
        The plan.
    limits : Limits
        When to stop.
    budget : Budget
        What was asked.
    prediction : Prediction or None
        What is expected; None without a calibration.
    concern : str or None
        What cannot be kept of what was asked, as far as is known beforehand.
    matches : int or None
        How many rows match the filter; None without one.
    rows : int
        How many rows there are, with one.
    among : Among or None
        What was measured of filters, for such a search; None where nothing was.
    relies : bool
        Whether the plan rests on that.
    followed : Followed or None
        What follows a walk whose best are not near enough; None where nothing was measured.
    """

    plan: Plan
    limits: Limits
    budget: Budget
    prediction: Prediction | None
    concern: str | None
    matches: int | None = None
    rows: int = 0
    among: Among | None = None
    relies: bool = False
    followed: Followed | None = None

    @property
    def relied(self) -> Among | None:
        """What the plan rests on."""
        return self.among if self.relies else None

    @property
    def kept(self) -> bool:
        """Whether a floor is to be kept, however long that takes."""
        return self.budget.min_recall is not None and self.budget.latency_ms is None
