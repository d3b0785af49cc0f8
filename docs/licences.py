"""Writes docs/licences.md: `python docs/licences.py` in an environment made by `make setup`.

Name, version and licence of what an installation with its extras brings, from the metadata of the installed packages. The CUDA build of
torch brings NVIDIA's libraries besides, which have a licence of their own.
"""

from __future__ import annotations

import importlib.metadata
import re
import sys
import tomllib
from collections.abc import Iterator
from pathlib import Path

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).resolve().parent.parent
TARGET = ROOT / "docs" / "licences.md"
EXTRAS = ("demo", "s3", "postgres", "auth", "slurm", "kubernetes", "qlora")
BUILDERS = {"setuptools"}
"""Tools that an environment has before anything is installed; not pinned."""
# what a classifier or a free text says, as SPDX has it; the first that fits counts
SPDX = (
    (r"^(Apache( Software)? ?(License)?,?( Version)? ?2?(\.0)?|Apache-2(\.0)?|Apache 2\.0 License)$", "Apache-2.0"),
    (r"^(MIT( License| license)?|The MIT License.*)$", "MIT"),
    (r"^(3-Clause BSD License|BSD[- ]3[- ]Clause( License)?|New BSD License|Modified BSD.*)$", "BSD-3-Clause"),
    (r"^(BSD[- ]2[- ]Clause( License)?|Simplified BSD)$", "BSD-2-Clause"),
    (r"^BSD( License)?$", "BSD"),
    (r"^(Mozilla Public License 2\.0.*|MPL[ -]?2\.0.*)$", "MPL-2.0"),
    (r"^(ISC.*)$", "ISC"),
    (r"^(Python Software Foundation License|PSF.*)$", "PSF-2.0"),
    (r"^(Zope Public License.*|ZPL.*)$", "ZPL-2.1"),
    (r"^(The Unlicense.*)$", "Unlicense"),
    (
        r"^(GNU Lesser General Public License v[23].*|LGPL.*3.*|GNU Library or Lesser General Public License \(LGPL\)|LGPL.*)$",
        "LGPL",
    ),
)
HEAD = """# Licences of what Gristmill installs

Made by `python docs/licences.py` from the metadata of the installed packages, under `constraints.txt`: the default installation, and
with it the extras {extras}. A test compares this page with the installation, and fails at a licence that
[tests/test_licences.py](../tests/test_licences.py) does not allow. The tools of developers (extra dev) are not listed, for they are not
shipped.

| package | version | licence | needed by |
| --- | --- | --- | --- |
"""


def installed() -> dict[str, tuple[str, str, str]]:
    """{name: (version, licence, extra that needs it or `default`)} of an installation, in alphabetical order."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    groups = {"default": project["dependencies"], **{extra: project["optional-dependencies"][extra] for extra in EXTRAS}}
    found: dict[str, tuple[str, str, str]] = {}
    for group, wanted in groups.items():
        for distribution in _closure([Requirement(one) for one in wanted]):
            name = distribution.metadata["Name"]
            if name in BUILDERS:
                continue
            found.setdefault(name, (distribution.version.partition("+")[0], licence_of(distribution), group))
    return dict(sorted(found.items(), key=lambda item: canonicalize_name(item[0])))


def licence_of(distribution: importlib.metadata.Distribution) -> str:
    """The licence as its metadata tells it, in SPDX's words where they are known."""
    told = distribution.metadata
    if expression := told.get("License-Expression"):
        return str(expression)
    classifiers = [
        one.rpartition(" :: ")[2] for one in told.get_all("Classifier") or () if one.startswith("License :: OSI Approved :: ")
    ]
    free = (told.get("License") or "").strip().splitlines()[:1]
    # a text that is no name is the licence itself, whose first line says little
    words = classifiers if classifiers and classifiers != ["BSD License"] else [*free, *classifiers]
    if not words or words == ["OSI Approved"]:
        words = [_named_in_file(distribution)]
    names = [next((spdx for pattern, spdx in SPDX if re.match(pattern, word, re.IGNORECASE)), "") for word in words]
    return " AND ".join(dict.fromkeys(name for name in names if name)) or (words[0] if words else "unknown")


def _named_in_file(distribution: importlib.metadata.Distribution) -> str:
    """The licence by the opening words of its file, for packages that name it nowhere else."""
    files = [file for file in distribution.files or () if file.name.upper().startswith("LICEN")]
    text = " ".join(str(file.read_text()) for file in files[:1])
    return "MIT" if "Permission is hereby granted, free of charge" in text else "unknown"


def page() -> str:
    """The page's text."""
    rows = [f"| {name} | {version} | {licence} | {group} |" for name, (version, licence, group) in installed().items()]
    return HEAD.format(extras=", ".join(EXTRAS)) + "\n".join(rows) + "\n"


def _closure(wanted: list[Requirement]) -> Iterator[importlib.metadata.Distribution]:
    todo, seen = [(one, extra) for one in wanted for extra in ("", *one.extras)], set()
    while todo:
        requirement, extra = todo.pop()
        if (key := (canonicalize_name(requirement.name), extra)) in seen:
            continue
        seen.add(key)
        distribution = importlib.metadata.distribution(requirement.name)
        yield distribution
        for line in distribution.requires or ():
            one = Requirement(line)
            if one.marker is None or one.marker.evaluate({"extra": extra}):
                todo += [(one, inner) for inner in ("", *one.extras)]


if __name__ == "__main__":
    TARGET.write_text(page(), encoding="utf-8")
    sys.stdout.write(f"{TARGET}\n")
