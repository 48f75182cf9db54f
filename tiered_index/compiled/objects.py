"""Putting the code of an object file into memory, as a linker and a loader would: ELF for x86-64.

Numba and LLVM take 140 MB of a process and .4 s of its start. Code that was compiled before needs neither.

References
----------
System V Application Binary Interface, and its supplement for AMD64.
"""

from __future__ import annotations

import ctypes
import mmap
import platform
import struct
import sys
from collections.abc import Mapping
from typing import Final, NamedTuple

_MAGIC: Final = b"\x7fELF\x02\x01\x01"  # 64 bits, least byte first
_OBJECT_FOR_X86_64: Final = (1, 62)
_SYMBOLS, _ADDENDS, _EMPTY = 2, 4, 8  # kinds of section
_UNWINDING: Final = 0x70000001  # which says how to pass on exceptions: there are none
_HELD, _CODE = 2, 4  # flags of a section
_GLOBAL: Final = 1
_NOT_HERE: Final = 0  # section of a symbol that is not defined
_READ_AND_RUN: Final = 1 | 4

_JUMP: Final = b"\xff\x25\x02\x00\x00\x00\x66\x90"  # to the address behind it
_JUMP_BYTES: Final = len(_JUMP) + 8

_ADDRESS: Final = 1  # R_X86_64_64
_DISTANCE: Final = (2, 4)  # R_X86_64_PC32 and PLT32
_DISTANCE_TO_ADDRESS: Final = (9, 41, 42)  # R_X86_64_GOTPCREL, and those that a linker may relax


class _Section(NamedTuple):
    name: int
    kind: int
    flags: int
    address: int
    offset: int
    size: int
    link: int
    info: int
    alignment: int
    entry_bytes: int


class _Symbol(NamedTuple):
    name: str
    is_global: bool
    section: int
    value: int


def can_load() -> bool:
    """Return whether this machine runs what :class:`Loaded` loads."""
    return sys.platform == "linux" and platform.machine() == "x86_64" and sys.maxsize > 2**32


