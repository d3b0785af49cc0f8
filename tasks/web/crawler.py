"""The crawler's loop in a worker: the frontiers of some partitions, one HTTP client, and the WARC files that they fill.

A job crawls its partitions until nothing is left for them to do, or its share of a budget is spent, or the flow that gave it is gone.
Each answer is appended to a WARC file and then committed to its partition's database, so a kill costs the requests in flight; what a kill
left behind the last commit is cut off. URLs of other partitions go out as letters: small files in the store, which any worker can read.
Costs about 1.5 ms of CPU a page of 20 kB, most of it for finding links and compressing.
"""

from __future__ import annotations

import asyncio
import os
import shutil
import sqlite3
import time
import uuid
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, dataclass, field, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, BinaryIO, Literal

import pyarrow as pa
import pyarrow.parquet as pq

from infra import storage
from infra.errors import InputError
from infra.ids import payload_digest
from tasks.web import html, sitemap, warc
from tasks.web.exchange import Fetched
from tasks.web.fetch import Client, FetchConfig, checked, retry_after_s
from tasks.web.frontier import Answered, FetchOrder, Frontier, Letter, LimitsConfig, Manners, Place, RobotsOrder
from tasks.web.robots import Robots
from tasks.web.scope import Scope, ScopeConfig
from tasks.web.warc_writer import Original, Writer
from tasks.web.well_known import BUSY, PASSING, robots_of

POST_S = 0.25
"""Seconds between two looks at the letters of other partitions."""
IDLE_S = 0.3
"""Seconds without anything to do after which a job ends; letters that come later begin another."""
REPORT_S = 1.0
"""Seconds between two reports of how far a job is."""
LEASE_S = 60.0
"""Seconds without a sign of life from the flow after which a job ends."""
SAVE_S = 300.0
"""Seconds between two copies of a partition's state to a store that is elsewhere: what the loss of a machine costs."""
_MAX_SEGMENT_BYTES = 1 << 30
_KEPT = (None, "redirect", "bad_status")
"""What comes of an exchange that is whole and goes into the WARC file."""
_NUM_THREADS = 32  # they ask for addresses of hosts and read and write in the store
_DATABASE = "frontier.sqlite"
_LEASE, _MAIL, _STATUS, _STATE = "lease.json", "mail", "status", "state"

BEFORE = pa.schema(
    [("url", pa.string()), ("etag", pa.string()), ("last_modified", pa.string()), ("file", pa.string()), ("offset", pa.int64())]
)
"""What an earlier crawl captured: by which conditions it can be asked whether a page changed, and where the page lies."""

Row = Callable[[Fetched, Robots | None], Mapping[str, Any]]
"""What the log is to have of an exchange, by what its origin says."""


@dataclass(frozen=True)
class Share:
    """How much of the budgets a job may still spend."""

    num_pages: float = float("inf")
    num_bytes: float = float("inf")
    seconds: float = float("inf")


@dataclass(frozen=True)
class Job:
    """Some partitions of a crawl, for one worker."""

    partitions: tuple[int, ...]
    share: Share
    flow: str
    """Whoever gave the job; it ends when another crawls."""


@dataclass(frozen=True)
class Progress:
    """How far a partition is, since the crawl began."""

    num_requested: int = 0
    num_bytes: int = 0
    num_waiting: int = 0


@dataclass(frozen=True)
class Report:
    """How far a job came."""

    partitions: Mapping[int, Progress]
    seconds: float = 0.0
    """That these partitions were crawled, since the crawl began."""
    is_cut_short: bool = False
    """Whether it ended because its share is spent or it was called back."""


@dataclass(frozen=True)
class Plan:
    """What all jobs of a crawl share."""

    scratch: str
    """Local folder of the partitions' databases and of WARC files that are being written."""
    post: str
    """Folder in the store for letters, signs of life and, when it is elsewhere, copies of the databases."""
    warc: str
    """Folder in the store for the WARC files."""
    num_partitions: int
    seeds: tuple[str, ...]
    limits: LimitsConfig
    fetch: FetchConfig
    scope: ScopeConfig
    compression: Literal["gzip", "zstd"] = "gzip"
    before: str = ""
    """Folder in the store of what an earlier crawl captured, a Parquet file of BEFORE a partition; empty: there was none."""


