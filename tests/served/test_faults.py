"""What a fault costs: a running corpus is disturbed in every way we know, and the retry ends with the digests of the undisturbed run.

Each row of the table is one fault: what is done when a step is at work (or before it), how the first try ends, and what has to be mended
before the next. After each: equal digests, nothing left Running, one MLflow run per step and flow, and what came before it loaded.
"""

from __future__ import annotations

import contextlib
import os
import resource
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import psutil
import pytest
from served_mill import STEPS, Mill, free_port, wait_until

pytestmark = [pytest.mark.soak, pytest.mark.timeout(420, func_only=True)]

CURATE = STEPS[: STEPS.index("publish") + 1]


@pytest.fixture
def digests(mill: Mill, undisturbed: str) -> dict[str, str]:
    """{step: digest} of the undisturbed run."""
    return mill.digests(undisturbed)


@dataclass
class Scene:
    """A run that is going to be disturbed in one step."""

    mill: Mill
    undisturbed: str
    step: str
    run_id: str = ""
    flow: str = ""

    @property
    def folder(self) -> Path:
        """Where the step leaves its version."""
        return self.mill.folder(self.undisturbed, self.step)

    def at_work(self) -> bool:
        """Whether the step has left its first piece of work and has not ended."""
        return not (self.folder / "manifest.json").exists() and any(pieces(self.folder))

    def wait(self) -> None:
        wait_until(self.at_work, 120, f"{self.step} at work; {self.mill.logs()}")

    def process(self) -> psutil.Process:
        """The process of the flow that does the step."""
        return self.mill.flow_process(self.mill.flow_below(self.run_id, self.flow))


def pieces(folder: Path) -> Iterator[Path]:
    """Receipts of shards and checkpoints: what a resume can start from."""
    yield from folder.glob("**/shards/*.json")
    yield from (path for path in folder.glob("aside/checkpoints/*") if path.is_dir())


def kill(number: int) -> Callable[[Scene], None]:
    def harm(scene: Scene) -> None:
        victim = scene.process().pid  # known before the moment comes, which is short
        scene.wait()
        os.kill(victim, number)

    return harm


def fill_the_disk(scene: Scene) -> None:
    """A real file system of 48 KiB where the version is going to be."""
    scene.folder.mkdir(parents=True, exist_ok=True)
    done = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=48k", "tmpfs", str(scene.folder)], capture_output=True, text=True, check=False
    )
    if done.returncode:
        pytest.skip(f"no file system can be mounted here: {done.stderr.strip()}")


def give_it_room(scene: Scene) -> None:
    subprocess.run(["umount", str(scene.folder)], check=True)


def limit_file_size(scene: Scene) -> None:
    """No file above 20,000 bytes for the flow's process, and all that it starts."""
    psutil.Process(scene.process().pid).rlimit(psutil.RLIMIT_FSIZE, (20_000, resource.RLIM_INFINITY))


def lose_results(scene: Scene) -> None:
    shutil.rmtree(scene.mill.home / "prefect" / "storage", ignore_errors=True)


def flip_a_bit(scene: Scene, step: str, name: str = "part-00000.parquet") -> None:
    path = scene.mill.folder(scene.undisturbed, step) / name
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(bytes(data))


def lose_a_shard(scene: Scene) -> None:
    flip_a_bit(scene, "extract")
    (scene.mill.folder(scene.undisturbed, "signals") / "part-00000.parquet").unlink()


def kill_server(name: str) -> Callable[[Scene], None]:
    def harm(scene: Scene) -> None:
        victim = scene.mill.server(name)
        scene.wait()
        for process in (*victim.children(recursive=True), victim):
            with contextlib.suppress(psutil.NoSuchProcess):
                process.kill()
        time.sleep(3)
        started = scene.mill.cli("up")
        assert started.returncode == 0, started.stdout + started.stderr

    return harm


def cut_the_power(scene: Scene) -> None:
    """Worker and flow end together, so nobody is left who could tell; `up` finds out."""
    flow, worker = scene.process(), scene.mill.server("worker-cpu")
    scene.wait()
    for process in (worker, *worker.children(recursive=True), *flow.children(recursive=True), flow):
        with contextlib.suppress(psutil.NoSuchProcess):
            process.kill()
    assert scene.mill.flow_run(scene.run_id)["state_type"] == "RUNNING"
    started = scene.mill.cli("up")
    assert started.returncode == 0 and scene.mill.flow_run(scene.run_id)["name"] in started.stdout, started.stdout
    assert {run["state_type"] for run in scene.mill.below(scene.run_id)} <= {"CRASHED", "COMPLETED"}


