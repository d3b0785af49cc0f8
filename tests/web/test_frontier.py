"""The frontier asks for the right URLs, when it may, whatever the order of answers, the partitions, and the kills in between."""

from __future__ import annotations

import heapq
import random
import sqlite3
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from itertools import pairwise

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tasks.web import frontier as frontiers
from tasks.web import urls
from tasks.web.frontier import Answered, FetchOrder, Frontier, Letter, LimitsConfig, Manners, Place, RobotsOrder
from tasks.web.robots import Robots
from tasks.web.scope import Scope, ScopeConfig

HOSTS = ("a.example", "b.example:81", "c.example", "d.example")
OPEN = Robots("Gristmill", 404)
PAGES = [f"http://{host}/{path}" for host in HOSTS for path in ("", "p1", "p2", "p3", "x/p4", "x/p5", "private/p6")]
SEEDS = (PAGES[0], PAGES[7], PAGES[14])
RULES = {
    "http://a.example": Robots.parse("User-agent: *\nDisallow: /private/\nSitemap: http://a.example/x/p5", "Gristmill"),
    "http://b.example:81": Robots.parse("User-agent: *\nCrawl-delay: 5", "Gristmill"),
    "http://c.example": Robots("Gristmill", None, failure="unreachable", detail="connection refused"),
}
QUICK = Manners(delay_s=1.0)
NOON_S = 1_800_000_000.0


@dataclass(frozen=True)
class Page:
    """What a site answers: links, or a redirect."""

    links: tuple[str, ...] = ()
    redirect_to: str | None = None


Site = Mapping[str, Page]


@dataclass
class World:
    """Servers, a clock and the workers of all partitions; a kill takes a worker and what it has in flight."""

    site: Site
    chance: random.Random
    limits: LimitsConfig = field(default_factory=LimitsConfig)
    manners: Manners = QUICK
    num_partitions: int = 1
    kill_rate: float = 0.0
    seeds: tuple[str, ...] = SEEDS
    now_s: float = NOON_S
    asked: list[tuple[str, float]] = field(default_factory=list)
    """(URL, when) of every request, robots.txt included."""
    ended: dict[str, list[float]] = field(default_factory=dict)
    lost: Counter[str] = field(default_factory=Counter)
    flights: list[tuple[float, int, int, FetchOrder | RobotsOrder]] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.stores = [sqlite3.connect(":memory:", isolation_level=None) for _ in range(self.num_partitions)]
        self.frontiers = [self.worker(number) for number in range(self.num_partitions)]

    def worker(self, number: int) -> Frontier:
        scope = Scope(ScopeConfig(allowed_hosts=HOSTS), self.seeds)
        return Frontier(
            self.stores[number],
            self.limits,
            self.manners,
            scope,
            partition=(number, self.num_partitions),
            now_s=self.now_s,
            year=2026,
        )

    def crawl(self) -> World:
        """Until nothing is left to do."""
        for url in self.seeds:
            number = urls.partition_of(urls.host_of(url), self.num_partitions)
            self.frontiers[number].received([Letter(url, number, 0, frontiers.PAGE)])
        while True:
            for number in range(self.num_partitions):
                self.give_orders(number)
                if self.chance.random() < self.kill_rate:
                    self.kill(number)
            moved = self.deliver()
            if self.flights and (self.chance.random() < 0.7 or not self.wakes()):
                self.land()
            elif wakes := self.wakes():
                self.now_s = max(self.now_s, min(wakes)) + 0.01
            elif any(one.has_suspects for one in self.frontiers):
                self.give_suspect()
            elif not moved:
                break
        for store in self.stores:
            frontiers.finish(store, self.limits)
        return self

    def wakes(self) -> list[float]:
        return [wake for one in self.frontiers if (wake := one.wakes_at_s) is not None]

    def give_orders(self, number: int) -> None:
        while order := self.frontiers[number].next(self.now_s):
            url = order.url if isinstance(order, FetchOrder) else f"{order.origin}/robots.txt"
            self.asked.append((url, self.now_s))
            took_s = self.chance.choice([0.0, 0.1, 3.0])
            heapq.heappush(self.flights, (self.now_s + took_s, len(self.asked), number, order))

    def give_suspect(self) -> None:
        self.now_s += 10
        for number, one in enumerate(self.frontiers):
            if order := one.next_suspect(self.now_s):
                url = order.url if isinstance(order, FetchOrder) else f"{order.origin}/robots.txt"
                self.asked.append((url, self.now_s))
                heapq.heappush(self.flights, (self.now_s, len(self.asked), number, order))
                return

    def land(self) -> None:
        at_s, _, number, order = heapq.heappop(self.flights)
        self.now_s = max(self.now_s, at_s)
        if isinstance(order, RobotsOrder):
            self.frontiers[number].learnt(order.origin, RULES.get(order.origin, OPEN), self.now_s)
        else:
            page = self.site.get(order.url, Page())
            self.frontiers[number].answered(
                Answered(order.url, {"url": order.url}, page.links, redirect_to=page.redirect_to, seconds=0.1), self.now_s
            )

    def deliver(self) -> bool:
        """Letters, some of them twice."""
        moved = False
        for sender in self.frontiers:
            letters = sender.letters(limit=3)
            for letter in letters.values():
                self.frontiers[letter.partition].received([letter] * self.chance.choice([1, 2]))
                moved = True
            if self.chance.random() < 0.8:
                sender.posted(letters)
        return moved

    def kill(self, number: int) -> None:
        for flight in self.flights:
            if flight[2] == number and isinstance(flight[3], FetchOrder):
                self.lost[flight[3].url] += 1
        self.flights = [flight for flight in self.flights if flight[2] != number]
        heapq.heapify(self.flights)
        self.frontiers[number] = self.worker(number)

    @property
    def fetched(self) -> Counter[str]:
        return Counter(url for url, _ in self.asked if not url.endswith("robots.txt"))

    @property
    def refused(self) -> dict[str, str]:
        rows = [row for store in self.stores for row in frontiers.rows(store)]
        return {row["url"]: row["rule"] for row in rows if "rule" in row}