def crawl_partitions(job: Job, plan: Plan, row: Row) -> Report:
    """Crawl the partitions of a job as far as it goes. Blocks; brings an event loop of its own. No two calls share a partition."""
    try:
        return asyncio.run(_Crawl(job, plan, row).run())
    except BaseExceptionGroup as group:
        raise group.exceptions[0] from group


def post(plan: Plan, letters: Sequence[Letter], sender: str) -> None:
    """Leave letters where the jobs of their partitions look for them."""
    by_partition: defaultdict[int, list[Letter]] = defaultdict(list)
    for letter in letters:
        by_partition[letter.partition].append(letter)
    for partition, some in by_partition.items():
        name = f"{partition:05d}-{sender}-{uuid.uuid4().hex}.json"
        storage.write_json(storage.join(plan.post, _MAIL, name), [asdict(letter) for letter in some])


def partitions_with_mail(plan: Plan) -> set[int]:
    """Partitions for which letters lie there."""
    return {int(name.partition("-")[0]) for name in storage.list_folder(storage.join(plan.post, _MAIL)) if name[0] != "."}


def sign_of_life(plan: Plan, flow: str, beat: int, recalled: Sequence[int] = ()) -> None:
    """Tell the jobs that the flow which gave them is there; those of another flow end, and so does the one of the partitions `recalled`."""
    storage.write_json(storage.join(plan.post, _LEASE), {"flow": flow, "beat": beat, "recalled": list(recalled)})


def progress(plan: Plan) -> dict[int, Progress]:
    """How far the partitions were, at most a second ago."""
    folder = storage.join(plan.post, _STATUS)
    told = (storage.read_json(storage.join(folder, name)) for name in storage.list_folder(folder) if name[0] != ".")
    latest: dict[int, tuple[float, Progress]] = {}
    for at_s, partitions in ((one["at_s"], one["partitions"]) for one in told):
        for number, numbers in partitions.items():
            if at_s >= latest.get(int(number), (0.0,))[0]:
                latest[int(number)] = at_s, Progress(**numbers)
    return {number: one for number, (_, one) in latest.items()}


@contextmanager
def opened(scratch: str, post: str, partition: int, *, must_exist: bool = False) -> Iterator[sqlite3.Connection]:
    """A partition's database, for this process alone, in its newest state that can be had.

    Raises:
        InputError: it must exist and does not.
    """
    folder = Path(scratch) / f"{partition:05d}"
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / _DATABASE
    _fetch_state(post, partition, path)
    if must_exist and not path.exists():
        raise InputError(
            f"{path}: the state of this crawl is gone, and its log with it; only another crawl (another crawl.snapshot) brings them back"
        )
    store = sqlite3.connect(path, isolation_level=None, timeout=LEASE_S)
    try:
        store.execute("PRAGMA locking_mode = EXCLUSIVE")
        store.execute("PRAGMA journal_mode = WAL")
        # a kill of the process loses nothing that is committed; a loss of power may lose the last moments, never the whole
        store.execute("PRAGMA synchronous = NORMAL")
        yield store
    finally:
        store.close()


def _fetch_state(post: str, partition: int, path: Path) -> None:
    """From a store that is elsewhere, where it has a newer state than this machine."""
    if storage.is_local(post):
        return
    folder = storage.join(post, _STATE)
    newest = max((name for name in storage.list_folder(folder) if name.startswith(f"{partition:05d}-")), default=None)
    mine = path.with_suffix(".generation")
    if newest is None or (path.exists() and mine.exists() and mine.read_text() >= newest):
        return
    for old in path.parent.glob(f"{_DATABASE}*"):
        old.unlink()
    path.write_bytes(storage.read_bytes(storage.join(folder, newest)))
    mine.write_text(newest)


def _save_state(post: str, partition: int, path: Path, store: sqlite3.Connection) -> None:
    """To a store that is elsewhere."""
    if storage.is_local(post):
        return
    folder = storage.join(post, _STATE)
    copy = path.with_suffix(".copy")
    copy.unlink(missing_ok=True)
    with sqlite3.connect(copy) as target:
        store.backup(target)
    target.close()
    name = f"{partition:05d}-{time.time_ns():020d}.sqlite"
    storage.write_bytes(storage.join(folder, name), copy.read_bytes())
    path.with_suffix(".generation").write_text(name)
    copy.unlink()
    for old in storage.list_folder(folder):
        if old.startswith(f"{partition:05d}-") and old < name:
            storage.remove(storage.join(folder, old))