def kill_a_dask_worker(scene: Scene) -> None:
    flow = scene.process()
    scene.wait()
    workers = [child for child in flow.children(recursive=True) if "spawn_main" in " ".join(child.cmdline())]
    assert len(workers) >= 2
    os.kill(workers[-1].pid, signal.SIGKILL)


def nothing(scene: Scene) -> None:
    return None


@dataclass(frozen=True)
class Fault:
    """One row: what happens to which step of which flow."""

    step: str
    during: Callable[[Scene], None] = nothing
    before: Callable[[Scene], None] = nothing
    mend: Callable[[Scene], None] = nothing
    flow: str = "curate"
    inside: str = "prepare"
    """Flow whose process does the step."""
    ends: tuple[str, ...] = ("CRASHED", "FAILED")
    """States of the first try."""
    again: tuple[str, ...] = ()
    """Steps before the disturbed one that the retry has to make again, at least in part."""
    retry: str = "prefect"
    overrides: tuple[str, ...] = ()


DONE = ("COMPLETED",)
MATRIX = {
    "flow killed in a crawl": Fault("crawl", kill(signal.SIGKILL)),
    "flow killed in dedup": Fault("dedup", kill(signal.SIGKILL), retry="rerun"),
    "flow terminated": Fault("dedup", kill(signal.SIGTERM)),
    "subflow killed": Fault("pretrain", kill(signal.SIGKILL), flow="pipeline", inside="train"),
    "subflow terminated": Fault("pretrain", kill(signal.SIGTERM), flow="pipeline", inside="train", retry="rerun"),
    "task failed: disk full": Fault("dedup", before=fill_the_disk, mend=give_it_room, ends=("FAILED",)),
    "task failed: file too large": Fault("validate", during=limit_file_size, ends=("FAILED", "CRASHED"), retry="rerun"),
    "result storage lost": Fault("dedup", kill(signal.SIGKILL), mend=lose_results),
    "rotten and lost shards, found by the retry": Fault(
        "dedup", kill(signal.SIGKILL), mend=lose_a_shard, again=("extract", "signals"), retry="rerun"
    ),
    "rotten shard, found when read": Fault("dedup", before=lambda scene: flip_a_bit(scene, "rewrite"), ends=DONE),
    "Dask worker killed": Fault("dedup", kill_a_dask_worker, ends=DONE, overrides=("dask.workers=2",)),
    "Prefect worker killed": Fault("dedup", kill_server("worker-cpu"), ends=("COMPLETED", "CRASHED", "FAILED")),
    "Prefect server killed": Fault("dedup", kill_server("prefect"), ends=("COMPLETED", "CRASHED", "FAILED"), retry="rerun"),
    "Prefect server killed in a training": Fault(
        "pretrain",
        kill_server("prefect"),
        flow="pipeline",
        inside="train",
        ends=("COMPLETED", "CRASHED", "FAILED"),
        retry="rerun",
    ),
    "MLflow server killed": Fault("dedup", kill_server("mlflow"), ends=("COMPLETED", "CRASHED", "FAILED")),
    "power cut": Fault("dedup", cut_the_power, retry="rerun"),
}


@pytest.mark.parametrize("name", MATRIX)
def test_a_run_that_is_disturbed_ends_with_the_digests_of_one_that_is_not(
    mill: Mill, undisturbed: str, digests: dict[str, str], name: str
) -> None:
    fault = MATRIX[name]
    scene = Scene(mill, undisturbed, fault.step, flow=fault.inside if fault.flow == "pipeline" else fault.flow)
    wanted = STEPS if fault.flow == "pipeline" else CURATE
    mill.forget(undisturbed, fault.step, wanted[-1])
    fault.before(scene)
    try:
        scene.run_id = mill.submit(*fault.overrides, flow=fault.flow)
        fault.during(scene)
        first = mill.ended(scene.run_id)
    finally:
        fault.mend(scene)
    assert first["state_type"] in fault.ends, f"{first['state']['message']} {mill.logs()}"
    tried = {one["id"] for one in mill.step_runs(scene.run_id)}
    if first["state_type"] != "COMPLETED":
        again(mill, scene.run_id, fault.retry)
        second = {one["name"]: one["state_name"] for one in mill.step_runs(scene.run_id) if one["id"] not in tried}
        before = STEPS[: STEPS.index(fault.step)]
        assert {step: second[step] for step in before} == {
            step: "Completed" if step in fault.again else "Cached" for step in before
        }
        assert second[fault.step] == "Completed"

    assert mill.digests(scene.run_id) == {step: digest for step, digest in digests.items() if step in wanted}
    assert {one["state_type"] for one in mill.below(scene.run_id)} <= {"COMPLETED", "CRASHED", "FAILED", "CANCELLED"}
    tracked = mill.tracked(scene.run_id)
    assert {one.info.status for one in tracked} == {"FINISHED"}
    assert len(tracked) == len({one.info.run_name for one in tracked})  # the retry went on in the runs of the first try
    assert mill.cli("verify", scene.run_id[:13]).returncode == 0


