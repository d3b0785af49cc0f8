"""The crawler's loop against real servers: hostile ones, kills, letters, shares, and what it leaves on disk."""

from __future__ import annotations

import asyncio
import gzip
import multiprocessing
import os
import random
import resource
import shutil
import signal
import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest
from aiohttp import web
from fastwarc.warc import ArchiveIterator

from infra import storage
from infra.errors import GristmillError
from infra.ids import payload_digest
from tasks.web import crawler, frontier, urls, warc
from tasks.web.crawler import Job, Plan, Share
from tasks.web.exchange import Fetched
from tasks.web.fetch import FetchConfig
from tasks.web.frontier import PAGE, Letter, LimitsConfig
from tasks.web.robots import Robots
from tasks.web.scope import ScopeConfig

from .loopback import Loopback, loopback

NUM_PAGES = 60


def row(got: Fetched, robots: Robots | None) -> dict[str, Any]:
    return {"url": got.url, "rule": got.error, "digest": payload_digest(got.body) if got.error is None else None}


def plan_of(folder: Path, site: Loopback, *paths: str, num_partitions: int = 1, post: str = "", **changes: Any) -> Plan:
    """A crawl that begins at `paths` of every host."""
    fetch = {"agent": "test/1 (+http://a.example/)", "delay_s": 0.0, "concurrency_per_host": 4, "retries": 0, "timeout_s": 2.0}
    seeds = tuple(f"http://{host}{path}" for host in site.hosts for path in paths)
    post = post or str(folder / "post")
    plan = Plan(
        "the crawl",
        str(folder / "scratch"),
        post,
        storage.join(post, "warc"),
        num_partitions,
        seeds,
        changes.pop("limits", LimitsConfig()),
        FetchConfig.model_validate(fetch | {"allowed_private_hosts": tuple(site.hosts)} | changes),
        ScopeConfig(),
    )
    begin = [Letter(url, urls.partition_of(urls.host_of(url), num_partitions), 0, PAGE) for url in seeds]
    crawler.post(plan, begin, "seeds")
    crawler.sign_of_life(plan, "flow", 0)
    return plan


@dataclass(frozen=True)
class Done:
    """How far one job of all partitions came."""

    num_requested: int
    num_waiting: int
    is_cut_short: bool


def crawled(plan: Plan, share: Share | None = None) -> Done:
    report = crawler.crawl_partitions(Job(tuple(range(plan.num_partitions)), share or Share(), "flow"), plan, row)
    assert crawler.progress(plan) == report.partitions
    each = report.partitions.values()
    return Done(sum(one.num_requested for one in each), sum(one.num_waiting for one in each), report.is_cut_short)


def rows_of(plan: Plan) -> list[dict[str, Any]]:
    found = []
    for number in range(plan.num_partitions):
        with crawler.opened(plan.crawl_id, plan.scratch, plan.post, number) as store:
            found += list(frontier.rows(store))
    return found


async def prose(request: web.Request) -> web.StreamResponse:
    """/p0 … of each host link to the next pages and to the same of other hosts."""
    if not request.path.startswith("/p"):
        return web.Response(status=404)
    await asyncio.sleep(0.002)
    number = int(request.path[2:])
    port = request.host.rpartition(":")[2]
    ahead = [f"/p{one}" for one in (2 * number + 1, 2 * number + 2) if one < NUM_PAGES]
    others = [f"http://127.0.0.{one}:{port}/p{number}" for one in (1, 2, 3)]
    links = "".join(f"<a href='{link}'>on</a>" for link in [*ahead, *others])
    return web.Response(text=f"<p>{request.host}{request.path}</p>{links}", content_type="text/html")


