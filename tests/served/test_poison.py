"""A page that ends its worker for want of memory: the run names it, and goes on without it when told so."""

from __future__ import annotations

from io import BytesIO
from pathlib import Path

import pyarrow.parquet as pq
import pytest
from served_mill import Mill
from warcio.statusandheaders import StatusAndHeaders
from warcio.warcwriter import WARCWriter

pytestmark = [pytest.mark.soak, pytest.mark.timeout(420, func_only=True)]

POISONED = 17
PROSE = (
    "<p>This page is the {}th of its kind, and it tells in plain words of what was done on that day and of what came of it.</p>"
)


def write_pages(path: Path) -> None:
    """Forty pages, of which one has a million tags that are never closed: above a gigabyte as a tree."""
    with path.open("wb") as file:
        writer = WARCWriter(file, gzip=True)
        for number in range(40):
            inner = "<p><b>a</b>" * 900_000 if number == POISONED else PROSE.format(number) * 20
            body = f"<html><body>{inner}</body></html>".encode()
            head = StatusAndHeaders("200 OK", [("Content-Type", "text/html; charset=utf-8")], protocol="HTTP/1.1")
            writer.write_record(
                writer.create_warc_record(f"http://example.org/{number}", "response", payload=BytesIO(body), http_headers=head)
            )


def test_a_page_that_ends_its_worker_is_named_and_can_be_left_out(mill: Mill, undisturbed: str, tmp_path: Path) -> None:
    write_pages(tmp_path / "pages.warc.gz")
    overrides = (
        f"crawl.sources=[{{kind: warc, path: {tmp_path / 'pages.warc.gz'}}}]",
        "crawl.shard_pages=20",
        "extract.max_bytes=60000000",  # the limits that keep such a page out are off
        "extract.max_tags=100000000",
        "extract.guarded=false",
        "dask.workers=2",
        "dask.memory_limit=700MiB",
        "filter.profile=null",
        "split.by=cluster",
    )
    said = mill.run(*overrides, flow="curate")
    assert said.returncode == 1, said.stdout + said.stderr
    assert f"http://example.org/{POISONED}" in said.stderr and "GB of memory" in said.stderr and "--skip-poisoned" in said.stderr
    run_id = mill.newest_run()
    said = mill.cli("rerun", run_id, "--skip-poisoned")
    assert said.returncode == 0, said.stdout + said.stderr + mill.logs()
    entry = mill.entries(run_id)["extract"]
    counts = mill.manifest(entry)["counts"]
    assert counts["total"] == 40 and counts["dropped"]["poisoned"] == 1
    rejects = [pq.read_table(path).to_pylist() for path in (mill.store / entry["path"] / "rejects").glob("*.parquet")]
    [row] = [row for rows in rejects for row in rows if row["rule"] == "poisoned"]
    assert row["url"] == f"http://example.org/{POISONED}" and "memory" in row["detail"]
    traced = mill.cli("trace", f"http://example.org/{POISONED}", "--run", run_id)
    assert "dropped by poisoned" in traced.stdout
