"""The peer of `benchmarks.crawl`: one Scrapy process over some hosts, every followed link in scope, with a WARC of what came.

    python scrapy_spider.py CONCURRENCY AGENT WARC|- SEED...

Runs in an environment of its own (Scrapy and warcio). Records are written where the answer is still as the server sent it: compressed, so
that neither a second compression nor a thread of its own is asked of the peer; that is the fastest of what warcio lets it do.
"""

from __future__ import annotations

import io
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from scrapy import Spider, signals  # type: ignore[import-not-found]
from scrapy.crawler import CrawlerProcess  # type: ignore[import-not-found]
from scrapy.http import HtmlResponse, Request, Response  # type: ignore[import-not-found]
from scrapy.linkextractors import LinkExtractor  # type: ignore[import-not-found]
from warcio.statusandheaders import StatusAndHeaders
from warcio.warcwriter import WARCWriter

BEFORE_DECOMPRESSION = 595
"""Place among Scrapy's downloader middlewares: its own decompression has 590."""


class Pages(Spider):  # type: ignore[misc]
    """Follows every link of an HTML page that stays on the hosts of the seeds."""

    name = "pages"

    def __init__(self, seeds: list[str]) -> None:
        super().__init__(start_urls=seeds)
        self.links = LinkExtractor(allow_domains=[urlsplit(seed).netloc for seed in seeds])

    def parse(self, response: Response) -> Iterator[Request]:
        """One page."""
        if isinstance(response, HtmlResponse):
            for link in self.links.extract_links(response):
                yield Request(link.url)


class WarcMiddleware:
    """Writes each answer of status 200 as a WARC response record, a gzip member each."""

    def __init__(self, crawler: Any) -> None:
        self._file = Path(crawler.settings["WARC"]).open("wb")  # noqa: SIM115 -- open as long as the crawl lasts
        self._writer = WARCWriter(self._file, gzip=True)
        crawler.signals.connect(self.close, signal=signals.engine_stopped)

    @classmethod
    def from_crawler(cls, crawler: Any) -> WarcMiddleware:
        """As Scrapy makes it."""
        return cls(crawler)

    def close(self) -> None:
        """When all is written."""
        self._file.close()

    def process_response(self, request: Request, response: Response) -> Response:
        """One answer."""
        if response.status == 200:
            headers = [
                (name.decode("latin-1"), value.decode("latin-1"))
                for name in response.headers
                for value in response.headers.getlist(name)
            ]
            head = StatusAndHeaders("200 OK", headers, protocol="HTTP/1.1")
            body = io.BytesIO(response.body)
            self._writer.write_record(self._writer.create_warc_record(request.url, "response", payload=body, http_headers=head))
        return response


def main() -> None:
    """Crawl until nothing is left."""
    concurrency, agent, warc, *seeds = sys.argv[1:]
    settings = {
        "USER_AGENT": agent,
        "ROBOTSTXT_OBEY": True,
        "CONCURRENT_REQUESTS": int(concurrency) * len(seeds),
        "CONCURRENT_REQUESTS_PER_DOMAIN": int(concurrency),
        "DOWNLOAD_DELAY": 0,
        "COOKIES_ENABLED": False,
        "TELNETCONSOLE_ENABLED": False,
        "LOG_LEVEL": "WARNING",
    }
    if warc != "-":
        settings |= {"WARC": warc, "DOWNLOADER_MIDDLEWARES": {WarcMiddleware: BEFORE_DECOMPRESSION}}
    process = CrawlerProcess(settings)
    process.crawl(Pages, seeds=seeds)
    process.start()


if __name__ == "__main__":
    main()
