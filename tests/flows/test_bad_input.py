"""Bad input is a counted reject with its reason or an error that says what to mend; never a traceback, never a silent loss."""

from __future__ import annotations

import json
import socket
import threading
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from infra.dataset import Counts, read_manifest

from . import archives, english
from .driver import Ended, commands
from .site import served


def _page(text: str, encoding: str = "utf-8", head: str = "") -> bytes:
    return f"<html><head>{head}</head><body><main><p>{text}</p></main></body></html>".encode(encoding)


def _warc_folder(folder: Path) -> Path:
    """Five pages, the third of which is damaged, and a file that is no WARC at all."""
    folder.mkdir()
    pages = [archives.page(f"http://a.example/{n}", _page(english.text(n))) for n in range(5)]
    path = folder / "damaged.warc.gz"
    places = archives.write(path, pages)
    raw = bytearray(path.read_bytes())
    middle = places[2].offset + places[2].length // 2
    raw[middle : middle + 20] = bytes(20)
    path.write_bytes(raw)
    (folder / "none.warc").write_bytes(b"this is no WARC file\n" * 20)
    return folder


class Tried:
    """All commands of this module, run once."""

    def __init__(self, root: Path) -> None:
        self.root = root
        with socket.socket() as unused, served(1, 2) as site:
            unused.bind(("127.0.0.1", 0))  # bound and not listening: whoever connects is refused
            gone = f"127.0.0.1:{unused.getsockname()[1]}"
            (host,) = site.hosts
            site.odd = {
                "/broken": (500, "text/html", b"<p>out of order</p>"),
                "/latin": (200, "text/html; charset=iso-8859-1", _page("Déjà vu. " + english.text(1), "latin-1")),
                "/unnamed": (200, "text/html", _page("Déjà vu. " + english.text(2), "latin-1")),
                "/lying": (200, "text/html; charset=utf-8", _page(english.text(3)) + b"\xff\xfe\x80"),
                "/void": (200, "text/html", b""),
            }
            paths = [*site.odd, "/p0", "/nowhere"]
            urls = [f"http://{gone}/page", *(f"http://{host}{path}" for path in paths)]
            (root / "urls.txt").write_text("\n".join(urls))
            agent = "agent: 'test/1 (+http://a.example/)'"
            fetch = f"fetch={{{agent}, delay_s: 0, retries: 0, allowed_private_hosts: ['{gone}', '{host}']}}"
            self.num_urls = len(urls) + 1  # /p0 leads to /p1
            (root / "short.jsonl").write_text("\n".join(json.dumps({"text": f"Too short {n}."}) for n in range(3)))
            pq.write_table(pa.table({"body": ["a"], "title": ["b"]}), root / "columns.parquet")
            (root / "other_field.jsonl").write_text('{"body": "a"}\n{"body": "b"}\n')
            (root / "cut.jsonl.gz").write_bytes(b"\x1f\x8b\x08\x00")
            (root / "pictures").mkdir()
            (root / "pictures" / "a.png").write_bytes(b"\x89PNG")
            (root / "no_urls.txt").write_text("# nothing yet\n")
            self.ended = self._run(
                {
                    "crawl": ["crawl", "-i", "urls.txt", "--set", fetch],
                    "extract": ["extract", "-i", "out/crawl"],
                    "warc": ["crawl", "-i", str(_warc_folder(root / "warc"))],
                    "warc_text": ["extract", "-i", "out/warc"],
                    "filter": ["filter", "-i", "short.jsonl"],
                    "empty": ["validate", "-i", "out/filter"],
                    "column": ["signals", "-i", "columns.parquet", "-w", "2"],
                    "field": ["redact", "-i", "other_field.jsonl"],
                    "cut": ["redact", "-i", "cut.jsonl.gz"],
                    "kinds": ["redact", "-i", "pictures"],
                    "no_warc": ["extract", "-i", "pictures"],
                    "no_urls": ["crawl", "-i", "no_urls.txt"],
                    "missing": ["dedup", "-i", "nowhere"],
                    "no_step": ["deduplicate", "-i", "short.jsonl"],
                    "no_input": ["redact"],
                }
            )

    def _run(self, many: dict[str, list[str]]) -> dict[str, Ended]:
        full = []
        for name, (step, *words) in many.items():
            if "-i" in words:
                at = words.index("-i") + 1
                words[at] = str(self.root / words[at])
            full.append(["step", step, *words, "-o", str(self.root / "out" / name), *([] if "-w" in words else ["-w", "1"])])
        return dict(zip(many, commands(self.root / "home", *full), strict=True))

    def counts(self, name: str) -> Counts:
        assert self.ended[name].code == 0, self.ended[name].output
        return read_manifest(str(self.root / "out" / name)).counts

    def rejects(self, name: str) -> dict[str, str]:
        """{URL without its port: rule}."""
        rows = pq.read_table(self.root / "out" / name / "rejects").to_pylist()
        return {row["url"].removeprefix("http://").partition("/")[2]: row["rule"] for row in rows}

    def text(self, name: str, path: str) -> str:
        (found,) = [
            row["text"]
            for row in pq.read_table(self.root / "out" / name / "part-00000.parquet").to_pylist()
            if row["url"].endswith(path)
        ]
        return str(found)


