"""The crawler against real servers on loopback: its manners, as their logs show them, and every way a server can fail."""

import asyncio
import gzip
import threading
import time
from collections.abc import Awaitable, Callable, Iterator
from dataclasses import dataclass, field
from itertools import pairwise

import pytest
from aiohttp import web
from pydantic import ValidationError

from tasks.web.fetch import FetchConfig, Fetched, crawl_batch, fetch_robots
from tasks.web.frontier import FetchOrder
from tasks.web.robots import Robots

AGENT = "Gristmill/0.1 (+https://example.org/bot)"
OPEN = Robots("Gristmill", 404)


@dataclass
class Site:
    """A real aiohttp server in a thread; `log` holds (path, seconds, requests in flight, User-Agent) as it saw them."""

    origin: str = ""
    log: list[tuple[str, float, int, str]] = field(default_factory=list)
    num_asked: dict[str, int] = field(default_factory=dict)
    in_flight: int = 0

    async def handle(self, request: web.Request) -> web.StreamResponse:
        self.in_flight += 1
        self.num_asked[request.path] = self.num_asked.get(request.path, 0) + 1
        self.log.append((request.path, time.monotonic(), self.in_flight, request.headers["User-Agent"]))
        try:
            page: Callable[[web.Request], Awaitable[web.StreamResponse]] | None = getattr(
                self, "_" + request.path.removeprefix("/.well-known").split("/")[1].partition(".")[0], None
            )
            return await page(request) if page else web.Response(text=f"<p>page {request.path}", content_type="text/html")
        finally:
            self.in_flight -= 1

    async def _robots(self, _: web.Request) -> web.Response:
        return web.Response(text="User-agent: *\nDisallow: /private/\nCrawl-delay: 0.1")

    async def _tdmrep(self, _: web.Request) -> web.Response:
        return web.json_response([{"location": "/", "tdm-reservation": 1}])

    async def _error(self, _: web.Request) -> web.Response:
        return web.Response(status=500, text="broken")

    async def _busy(self, request: web.Request) -> web.Response:
        first = self.num_asked[request.path] == 1
        return web.Response(status=503, headers={"Retry-After": "1"}) if first else web.Response(text="ok")

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

    async def _wait(self, _: web.Request) -> web.Response:
        await asyncio.sleep(0.05)
        return web.Response(text="waited")


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


def _get(site: Site, *paths: str, robots: Robots = OPEN, **changes: object) -> list[Fetched]:
    orders = [FetchOrder(0, 0, site.origin + path) for path in paths]
    return crawl_batch(orders, {site.origin: robots}, _config(**changes))


def test_pages_come_back_in_order_with_headers_and_bytes(site: Site) -> None:
    got = _get(site, "/b", "/a?x=%41", "/b2")
    assert [item.body for item in got] == [b"<p>page /b", b"<p>page /a", b"<p>page /b2"]
    assert {(item.status, item.error) for item in got} == {(200, None)}
    assert (got[0].header("content-type") or "").startswith("text/html")
    assert {entry[3] for entry in site.log} == {AGENT}


def test_no_host_is_hit_faster_than_its_delay_nor_across_two_batches(site: Site) -> None:
    for _ in range(2):
        _get(site, *(f"/p{i}" for i in range(5)), delay_s=0.1, concurrency_per_host=4)
    times = [at for _, at, _, _ in site.log]
    assert len(times) == 10
    assert min(later - earlier for earlier, later in pairwise(times)) >= 0.1


def test_a_longer_crawl_delay_of_the_host_wins(site: Site) -> None:
    rules = fetch_robots([site.origin], _config())[site.origin]
    site.log.clear()
    _get(site, "/a", "/b", "/c", robots=rules, delay_s=0.01)
    times = [at for _, at, _, _ in site.log]
    assert min(later - earlier for earlier, later in pairwise(times)) >= 0.1


def test_what_an_origin_reserves_is_asked_for_with_its_robots(site: Site) -> None:
    rules = fetch_robots([site.origin], _config())[site.origin]
    assert [path for path, *_ in site.log] == ["/robots.txt", "/.well-known/tdmrep.json"]
    assert rules.consent(site.origin + "/a").tdm_reserved is True


