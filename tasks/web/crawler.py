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
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, dataclass, field, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, BinaryIO, Literal

import pyarrow as pa
import pyarrow.parquet as pq

from infra import storage
from infra.errors import GristmillError, InputError
from infra.ids import payload_digest
from tasks.web import html, sitemap, warc
from tasks.web.connection import Headers
from tasks.web.exchange import Fetched
from tasks.web.fetch import Client, FetchConfig, checked, retry_after_s
from tasks.web.frontier import Answered, FetchOrder, Frontier, Letter, LimitsConfig, Manners, Place, RobotsOrder
from tasks.web.robots import Robots
from tasks.web.scope import Scope, ScopeConfig
from tasks.web.warc_writer import Original, Writer
from tasks.web.well_known import BUSY, PASSING, Asking, Courtesy, robots_of

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
"""What comes of an exchange that goes into the WARC file."""
_OF_THE_BODY = frozenset({"content-length", "content-encoding", "content-type", "transfer-encoding", "connection", "keep-alive"})
_DATABASE, _ID, _GENERATION = "frontier.sqlite", "crawl.id", "generation"
_LEASE, _MAIL, _STATUS, _STATE = "lease.json", "mail", "status", "state"

BEFORE = pa.schema(
    [("url", pa.string()), ("etag", pa.string()), ("last_modified", pa.string()), ("file", pa.string()), ("offset", pa.int64())]
)
"""What an earlier crawl captured: by which conditions it can be asked whether a page changed, and where the page lies."""

Row = Callable[[Fetched, Robots | None], Mapping[str, Any]]
"""What the log is to have of an exchange, by what its origin says."""


@dataclass(frozen=True)
class Share:
    """How far a job may go: totals of its partitions since the crawl began, so that a job which is begun again spends nothing twice."""

    num_pages: float = float("inf")
    num_bytes: float = float("inf")


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
    is_cut_short: bool = False
    """Whether it ended because its share is spent, it was called back, or it heard nothing from the flow that gave it."""


@dataclass(frozen=True)
class Plan:
    """What all jobs of a crawl share."""

    crawl_id: str
    """What databases of this crawl are told by from those that another left on a machine."""
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


def sign_of_life(plan: Plan, flow: str, beat: int, recalled: Sequence[int] = (), *, is_over: bool = False) -> None:
    """Tell the jobs that the flow which gave them is there; those of another flow end.

    Args:
        recalled: the partitions of a job that is to end.
        is_over: whether all are to end.
    """
    told = {"flow": flow, "beat": beat, "recalled": list(recalled), "is_over": is_over}
    storage.write_json(storage.join(plan.post, _LEASE), told)


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
def opened(crawl_id: str, scratch: str, post: str, partition: int, *, must_exist: bool = False) -> Iterator[sqlite3.Connection]:
    """A partition's database, for this process alone, in its newest state that can be had.

    Raises:
        InputError: it must exist and does not.
        GristmillError: another process has it, and does not let go.
    """
    folder = Path(scratch) / f"{partition:05d}"
    if folder.exists() and (not (folder / _ID).exists() or (folder / _ID).read_text() != crawl_id):
        shutil.rmtree(folder)  # of another crawl
    path = folder / _DATABASE
    _fetch_state(post, partition, folder)
    if must_exist and not path.exists():
        raise InputError(
            f"{path}: the state of this crawl is gone, and its log with it; only another crawl (another crawl.snapshot) brings them back"
        )
    folder.mkdir(parents=True, exist_ok=True)
    (folder / _ID).write_text(crawl_id)
    store = sqlite3.connect(path, isolation_level=None, timeout=LEASE_S)
    try:
        store.execute("PRAGMA locking_mode = EXCLUSIVE")
        store.execute("PRAGMA journal_mode = WAL")
        # a kill of the process loses nothing that is committed; a loss of power may lose the last moments, never the whole
        store.execute("PRAGMA synchronous = NORMAL")
    except sqlite3.OperationalError as error:
        store.close()
        raise GristmillError(
            f"{path}: another process crawls with it ({error}); end it, or wait until it has, and try again"
        ) from error
    try:
        yield store
    finally:
        store.close()


def _states(post: str, partition: int) -> list[str]:
    """Names of a partition's copies in a store that is elsewhere, the newest last."""
    return [name for name in storage.list_folder(storage.join(post, _STATE)) if name.startswith(f"{partition:05d}-")]