class Loaded:
    """The code of an object file, in memory for as long as this lives.

    Parameters
    ----------
    code : bytes
        An ELF object file for x86-64 of position-independent code, small code model.

    Attributes
    ----------
    addresses : mapping of str to int
        Of the global functions that it defines.

    Raises
    ------
    RuntimeError
        It is something else, or calls what is not in this process, or memory may not be run here.
    """

    def __init__(self, code: bytes) -> None:
        try:
            sections, symbols = _parsed(code)
            self._code, self._sections = code, sections
            self._jumps: dict[str, int] = {}
            self._places: dict[int, int] = {}
            self._reserve(symbols)
            targets = [self._target_of(symbol) for symbol in symbols]
            for section in sections:
                if section.kind == _ADDENDS and section.info in self._places:
                    self._relocate(section, symbols, targets)
            self._make_runnable()
        except (struct.error, IndexError, ValueError, OSError) as error:
            raise RuntimeError(f"compiled code cannot be loaded: {error}") from error
        self.addresses: Mapping[str, int] = {
            symbol.name: target
            for symbol, target in zip(symbols, targets, strict=True)
            if symbol.is_global and symbol.section in self._places
        }

    def _reserve(self, symbols: list[_Symbol]) -> None:
        """Take memory; put jumps out and code there, then, on pages of its own, what is not run."""
        end = 0
        for symbol in symbols:
            if symbol.section == _NOT_HERE and symbol.name:
                self._jumps[symbol.name] = end
                end += _JUMP_BYTES
        held = [i for i, section in enumerate(self._sections) if _is_held(section)]
        self._runnable = 0
        for i in sorted(held, key=lambda i: not self._sections[i].flags & _CODE):
            section = self._sections[i]
            if not self._runnable and not section.flags & _CODE:
                end = self._runnable = _up_to(end, mmap.PAGESIZE)
            self._places[i] = end = _up_to(end, section.alignment)
            end += section.size
        self._runnable = self._runnable or end
        self._memory = mmap.mmap(-1, end)
        self._base = ctypes.addressof(ctypes.c_char.from_buffer(self._memory))
        for name, at in self._jumps.items():
            self._memory[at : at + _JUMP_BYTES] = _JUMP + struct.pack("<Q", _address_of(name))
        for i, at in self._places.items():
            section = self._sections[i]
            if section.kind != _EMPTY:
                content = self._code[section.offset : section.offset + section.size]
                self._memory[at : at + section.size] = content

    def _target_of(self, symbol: _Symbol) -> int:
        if symbol.section in self._places:
            return self._base + self._places[symbol.section] + symbol.value
        return self._base + self._jumps.get(symbol.name, 0)

    def _relocate(self, section: _Section, symbols: list[_Symbol], targets: list[int]) -> None:
        """Write the addresses and distances that a section's code and data lack."""
        for at in range(section.offset, section.offset + section.size, 24):
            offset, info, addend = struct.unpack_from("<QQq", self._code, at)
            kind, symbol, target = info & 0xFFFFFFFF, symbols[info >> 32], targets[info >> 32]
            outside = symbol.name in self._jumps
            if not outside and symbol.section not in self._places:
                raise ValueError(f"{symbol.name or 'what it needs'} is not held in memory")
            place = self._places[section.info] + offset
            if kind == _ADDRESS:
                target = _address_of(symbol.name) if outside else target
                struct.pack_into("<Q", self._memory, place, target + addend)
                continue
            if kind in _DISTANCE_TO_ADDRESS and outside:
                target += len(_JUMP)  # where the jump finds it
            elif kind not in _DISTANCE:
                raise ValueError(f"relocation {kind} of {symbol.name or 'a section'}")
            struct.pack_into("<i", self._memory, place, target + addend - self._base - place)

    def _make_runnable(self) -> None:
        protect = ctypes.CDLL(None, use_errno=True).mprotect
        start, size = ctypes.c_void_p(self._base), ctypes.c_size_t(self._runnable)
        if protect(start, size, _READ_AND_RUN):
            raise OSError(ctypes.get_errno(), "memory may not be run")


def _parsed(code: bytes) -> tuple[list[_Section], list[_Symbol]]:
    if code[: len(_MAGIC)] != _MAGIC or struct.unpack_from("<HH", code, 16) != _OBJECT_FOR_X86_64:
        raise ValueError("this is no object file for x86-64")
    (table,) = struct.unpack_from("<Q", code, 40)
    entry_bytes, count = struct.unpack_from("<HH", code, 58)
    sections = [
        _Section(*struct.unpack_from("<IIQQQQIIQQ", code, table + i * entry_bytes)) for i in range(count)
    ]
    (listed,) = (section for section in sections if section.kind == _SYMBOLS)
    names, symbols = sections[listed.link].offset, []
    for at in range(listed.offset, listed.offset + listed.size, 24):
        name, info, _, section, value, _ = struct.unpack_from("<IBBHQQ", code, at)
        text = code[names + name : code.index(b"\0", names + name)].decode()
        symbols.append(_Symbol(text, info >> 4 == _GLOBAL, section, value))
    return sections, symbols


def _is_held(section: _Section) -> bool:
    return bool(section.flags & _HELD) and section.kind != _UNWINDING and section.size > 0


def _up_to(number: int, multiple: int) -> int:
    return -(-number // max(multiple, 1)) * max(multiple, 1)


def _address_of(name: str) -> int:
    """Return the address of one of C's functions."""
    for library in (None, "libm.so.6"):
        try:
            function = getattr(ctypes.CDLL(library), name)
        except (AttributeError, OSError):
            continue
        return ctypes.cast(function, ctypes.c_void_p).value or 0
    raise ValueError(f"there is no {name} in this process")
