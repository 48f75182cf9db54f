"""Object files are put into memory as a linker would: each kind of reference, and what is refused."""

from __future__ import annotations

import ctypes
import struct

import pytest

from tiered_index.compiled.objects import Loaded, can_load

binding = pytest.importorskip("llvmlite.binding")

pytestmark = pytest.mark.skipif(not can_load(), reason="objects are loaded by LLVM here")

FUNCTIONS = """
@count = internal global i64 0
@table = internal constant [2 x ptr] [ptr @twice, ptr @thrice]
@outer = internal global ptr @labs
@numbers = internal constant [4 x i64] [i64 5, i64 7, i64 11, i64 13]
@wide = internal global [100000 x i8] zeroinitializer

declare i64 @labs(i64)
declare i64 @llabs(i64)
declare double @erfc(double)

define internal i64 @twice(i64 %x) {
  %y = shl i64 %x, 1
  ret i64 %y
}
define internal i64 @thrice(i64 %x) {
  %y = mul i64 %x, 3
  ret i64 %y
}
define i64 @counted() {
  %old = load i64, ptr @count
  %new = add i64 %old, 1
  store i64 %new, ptr @count
  ret i64 %new
}
define i64 @by_table(i64 %which, i64 %x) {
  %at = getelementptr [2 x ptr], ptr @table, i64 0, i64 %which
  %function = load ptr, ptr %at
  %y = call i64 %function(i64 %x)
  ret i64 %y
}
define i64 @outside(i64 %x) {
  %y = call i64 @labs(i64 %x)
  ret i64 %y
}
define i64 @kept_outside(i64 %x) {
  %function = load volatile ptr, ptr @outer
  %y = call i64 %function(i64 %x)
  ret i64 %y
}
define i64 @where_outside() {
  %y = ptrtoint ptr @llabs to i64
  ret i64 %y
}
define i64 @number(i64 %which) {
  %at = getelementptr [4 x i64], ptr @numbers, i64 0, i64 %which
  %y = load i64, ptr %at
  ret i64 %y
}
define i64 @last_of_wide(i8 %x) {
  %at = getelementptr [100000 x i8], ptr @wide, i64 0, i64 99999
  %old = load i8, ptr %at
  store i8 %x, ptr %at
  %y = zext i8 %old to i64
  ret i64 %y
}
define double @half(double %x) {
  %y = call double @erfc(double 0.0)
  %z = fdiv double %x, 2.0
  %w = fmul double %y, %z
  ret double %w
}
define i64 @switched(i64 %x) {
  switch i64 %x, label %other [
    i64 0, label %a i64 1, label %b i64 2, label %c i64 3, label %d i64 4, label %e
  ]
a:
  %va = call i64 @counted()
  ret i64 %va
b:
  ret i64 -20
c:
  %vc = call i64 @outside(i64 -30)
  ret i64 %vc
d:
  ret i64 43
e:
  %ve = call i64 @twice(i64 1)
  ret i64 %ve
other:
  ret i64 0
}
"""


def object_of(text: str, **settings: str) -> bytes:
    target = binding.Target.from_triple(binding.get_process_triple())
    machine = target.create_target_machine(opt=2, **{"reloc": "pic", "codemodel": "small", **settings})
    return machine.emit_object(binding.parse_assembly(text))


@pytest.fixture(scope="module", autouse=True)
def llvm() -> None:
    binding.initialize_native_target()
    binding.initialize_native_asmprinter()


def called(loaded: Loaded, name: str, *arguments: int) -> int:
    kind = ctypes.CFUNCTYPE(ctypes.c_int64, *[ctypes.c_int64] * len(arguments))
    return kind(loaded.addresses[name])(*arguments)


def test_functions_find_each_other_their_data_and_what_is_outside() -> None:
    loaded, again = Loaded(object_of(FUNCTIONS)), Loaded(object_of(FUNCTIONS))
    assert [called(loaded, "counted") for _ in range(3)] == [1, 2, 3]
    assert called(again, "counted") == 1  # data of its own
    assert [called(loaded, "by_table", which, 7) for which in (0, 1)] == [14, 21]
    assert [called(loaded, name, -5) for name in ("outside", "kept_outside")] == [5, 5]
    assert called(loaded, "where_outside") == ctypes.cast(ctypes.CDLL(None).llabs, ctypes.c_void_p).value
    assert [called(loaded, "number", which) for which in range(4)] == [5, 7, 11, 13]
    assert [called(loaded, "last_of_wide", x) for x in (3, 4)] == [0, 3]  # which the file holds no bytes of
    assert [called(loaded, "switched", x) for x in range(6)] == [4, -20, 30, 43, 2, 0]
    half = ctypes.CFUNCTYPE(ctypes.c_double, ctypes.c_double)(loaded.addresses["half"])
    assert half(3.0) == 1.5
    assert "twice" not in loaded.addresses


def test_what_is_missing_is_named() -> None:
    text = (
        "declare i64 @nobody_has_this()\ndefine i64 @f() {\n%x = call i64 @nobody_has_this()\nret i64 %x\n}"
    )
    with pytest.raises(RuntimeError, match="nobody_has_this"):
        Loaded(object_of(text))


@pytest.mark.parametrize("settings", [{"codemodel": "large"}, {"reloc": "static"}])
def test_code_of_another_model_is_refused(settings: dict[str, str]) -> None:
    with pytest.raises(RuntimeError, match="cannot be loaded"):
        Loaded(object_of(FUNCTIONS, **settings))


@pytest.mark.parametrize("share", [0.0, 0.001, 0.01, 0.3, 0.9])
def test_a_file_that_was_cut_is_refused(share: float) -> None:
    code = object_of(FUNCTIONS)
    with pytest.raises(RuntimeError, match="cannot be loaded"):
        Loaded(code[: int(share * len(code))])


@pytest.mark.parametrize(("at", "value"), [(0, 0x7E), (4, 1), (5, 2), (16, 2), (18, 183)])
def test_another_kind_of_file_is_refused(at: int, value: int) -> None:
    """No ELF, of 32 bits, greatest byte first, a program, for another machine."""
    code = bytearray(object_of(FUNCTIONS))
    struct.pack_into("<B", code, at, value)
    with pytest.raises(RuntimeError, match="no object file for x86-64"):
        Loaded(bytes(code))