def reachable(site: Site, limits: LimitsConfig) -> dict[str, tuple[int, int]]:
    """The plain reference: fewest links and fewest redirects in a row, over and over until nothing gets any shorter."""
    levels = dict.fromkeys(SEEDS, (0, 0))
    if limits.use_sitemaps:
        levels["http://a.example/x/p5"] = (0, 0)
    while True:
        before = dict(levels)
        for url, (depth, hops) in before.items():
            if may_be_asked(url, (depth, hops), limits):
                page = site.get(url, Page())
                below = {page.redirect_to: (depth, hops + 1)} if page.redirect_to else dict.fromkeys(page.links, (depth + 1, 0))
                for child, level in below.items():
                    known = levels.get(child, level)
                    levels[child] = min(known[0], level[0]), min(known[1], level[1])
        if levels == before:
            return {url: level for url, level in levels.items() if may_be_asked(url, level, limits)}


def may_be_asked(url: str, level: tuple[int, int], limits: LimitsConfig) -> bool:
    in_reach = level[0] <= limits.max_depth and level[1] <= limits.max_redirects
    return in_reach and "a.example/private" not in url and "c.example" not in url


_URLS = st.sampled_from(PAGES)
_SITES = st.dictionaries(
    _URLS, st.builds(Page, st.lists(_URLS, max_size=4).map(tuple), st.none() | st.none() | _URLS), max_size=28
)


@settings(max_examples=150, deadline=None)
@given(_SITES, st.integers(0, 5), st.integers(0, 2), st.integers(1, 4), st.booleans(), st.integers(0, 2**32).map(random.Random))
def test_what_is_fetched_follows_from_the_site_alone_and_nothing_is_fetched_twice_but_what_a_kill_interrupted(
    site: Site, max_depth: int, max_redirects: int, num_partitions: int, use_sitemaps: bool, chance: random.Random
) -> None:
    limits = LimitsConfig(max_depth=max_depth, max_redirects=max_redirects, use_sitemaps=use_sitemaps)
    undisturbed = World(site, chance, limits, num_partitions=num_partitions).crawl()
    expected = reachable(site, limits)
    assert undisturbed.fetched == dict.fromkeys(expected, 1)
    killed = World(site, chance, limits, num_partitions=chance.randint(1, 4), kill_rate=0.05).crawl()
    poisoned = {url for url, rule in killed.refused.items() if rule == "poisoned"}
    if not poisoned:
        assert set(killed.fetched) == set(expected)
        assert killed.refused == undisturbed.refused
    assert all(count <= 1 + killed.lost[url] for url, count in killed.fetched.items())


@settings(max_examples=60, deadline=None)
@given(_SITES, st.sampled_from([0.0, 1.0]), st.integers(1, 3), st.integers(0, 2**32).map(random.Random))
def test_no_host_is_asked_before_its_delay_is_over_also_after_a_kill(
    site: Site, delay_s: float, concurrency: int, chance: random.Random
) -> None:
    manners = Manners(delay_s=delay_s, concurrency_per_host=concurrency)
    world = World(site, chance, manners=manners, num_partitions=2, kill_rate=0.05).crawl()
    for host in HOSTS:
        own_s = 5.0 if host.startswith("b.") else delay_s
        asked = [at_s for url, at_s in world.asked if urls.host_of(url) == host and not url.endswith("robots.txt")]
        assert all(after - before >= own_s for before, after in pairwise(asked))


