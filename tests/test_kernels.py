"""Compiled code is kept in a file, which is read without Numba; and what is done where that cannot be."""

from __future__ import annotations

import ctypes
import inspect
import os
import subprocess
import sys
import textwrap
import time
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

import tiered_index as ti
from tiered_index import compiled
from tiered_index.compiled import DISABLE, kernels, prepared
from tiered_index.compiled.layout import FAILED
from tiered_index.testing import matryoshka_vectors

pytest.importorskip("numba")
engine = pytest.importorskip("tiered_index.compiled.engine")

pytestmark = pytest.mark.skipif(
    compiled.get_engine() is None or DISABLE in os.environ, reason="the compiled engine is switched off"
)

DIM, ROWS = 32, 6_000


def kept() -> bytes:
    """Return the code that this process runs, as it was kept."""
    found = [kernels._read(folder / f"kernels-{kernels._key()}.o") for folder in kernels._folders()]
    return next(code for code in found if code is not None)


@pytest.fixture
def fresh(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[], Any]:
    """Return what loads kernels anew, from two folders under `tmp_path`; compiling gives what was kept."""
    code, compilations = kept(), []

    def compile_entries() -> bytes:
        compilations.append(1)
        return code

    real = kernels.import_module
    monkeypatch.setattr(kernels, "_folders", lambda: [tmp_path / "here", tmp_path / "there"])
    monkeypatch.setattr(
        kernels,
        "import_module",
        lambda name: (
            SimpleNamespace(compile_entries=compile_entries) if name.endswith("build") else real(name)
        ),
    )

    def load() -> int:
        compilations.clear()
        assert isinstance(kernels.kernels.__wrapped__(), kernels.Kernels)
        return len(compilations)

    return load


def test_code_is_compiled_once(fresh: Callable[[], int], tmp_path: Path) -> None:
    assert [fresh(), fresh()] == [1, 0]
    (path,) = (tmp_path / "here").iterdir()
    assert path.name == f"kernels-{kernels._key()}.o"
    path.unlink()
    assert fresh() == 1


@pytest.mark.parametrize("size", [0, 8, 16, 1_000, -1])
def test_a_file_that_was_cut_is_compiled_again(fresh: Callable[[], int], tmp_path: Path, size: int) -> None:
    fresh()
    (path,) = (tmp_path / "here").iterdir()
    whole = path.read_bytes()
    path.write_bytes(whole[:size])
    assert fresh() == 1
    assert path.read_bytes() == whole


