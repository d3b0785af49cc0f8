"""The demo site is real, deterministic, served on several hosts, and crawled politely from end to end."""

import hashlib
import http.client
import json
import re
from collections import Counter
from pathlib import Path

import pytest

from tasks.web import crawler, demo, frontier, main_text, urls, warc
from tasks.web.fetch import FetchConfig
from tasks.web.frontier import PAGE, Letter, LimitsConfig
from tasks.web.scope import ScopeConfig

PORT = 18790
SERVICES = ("acm", "account", "sts", "sqs")


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, demo.SiteFacts]:
    folder = tmp_path_factory.mktemp("site") / "out"
    return folder, demo.build_site(folder, SERVICES, num_hosts=4, port=PORT)


def _digest(folder: Path) -> str:
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    return hashlib.sha256(b"".join(str(path.relative_to(folder)).encode() + path.read_bytes() for path in files)).hexdigest()


def test_the_same_settings_give_the_same_bytes_and_other_settings_another_site(
    site: tuple[Path, demo.SiteFacts], tmp_path: Path
) -> None:
    folder, facts = site
    assert demo.build_site(tmp_path / "again", SERVICES, num_hosts=4, port=PORT) == facts
    assert _digest(tmp_path / "again") == _digest(folder)
    before = (folder / "site.json").stat().st_mtime_ns
    assert demo.build_site(folder, SERVICES, num_hosts=4, port=PORT) == facts
    assert (folder / "site.json").stat().st_mtime_ns == before
    assert demo.build_site(tmp_path / "again", 1, num_hosts=4, port=PORT).services == ("accessanalyzer",)
    with pytest.raises(demo.DemoError, match="no service nosuch"):
        demo.build_site(tmp_path / "again", ["nosuch"])


def test_the_fragments_of_botocore_are_untouched(site: tuple[Path, demo.SiteFacts]) -> None:
    folder, _ = site
    service = json.loads(json.dumps(demo._read_service("acm")))
    (built,) = folder.glob("*/acm/AddTagsToCertificate.html")
    text = built.read_text()
    assert service["operations"]["AddTagsToCertificate"]["documentation"] in text
    assert service["shapes"]["AddTagsToCertificateRequest"]["members"]["CertificateArn"]["documentation"] in text


def test_a_taken_port_is_a_clear_error(site: tuple[Path, demo.SiteFacts]) -> None:
    folder, facts = site
    with (
        demo.serve_site(folder, facts.hosts),
        pytest.raises(demo.DemoError, match="cannot be served"),
        demo.serve_site(folder, facts.hosts),
    ):
        pass


def test_the_server_keeps_connections_and_stays_within_its_folder(site: tuple[Path, demo.SiteFacts]) -> None:
    folder, facts = site
    with demo.serve_site(folder, facts.hosts):
        connection = http.client.HTTPConnection(facts.hosts[0], timeout=5)
        answers = []
        for method, path in (
            ("GET", "/"),
            ("HEAD", "/"),
            ("GET", "/../site.json"),
            ("GET", "/%2e%2e/site.json"),
            ("GET", "/none"),
            ("POST", "/"),
        ):
            connection.request(method, path)
            answer = connection.getresponse()
            answers.append((answer.status, len(answer.read()) > 0))
        connection.close()
    assert answers == [(200, True), (200, False), (404, True), (404, True), (404, True), (404, True)]


def test_a_crawl_fetches_every_allowed_page_once_and_no_disallowed_one(site: tuple[Path, demo.SiteFacts], tmp_path: Path) -> None:
    folder, facts = site
    agent = "Gristmill/0.1 (+https://example.org/bot)"
    fetch = FetchConfig(agent=agent, delay_s=0.0, concurrency_per_host=4, allowed_private_hosts=facts.hosts)
    folders = (str(tmp_path / name) for name in ("scratch", "post", "warc"))
    plan = crawler.Plan("demo", *folders, 3, tuple(facts.seeds), LimitsConfig(), fetch, ScopeConfig())
    with demo.serve_site(folder, facts.hosts):
        crawler.post(plan, [Letter(url, urls.partition_of(urls.host_of(url), 3), 0, PAGE) for url in facts.seeds], "seeds")
        report = crawler.crawl_partitions(
            crawler.Job((0, 1, 2), crawler.Share(), "test"), plan, lambda got, robots: {"url": got.url}
        )
    rows = []
    for number in range(3):
        with crawler.opened(plan.crawl_id, plan.scratch, plan.post, number) as store:
            rows += list(frontier.rows(store))
    pages = {row["url"] for row in rows if "rule" not in row}
    assert sum(one.num_requested for one in report.partitions.values()) == facts.num_pages - facts.num_disallowed_pages + len(
        facts.hosts
    )
    assert len(pages) == facts.num_pages - facts.num_disallowed_pages
    assert {urls.host_of(url) for url in pages} == set(facts.hosts)
    rules = Counter(row["rule"] for row in rows if "rule" in row)
    assert rules == {"robots": facts.num_disallowed_pages, "sitemap": len(facts.hosts)}
    scanned = [item for path in Path(plan.warc).iterdir() for item in warc.scan(path)]
    records = {item.url: item for item in scanned if isinstance(item, warc.Record)}
    assert pages <= records.keys() and len(records) == len(scanned)
    [record] = [one for url, one in records.items() if url.endswith("AddTagsToCertificate.html")]
    text = main_text.extract(record.content(10**7), record.content_type, record.url)
    assert re.match(r"AddTagsToCertificate\n\nAdds one or more tags", getattr(text, "text", ""))
