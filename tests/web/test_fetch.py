"""The client against real servers on loopback: what it asks, what it keeps, and every way a server can fail."""

import asyncio
import contextlib
import gzip
import socket
import ssl
import threading
import time
from collections.abc import Awaitable, Callable, Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from itertools import pairwise
from pathlib import Path

import pytest
from aiohttp import web
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from cryptography.x509.oid import NameOID
from pydantic import ValidationError

from tasks.web.exchange import Fetched
from tasks.web.fetch import Client, FetchConfig, checked, retry_after_s
from tasks.web.robots import Robots
from tasks.web.well_known import Asking, Courtesy, robots_of

AGENT = "Gristmill/0.1 (+https://example.org/bot)"


@dataclass
class Site:
    """A real aiohttp server in a thread; `log` holds (path, seconds, requests in flight, User-Agent) as it saw them."""

    origin: str = ""
    log: list[tuple[str, float, int, str]] = field(default_factory=list)
    num_asked: dict[str, int] = field(default_factory=dict)
    in_flight: int = 0
    connections: set[object] = field(default_factory=set)
    robots_at: dict[str, str] = field(default_factory=dict)
    """Where the robots.txt of a host moved to."""
    tdmrep_status: int = 200

    async def handle(self, request: web.Request) -> web.StreamResponse:
        self.in_flight += 1
        self.connections.add(request.protocol)
        self.num_asked[request.path] = self.num_asked.get(request.path, 0) + 1
        self.log.append((request.path, time.monotonic(), self.in_flight, request.headers["User-Agent"]))
        try:
            page: Callable[[web.Request], Awaitable[web.StreamResponse]] | None = getattr(
                self, "_" + request.path.removeprefix("/.well-known").split("/")[1].partition(".")[0], None
            )
            return await page(request) if page else web.Response(text=f"<p>page {request.path}", content_type="text/html")
        finally:
            self.in_flight -= 1

    async def _robots(self, request: web.Request) -> web.Response:
        if target := self.robots_at.get(request.host.partition(":")[0]):
            return web.Response(status=301, headers={"Location": target})
        return web.Response(text="User-agent: *\nDisallow: /private/\nCrawl-delay: 0.1")

    async def _tdmrep(self, _: web.Request) -> web.Response:
        if self.tdmrep_status != 200:
            return web.Response(status=self.tdmrep_status)
        return web.json_response([{"location": "/", "tdm-reservation": 1}])

    async def _error(self, _: web.Request) -> web.Response:
        return web.Response(status=500, text="broken")

    async def _later(self, _: web.Request) -> web.Response:
        return web.Response(status=429, headers={"Retry-After": "3600"})

    async def _moved(self, _: web.Request) -> web.Response:
        return web.Response(status=302, headers={"Location": "http://127.0.0.9:1/secret"})

    async def _big(self, request: web.Request) -> web.StreamResponse:
        response = web.StreamResponse(headers={"Content-Type": "text/html"})
        await response.prepare(request)
        for _ in range(1000):
            await response.write(b"x" * 10_000)
        return response

    async def _bomb(self, _: web.Request) -> web.Response:
        return web.Response(
            body=gzip.compress(b"0" * 10_000_000), headers={"Content-Type": "text/html", "Content-Encoding": "gzip"}
        )

    async def _zipped(self, _: web.Request) -> web.Response:
        return web.Response(body=gzip.compress(b"<p>zipped"), headers={"Content-Type": "text/html", "Content-Encoding": "gzip"})

    async def _slow(self, _: web.Request) -> web.Response:
        await asyncio.sleep(5)
        return web.Response(text="late")

    async def _image(self, _: web.Request) -> web.Response:
        return web.Response(body=b"\x89PNG", content_type="image/png")

    async def _cut(self, request: web.Request) -> web.StreamResponse:
        response = web.StreamResponse(headers={"Content-Type": "text/html", "Content-Length": "1000"})
        await response.prepare(request)
        await response.write(b"only this")
        assert request.transport is not None
        request.transport.close()
        return response

    async def _dripping(self, request: web.Request) -> web.StreamResponse:
        response = web.StreamResponse(headers={"Content-Type": "text/html"})
        await response.prepare(request)
        for _ in range(100):
            await response.write(b"x")
            await asyncio.sleep(0.05)
        return response

    async def _unchanged(self, _: web.Request) -> web.Response:
        return web.Response(status=304)

    async def _closing(self, _: web.Request) -> web.Response:
        response = web.Response(text="the last one")
        response.force_close()
        return response


