"""The project is what it says: packages listed, dependencies declared, names free, and the README's tree true."""

from __future__ import annotations

import ast
import importlib.metadata
import os
import re
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
PACKAGES = ("flows", "tasks", "models", "expectations", "infra")
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())


def sources() -> list[Path]:
    return [path for package in PACKAGES for path in (ROOT / package).rglob("*.py")]


def name_of(requirement: str) -> str:
    return re.split(r"[<>=\[; ]", requirement)[0].lower().replace("_", "-")


def test_the_package_list_is_that_of_the_folders() -> None:
    listed = PROJECT["tool"]["setuptools"]["packages"]
    found = {path.parent.relative_to(ROOT).as_posix().replace("/", ".") for path in sources() if path.name == "__init__.py"}
    assert set(listed) == found
    assert {path.parent for path in sources()} == {ROOT / name.replace(".", "/") for name in listed}


@pytest.mark.skipif(os.getuid() != 0, reason="only root can be somebody else")
def test_the_command_works_for_a_user_who_has_no_name_as_in_a_container() -> None:
    """In a child that loads the command again once it is nobody; the first time is for what a stranger may not read."""
    words = "import importlib, os; import flows.__main__ as command; os.setuid(54321); print(importlib.reload(command)._user())"
    done = subprocess.run(
        [sys.executable, "-c", words], cwd=ROOT, env={"PATH": "/usr/bin"}, capture_output=True, text=True, check=False
    )
    assert done.stdout == "user 54321\n", done.stderr


def test_commands_know_their_servers_before_anything_imports_prefect() -> None:
    """Prefect reads its settings when it is imported; a command that came later would ask a server of Prefect's own choice."""
    module = ast.parse((ROOT / "flows" / "__main__.py").read_text())
    asking = {}
    for function in (node for node in module.body if isinstance(node, ast.FunctionDef)):
        body = (
            function.body[1:]
            if isinstance(function.body[0].value if isinstance(function.body[0], ast.Expr) else None, ast.Constant)
            else function.body
        )
        words = [ast.unparse(statement) for statement in body]
        if "_adopt_servers()" in words:
            asking[function.name] = words.index("_adopt_servers()")
    assert len(asking) > 5 and set(asking.values()) == {0}, asking


def test_no_module_shadows_the_standard_library() -> None:
    assert not [package for package in PACKAGES if package in sys.stdlib_module_names]


def test_every_import_is_a_declared_dependency() -> None:
    extras = {name: some for name, some in PROJECT["project"]["optional-dependencies"].items() if name != "dev"}
    declared = {name_of(one) for group in (PROJECT["project"]["dependencies"], *extras.values()) for one in group}
    owners = importlib.metadata.packages_distributions()
    used: dict[str, set[str]] = {}
    for path in sources():
        for node in ast.walk(ast.parse(path.read_text())):
            names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
            names += [node.module] if isinstance(node, ast.ImportFrom) and node.module and not node.level else []
            for top in {name.split(".")[0] for name in names} - set(PACKAGES) - sys.stdlib_module_names:
                used.setdefault(top, set()).add(path.relative_to(ROOT).as_posix())
    for top, where in used.items():
        distributions = {name.lower().replace("_", "-") for name in owners.get(top, [])}
        assert distributions & declared, f"{top} is imported by {sorted(where)} and not declared in pyproject.toml"


def test_every_declared_dependency_is_pinned_and_used() -> None:
    pinned = {name_of(line) for line in (ROOT / "constraints.txt").read_text().splitlines() if "==" in line}
    groups = [PROJECT["project"]["dependencies"], *PROJECT["project"]["optional-dependencies"].values()]
    missing = {name_of(one) for group in groups for one in group} - pinned
    assert not missing


@pytest.mark.parametrize("step", sorted(path.stem for path in (ROOT / "tasks").glob("*.py") if path.stem != "__init__"))
def test_every_file_of_tasks_is_one_step_of_that_name(step: str) -> None:
    text = (ROOT / "tasks" / f"{step}.py").read_text()
    assert len(re.findall(r"^@step\(", text, re.MULTILINE)) == 1
    assert re.search(rf"^@step\(.*\)\ndef {step}\(", text, re.MULTILINE)


def test_the_tree_in_the_readme_is_that_of_the_disk() -> None:
    readme = (ROOT / "README.md").read_text()
    tree = re.search(r"```tree\n(.*?)```", readme, re.DOTALL)
    assert tree, "README.md has no ```tree block"
    named: set[str] = set()
    folders: list[str] = []
    for line in tree[1].splitlines():
        entry = re.match(r"^( *)(\S+)", line)
        if entry is None:
            continue
        depth = len(entry[1]) // 2
        folders = [*folders[:depth], entry[2].rstrip("/")]
        named.add("/".join(folders))
    for path in named:
        assert (ROOT / path).exists(), f"README.md names {path}, which is not there"
    for package in (
        *PACKAGES,
        "tasks/web",
        "tasks/text",
        "tasks/learn",
        "flows/configs",
        "docs",
        "docs/decisions",
        "tests",
        "benchmarks",
        "infra/deploy",
    ):
        if (ROOT / package).exists():
            assert package in named, f"README.md does not name {package}"
    for path in sources():
        relative = path.relative_to(ROOT).as_posix()
        if path.name != "__init__.py":
            assert relative in named, f"README.md does not name {relative}"