def test_one_job_crawls_everything_once_and_its_warc_files_hold_it(tmp_path: Path) -> None:
    with loopback(prose, num_hosts=3) as site:
        plan = plan_of(tmp_path, site, "/p0", num_partitions=3)
        report = crawled(plan)
    assert report.num_requested == 3 * NUM_PAGES and not report.num_waiting and not report.is_cut_short
    assert set(site.asked.values()) == {1} and len(site.asked) == 3 * NUM_PAGES
    rows = rows_of(plan)
    assert {one["rule"] for one in rows} == {None}
    for one in rows:
        with Path(one["file"]).open("rb") as file:
            record = warc.read_at(file, one["offset"])
        assert (record.url, record.payload_digest) == (one["url"], one["digest"])
    kinds = Counter(
        record.headers["WARC-Type"] for path in Path(plan.warc).iterdir() for record in ArchiveIterator(path.open("rb"))
    )
    assert kinds.pop("warcinfo") == len(list(Path(plan.warc).iterdir()))
    assert kinds == {"request": 186, "response": 186, "metadata": 180}  # robots.txt and tdmrep.json of three hosts with them


def test_jobs_of_one_partition_each_send_each_other_what_they_find(tmp_path: Path) -> None:
    with loopback(prose, num_hosts=3) as site:
        plan = plan_of(tmp_path, site, num_partitions=3)
        first = f"http://{site.hosts[0]}/p0"
        crawler.post(plan, [Letter(first, urls.partition_of(site.hosts[0], 3), 0, PAGE)], "seeds")
        plan = replace(plan, seeds=tuple(f"http://{host}/p0" for host in site.hosts))
        num_jobs = 0
        while waiting := crawler.partitions_with_mail(plan):
            num_jobs += 1
            crawler.crawl_partitions(Job((min(waiting),), Share(), "flow"), plan, row)
    assert num_jobs >= len({urls.partition_of(host, 3) for host in site.hosts})
    assert set(site.asked.values()) == {1} and len(site.asked) == 3 * NUM_PAGES


def site_bytes(plan: Plan) -> int:
    return sum(one.num_bytes for one in crawler.progress(plan).values())


def _until_killed(plan: Plan) -> None:
    crawled(plan)


def test_kills_at_any_moment_lose_no_page_and_repeat_only_what_was_in_flight(tmp_path: Path) -> None:
    chance = random.Random(20261126)
    with loopback(prose, num_hosts=3) as site:
        plan = plan_of(tmp_path, site, "/p0", num_partitions=2)
        fork = multiprocessing.get_context("fork")
        for _ in range(4):
            before = len(site.log)
            process = fork.Process(target=_until_killed, args=(plan,))
            process.start()
            goal = before + chance.randint(5, 40)
            while process.is_alive() and len(site.log) < goal:
                time.sleep(0.001)
            os.kill(process.pid or 0, signal.SIGKILL)
            process.join()
        crawled(plan)
    assert len(site.asked) == 3 * NUM_PAGES
    in_flight = 4 * 3 * plan.fetch.concurrency_per_host
    assert sum(count - 1 for count in site.asked.values()) <= in_flight
    rows = rows_of(plan)
    assert len(rows) == 3 * NUM_PAGES and {one["rule"] for one in rows} == {None}
    items = [item for path in Path(plan.warc).iterdir() for item in warc.scan(path)]
    assert all(isinstance(item, warc.Record) for item in items)
    assert len([item for item in items if isinstance(item, warc.Record) and item.status == 200]) == 3 * NUM_PAGES
    assert not list(Path(plan.scratch).rglob("*.warc.gz"))


def test_a_job_stops_at_its_share_and_says_that_more_waits(tmp_path: Path) -> None:
    with loopback(prose, num_hosts=2) as site:
        plan = plan_of(tmp_path, site, "/p0", num_partitions=2)
        hello = crawled(plan, Share(0, 0))
        assert (hello.num_requested, hello.is_cut_short) == (0, True)
        some = crawled(plan, Share(num_pages=7))
        assert (some.num_requested, some.is_cut_short) == (7, True)
        again = crawled(plan, Share(num_pages=7))
        assert (again.num_requested, again.is_cut_short) == (
            7,
            True,
        )  # what is spent is spent, also for a job that is begun again
        few = crawled(plan, Share(num_bytes=site_bytes(plan) + 1))
        assert 7 < few.num_requested <= 15 and few.is_cut_short
        rest = crawled(plan)
    assert not rest.is_cut_short and rest.num_requested == 3 * NUM_PAGES - NUM_PAGES == len(site.asked)


