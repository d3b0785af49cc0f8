"""The crawl's memory and will: which URL comes next, which is refused and why. Events in, instructions out; no socket, no clock.

URLs are worked off level by level, a level being one (depth, redirect hops); budgets are spent in URL order when a level opens.
So the fetched set and every reject follow from the site and the config alone: not from timing, from the order of results, from
the number of partitions, from the size of a round or from an interruption. A restart feeds the kept round logs in again and
stands where it stood. Costs about 10 microseconds a link and the memory of every URL seen.
"""

from __future__ import annotations

import re
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from pydantic import BaseModel, ConfigDict, Field

from tasks.web import urls
from tasks.web.robots import Robots


class FrontierConfig(BaseModel):
    """Where a crawl begins, where it ends, and what it may not enter."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    seeds: tuple[str, ...] = ()
    """URLs to begin with, beside those of the sources."""
    allowed_hosts: tuple[str, ...] = ()
    """Hosts (`name` or `name:port`) to stay on; empty means the hosts of the seeds."""
    allow: tuple[urls.Pattern, ...] = ()
    """Regular expressions searched in the URL (`^https://host/docs/` is a prefix); where given, one must be found."""
    deny: tuple[urls.Pattern, ...] = ()
    """Regular expressions searched in the URL; where one is found the URL is out of scope."""
    max_pages: int = Field(default=10_000, ge=1)
    """URLs to request in all, sitemaps and redirects included."""
    max_pages_per_host: int = Field(default=10_000, ge=1)
    """URLs to request of one host."""
    max_depth: int = Field(default=10, ge=0)
    """Links away from a seed; the URLs of a sitemap are one link away from it."""
    max_redirects: int = Field(default=5, ge=0)
    """Redirects followed in a row from one link."""
    max_crawl_delay_s: float = Field(default=60.0, ge=0)
    """A host that asks for a longer Crawl-delay is left alone (rule `crawl_delay`) rather than crawled faster."""
    round_pages: int = Field(default=200, ge=1)
    """URLs of one partition in one round: what a kill can cost."""
    num_partitions: int = Field(default=8, ge=1)
    """Groups of hosts that are crawled side by side; does not change what is crawled."""
    use_sitemaps: bool = True
    """Whether the sitemaps that robots.txt names are seeds too."""


@dataclass(frozen=True, order=True)
class FetchOrder:
    """One URL to request."""

    depth: int
    hops: int
    url: str


@dataclass(frozen=True)
class Seen:
    """What the frontier must know of one answered order: its canonical links, and the Location of a redirect as sent."""

    url: str
    links: tuple[str, ...] = ()
    redirect_to: str | None = None


@dataclass(frozen=True, order=True)
class UrlReject:
    """A URL that was in scope and is not requested; rules: robots, crawl_delay, budget,
    redirect_loop, bad_url, and the fetch rules when robots.txt could not be had."""

    url: str
    rule: str
    detail: str


class Frontier:
    """Loop: while not `finished`: `learn` the robots of `origins_needed()`, fetch `batches()`, `take` what was seen."""

    def __init__(self, config: FrontierConfig) -> None:
        self.config = config
        self.rejects: list[UrlReject] = []
        self.counts: Counter[str] = Counter()
        """num_requested; links_out_of_scope (occurrences, not distinct URLs)."""
        self._requested_of: Counter[str] = Counter()
        self._robots: dict[str, Robots] = {}
        self._level: dict[str, tuple[int, int]] = {}
        self._waiting: defaultdict[tuple[int, int], set[str]] = defaultdict(set)
        self._open: dict[str, FetchOrder] = {}
        self._allow = [re.compile(p) for p in config.allow]
        self._deny = [re.compile(p) for p in config.deny]
        seeds = [self._seed(seed) for seed in config.seeds]
        self._hosts = {host.lower() for host in config.allowed_hosts} or {urls.host_of(url) for url in seeds if url}
        self.add([url for url in seeds if url], depth=0)

    def add(self, found: Iterable[str], depth: int, hops: int = 0) -> None:
        """Notes canonical URLs found at `depth`; a URL already waiting at a later level moves to the earlier one."""
        for url in found:
            if not self._in_scope(url):
                self.counts["links_out_of_scope"] += 1
                continue
            known = self._level.get(url)
            if known is not None and (known <= (depth, hops) or url not in self._waiting[known]):
                continue
            if known is not None:
                self._waiting[known].remove(url)
            self._level[url] = (depth, hops)
            self._waiting[depth, hops].add(url)

    def origins_needed(self) -> list[str]:
        """Sorted origins whose robots.txt must be learnt before the next level can open; empty while one is open."""
        level = None if self._open else self._next_level()
        if level is None or level[0] > self.config.max_depth:
            return []
        return sorted({urls.origin_of(url) for url in self._waiting[level]} - self._robots.keys())

    def learn(self, robots: Mapping[str, Robots]) -> None:
        """Takes robots.txt by origin; the sitemaps they name join the level that is about to open."""
        level = self._next_level()
        self._robots.update(robots)
        for origin in sorted(robots) if level and self.config.use_sitemaps else ():
            found = (urls.resolve(origin + "/", sitemap) for sitemap in robots[origin].sitemaps)
            self.add([url for url in found if url], *(level or (0, 0)))

    def batches(self) -> dict[int, tuple[FetchOrder, ...]]:
        """The next round by partition, at most `round_pages` each, hosts taking turns; the same until `take` is called.
        Empty while the next level needs the robots of `origins_needed()`, and at the end."""
        while not self._open and self._next_level() is not None:
            if self.origins_needed():
                break
            self._open_level()
        queues: defaultdict[int, list[tuple[int, FetchOrder]]] = defaultdict(list)
        turn_of: Counter[str] = Counter()
        for order in self._open.values():
            host = urls.host_of(order.url)
            queues[urls.partition_of(host, self.config.num_partitions)].append((turn_of[host], order))
            turn_of[host] += 1
        return {p: tuple(order for _, order in sorted(queues[p])[: self.config.round_pages]) for p in sorted(queues)}

    def take(self, results: Iterable[Seen]) -> None:
        """Takes answers to issued orders, in any order and in any portions."""
        for seen in results:
            order = self._open.pop(seen.url)
            if seen.redirect_to is not None:
                self._follow(order, seen.redirect_to)
            self.add(seen.links, order.depth + 1)

    @property
    def finished(self) -> bool:
        """True when nothing is left to request; what no budget reached is then in `rejects`."""
        return not self._open and self._next_level() is None

    def _seed(self, seed: str) -> str | None:
        try:
            return urls.canonical(seed)
        except urls.UrlError as error:
            self.rejects.append(UrlReject(seed, "bad_url", str(error)))
            return None

    def _in_scope(self, url: str) -> bool:
        return (
            (urls.host_of(url) in self._hosts or urls.hostname_of(url) in self._hosts)
            and (not self._allow or any(p.search(url) for p in self._allow))
            and not any(p.search(url) for p in self._deny)
        )

    def _next_level(self) -> tuple[int, int] | None:
        return min((level for level, waiting in self._waiting.items() if waiting), default=None)

    def _open_level(self) -> None:
        """Admits the waiting URLs of the next level in URL order, as far as robots and budgets let it."""
        level = self._next_level()
        for url in sorted(self._waiting.pop(level)) if level else ():
            refusal = self._refusal(url, *(level or (0, 0)))
            if refusal:
                self.rejects.append(UrlReject(url, *refusal))
                continue
            self._open[url] = FetchOrder(*(level or (0, 0)), url)
            self.counts["num_requested"] += 1
            self._requested_of[urls.host_of(url)] += 1

    def _refusal(self, url: str, depth: int, hops: int) -> tuple[str, str] | None:
        """(rule, detail) when `url` may not be requested."""
        config = self.config
        if depth > config.max_depth:
            return "budget", f"max_depth {config.max_depth}"
        if hops > config.max_redirects:
            return "redirect_loop", f"more than {config.max_redirects} redirects in a row"
        robots = self._robots[urls.origin_of(url)]
        if not robots.allows(url):
            if robots.failure:
                return robots.failure, f"robots.txt: {robots.detail}"
            return "robots", f"robots.txt (status {robots.status}) disallows it for {robots.agent}"
        if (robots.crawl_delay_s or 0) > config.max_crawl_delay_s:
            return "crawl_delay", f"the host asks for {robots.crawl_delay_s} s between requests"
        if self.counts["num_requested"] >= config.max_pages:
            return "budget", f"max_pages {config.max_pages}"
        if self._requested_of[urls.host_of(url)] >= config.max_pages_per_host:
            return "budget", f"max_pages_per_host {config.max_pages_per_host}"
        return None

    def _follow(self, order: FetchOrder, location: str) -> None:
        target = urls.resolve(order.url, location)
        if target is None:
            self.rejects.append(UrlReject(location[: urls.MAX_URL_CHARS], "bad_url", f"redirect of {order.url}"))
        else:
            self.add([target], order.depth, order.hops + 1)