@pytest.fixture
def site() -> Iterator[Site]:
    state, ready = Site(), threading.Event()
    loop = asyncio.new_event_loop()

    async def start() -> web.AppRunner:
        app = web.Application()
        app.router.add_route("*", "/{tail:.*}", state.handle)
        runner = web.AppRunner(app, shutdown_timeout=0.1)
        await runner.setup()
        await web.TCPSite(runner, "127.0.0.1", 0).start()
        state.origin = f"http://127.0.0.1:{runner.addresses[0][1]}"
        return runner

    def run() -> None:
        runner = loop.run_until_complete(start())
        ready.set()
        loop.run_forever()
        loop.run_until_complete(runner.cleanup())
        loop.close()

    thread = threading.Thread(target=run)
    thread.start()
    assert ready.wait(10)
    yield state
    loop.call_soon_threadsafe(loop.stop)
    thread.join(10)


def _config(**changes: object) -> FetchConfig:
    plain = {
        "agent": AGENT,
        "delay_s": 0.0,
        "allowed_private_hosts": ("127.0.0.1",),
        "backoff_s": 0.01,
        "retries": 1,
        "timeout_s": 3,
    }
    return FetchConfig.model_validate(plain | changes)


def _get(url: str, *more: str, **changes: object) -> list[Fetched]:
    """One after the other, over one client."""
    config = _config(**changes)

    async def ask() -> list[Fetched]:
        client = Client(config)
        try:
            return [checked(await client.get(one), config.max_bytes)[0] for one in (url, *more)]
        finally:
            client.close()

    return asyncio.run(ask())


def _robots(origin: str, **changes: object) -> Robots:
    config = _config(**changes)

    async def ask() -> Robots:
        client = Client(config)
        asking = Asking(client, config, Courtesy(), lambda got: None)
        try:
            return await robots_of(origin, asking, config.delay_s)
        finally:
            client.close()

    return asyncio.run(ask())


def test_pages_come_with_headers_and_with_the_bytes_on_the_wire(site: Site) -> None:
    got = _get(site.origin + "/b", site.origin + "/a?x=%41", site.origin + "/big", max_bytes=20_000_000)
    assert [item.body for item in got[:2]] == [b"<p>page /b", b"<p>page /a"]
    assert got[2].body == b"x" * 10_000_000
    assert {(item.status, item.error, item.address) for item in got} == {(200, None, "127.0.0.1")}
    assert (got[0].header("content-type") or "").startswith("text/html")
    assert {entry[3] for entry in site.log} == {AGENT}
    assert got[1].request.startswith(b"GET /a?x=%41 HTTP/1.1\r\nHost: 127.0.0.1:")
    assert got[0].wire.startswith(b"HTTP/1.1 200 OK\r\n") and got[0].wire.endswith(b"\r\n\r\n<p>page /b")
    assert got[2].wire.endswith(b"\r\n0\r\n\r\n") and got[2].header("Transfer-Encoding") == "chunked"


def test_a_connection_is_used_again_and_replaced_where_the_server_closed_it(site: Site) -> None:
    assert {item.error for item in _get(*(f"{site.origin}/{number}" for number in range(5)))} == {None}
    assert len(site.connections) == 1
    got = _get(site.origin + "/closing", site.origin + "/then", site.origin + "/then")
    assert {item.error for item in got} == {None}
    assert len(site.connections) == 3


