"""The crawl's memory and will, for one partition of hosts: which URL comes next and when, which is refused and why.

A state machine: events in (`received`, `learnt`, `answered`), instructions out (`next`, `letters`); it opens no socket and knows no clock,
time is handed in. All it knows lies in the SQLite database that it is given, one transaction an event, so that at any moment a kill
costs the requests in flight and nothing else. Hosts take turns; within a host the shallowest URL comes first.
What is fetched follows from the site and the configuration alone as long as no budget ends the crawl and no page is a copy of another
with other links: depths are shortest ways, whatever the order in which they were found.
Memory is that of the hosts; costs about 0.5 microseconds a known link and 15 a new one.
"""

from __future__ import annotations

import heapq
import json
import sqlite3
from array import array
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

from pydantic import BaseModel, ConfigDict, Field

from tasks.web import urls
from tasks.web.robots import Robots
from tasks.web.scope import Scope

WAITING, IN_FLIGHT, ANSWERED, REFUSED, DEFERRED, SUSPECT = range(6)
"""States of a URL. DEFERRED is refused by its level alone, which a shorter way may change; SUSPECT was in flight when its process ended,
more than once."""
PAGE, SITEMAP = range(2)
_HOPS = 64  # a level is depth * _HOPS + redirects in a row
_MAX_KNOWN = 100_000  # URLs remembered beside the database: about 30 MB
_SUSPECT_KILLS, _MAX_KILLS = 2, 5
_MANY = 500

_TABLES = """
CREATE TABLE IF NOT EXISTS host (
    id INTEGER PRIMARY KEY, name TEXT UNIQUE NOT NULL, num_requested INTEGER NOT NULL DEFAULT 0, num_bytes INTEGER NOT NULL DEFAULT 0,
    seconds REAL NOT NULL DEFAULT 0, free_at_s REAL NOT NULL DEFAULT 0, closed TEXT);
CREATE TABLE IF NOT EXISTS origin (name TEXT PRIMARY KEY, robots TEXT NOT NULL, learnt_at_s REAL NOT NULL) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS url (
    id INTEGER PRIMARY KEY, url TEXT UNIQUE NOT NULL, host INTEGER NOT NULL, level INTEGER NOT NULL, kind INTEGER NOT NULL,
    state INTEGER NOT NULL, tries INTEGER NOT NULL DEFAULT 0, kills INTEGER NOT NULL DEFAULT 0,
    rule TEXT, detail TEXT, answer TEXT, is_redirect INTEGER, links BLOB);
CREATE INDEX IF NOT EXISTS waiting ON url (host, level, url) WHERE state = 0;
CREATE INDEX IF NOT EXISTS suspect ON url (host) WHERE state = 5;
CREATE TABLE IF NOT EXISTS path (host INTEGER, path TEXT, num_queries INTEGER NOT NULL, PRIMARY KEY (host, path)) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS mail (
    id INTEGER PRIMARY KEY, url TEXT UNIQUE NOT NULL, partition INTEGER NOT NULL, level INTEGER NOT NULL, kind INTEGER NOT NULL,
    posted INTEGER NOT NULL DEFAULT 0);
CREATE INDEX IF NOT EXISTS unposted ON mail (id) WHERE posted = 0;
CREATE TABLE IF NOT EXISTS payload (
    host INTEGER, digest TEXT, url TEXT NOT NULL, date TEXT NOT NULL, file TEXT NOT NULL, offset INTEGER NOT NULL,
    PRIMARY KEY (host, digest)) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS segment (
    file TEXT PRIMARY KEY, num_bytes INTEGER NOT NULL, is_stored INTEGER NOT NULL DEFAULT 0) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS tally (name TEXT PRIMARY KEY, value REAL NOT NULL) WITHOUT ROWID;
"""


