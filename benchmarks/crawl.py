"""A whole site crawled by us and by Scrapy, in turn on the same nginx: same seeds, concurrency and robots.txt, WARC written by both.

    python -m benchmarks.crawl [--repeat N] [--without-scrapy]

Serves the Debian handbook in 26 languages, the installation guide in 19 and PostgreSQL's manual, 6,000 pages, on eight loopback
hosts (see `benchmarks.web_server`). Scrapy runs in an environment of its own, as one process and as two that share the hosts, each
also without WARC. Prints pages per second of the whole process, start-up included, and between the first and the last request in
nginx's log. Two short crawls show our manners as the server saw them: delay, Crawl-delay, concurrency. Ends with status 1 when
manners or page sets are not as promised.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from fastwarc.warc import ArchiveIterator, WarcRecordType
from protego import Protego

from benchmarks.peers import peer_environment
from benchmarks.web_server import (
    Request,
    ServedSite,
    WebServerError,
    by_host,
    closest,
    documents,
    greatest_overlap,
    serve,
)
from infra.settings import PROJECT, child_environment, settings

PACKAGES = ("debian-handbook", "installation-guide-amd64", "postgresql-doc-15")
NUM_HOSTS = 8
NUM_WORKERS = 2
CONCURRENCY = 8
AGENT = "gristmill-bench/1.0 (+http://127.0.1.1/)"
PEER = ("scrapy==2.19.0", "warcio==1.8.1")
FLOORS = {"Scrapy, one process": 4.0, "Scrapy, two processes": 2.0}
"""Times as many pages per second as this peer."""

DELAY_S, CRAWL_DELAY_S, GENTLE_PAGES = 0.2, 0.5, 25
"""The short crawl with a delay: what we are told, what the first host asks for, requests of a host."""
SLOW_BYTES_PER_S, SLOW_PAGES = 4000, 30
"""The short crawl without one: answers take a second or more, so that the log shows how many there are at a time; requests of a host."""
CLOCK_S = 0.002
"""What the log's milliseconds cannot tell: one at either end."""
MIN_COMMON = 0.99
"""Share of the pages of either that both must have fetched, or they did not crawl the same site."""

Commands = Callable[[ServedSite, Path], list[list[str]]]
"""The processes, side by side, that crawl a site and leave their WARC files in a folder."""


@dataclass(frozen=True)
class Run:
    """One crawl, as the clock and the server saw it."""

    began_at_s: float
    """By the clock that the server has too."""
    wall_s: float
    cpu_s: float
    requests: Sequence[Request]
    robots: Mapping[str, str]
    num_records: int
    """WARC records of answers."""

    @property
    def pages(self) -> frozenset[str]:
        """The distinct HTML pages that were answered."""
        return frozenset(f"http://{request.host}{request.path}" for request in self.requests if request.is_page)

    @property
    def start_up_s(self) -> float:
        """Seconds until the first request."""
        return self.requests[0].start_s - self.began_at_s

    @property
    def served_s(self) -> float:
        """Seconds between the first and the last request."""
        return max(request.end_s for request in self.requests) - self.requests[0].start_s

    @property
    def disallowed(self) -> list[str]:
        """What was asked for against robots.txt."""
        rules = {host: Protego.parse(text) for host, text in self.robots.items()}
        asked = ((request.host, f"http://{request.host}{request.path}") for request in self.requests)
        return [url for host, url in asked if not rules[host].can_fetch(url, AGENT)]


def ours(**more: Any) -> Commands:
    """`gristmill step crawl` with two workers; `more` are keys of the crawl's configuration (`__` for a dot)."""

    def commands(site: ServedSite, folder: Path) -> list[list[str]]:
        keys = {
            "sources": [{"kind": "site", "urls": site.seeds}],
            "fetch.agent": AGENT,
            "fetch.allowed_private_hosts": site.hosts,
            "fetch.concurrency_per_host": CONCURRENCY,
            "fetch.delay_s": 0.0,
            "limits.max_depth": 1000,
        } | {name.replace("__", "."): value for name, value in more.items()}
        given = [word for key, value in keys.items() for word in ("--set", f"crawl.{key}={json.dumps(value)}")]
        program = [sys.executable, "-m", "flows", "step", "crawl"]
        return [[*program, "--workers", str(NUM_WORKERS), "--output", str(folder / "crawl"), *given]]

    return commands