@pytest.fixture(scope="module")
def tried(tmp_path_factory: pytest.TempPathFactory) -> Tried:
    return Tried(tmp_path_factory.mktemp("bad"))


def test_no_command_shows_a_traceback_and_every_error_ends_with_2(tried: Tried) -> None:
    good = {"crawl", "extract", "warc", "warc_text", "filter"}
    for name, ended in tried.ended.items():
        assert ended.code == (0 if name in good else 2), (name, ended.output)
        assert "Traceback" not in ended.output, (name, ended.output)


def test_an_unreachable_host_and_a_page_that_answers_500_are_counted_rejects(tried: Tried) -> None:
    counts = tried.counts("crawl")
    assert counts.total == counts.kept + sum(counts.dropped.values()) == tried.num_urls
    assert tried.rejects("crawl") == {"page": "unreachable", "broken": "bad_status", "nowhere": "bad_status"}


def test_a_crawl_that_fetched_nothing_is_an_error_and_is_asked_for_again(tmp_path: Path) -> None:
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        host = f"127.0.0.1:{unused.getsockname()[1]}"
        (tmp_path / "urls.txt").write_text(f"http://{host}/")
        fetch = f"fetch={{agent: 'test/1 (+http://a.example/)', delay_s: 0, retries: 0, allowed_private_hosts: ['{host}']}}"
        words = ["step", "crawl", "-i", str(tmp_path / "urls.txt"), "-o", str(tmp_path / "out"), "--set", fetch, "-w", "1"]
        (failed,) = commands(tmp_path / "home", words)
    assert failed.code == 2
    assert f"crawl: no page could be fetched (unreachable 1).\n  http://{host}/: unreachable: " in failed.output
    (tmp_path / "site").mkdir()
    (tmp_path / "site" / "index.html").write_bytes(_page(english.text(1)))
    handler = partial(SimpleHTTPRequestHandler, directory=str(tmp_path / "site"))
    with ThreadingHTTPServer(("127.0.0.1", int(host.rpartition(":")[2])), handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        (again,) = commands(tmp_path / "home", words)
        server.shutdown()
    assert again.code == 0, again.output
    assert "crawl: 1 in, 1 kept" in again.output


def test_pages_in_another_character_set_are_read_and_an_empty_page_is_a_reject(tried: Tried) -> None:
    counts = tried.counts("extract")
    assert counts.total == counts.kept + sum(counts.dropped.values()) == tried.counts("crawl").kept
    assert list(tried.rejects("extract")) == ["void"]
    for path in ("/latin", "/unnamed"):
        assert tried.text("extract", path).startswith("Déjà vu.")
    assert english.text(3).split("\n")[0] in tried.text("extract", "/lying")


def test_a_damaged_warc_record_is_a_reject_and_its_neighbours_are_documents(tried: Tried) -> None:
    counts = tried.counts("warc")
    assert (counts.kept, counts.dropped) == (4, {"broken_warc_record": 2})
    assert tried.counts("warc_text").kept == 4


def test_an_empty_corpus_says_where_the_documents_went(tried: Tried) -> None:
    dropped = tried.counts("filter").dropped
    assert sum(dropped.values()) == 3
    said = tried.ended["empty"].output
    assert "the corpus is empty" in said
    assert "filter: 3 in, 0 kept" in said
    assert all(f"{rule} {count}" in said for rule, count in dropped.items())


@pytest.mark.parametrize(
    ("name", "told"),
    [
        ("column", "columns.parquet: no column 'text'; it has body, title"),
        ("field", "none of 2 rows can be used (no_text 2); is the text in another field? Name it in `fields.text`"),
        ("cut", "cut.jsonl.gz: cannot be decompressed"),
        ("kinds", "pictures: no file that can be read; these kinds can: .jsonl"),
        ("no_warc", "pictures: no WARC file in this folder"),
        ("no_urls", "no URL to begin with"),
        ("missing", "nowhere: no such file or folder"),
        (
            "no_step",
            "step 'deduplicate': there is none of that name; these are: ablate, adopt, audit, augment, benchmark, compare, contrast,",
        ),
        ("no_input", "step redact: takes 1 --input (documents; got 0)"),
    ],
)
def test_input_that_cannot_be_used_is_told_in_one_line(tried: Tried, name: str, told: str) -> None:
    said = [line for line in tried.ended[name].output.splitlines() if ": shards " not in line and line.strip()]
    assert any(told in line for line in said), said
    assert len(said) == 1, said