def single(
    limits: LimitsConfig | None = None, manners: Manners = QUICK, store: sqlite3.Connection | None = None, now_s: float = NOON_S
) -> Frontier:
    store = store or sqlite3.connect(":memory:", isolation_level=None)
    return Frontier(
        store, limits or LimitsConfig(), manners, Scope(ScopeConfig(allowed_hosts=HOSTS), SEEDS), now_s=now_s, year=2026
    )


def find(frontier: Frontier, found: list[str], level: int = 0) -> None:
    frontier.received(Letter(url, 0, level, frontiers.PAGE) for url in found)


def ready(frontier: Frontier, found: list[str], now_s: float = NOON_S) -> float:
    """Let it find URLs and learn that all robots.txt allow everything; gives the time at which it may go on."""
    find(frontier, found)
    for _ in {urls.origin_of(url) for url in found}:
        order = frontier.next(now_s)
        assert isinstance(order, RobotsOrder)
        frontier.learnt(order.origin, OPEN, now_s)
    return now_s + frontier.manners.delay_s


def url_of(order: object) -> str:
    assert isinstance(order, FetchOrder)
    return order.url


def test_a_host_that_is_busy_is_left_alone_as_long_as_it_says_and_longer_with_each_attempt() -> None:
    frontier = single(manners=Manners(delay_s=1.0, retries=2, backoff_s=4.0))
    now_s = ready(frontier, ["http://a.example/1", "http://a.example/2"])
    waits = []
    for asked_s in (10.0, 0.0):
        url = url_of(frontier.next(now_s))
        frontier.answered(Answered(url, {"url": url}, rest_s=asked_s, may_pass=True), now_s)
        assert url == "http://a.example/1"
        assert frontier.wakes_at_s is not None
        waits.append(frontier.wakes_at_s - now_s)
        assert frontier.next(frontier.wakes_at_s - 0.01) is None
        now_s = frontier.wakes_at_s
    assert waits == [10.0, 8.0]
    frontier.answered(Answered(url_of(frontier.next(now_s)), {"url": "last"}, rest_s=7.0, may_pass=True), now_s)
    assert frontier.next(now_s + 6.9) is None  # also after the last attempt
    assert url_of(frontier.next(now_s + 7)) == "http://a.example/2"


def test_a_host_that_asks_for_an_hour_is_not_asked_any_more_and_says_so_of_each_url() -> None:
    store = sqlite3.connect(":memory:", isolation_level=None)
    frontier = single(store=store)
    now_s = ready(frontier, ["http://a.example/1", "http://a.example/2"])
    frontier.answered(
        Answered(url_of(frontier.next(now_s)), {"url": "1", "rule": "bad_status"}, rest_s=3600.0, may_pass=True), now_s
    )
    assert frontier.next(now_s + 5000) is None and frontier.is_idle
    again = single(store=store, now_s=now_s + 5000)
    find(again, ["http://a.example/3"])
    assert again.next(now_s + 9000) is None
    rules = [row["rule"] for row in frontiers.rows(store)]
    assert rules == ["bad_status", "retry_after", "retry_after"]


def test_a_request_that_a_closed_connection_swallowed_is_made_again_after_the_delay_and_counts_as_no_attempt() -> None:
    frontier = single(manners=Manners(retries=0))
    now_s = ready(frontier, ["http://a.example/1"])
    for _ in range(5):
        assert frontier.next(now_s - 0.01) is None
        url = url_of(frontier.next(now_s))
        frontier.answered(Answered(url, {"url": url}, was_unheard=True), now_s)
        now_s += 1


def test_a_kill_while_robots_txt_is_asked_for_hurries_nobody() -> None:
    store = sqlite3.connect(":memory:", isolation_level=None)
    frontier = single(store=store)
    find(frontier, ["http://a.example/1"])
    assert isinstance(frontier.next(NOON_S), RobotsOrder)
    again = single(store=store, now_s=NOON_S + 0.1)
    assert again.next(NOON_S + 1.0) is None
    assert isinstance(again.next(NOON_S + 1.1), RobotsOrder)


