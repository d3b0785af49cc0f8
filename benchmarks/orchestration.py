"""What the mill itself costs: steps as Prefect tasks tracked in MLflow beside the same steps called directly, and shards beside plain Dask.

    make bench

Starts servers of its own in a temporary home. The steps only wait, on a warm local cluster of two workers; the rest is overhead.
Times of a flow go from its body's first line to the end of its last step; start-up is told apart.
"""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

NUM_STEPS = 16
SHARDS_PER_STEP = 8
SECONDS_PER_SHARD = 0.25
NUM_SHARDS = 10_000
JOB_S = 600.0
LIMITS = {"share of a 10-minute job": 0.05, "overhead": 15.0, "start-up": 30.0, "per shard": 0.010, "resume scan": 5.0}


@contextmanager
def servers() -> Iterator[None]:
    """Servers in a home of their own, on ports of their own."""
    from infra import servers as own
    from infra.settings import adopt_quiet_environment, set_for_children

    with tempfile.TemporaryDirectory(prefix="gristmill-bench-") as home:
        for name, value in (("HOME", home), ("PREFECT_PORT", "14200"), ("MLFLOW_PORT", "15000"), ("QUEUES", "none")):
            set_for_children(f"GRISTMILL_{name}", value)
        adopt_quiet_environment()
        own.up(print)
        try:
            yield
        finally:
            own.down(print)


def timed(work: Callable[[], object]) -> float:
    """Seconds of one call."""
    started = time.monotonic()
    work()
    return time.monotonic() - started


def steps_in_a_row(offset: int) -> None:
    """The job: steps of shards that wait."""
    from benchmarks.sleepers import SLEEP, SleepConfig

    for number in range(NUM_STEPS):
        SLEEP(config=SleepConfig(number=offset + number, shards=SHARDS_PER_STEP, seconds=SECONDS_PER_SHARD))


def overhead() -> tuple[float, float]:
    """Seconds of the steps called directly, and of the same steps in a tracked flow, cluster and servers warm."""
    from prefect import flow

    from benchmarks.sleepers import SleepConfig
    from infra.cluster import DaskConfig, pool
    from infra.orchestration import tracked_flow

    spent: list[float] = []

    @flow(name="bench", persist_result=False)
    def body(offset: int) -> None:
        with tracked_flow("bench", SleepConfig()):
            spent.append(timed(lambda: steps_in_a_row(offset)))

    with pool(DaskConfig(workers=2)):
        steps_in_a_row(0)
        direct = timed(lambda: steps_in_a_row(1000))
        body(2000)
        body(3000)
    return direct, min(spent)


def shards() -> tuple[float, float, float]:
    """Seconds per shard through one step and through plain Dask, and seconds of looking at all when they are done."""
    from distributed import Client

    from benchmarks.sleepers import SLEEP, SleepConfig, wait
    from infra import dataset
    from infra.cluster import DaskConfig, pool

    config = SleepConfig(number=-1, shards=NUM_SHARDS)
    with pool(DaskConfig(workers=2)) as opened:
        SLEEP(config=SleepConfig(number=-2, shards=100))
        client: Client = opened._connect()
        plain = timed(lambda: client.gather(client.map(wait, range(NUM_SHARDS), [0.0] * NUM_SHARDS, pure=False))) / NUM_SHARDS
        ours = timed(lambda: SLEEP(config=config)) / NUM_SHARDS
    folder = SLEEP.run([], config).shards.folder
    dataset.reopen(folder)  # as after a kill before the manifest: every receipt and every file is looked at
    return ours, plain, timed(lambda: dataset.finished_shards(folder, NUM_SHARDS))


def start_up() -> float:
    """Seconds from asking for a run of the deployment `curate` to its body's first line, with a warm worker."""
    words = [sys.executable, "-m", "flows", "run", "curate", "--config", "demo", "--detach"]
    environment = dict(os.environ) | {"GRISTMILL_QUEUES": "cpu"}  # noqa: TID251 -- a child's, with one word more
    root = Path(__file__).parent.parent
    subprocess.run([sys.executable, "-m", "flows", "up"], check=True, env=environment, cwd=root, stdout=subprocess.DEVNULL)
    subprocess.run(words, check=True, env=environment, cwd=root, stdout=subprocess.DEVNULL)
    from prefect import get_client

    with get_client(sync_client=True) as client:
        while True:
            [run] = client.read_flow_runs(limit=1)
            if run.start_time is not None and run.created is not None:
                return (run.start_time - run.created).total_seconds()
            time.sleep(0.2)


def main() -> None:
    """Measure and print, beside the limits."""
    with servers():
        direct, tracked = overhead()
        ours, plain, scan = shards()
        started = start_up()
    work = NUM_STEPS * SHARDS_PER_STEP * SECONDS_PER_SHARD / 2
    extra = tracked - direct
    rows = [
        (f"{NUM_STEPS} steps called directly", f"{direct:.2f} s", f"of which {work:.1f} s are waited", True),
        ("the same in a tracked flow", f"{tracked:.2f} s", "", True),
        ("overhead", f"{extra:.2f} s, {extra / NUM_STEPS:.3f} s a step", "at most 15 s", extra <= LIMITS["overhead"]),
        ("share of a 10-minute job", f"{extra / JOB_S:.2%}", "at most 5 %", extra / JOB_S <= LIMITS["share of a 10-minute job"]),
        ("start-up of a deployment's run", f"{started:.1f} s", "at most 30 s", started <= LIMITS["start-up"]),
        (f"{NUM_SHARDS:,} shards through one step", f"{1000 * ours:.2f} ms each", "at most 10 ms", ours <= LIMITS["per shard"]),
        ("the same work through plain Dask, nothing written", f"{1000 * plain:.2f} ms each", f"ratio {ours / plain:.1f}", True),
        (f"resume scan of {NUM_SHARDS:,} finished shards", f"{scan:.2f} s", "at most 5 s", scan <= LIMITS["resume scan"]),
    ]
    for what, figure, beside, good in rows:
        print(f"{what:<52} {figure:<26} {beside:<28} {'' if good else 'MISSED'}")


if __name__ == "__main__":
    main()