def test_never_more_requests_in_flight_than_allowed_and_as_many_as_allowed(site: Site) -> None:
    _get(site, *(f"/wait/{i}" for i in range(12)), concurrency_per_host=3)
    assert max(in_flight for _, _, in_flight, _ in site.log) == 3


def test_what_robots_disallows_is_never_requested(site: Site) -> None:
    rules = fetch_robots([site.origin], _config())
    site.log.clear()
    secret, known = _get(site, "/private/x", "/open", robots=rules[site.origin])
    assert (secret.error, known.error) == ("robots", None)
    assert [path for path, *_ in site.log] == ["/open"]
    unknown = crawl_batch([FetchOrder(0, 0, site.origin + "/open")], {}, _config())
    assert unknown[0].error == "robots"


@pytest.mark.parametrize(
    ("path", "rule", "changes"),
    [
        ("/error", "bad_status", {}), ("/later", "bad_status", {}), ("/moved", "redirect", {}),
        ("/big", "too_large", {"max_bytes": 50_000}), ("/bomb", "too_large", {"max_bytes": 1_000_000}),
        ("/slow", "timeout", {"timeout_s": 0.2, "retries": 0}),
        ("/image", "content_type", {}), ("/cut", "bad_response", {}),
    ],
)  # fmt: skip
def test_every_failure_of_a_server_is_a_rule_with_a_detail(site: Site, path: str, rule: str, changes: dict[str, object]) -> None:
    (got,) = _get(site, path, **changes)
    assert got.error == rule
    assert got.detail
    assert got.body == b""


def test_an_unreachable_host_is_a_rule_and_its_robots_allow_nothing() -> None:
    origin = "http://127.0.0.1:9"
    (got,) = crawl_batch([FetchOrder(0, 0, origin + "/x")], {origin: OPEN}, _config())
    rules = fetch_robots([origin], _config())[origin]
    assert got.error == "unreachable"
    assert rules.failure == "unreachable"
    assert not rules.allows(origin + "/x")


def test_a_busy_host_is_left_alone_for_as_long_as_it_asks_and_then_asked_again(site: Site) -> None:
    (got,) = _get(site, "/busy")
    assert got.error is None
    first, second = [at for _, at, _, _ in site.log]
    assert second - first >= 1.0


def test_a_host_that_asks_for_an_hour_is_not_asked_again(site: Site) -> None:
    (got,) = _get(site, "/later")
    assert (got.status, site.num_asked["/later"]) == (429, 1)


@pytest.mark.parametrize("host", ["127.0.0.1", "localhost", "[::1]", "10.0.0.1", "169.254.169.254"])
def test_private_addresses_are_refused_by_address_and_by_name(host: str) -> None:
    origin = f"http://{host}:9"
    (got,) = crawl_batch([FetchOrder(0, 0, origin + "/x")], {origin: OPEN}, _config(allowed_private_hosts=()))
    assert got.error == "private_address"


def test_a_private_host_is_fetched_only_where_it_is_allowed_by_name(site: Site) -> None:
    named = site.origin.replace("127.0.0.1", "localhost")
    host = named.removeprefix("http://")
    order = [FetchOrder(0, 0, named + "/x")]
    assert crawl_batch(order, {named: OPEN}, _config(allowed_private_hosts=(host,)))[0].error is None
    assert crawl_batch(order, {named: OPEN}, _config(allowed_private_hosts=("127.0.0.1",)))[0].error == "private_address"


def test_a_redirect_to_a_private_address_is_not_followed(site: Site) -> None:
    (moved,) = _get(site, "/moved")
    assert moved.redirect_to == "http://127.0.0.9:1/secret"
    target = "http://127.0.0.9:1"
    (got,) = crawl_batch([FetchOrder(0, 1, moved.redirect_to)], {target: OPEN}, _config())
    assert got.error == "private_address"
    assert fetch_robots([target], _config())[target].failure == "private_address"


def test_compressed_bodies_are_kept_as_sent_and_read_when_asked(site: Site) -> None:
    (got,) = _get(site, "/zipped")
    assert got.body.startswith(b"\x1f\x8b")
    assert got.content(1000) == b"<p>zipped"


def test_an_agent_without_a_contact_is_a_config_error() -> None:
    with pytest.raises(ValidationError, match="contact"):
        FetchConfig(agent="Gristmill/0.1")
    assert _config().product_token == "Gristmill"
