"""docs/licences.md says what an installation brings, and nothing comes under terms that a user of Gristmill would not expect."""

from __future__ import annotations

import importlib.util
import re
from pathlib import Path
from types import ModuleType

import pytest

ROOT = Path(__file__).resolve().parent.parent
ALLOWED = {
    "0BSD", "Apache-2.0", "BSD", "BSD-2-Clause", "BSD-3-Clause", "BSL-1.0", "CC0-1.0", "CNRI-Python", "ISC", "LLVM-exception",
    "MIT", "MIT-0", "MIT-CMU", "PSF-2.0", "Unlicense", "Zlib", "ZPL-2.1",
}  # fmt: skip
# weak copyleft, or worse by its name than in fact; each is installed by pip as its authors publish it, and not changed or bundled here
EXCEPTIONS = {
    "certifi": "MPL-2.0: a list of certificates; only changes to its own files must be published",
    "tqdm": "MPL-2.0 and MIT: likewise",
    "pathspec": "MPL-2.0: likewise",
    "orjson": "MPL-2.0 and (Apache-2.0 or MIT): likewise",
    "psycopg2-binary": "LGPL with exceptions: an extra, loaded as a module, not linked into anything that is distributed",
    "chardet": "LGPL-2.1: needed by mbstrdecoder, which lm-eval's tables need; loaded as a module, not changed",
    "pycountry": "LGPL-2.1: needed by codecarbon, loaded as a module, not changed",
    "tld": "MPL-1.1, GPL-2.0 or LGPL-2.1, at one's choice: needed by courlan, which trafilatura needs; taken under the first",
    "text-unidecode": "Artistic License or GPL, at one's choice: needed by python-slugify, which Prefect needs; taken under the first",
}


@pytest.fixture(scope="module")
def licences() -> ModuleType:
    return _loaded("docs/licences.py")


def test_the_page_is_that_of_the_installation(licences: ModuleType) -> None:
    assert (ROOT / "docs" / "licences.md").read_text() == licences.page(), "run: python docs/licences.py"


def test_every_version_on_the_page_is_the_pinned_one(licences: ModuleType) -> None:
    lines = (ROOT / "constraints.txt").read_text().splitlines()
    pinned = {_canonical(name): version for name, _, version in (line.partition("==") for line in lines if "==" in line)}
    wrong = {name: version for name, (version, _, _) in licences.installed().items() if pinned.get(_canonical(name)) != version}
    assert not wrong


def test_every_licence_is_allowed_or_its_exception_is_explained_and_in_use(licences: ModuleType) -> None:
    terms = {
        name: set(re.split(r" (?:AND|OR|WITH) ", licence.translate({40: None, 41: None})))
        for name, (_, licence, _) in licences.installed().items()
    }
    beyond = {name: found - ALLOWED for name, found in terms.items() if found - ALLOWED}
    assert beyond.keys() == EXCEPTIONS.keys(), beyond


@pytest.mark.parametrize(
    ("packages", "code"),
    [
        ([{"name": "a", "skip_reason": "not found"}], 0),
        ([{"name": "a", "version": "1", "vulns": []}], 0),
        ([{"name": "a", "version": "1", "vulns": [{"id": "CVE-1", "fix_versions": []}]}], 0),
        ([{"name": "a", "version": "1", "vulns": [{"id": "CVE-1", "fix_versions": ["2"]}]}], 1),
    ],
    ids=["no data", "none known", "no fix", "a fix"],
)
def test_the_audit_fails_at_a_vulnerability_that_has_a_fix(packages: list[dict[str, object]], code: int) -> None:
    assert _loaded("tests/audit.py").judge(packages) == code


def _loaded(path: str) -> ModuleType:
    """A script of the project as a module."""
    spec = importlib.util.spec_from_file_location(Path(path).stem, ROOT / path)
    assert spec and spec.loader
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def _canonical(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()
