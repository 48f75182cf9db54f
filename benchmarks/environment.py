"""What a figure depends on: machine, versions, load."""

from __future__ import annotations

import os
import platform
from importlib.metadata import version
from pathlib import Path

INSTRUCTIONS = ("avx2", "avx512f", "avx512_vnni", "avx512_bf16")
"""Those that some kernels are made of; processors of one name may have them or not."""

PACKAGES = ("tiered-index", "faiss-cpu", "numba", "numpy", "pyarrow", "numkong")


def facts() -> dict[str, object]:
    """Return the facts that stand beside every figure."""
    return {
        "processor": _of_processor("model name") or platform.machine(),
        "instructions": [name for name in INSTRUCTIONS if name in _of_processor("flags").split()],
        "cores": os.cpu_count(),
        "memory_gb": round(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 1e9, 1),
        "kernel": platform.release(),
        "python": platform.python_version(),
        "load_1min": round(os.getloadavg()[0], 2),
        **{name: version(name) for name in PACKAGES},
    }


def memory_mb() -> dict[str, float]:
    """Return this process's resident memory in MB: anonymous, and mapped from files."""
    fields = {}
    for line in Path("/proc/self/status").read_text().splitlines():
        name, _, rest = line.partition(":")
        if name in ("RssAnon", "RssFile"):
            fields[name] = int(rest.split()[0]) / 1e3
    return {"anonymous": fields["RssAnon"], "mapped": fields["RssFile"]}


def held_mb(pid: int) -> float:
    """Return a process's memory in MB; of pages that several processes map, its share of each.

    Raises
    ------
    OSError
        The system does not say, or there is no such process.
    """
    for line in Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines():
        if line.startswith("Pss:"):
            return 1024 * int(line.split()[1]) / 1e6
    raise OSError(f"the system does not say what memory process {pid} shares")


def _of_processor(field: str) -> str:
    for line in Path("/proc/cpuinfo").read_text().splitlines():
        if line.startswith(field):
            return line.partition(":")[2].strip()
    return ""