def test_a_file_that_was_changed_is_compiled_again(fresh: Callable[[], int], tmp_path: Path) -> None:
    fresh()
    (path,) = (tmp_path / "here").iterdir()
    changed = bytearray(path.read_bytes())
    changed[len(changed) // 2] ^= 1
    path.write_bytes(changed)
    assert fresh() == 1


def test_code_is_kept_where_it_may_be(fresh: Callable[[], int], tmp_path: Path) -> None:
    (tmp_path / "here").write_text("no folder")
    assert [fresh(), fresh()] == [1, 0]
    assert len(list((tmp_path / "there").iterdir())) == 1


def test_where_nothing_may_be_kept_faiss_walks(
    fresh: Callable[[], int], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "here").write_text("no folder")
    (tmp_path / "there").write_text("no folder")
    with pytest.raises(RuntimeError, match="nowhere to keep"):
        fresh()
    monkeypatch.setattr(engine, "kernels", kernels.kernels.__wrapped__)
    assert compiled.get_engine.__wrapped__() is None


@pytest.mark.parametrize("error", [RuntimeError, TypeError, OSError, ImportError])
def test_a_compilation_that_fails_leaves_no_file_and_faiss_walks(
    fresh: Callable[[], int],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    error: type[Exception],
) -> None:
    def broken(_name: str) -> Any:
        raise error("broken")

    monkeypatch.setattr(kernels, "import_module", broken)
    with pytest.raises(RuntimeError, match=f"not be compiled: {error.__name__}: broken"):
        fresh()
    assert list((tmp_path / "here").iterdir()) == []
    monkeypatch.setattr(engine, "kernels", kernels.kernels.__wrapped__)
    assert compiled.get_engine.__wrapped__() is None
    assert "FAISS walks, which takes longer: the walk could not be compiled" in caplog.text


def test_old_files_are_forgotten(fresh: Callable[[], int], tmp_path: Path) -> None:
    (tmp_path / "here").mkdir()
    for number in range(12):
        old = tmp_path / "here" / f"kernels-{number}.o"
        old.touch()
        os.utime(old, (number, number))
    assert fresh() == 1
    names = {path.name for path in (tmp_path / "here").iterdir()}
    assert names == {f"kernels-{n}.o" for n in range(5, 12)} | {f"kernels-{kernels._key()}.o"}


def test_what_a_killed_process_left_is_forgotten(fresh: Callable[[], int], tmp_path: Path) -> None:
    folder = tmp_path / "here"
    folder.mkdir()
    now = time.time()
    for name, age in (("kernels-left1234", 4_000), ("kernels-new_5678", 60), ("other", 10**6)):
        (folder / name).touch()
        os.utime(folder / name, (now - age, now - age))
    assert fresh() == 1
    names = {path.name for path in folder.iterdir()}
    assert names == {"kernels-new_5678", "other", f"kernels-{kernels._key()}.o"}


def test_other_sources_versions_and_settings_are_compiled_for(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    keys = [kernels._key(), kernels._key()]
    monkeypatch.setenv("NUMBA_CPU_NAME", "generic")
    keys.append(kernels._key())
    monkeypatch.delenv("NUMBA_CPU_NAME")
    monkeypatch.setattr(kernels, "version", lambda _name: "0.1")
    keys.append(kernels._key())
    monkeypatch.setattr(kernels, "_processor", lambda: "another")
    keys.append(kernels._key())
    package = tmp_path / "package"
    (package / "compiled").mkdir(parents=True)
    monkeypatch.setattr(kernels, "_HERE", package / "compiled")
    for path in (package / "sketch.py", package / "compiled" / "a.py"):
        for text in ("1", "2"):
            path.write_text(text)
            (package / "sketch.py").touch()
            keys.append(kernels._key())
    assert keys[0] == keys[1]
    assert len(set(keys)) == len(keys) - 1


def test_entries_take_what_is_said() -> None:
    entries = pytest.importorskip("tiered_index.compiled.entries").ENTRIES
    counts = {name: len(inspect.signature(entry.py_func).parameters) for name, entry in entries.items()}
    assert counts == kernels._ARGUMENTS


def test_an_array_object_holds_the_address_of_its_numbers() -> None:
    for array in (np.arange(5.0), np.empty(0), np.arange(20, dtype=np.float32)[7:]):
        found = ctypes.c_int64.from_address(id(array) + prepared._ADDRESS).value
        assert found == array.ctypes.data


@pytest.fixture(scope="module")
def index(tmp_path_factory: pytest.TempPathFactory) -> ti.Index:
    made = ti.open(tmp_path_factory.mktemp("kernels") / "i.tidx", DIM, prefix_dim=16, ef_construction=16)
    made.add(np.arange(ROWS), matryoshka_vectors(ROWS, DIM, seed=1))
    return made


def test_llvm_loads_the_same_code(index: ti.Index, monkeypatch: pytest.MonkeyPatch) -> None:
    """As it does where there is no loader of our own."""
    queries = matryoshka_vectors(20, DIM, seed=2)

    def look() -> list[Any]:
        with ti.open(index.path, mode="r") as again:
            found = [again.search(query, 10, ef=60) for query in queries]
            batch = again.search(queries, 10, ef=60)
        assert all(result.stats.distances for result in found)
        return [[result.ids.tolist(), result.scores.tolist()] for result in [*found, batch]]

    expected, code = look(), kept()
    monkeypatch.setattr(kernels, "can_load", lambda: False)
    by_llvm = kernels.Kernels(code)
    monkeypatch.setattr(engine, "kernels", lambda: by_llvm)
    monkeypatch.setattr(prepared, "kernels", lambda: by_llvm)
    assert look() == expected


def test_llvm_keeps_code_and_numbers_together_among_other_mappings() -> None:
    """Sections more than 2 GB apart cannot reach each other."""
    code = """
        import mmap, random
        from tiered_index.compiled import kernels
        code = next(filter(None, (
            kernels._read(folder / f"{kernels._PREFIX}{kernels._key()}.o") for folder in kernels._folders()
        )))
        random.seed(2)
        held, made = [], []
        for _ in range(400):  # which every process ended by that kept sections apart
            held += [mmap.mmap(-1, 1 << random.choice([12, 16, 20, 24, 28])) for _ in range(200)]
            random.shuffle(held)
            del held[-100:]
            made.append(kernels.by_llvm(code))
    """
    kept()
    subprocess.run([sys.executable, "-c", textwrap.dedent(code)], check=True, timeout=120)


def test_code_that_fails_says_so(index: ti.Index, monkeypatch: pytest.MonkeyPatch) -> None:
    failing = SimpleNamespace(**dict.fromkeys(kernels._ARGUMENTS, lambda *_: FAILED))
    query = matryoshka_vectors(1, DIM, seed=3)[0]
    with ti.open(index.path, mode="r") as again:
        monkeypatch.setattr(engine, "kernels", lambda: failing)
        monkeypatch.setattr(prepared, "kernels", lambda: failing)
        for _ in range(2):
            with pytest.raises(RuntimeError, match="ended with an error"):
                again.search(query)


def test_a_search_needs_no_numba_once_code_is_kept(index: ti.Index) -> None:
    code = (
        "import sys, numpy as np, tiered_index as ti\n"
        "index = ti.open(sys.argv[1], mode='r')\n"
        f"result = index.search(np.ones({DIM}, np.float32), 3, ef=60)\n"
        "assert result.stats.distances > 0\n"
        "print([name for name in ('numba', 'llvmlite') if name in sys.modules])"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, index.path], capture_output=True, text=True, check=True, timeout=120
    )
    assert done.stdout.strip() == "[]"
