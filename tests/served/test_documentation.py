"""Real pages through the real flow: the Debian handbook in 26 languages and Apache's manual, from nginx to a published corpus."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from pathlib import Path

import pyarrow.dataset as ds
import pytest
from served_mill import PROJECT, Mill

from benchmarks.web_server import WebServerError, documents, serve
from tasks.web.robots import Robots

pytestmark = [pytest.mark.soak, pytest.mark.timeout(900, func_only=True)]
PORT = 8793


def test_four_thousand_pages_in_26_languages_go_from_nginx_to_a_published_corpus(
    new_mill: Callable[..., Mill], tmp_path: Path
) -> None:
    try:
        books = documents(PROJECT / ".resources" / "documentation", ("debian-handbook", "apache2-doc"))
    except WebServerError as error:
        pytest.skip(str(error))
    with serve(tmp_path, books, 8, PORT) as site:
        fetch = {"agent": "test/1 (+http://a.example/)", "delay_s": 0, "concurrency_per_host": 4}
        mill = new_mill(
            crawl={
                "sources": [{"kind": "site", "urls": list(site.seeds)}],
                "fetch": {**fetch, "allowed_private_hosts": list(site.hosts)},
                "shard_pages": 500,
            },
            filter={"languages": []},
            dask={"workers": 2},
        )
        done = mill.run(flow="curate", patience_s=800)
        assert done.returncode == 0, done.stdout + done.stderr + mill.logs()
        requests = site.requests()
    entries = mill.entries(mill.newest_run())
    manifests = {step: mill.manifest(entry) for step, entry in entries.items()}
    captured = manifests["crawl"]["counts"]["kept"]
    assert captured >= 3_000 + 800
    asked = Counter(f"http://{one.host}{one.path}" for one in requests)
    assert set(asked.values()) == {1}
    rules = {host: Robots.parse(text, "test") for host, text in site.robots.items()}
    assert not [
        url for url in asked if not rules[url.split("/")[2]].allows(url) and not url.endswith(("robots.txt", "tdmrep.json"))
    ]
    # nothing is lost between the steps, and every drop has its reason
    assert manifests["extract"]["counts"]["total"] == captured
    for manifest in manifests.values():
        counts = manifest["counts"]
        assert counts["total"] == counts["kept"] + sum(counts["dropped"].values())
    assert manifests["extract"]["counts"]["kept"] > 0.95 * captured
    urls = ds.dataset(mill.store / entries["extract"]["path"], exclude_invalid_files=True).to_table(["url"])["url"].to_pylist()
    languages = {url.split("/")[4] for url in urls if "/debian-handbook/" in url}
    assert len(languages) == 26
    signals = ds.dataset(sorted((mill.store / entries["signals"]["path"]).glob("part-*.parquet")))
    found = Counter(signals.to_table(["language"])["language"].to_pylist())
    assert len([language for language, count in found.items() if count >= 50]) >= 15  # some translations have hardly begun
    assert manifests["publish"]["counts"]["kept"] > 500