def test_a_job_whose_flow_is_gone_ends_and_leaves_the_rest_to_the_next(tmp_path: Path) -> None:
    with loopback(prose) as site:
        plan = plan_of(tmp_path, site, "/p0")
        crawler.sign_of_life(plan, "another flow", 0)
        report = crawled(plan)
        assert report.num_waiting and report.is_cut_short and len(site.asked) < NUM_PAGES
        crawler.sign_of_life(plan, "flow", 0)
        assert crawled(plan).num_requested == NUM_PAGES


def test_equal_bodies_are_stored_once_and_referred_to(tmp_path: Path) -> None:
    async def same(request: web.Request) -> web.StreamResponse:
        if request.path == "/":
            return web.Response(text="<a href=/a>a</a><a href=/b>b</a>", content_type="text/html")
        known = request.path in ("/a", "/b")
        return web.Response(text="the same <a href=/never>on</a>", content_type="text/html", status=200 if known else 404)

    with loopback(same) as site:
        plan = plan_of(tmp_path, site, "/")
        crawled(plan)
    a, b = (one for one in rows_of(plan) if one["url"].endswith(("/a", "/b")))
    assert (a["file"], a["offset"]) == (b["file"], b["offset"])
    assert (site.asked[b["url"]], site.asked[a["url"].replace("/a", "/never")]) == (1, 1)
    [path] = Path(plan.warc).iterdir()
    [revisit] = [
        record for record in ArchiveIterator(path.open("rb"), parse_http=False) if record.headers["WARC-Type"] == "revisit"
    ]
    assert revisit.headers["WARC-Target-URI"] == b["url"] and revisit.headers["WARC-Refers-To-Target-URI"] == a["url"]


def test_with_a_store_elsewhere_another_machine_goes_on_from_what_was_saved(tmp_path: Path) -> None:
    with loopback(prose) as site:
        plan = plan_of(tmp_path, site, "/p0", post=f"memory://{tmp_path.name}")
        crawled(plan, Share(num_pages=20))
        elsewhere = replace(plan, scratch=str(tmp_path / "another"))
        assert crawled(elsewhere).num_requested == NUM_PAGES
    assert set(site.asked.values()) == {1}
    assert {one["rule"] for one in rows_of(elsewhere)} == {None}
    stored = [storage.join(plan.warc, name) for name in storage.list_folder(plan.warc)]
    assert {one["file"] for one in rows_of(elsewhere)} == set(stored)


