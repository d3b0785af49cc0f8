"""A crawl is fetched once: what is lost of its version is made again from its own logs, and damage is found."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pyarrow as pa
import pytest
from aiohttp import web
from rich.console import Console

from expectations.schemas import CONSENT
from flows.passport import verify_run
from infra import ledger
from infra.dataset import ShardSet
from infra.ids import digest_of
from tasks.crawl import CrawlConfig, crawl
from tasks.extract import extract
from tasks.web.consent import ConsentPolicy
from tasks.web.main_text import ExtractConfig
from tests.web.loopback import loopback

from .site import Site, served


def config_of(site: Site) -> CrawlConfig:
    return CrawlConfig.model_validate(
        {
            "sources": [{"kind": "site", "urls": site.seeds}],
            "shard_pages": 4,
            "fetch": {"delay_s": 0, "allowed_private_hosts": site.hosts},
        }
    )


def test_a_lost_shard_of_a_crawl_is_made_again_without_asking_the_site(home: Path) -> None:
    with served(2, 6) as site:
        pages = crawl(config=config_of(site))
        whole = extract(pages, config=ExtractConfig())
        asked = site.num_asked
        (Path(pages.folder) / "part-00001.parquet").unlink()
        again = crawl(config=config_of(site))
        assert site.num_asked == asked
    assert again.digest == pages.digest
    assert whole.counts.kept == pages.counts.kept == 12
    (Path(whole.folder) / "manifest.json").unlink()
    for path in [*Path(whole.folder).glob("part-*"), *Path(whole.folder).glob("shards/*")]:
        path.unlink()
    assert extract(again, config=ExtractConfig()).digest == whole.digest


@pytest.mark.parametrize("kind", ["warc/site-0/*.warc.gz", "warc/index-*.parquet", "part-*.parquet", "rejects/part-*.parquet"])
def test_a_flipped_byte_in_any_file_of_a_crawl_is_found_by_verify(
    home: Path, kind: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with served(1, 3) as site, ledger.run("first"):
        site.odd["/p2"] = (500, "text/plain", b"out of order")
        pages = crawl(config=config_of(site))
    assert verify_run("first", Console())
    path = sorted(Path(pages.folder).glob(kind))[0]
    raw = bytearray(path.read_bytes())
    raw[len(raw) // 2] ^= 1
    path.write_bytes(raw)
    assert not verify_run("first", Console(width=400))
    assert path.name in capsys.readouterr().out


def test_what_lies_beside_a_crawl_is_no_part_of_its_digest(home: Path) -> None:
    with served(1, 2) as site:
        pages = crawl(config=config_of(site))
    noted = {entry["name"] for entry in json.loads((Path(pages.folder) / "run.json").read_text())["beside"]}
    assert noted >= {"warc/index-00000.parquet"}
    assert not {entry.name for entry in pages.manifest().files} & noted


ROBOTS = b"""User-agent: *
Content-Signal: /p3 search=yes, ai-train=no

