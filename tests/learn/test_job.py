"""Training in a process of its own: killed at any moment it goes on bit for bit, and what ends it is told."""

import json
import os
import random
import re
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any

import psutil
import pytest

from infra.errors import InputError
from infra.settings import child_environment
from infra.versions import code_version
from tasks.learn import job as training_job
from tasks.learn import trainer, training
from tasks.learn.config import TrainConfig
from tasks.learn.job import Job, TrainingDied, run
from tasks.learn.tokens import TokenShard, write_shard
from tests.learn.test_parallel import CONFIG

EXACT = ("step", "tokens", "train_loss", "valid_loss", "valid_f1", "train_accuracy", "lr", "grad_norm")


def exact(history: list[dict[str, Any]]) -> list[list[Any]]:
    return [[line.get(name) for name in EXACT] for line in history]


@pytest.fixture(scope="module")
def on_disk(shards: list[TokenShard], tmp_path_factory: pytest.TempPathFactory) -> str:
    folder = str(tmp_path_factory.mktemp("on-disk"))
    for index, shard in enumerate(shards):
        write_shard(folder, index, shard.tokens, shard.docs)
    return folder


def job(on_disk: str, tokeniser_folder: str, folder: Path, config: TrainConfig, **changes: Any) -> Job:
    folder.mkdir(exist_ok=True)
    given: dict[str, Any] = {
        "tokens": on_disk,
        "splits": {"train": [0, 1, 2], "valid": [0, 1, 2]},
        "tokeniser": tokeniser_folder,
        "config": config,
        "folder": str(folder),
        "cache": str(folder.parent),
        "provenance": {"tokens": "tokenise/abc"},
        "code_version": code_version(),
        "owner": os.getpid(),
    }
    return Job(**(given | changes))


def do(one: Job, lines: list[Any] | None = None) -> dict[str, Any]:
    return run(one, child_environment(), on_log=[].append if lines is None else lines.append, on_step=lambda step: None)


def pid_of(folder: Path, module: str = "tasks.learn.training") -> int | None:
    """The process that trains into a folder."""
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            words = path.read_bytes().split(b"\0")
        except OSError:
            continue
        if module.encode() in words and any(word.startswith(os.fsencode(folder)) for word in words):
            return int(path.parent.name)
    return None


@pytest.mark.soak
def test_killed_at_a_random_moment_and_resumed_gives_the_same_bits(
    on_disk: str, shards: list[TokenShard], tokeniser_folder: str, tmp_path: Path
) -> None:
    # long enough that the moment is somewhere in it: between steps, within one, in a checkpoint, in an evaluation
    config = CONFIG.model_copy(update={"max_steps": 60, "checkpoint_every_steps": 7})
    undisturbed = trainer.train(
        shards,
        shards,
        config,
        tmp_path / "undisturbed",
        tokeniser_folder=tokeniser_folder,
        on_log=lambda line: None,
        provenance={"tokens": "tokenise/abc"},
    )
    folder, seen = tmp_path / "killed", []
    fatal_step, delay_s = random.randrange(8, 50), random.random() * 0.1
    one = job(on_disk, tokeniser_folder, folder, config)

    def kill(line: dict[str, Any]) -> None:
        seen.append(line)
        if line["step"] == fatal_step:
            pid = pid_of(folder)
            assert pid is not None
            threading.Timer(delay_s, os.kill, (pid, signal.SIGKILL)).start()

    moment = f"step {fatal_step} and {delay_s:.3f} s"
    with pytest.raises(TrainingDied, match="ended with code -9"):
        run(one, child_environment(), on_log=kill, on_step=lambda step: None)
    lines: list[Any] = []
    resumed = do(one, lines)
    assert lines[0]["step"] >= fatal_step // 7 * 7, moment
    assert exact(seen) == exact(undisturbed.history)[: len(seen)], moment
    assert exact(resumed["history"]) == exact(undisturbed.history), moment
    mine, theirs = Path(resumed["model_folder"], "model.safetensors"), undisturbed.model_folder / "model.safetensors"
    assert mine.read_bytes() == theirs.read_bytes(), moment


