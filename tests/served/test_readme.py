"""The README's own words on inputs that no fixture of ours prepared: Debian's Python documentation as site, folder and WARC file."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
from served_mill import PROJECT, Mill

pytestmark = pytest.mark.soak
PACKAGE = "python3.11-doc"
PATIENCE_S = 240


def commands(section: str) -> str:
    """The shell words of a README section."""
    readme = (PROJECT / "README.md").read_text()
    block = re.search(rf"<!-- run: {section} -->\n```\n(.*?)```", readme, re.DOTALL)
    assert block, f"README.md has no section {section} to run"
    return block[1]


@pytest.fixture(scope="module")
def pages(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Debian's HTML documentation of Python, unpacked."""
    if not (shutil.which("apt-get") and shutil.which("dpkg")):
        pytest.skip("needs Debian's apt-get and dpkg for a real site")
    folder = tmp_path_factory.mktemp("debian")
    for command in (["apt-get", "-qq", "update"], ["apt-get", "-qq", "download", PACKAGE]):
        done = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)
        if done.returncode:
            pytest.skip(f"apt-get cannot reach Debian's packages: {done.stderr[-200:]}")
    subprocess.run(["dpkg", "-x", str(next(folder.glob("*.deb"))), str(folder)], check=True)
    return folder / "usr/share/doc/python3.11/html"


class _Quiet(SimpleHTTPRequestHandler):
    def log_message(self, *words: object) -> None:
        return None


@pytest.fixture(scope="module")
def site(pages: Path) -> Iterator[str]:
    """The documentation served as it is."""
    server = ThreadingHTTPServer(("127.0.0.1", 0), partial(_Quiet, directory=str(pages)))
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"127.0.0.1:{server.server_port}"
    server.shutdown()


def run_section(mill: Mill, folder: Path, section: str, *changes: tuple[str, str], patience_s: int = PATIENCE_S) -> str:
    """Run a section's words in `folder`; `changes` put in what only the reader can know, such as the address of his site."""
    words = commands(section)
    for old, new in changes:
        assert old in words, f"{section}: {old!r} is not in the README"
        words = words.replace(old, new)
    path = f"{Path(sys.executable).parent}:{mill.env['PATH']}"
    done = subprocess.run(
        ["bash", "-euc", words],
        cwd=folder,
        env=mill.env | {"PATH": path},
        capture_output=True,
        text=True,
        timeout=patience_s,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr + mill.logs()
    assert "Traceback" not in done.stdout + done.stderr
    return done.stdout


def published(mill: Mill) -> int:
    entry = mill.entries(mill.newest_run())["publish"]
    return int(mill.manifest(entry)["counts"]["kept"])


def test_your_own_sites(mill: Mill, site: str, tmp_path: Path) -> None:
    loopback = f"--set 'crawl.fetch.allowed_private_hosts=[\"{site}\"]' --set crawl.fetch.delay_s=0"
    out = run_section(
        mill,
        tmp_path,
        "sites",
        ("https://docs.example.org/", f"http://{site}/library/os.html"),
        ("--set crawl.limits.max_pages=2000", f"--set crawl.limits.max_pages=80 {loopback}"),
    )
    assert published(mill) > 10
    assert "fetched" in out


def test_your_own_folder(mill: Mill, pages: Path, tmp_path: Path) -> None:
    shutil.copytree(pages / "_sources" / "library", tmp_path / "data")
    run_section(mill, tmp_path, "folder")
    assert published(mill) > 20
    assert "<h1>" in (tmp_path / "report.html").read_text()


@pytest.mark.timeout(900, func_only=True)
def test_a_corpus_that_grows_and_forgets(mill: Mill, pages: Path, tmp_path: Path) -> None:
    texts = sorted((pages / "_sources" / "library").glob("*.txt"))
    for name, some in (("october", texts[:80]), ("november", texts[40:120])):
        (tmp_path / name).mkdir()
        for text in some:
            shutil.copy(text, tmp_path / name)
    out = run_section(
        mill, tmp_path, "grow", ("forget.domains=[example.org]", f"forget.urls=[{texts[0].name}]"), patience_s=3 * PATIENCE_S
    )
    assert "candidate pairs" in out
    dropped = mill.manifest(mill.entries(mill.newest_run())["dedup"])["counts"]["dropped"]
    assert dropped["seen_before"] > 5 and dropped.get("forgotten", 0) <= 1
    assert published(mill) > 20


def test_common_crawl_warc_files(mill: Mill, site: str, tmp_path: Path) -> None:
    if not shutil.which("wget"):
        pytest.skip("needs wget, whose WARC files these are")
    warc = tmp_path / "warc"
    warc.mkdir()
    fetch = [
        "wget",
        "-q",
        "-r",
        "-l",
        "1",
        "-A",
        "html",
        "--warc-file",
        str(warc / "sample"),
        f"http://{site}/library/index.html",
    ]
    subprocess.run(fetch, cwd=warc, check=False, timeout=PATIENCE_S)
    for page in warc.glob("127.0.0.1*"):
        shutil.rmtree(page)
    out = run_section(mill, tmp_path, "warc")
    assert published(mill) > 10
    assert "files whole" in out


def test_every_command_of_the_table_exists(new_mill: Callable[..., Mill]) -> None:
    readme = (PROJECT / "README.md").read_text()
    named = set(re.findall(r"gristmill ([a-z-]+)", readme)) - {"step"}
    listed = new_mill().cli("--help").stdout
    assert not [name for name in named if name not in listed]