class Hostile:
    """Everything that a page on the web should not do."""

    async def answer(self, request: web.Request) -> web.StreamResponse:
        name = request.path.split("/")[1].replace(".", "_") or "root"
        handler = getattr(self, name, None)
        return await handler(request) if handler else web.Response(status=404)  # type: ignore[no-any-return]

    async def root(self, request: web.Request) -> web.StreamResponse:
        paths = [
            *("loop", "ping", "far/0", "bomb", "endless", "short", "drip", "hang", "many", "nulls", "tree/", "nested"),
            *("calendar/2026/11", "shop;jsessionid=1234567890", "list?sort=0", "latin", "odd", "image", "gone"),
        ]
        bad = [
            "http://[bad",
            "http://%zz/",
            "//",
            "javascript:x()",
            "http://a b/",
            "mailto:a@b",
            "\\\\",
            "http://127.0.0.1:99999/",
            "data:x",
        ]
        text = "".join(f'<a href="{one}">on</a>' for one in [*(f"/{path}" for path in paths), *bad])
        return web.Response(text=text, content_type="text/html")

    async def robots_txt(self, request: web.Request) -> web.StreamResponse:
        return web.Response(text="User-agent: *\nDisallow: /none/\n" + "x" * 2_000_000)

    async def loop(self, request: web.Request) -> web.StreamResponse:
        raise web.HTTPFound("/loop")

    async def ping(self, request: web.Request) -> web.StreamResponse:
        raise web.HTTPFound("/pong")

    async def pong(self, request: web.Request) -> web.StreamResponse:
        raise web.HTTPFound("/ping")

    async def far(self, request: web.Request) -> web.StreamResponse:
        raise web.HTTPFound(f"/far/{int(request.path.rpartition('/')[2]) + 1}")

    async def odd(self, request: web.Request) -> web.StreamResponse:
        return web.Response(status=302, headers={"Location": "http://[bad"})

    async def bomb(self, request: web.Request) -> web.StreamResponse:
        packed = gzip.compress(bytes(50_000_000))
        return web.Response(body=packed, headers={"Content-Type": "text/html", "Content-Encoding": "gzip"})

    async def endless(self, request: web.Request) -> web.StreamResponse:
        response = web.StreamResponse(headers={"Content-Type": "text/html"})
        await response.prepare(request)
        while True:
            await response.write(b"x" * 100_000)

    async def short(self, request: web.Request) -> web.StreamResponse:
        response = web.StreamResponse(headers={"Content-Type": "text/html", "Content-Length": "1000"})
        await response.prepare(request)
        await response.write(b"only this")
        assert request.transport is not None
        request.transport.close()
        return response

    async def drip(self, request: web.Request) -> web.StreamResponse:
        response = web.StreamResponse(headers={"Content-Type": "text/html"})
        await response.prepare(request)
        while True:
            await response.write(b"x")
            await asyncio.sleep(0.1)

    async def hang(self, request: web.Request) -> web.StreamResponse:
        await asyncio.sleep(60)
        return web.Response()

    async def many(self, request: web.Request) -> web.StreamResponse:
        return web.Response(text="".join(f"<a href=/none/{number}>x</a>" for number in range(100_000)), content_type="text/html")

    async def nulls(self, request: web.Request) -> web.StreamResponse:
        return web.Response(body=b"<a href='/a\0b'>\0\0</a>" + bytes(1000), content_type="text/html")

    async def nested(self, request: web.Request) -> web.StreamResponse:
        return web.Response(text="<div>" * 100_000, content_type="text/html")

    async def tree(self, request: web.Request) -> web.StreamResponse:
        return web.Response(text=f"{len(request.path)}<a href='branch/'>down</a>", content_type="text/html")

    async def calendar(self, request: web.Request) -> web.StreamResponse:
        year, month = (int(one) for one in request.path.split("/")[2:4])
        links = f"<a href='/calendar/{year + 1}/{month:02d}'>n</a><a href='/calendar/{year - 5}/{month:02d}'>p</a>"
        return web.Response(text=f"{request.path}{links}", content_type="text/html")

    async def shop(self, request: web.Request) -> web.StreamResponse:
        return web.Response(text=f"<a href='/shop;jsessionid={time.time_ns()}'>again</a>", content_type="text/html")

    async def list(self, request: web.Request) -> web.StreamResponse:
        sort = int(request.query["sort"])
        return web.Response(
            text=f"{sort}<a href='?sort={sort + 1}'>x</a><a href='?sort={sort + 2}'>y</a>", content_type="text/html"
        )

    async def latin(self, request: web.Request) -> web.StreamResponse:
        return web.Response(
            body=b"<a href='/caf\xe9'>x</a>", headers={"Content-Type": "text/html; charset=latin1", "X-Odd": "\xe9"}
        )

    async def image(self, request: web.Request) -> web.StreamResponse:
        return web.Response(body=b"\x89PNG", content_type="image/png")


@pytest.fixture
def hostile() -> Iterator[Loopback]:
    with loopback(Hostile().answer) as site:
        yield site


