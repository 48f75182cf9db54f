"""Matrix products that a fork cannot interrupt."""

from __future__ import annotations

import os
import threading

import numpy as np
from numpy.typing import NDArray

# OpenBLAS guards its threads by a lock of its own. A process that forks while another thread multiplies
# leaves the child with that lock held for ever: two threads multiplying (16, 32) by (32, 6000), a fork, and
# a product in the child hung five times of five. A fork waits for this lock instead.
_multiplying = threading.Lock()
os.register_at_fork(
    before=_multiplying.acquire,
    after_in_parent=_multiplying.release,
    after_in_child=_multiplying.release,
)


def product(a: NDArray[np.float32], b: NDArray[np.float32]) -> NDArray[np.float32]:
    """Return ``a @ b``; BLAS uses all cores, so that one product at a time loses nothing."""
    with _multiplying:
        result: NDArray[np.float32] = a @ b
    return result
