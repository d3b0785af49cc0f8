"""What a kill costs: processes of a running pipeline are killed, and the retry ends with the digests of the undisturbed run."""

from __future__ import annotations

import contextlib
import json
import os
import signal
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest
from served_mill import STEPS, Mill, wait_until

pytestmark = [pytest.mark.soak, pytest.mark.timeout(360, func_only=True)]


@pytest.fixture
def digests(mill: Mill, undisturbed: str) -> dict[str, str]:
    """{step: digest} of the undisturbed run."""
    return mill.digests(undisturbed)


def at_work(mill: Mill, undisturbed: str, step: str) -> bool:
    """Whether a step has left its first piece of work and has not ended."""
    folder = mill.store / mill.entries(undisturbed)[step]["path"]
    return not (folder / "manifest.json").exists() and any(pieces(folder))


def pieces(folder: Path) -> Iterator[Path]:
    """Receipts of shards and checkpoints: what a resume can start from."""
    yield from folder.glob("**/shards/*.json")
    yield from (path for path in folder.glob("aside/checkpoints/*") if path.is_dir())


@pytest.mark.parametrize(
    ("step", "flow", "number"),
    [
        ("crawl", "pipeline", signal.SIGKILL),
        ("dedup", "pipeline", signal.SIGKILL),
        ("pretrain", "train", signal.SIGKILL),
        ("pretrain", "train", signal.SIGTERM),
    ],
)
def test_a_flow_process_that_dies_in_a_step_is_tried_again_to_the_same_digests(
    mill: Mill, undisturbed: str, digests: dict[str, str], step: str, flow: str, number: int
) -> None:
    mill.forget(undisturbed, step)
    run_id = mill.submit()
    victim = mill.flow_process(mill.flow_below(run_id, flow)).pid  # known before the moment comes, which is short
    wait_until(lambda: at_work(mill, undisturbed, step), 120, f"{step} at work; {mill.logs()}")
    os.kill(victim, number)

    assert mill.ended(run_id)["state_type"] in ("CRASHED", "FAILED")
    assert not (mill.store / mill.entries(undisturbed)[step]["path"] / "manifest.json").exists()
    tried = mill.step_runs(run_id)
    mill.retry(run_id)
    assert mill.ended(run_id, attempt=2)["state_name"] == "Completed", mill.logs()

    assert mill.digests(run_id) == digests
    second = {run["name"]: run["state_name"] for run in mill.step_runs(run_id) if run["id"] not in {one["id"] for one in tried}}
    before = STEPS[: STEPS.index(step)]
    assert {name: second[name] for name in before} == dict.fromkeys(before, "Cached")
    assert second[step] == "Completed"
    tracked = mill.tracked(run_id)
    assert {run.info.status for run in tracked} == {"FINISHED"}
    assert len(tracked) == len({run.info.run_name for run in tracked})  # the retry went on in the runs of the first try


def test_a_dask_worker_that_dies_is_replaced_and_nobody_notices(mill: Mill, undisturbed: str, digests: dict[str, str]) -> None:
    mill.forget(undisturbed, "dedup")
    run_id = mill.submit("dask.workers=2")
    process = mill.flow_process(run_id)
    wait_until(lambda: at_work(mill, undisturbed, "dedup"), 120, f"dedup at work; {mill.logs()}")
    workers = [child for child in process.children(recursive=True) if "spawn_main" in " ".join(child.cmdline())]
    assert len(workers) >= 2
    os.kill(workers[-1].pid, signal.SIGKILL)
    assert mill.ended(run_id)["state_name"] == "Completed", mill.logs()
    assert mill.digests(run_id) == digests


def test_a_power_cut_leaves_no_run_that_seems_to_run_for_ever(mill: Mill, undisturbed: str, digests: dict[str, str]) -> None:
    mill.forget(undisturbed, "dedup")
    run_id = mill.submit()
    flow = mill.flow_process(run_id)
    wait_until(lambda: at_work(mill, undisturbed, "dedup"), 120, f"dedup at work; {mill.logs()}")
    worker = psutil.Process(json.loads((mill.home / "servers.json").read_text())["worker-cpu"]["pid"])
    for process in (worker, *worker.children(recursive=True), *flow.children(recursive=True), flow):
        with contextlib.suppress(psutil.NoSuchProcess):
            process.kill()
    assert mill.flow_run(run_id)["state_type"] == "RUNNING"  # nobody is left who could tell

    started = mill.cli("up")
    assert started.returncode == 0 and mill.flow_run(run_id)["name"] in started.stdout, started.stdout + started.stderr
    assert {run["state_type"] for run in mill.below(run_id)} == {"CRASHED"}
    mill.retry(run_id)
    assert mill.ended(run_id, attempt=2)["state_name"] == "Completed", mill.logs()
    assert mill.digests(run_id) == digests


def test_a_prefect_worker_that_dies_is_started_again_and_the_run_is_mended(
    mill: Mill, undisturbed: str, digests: dict[str, str]
) -> None:
    mill.forget(undisturbed, "dedup")
    run_id = mill.submit()
    wait_until(lambda: at_work(mill, undisturbed, "dedup"), 120, f"dedup at work; {mill.logs()}")
    worker = json.loads((mill.home / "servers.json").read_text())["worker-cpu"]
    psutil.Process(worker["pid"]).kill()
    status = mill.cli("status")
    assert status.returncode == 1 and "down" in status.stdout
    assert mill.cli("up").returncode == 0
    if mill.ended(run_id)["state_name"] != "Completed":  # its output went into the worker's pipe, which may end it
        mill.retry(run_id)
        assert mill.ended(run_id, attempt=2)["state_name"] == "Completed", mill.logs()
    assert mill.digests(run_id) == digests
