"""Collects the docstrings of the standard library and of the installed packages, without importing them."""

from __future__ import annotations

import ast
import os
import site
import sysconfig
import warnings
from collections.abc import Iterable, Iterator
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path
from typing import NamedTuple

import pyarrow as pa
import xxhash

MIN_BODY_CHARS = 40
MAX_BODY_CHARS = 2_000
MAX_DOCUMENTS = 60_000
_SKIPPED_FOLDERS = {"test", "tests", "testing", "_vendor", "idlelib", "turtledemo"}

SCHEMA = pa.schema(
    [
        ("id", pa.string()),
        ("package", pa.string()),
        ("module", pa.string()),
        ("kind", pa.string()),
        ("name", pa.string()),
        ("length", pa.int32()),
        ("title", pa.string()),
        ("text", pa.string()),
    ]
)


class Document(NamedTuple):
    """One docstring: where it stands, its signature and first line, and the rest of it."""

    id: str
    package: str
    module: str
    kind: str
    name: str
    length: int
    title: str
    text: str


def collect(limit: int = MAX_DOCUMENTS) -> pa.Table:
    """Return documents of this Python's library and packages, at most `limit`, columns as :data:`SCHEMA`.

    The same environment gives the same documents; where there are more than `limit`, those whose ids
    hash lowest are taken, so that every package keeps its share.
    """
    files = sorted(_source_files())
    context = get_context("spawn")  # the caller may have threads
    with ProcessPoolExecutor(os.cpu_count(), mp_context=context) as pool:
        found = pool.map(_documents, [f for f, _ in files], [m for _, m in files], chunksize=64)
        documents = {document.text: document for part in found for document in part}
    chosen = sorted(documents.values(), key=lambda d: xxhash.xxh3_64_intdigest(d.id.encode()))
    unique = {document.id: document for document in chosen}
    rows = sorted(list(unique.values())[:limit])
    return pa.Table.from_pydict(
        {name: [getattr(row, name) for row in rows] for name in SCHEMA.names}, schema=SCHEMA
    )


def _source_files() -> Iterator[tuple[str, str]]:
    """Yield (path, dotted module name) of every Python source file, tests left out."""
    stdlib = sysconfig.get_paths()["stdlib"]
    packages = {*site.getsitepackages(), sysconfig.get_paths()["purelib"], sysconfig.get_paths()["platlib"]}
    for root in [stdlib, *sorted(packages)]:
        for folder, folders, names in os.walk(root):
            folders[:] = [
                f
                for f in folders
                if f.isidentifier() and f not in _SKIPPED_FOLDERS and str(Path(folder, f)) not in packages
            ]
            parts = Path(folder).relative_to(root).parts
            for name in names:
                if name.endswith(".py") and not name.startswith("test_"):
                    module = ".".join([*parts, name[:-3]]).removesuffix(".__init__")
                    yield str(Path(folder, name)), module


def _documents(path: str, module: str) -> list[Document]:
    try:
        source = Path(path).read_text("utf-8")
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of other people's escape sequences
            tree = ast.parse(source)
    except (OSError, ValueError, SyntaxError, RecursionError, SystemError):
        return []  # SystemError: Python 3.11 may take a collection in the middle of parsing for an error
    return list(_walk(tree, module, module.partition(".")[0], prefix=""))


def _walk(node: ast.AST, module: str, package: str, prefix: str) -> Iterator[Document]:
    if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
        document = _document(node, module, package, prefix)
        if document is not None:
            yield document
    for child in ast.iter_child_nodes(node):
        if isinstance(child, ast.ClassDef):
            yield from _walk(child, module, package, f"{prefix}{child.name}.")
        elif isinstance(child, ast.FunctionDef | ast.AsyncFunctionDef) and not child.name.startswith("_"):
            yield from _walk(child, module, package, prefix)


def _document(
    node: ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef,
    module: str,
    package: str,
    prefix: str,
) -> Document | None:
    docstring = ast.get_docstring(node)
    if not docstring:
        return None
    first, _, rest = docstring.partition("\n")
    if isinstance(node, ast.Module):
        kind, name, signature = "module", module, module
    elif isinstance(node, ast.ClassDef):
        kind, name, signature = "class", prefix.rstrip("."), f"class {prefix.rstrip('.')}"
    else:
        kind, name = "function", prefix + node.name
        signature = f"{name}({', '.join(_arguments(node.args))})"
    body = " ".join(rest.split())[:MAX_BODY_CHARS]
    if len(body) < MIN_BODY_CHARS:
        return None
    title = f"{signature}: {first.strip()}"[:300]
    place = module if kind == "module" else f"{module}.{name}"
    return Document(place, package, module, kind, name, len(body), title, body)


def _arguments(arguments: ast.arguments) -> Iterable[str]:
    named = [*arguments.posonlyargs, *arguments.args, *arguments.kwonlyargs]
    return [a.arg for a in named if a.arg not in ("self", "cls")]
