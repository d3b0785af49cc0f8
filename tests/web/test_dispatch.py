"""Who crawls what: every partition that wants work gets some, budgets are never passed, and nobody sits idle beside a full hand."""

from __future__ import annotations

import random
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from infra.errors import GristmillError
from tasks.web import crawler
from tasks.web.crawler import Job, Plan, Progress, Report, Share
from tasks.web.dispatch import Dispatch, begun
from tasks.web.fetch import FetchConfig
from tasks.web.frontier import LimitsConfig
from tasks.web.scope import ScopeConfig


def dispatch(folder: Path, num_partitions: int = 4, num_workers: int = 2, **limits: int) -> Dispatch:
    plan = Plan("", "", str(folder), "", num_partitions, (), LimitsConfig.model_validate(limits), FetchConfig(), ScopeConfig())
    return Dispatch(plan, num_workers, begun(str(folder)), flow="flow")


def report(cut_short: bool, **waiting: int) -> Report:
    return Report({int(name[1:]): Progress(10, 100, many) for name, many in waiting.items()}, cut_short)


def test_a_fresh_crawl_begins_at_once_and_a_continued_one_asks_first_how_far_it_is(tmp_path: Path) -> None:
    fresh = dispatch(tmp_path)
    fresh.begin()
    assert fresh.due([], {}, set(), 0.0) == []
    jobs = fresh.due([], {}, {2}, 0.0)
    # also those with nothing to do yet: what is found for them must not wait
    assert sorted(number for job in jobs for number in job.partitions) == [0, 1, 2, 3] and len(jobs) == 2
    again = dispatch(tmp_path)
    again.begin()
    hello = again.due([], {}, {0}, 0.0)
    assert [job.share for job in hello] == [Share(0, 0)] * 2
    assert sorted(number for job in hello for number in job.partitions) == [0, 1, 2, 3]
    again.took(hello[0], report(True, p0=5, p2=0))
    assert again.due(hello[1:], {}, {0}, 0.0) == []  # until all have answered
    again.took(hello[1], report(True, p1=70, p3=0))
    jobs = again.due([], {}, set(), 0.0)
    assert [job.partitions for job in jobs] == [(1,), (0, 2, 3)]


def test_what_waits_is_dealt_evenly_and_a_full_hand_is_called_back_for_an_idle_one(tmp_path: Path) -> None:
    one = dispatch(tmp_path, num_partitions=5)
    one.begin()
    first = Job((0, 1, 2, 3, 4), Share(0, 0), "flow")
    one.took(first, report(True, p0=900, p1=500, p2=400, p3=300, p4=0))
    jobs = one.due([], {}, set(), 0.0)
    assert [job.partitions for job in jobs] == [(0, 3), (1, 2, 4)]
    one.took(jobs[1], report(False, p1=0, p2=0, p4=0))
    told = {0: Progress(50, 0, 800), 3: Progress(50, 0, 301)}
    assert one.due(jobs[:1], told, set(), 0.5) == [] and one.recalled == ()
    assert one.due(jobs[:1], told, set(), 1.5) == [] and one.recalled == (0, 3)
    one.took(jobs[0], report(True, p0=700, p3=299))
    assert one.recalled == ()
    assert [job.partitions for job in one.due([], {}, set(), 2.0)] == [(0,), (3, 1, 2, 4)]


def test_a_worker_that_ends_without_getting_anywhere_is_given_up_and_one_that_does_is_not(tmp_path: Path) -> None:
    one = dispatch(tmp_path, num_partitions=1, num_workers=1)
    one.begin()
    job = Job((0,), Share(), "flow")
    for number in range(20):
        one.took(job, Report({0: Progress(number, 0, 5)}, is_cut_short=True))
        one.lost(job, "killed")
        assert one.due([], {}, {0}, 0.0)[0].share == Share(0, 0)
    with pytest.raises(GristmillError, match="again and again"):
        for _ in range(7):
            one.lost(job, "killed")


@settings(max_examples=60, deadline=None)
@given(st.integers(1, 400), st.integers(1, 5), st.integers(1, 6), st.integers(0, 2**32))
def test_a_budget_is_spent_and_never_passed_whatever_the_jobs_do(
    tmp_path_factory: pytest.TempPathFactory, max_pages: int, num_workers: int, num_partitions: int, seed: int
) -> None:
    chance = random.Random(seed)
    one = dispatch(tmp_path_factory.mktemp("d"), num_partitions, num_workers, max_pages=max_pages)
    one.begin()
    left = {number: chance.randint(0, 200) for number in range(num_partitions)}
    num_pages, done = sum(left.values()), dict.fromkeys(left, 0)
    running: list[Job] = []
    mail, known = set(left), set[int]()
    for _ in range(10_000):
        jobs = one.due(running, {}, mail, 0.0)
        running += jobs
        if not running:
            break
        job = running.pop(chance.randrange(len(running)))
        mail -= set(job.partitions)
        known |= set(job.partitions)
        for _ in range(chance.choice([1, 1, 2])):  # a job whose worker died is begun again
            for number in job.partitions:
                spent = sum(done[one] for one in job.partitions)
                taken = int(min(max(job.share.num_pages - spent, 0), left[number]))
                left[number] -= taken
                done[number] += taken
        spent = sum(done[one] for one in job.partitions)
        told = {number: Progress(done[number], 0, left[number]) for number in job.partitions}
        one.took(job, Report(told, spent >= job.share.num_pages))
    assert not running
    assert sum(done.values()) == min(max_pages, num_pages)
    assert known == set(left)  # what a budget leaves out is known, and refused by it
    assert crawler.partitions_with_mail(one.plan) == set()


def test_a_job_that_heard_nothing_goes_on_and_the_time_is_that_of_all_flows(tmp_path: Path) -> None:
    one = dispatch(tmp_path, num_partitions=1, num_workers=1, max_seconds=100)
    one.begin()
    job = one.due([], {}, {0}, 0.0)[0]
    one.took(job, report(True, p0=5))
    assert len(one.due([], {}, set(), 0.0)) == 1
    one.start = one.start.model_copy(update={"seconds": 99.5})
    assert 0 < one.seconds_left < 0.5
    one.sign(1)
    again = dispatch(tmp_path, num_partitions=1, num_workers=1, max_seconds=99)
    assert again.start.crawl_id == one.start.crawl_id and again.seconds_left < 0
    again.known = dict(one.known)
    again.wanting = {0}
    assert again.due([], {}, set(), 0.0) == []
    assert [job.share for job in again.due([], {}, {0}, 0.0)] == [Share(0, 0)]


def test_a_lost_job_that_was_called_back_leaves_the_way_free_for_others(tmp_path: Path) -> None:
    one = dispatch(tmp_path)
    one.begin()
    one.recalled = (0, 1)
    one.lost(Job((0, 1), Share(), "flow"), "killed")
    assert one.recalled == ()
