"""Who crawls what: partitions go to workers as jobs, budgets are shared out among them, until no partition has anything left to do.

A job tells how far its partitions are; who is free gets those that want work, by how much waits in each. When somebody has nothing to
do and another has several partitions full of work, that job is called back and its partitions are dealt anew. After a kill each
partition first says how far it is, which nobody else knows. Costs a look at two folders of the store four times a second.
"""

from __future__ import annotations

import threading
import time
import uuid
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from itertools import count

from infra import cluster, storage
from infra.errors import GristmillError
from tasks.web import crawler, urls
from tasks.web.crawler import Job, Plan, Progress, Report, Row, Share
from tasks.web.frontier import PAGE, Letter

_SIGN_OF_LIFE_S = 5.0
_MAX_KILLS = 5  # of the worker of a partition that gets nowhere in between
_MANY_WAITING = 300  # URLs: less is not worth a call back
_RECALL_AFTER_S = 1.0  # doubles with each call back
_BEGUN = "begun.json"
_INFINITE = float("inf")


def crawl_all(plan: Plan, row: Row, tell: Callable[[int, int], None]) -> list[int]:
    """Crawl until no partition has anything left to do, with the workers of the surrounding pool; the partitions that had any.

    Args:
        tell: is told now and then how many URLs were requested, of how many that are known.

    Raises:
        GristmillError: a partition ended its worker again and again.
    """
    dispatch = Dispatch(plan, cluster.current().num_workers)
    with _signs_of_life(dispatch):
        dispatch.begin()

        def due(running: Sequence[Job]) -> list[Job]:
            told = crawler.progress(plan)
            num_requested = sum(one.num_requested for one in told.values())
            tell(num_requested, num_requested + sum(one.num_waiting for one in told.values()))
            return dispatch.due(running, told, crawler.partitions_with_mail(plan), time.monotonic())

        for job, result in cluster.current().run_while_due(partial(crawler.crawl_partitions, plan=plan, row=row), due):
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
    flow: str = field(default_factory=lambda: uuid.uuid4().hex)
    known: dict[int, Progress] = field(default_factory=dict)
    """Progress of partitions when they were last heard of."""
    wanting: set[int] = field(default_factory=set)
    """Partitions that stopped before they were done."""
    seconds: float = 0.0
    recalled: tuple[int, ...] = ()
    """Partitions of the job that is called back."""
    recall_after_s: float = _RECALL_AFTER_S
    num_kills: Counter[int] = field(default_factory=Counter)
    dealt_at_s: float = 0.0
    given: set[int] = field(default_factory=set)
    """Partitions that were ever part of a job."""

    def begin(self) -> None:
        """Leave the seeds for their partitions. Where nobody crawled before, nobody has to be asked how far it is."""
        plan = self.plan
        marker = storage.join(plan.post, _BEGUN)
        if not storage.exists(marker):
            self.known = dict.fromkeys(range(plan.num_partitions), Progress())
        letters = [Letter(url, urls.partition_of(urls.host_of(url), plan.num_partitions), 0, PAGE) for url in plan.seeds]
        crawler.post(plan, letters, "seeds")
        storage.write_json(marker, {})

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
            return [Job(tuple(some), Share(0, 0, 0), self.flow) for some in _dealt(dict.fromkeys(unknown, 1), num_free)]
        if len(self.known) < self.plan.num_partitions or num_free <= 0:
            return []
        wanted = {number: 1 + self.known[number].num_waiting for number in (self.wanting | with_mail) - busy}
        if not wanted:
            self._call_back(running, told, now_s)
            return []
        left = self._left(running)
        if left.num_pages < 1 or left.num_bytes < 1 or left.seconds <= 0:
            return []
        hands = _dealt(wanted, int(min(num_free, left.num_pages)))
        pages = left.num_pages if left.num_pages == _INFINITE else left.num_pages // len(hands)
        share = Share(pages, left.num_bytes / len(hands), left.seconds)
        self.dealt_at_s = now_s
        return [Job(tuple(hand), share, self.flow) for hand in hands]

    def took(self, job: Job, report: Report) -> None:
        """Takes how far a job came."""
        for number, progress in report.partitions.items():
            if progress.num_requested > self.known.get(number, Progress()).num_requested:
                self.num_kills[number] = 0
            self.known[number] = progress
            self.wanting.discard(number)
            if report.is_cut_short and progress.num_waiting:
                self.wanting.add(number)
        self.seconds = max(self.seconds, report.seconds)
        if job.partitions == self.recalled:
            self.recalled = ()
            crawler.sign_of_life(self.plan, self.flow, 0, self.recalled)

    def lost(self, job: Job, why: str) -> None:
        """Takes that a job ended every worker that took it: its partitions say anew how far they are, and go on."""
        for number in job.partitions:
            self.num_kills[number] += 1
            if self.num_kills[number] > _MAX_KILLS:
                raise GristmillError(
                    f"crawl: the worker of host partitions {job.partitions} ended again and again, most likely for want of memory: "
                    f"give workers more (dask.memory_limit) or lower crawl.fetch.concurrency and max_bytes. {why}"
                )
            self.known.pop(number, None)

    def _left(self, running: Sequence[Job]) -> Share:
        """What may be spent beside what is spent and what those at work may spend."""
        limits, known = self.plan.limits, self.known.values()
        pages = (limits.max_pages or _INFINITE) - sum(one.num_requested for one in known)
        num_bytes = (limits.max_bytes or _INFINITE) - sum(one.num_bytes for one in known)
        return Share(
            pages - sum(job.share.num_pages for job in running) if pages < _INFINITE else pages,
            num_bytes - sum(job.share.num_bytes for job in running) if num_bytes < _INFINITE else num_bytes,
            (limits.max_seconds or _INFINITE) - self.seconds,
        )

    def _call_back(self, running: Sequence[Job], told: Mapping[int, Progress], now_s: float) -> None:
        """Have the fullest job return what it has, if somebody else could do a part of it."""
        if self.recalled or now_s - self.dealt_at_s < self.recall_after_s:
            return
        for job in running:
            waiting = [told[number].num_waiting for number in job.partitions if number in told]
            if sum(waiting) - max(waiting, default=0) > _MANY_WAITING:
                self.recalled, self.recall_after_s = job.partitions, 2 * self.recall_after_s
                crawler.sign_of_life(self.plan, self.flow, 0, self.recalled)
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
            if over.wait(_SIGN_OF_LIFE_S):
                return
            crawler.sign_of_life(dispatch.plan, dispatch.flow, number, dispatch.recalled)

    crawler.sign_of_life(dispatch.plan, dispatch.flow, 0)
    thread = threading.Thread(target=beat, daemon=True)
    thread.start()
    try:
        yield
    finally:
        over.set()
        thread.join()
