"""What BLAS and LAPACK compute by several threads, so that a fork cannot interrupt it."""

from __future__ import annotations

import os
import threading
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray

# OpenBLAS guards its threads by a lock of its own. A process that forks while another thread multiplies
# leaves the child with that lock held for ever: two threads multiplying (16, 32) by (32, 6000), a fork, and
# a product in the child hung five times of five. So did the parent's own product, of (768, 8192) by its
# transpose. A fork waits for these locks instead; whoever holds them may fork, as a signal may make it.
_multiplying = threading.RLock()
_decomposing = threading.RLock()  # takes seconds, for which products need not wait
for _lock in (_decomposing, _multiplying):
    os.register_at_fork(before=_lock.acquire, after_in_parent=_lock.release, after_in_child=_lock.release)

_Real = TypeVar("_Real", bound=np.floating[Any])


def product(a: NDArray[_Real], b: NDArray[_Real]) -> NDArray[_Real]:
    """Return ``a @ b``; BLAS uses all cores, so that one product at a time loses nothing."""
    with _multiplying:
        result: NDArray[_Real] = a @ b
    return result


def eigenvectors(symmetric: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return the eigenvectors of a symmetric matrix as columns, by rising eigenvalue."""
    with _decomposing:
        return np.linalg.eigh(symmetric).eigenvectors
