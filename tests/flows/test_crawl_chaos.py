"""kill -9 of a worker, of the scheduler and of the whole crawl, at random moments: no page is lost, no host is hurried."""

from __future__ import annotations

import asyncio
import os
import random
import signal
import subprocess
import sys
import time
from itertools import pairwise
from pathlib import Path

import pytest
import yaml
from aiohttp import web

from expectations.schemas import CAPTURES
from infra.dataset import open_version
from tasks.web import warc
from tests.web.loopback import Loopback, loopback

from .processes import environment
from .test_cluster_elsewhere import Cluster

pytestmark = [pytest.mark.soak, pytest.mark.timeout(900, func_only=True)]
NUM_HOSTS, NUM_PAGES, NUM_KILLS, DELAY_S = 8, 250, 20, 0.08
SEED = 20261126


async def page(request: web.Request) -> web.StreamResponse:
    """A binary tree of pages on each host, each linked to its like on the next host."""
    if not request.path.startswith("/p"):
        return web.Response(status=404)
    await asyncio.sleep(0.005)
    number, host, port = int(request.path[2:]), int(request.host.split(".")[3].partition(":")[0]), request.host.rpartition(":")[2]
    below = [f"/p{one}" for one in (2 * number + 1, 2 * number + 2) if one < NUM_PAGES]
    links = "".join(f"<a href='{link}'>on</a>" for link in [*below, f"http://127.0.0.{host % NUM_HOSTS + 1}:{port}/p{number}"])
    return web.Response(text=f"<p>Page {number} of host {host}.</p>{links}", content_type="text/html")


def configuration(folder: Path, site: Loopback, dask: dict[str, object]) -> Path:
    raw = {
        "dask": dask,
        "crawl": {
            "sources": [{"kind": "site", "urls": [f"http://{site.hosts[0]}/p0"]}],
            "scope": {"allowed_hosts": site.hosts},
            "limits": {"max_depth": 1000},
            "fetch": {"agent": "test/1 (+http://a.example/)", "delay_s": DELAY_S, "allowed_private_hosts": site.hosts},
        },
    }
    path = folder / f"{dask['kind']}.yaml"
    path.write_text(yaml.safe_dump(raw))
    return path


def crawl(folder: Path, config: Path) -> subprocess.Popen[str]:
    command = [sys.executable, str(Path(__file__).with_name("crawling.py")), str(config), str(folder / "out")]
    with (folder / "said.log").open("a") as log:
        return subprocess.Popen(
            command, env=environment(folder / "home"), stdout=log, stderr=log, text=True, start_new_session=True
        )


def captures(folder: Path) -> set[tuple[str, str]]:
    rows = [row for shard in open_version(str(folder / "out")).shards() for row in shard.read(CAPTURES.names).to_pylist()]
    assert len(rows) == len({row["doc_id"] for row in rows})
    return {(row["url"], row["payload_digest"]) for row in rows}


def test_twenty_kills_lose_no_page_and_repeat_only_what_was_in_flight(tmp_path: Path) -> None:
    chance = random.Random(SEED)
    calm, killed = tmp_path / "calm", tmp_path / "killed"
    calm.mkdir()
    killed.mkdir()
    with loopback(page, NUM_HOSTS) as site:
        assert crawl(calm, configuration(calm, site, {"kind": "none"})).wait(120) == 0, (calm / "said.log").read_text()
        undisturbed, asked_in_peace = captures(calm), len(site.asked)
        assert asked_in_peace == len(undisturbed) == NUM_HOSTS * NUM_PAGES
        site.log.clear()
        kinds: list[str] = []
        process = cluster = None
        while len(kinds) < NUM_KILLS:
            if cluster is None:
                folder = killed / f"dask-{len(kinds)}"
                folder.mkdir()
                cluster = Cluster(folder)
                cluster.worker("one")
                cluster.worker("two")
            if process is None:
                process = crawl(killed, configuration(killed, site, {"kind": "address", "address": cluster.address}))
            goal = len(site.log) + chance.randint(1, NUM_HOSTS * NUM_PAGES // NUM_KILLS)
            deadline = time.monotonic() + 60
            while len(site.log) < goal:
                assert process.poll() is None and time.monotonic() < deadline, (killed / "said.log").read_text()
                time.sleep(0.001)
            kinds.append(chance.choice(["worker", "scheduler", "whole"]))
            if kinds[-1] == "worker":
                name = chance.choice([name for name in cluster.processes if name != "scheduler"])
                cluster.kill(name)
                del cluster.processes[name]
                cluster.worker(f"{name}+")
                continue
            if kinds[-1] == "scheduler":
                cluster.kill("scheduler")
                assert process.wait(60) != 0  # it says so and ends
            else:
                os.killpg(process.pid, signal.SIGKILL)
                process.wait()
            cluster.close()
            process = cluster = None
        if process is None:
            assert crawl(killed, configuration(killed, site, {"kind": "none"})).wait(120) == 0, (killed / "said.log").read_text()
        else:
            assert process.wait(120) == 0, (killed / "said.log").read_text()
        if cluster is not None:
            cluster.close()
    assert set(kinds) == {"worker", "scheduler", "whole"}
    assert captures(killed) == undisturbed
    assert len(site.asked) == NUM_HOSTS * NUM_PAGES
    assert sum(count - 1 for count in site.asked.values()) <= NUM_KILLS * NUM_HOSTS  # with a delay one of each host is in flight
    items = [item for path in (killed / "out").rglob("*.warc.gz") for item in warc.scan(path)]
    assert all(isinstance(item, warc.Record) for item in items)
    assert len([item for item in items if isinstance(item, warc.Record) and item.status == 200]) == NUM_HOSTS * NUM_PAGES
    for host in site.hosts:
        times = [at_s for url, at_s in site.log if f"//{host}/" in url]
        assert min(after - before for before, after in pairwise(times)) >= DELAY_S