def test_with_a_delay_one_request_is_in_flight_and_without_as_many_as_are_allowed() -> None:
    for delay_s, expected in ((1.0, 1), (0.0, 3)):
        frontier = single(manners=Manners(delay_s=delay_s, concurrency_per_host=3))
        found = [f"http://a.example/{number}" for number in range(9)]
        find(frontier, found)
        assert isinstance(frontier.next(NOON_S), RobotsOrder)
        assert frontier.next(NOON_S) is None
        frontier.learnt("http://a.example", OPEN, NOON_S)
        orders = [frontier.next(NOON_S + delay_s) for _ in range(9)]
        assert len([order for order in orders if order]) == expected


def test_hosts_take_turns_and_the_shallowest_comes_first() -> None:
    frontier = single(manners=Manners(delay_s=0.0))
    find(frontier, ["http://a.example/deep"], level=5 * 64)
    now_s = ready(frontier, ["http://a.example/z", "http://b.example:81/1", "http://b.example:81/2"])
    got = []
    for step in range(4):
        got.append(url_of(frontier.next(now_s + step)))
        frontier.answered(Answered(got[-1], {"url": got[-1]}), now_s + step)
    assert got == ["http://a.example/z", "http://b.example:81/1", "http://a.example/deep", "http://b.example:81/2"]


@pytest.mark.parametrize(
    ("limits", "rule", "detail"),
    [
        (LimitsConfig(max_pages_per_host=2), "budget", "max_pages_per_host 2"),
        (LimitsConfig(max_bytes_per_host=2_000), "budget", "max_bytes_per_host 2,000"),
        (LimitsConfig(max_seconds_per_host=3), "budget", "max_seconds_per_host 3.0"),
        (LimitsConfig(max_pages=2), "budget", "max_pages 2"),
    ],
)
def test_what_a_budget_leaves_out_is_refused_with_its_name(limits: LimitsConfig, rule: str, detail: str) -> None:
    frontier = single(limits)
    now_s = ready(frontier, [f"http://a.example/{number}" for number in range(4)])
    for _ in range(2):
        order = frontier.next(now_s)
        frontier.answered(Answered(url_of(order), {"url": url_of(order)}, num_bytes=1_000, seconds=1.5), now_s)
        now_s += 1
    assert limits.max_pages == 2 or frontier.next(now_s) is None
    store = frontier._store
    frontiers.finish(store, limits)
    refused = [row for row in frontiers.rows(store) if "rule" in row]
    assert [(row["rule"], row["detail"]) for row in refused] == [(rule, detail)] * 2


def test_a_robots_txt_is_asked_for_again_after_a_day_and_an_old_one_holds_where_there_is_no_answer() -> None:
    frontier = single()
    find(frontier, ["http://a.example/1", "http://a.example/2", "http://a.example/private/3"])
    assert frontier.next(NOON_S) == RobotsOrder("http://a.example", 1.0)
    frontier.learnt("http://a.example", RULES["http://a.example"], NOON_S)
    assert url_of(frontier.next(NOON_S + 86_400)) == "http://a.example/1"
    frontier.answered(Answered("http://a.example/1", {"url": "1"}), NOON_S + 86_400)
    assert frontier.next(NOON_S + 86_402) == RobotsOrder("http://a.example", 1.0)
    frontier.learnt("http://a.example", Robots("Gristmill", 429), NOON_S + 86_402)
    later_s = NOON_S + 86_404
    assert url_of(frontier.next(later_s)) == "http://a.example/2"
    frontier.answered(Answered("http://a.example/2", {"url": "2"}), later_s)
    # its sitemap, then nothing: what is private stays so
    assert url_of(frontier.next(later_s + 1)) == "http://a.example/x/p5"
    frontier.answered(Answered("http://a.example/x/p5", {"url": "5"}), later_s + 1)
    assert frontier.next(later_s + 2) is None and frontier.is_idle
    assert [row for row in frontiers.rows(frontier._store) if row.get("rule") == "robots"]


def test_a_too_long_crawl_delay_refuses_the_host() -> None:
    frontier = single(LimitsConfig(max_crawl_delay_s=4.9))
    find(frontier, ["http://b.example:81/1"])
    assert isinstance(frontier.next(NOON_S), RobotsOrder)
    frontier.learnt("http://b.example:81", RULES["http://b.example:81"], NOON_S)
    assert frontier.next(NOON_S + 5) is None
    assert [row["rule"] for row in frontiers.rows(frontier._store)] == ["crawl_delay"]


