"""Who crawls what: partitions go to workers as jobs, budgets are shared out among them, until no partition has anything left to do.

A job tells how far its partitions are; who is free gets those that want work, by how much waits in each. When somebody has nothing to
do and another has several partitions full of work, that job is called back and its partitions are dealt anew. After a kill each
partition first says how far it is, which nobody else knows. Costs a look at two folders of the store four times a second.
"""

from __future__ import annotations

import logging
import threading
import time
import uuid
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from itertools import count
from typing import Any, Protocol

from pydantic import BaseModel, ConfigDict, Field

from infra import storage
from infra.errors import GristmillError
from tasks.web import crawler, urls
from tasks.web.crawler import Job, Plan, Progress, Report, Row, Share
from tasks.web.frontier import PAGE, Letter

log = logging.getLogger("gristmill")

_SIGN_OF_LIFE_S = 5.0
_MAX_KILLS = 5  # of the worker of a partition that gets nowhere in between
_MANY_WAITING = 300  # URLs: less is not worth a call back
_RECALL_AFTER_S = 1.0  # doubles with each call back
_BEGUN = "begun.json"
_INFINITE = float("inf")


class Begun(BaseModel):
    """What is known of a crawl before any worker is asked."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    crawl_id: str
    seconds: float = 0.0
    """That it was crawled so far, by the flows that did."""
    is_new: bool = Field(default=False, exclude=True)


def begun(post: str) -> Begun:
    """The crawl that is under way in this folder of the store, or a new one."""
    path = storage.join(post, _BEGUN)
    if storage.exists(path):
        return Begun.model_validate(storage.read_json(path))
    found = Begun(crawl_id=uuid.uuid4().hex, is_new=True)
    storage.write_json(path, found.model_dump())
    return found


class Workers(Protocol):
    """Where jobs are done, such as `infra.cluster.Pool`."""

    @property
    def num_workers(self) -> int:
        """Jobs that can be done at a time."""

    def run_while_due(
        self, work: Callable[[Job], Report], due: Callable[[Sequence[Job]], Sequence[Job]]
    ) -> Iterator[tuple[Job, Any]]:
        """Yield (job, what came of it); what is no Report says in `why` how the job ended every worker that took it."""


def crawl_all(plan: Plan, start: Begun, workers: Workers, row: Row, tell: Callable[[int, int], None]) -> list[int]:
    """Crawl until no partition has anything left to do; the partitions that had any.

    Args:
        tell: is told now and then how many URLs were requested, of how many that are known.

    Raises:
        GristmillError: a partition ended its worker again and again.
    """
    dispatch = Dispatch(plan, workers.num_workers, start)
    with _signs_of_life(dispatch):
        dispatch.begin()

        def due(running: Sequence[Job]) -> list[Job]:
            told = crawler.progress(plan)
            num_requested = sum(one.num_requested for one in told.values())
            tell(num_requested, num_requested + sum(one.num_waiting for one in told.values()))
            return dispatch.due(running, told, crawler.partitions_with_mail(plan), time.monotonic())

        for job, result in workers.run_while_due(partial(crawler.crawl_partitions, plan=plan, row=row), due):
            if isinstance(result, Report):
                dispatch.took(job, result)
            else:
                dispatch.lost(job, result.why)
    return sorted(dispatch.given)


@dataclass
class Dispatch:
    """What is known of the partitions, and what follows from it."""

    plan: Plan
    num_workers: int
    start: Begun
    flow: str = field(default_factory=lambda: uuid.uuid4().hex)
    known: dict[int, Progress] = field(default_factory=dict)
    """Progress of partitions when they were last heard of."""
    wanting: set[int] = field(default_factory=set)
    """Partitions that stopped before they were done."""
    recalled: tuple[int, ...] = ()
    """Partitions of the job that is called back."""
    recall_after_s: float = _RECALL_AFTER_S
    num_kills: Counter[int] = field(default_factory=Counter)
    dealt_at_s: float = 0.0
    given: set[int] = field(default_factory=set)
    """Partitions that were ever part of a job."""

    def __post_init__(self) -> None:
        self._started = time.monotonic()

    @property
    def seconds(self) -> float:
        """Of crawling so far, by this flow and those before it."""
        return self.start.seconds + time.monotonic() - self._started

    @property
    def seconds_left(self) -> float:
        """Of the budget."""
        return (self.plan.limits.max_seconds or _INFINITE) - self.seconds

    def begin(self) -> None:
        """Leave the seeds for their partitions. Where nobody crawled before, nobody has to be asked how far it is."""
        plan = self.plan
        if self.start.is_new:
            self.known = dict.fromkeys(range(plan.num_partitions), Progress())
        letters = [Letter(url, urls.partition_of(urls.host_of(url), plan.num_partitions), 0, PAGE) for url in plan.seeds]
        crawler.post(plan, letters, "seeds")

    def sign(self, beat: int) -> None:
        """Tell the jobs that this flow is there, and note the time that was spent."""
        crawler.sign_of_life(self.plan, self.flow, beat, self.recalled, is_over=self.seconds_left <= 0)
        told = Begun(crawl_id=self.start.crawl_id, seconds=round(self.seconds, 1))
        storage.write_json(storage.join(self.plan.post, _BEGUN), told.model_dump())

    def due(self, running: Sequence[Job], told: Mapping[int, Progress], with_mail: set[int], now_s: float) -> list[Job]:
        """The jobs to give now, to those who have none."""
        jobs = self._due(running, told, with_mail, now_s)
        self.given.update(number for job in jobs for number in job.partitions)
        return jobs

    def _due(self, running: Sequence[Job], told: Mapping[int, Progress], with_mail: set[int], now_s: float) -> list[Job]:
        busy = {number for job in running for number in job.partitions}
        num_free = self.num_workers - len(running)
        unknown = [number for number in range(self.plan.num_partitions) if number not in self.known and number not in busy]
        if unknown and num_free > 0:
            return self._only_asked(unknown, num_free)
        if len(self.known) < self.plan.num_partitions or num_free <= 0:
            return []
        wanting = (self.wanting | with_mail) - busy
        if not wanting:
            self._call_back(running, told, now_s)
            return []
        pages, num_bytes = self._left(running)
        if pages < 1 or num_bytes < 1 or self.seconds_left <= 0:
            # what lies there in letters is refused by the budget too, and for that it must be known
            return self._only_asked(with_mail - busy, num_free)
        self.dealt_at_s = now_s
        # all that are free, also those with nothing to do: what is found for them while the others are crawled must not wait for their end
        free = {number: 1 + self.known[number].num_waiting for number in self.known if number not in busy}
        hands = _dealt(free, int(min(num_free, pages)))
        pages = pages if pages == _INFINITE else pages // len(hands)
        return [Job(tuple(hand), self._share(hand, pages, num_bytes / len(hands)), self.flow) for hand in hands]

    def _only_asked(self, partitions: Collection[int], num_hands: int) -> list[Job]:
        """Jobs that take in the letters, say how far they are, and end."""
        return [Job(tuple(hand), Share(0, 0), self.flow) for hand in _dealt(dict.fromkeys(partitions, 1), num_hands)]

    def took(self, job: Job, report: Report) -> None:
        """Takes how far a job came."""
        for number, progress in report.partitions.items():
            if progress.num_requested > self.known.get(number, Progress()).num_requested:
                self.num_kills[number] = 0
            self.known[number] = progress
            self.wanting.discard(number)
            if report.is_cut_short and progress.num_waiting:
                self.wanting.add(number)
        self._returned(job)

    def _returned(self, job: Job) -> None:
        if job.partitions == self.recalled:
            self.recalled = ()
            self.sign(0)

    def lost(self, job: Job, why: str) -> None:
        """Takes that a job ended every worker that took it: its partitions say anew how far they are, and go on."""
        self._returned(job)
        for number in job.partitions:
            self.num_kills[number] += 1
            if self.num_kills[number] > _MAX_KILLS:
                raise GristmillError(
                    f"crawl: the worker of host partitions {job.partitions} ended again and again, most likely for want of memory: "
                    f"give workers more (dask.memory_limit) or lower crawl.fetch.concurrency and max_bytes. {why}"
                )
            self.known.pop(number, None)

    def _left(self, running: Sequence[Job]) -> tuple[float, float]:
        """Pages and bytes that may be spent beside what is spent and what those at work may spend."""
        spent_pages, spent_bytes = self._spent(self.known)
        at_work = [(job.share, *self._spent(job.partitions)) for job in running]
        pages = (self.plan.limits.max_pages or _INFINITE) - spent_pages
        num_bytes = (self.plan.limits.max_bytes or _INFINITE) - spent_bytes
        if pages < _INFINITE:
            pages -= sum(max(0, share.num_pages - spent) for share, spent, _ in at_work)
        if num_bytes < _INFINITE:
            num_bytes -= sum(max(0, share.num_bytes - spent) for share, _, spent in at_work)
        return pages, num_bytes

    def _spent(self, partitions: Iterable[int]) -> tuple[int, int]:
        known = [self.known[number] for number in partitions if number in self.known]
        return sum(one.num_requested for one in known), sum(one.num_bytes for one in known)

    def _share(self, partitions: Sequence[int], pages: float, num_bytes: float) -> Share:
        spent_pages, spent_bytes = self._spent(partitions)
        return Share(spent_pages + pages, spent_bytes + num_bytes)

    def _call_back(self, running: Sequence[Job], told: Mapping[int, Progress], now_s: float) -> None:
        """Have the fullest job return what it has, if somebody else could do a part of it."""
        if self.recalled or now_s - self.dealt_at_s < self.recall_after_s:
            return
        for job in running:
            waiting = [told[number].num_waiting for number in job.partitions if number in told]
            if sum(waiting) - max(waiting, default=0) > _MANY_WAITING:
                self.recalled, self.recall_after_s = job.partitions, 2 * self.recall_after_s
                self.sign(0)
                return


def _dealt(weights: Mapping[int, int], num_hands: int) -> list[list[int]]:
    """Partitions dealt to at most so many hands, the heaviest first and always to the lightest hand."""
    hands: list[list[int]] = [[] for _ in range(min(num_hands, len(weights)))]
    loads = [0] * len(hands)
    for number in sorted(weights, key=lambda number: (-weights[number], number)):
        lightest = loads.index(min(loads))
        hands[lightest].append(number)
        loads[lightest] += weights[number]
    return hands


@contextmanager
def _signs_of_life(dispatch: Dispatch) -> Iterator[None]:
    """Tell the jobs that this flow is there, for the time of the block; without, they end by themselves."""
    over = threading.Event()

    def beat() -> None:
        for number in count(1):
            if over.wait(min(_SIGN_OF_LIFE_S, max(0.1, dispatch.seconds_left))):
                return
            try:
                dispatch.sign(number)
            except OSError as error:  # the next one may come through, and jobs that hear nothing only make a pause
                log.warning("crawl: the store did not take a sign of life: %s", error)

    dispatch.sign(0)
    thread = threading.Thread(target=beat, daemon=True)
    thread.start()
    try:
        yield
    finally:
        over.set()
        thread.join()