@dataclass(frozen=True)
class _Capture:
    """A page of an earlier crawl."""

    page: Fetched
    original: Original
    """Of the record: equal bodies are stored once, under the URL that was first."""
    record: bytes
    """As it was written."""
    conditions: Mapping[str, str]


def _captured(url: str, etag: str | None, last_modified: str | None, file: str, offset: int) -> _Capture | None:
    """A page of an earlier crawl; None where it cannot be read any more, and has to be fetched anew."""
    conditions = {"If-None-Match": etag} if etag else {"If-Modified-Since": last_modified} if last_modified else {}
    try:
        with storage.open_read(file) as stream:
            found = warc.read_at(stream, offset)
            record = warc.content_at(stream, offset)
    except (ValueError, OSError):
        return None
    if found.date is None or not conditions:
        return None
    page = Fetched(url, found.date, found.status, headers=found.headers, body=found.body)
    return _Capture(page, Original(found.url, found.date), record, conditions)


@dataclass
class _Partition:
    """One partition at work."""

    number: int
    frontier: Frontier
    store: sqlite3.Connection
    earlier: dict[str, tuple[str | None, str | None, str, int]]
    """By URL what the earlier crawl has: ETag, Last-Modified, file, offset."""
    folder: Path
    plan: Plan
    saved_at_s: float
    file: BinaryIO | None = None
    writer: Writer | None = None
    name: str = ""

    def recover(self) -> None:
        """Bring home the WARC files that a kill left, without what was written after the last commit."""
        counted = self.frontier.segments()
        for path in self.folder.glob("*.warc.*"):
            if path.name in counted and path.stat().st_size >= counted[path.name]:
                os.truncate(path, counted[path.name])
            elif path.name not in counted:
                path.unlink()
        for name in counted:
            self._bring_home(name)

    def write(self, got: Fetched, metadata: Mapping[str, str], same_as: Original | None) -> tuple[str, int, int]:
        """(file in the store, offset, bytes of the file now) of an exchange, written here."""
        writer, file = self._open()
        place = writer.write(got, metadata, same_as)
        file.flush()
        return self.name, place.offset, file.tell()

    def _open(self) -> tuple[Writer, BinaryIO]:
        """The WARC file to write to: a new one where there is none, or it is full."""
        if self.writer is None or self.file is None or self.file.tell() > _MAX_SEGMENT_BYTES:
            self.close()
            suffix = "gz" if self.plan.compression == "gzip" else "zst"
            self.name = f"{self.number:05d}-{time.time_ns():020d}.warc.{suffix}"
            self.file = (self.folder / self.name).open("wb")
            self.writer = Writer(self.file, self.plan.fetch.agent, self.plan.compression)
        return self.writer, self.file

    def write_unchanged(self, got: Fetched, earlier: _Capture) -> tuple[str, int, int]:
        """As `write`, of an answer which says that the earlier capture still holds, and of that capture, whose place is given."""
        writer, file = self._open()
        writer.not_modified(got, earlier.original)
        place = writer.copy(earlier.record)
        file.flush()
        return self.name, place.offset, file.tell()

    def save(self, now_s: float) -> None:
        """Close the WARC file and copy everything to a store that is elsewhere."""
        self.close()
        _save_state(self.plan.post, self.number, self.folder / _DATABASE, self.store)
        self.saved_at_s = now_s

    def close(self) -> None:
        """Close the WARC file and bring it home."""
        if self.file is not None:
            os.fsync(self.file.fileno())
            self.file.close()
            self.file = self.writer = None
            for name in self.frontier.segments():
                self._bring_home(name)

    def _bring_home(self, name: str) -> None:
        path, target = self.folder / name, storage.join(self.plan.warc, name)
        if path.exists():
            storage.make_folder(self.plan.warc)
            if storage.is_local(target):
                shutil.move(path, target)
            else:
                with path.open("rb") as source, storage.open_write(target) as file:
                    shutil.copyfileobj(source, file)
                path.unlink()
        self.frontier.stored(name)