class LimitsConfig(BaseModel):
    """Where a crawl ends. What a budget leaves out is a reject of rule `budget`; null: no such budget."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    max_pages: int | None = Field(default=10_000, ge=1)
    """URLs to request in all, sitemaps and redirects included."""
    max_pages_per_host: int | None = Field(default=10_000, ge=1)
    """URLs to request of one host."""
    max_bytes: int | None = Field(default=None, ge=1)
    """Bytes received, in all; what is in flight when they are spent comes on top."""
    max_bytes_per_host: int | None = Field(default=None, ge=1)
    """Bytes received of one host."""
    max_seconds: float | None = Field(default=None, gt=0)
    """Seconds of crawling, in all; a crawl that was interrupted goes on counting where it stopped."""
    max_seconds_per_host: float | None = Field(default=None, gt=0)
    """Seconds that the requests to one host may take, added up."""
    max_depth: int = Field(default=10, ge=0, le=1_000_000)
    """Links away from a seed; the URLs of a sitemap are one link away from it."""
    max_redirects: int = Field(default=5, ge=0, lt=_HOPS)
    """Redirects followed in a row from one link (rule `redirect_loop`); also sitemaps of sitemaps."""
    max_queries_per_path: int | None = Field(default=5_000, ge=1)
    """URLs of one path that differ in their query alone (rule `trap`): endless ways of sorting and filtering."""
    max_crawl_delay_s: float = Field(default=60.0, ge=0)
    """A host that asks for a longer Crawl-delay is left alone (rule `crawl_delay`) rather than crawled faster."""
    use_sitemaps: bool = True
    """Whether the sitemaps that robots.txt names are seeds too."""


@dataclass(frozen=True)
class Manners:
    """How hosts are treated: the frontier's part of the fetch configuration."""

    delay_s: float = 1.0
    concurrency_per_host: int = 1
    retries: int = 2
    backoff_s: float = 1.0
    max_retry_after_s: float = 120.0
    robots_max_age_s: float = 86_400.0


@dataclass(frozen=True)
class FetchOrder:
    """Request this URL now."""

    url: str
    depth: int = 0
    hops: int = 0
    is_sitemap: bool = False


@dataclass(frozen=True)
class RobotsOrder:
    """Ask this origin for its robots.txt now, `delay_s` between the requests if it takes several."""

    origin: str
    delay_s: float


@dataclass(frozen=True)
class Letter:
    """A URL that was found here and belongs to the hosts of another partition."""

    url: str
    partition: int
    level: int
    kind: int


@dataclass(frozen=True)
class Place:
    """Where a payload was stored first: its URL, its WARC-Date, and the record."""

    url: str
    date: str
    file: str
    offset: int


@dataclass(frozen=True)
class Answered:
    """What came of an order."""

    url: str
    row: Mapping[str, Any] = field(default_factory=dict)
    """As the log is to have it; JSON-ready."""
    pages: Sequence[str] = ()
    """Canonical URLs that it leads to."""
    sitemaps: Sequence[str] = ()
    redirect_to: str | None = None
    """The Location of a redirect as sent."""
    digest: str | None = None
    place: Place | None = None
    """Where its payload lies, if it was the first of its host with these bytes."""
    wrote: tuple[str, int] | None = None
    """The WARC file that it was written to, and how long that is now."""
    num_bytes: int = 0
    seconds: float = 0.0
    rest_s: float = 0.0
    """Seconds that the server asks to be left alone for (Retry-After)."""
    may_pass: bool = False
    """Whether another attempt may do better."""
    was_unheard: bool = False
    """Whether the server closed a kept connection and may never have seen the request: asked again, without counting it as an attempt."""


@dataclass
class _Host:
    id: int
    name: str
    num_requested: int = 0
    num_bytes: int = 0
    seconds: float = 0.0
    free_at_s: float = 0.0
    closed: str | None = None
    """Why the host is not to be asked any more."""
    in_flight: int = 0
    asked: set[str] = field(default_factory=set)
    """Origins whose robots.txt is being asked for."""
    is_queued: bool = False


