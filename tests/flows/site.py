"""A tiny site of prose on several loopback hosts, which can be told to hold its answers back."""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

from . import english


class Site:
    """`num_hosts` servers on ports of 127.0.0.1; /p0 … of each link to the next page and to the other hosts."""

    def __init__(self, num_hosts: int, num_pages: int) -> None:
        self.num_pages = num_pages
        self.asked: Counter[str] = Counter()
        self.hold_after: int | None = None
        self.odd: dict[str, tuple[int, str, bytes]] = {}
        """Other answers, by path: status, content type, body."""
        self.headers: dict[str, dict[str, str]] = {}
        """Further headers, by path."""
        self._lock, self._release = threading.Lock(), threading.Event()
        self.servers = [_Server(self, number) for number in range(num_hosts)]
        self.hosts = [f"127.0.0.1:{server.server_port}" for server in self.servers]
        self.seeds = [f"http://{host}/p0" for host in self.hosts]

    @property
    def num_asked(self) -> int:
        return sum(count for path, count in self.asked.items() if not path.endswith(("robots.txt", "tdmrep.json")))

    def wait_if_held(self, url: str) -> None:
        with self._lock:
            self.asked[url] += 1
            held = self.hold_after is not None and self.num_asked > self.hold_after
        if held:
            self._release.wait(30)

    def release(self) -> None:
        """Answer everything from now on."""
        self.hold_after = None
        self._release.set()

    def page(self, host: int, number: int) -> bytes:
        paragraphs = "".join(f"<p>{one}</p>" for one in english.text(1000 * host + number).split("\n\n"))
        links = [f"/p{number + 1}", *(f"http://{other}/p{number}" for other in self.hosts)] if number + 1 < self.num_pages else []
        anchors = " ".join(f'<a href="{link}">{link}</a>' for link in links)
        page = f"<html><head><title>Page {number}</title></head><body><main>{paragraphs}</main><nav>{anchors}</nav></body></html>"
        return page.encode()


class _Server(ThreadingHTTPServer):
    daemon_threads = True

    def __init__(self, site: Site, number: int) -> None:
        self.site, self.number = site, number
        super().__init__(("127.0.0.1", 0), _Handler)


class _Handler(BaseHTTPRequestHandler):
    server: _Server
    protocol_version = "HTTP/1.1"

    def do_GET(self) -> None:
        site = self.server.site
        site.wait_if_held(f"{self.server.server_port}{self.path}")
        if self.path in site.odd:
            return self._answer(*site.odd[self.path])
        if self.path.startswith("/p") and self.path[2:].isdigit():
            return self._answer(200, "text/html; charset=utf-8", site.page(self.server.number, int(self.path[2:])))
        return self._answer(404, "text/plain", b"none")

    def _answer(self, status: int, content_type: str, body: bytes) -> None:
        try:
            self.send_response(status)
            self.send_header("Content-Type", content_type)
            self.send_header("Content-Length", str(len(body)))
            for name, value in self.server.site.headers.get(self.path, {}).items():
                self.send_header(name, value)
            self.end_headers()
            self.wfile.write(body)
        except OSError:
            self.close_connection = True  # the crawler was killed while it waited

    def log_message(self, format: str, *arguments: object) -> None:
        pass


@contextmanager
def served(num_hosts: int, num_pages: int) -> Iterator[Site]:
    """The site, up inside the block."""
    site = Site(num_hosts, num_pages)
    threads = [
        threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True) for server in site.servers
    ]
    for thread in threads:
        thread.start()
    try:
        yield site
    finally:
        site.release()
        for server in site.servers:
            server.shutdown()
            server.server_close()