User-agent: GPTBot
Disallow: /p4
"""


def test_what_site_answer_and_page_say_about_collecting_is_recorded_and_followed(home: Path) -> None:
    prose = b"<p>A page of some prose, which is long enough to be one, and which ends like a sentence.</p>"
    with served(1, 9) as site:
        site.odd["/robots.txt"] = (200, "text/plain", ROBOTS)
        site.odd["/.well-known/tdmrep.json"] = (200, "application/json", b'[{"location": "/p5", "tdm-reservation": 1}]')
        site.headers["/p1"] = {"X-Robots-Tag": "otherbot: noindex, noai"}
        site.headers["/p2"] = {"X-Robots-Tag": "noai"}
        site.headers["/p6"] = {"TDM-Reservation": "1"}
        own = {"/free": b"<meta name=tdm-reservation content=0>", "/p7": b"<meta name=robots content=noindex>"}
        for path, head in own.items():
            site.odd[path] = (200, "text/html", head + prose + b'<a href="/p8">on</a>')
        site.seeds.append(f"{site.seeds[0][:-3]}/free")
        pages = crawl(config=config_of(site))
    assert pages.counts.kept == 10
    rows = [row for shard in pages.shards() for row in shard.read().to_pylist()]
    said = {row["url"].rpartition("/")[2]: {name: row[name] for name in CONSENT.names} for row in rows}
    nothing = {"robots_denies": [], "robots_orders": [], "tdm_reserved": None, "content_signal": None}
    assert said["p0"] == said["p1"] == nothing
    assert said["p3"] == {**nothing, "content_signal": "search=yes, ai-train=no"}
    assert (
        said["p4"] == {**nothing, "robots_denies": ["GPTBot"]}
        and said["p5"]["tdm_reserved"] is said["p6"]["tdm_reserved"] is True
    )

    kept = extract(pages, config=ExtractConfig())
    assert kept.counts.dropped == {"noai": 1, "content_signal": 1, "robots_ai": 1, "tdm_reserved": 2, "noindex": 1}
    documents = [row for shard in kept.shards() for row in shard.read().to_pylist()]
    assert {row["url"].rpartition("/")[2] for row in documents} == {"p0", "p1", "p8", "free"}
    [free] = [row for row in documents if row["url"].endswith("free")]
    assert free["tdm_reserved"] is False and free["links"] == [f"{site.seeds[0][:-3]}/p8"]

    all_of_them = ConsentPolicy(noindex=False, noai=False, tdm_reserved=False, content_signal=False, agents=())
    assert extract(pages, config=ExtractConfig(consent=all_of_them)).counts.kept == 10


class Journal:
    """Pages that know their version: /p0 links to all others."""

    def __init__(self) -> None:
        self.pages = {"/p0": "", "/p1": "one", "/p2": "two", "/p3": "three"}
        self.statuses: list[int] = []

    async def answer(self, request: web.Request) -> web.StreamResponse:
        if request.path not in self.pages:
            return web.Response(status=404)
        links = "".join(f"<a href='{path}'>on</a>" for path in self.pages) if request.path == "/p0" else ""
        text = f"<p>{self.pages[request.path]}</p>{links}"
        known = {"ETag": f'"{digest_of(text)}"'} if request.path != "/p2" else {"Last-Modified": "Mon, 02 Nov 2026 10:00:00 GMT"}
        asked = request.headers.get("If-None-Match"), request.headers.get("If-Modified-Since")
        self.statuses.append(304 if set(known.values()) & set(asked) else 200)
        if self.statuses[-1] == 304:
            return web.Response(status=304, headers=known)
        return web.Response(text=text, content_type="text/html", headers=known)


@pytest.mark.parametrize("compression", ["gzip", "zstd"])
def test_another_snapshot_asks_only_for_what_changed_and_holds_everything_itself(home: Path, compression: str) -> None:
    journal = Journal()
    with loopback(journal.answer) as site:

        def snapshot(label: str, **changes: object) -> ShardSet:
            fetch = {"delay_s": 0, "allowed_private_hosts": site.hosts}
            sources = [{"kind": "site", "urls": [f"http://{site.hosts[0]}/p0"]}]
            raw = {"snapshot": label, "sources": sources, "fetch": fetch, "compression": compression, **changes}
            return crawl(config=CrawlConfig.model_validate(raw))

        first = snapshot("first")
        assert not {name for name in first.manifest().facts if name.startswith("pages.")}
        same = snapshot("second")
        assert journal.statuses == [200] * 4 + [304] * 4
        assert same.digest == first.digest  # what is made of an unchanged site is unchanged
        assert same.manifest().facts["pages.as_before"] == same.manifest().facts["not_modified.web"] == 4
        journal.pages |= {"/p1": "another", "/p4": "four"}
        del journal.pages["/p3"]
        third = snapshot("third")
        changes = {name: value for name, value in third.manifest().facts.items() if name.startswith("pages.")}
        assert changes == {"pages.new": 1, "pages.changed": 2, "pages.as_before": 1, "pages.gone": 1}
        assert sorted(journal.statuses[8:]) == [200, 200, 200, 304]
        shutil.rmtree(first.folder)
        shutil.rmtree(same.folder)
        texts = extract(third, config=ExtractConfig())
        assert third.counts.kept == 4 and texts.counts.total == 4
        assert "broken_warc_record" not in texts.counts.dropped
        assert snapshot("fourth", conditional=False).digest == third.digest
        assert journal.statuses[12:] == [200] * 4
        # and where the earlier files are gone, everything is fetched anew
        for path in Path(third.folder).parent.rglob("*.warc.*"):
            path.unlink()
        assert snapshot("fifth").digest == third.digest
        assert journal.statuses[16:] == [200] * 4


def test_a_crawl_is_replayed_from_its_own_warc_files_bit_by_bit(home: Path) -> None:
    with served(2, 5) as site:
        pages = crawl(config=config_of(site))
    again = crawl(
        config=CrawlConfig.model_validate({"sources": [{"kind": "warc", "name": "web", "path": f"{pages.folder}/warc"}]})
    )
    columns = ["doc_id", "url", "status", "content_type", "payload_digest", "num_bytes"]
    first, second = (pa.concat_tables([shard.read(columns) for shard in one.shards()]) for one in (pages, again))
    assert first.num_rows == 10 and first.equals(second)
    assert extract(again, config=ExtractConfig()).counts == extract(pages, config=ExtractConfig()).counts