def test_a_killed_run_that_nobody_tries_again_is_left_running_nowhere(mill: Mill, undisturbed: str) -> None:
    """Its worker tells Prefect of the crash, but not of what ran inside it, nor MLflow: `doctor` does."""
    scene = Scene(mill, undisturbed, "dedup", flow="curate")
    mill.forget(undisturbed, "dedup", "publish")
    scene.run_id = mill.submit(flow="curate")
    kill(signal.SIGKILL)(scene)
    assert mill.ended(scene.run_id)["state_type"] == "CRASHED"
    assert "RUNNING" in {one.info.status for one in mill.tracked(scene.run_id)}

    def settled() -> bool:
        assert mill.cli("doctor").returncode == 0
        runs = [*mill.below(scene.run_id), *mill.step_runs(scene.run_id)]
        return {one["state_type"] for one in runs} == {"COMPLETED", "CRASHED"}

    wait_until(settled, 150, "no run that is said to be at work")
    tracked = {one.info.run_name: one.info.status for one in mill.tracked(scene.run_id)}
    assert set(tracked.values()) == {"FINISHED", "FAILED"} and tracked["flow curate"] == tracked["dedup"] == "FAILED"
    assert mill.cli("doctor").stdout.count("each that is said to run here does") == 1
    again(mill, scene.run_id, "rerun")
    assert {one.info.status for one in mill.tracked(scene.run_id)} == {"FINISHED"}


LONG_STEPS = 6000


def long_training(mill: Mill, seed: int) -> tuple[str, str]:
    """A pipeline whose training lasts a minute or two, at work: its run and that of its training."""
    run_id = mill.submit(f"pretrain.max_steps={LONG_STEPS}", "pretrain.checkpoint_every_steps=200", f"pretrain.seed={seed}")
    training = mill.flow_below(run_id, "train")
    wait_until(lambda: "pretrain" in mill.states(training), 120, f"pretrain at work; {mill.logs()}")
    return run_id, training


def test_who_cancels_a_pipeline_cancels_its_training_and_a_rerun_goes_on_with_both(mill: Mill, undisturbed: str) -> None:
    """As with the button on the page of the outermost run; what runs for it on another queue ends with it."""
    run_id, training = long_training(mill, seed=6)
    mill.ask(f"/flow_runs/{run_id}/set_state", state={"type": "CANCELLING", "name": "Cancelling"})
    assert mill.ended(run_id)["state_type"] == mill.ended(training)["state_type"] == "CANCELLED"
    again(mill, run_id, "rerun")
    assert mill.manifest(mill.entries(run_id)["pretrain"])["facts"]["steps"] == LONG_STEPS


@pytest.mark.timeout(600, func_only=True)
def test_down_ends_the_runs_of_its_workers_and_after_up_they_can_be_tried_again(mill: Mill, undisturbed: str) -> None:
    run_id, training = long_training(mill, seed=9)
    flows = [mill.flow_process(run) for run in (run_id, training)]
    family = [process for flow in flows for process in (flow, *flow.children(recursive=True))]
    mill.server("worker-cpu").kill()  # the pipeline outlives it; the other worker ends its training itself
    said = mill.cli("down")
    assert said.returncode == 0 and "runs: 1 had lost their worker and are stopped" in said.stdout, said.stdout + said.stderr
    assert not [process for process in family if process.is_running()]
    started = mill.cli("up")
    assert started.returncode == 0, started.stdout + started.stderr
    assert mill.ended(run_id)["state_type"] == mill.ended(training)["state_type"] == "CRASHED"
    again(mill, run_id, "rerun")
    assert mill.manifest(mill.entries(run_id)["pretrain"])["facts"]["steps"] == LONG_STEPS