def test_links_of_a_copy_are_not_followed_so_a_folder_linked_into_itself_ends() -> None:
    frontier = single()
    now_s = ready(frontier, ["http://a.example/1/", "http://a.example/2/"])
    for number in (1, 2):
        url = url_of(frontier.next(now_s))
        place = Place(url, "2026-11-26T00:00:00+00:00", "f", number)
        links = [f"{url}loop/", "http://a.example/same"]
        frontier.answered(Answered(url, {"url": url}, links, digest="d", place=frontier.original(url, "d") or place), now_s)
        now_s += 1
    assert frontier.original("http://a.example/x", "d") == Place("http://a.example/1/", "2026-11-26T00:00:00+00:00", "f", 1)
    assert frontier.original("http://a.example/x", "e") is None
    waiting = []
    while order := frontier.next(now_s):
        waiting.append(url_of(order))
        frontier.answered(Answered(waiting[-1], {"url": waiting[-1]}), now_s)
        now_s += 1
    assert waiting == ["http://a.example/1/loop/", "http://a.example/same"]
    assert frontier.tallies["links_of_copies"] == 2


def test_traps_are_refused_by_name_and_foreign_hosts_only_counted() -> None:
    frontier = single(LimitsConfig(max_queries_per_path=2))
    find(
        frontier,
        [
            *(f"http://a.example/list?sort={number}" for number in range(4)),
            "http://a.example/a/b/a/b/a/b/a/b/c",
            "http://elsewhere.example/",
            "http://elsewhere.example/",
        ],
    )
    refused = [(row["url"], row["rule"]) for row in frontiers.rows(frontier._store) if row["rule"]]
    assert refused == [
        ("http://a.example/a/b/a/b/a/b/a/b/c", "trap"),
        ("http://a.example/list?sort=2", "trap"),
        ("http://a.example/list?sort=3", "trap"),
    ]
    assert frontier.tallies == {"links_out_of_scope": 2}


def given(frontier: Frontier) -> list[str]:
    """The URLs that it has fetched now, and where there are none the one that it wants to be fetched alone."""
    found = []
    while order := frontier.next(NOON_S) or (None if found else frontier.next_suspect(NOON_S)):
        if isinstance(order, RobotsOrder):
            frontier.learnt(order.origin, OPEN, NOON_S)
            continue
        found.append(order.url)
        if not frontier.is_idle and frontier.wakes_at_s is None:
            break
    return found


def test_what_ends_its_process_again_and_again_is_fetched_alone_and_given_up_by_name_and_what_was_beside_it_is_not() -> None:
    store = sqlite3.connect(":memory:", isolation_level=None)
    bad, kills = "http://a.example/bad", 0
    while True:
        frontier = single(manners=Manners(delay_s=0.0, concurrency_per_host=9), store=store)
        find(frontier, [bad, "http://a.example/beside", "http://b.example:81/beside"])
        while (in_flight := given(frontier)) and bad not in in_flight:
            for url in in_flight:
                frontier.answered(Answered(url, {"url": url}), NOON_S)
        if not in_flight:
            break
        kills += 1
        assert kills <= 2 or in_flight == [bad]
    assert kills == 5
    rules = {row["url"]: row.get("rule") for row in frontiers.rows(store)}
    assert rules == {bad: "poisoned", "http://a.example/beside": None, "http://b.example:81/beside": None}


def test_an_end_in_good_order_makes_nobody_suspect_but_the_one_whose_fault_it_was() -> None:
    store = sqlite3.connect(":memory:", isolation_level=None)
    manners = Manners(delay_s=0.0, concurrency_per_host=2)
    for _ in range(4):
        frontier = single(manners=manners, store=store)
        find(frontier, ["http://a.example/1", "http://a.example/2"])
        while order := frontier.next(NOON_S):
            if isinstance(order, RobotsOrder):
                frontier.learnt(order.origin, OPEN, NOON_S)
        frontier.put_back(but="http://a.example/2")
    kills = dict(store.execute("SELECT url, kills FROM url"))
    assert kills == {"http://a.example/1": 0, "http://a.example/2": 2}  # a suspect is not given any more by `next`


def test_a_later_shorter_way_brings_back_what_was_too_deep() -> None:
    frontier = single(LimitsConfig(max_depth=2))
    now_s = ready(frontier, ["http://a.example/0"])
    chain = {"0": "1", "1": "2", "2": "3"}
    for number, child in chain.items():
        url = url_of(frontier.next(now_s))
        assert url == f"http://a.example/{number}"
        frontier.answered(Answered(url, {"url": url}, [f"http://a.example/{child}"]), now_s)
        now_s += 1
    assert frontier.next(now_s) is None and frontier.is_idle
    find(frontier, ["http://a.example/1"], level=0)  # as a seed that came late
    assert url_of(frontier.next(now_s)) == "http://a.example/3"
