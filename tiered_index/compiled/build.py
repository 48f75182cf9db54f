"""Compiling all entries into one object file that needs nothing of Numba.

Numba's functions return a status and take places for their result and for an error; each gets a function of
C's kind around it. Arrays that they make are reference counted by Numba's runtime, which is not there when
the file is loaded by itself: the two functions of it that are called are written here, over C's malloc.
"""

from __future__ import annotations

import inspect
from typing import Any, Final

from llvmlite import binding
from numba import types

from tiered_index.compiled.entries import ENTRIES
from tiered_index.compiled.layout import FAILED

# The struct is a count, a destructor and what it is given, the data's address, its size, and an allocator
_RUNTIME: Final = """
declare noalias ptr @malloc(i64)
declare void @free(ptr)

define ptr @NRT_MemInfo_alloc_aligned(i64 %size, i32 %align) {
  %wide = zext i32 %align to i64
  %spare = add i64 %wide, 64
  %total = add i64 %size, %spare
  %made = call ptr @malloc(i64 %total)
  %none = icmp eq ptr %made, null
  br i1 %none, label %done, label %fill
fill:
  %start = ptrtoint ptr %made to i64
  %past = add i64 %start, %spare
  %over = urem i64 %past, %wide
  %data = sub i64 %past, %over
  store i64 1, ptr %made
  %dtor = getelementptr i64, ptr %made, i64 1
  store i64 0, ptr %dtor
  %info = getelementptr i64, ptr %made, i64 2
  store i64 0, ptr %info
  %at = getelementptr i64, ptr %made, i64 3
  store i64 %data, ptr %at
  %bytes = getelementptr i64, ptr %made, i64 4
  store i64 %size, ptr %bytes
  %allocator = getelementptr i64, ptr %made, i64 5
  store i64 0, ptr %allocator
  br label %done
done:
  ret ptr %made
}

define void @NRT_MemInfo_call_dtor(ptr %made) {
  call void @free(ptr %made)
  ret void
}
"""

_AROUND: Final = """
declare i32 @"{inner}"(ptr, ptr{types})

define i64 @"{name}"({given}) {{
  %result = alloca i64
  %error = alloca ptr
  store i64 0, ptr %result
  store ptr null, ptr %error
  %status = call i32 @"{inner}"(ptr %result, ptr %error{passed})
  %failed = icmp ne i32 %status, 0
  %value = load i64, ptr %result
  %returned = select i1 %failed, i64 {failure}, i64 %value
  ret i64 %returned
}}
"""


def compile_entries() -> bytes:
    """Compile the entries for this machine; return an object file whose symbols are their names.

    Raises
    ------
    RuntimeError
        Code needs more of Numba than is written here, or returns no whole number.
    """
    texts, modules = [_RUNTIME], []
    codegen: Any = None
    for name, entry in ENTRIES.items():
        count = len(inspect.signature(entry.py_func).parameters)  # type: ignore[attr-defined]
        entry.compile((types.int64,) * count)  # type: ignore[attr-defined]
        (compiled,) = entry.overloads.values()  # type: ignore[attr-defined]
        if compiled.signature.return_type != types.int64:
            raise RuntimeError(f"{name} returns {compiled.signature.return_type}, not int64")
        codegen = compiled.library.codegen
        modules.append(compiled.library._final_module.as_bitcode())
        texts.append(
            _AROUND.format(
                inner=compiled.fndesc.llvm_func_name,
                name=name,
                types=", i64" * count,
                given=", ".join(f"i64 %a{i}" for i in range(count)),
                passed="".join(f", i64 %a{i}" for i in range(count)),
                failure=FAILED,
            )
        )
    triple, cpu, features = codegen.magic_tuple()
    whole = binding.parse_assembly("".join(texts))
    whole.triple = triple
    for module in modules:
        whole.link_in(binding.parse_bitcode(module))
    target = binding.Target.from_triple(triple).create_target_machine(
        cpu=cpu, features=features, opt=3, reloc="pic", codemodel="small"
    )
    whole.data_layout = str(target.target_data)
    whole.verify()
    code: bytes = target.emit_object(whole)
    return code