def test_a_hostile_site_ends_in_bounded_time_and_memory_with_every_failure_counted(hostile: Loopback, tmp_path: Path) -> None:
    limits = LimitsConfig(max_queries_per_path=20, max_depth=40)
    plan = plan_of(tmp_path, hostile, "/", limits=limits, concurrency_per_host=8, max_bytes=3_000_000, timeout_s=6)
    began, before_kib = time.monotonic(), resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    report = crawled(plan)
    assert time.monotonic() - began < 30
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before_kib < 400_000
    assert not report.is_cut_short and set(hostile.asked.values()) == {1}
    with crawler.opened(plan.crawl_id, plan.scratch, plan.post, 0) as store:
        frontier.finish(store, limits)
        rules = {one["url"].removeprefix(f"http://{hostile.hosts[0]}/"): one["rule"] for one in frontier.rows(store)}
    expected: dict[str, str | None] = {
        **dict.fromkeys(("loop", "ping", "pong", "odd", *(f"far/{number}" for number in range(6))), "redirect"),
        **{"far/6": "redirect_loop", "bomb": "too_large", "endless": "too_large", "short": "bad_response"},
        **{"drip": "timeout", "hang": "timeout", "image": "content_type", "gone": "bad_status", "caf%C3%A9": "bad_status"},
        **{"calendar/2027/11": None, "calendar/2028/11": "trap", "calendar/1986/11": "trap", "shop": None, "many": None},
        **{"tree/branch/branch/": None, "tree/branch/branch/branch/": "trap", "nulls": None, "nested": None},
        **{"list?sort=19": None, "list?sort=20": "trap", "latin": None},
    }
    found = {path: rules.get(path, "not found") for path in expected}
    assert found == expected
    counted = Counter(rules.values())
    assert counted["robots"] == 100_000
    assert report.num_requested == sum(counted.values()) - sum(
        counted[rule] for rule in ("robots", "trap", "redirect_loop", "budget")
    )
    assert not any("jsessionid" in path for path in rules)


def letters_of(plan: Plan) -> set[str]:
    folder = storage.join(plan.post, "mail")
    return {letter["url"] for name in storage.list_folder(folder) for letter in storage.read_json(storage.join(folder, name))}


def test_what_is_found_in_the_last_moment_of_a_share_is_posted(tmp_path: Path) -> None:
    with loopback(prose, num_hosts=3) as site:
        plan = plan_of(tmp_path, site, num_partitions=64)
        first = f"http://{site.hosts[0]}/p0"
        own = urls.partition_of(site.hosts[0], 64)
        crawler.post(plan, [Letter(first, own, 0, PAGE)], "seeds")
        plan = replace(plan, seeds=tuple(f"http://{host}/p0" for host in site.hosts))
        report = crawler.crawl_partitions(Job((own,), Share(num_pages=1), "flow"), plan, row)
    assert report.partitions[own].num_requested == 1
    others = [host for host in site.hosts if urls.partition_of(host, 64) != own]
    assert letters_of(plan) == {f"http://{host}/p0" for host in others}