def by_scrapy(python: Path, num_processes: int, *, with_warc: bool = True) -> Commands:
    """The peer, each process with its share of the hosts."""

    def commands(site: ServedSite, folder: Path) -> list[list[str]]:
        program = [str(python), str(Path(__file__).with_name("scrapy_spider.py")), str(CONCURRENCY), AGENT]
        return [
            [*program, str(folder / f"scrapy-{number}.warc.gz") if with_warc else "-", *seeds]
            for number, seeds in enumerate(_shares(site, num_processes))
        ]

    return commands


def _shares(site: ServedSite, num_processes: int) -> list[list[str]]:
    """Seeds for each process: the largest host first, always to the process that has the fewest pages."""
    shares: list[list[str]] = [[] for _ in range(num_processes)]
    loads = [0] * num_processes
    for num_pages, seed in sorted(zip(site.num_pages, site.seeds, strict=True), reverse=True):
        least = loads.index(min(loads))
        shares[least].append(seed)
        loads[least] += num_pages
    return shares


def crawled(commands: Commands, packages: Sequence[str] = PACKAGES, **served: Any) -> Run:
    """One crawl of a site that is served for it alone, by a server whose log begins with it."""
    books = documents(settings().home / "benchmarks", packages)
    with tempfile.TemporaryDirectory(prefix="gristmill-bench-") as name:
        folder = Path(name)
        (folder / "server").mkdir()
        (folder / "crawler").mkdir()
        with serve(folder / "server", books, NUM_HOSTS, **served) as site:
            began_at_s = time.time()
            wall_s, cpu_s = _run(commands(site, folder / "crawler"), folder / "crawler")
            requests, robots = site.requests(), site.robots
        return Run(began_at_s, wall_s, cpu_s, requests, robots, sum(1 for _ in _records(folder / "crawler")))


def _run(commands: Sequence[Sequence[str]], folder: Path) -> tuple[float, float]:
    """(wall seconds until all have ended, CPU seconds of them and of all their children)."""
    environment = child_environment(GRISTMILL_HOME=str(folder / "home"))
    started = time.monotonic()
    with (folder / "output.txt").open("wb") as output:
        processes = [
            subprocess.Popen(command, cwd=PROJECT, env=environment, stdout=output, stderr=subprocess.STDOUT)
            for command in commands
        ]
        cpu_s = 0.0
        for process in processes:
            _, status, used = os.wait4(process.pid, 0)
            process.returncode = os.waitstatus_to_exitcode(status)
            cpu_s += used.ru_utime + used.ru_stime
    if any(process.returncode for process in processes):
        raise SystemExit(f"a crawler failed:\n{(folder / 'output.txt').read_text(errors='replace')[-4000:]}")
    return time.monotonic() - started, cpu_s


def _records(folder: Path) -> Iterator[object]:
    for path in folder.rglob("*.warc.gz"):
        with path.open("rb") as file:
            yield from ArchiveIterator(file, record_types=WarcRecordType.response, parse_http=False)


def in_turn(contestants: Mapping[str, Commands], repeat: int) -> dict[str, list[Run]]:
    """`repeat` runs of each, one after another, for the machine is not always equally fast."""
    runs: dict[str, list[Run]] = {name: [] for name in contestants}
    for number in range(repeat):
        for name, commands in contestants.items():
            run = crawled(commands)
            runs[name].append(run)
            print(f"{number + 1} of {repeat}: {name:<36} {len(run.pages):>6,} pages in {run.wall_s:6.1f} s", flush=True)
    return runs


def told(runs: Mapping[str, Sequence[Run]]) -> None:
    """The table of speeds, and the ratios beside their floors: of medians."""

    def median(name: str, figure: Callable[[Run], float]) -> float:
        return statistics.median(figure(run) for run in runs[name])

    def rate(name: str) -> float:
        return median(name, lambda run: len(run.pages) / run.wall_s)

    def served_rate(name: str) -> float:
        return median(name, lambda run: len(run.pages) / run.served_s)

    widths = {
        "pages": 6,
        "records": 8,
        "start s": 7,
        "wall s": 7,
        "CPU s": 7,
        "pages/s": 8,
        "pages/s served": 15,
        "pages/CPU s": 12,
    }
    print(f"\n{'':36} " + " ".join(f"{column:>{width}}" for column, width in widths.items()))
    for name in runs:
        wall_s, cpu_s = median(name, lambda run: run.wall_s), median(name, lambda run: run.cpu_s)
        num_pages, num_records = median(name, lambda run: len(run.pages)), median(name, lambda run: run.num_records)
        start_up_s = median(name, lambda run: run.start_up_s)
        print(
            f"{name:36} {num_pages:6,.0f} {num_records:8,.0f} {start_up_s:7.1f} {wall_s:7.1f} {cpu_s:7.1f} {rate(name):8.1f} "
            f"{served_rate(name):15.1f} {num_pages / cpu_s:12.1f}"
        )
    for name, floor in FLOORS.items() if len(runs) > 1 else ():
        ratio, served_ratio = rate("gristmill") / rate(name), served_rate("gristmill") / served_rate(name)
        good = ratio >= floor
        print(
            f"{f'gristmill beside {name}':52} {ratio:5.2f} x, served {served_ratio:5.2f} x   at least {floor:g} x   "
            f"{'' if good else 'MISSED'}"
        )


