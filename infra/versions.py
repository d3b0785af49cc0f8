"""Which code made this: the digest of a step's first-party sources, and the versions of the libraries they import.

The closure follows `import` statements statically, from the step's module down through `tasks`, `models` and `expectations`.
Sources are compared as syntax trees without docstrings (of fields too), so that a reworded comment recomputes nothing and a changed kernel
does. Of `infra` only the modules that decide bytes count. Costs some tens of milliseconds once per process.
"""

from __future__ import annotations

import ast
import hashlib
import importlib.metadata
import sys
from collections.abc import Mapping
from functools import cache
from pathlib import Path

from infra.settings import PROJECT

FIRST_PARTY = ("flows", "tasks", "models", "expectations", "infra")
# of infra, only what decides the bytes of a version; servers, progress and tracking do not
BYTES_OF_INFRA = ("infra.ids", "infra.dataset", "infra.trainings")
# these say beforehand what a step will need
ESTIMATES = ("tasks.text.likeness", "tasks.text.need", "tasks.text.room")
# these move data or draw pages about it and never decide a byte of a shard
NEUTRAL_LIBRARIES = {
    "blake3",
    "pydantic",
    "rich",
    "typer",
    "prefect",
    "mlflow",
    "fsspec",
    "matplotlib",
    "jinja2",
    "codecarbon",
    "psutil",
    "yaml",
}


def code_of(module: str) -> tuple[str, dict[str, str]]:
    """Digest (16 hex) of the first-party sources that `module` reaches, and {library: version} of what they import."""
    sources, libraries = _closure(module)
    state = hashlib.blake2b(digest_size=8)
    for name in sorted(sources):
        state.update(name.encode() + b"\0" + _meaning(name).encode() + b"\0")
    return state.hexdigest(), libraries


@cache
def code_version() -> str:
    """Digest (16 hex) of all first-party sources: what a worker process must share with its flow."""
    state = hashlib.blake2b(digest_size=8)
    for package in FIRST_PARTY:
        for path in sorted((PROJECT / package).rglob("*.py")):
            state.update(path.relative_to(PROJECT).as_posix().encode() + b"\0" + path.read_bytes() + b"\0")
    return state.hexdigest()


@cache
def _closure(module: str) -> tuple[frozenset[str], dict[str, str]]:
    todo, sources, imported = [module], set(), set()
    while todo:
        name = todo.pop()
        if name in sources:
            continue
        sources.add(name)
        for target in _imports(name):
            if target.split(".")[0] not in FIRST_PARTY:
                imported.add(target.split(".")[0])
            elif target in BYTES_OF_INFRA or (not target.startswith("infra") and target not in ESTIMATES):
                todo.append(target)
    names = {top: _distribution(top) for top in imported - NEUTRAL_LIBRARIES if top not in sys.stdlib_module_names}
    libraries = {name: importlib.metadata.version(name) for name in names.values() if name}
    return frozenset(sources), dict(sorted(libraries.items()))


@cache
def _distribution(top: str) -> str | None:
    """The distribution that a package came with: mostly that of its name, which is found without reading what all of them hold."""
    try:
        named = importlib.metadata.distribution(top)
        if f"\n{top}/__init__.py," in "\n" + (named.read_text("RECORD") or ""):
            return str(named.metadata["Name"])
    except importlib.metadata.PackageNotFoundError:
        pass
    return next(iter(sorted(_distributions().get(top, []))), None)


@cache
def _distributions() -> Mapping[str, list[str]]:
    return importlib.metadata.packages_distributions()


def _path(module: str) -> Path | None:
    base = PROJECT.joinpath(*module.split("."))
    for path in (base.with_suffix(".py"), base / "__init__.py"):
        if path.is_file():
            return path
    return None


@cache
def _source(module: str) -> str:
    path = _path(module)
    assert path is not None, module
    return path.read_text(encoding="utf-8")


@cache
def _meaning(module: str) -> str:
    tree = ast.parse(_source(module))
    for node in ast.walk(tree):
        if isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant):
            node.value = ast.Constant(None)  # a docstring, of a module, class, function or field
    return ast.dump(tree)


@cache
def _imports(module: str) -> frozenset[str]:
    found: set[str] = set()
    for node in ast.walk(ast.parse(_source(module))):
        if isinstance(node, ast.Import):
            found.update(alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            for alias in node.names:
                inner = f"{node.module}.{alias.name}"
                found.add(inner if node.module.split(".")[0] in FIRST_PARTY and _path(inner) else node.module)
    return frozenset(found)