def _fetch_state(post: str, partition: int, folder: Path) -> None:
    """From a store that is elsewhere, where it has a newer state than this machine."""
    states = [] if storage.is_local(post) else _states(post, partition)
    mine = folder / _GENERATION
    if not states or (mine.exists() and mine.read_text() >= states[-1]):
        return
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    (folder / _DATABASE).write_bytes(storage.read_bytes(storage.join(post, _STATE, states[-1])))
    mine.write_text(states[-1])


def _copied(store: sqlite3.Connection, folder: Path) -> Path:
    """A copy of a database that goes on being used."""
    copy = folder / "copy.sqlite"
    copy.unlink(missing_ok=True)
    target = sqlite3.connect(copy)
    store.backup(target)
    target.close()
    return copy


def _save_state(post: str, partition: int, copy: Path) -> None:
    """To a store that is elsewhere, in the place of the earlier ones."""
    states = _states(post, partition)
    generation = int(states[-1].partition("-")[2].partition(".")[0]) + 1 if states else 0
    name = f"{partition:05d}-{generation:010d}.sqlite"
    _put(copy, storage.join(post, _STATE, name))
    copy.with_name(_GENERATION).write_text(name)
    for old in states:
        storage.remove(storage.join(post, _STATE, old))


def _put(path: Path, target: str) -> None:
    """Move a local file into the store."""
    if storage.is_local(target):
        storage.make_folder(target.rpartition("/")[0])
        shutil.move(path, target)
        return
    with path.open("rb") as source, storage.open_write(target) as file:
        shutil.copyfileobj(source, file)
    path.unlink()


@dataclass(frozen=True)
class _Capture:
    """A page of an earlier crawl."""

    page: Fetched
    record: bytes
    """As it was written."""
    conditions: Mapping[str, str]


def _captured(url: str, etag: str | None, last_modified: str | None, file: str, offset: int) -> _Capture | None:
    """A page of an earlier crawl; None where it has to be fetched anew: it cannot be read any more, or its bytes stand under another URL,
    with the headers of that."""
    conditions = {"If-None-Match": etag} if etag else {"If-Modified-Since": last_modified} if last_modified else {}
    try:
        with storage.open_read(file) as stream:
            found = warc.read_at(stream, offset)
            record = warc.content_at(stream, offset)
    except (ValueError, OSError):
        return None
    if found.date is None or found.url != url or not conditions:
        return None
    page = Fetched(url, found.date, found.status, headers=found.headers, body=found.body)
    return _Capture(page, record, conditions)


def _updated(page: Fetched, headers: Headers) -> Fetched:
    """A stored page under the header fields of a 304, which replace its own (RFC 9111 section 3.2)."""
    new = [(name, value) for name, value in headers if name.lower() not in _OF_THE_BODY]
    names = {name.lower() for name, _ in new}
    return replace(page, headers=(*(one for one in page.headers if one[0].lower() not in names), *new))


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
    taken: list[str] = field(default_factory=list)
    """Letters that are committed here, and not yet in a state that another machine could go on from."""

    def recover(self) -> None:
        """Cut off what a kill left in WARC files behind the last commit."""
        counted = self.frontier.segments()
        for path in self.folder.glob("*.warc.*"):
            if path.name not in counted:
                path.unlink()
            elif path.stat().st_size > counted[path.name]:
                os.truncate(path, counted[path.name])

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
        writer.not_modified(got, Original(earlier.page.url, earlier.page.date))
        place = writer.copy(earlier.record)
        file.flush()
        return self.name, place.offset, file.tell()

    async def save(self, now_s: float) -> None:
        """Close the WARC file and bring it home, and where the store is elsewhere a copy of the database too."""
        self.close()
        for name in self.frontier.segments():
            if (self.folder / name).exists():  # else it came home, and the process ended before that was noted
                await asyncio.to_thread(_put, self.folder / name, storage.join(self.plan.warc, name))
            self.frontier.stored(name)
        if not storage.is_local(self.plan.post):
            taken = self.taken
            self.taken = []
            copy = _copied(self.store, self.folder)
            await asyncio.to_thread(_save_state, self.plan.post, self.number, copy)
            for path in taken:
                await asyncio.to_thread(storage.remove, path)
        self.saved_at_s = now_s

    def close(self) -> None:
        """Close the WARC file."""
        if self.file is not None:
            os.fsync(self.file.fileno())
            self.file.close()
            self.file = self.writer = None


