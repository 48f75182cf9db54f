"""Compiled code as functions: read from where it is kept, or else compiled, which Numba is needed for."""

from __future__ import annotations

import ctypes
import hashlib
import logging
import os
import platform
import sys
import tempfile
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from functools import lru_cache
from importlib import import_module
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Final

from tiered_index.compiled.objects import Loaded, can_load

_log = logging.getLogger("tiered_index")

_ARGUMENTS: Final = {
    "walk": 9,
    "scan": 7,
    "approach": 6,
    "arrange": 5,
    "link": 11,
    "answer_many": 11,
    "answer_prepared": 8,
}
"""How many whole numbers each of :mod:`tiered_index.compiled.entries` takes."""

_KEPT: Final = 8
"""Files that are kept in a folder, of several versions and machines, those that were made last."""

_UNFINISHED_SECONDS: Final = 3_600
"""After so long nobody will finish a file."""

_PREFIX: Final = "kernels-"
_DIGEST_BYTES: Final = 16
_HERE: Final = Path(__file__).parent

Kernel = Callable[..., int]


class Kernels:
    """The entries as functions, which let other threads run meanwhile.

    Parameters
    ----------
    code : bytes
        The object file of :func:`tiered_index.compiled.build.compile_entries`.
    """

    def __init__(self, code: bytes) -> None:
        addresses = self._addresses_in(code)
        found = {
            name: ctypes.CFUNCTYPE(ctypes.c_int64, *[ctypes.c_int64] * count)(addresses[name])
            for name, count in _ARGUMENTS.items()
        }
        self.walk: Kernel = found["walk"]
        self.scan: Kernel = found["scan"]
        self.approach: Kernel = found["approach"]
        self.arrange: Kernel = found["arrange"]
        self.link: Kernel = found["link"]
        self.answer_many: Kernel = found["answer_many"]
        self.answer_prepared: Kernel = found["answer_prepared"]

    def _addresses_in(self, code: bytes) -> Mapping[str, int]:
        if can_load():
            self._loaded: Any = Loaded(code)
            return self._loaded.addresses
        self._loaded = by_llvm(code)
        return {name: self._loaded.get_function_address(name) for name in _ARGUMENTS}


def by_llvm(code: bytes) -> Any:
    """Load an object file on any machine, with LLVM, which finds functions of it by name."""
    binding = import_module("llvmlite.binding")
    binding.initialize_native_target()
    binding.initialize_native_asmprinter()
    machine = binding.Target.from_default_triple().create_target_machine(jit=True)
    # in one block of memory: sections that other mappings kept apart ended the process
    engine = binding.create_mcjit_compiler(binding.parse_assembly(""), machine, use_lmm=True)
    engine.add_object_file(binding.ObjectFileRef.from_data(code))
    engine.finalize_object()
    return engine


@lru_cache(maxsize=1)
def kernels() -> Kernels:
    """Return the kernels; compile them, half a minute, where no file holds them yet.

    Raises
    ------
    ImportError
        Numba is not installed.
    RuntimeError
        It cannot be compiled or loaded, or there is nowhere to keep it.
    """
    if find_spec("numba") is None:
        raise ModuleNotFoundError("numba is not installed")
    name = f"{_PREFIX}{_key()}.o"
    for folder in _folders():
        code = _read(folder / name)
        if code is not None:
            return Kernels(code)
    made = _new_file()
    _log.info("compiling for this machine, half a minute, once: kept as %s", made.with_name(name))
    try:
        code = import_module("tiered_index.compiled.build").compile_entries()
        made.write_bytes(_digest(code) + code)
        made.replace(made.with_name(name))
    except Exception as error:  # Numba's own have no other base
        raise RuntimeError(f"the walk could not be compiled: {type(error).__name__}: {error}") from error
    finally:
        made.unlink(missing_ok=True)  # under that name, unless it was moved
    _forget_old(made.parent)
    return Kernels(code)


def _key() -> str:
    """Say what code depends on: its sources, what compiles it, and the machine."""
    found = hashlib.blake2b(digest_size=_DIGEST_BYTES)
    for path in [*sorted(_HERE.glob("*.py")), _HERE.parent / "sketch.py"]:
        found.update(path.read_bytes())
    said = [
        sys.version,
        version("numba"),
        version("llvmlite"),
        sys.platform,
        platform.machine(),
        _processor(),
    ]
    said += [f"{name}={of}" for name, of in sorted(os.environ.items()) if name.startswith("NUMBA_")]
    found.update("\n".join(said).encode())
    return found.hexdigest()


def _processor() -> str:
    """Name the processor and its instructions."""
    try:
        lines = Path("/proc/cpuinfo").read_text().split("\n\n")[0].split("\n")
    except OSError:
        return platform.processor()
    telling = ("vendor_id", "cpu family", "model", "stepping", "flags", "Features", "CPU ")
    return "\n".join(line for line in lines if line.startswith(telling))


def _folders() -> list[Path]:
    """Return where code may be kept: beside its sources, or where they may not be written to."""
    found = [_HERE / "__pycache__"]
    cache = os.environ.get("XDG_CACHE_HOME")
    try:
        found.append((Path(cache) if cache else Path.home() / ".cache") / "tiered_index")
    except RuntimeError:  # nobody's home
        _log.debug("no folder of the user's own to keep compiled code in")
    return found


def _new_file() -> Path:
    """Make a file in the first folder that may be written to."""
    for folder in _folders():
        try:
            folder.mkdir(parents=True, exist_ok=True)
            descriptor, path = tempfile.mkstemp(dir=folder, prefix=_PREFIX)
        except OSError as error:
            _log.debug("no compiled code is kept in %s: %s", folder, error)
            continue
        os.close(descriptor)
        return Path(path)
    raise RuntimeError("there is nowhere to keep compiled code")


def _digest(code: bytes) -> bytes:
    return hashlib.blake2b(code, digest_size=_DIGEST_BYTES).digest()


def _read(path: Path) -> bytes | None:
    """Return the code of a file, or None if there is none or it is not whole."""
    try:
        content = path.read_bytes()
    except OSError:
        return None
    code = content[_DIGEST_BYTES:]
    return code if content[:_DIGEST_BYTES] == _digest(code) else None


def _forget_old(folder: Path) -> None:
    made: list[tuple[float, Path]] = []
    for path in folder.glob(f"{_PREFIX}*.o"):
        with suppress(OSError):
            made.append((path.stat().st_mtime, path))
    for _, path in sorted(made)[:-_KEPT]:
        with suppress(OSError):
            path.unlink()
    # a process that ended while it compiled left one, for which it takes half a minute and not an hour
    for path in folder.glob(f"{_PREFIX}*"):
        with suppress(OSError):
            if not path.suffix and time.time() - path.stat().st_mtime > _UNFINISHED_SECONDS:
                path.unlink()
