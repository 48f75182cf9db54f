"""What was decided about a search before it began."""

from __future__ import annotations

from typing import NamedTuple

from tiered_index.config import Budget
from tiered_index.limits import Limits
from tiered_index.planner.choose import Prediction
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
    """

    plan: Plan
    limits: Limits
    budget: Budget
    prediction: Prediction | None
    concern: str | None
    matches: int | None = None
