"""Starts the process that trains, or several by torchrun, and hears what it tells. Imports no torch."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any, ClassVar

import psutil
from pydantic import BaseModel, ConfigDict

from infra.errors import GristmillError, InputError
from tasks.learn.compress_config import Teacher
from tasks.learn.config import TrainConfig

EVENTS, LOG, JOB = "events.jsonl", "training.log", "job.json"
POLL_SECONDS = 0.1
TOLD_LINES = 15
"""Of the log of a process that ended without a word."""


class TrainingDied(GristmillError):
    """The process that trains ended without a result or an error of its own: killed, out of memory, or a fault of ours."""


class Work(BaseModel):
    """What every process that trains is given; paths are those of this machine, or URLs of the storage."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    module: ClassVar[str]
    """The process is `python -m` of it."""

    folder: str
    """Local folder of checkpoints, events and log: a next try goes on from it."""
    cache: str
    """Folder for what is measured and compiled once on this machine."""
    provenance: dict[str, str]
    """Data and code that the model comes from."""
    code_version: str
    owner: int
    """Process that waits for this one."""

    @property
    def events(self) -> str:
        """The file that the process tells its steps, lines and result to."""
        return str(Path(self.folder, EVENTS))

    @property
    def ranks(self) -> int:
        """Processes that train together."""
        return 1


class Job(Work):
    """Pre-training."""

    module = "tasks.learn.training"

    tokens: str
    """Folder of the token shards."""
    splits: dict[str, list[int]]
    """`train`, and `valid`, on which the loss is looked at: numbers of shards."""
    tokeniser: str
    config: TrainConfig
    teacher: Teacher | None = None
    """What the model learns from beside the data."""

    @property
    def ranks(self) -> int:
        """Processes that train together, started by torchrun."""
        return self.config.ranks


def run(
    job: Work,
    environment: Mapping[str, str],
    *,
    on_log: Callable[[dict[str, float | None]], None],
    on_step: Callable[[int], None],
    on_total: Callable[[int], None] = lambda steps: None,
) -> dict[str, Any]:
    """Train in processes of their own and wait for the result: of pre-training the fields of `TrainResult`, paths as text.

    Args:
        on_log: gets each line of history.
        on_step: gets the number of each step, or of the last one of several.
        on_total: gets how many steps there will be, from a process that finds it out by itself.

    Raises:
        InputError: training cannot start or go on, in the words of the process.
        TrainingDied: the process ended without saying why.
    """
    folder = Path(job.folder)
    for name in (EVENTS, LOG):
        (folder / name).unlink(missing_ok=True)
    (folder / JOB).write_text(job.model_dump_json(), "utf-8")
    compiled = str(Path(job.cache, "compiled"))
    env = {"TORCHINDUCTOR_CACHE_DIR": compiled, "TRITON_CACHE_DIR": compiled, **environment}
    result: dict[str, Any] | None = None
    with (folder / LOG).open("wb") as log:
        process = subprocess.Popen(
            _command(job), env=env, stdout=log, stderr=subprocess.STDOUT, stdin=subprocess.DEVNULL, start_new_session=True
        )
        try:
            for event in _heard(process, Path(job.events)):
                if "error" in event:
                    raise InputError(event["error"])
                if "total" in event:
                    on_total(event["total"])
                if "step" in event:
                    on_step(event["step"])
                if "log" in event:
                    on_log(event["log"])
                result = event.get("result", result)
        except BaseException:
            _kill(process)
            raise
    if result is None:
        raise TrainingDied(f"the process that trains ended with code {process.returncode}:\n{_last_lines(folder / LOG)}")
    return result


def _command(job: Work) -> Sequence[str]:
    path = str(Path(job.folder, JOB))
    if job.ranks == 1:
        return [sys.executable, "-m", job.module, path]
    torchrun = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", str(job.ranks)]
    return [sys.executable, *torchrun, "-m", job.module, path]


def _heard(process: subprocess.Popen[bytes], path: Path) -> Any:
    """The events as they come, until the process has ended and all are heard."""
    at = 0
    while True:
        ended = process.poll() is not None
        if path.exists():
            with path.open("rb") as file:
                file.seek(at)
                for line in file:
                    if not line.endswith(b"\n"):
                        break  # still being written
                    at += len(line)
                    yield json.loads(line)
        if ended:
            return
        time.sleep(POLL_SECONDS)


def _kill(process: subprocess.Popen[bytes]) -> None:
    """End a process and all that it has started, and wait for it: the next try must not find a rank that still writes."""
    ranks: list[psutil.Process] = []  # torchrun gives each a session of its own, so a signal to the group misses them
    with suppress(psutil.NoSuchProcess):
        ranks = psutil.Process(process.pid).children(recursive=True)
    with suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    for rank in ranks:
        with suppress(psutil.NoSuchProcess):
            rank.kill()
    process.wait()
    psutil.wait_procs(ranks)


def _last_lines(path: Path) -> str:
    return "\n".join(path.read_text("utf-8", errors="replace").splitlines()[-TOLD_LINES:])
