"""A crawl is fetched once: what is lost of its version is made again from its own logs, and damage is found."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from rich.console import Console

from flows.passport import verify_run
from infra import ledger
from tasks.crawl import CrawlConfig, crawl
from tasks.extract import extract
from tasks.web.main_text import ExtractConfig

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