@pytest.mark.parametrize("changed", [False, True], ids=["same work", "other work"])
def test_a_training_whose_pipeline_died_is_taken_up_again_if_it_does_the_same_work(
    mill: Mill, undisturbed: str, changed: bool
) -> None:
    """Its worker goes on with it; a second try of the pipeline waits for it, or cancels it where it is to train otherwise now."""
    run_id, training = long_training(mill, seed=7 if changed else 5)
    mill.flow_process(run_id).kill()
    assert mill.ended(run_id)["state_type"] == "CRASHED"
    if changed:
        parameters = mill.flow_run(run_id)["parameters"]
        parameters["config"]["pretrain"] |= {"max_steps": 30, "checkpoint_every_steps": 10}
        address = f"{mill.api}/flow_runs/{run_id}"
        httpx.patch(address, json={"parameters": parameters}, trust_env=False, timeout=90).raise_for_status()
    again(mill, run_id, "rerun")
    trainings = {one["id"]: one["state_type"] for one in mill.below(run_id) if mill.flow_name(one) == "train"}
    assert trainings.pop(training) == ("CANCELLED" if changed else "COMPLETED")
    assert list(trainings.values()) == ["COMPLETED"] * changed
    assert mill.manifest(mill.entries(run_id)["pretrain"])["facts"]["steps"] == (30 if changed else LONG_STEPS)


def again(mill: Mill, run_id: str, how: str) -> None:
    """Try a run once more, in one of the ways that a user has, and wait for its good end."""
    if how == "prefect":
        mill.retry(run_id)
    else:
        said = mill.cli("rerun", run_id, "--detach")
        assert said.returncode == 0, said.stdout + said.stderr
    ended = mill.ended(run_id, attempt=2)
    assert ended["state_name"] == "Completed", f"{ended['state']['message']} {mill.logs()}"


def test_a_dask_scheduler_that_dies_fails_the_run_which_goes_on_with_the_next_scheduler(
    mill: Mill, undisturbed: str, digests: dict[str, str], tmp_path: Path
) -> None:
    port = free_port()
    scene = Scene(mill, undisturbed, "dedup")
    mill.forget(undisturbed, "dedup", "publish")
    with dask_cluster(mill, port, tmp_path) as scheduler:
        scene.run_id = mill.submit("dask.kind=address", f"dask.address=tcp://127.0.0.1:{port}", flow="curate")
        scene.wait()
        scheduler.kill()
        first = mill.ended(scene.run_id)
        assert first["state_type"] in ("CRASHED", "FAILED"), first["state"]["message"]
    with dask_cluster(mill, port, tmp_path):
        again(mill, scene.run_id, "rerun")
    assert mill.digests(scene.run_id) == {step: digest for step, digest in digests.items() if step in CURATE}


@contextlib.contextmanager
def dask_cluster(mill: Mill, port: int, folder: Path) -> Iterator[Any]:
    """A scheduler and a worker as processes of their own; gives the scheduler's."""
    environment = mill.env | {"PYTHONPATH": os.pathsep.join([str(Path(__file__).parents[2]), mill.env.get("PYTHONPATH", "")])}
    words = [sys.executable, "-m", "distributed.cli.dask_scheduler", "--host", "127.0.0.1", "--port", str(port), "--no-dashboard"]
    worker = [sys.executable, "-m", "distributed.cli.dask_worker", f"tcp://127.0.0.1:{port}", "--nthreads", "1", "--no-dashboard"]
    with (folder / "dask.log").open("ab") as log:
        started = [subprocess.Popen(one, env=environment, cwd=folder, stdout=log, stderr=log) for one in (words, worker)]
    try:
        yield psutil.Process(started[0].pid)
    finally:
        for one in reversed(started):
            for process in (*psutil.Process(one.pid).children(recursive=True), one) if one.poll() is None else ():
                with contextlib.suppress(psutil.NoSuchProcess):
                    process.kill()
            one.wait(20)


def test_a_completed_run_is_made_again_from_a_step_on(mill: Mill, undisturbed: str, digests: dict[str, str]) -> None:
    """Also what another queue makes, and what comes behind it; what the run had lost of that is no obstacle."""
    run_id = mill.submit()
    assert mill.ended(run_id)["state_name"] == "Completed"
    said = mill.cli("rerun", run_id, "--from", "pretrain")
    assert said.returncode == 0, said.stdout + said.stderr + mill.logs()
    remade = ("pretrain", "evaluate", "register", "report")
    assert all(f"{step}: version" in said.stdout for step in remade) and "crawl      Completed" not in said.stdout
    assert mill.digests(run_id) == digests
    entries = mill.entries(run_id)
    assert {step: entry["loaded"] for step, entry in entries.items()} == {step: step not in remade for step in STEPS}
    lost = mill.folder(run_id, "evaluate")
    (lost / "manifest.json").unlink()
    for words in (("trace", "http://nowhere.example/"), ("verify",)):
        said = mill.cli(words[0], *words[1:], *(("--run",) if words[0] == "trace" else ()), run_id)
        assert said.returncode != 0 and "gristmill rerun" in said.stderr and "Traceback" not in said.stderr, said.stderr
    said = mill.cli("rerun", run_id)
    assert said.returncode == 0, said.stdout + said.stderr + mill.logs()
    assert mill.digests(run_id) == digests
