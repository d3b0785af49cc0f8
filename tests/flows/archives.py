"""WARC files made for a test."""

from __future__ import annotations

from collections.abc import Iterable
from datetime import UTC, datetime
from pathlib import Path

from tasks.web.exchange import Fetched
from tasks.web.warc_writer import Location, Writer

DATE = datetime(2026, 8, 1, tzinfo=UTC)


def page(url: str, body: bytes, content_type: str = "text/html; charset=utf-8") -> Fetched:
    """A page as a server sends it."""
    head = f"HTTP/1.1 200 OK\r\nContent-Type: {content_type}\r\nContent-Length: {len(body)}\r\n\r\n".encode()
    return Fetched(url, DATE, 200, "OK", (("Content-Type", content_type),), body, wire=head + body)


def write(path: Path, pages: Iterable[Fetched]) -> list[Location]:
    """The pages as one WARC file; gives their places."""
    with path.open("wb") as file:
        writer = Writer(file, "test/1 (+http://a.example/)")
        return [writer.write(one, {}) for one in pages]
