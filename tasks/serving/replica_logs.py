"""What replicas write beside their answers: a file for each start of one, and the newest of those that have ended are kept.

A file's lock is its process's: both have it from the one handle, so it is free exactly when the last who writes there has ended, however
that came. Several gateways share a folder and see by the locks which files are none of theirs to remove.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import secrets
from pathlib import Path
from typing import BinaryIO

KEPT_LOGS = 20
"""Of replicas that have ended: enough to see what a crash loop of half an hour says."""


class ReplicaLogs:
    """The folder."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        folder.mkdir(parents=True, exist_ok=True, mode=0o700)  # an engine's log may repeat what it was asked

    def path(self, name: str, number: int) -> Path:
        """A file for a replica that starts now; of those that have ended, the oldest make room."""
        self._make_room()
        plain = "".join(char if char.isalnum() else "-" for char in name)
        return self._folder / f"{plain}-{secrets.token_hex(4)}-{number}.log"

    def _make_room(self) -> None:
        ended = sorted((ns, path) for path in self._folder.glob("*.log") if (ns := _ended_ns(path)) is not None)
        for _, path in ended[: max(0, len(ended) + 1 - KEPT_LOGS)]:
            path.unlink(missing_ok=True)


def opened(path: Path) -> BinaryIO:
    """A log to hand to a process, which holds its lock from then on."""
    file = path.open("wb")
    fcntl.flock(file, fcntl.LOCK_SH)  # never waits: all locks of these files are shared, but for the looks at them
    return file


def _ended_ns(path: Path) -> int | None:
    """When a log was last written to, if nobody writes there any more; None where somebody may, or it is gone."""
    with contextlib.suppress(FileNotFoundError, BlockingIOError), path.open("rb") as file:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        return os.fstat(file.fileno()).st_mtime_ns
    return None