@dataclass
class _Crawl:
    """A job at work."""

    job: Job
    plan: Plan
    row: Row
    partitions: list[_Partition] = field(default_factory=list)
    running: set[asyncio.Task[None]] = field(default_factory=set)
    is_alone: bool = False
    """Whether what runs is suspected of ending its process, and nothing else may run."""
    culprit: str | None = None
    """The URL that a mistake of ours came up with."""

    def __post_init__(self) -> None:
        self.client = Client(self.plan.fetch)
        self.courtesy = Courtesy()
        self.began_s = time.time()
        self.started = time.monotonic()
        self.stirred = asyncio.Event()
        self.turn = 0
        self.is_left = self.is_recalled = False
        self.lease: Mapping[str, Any] | None = None
        self.heard_at_s = self.began_s
        self.reported_at_s = 0.0

    def now_s(self) -> float:
        """Seconds since 1970, on a clock that is never set back."""
        return self.began_s + time.monotonic() - self.started

    async def run(self) -> Report:
        with ExitStack() as stack:
            for number in self.job.partitions:
                store = stack.enter_context(opened(self.plan.crawl_id, self.plan.scratch, self.plan.post, number))
                self.partitions.append(self._partition(number, store))
            try:
                async with asyncio.TaskGroup() as tasks:
                    await self._loop(tasks)
            finally:
                self.client.close()
                for partition in self.partitions:
                    partition.frontier.put_back(but=self.culprit)
            await self._send_letters()
            for partition in self.partitions:
                await partition.save(self.now_s())
            report = self._report()
            self._write_status(report)
            return report

    def _partition(self, number: int, store: sqlite3.Connection) -> _Partition:
        fetch = self.plan.fetch
        pace = (fetch.delay_s, fetch.concurrency_per_host, fetch.retries, fetch.backoff_s)
        manners = Manners(*pace, fetch.max_retry_after_s, fetch.robots_max_age_s)
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
            if self.is_left:
                for task in self.running:
                    task.cancel()
                return
            self.is_alone = self.is_alone and bool(self.running)
            if not self._is_over():
                self._give_orders(tasks, now_s)
            elif not self.running:
                return
            if self.running or not all(one.frontier.is_idle for one in self.partitions):
                idle_since_s = None
            elif self._is_any_suspect():
                self._give_suspect(tasks, now_s)
            elif idle_since_s is None:
                idle_since_s, post_at_s = now_s, 0.0
                continue
            elif now_s - idle_since_s >= self._patience_s():
                return
            await self._wait(post_at_s)

    def _is_any_suspect(self) -> bool:
        return not self._is_over() and any(one.frontier.has_suspects for one in self.partitions)

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
        self.is_recalled = lease is not None and (lease["is_over"] or tuple(lease["recalled"]) == self.job.partitions)
        if now_s - self.reported_at_s >= REPORT_S:
            self.reported_at_s = now_s
            await asyncio.to_thread(self._write_status, self._report())
        for partition in self.partitions:
            if not storage.is_local(self.plan.post) and now_s - partition.saved_at_s > SAVE_S:
                await partition.save(now_s)

    def _is_over(self) -> bool:
        """Whether no more orders are to be given."""
        share, frontiers = self.job.share, [one.frontier for one in self.partitions]
        return (
            self.is_left
            or self.is_recalled
            or sum(one.num_requested for one in frontiers) >= share.num_pages
            or sum(one.num_bytes for one in frontiers) >= share.num_bytes
        )

    def _give_orders(self, tasks: asyncio.TaskGroup, now_s: float) -> None:
        """Partitions take turns, so that all hosts are treated alike."""
        without = 0
        while without < len(self.partitions) and self._has_room() and not self._is_over():
            partition = self.partitions[self.turn % len(self.partitions)]
            self.turn += 1
            order = partition.frontier.next(now_s)
            if order is not None:
                self._carry_out(tasks, partition, order)
            without = 0 if order is not None else without + 1

    def _give_suspect(self, tasks: asyncio.TaskGroup, now_s: float) -> None:
        for partition in self.partitions:
            if order := partition.frontier.next_suspect(now_s):
                self.is_alone = True
                self._carry_out(tasks, partition, order)
                return

    def _has_room(self) -> bool:
        return len(self.running) < self.plan.fetch.concurrency and not self.is_alone

    def _carry_out(self, tasks: asyncio.TaskGroup, partition: _Partition, order: FetchOrder | RobotsOrder) -> None:
        work = self._learn(partition, order) if isinstance(order, RobotsOrder) else self._fetch(partition, order)
        task = tasks.create_task(work)
        self.running.add(task)
        task.add_done_callback(self._one_done)

    def _one_done(self, task: asyncio.Task[None]) -> None:
        self.running.discard(task)
        self.stirred.set()

    async def _wait(self, until_s: float) -> None:
        """Until an answer is in, a host is free, or the post is due."""
        if self._has_room() and not self._is_over():
            wakes = [one.frontier.wakes_at_s for one in self.partitions]
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

        asking = Asking(self.client, self.plan.fetch, self.courtesy, keep, self.plan.limits.max_crawl_delay_s)
        known = partition.frontier.robots_of(order.origin + "/")
        robots = await robots_of(order.origin, asking, order.delay_s, known)
        partition.frontier.learnt(order.origin, robots, self.now_s(), wrote[0] if wrote else None)

    async def _fetch(self, partition: _Partition, order: FetchOrder) -> None:
        known = partition.earlier.get(order.url)
        earlier = await asyncio.to_thread(_captured, order.url, *known) if known else None
        got = await self.client.get(order.url, earlier.conditions if earlier else None)
        try:
            if got.error == "not_modified" and earlier is not None:
                answer = self._unchanged(partition, order, got, earlier)
            else:
                answer = self._answer(partition, order, *checked(got, self.plan.fetch.max_bytes))
            partition.frontier.answered(answer, self.now_s())
        except (OSError, sqlite3.Error):
            raise  # of the disk
        except Exception:
            self.culprit = order.url
            raise

    def _unchanged(self, partition: _Partition, order: FetchOrder, got: Fetched, earlier: _Capture) -> Answered:
        """Keep the page that the earlier crawl has, beside the server's word that it still holds."""
        page, content = checked(_updated(earlier.page, got.headers), self.plan.fetch.max_bytes)
        name, offset, num_bytes = partition.write_unchanged(got, earlier)
        place = Place(order.url, earlier.page.date.isoformat(), storage.join(self.plan.warc, name), offset)
        partition.frontier.add("not_modified", 1)
        found = self._found(partition, order, page, content, place, payload_digest(page.body))
        return replace(found, wrote=(name, num_bytes), num_bytes=got.num_wire_bytes, seconds=got.seconds)

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
            num_bytes=got.num_wire_bytes,
            seconds=got.seconds,
            rest_s=retry_after_s(got) if got.status in BUSY else 0.0,
            may_pass=got.status in BUSY or got.error in PASSING,
            was_unheard=got.error == "unheard",
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
        """A letter is thrown away when what it says cannot be lost any more, so it may come twice."""
        mine = {one.number: one for one in self.partitions}
        folder = storage.join(self.plan.post, _MAIL)
        for name in await asyncio.to_thread(storage.list_folder, folder):
            partition = mine.get(int(name.partition("-")[0])) if name[0] != "." else None
            path = storage.join(folder, name)
            if partition is None or path in partition.taken:
                continue
            letters = await asyncio.to_thread(storage.read_json, path)
            partition.frontier.received(Letter(**one) for one in letters)
            if storage.is_local(path):
                storage.remove(path)
            else:
                partition.taken.append(path)

    def _lease(self) -> Mapping[str, Any] | None:
        path = storage.join(self.plan.post, _LEASE)
        return storage.read_json(path) if storage.exists(path) else None

    def _report(self) -> Report:
        frontiers = {one.number: one.frontier for one in self.partitions}
        told = {number: Progress(one.num_requested, one.num_bytes, one.num_waiting) for number, one in frontiers.items()}
        return Report(told, is_cut_short=self._is_over())

    def _write_status(self, report: Report) -> None:
        """For `progress`; partitions may change hands, so the time tells which status is the latest."""
        told = {"at_s": self.now_s(), "partitions": {number: asdict(one) for number, one in report.partitions.items()}}
        storage.write_json(storage.join(self.plan.post, _STATUS, f"{self.job.partitions[0]:05d}.json"), told)
