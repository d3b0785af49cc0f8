"""What compiled code is made of stands in its own file: numba's cache of a kernel notices a change there only."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

from tests.test_project import PACKAGES

TEXT = Path(__file__).parents[2] / "tasks" / "text"
MODULES = sorted(path.stem for path in TEXT.glob("*.py") if "njit" in path.read_text(encoding="utf-8"))


class Names(ast.NodeVisitor):
    """The names that a statement reads from its module; those in annotations are of no account when it runs."""

    def __init__(self, statement: ast.stmt) -> None:
        self.read: set[str] = set()
        self.own: set[str] = set()
        self.visit(statement)

    def visit_Name(self, node: ast.Name) -> None:
        (self.read if isinstance(node.ctx, ast.Load) else self.own).add(node.id)

    def visit_AnnAssign(self, node: ast.AnnAssign) -> None:
        self.visit(node.target)
        if node.value is not None:
            self.visit(node.value)

    def visit_FunctionDef(self, node: ast.FunctionDef) -> None:
        self.own |= {arg.arg for arg in ast.walk(node.args) if isinstance(arg, ast.arg)}
        for statement in node.body:
            self.visit(statement)


def is_compiled(statement: ast.stmt) -> bool:
    return isinstance(statement, ast.FunctionDef) and any("njit" in ast.unparse(one) for one in statement.decorator_list)


def borrowed(source: str) -> set[str]:
    """`kernel: name` for every compiled function and what it refers to, itself or by what it calls and reads, of another module of ours."""
    module = ast.parse(source)
    foreign: set[str] = set()
    made_of: dict[str, set[str]] = {}
    for statement in module.body:
        if isinstance(statement, (ast.Import, ast.ImportFrom)):
            for alias in statement.names:
                origin = (statement.module or "") if isinstance(statement, ast.ImportFrom) else alias.name
                if origin.split(".")[0] in PACKAGES:
                    foreign.add(alias.asname or alias.name.split(".")[0])
        elif isinstance(statement, ast.FunctionDef):
            names = Names(statement)
            made_of[statement.name] = names.read - names.own
        elif isinstance(statement, (ast.Assign, ast.AnnAssign)):
            names = Names(statement)
            made_of |= dict.fromkeys(names.own, names.read)
    found = set()
    for kernel in (
        statement.name for statement in module.body if is_compiled(statement) and isinstance(statement, ast.FunctionDef)
    ):
        todo, seen = [kernel], {kernel}
        while todo:
            name = todo.pop()
            if name in foreign:
                found.add(f"{kernel}: {name}")
            new = made_of.get(name, set()) - seen
            seen |= new
            todo += new
    return found


@pytest.mark.parametrize("module", MODULES)
def test_no_kernel_refers_to_a_function_or_a_constant_of_another_file_of_ours(module: str) -> None:
    assert borrowed((TEXT / f"{module}.py").read_text(encoding="utf-8")) == set()


def test_what_is_borrowed_is_seen_through_calls_and_constants() -> None:
    source = """
import numpy as np
from tasks.text import terms
from tasks.text.kernels import PUNCTUATION, SPACE, Bytes
EITHER = SPACE | PUNCTUATION
@njit(cache=True)
def inner(data: Bytes, terms: int) -> int:
    return np.int64(terms) & EITHER
@njit(types.void(), cache=True)
def outer(data: Bytes) -> int:
    return inner(data, 1) + terms.mark(data)
def plain() -> int:
    return SPACE
"""
    assert borrowed(source) == {"inner: SPACE", "inner: PUNCTUATION", "outer: SPACE", "outer: PUNCTUATION", "outer: terms"}
    assert {"kernels", "words", "terms", "bad_words", "datatrove", "spacy_words", "sampling"} <= set(MODULES)
