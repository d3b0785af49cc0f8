"""Kill a process and all its children, the moment a condition holds."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

from .driver import environment


def start(home: Path, *arguments: str) -> subprocess.Popen[str]:
    """Start Python in a process group of its own."""
    return subprocess.Popen(
        [sys.executable, *arguments],
        env=environment(home),
        start_new_session=True,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


def kill_when(process: subprocess.Popen[str], reached: Callable[[], bool], timeout_s: float = 60) -> None:
    """SIGKILL the whole group as soon as `reached()`; it is an error if the process ends before."""
    end = time.monotonic() + timeout_s
    while not reached():
        if process.poll() is not None or time.monotonic() > end:
            kill(process)
            raise AssertionError(f"ended or late before it could be killed: {process.communicate()[0]}")
        time.sleep(0.002)
    kill(process)


def kill(process: subprocess.Popen[str]) -> None:
    """SIGKILL the whole group."""
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()


def receipts(folder: Path) -> list[Path]:
    """Receipts of finished shards in a version's folder."""
    return [path for path in (folder / "shards").glob("*.json") if not path.name.startswith(".")]


def finished_parts(folder: Path) -> dict[Path, int]:
    """{shard with a receipt: time of its last change in nanoseconds}."""
    parts = [folder / f"part-{path.stem}.parquet" for path in receipts(folder)]
    return {part: part.stat().st_mtime_ns for part in parts}