class Frontier:
    """Loop: do what `next(now_s)` says until it is None, then wait for an answer or until `wakes_at_s`; it is over when `is_idle`."""

    def __init__(
        self,
        store: sqlite3.Connection,
        limits: LimitsConfig,
        manners: Manners,
        scope: Scope,
        *,
        partition: tuple[int, int] = (0, 1),
        now_s: float,
        year: int,
    ) -> None:
        """Go on from what `store` holds, which may be nothing.

        Args:
            store: in autocommit mode (`isolation_level=None`).
            partition: (this partition, number of partitions).
            now_s: seconds since 1970.
            year: of the crawl, by which calendar pages of the far future are told.
        """
        self.limits, self.manners, self.scope, self.year = limits, manners, scope, year
        self._store = store
        self._partition, self._num_partitions = partition
        self._known: dict[str, tuple[int, int]] = {}
        self._robots: dict[str, tuple[Robots, float]] = {}
        self._due: list[tuple[float, int, int]] = []
        self._turn = 0
        self.in_flight = 0
        """Orders that were given and not answered."""
        self.num_waiting = 0
        """URLs that may be requested and were not yet, or are to be once more."""
        self._counted: set[str] = set()
        self.tallies: dict[str, float] = {}
        """links_out_of_scope (occurrences, not distinct URLs), links_of_copies, not_modified."""
        store.executescript(_TABLES)
        self._hosts = {row[0]: _Host(*row) for row in store.execute("SELECT * FROM host")}
        self._host_ids = {host.name: host.id for host in self._hosts.values()}
        self.num_requested = sum(host.num_requested for host in self._hosts.values())
        """URLs requested so far, robots.txt not counted."""
        self.num_bytes = sum(host.num_bytes for host in self._hosts.values())
        """Bytes received so far."""
        self.tallies.update(tallies(store))
        for name, robots, learnt_at_s in store.execute("SELECT name, robots, learnt_at_s FROM origin"):
            self._robots[name] = Robots.from_json(json.loads(robots)), learnt_at_s
        self._recover(now_s)

    def received(self, letters: Iterable[Letter]) -> None:
        """Takes URLs: seeds, and what other partitions found, in any order and any number of times."""
        with self._transaction():
            for letter in letters:
                self._note(letter.url, letter.level, letter.kind)

    def learnt(self, origin: str, robots: Robots, now_s: float, wrote: tuple[str, int] | None = None) -> None:
        """Takes the robots.txt of an origin; one that cannot be had does not replace one that is known (RFC 9309 section 2.3.1.4).

        Args:
            wrote: as in `Answered`.
        """
        host = self._hosts[self._host_ids[urls.host_of(origin + "/")]]
        host.in_flight -= 1
        self.in_flight -= 1
        host.asked.discard(origin)
        before = self._robots.get(origin)
        if before is not None and robots.is_out_of_reach and not before[0].is_out_of_reach:
            robots = before[0]
        self._robots[origin] = robots, now_s
        with self._transaction():
            self._wrote(wrote)
            self._store.execute("INSERT OR REPLACE INTO origin VALUES (?, ?, ?)", (origin, json.dumps(robots.to_json()), now_s))
            for sitemap in robots.sitemaps if self.limits.use_sitemaps else ():
                if url := urls.resolve(origin + "/", sitemap):
                    self._note(url, 0, SITEMAP)
            self._rest(host, now_s + self._delay_s(host))
        self._wake(host)

    def answered(self, answer: Answered, now_s: float) -> None:
        """Takes what came of an order."""
        with self._transaction():
            url_id, level, tries, host_id = self._store.execute(
                "SELECT id, level, tries, host FROM url WHERE url = ?", (answer.url,)
            ).fetchone()
            host = self._hosts[host_id]
            host.in_flight -= 1
            self.in_flight -= 1
            host.num_bytes += answer.num_bytes
            self.num_bytes += answer.num_bytes
            host.seconds += answer.seconds
            self._wrote(answer.wrote)
            pause_s = max(self._delay_s(host), min(answer.rest_s, self.manners.max_retry_after_s))
            if answer.rest_s > self.manners.max_retry_after_s:
                self._close(host, f"it asks to be left alone for {answer.rest_s:,.0f} s (Retry-After)")
                self._settle(url_id, level, host, answer)
            elif answer.was_unheard or (answer.may_pass and tries < self.manners.retries):
                if not answer.was_unheard:
                    pause_s = max(pause_s, self.manners.backoff_s * 2**tries)
                self._store.execute(
                    "UPDATE url SET state = ?, tries = tries + ? WHERE id = ?", (WAITING, int(not answer.was_unheard), url_id)
                )
                self.num_waiting += 1
            else:
                self._settle(url_id, level, host, answer)
            self._rest(host, now_s + pause_s)
        self._wake(host)

    def original(self, url: str, digest: str) -> Place | None:
        """Where a payload with this digest was stored first for the host of `url`."""
        row = self._store.execute(
            "SELECT url, date, file, offset FROM payload WHERE host = ? AND digest = ?",
            (self._host_ids[urls.host_of(url)], digest),
        ).fetchone()
        return Place(*row) if row else None

    def robots_of(self, url: str) -> Robots | None:
        """What is known of the origin of a URL."""
        found = self._robots.get(urls.origin_of(url))
        return found[0] if found else None

    def next(self, now_s: float) -> FetchOrder | RobotsOrder | None:
        """What to do now; None: nothing before `wakes_at_s` or the next answer."""
        while self._due and self._due[0][0] <= now_s:
            host = self._hosts[heapq.heappop(self._due)[2]]
            host.is_queued = False
            if host.free_at_s > now_s:
                self._wake(host)
            elif order := self._order(host, now_s):
                return order
        return None

    @property
    def wakes_at_s(self) -> float | None:
        """When `next` has something to say without an answer before; None: not without one."""
        return self._due[0][0] if self._due else None

    @property
    def is_idle(self) -> bool:
        """Whether nothing is in flight and nothing waits, except suspects and what a budget keeps back."""
        return not self._due and not self.in_flight

    def next_suspect(self, now_s: float) -> FetchOrder | RobotsOrder | None:
        """A URL that may end its process, to be fetched with nothing else in flight: if the process ends, it is clear which did it."""
        for url_id, url, level, kind, host_id in self._store.execute(
            "SELECT id, url, level, kind, host FROM url WHERE state = 5 ORDER BY level, url"
        ).fetchall():
            host = self._hosts[host_id]
            if host.free_at_s > now_s or _spent(host, self.limits):
                continue
            robots = self._robots.get(urls.origin_of(url))
            if robots is None:
                return self._ask_robots(host, urls.origin_of(url))
            if refusal := self._refusal(host, url, robots[0]):
                self._refuse([(REFUSED, *refusal, url_id)])
                continue
            return self._issue(host, url_id, FetchOrder(url, level // _HOPS, level % _HOPS, kind == SITEMAP), 1)
        return None

    @property
    def has_suspects(self) -> bool:
        """Whether `next_suspect` has something to say, now or later."""
        hosts = self._store.execute("SELECT DISTINCT host FROM url WHERE state = 5").fetchall()
        return any(_spent(self._hosts[host_id], self.limits) is None for (host_id,) in hosts)

    def put_back(self, but: str | None = None) -> None:
        """Takes that the process ends in good order, with what is in flight unanswered: nobody is suspected.

        Args:
            but: the URL whose fault it was.
        """
        with self._transaction():
            self._store.execute("UPDATE url SET state = ? WHERE state = ? AND url IS NOT ?", (WAITING, IN_FLIGHT, but))

    def letters(self, limit: int = 5_000) -> dict[int, Letter]:
        """What is to be sent to other partitions, by a number that `posted` takes."""
        rows = self._store.execute("SELECT id, url, partition, level, kind FROM mail WHERE posted = 0 LIMIT ?", (limit,))
        return {row[0]: Letter(*row[1:]) for row in rows}

    def posted(self, numbers: Mapping[int, Letter]) -> None:
        """Takes that letters cannot be lost any more; one whose level fell in the meantime goes out again."""
        with self._transaction():
            self._store.executemany(
                "UPDATE mail SET posted = 1 WHERE id = ? AND level = ?", [(number, one.level) for number, one in numbers.items()]
            )

    def add(self, name: str, value: float) -> None:
        """Count something that outlives a kill."""
        with self._transaction():
            self._count(name, value)

    def segments(self) -> dict[str, int]:
        """The WARC files that are not in the store yet, and how many of their bytes count."""
        return dict(self._store.execute("SELECT file, num_bytes FROM segment WHERE is_stored = 0"))

    def stored(self, file: str) -> None:
        """Takes that a WARC file is in the store."""
        self._store.execute("UPDATE segment SET is_stored = 1 WHERE file = ?", (file,))

    def _recover(self, now_s: float) -> None:
        """What was in flight when the last process ended is asked for again; hosts are first left alone for a whole delay."""
        with self._transaction():
            self._store.execute(
                "UPDATE url SET kills = kills + 1, state = CASE WHEN kills + 1 >= ? THEN ? ELSE ? END WHERE state = ?",
                (_SUSPECT_KILLS, SUSPECT, WAITING, IN_FLIGHT),
            )
            self._store.execute(
                "UPDATE url SET state = ?, rule = 'poisoned', detail = ? WHERE state = ? AND kills >= ?",
                (REFUSED, f"its worker ended {_MAX_KILLS} times while it was fetched or read", SUSPECT, _MAX_KILLS),
            )
            for host in self._hosts.values():
                self._rest(host, now_s + self._delay_s(host))
        self.num_waiting = self._store.execute("SELECT count(*) FROM url WHERE state = 5").fetchone()[0]
        for host_id, num_waiting in self._store.execute(
            "SELECT host, count(*) FROM url WHERE state = 0 GROUP BY host"
        ).fetchall():
            self.num_waiting += num_waiting
            self._wake(self._hosts[host_id])

    @contextmanager
    def _transaction(self) -> Iterator[None]:
        self._store.execute("BEGIN")
        try:
            yield
        except BaseException:
            self._store.execute("ROLLBACK")
            raise
        for name in self._counted:
            self._store.execute("INSERT OR REPLACE INTO tally VALUES (?, ?)", (name, self.tallies[name]))
        self._store.execute("COMMIT")
        self._counted.clear()

    def _note(self, found: str, level: int, kind: int) -> int:
        """The number of a URL: of its row in `url`, negative of its row in `mail`, 0 when it is out of scope."""
        url = self.scope.cleaned(found)
        known = self._known.get(url) or self._looked_up(url)
        if known is None:
            known = self._first_seen(url, level, kind)
            if len(self._known) >= _MAX_KNOWN:
                self._known.clear()
            self._known[url] = known
        if known[0] == 0:
            self._count("links_out_of_scope", 1)
        elif _least(level, known[1]) != known[1]:
            self._raise_up(known[0], level)
        return known[0]

    def _looked_up(self, url: str) -> tuple[int, int] | None:
        row = self._store.execute("SELECT id, level FROM url WHERE url = ?", (url,)).fetchone()
        return row or self._store.execute("SELECT -id, level FROM mail WHERE url = ?", (url,)).fetchone()

    def _first_seen(self, url: str, level: int, kind: int) -> tuple[int, int]:
        refusal = self.scope.refusal(url, self.year)
        if refusal and refusal[0] == "out_of_scope":
            return 0, 0
        name = urls.host_of(url)
        partition = urls.partition_of(name, self._num_partitions)
        if partition != self._partition:
            added = self._store.execute(
                "INSERT INTO mail (url, partition, level, kind) VALUES (?, ?, ?, ?)", (url, partition, level, kind)
            )
            return -(added.lastrowid or 0), level
        host = self._host(name)
        state, rule, detail = self._state_at(level)
        if refusal or (refusal := self._one_query_more(host, url)):
            state, rule, detail = REFUSED, *refusal
        added = self._store.execute(
            "INSERT INTO url (url, host, level, kind, state, rule, detail) VALUES (?, ?, ?, ?, ?, ?, ?)",
            (url, host.id, level, kind, state, rule, detail),
        )
        if state == WAITING:
            self.num_waiting += 1
            self._wake(host)
        return added.lastrowid or 0, level

    def _host(self, name: str) -> _Host:
        if name not in self._host_ids:
            added = self._store.execute("INSERT INTO host (name) VALUES (?)", (name,))
            self._host_ids[name] = added.lastrowid or 0
            self._hosts[self._host_ids[name]] = _Host(self._host_ids[name], name)
        return self._hosts[self._host_ids[name]]

    def _state_at(self, level: int) -> tuple[int, str | None, str | None]:
        """(state, rule, detail) of a URL that may be requested but for its level."""
        depth, hops = divmod(level, _HOPS)
        if depth > self.limits.max_depth:
            return DEFERRED, "budget", f"max_depth {self.limits.max_depth}"
        if hops > self.limits.max_redirects:
            return DEFERRED, "redirect_loop", f"more than {self.limits.max_redirects} redirects in a row"
        return WAITING, None, None

    def _one_query_more(self, host: _Host, url: str) -> tuple[str, str] | None:
        path, mark, _ = url.partition("?")
        most = self.limits.max_queries_per_path
        if not mark or most is None:
            return None
        [(num_queries,)] = self._store.execute(
            "INSERT INTO path VALUES (?, ?, 1) ON CONFLICT DO UPDATE SET num_queries = num_queries + 1 RETURNING num_queries",
            (host.id, path),
        )
        return (
            ("trap", f"more than {most:,} queries of one path (crawl.limits.max_queries_per_path)")
            if num_queries > most
            else None
        )

    def _raise_up(self, number: int, level: int) -> None:
        """A shorter way to a URL was found: so there may be to all that it leads to."""
        ways = [(number, level)]
        while ways:
            number, level = ways.pop()
            if number < 0:
                [(before,)] = self._store.execute("SELECT level FROM mail WHERE id = ?", (-number,))
                if _least(level, before) != before:
                    self._store.execute("UPDATE mail SET level = ?, posted = 0 WHERE id = ?", (_least(level, before), -number))
                continue
            url, before, state, host_id, is_redirect, links = self._store.execute(
                "SELECT url, level, state, host, is_redirect, links FROM url WHERE id = ?", (number,)
            ).fetchone()
            level = _least(level, before)
            if level == before:
                continue
            self._known[url] = number, level
            rule = detail = None
            if state == DEFERRED:
                state, rule, detail = self._state_at(level)
                self._store.execute("UPDATE url SET state = ?, rule = ?, detail = ? WHERE id = ?", (state, rule, detail, number))
                if state == WAITING:
                    self.num_waiting += 1
                    self._wake(self._hosts[host_id])
            self._store.execute("UPDATE url SET level = ? WHERE id = ?", (level, number))
            if links:
                ways += [(child, _below(level, is_redirect)) for child in array("q", links) if child]

    def _wrote(self, segment: tuple[str, int] | None) -> None:
        if segment is not None:
            grown = "ON CONFLICT DO UPDATE SET num_bytes = max(num_bytes, excluded.num_bytes)"
            self._store.execute(f"INSERT INTO segment (file, num_bytes) VALUES (?, ?) {grown}", segment)

    def _settle(self, url_id: int, level: int, host: _Host, answer: Answered) -> None:
        """The answer is final: what it leads to is noted, unless the same bytes of this host were followed before."""
        copy = answer.digest is not None and (original := self.original(answer.url, answer.digest)) and original.url != answer.url
        row = answer.row
        links = array("q")
        if answer.redirect_to is not None:
            target = urls.resolve(answer.url, answer.redirect_to)
            if target is None:
                row = {**row, "detail": f"redirects to {answer.redirect_to[:300]!r}, which is no URL that can be fetched"}
            else:
                links.append(self._note(target, _below(level, True), PAGE))
        elif copy:
            self._count("links_of_copies", len(answer.pages))
        else:
            links.extend(self._note(url, _below(level, True), SITEMAP) for url in answer.sitemaps)
            links.extend(self._note(url, _below(level, False), PAGE) for url in answer.pages)
        if answer.place is not None and answer.digest is not None:
            self._store.execute(
                "INSERT OR IGNORE INTO payload VALUES (?, ?, ?, ?, ?, ?)",
                (host.id, answer.digest, answer.place.url, answer.place.date, answer.place.file, answer.place.offset),
            )
        self._store.execute(
            "UPDATE url SET state = ?, rule = NULL, detail = NULL, answer = ?, is_redirect = ?, links = ? WHERE id = ?",
            (
                ANSWERED,
                json.dumps(row, ensure_ascii=False),
                answer.redirect_to is not None or bool(answer.sitemaps),
                links.tobytes(),
                url_id,
            ),
        )

    def _order(self, host: _Host, now_s: float) -> FetchOrder | RobotsOrder | None:
        """The next request to a host whose turn it is."""
        most = 1 if self._delay_s(host) else self.manners.concurrency_per_host
        if host.in_flight >= most or _spent(host, self.limits) is not None:
            return None
        num_looked_at = 1
        while rows := self._store.execute(
            "SELECT id, url, level, kind FROM url WHERE host = ? AND state = 0 ORDER BY level, url LIMIT ?",
            (host.id, num_looked_at),
        ).fetchall():
            refused: list[tuple[int, str, str, int]] = []
            for url_id, url, level, kind in rows:
                origin = urls.origin_of(url)
                robots, learnt_at_s = self._robots.get(origin, (None, 0.0))
                if robots is None or learnt_at_s + self.manners.robots_max_age_s < now_s:
                    self._refuse(refused)
                    return self._ask_robots(host, origin)
                if refusal := self._refusal(host, url, robots):
                    refused.append((REFUSED, *refusal, url_id))
                    continue
                self._refuse(refused)
                return self._issue(host, url_id, FetchOrder(url, level // _HOPS, level % _HOPS, kind == SITEMAP), most)
            self._refuse(refused)
            num_looked_at = _MANY  # a row of refusals is seldom alone
        return None

    def _issue(self, host: _Host, url_id: int, order: FetchOrder, most: int) -> FetchOrder:
        host.num_requested += 1
        self.num_requested += 1
        self.num_waiting -= 1
        with self._transaction():
            self._store.execute("UPDATE url SET state = ? WHERE id = ?", (IN_FLIGHT, url_id))
            self._store.execute("UPDATE host SET num_requested = ? WHERE id = ?", (host.num_requested, host.id))
        host.in_flight += 1
        self.in_flight += 1
        if host.in_flight < most:
            self._wake(host)
        return order

    def _refuse(self, refused: list[tuple[int, str, str, int]]) -> None:
        if refused:
            self.num_waiting -= len(refused)
            with self._transaction():
                self._store.executemany("UPDATE url SET state = ?, rule = ?, detail = ? WHERE id = ?", refused)

    def _ask_robots(self, host: _Host, origin: str) -> RobotsOrder | None:
        if origin in host.asked:
            return None
        host.asked.add(origin)
        host.in_flight += 1
        self.in_flight += 1
        return RobotsOrder(origin, self._delay_s(host))

    def _close(self, host: _Host, why: str) -> None:
        host.closed = why
        self._store.execute("UPDATE host SET closed = ? WHERE id = ?", (why, host.id))

    def _refusal(self, host: _Host, url: str, robots: Robots) -> tuple[str, str] | None:
        """(rule, detail) when `url` may not be requested."""
        if host.closed:
            return "retry_after", host.closed
        if not robots.allows(url):
            if robots.failure:
                return robots.failure, f"robots.txt: {robots.detail}"
            return "robots", f"robots.txt (status {robots.status}) disallows it for {robots.agent}"
        if (robots.crawl_delay_s or 0) > self.limits.max_crawl_delay_s:
            return "crawl_delay", f"the host asks for {robots.crawl_delay_s} s between requests"
        return None

    def _delay_s(self, host: _Host) -> float:
        """Ours, or what the host asks for if that is longer; if it is too long the host is not asked at all."""
        origins = (f"{scheme}://{host.name}" for scheme in ("http", "https"))
        asked = [known[0].crawl_delay_s or 0.0 for origin in origins if (known := self._robots.get(origin))]
        return max([self.manners.delay_s, *(delay_s for delay_s in asked if delay_s <= self.limits.max_crawl_delay_s)])

    def _rest(self, host: _Host, until_s: float) -> None:
        """Leave a host alone; within a transaction, else only this process knows."""
        host.free_at_s = max(host.free_at_s, until_s)
        self._store.execute(
            "UPDATE host SET num_bytes = ?, seconds = ?, free_at_s = ? WHERE id = ?",
            (host.num_bytes, host.seconds, host.free_at_s, host.id),
        )

    def _wake(self, host: _Host) -> None:
        """Let a host have its turn when it is free."""
        if not host.is_queued:
            host.is_queued = True
            self._turn += 1
            heapq.heappush(self._due, (host.free_at_s, self._turn, host.id))

    def _count(self, name: str, value: float) -> None:
        self.tallies[name] = self.tallies.get(name, 0) + value
        self._counted.add(name)


def finish(store: sqlite3.Connection, limits: LimitsConfig) -> None:
    """Take that the crawl is over: what still waits in a frontier's database is refused, by the budget that kept it back."""
    whole = (f"{key} {most:,}" for key in ("max_pages", "max_bytes", "max_seconds") if (most := getattr(limits, key)) is not None)
    of_all = " or ".join(whole) or "the crawl was ended"
    store.execute("BEGIN")
    for row in store.execute("SELECT * FROM host").fetchall():
        store.execute(
            "UPDATE url SET state = ?, rule = 'budget', detail = ? WHERE host = ? AND state IN (?, ?)",
            (REFUSED, _spent(_Host(*row), limits) or of_all, row[0], WAITING, SUSPECT),
        )
    store.execute("COMMIT")


def rows(store: sqlite3.Connection) -> Iterator[dict[str, Any]]:
    """Everything that was answered (as it was given) or refused (`url`, `rule`, `detail`), in the order of URLs."""
    for url, answer, rule, detail in store.execute("SELECT url, answer, rule, detail FROM url ORDER BY url"):
        yield json.loads(answer) if answer else {"url": url, "rule": rule, "detail": detail}


def tallies(store: sqlite3.Connection) -> dict[str, float]:
    """What a frontier counted."""
    return dict(store.execute("SELECT name, value FROM tally"))


def _spent(host: _Host, limits: LimitsConfig) -> str | None:
    """The budget of this host that is spent."""
    spent = {"max_pages_per_host": host.num_requested, "max_bytes_per_host": host.num_bytes, "max_seconds_per_host": host.seconds}
    most = {key: getattr(limits, key) for key in spent}
    return next((f"{key} {most[key]:,}" for key, value in spent.items() if most[key] is not None and value >= most[key]), None)


def _least(one: int, other: int) -> int:
    """The fewest links and, by itself, the fewest redirects in a row of two ways to a URL: whatever the order in which ways are found, the
    outcome is the same."""
    return min(one // _HOPS, other // _HOPS) * _HOPS + min(one % _HOPS, other % _HOPS)


def _below(level: int, is_redirect: bool) -> int:
    """The level of what a URL of this level leads to."""
    return level + 1 if is_redirect else (level // _HOPS + 1) * _HOPS