def test_what_it_started_ends_with_it_though_it_has_a_session_of_its_own(tmp_path: Path) -> None:
    # as torchrun starts its ranks
    child = (
        "import subprocess as s; one = s.Popen(['sleep', '60'], start_new_session=True); print(one.pid, flush=True); one.wait()"
    )
    with subprocess.Popen([sys.executable, "-c", child], stdout=subprocess.PIPE, start_new_session=True) as process:
        assert process.stdout is not None
        rank = int(process.stdout.readline())
        assert psutil.pid_exists(rank)
        training_job._kill(process)
    assert not psutil.pid_exists(rank) or psutil.Process(rank).status() == psutil.STATUS_ZOMBIE


def test_the_process_tells_what_a_user_can_mend(on_disk: str, tokeniser_folder: str, tmp_path: Path) -> None:
    def said(one: Job) -> str:
        path = tmp_path / "job.json"
        path.write_text(one.model_dump_json())
        Path(one.events).unlink(missing_ok=True)
        assert training.main(str(path)) == 1
        [event] = [json.loads(line) for line in Path(one.events).read_text().splitlines()]
        return str(event["error"])

    config = CONFIG.model_copy(update={"max_steps": 4})
    assert re.match(
        "training: this process runs the code [0-9a-f]{16} and was started by old",
        said(job(on_disk, tokeniser_folder, tmp_path / "old", config, code_version="old")),
    )
    assert "cuda does not work here" in said(
        job(on_disk, tokeniser_folder, tmp_path / "gpu", config.model_copy(update={"device": "cuda"}))
    )


@pytest.mark.soak
@pytest.mark.parametrize("parallel", ["ddp", "fsdp"])
def test_torchrun_starts_the_ranks_and_a_kill_of_one_ends_all(
    parallel: str, on_disk: str, shards: list[TokenShard], tokeniser_folder: str, tmp_path: Path
) -> None:
    config = CONFIG.model_copy(update={"ranks": 2, "parallel": parallel, "max_steps": 60})
    folder = tmp_path / "killed"
    one = job(on_disk, tokeniser_folder, folder, config)

    def kill(line: dict[str, Any]) -> None:
        if line["step"] == 20:
            os.kill(pid_of(folder) or 0, signal.SIGKILL)  # torchrun or a rank, whichever is found first

    with pytest.raises(TrainingDied):
        run(one, child_environment(), on_log=kill, on_step=lambda step: None)
    until = time.monotonic() + 20
    while pid_of(folder) is not None:
        assert time.monotonic() < until, "a rank lives on"
        time.sleep(0.2)
    result = do(one)
    alone = trainer.train(
        shards,
        shards,
        config.model_copy(update={"ranks": 1}),
        tmp_path / "alone",
        tokeniser_folder=tokeniser_folder,
        on_log=lambda line: None,
    )
    assert [line["train_loss"] for line in result["history"]] == pytest.approx(
        [line["train_loss"] for line in alone.history], rel=1e-3
    )


@pytest.mark.soak
def test_training_ends_with_the_process_that_waits_for_it_and_a_fault_is_told_with_the_log(
    on_disk: str, tokeniser_folder: str, tmp_path: Path
) -> None:
    folder = tmp_path / "orphan"
    owner = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"])
    one = job(on_disk, tokeniser_folder, folder, CONFIG.model_copy(update={"max_steps": 100_000}), owner=owner.pid)

    def end(line: dict[str, Any]) -> None:
        if line["step"] == 5:
            owner.kill()
            owner.wait()

    with pytest.raises(TrainingDied, match="ended with code 1"):
        run(one, child_environment(), on_log=end, on_step=lambda step: None)
    with pytest.raises(TrainingDied, match="KeyError: 'valid'"):
        do(job(on_disk, tokeniser_folder, tmp_path / "fault", CONFIG, splits={"train": [0]}))
    with pytest.raises(InputError, match="made with another max_steps"):
        do(job(on_disk, tokeniser_folder, folder, CONFIG))