def test_a_longer_crawl_delay_of_the_host_also_holds_between_its_own_files(site: Site) -> None:
    rules = _robots(site.origin, delay_s=0.01)
    assert rules.crawl_delay_s == 0.1
    assert [path for path, *_ in site.log] == ["/robots.txt", "/.well-known/tdmrep.json"]
    assert site.log[1][1] - site.log[0][1] >= 0.1
    assert rules.consent(site.origin + "/a").tdm_reserved is True


def test_a_robots_txt_that_moved_holds_for_the_origin_that_was_asked(site: Site) -> None:
    moved = f"http://localhost:{site.origin.rpartition(':')[2]}"
    site.robots_at["localhost"] = site.origin + "/robots.txt"
    rules = _robots(moved, allowed_private_hosts=("127.0.0.1", "localhost"))
    assert rules.status == 200 and not rules.allows(moved + "/private/x")


@pytest.mark.parametrize(
    ("path", "rule", "changes"),
    [
        ("/error", "bad_status", {}), ("/later", "bad_status", {}), ("/moved", "redirect", {}),
        ("/big", "too_large", {"max_bytes": 50_000}), ("/bomb", "too_large", {"max_bytes": 1_000_000}),
        ("/slow", "timeout", {"timeout_s": 0.2}), ("/dripping", "timeout", {"timeout_s": 0.5}),
        ("/image", "content_type", {}), ("/cut", "bad_response", {}), ("/unchanged", "not_modified", {}),
    ],
)  # fmt: skip
def test_every_failure_of_a_server_is_a_rule_with_a_detail(site: Site, path: str, rule: str, changes: dict[str, object]) -> None:
    began = time.monotonic()
    (got,) = _get(site.origin + path, **changes)
    assert got.error == rule
    assert got.detail
    assert time.monotonic() - began < 2