def test_letters_taken_by_a_machine_that_is_lost_are_there_for_the_next(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with loopback(prose) as site:
        plan = plan_of(tmp_path, site, "/p0", post=f"memory://{tmp_path.name}")

        async def lost(self: object, now_s: float) -> None:
            raise ConnectionError("the machine is gone")

        with monkeypatch.context() as patch:
            patch.setattr("tasks.web.crawler._Partition.save", lost)
            with pytest.raises(ConnectionError):
                crawled(plan, Share(num_pages=20))
        assert crawler.partitions_with_mail(plan) == {0}
        assert crawled(replace(plan, scratch=str(tmp_path / "another"))).num_requested == NUM_PAGES
    assert crawler.partitions_with_mail(plan) == set()


def test_the_state_of_another_crawl_is_none_of_this_one(tmp_path: Path) -> None:
    with loopback(prose) as site:
        crawled(plan_of(tmp_path, site, "/p0"))
        shutil.rmtree(tmp_path / "post")
        plan = replace(plan_of(tmp_path, site, "/p0"), crawl_id="the next")
        assert crawled(plan).num_requested == NUM_PAGES
    assert set(site.asked.values()) == {2}


def test_a_database_that_another_process_has_is_an_error_that_says_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tasks.web.crawler.LEASE_S", 0.1)
    where = ("the crawl", str(tmp_path), str(tmp_path / "post"), 0)
    with crawler.opened(*where) as store:
        store.execute("CREATE TABLE some (thing)")
        with pytest.raises(GristmillError, match="another process"), crawler.opened(*where) as second:
            second.execute("SELECT * FROM some")


def test_a_page_that_a_mistake_of_ours_fails_on_is_given_up_by_name_and_costs_no_other(tmp_path: Path) -> None:
    def unlucky(got: Fetched, robots: Robots | None) -> dict[str, Any]:
        if got.url.endswith("/p5"):
            raise LookupError("a mistake of ours")
        return row(got, robots)

    with loopback(prose) as site:
        plan = plan_of(tmp_path, site, "/p0")
        tries = 0
        while True:
            tries += 1
            try:
                crawler.crawl_partitions(Job((0,), Share(), "flow"), plan, unlucky)
            except LookupError:
                continue
            break
    rules = {one["url"].rpartition("/")[2]: one["rule"] for one in rows_of(plan)}
    assert tries == 6
    assert {name for name, rule in rules.items() if rule} == {"p5"} and rules["p5"] == "poisoned"
    assert len(rules) == NUM_PAGES - 14  # it alone leads to fourteen others


def test_a_long_crawl_delay_and_a_gone_flow_hold_no_job(tmp_path: Path) -> None:
    async def slow(request: web.Request) -> web.StreamResponse:
        if request.path == "/robots.txt":
            return web.Response(text="User-agent: *\nCrawl-delay: 86400")
        await asyncio.sleep(60)
        return web.Response()

    with loopback(slow) as site:
        began = time.monotonic()
        plan = plan_of(tmp_path, site, "/p0")
        crawled(plan)
        with crawler.opened(plan.crawl_id, plan.scratch, plan.post, 0) as store:
            assert [one["rule"] for one in frontier.rows(store)] == ["crawl_delay"]
        assert len(site.log) == 1
        hanging = plan_of(tmp_path / "b", site, "/p0", limits=LimitsConfig(max_crawl_delay_s=1e6), timeout_s=60, delay_s=0)
        hanging = replace(hanging, limits=LimitsConfig(max_crawl_delay_s=1e6))
        crawler.sign_of_life(hanging, "another flow", 0)
        assert crawled(hanging).is_cut_short
        assert time.monotonic() - began < 10


def test_everything_that_was_sent_for_a_site_that_allows_nothing_is_in_the_archive(tmp_path: Path) -> None:
    async def closed(request: web.Request) -> web.StreamResponse:
        return web.Response(text="User-agent: *\nDisallow: /", status=200 if request.path == "/robots.txt" else 404)

    with loopback(closed) as site:
        plan = plan_of(tmp_path, site, "/p0")
        crawled(plan)
    assert {one["rule"] for one in rows_of(plan)} == {"robots"}
    [path] = Path(plan.warc).iterdir()
    assert [item.url.rpartition("/")[2] for item in warc.scan(path) if isinstance(item, warc.Record)] == ["robots.txt"]


def test_answers_that_were_cut_say_so_in_the_archive(tmp_path: Path) -> None:
    async def big(request: web.Request) -> web.StreamResponse:
        return web.Response(text="x" * 300_000, status=404)

    with loopback(big) as site:
        plan = plan_of(tmp_path, site, "/p0")
        crawled(plan)
    [path] = Path(plan.warc).iterdir()
    fields = [record.headers.asdict() for record in ArchiveIterator(path.open("rb"), parse_http=False)]
    responses = [one for one in fields if one["WARC-Type"] == "response"]
    assert len(responses) == 3 and all(
        one["WARC-Truncated"] == "length" and "WARC-Payload-Digest" not in one for one in responses
    )