def page_sets(runs: Mapping[str, Sequence[Run]]) -> list[str]:
    """What is wrong with what was fetched: not one set of pages, pages without a record, disallowed URLs; prints the differences."""
    wrong = []
    reference = runs["gristmill"][0].pages
    for name, run in [(name, run) for name, several in runs.items() for run in several]:
        missing, further = sorted(reference - run.pages), sorted(run.pages - reference)
        if missing or further:
            print(f"{name}: {len(missing)} pages of ours not fetched {missing[:3]}, {len(further)} further ones {further[:3]}")
        if len(reference & run.pages) < MIN_COMMON * len(reference | run.pages):
            wrong.append(f"{name} did not crawl the same pages as we did at first")
        if name == "gristmill" and run.num_records < len(run.pages):
            wrong.append(f"{len(run.pages)} pages, but {run.num_records} WARC records")
        if name == "gristmill" and run.disallowed:
            wrong.append(f"{len(run.disallowed)} requests against robots.txt: {run.disallowed[:3]}")
    return wrong


def gentle() -> list[str]:
    """What is wrong with the distances of our requests to each host in the server's log, where there is a delay; prints them."""
    print(f"delay {DELAY_S} s, and {CRAWL_DELAY_S} s where robots.txt asks for it", flush=True)
    run = crawled(ours(fetch__delay_s=DELAY_S, limits__max_pages_per_host=GENTLE_PAGES), crawl_delay_s=CRAWL_DELAY_S)
    wrong = []
    for host, requests in sorted(by_host(run.requests).items()):
        wanted_s = Protego.parse(run.robots[host]).crawl_delay(AGENT) or DELAY_S
        before, after = closest(requests)
        found_s = after.start_s - before.start_s
        good = found_s >= wanted_s - CLOCK_S
        wrong += [] if good else [f"{host} was asked for {after.path} {found_s:.3f} s after {before.path}, not {wanted_s} s"]
        print(f"{host:<16} {len(requests):>5} requests, the closest {found_s:.3f} s apart   {'' if good else 'BROKEN'}")
    return wrong


def crowd(what: str, run: Run) -> list[str]:
    """What is wrong with the number of requests that each host was answering at a time; prints it."""
    most = {host: greatest_overlap(requests) for host, requests in sorted(by_host(run.requests).items())}
    good = max(most.values()) <= CONCURRENCY
    counts = ", ".join(map(str, most.values()))
    print(
        f"{what:<16} {len(run.requests):>5} requests, answered at a time by each host: {counts}   {'' if good else 'BROKEN'}",
        flush=True,
    )
    return [] if good else [f"{what}: {max(most.values())} requests at a time to one host"]


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeat", type=int, default=2, help="runs of each crawler")
    parser.add_argument("--without-scrapy", action="store_true", help="only our own speed and manners")
    options = parser.parse_args()
    contestants = {"gristmill": ours()}
    if not options.without_scrapy:
        python = peer_environment(PEER)
        contestants |= {
            "Scrapy, one process": by_scrapy(python, 1),
            "Scrapy, two processes": by_scrapy(python, 2),
            "Scrapy, one process, without WARC": by_scrapy(python, 1, with_warc=False),
            "Scrapy, two processes, without WARC": by_scrapy(python, 2, with_warc=False),
        }
    try:
        wrong = gentle()
        slow = crawled(ours(limits__max_pages_per_host=SLOW_PAGES), PACKAGES[:1], bytes_per_s=SLOW_BYTES_PER_S)
        wrong += crowd("slow answers", slow)
        runs = in_turn(contestants, options.repeat)
        wrong += [problem for run in runs["gristmill"] for problem in crowd("the whole site", run)]
        wrong += page_sets(runs)
        told(runs)
    except WebServerError as error:
        raise SystemExit(str(error)) from error
    if wrong:
        raise SystemExit("broken: " + "; ".join(wrong))


if __name__ == "__main__":
    main()