RAW = {
    "no status line": (b"<html>hello", "bad_response"),
    "nothing": (b"", "bad_response"),
    "a head without end": (b"HTTP/1.1 200 OK\r\n" + b"X-Filler: y\r\n" * 10_000, "bad_response"),
    "a length that is no number": (b"HTTP/1.1 200 OK\r\nContent-Length: many\r\n\r\nhello", "bad_response"),
    "two lengths": (b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\nContent-Length: 6\r\n\r\nhello!", "bad_response"),
    "chunks that are all head": (b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n1;" + b"x" * 60_000_000, "bad_response"),
    "a chunk of no size": (b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\nhello\r\n0\r\n\r\n", "bad_response"),
    "another protocol": (b"HTTP/1.1 101 Switching\r\nUpgrade: x\r\nConnection: Upgrade\r\n\r\n", "bad_response"),
    "a length beyond the end": (b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\nhello", "bad_response"),
    "bare line feeds": (b"HTTP/1.1 200 OK\nContent-Length: 5\n\nhello", None),
    "no length at all": (b"HTTP/1.0 200 OK\r\n\r\nhello", None),
    "a hint before the answer": (
        b"HTTP/1.1 103 Early Hints\r\nLink: x\r\n\r\nHTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhello",
        None,
    ),
    "a null byte in a header": (b"HTTP/1.1 200 OK\r\nX: \x00\xff\r\nContent-Length: 5\r\n\r\nhello", None),
    "two answers at once": (
        b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhelloHTTP/1.1 404 Not Found\r\nContent-Length: 2\r\n\r\nno",
        None,
    ),
    "a hint with bare line feeds": (b"HTTP/1.1 103 Early Hints\nLink: x\n\nHTTP/1.1 200 OK\nContent-Length: 5\n\nhello", None),
    "more than was promised": (b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhello, and more", None),
    "chunks and a length": (
        b"HTTP/1.1 200 OK\r\nContent-Length: 3\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\n\r\n",
        None,
    ),
}


@pytest.mark.parametrize("name", RAW)
def test_answers_that_are_hardly_http_are_read_or_refused_but_never_raise(name: str) -> None:
    raw, rule = RAW[name]
    with socket.create_server(("127.0.0.1", 0)) as server:

        def answer() -> None:
            for _ in range(2):
                connection, _ = server.accept()
                with connection:
                    connection.recv(65536)
                    with contextlib.suppress(OSError):
                        connection.sendall(raw)

        thread = threading.Thread(target=answer, daemon=True)
        thread.start()
        first, second = (_get(f"http://127.0.0.1:{server.getsockname()[1]}/{number}")[0] for number in range(2))
        thread.join(10)
    assert [(one.error, one.body if rule is None else b"hello") for one in (first, second)] == [(rule, b"hello")] * 2
    assert first.num_wire_bytes < 50_000_000
    if rule is None:
        assert (first.status, first.reason, first.wire[:9]) == (
            200,
            "OK",
            b"HTTP/1.1 " if b"HTTP/1.1 200" in raw else b"HTTP/1.0 ",
        )


def test_a_server_that_closes_kept_connections_is_not_asked_twice_at_once() -> None:
    asked: list[bytes] = []
    with socket.create_server(("127.0.0.1", 0)) as server:

        def answer() -> None:
            for _ in range(2):
                connection, _ = server.accept()
                with connection:
                    for number in range(2):
                        head = connection.recv(65536)
                        asked.append(head.split()[1] if head else b"")
                        if number == 0:
                            connection.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhello")

        threading.Thread(target=answer, daemon=True).start()
        origin = f"http://127.0.0.1:{server.getsockname()[1]}"
        got = _get(f"{origin}/1", f"{origin}/2", f"{origin}/2")
    assert [one.error for one in got] == [None, "unheard", None]
    assert asked[:3] == [b"/1", b"/2", b"/2"]


def test_many_origins_that_lead_to_one_robots_txt_ask_for_it_one_after_the_other(site: Site) -> None:
    port = site.origin.rpartition(":")[2]
    site.robots_at["localhost"] = f"http://127.0.0.1:{port}/robots.txt"
    config = _config(delay_s=0.2, allowed_private_hosts=("127.0.0.1", "localhost"))

    async def ask() -> None:
        client, courtesy = Client(config), Courtesy()
        asking = Asking(client, config, courtesy, lambda got: None)
        await asyncio.gather(*(robots_of(f"http://localhost:{port}", asking, 0.2) for _ in range(3)))
        client.close()

    asyncio.run(ask())
    followed = [at_s for path, at_s, *_ in site.log if path == "/robots.txt"][3:]
    assert len(followed) == 3 and min(after - before for before, after in pairwise(followed)) >= 0.2


def test_what_was_reserved_holds_on_where_the_file_cannot_be_had_again(site: Site) -> None:
    config = _config()
    known = Robots("Gristmill", 200, tdmrep='[{"location": "/", "tdm-reservation": 1}]')

    async def ask() -> Robots:
        client = Client(config)
        site.tdmrep_status = 503
        found = await robots_of(site.origin, Asking(client, config, Courtesy(), lambda got: None), 0.0, known)
        client.close()
        return found

    assert asyncio.run(ask()).consent(site.origin + "/a").tdm_reserved is True
    assert site.num_asked["/.well-known/tdmrep.json"] == 2


def test_an_unreachable_host_is_a_rule_and_its_robots_allow_nothing() -> None:
    origin = "http://127.0.0.1:9"
    rules = _robots(origin)
    assert _get(origin + "/x")[0].error == "unreachable"
    assert rules.failure == "unreachable" and not rules.allows(origin + "/x")


@pytest.mark.parametrize(
    ("value", "low_s", "high_s"),
    [
        ("12", 12, 12),
        ("Fri, 01 Jan 2100 00:00:00 GMT", 1e9, 1e10),
        ("Fri, 01 Jan 1999 00:00:00 GMT", 0, 0),
        ("soon", 0, 0),
        ("", 0, 0),
    ],
)
def test_retry_after_is_read_as_a_number_or_a_date(value: str, low_s: float, high_s: float) -> None:
    got = Fetched("http://a.example/", datetime.now(UTC), headers=(("Retry-After", value),))
    assert low_s <= retry_after_s(got) <= high_s


@pytest.mark.parametrize("host", ["127.0.0.1", "localhost", "[::1]", "10.0.0.1", "169.254.169.254"])
def test_private_addresses_are_refused_by_address_and_by_name(host: str) -> None:
    assert _get(f"http://{host}:9/x", allowed_private_hosts=())[0].error == "private_address"


def test_a_private_host_is_fetched_only_where_it_is_allowed_by_name(site: Site) -> None:
    named = site.origin.replace("127.0.0.1", "localhost")
    host = named.removeprefix("http://")
    assert _get(named + "/x", allowed_private_hosts=(host,))[0].error is None
    assert _get(named + "/x", allowed_private_hosts=("127.0.0.1",))[0].error == "private_address"


def test_a_name_is_asked_for_once_in_five_minutes(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[str] = []
    real = socket.getaddrinfo

    def counted(host: str, *rest: object, **more: object) -> object:
        asked.append(host)
        return real(host, *rest, **more)  # type: ignore[arg-type]

    monkeypatch.setattr(socket, "getaddrinfo", counted)
    named = site.origin.replace("127.0.0.1", "localhost")
    got = _get(named + "/closing", named + "/closing", named + "/then", allowed_private_hosts=("localhost",))
    assert {one.error for one in got} == {None} and len(site.connections) == 3
    assert asked.count("localhost") == 1


def test_a_redirect_to_a_private_address_is_not_followed(site: Site) -> None:
    (moved,) = _get(site.origin + "/moved")
    assert moved.redirect_to == "http://127.0.0.9:1/secret"
    assert _get(moved.redirect_to)[0].error == "private_address"
    assert _robots("http://127.0.0.9:1").failure == "private_address"


def test_compressed_bodies_are_kept_as_sent_and_read_when_asked(site: Site) -> None:
    (got,) = _get(site.origin + "/zipped")
    assert got.body.startswith(b"\x1f\x8b")
    assert got.content(1000) == b"<p>zipped"


def test_an_agent_without_a_contact_is_a_config_error() -> None:
    with pytest.raises(ValidationError, match="contact"):
        FetchConfig(agent="Gristmill/0.1")
    with pytest.raises(ValidationError, match="contact"):
        FetchConfig(agent="Gristmill/0.1 (+https://example.org)\r\nX: y")
    assert _config().product_token == "Gristmill"


def _certificate(folder: Path) -> tuple[Path, Path]:
    """A certificate for localhost that vouches for itself, and its key."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "localhost")])
    now = datetime.now(UTC)
    made = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(1)
        .not_valid_before(now - timedelta(days=1))
        .not_valid_after(now + timedelta(days=1))
        .add_extension(x509.SubjectAlternativeName([x509.DNSName("localhost")]), critical=False)
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .sign(key, hashes.SHA256())
    )
    paths = folder / "cert.pem", folder / "key.pem"
    paths[0].write_bytes(made.public_bytes(Encoding.PEM))
    paths[1].write_bytes(key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()))
    return paths


def test_https_is_fetched_from_whom_the_authorities_vouch_for_and_from_nobody_else(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    certificate, key = _certificate(tmp_path)
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.load_cert_chain(certificate, key)
    with socket.create_server(("127.0.0.1", 0)) as server:

        def answer() -> None:
            for _ in range(3):
                with contextlib.suppress(OSError), context.wrap_socket(server.accept()[0], server_side=True) as connection:
                    connection.recv(65536)
                    connection.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhello")

        thread = threading.Thread(target=answer, daemon=True)
        thread.start()
        port = server.getsockname()[1]
        allowed = ("localhost", "127.0.0.1")
        assert _get(f"https://localhost:{port}/", allowed_private_hosts=allowed)[0].error == "unreachable"
        monkeypatch.setenv("SSL_CERT_FILE", str(certificate))
        (trusted,) = _get(f"https://localhost:{port}/", allowed_private_hosts=allowed)
        assert (trusted.error, trusted.body) == (None, b"hello")
        assert _get(f"https://127.0.0.1:{port}/", allowed_private_hosts=allowed)[0].error == "unreachable"  # another name
        thread.join(10)
