"""The road of one query, compiled: an optional engine over FAISS's own graph and codes.

FAISS's walk waits for memory; this one asks for vectors before it needs them, and finds as many of the best
(``python -m benchmarks planner`` compares the two). It needs Numba, ``pip install 'tiered-index[fast]'``;
without it FAISS walks and NumPy rescores.
"""

from __future__ import annotations

import logging
import os
from functools import lru_cache
from importlib import import_module
from typing import Any

_log = logging.getLogger("tiered_index")

DISABLE = "TIERED_INDEX_NO_COMPILED"
"""Environment variable: when it is set, FAISS walks though Numba is there."""


OTHERWISE = -2
"""Instead of an answer: the query, the files or what was found want another way."""

FEWER_NEAR, FAR_FEWER_NEAR, NONE_NEAR = -3, -4, -5
"""Instead of an answer: fewer of the rows near the query may be found than the plan is for, or none."""

HARD = -6
"""Instead of an answer: the best that the walk found are less near than it takes for the plan to do."""


@lru_cache(maxsize=1)
def get_engine() -> Any:
    """Return :mod:`tiered_index.compiled.engine`, or None where Numba is missing or switched off."""
    if os.environ.get(DISABLE):
        return None
    try:
        found = import_module("tiered_index.compiled.engine")
        found.kernels()
    except ImportError as error:  # it is optional
        _log.debug("FAISS walks: %s", error)
        return None
    except RuntimeError as error:
        _log.warning("FAISS walks, which takes longer: %s", error)
        return None
    return found
