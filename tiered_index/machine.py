"""Which machine and which versions a measurement belongs to."""

from __future__ import annotations

import os
import platform
from functools import lru_cache
from importlib.metadata import version
from pathlib import Path

from tiered_index.compiled import get_engine


def cores() -> int:
    """Return how many cores this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


@lru_cache(maxsize=1)
def fingerprint() -> str:
    """Return processor, cores, and the versions that search times depend on, as one line."""
    road = f"numba {version('numba')}" if get_engine() is not None else "faiss walk"
    return (
        f"{_processor()}, {os.cpu_count()} cores; faiss {version('faiss-cpu')}, "
        f"numpy {version('numpy')}, {road}, tiered_index {version('tiered-index')}"
    )


def _processor() -> str:
    try:
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    except OSError:
        pass
    return platform.processor() or platform.machine()