@dataclass
class _Crawl:
    """A job at work."""

    job: Job
    plan: Plan
    row: Row
    partitions: list[_Partition] = field(default_factory=list)
    num_in_flight: int = 0
    num_pages: int = 0
    num_bytes: int = 0

    def __post_init__(self) -> None:
        self.client = Client(self.plan.fetch)
        self.began_s = time.time()
        self.started = time.monotonic()
        self.stirred = asyncio.Event()
        self.turn = 0
        self.is_left = self.is_recalled = False
        self.lease: Mapping[str, Any] | None = None
        self.heard_at_s = self.counted_at_s = self.began_s
        self.reported_at_s = 0.0

    def now_s(self) -> float:
        """Seconds since 1970, on a clock that is never set back."""
        return self.began_s + time.monotonic() - self.started

    async def run(self) -> Report:
        asyncio.get_running_loop().set_default_executor(ThreadPoolExecutor(_NUM_THREADS))
        with ExitStack() as stack:
            for number in self.job.partitions:
                store = stack.enter_context(opened(self.plan.scratch, self.plan.post, number))
                self.partitions.append(self._partition(number, store))
            try:
                async with asyncio.TaskGroup() as tasks:
                    await self._loop(tasks)
            finally:
                self.client.close()
            for partition in self.partitions:
                partition.save(self.now_s())
            report = self._report()
            self._write_status(report)
            return report

    def _partition(self, number: int, store: sqlite3.Connection) -> _Partition:
        fetch = self.plan.fetch
        manners = Manners(fetch.delay_s, fetch.concurrency_per_host, fetch.retries, fetch.backoff_s, fetch.robots_max_age_s)
        frontier = Frontier(
            store,
            self.plan.limits,
            manners,
            Scope(self.plan.scope, self.plan.seeds),
            partition=(number, self.plan.num_partitions),
            now_s=self.now_s(),
            year=self._year(store),
        )
        made = _Partition(
            number, frontier, store, self._earlier(number), Path(self.plan.scratch) / f"{number:05d}", self.plan, self.now_s()
        )
        made.recover()
        return made

    def _earlier(self, number: int) -> dict[str, tuple[str | None, str | None, str, int]]:
        path = storage.join(self.plan.before, f"{number:05d}.parquet")
        if not self.plan.before or not storage.exists(path):
            return {}
        rows = pq.read_table(pa.BufferReader(storage.read_bytes(path))).to_pylist()
        return {row["url"]: (row["etag"], row["last_modified"], row["file"], row["offset"]) for row in rows}

    def _year(self, store: sqlite3.Connection) -> int:
        """Of the crawl's first day: a crawl over New Year's Eve decides alike on both sides of it."""
        store.execute("CREATE TABLE IF NOT EXISTS begun (year INTEGER)")
        [(year,)] = store.execute("SELECT max(year) FROM begun")
        if year is None:
            year = datetime.now(UTC).year
            store.execute("INSERT INTO begun VALUES (?)", (year,))
        return int(year)

    async def _loop(self, tasks: asyncio.TaskGroup) -> None:
        """Give orders as they fall due, and look at the post now and then, always before an end."""
        post_at_s, idle_since_s = 0.0, None
        while True:
            if self.now_s() >= post_at_s:
                await self._look_at_the_post()
                post_at_s = self.now_s() + POST_S
            now_s = self.now_s()
            self.stirred.clear()
            if not self._is_over(now_s):
                self._give_orders(tasks, now_s)
            elif not self.num_in_flight:
                return
            if self.num_in_flight or not all(one.frontier.is_idle for one in self.partitions):
                idle_since_s = None
                await self._wait(post_at_s)
            elif idle_since_s is None:
                idle_since_s, post_at_s = now_s, 0.0
            elif now_s - idle_since_s >= self._patience_s():
                return
            else:
                await self._wait(post_at_s)

    def _patience_s(self) -> float:
        """A job of all partitions has nobody to wait for."""
        return 0.0 if len(self.job.partitions) == self.plan.num_partitions else IDLE_S

    async def _look_at_the_post(self) -> None:
        """Exchange letters, see whether the flow is there, say how far the crawl is."""
        await self._send_letters()
        await self._take_letters()
        lease = await asyncio.to_thread(self._lease)
        now_s = self.now_s()
        if lease != self.lease:
            self.lease, self.heard_at_s = lease, now_s
        self.is_left = (lease is not None and lease["flow"] != self.job.flow) or now_s - self.heard_at_s > LEASE_S
        self.is_recalled = lease is not None and tuple(lease["recalled"]) == self.job.partitions
        for partition in self.partitions:
            partition.frontier.add("seconds", now_s - self.counted_at_s)
        self.counted_at_s = now_s
        if now_s - self.reported_at_s >= REPORT_S:
            self.reported_at_s = now_s
            await asyncio.to_thread(self._write_status, self._report())
        for partition in self.partitions:
            if not storage.is_local(self.plan.post) and now_s - partition.saved_at_s > SAVE_S:
                partition.save(now_s)

    def _is_over(self, now_s: float) -> bool:
        """Whether no more orders are to be given."""
        share = self.job.share
        return (
            self.is_left
            or self.is_recalled
            or self.num_pages >= share.num_pages
            or self.num_bytes >= share.num_bytes
            or now_s - self.began_s >= share.seconds
        )

    def _give_orders(self, tasks: asyncio.TaskGroup, now_s: float) -> None:
        """Partitions take turns, so that all hosts are treated alike."""
        without = 0
        while without < len(self.partitions) and self.num_in_flight < self.plan.fetch.concurrency and not self._is_over(now_s):
            partition = self.partitions[self.turn % len(self.partitions)]
            self.turn += 1
            order = partition.frontier.next(now_s)
            if order is None:
                without += 1
                continue
            without = 0
            self.num_in_flight += 1
            if isinstance(order, RobotsOrder):
                tasks.create_task(self._learn(partition, order))
            else:
                self.num_pages += 1
                tasks.create_task(self._fetch(partition, order))

    async def _wait(self, until_s: float) -> None:
        """Until an answer is in, a host is free, or the post is due."""
        wakes = [one.frontier.wakes_at_s for one in self.partitions]
        if self.num_in_flight < self.plan.fetch.concurrency:
            until_s = min([until_s, *(wake for wake in wakes if wake is not None)])
        try:
            async with asyncio.timeout(max(0.001, until_s - self.now_s())):
                await self.stirred.wait()
        except TimeoutError:
            pass

    async def _learn(self, partition: _Partition, order: RobotsOrder) -> None:
        wrote: list[tuple[str, int]] = []

        def keep(got: Fetched) -> None:
            if got.status is not None and got.error in _KEPT:
                name, _, num_bytes = partition.write(got, {}, None)
                wrote[:] = [(name, num_bytes)]

        robots = await robots_of(order.origin, self.client, self.plan.fetch, order.delay_s, keep)
        partition.frontier.learnt(order.origin, robots, self.now_s(), wrote[0] if wrote else None)
        self._one_done()

    async def _fetch(self, partition: _Partition, order: FetchOrder) -> None:
        known = partition.earlier.get(order.url)
        earlier = await asyncio.to_thread(_captured, order.url, *known) if known else None
        got = await self.client.get(order.url, earlier.conditions if earlier else None)
        self.num_bytes += len(got.wire)
        if got.error == "not_modified" and earlier is not None:
            answer = self._unchanged(partition, order, got, earlier)
        else:
            answer = self._answer(partition, order, *checked(got, self.plan.fetch.max_bytes))
        partition.frontier.answered(answer, self.now_s())
        self._one_done()

    def _unchanged(self, partition: _Partition, order: FetchOrder, got: Fetched, earlier: _Capture) -> Answered:
        """Keep the page that the earlier crawl has, beside the server's word that it still holds."""
        page, content = checked(earlier.page, self.plan.fetch.max_bytes)
        name, offset, num_bytes = partition.write_unchanged(got, earlier)
        place = Place(order.url, earlier.page.date.isoformat(), storage.join(self.plan.warc, name), offset)
        partition.frontier.add("not_modified", 1)
        found = self._found(partition, order, page, content, place, payload_digest(page.body))
        return replace(found, wrote=(name, num_bytes), num_bytes=len(got.wire), seconds=got.seconds)

    def _one_done(self) -> None:
        self.num_in_flight -= 1
        self.stirred.set()

    def _answer(self, partition: _Partition, order: FetchOrder, got: Fetched, content: bytes) -> Answered:
        """Write the exchange and say what the frontier and the log are to know of it."""
        digest = payload_digest(got.body) if got.error is None else None
        original = partition.frontier.original(order.url, digest) if digest else None
        same_as = Original(original.url, datetime.fromisoformat(original.date)) if original else None
        wrote, place = None, original
        if got.status is not None and got.error in _KEPT:
            about = {"fetchTimeMs": str(round(got.seconds * 1000)), "hopsFromSeed": "L" * order.depth + "R" * order.hops}
            name, offset, num_bytes = partition.write(got, about, same_as)
            wrote = name, num_bytes
            place = original or Place(order.url, got.date.isoformat(), storage.join(self.plan.warc, name), offset)
        found = self._found(partition, order, got, content, place, digest)
        return replace(
            found,
            redirect_to=got.redirect_to if got.error == "redirect" else None,
            wrote=wrote,
            num_bytes=len(got.wire),
            seconds=got.seconds,
            try_again_s=self._try_again_s(got),
        )

    def _found(
        self, partition: _Partition, order: FetchOrder, page: Fetched, content: bytes, place: Place | None, digest: str | None
    ) -> Answered:
        """What the log is to have of an answer, and where it leads."""
        row = dict(self.row(page, partition.frontier.robots_of(order.url)))
        if digest is None or place is None:
            return Answered(order.url, row)
        row |= {"file": place.file, "offset": place.offset}
        row |= {"etag": page.header("ETag"), "last_modified": page.header("Last-Modified")}
        content_type = page.header("Content-Type")
        listing = sitemap.listed(content, content_type, order.url, named=order.is_sitemap)
        if listing is None:
            return Answered(order.url, row, html.links(content, content_type, order.url), digest=digest, place=place)
        row |= {"rule": "sitemap", "detail": f"lists {len(listing.pages) + len(listing.sitemaps)} pages"}
        return Answered(order.url, row, listing.pages, listing.sitemaps, digest=digest, place=place)

    def _try_again_s(self, got: Fetched) -> float | None:
        """Seconds after which another attempt may help, None where it would not."""
        if got.status in BUSY:
            asked_s = retry_after_s(got)
            return asked_s if asked_s <= self.plan.fetch.max_retry_after_s else None
        return 0.0 if got.error in PASSING else None

    async def _send_letters(self) -> None:
        """To partitions of this job at hand, to others through the store."""
        mine = {one.number: one.frontier for one in self.partitions}
        for sender in self.partitions:
            while letters := sender.frontier.letters():
                for number, frontier in mine.items():
                    if inside := [letter for letter in letters.values() if letter.partition == number]:
                        frontier.received(inside)
                outside = [letter for letter in letters.values() if letter.partition not in mine]
                await asyncio.to_thread(post, self.plan, outside, f"{sender.number:05d}")
                sender.frontier.posted(letters)

    async def _take_letters(self) -> None:
        """A letter is thrown away when what it says is committed, so it may come twice and never is lost."""
        mine = {one.number: one.frontier for one in self.partitions}
        folder = storage.join(self.plan.post, _MAIL)
        for name in await asyncio.to_thread(storage.list_folder, folder):
            frontier = mine.get(int(name.partition("-")[0])) if name[0] != "." else None
            if frontier is not None:
                path = storage.join(folder, name)
                letters = await asyncio.to_thread(storage.read_json, path)
                frontier.received(Letter(**one) for one in letters)
                await asyncio.to_thread(storage.remove, path)

    def _lease(self) -> Mapping[str, Any] | None:
        path = storage.join(self.plan.post, _LEASE)
        return storage.read_json(path) if storage.exists(path) else None

    def _report(self) -> Report:
        frontiers = {one.number: one.frontier for one in self.partitions}
        return Report(
            {number: Progress(one.num_requested, one.num_bytes, one.num_waiting) for number, one in frontiers.items()},
            seconds=max(one.tallies.get("seconds", 0.0) for one in frontiers.values()),
            is_cut_short=not self.is_left and self._is_over(self.now_s()),
        )

    def _write_status(self, report: Report) -> None:
        """For `progress`; partitions may change hands, so the time tells which status is the latest."""
        told = {"at_s": self.now_s(), "partitions": {number: asdict(one) for number, one in report.partitions.items()}}
        storage.write_json(storage.join(self.plan.post, _STATUS, f"{self.job.partitions[0]:05d}.json"), told)
