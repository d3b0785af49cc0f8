"""Temporary folders that do not outlive who made them: what a killed process left goes when the next one wants a folder."""

from __future__ import annotations

import contextlib
import fcntl
import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path

PREFIX = "gristmill-"
HELD = ".held"


@contextmanager
def folder(what: str) -> Iterator[str]:
    """An empty folder for the time of the block, below the system's folder of temporary files; `what` is part of its name."""
    _sweep(tempfile.gettempdir(), os.getpid())
    with tempfile.TemporaryDirectory(prefix=f"{PREFIX}{what}-") as outer:
        held = _hold(Path(outer))
        inner = Path(outer, "in")
        inner.mkdir()
        try:
            yield str(inner)
        finally:
            os.close(held)


def _hold(outer: Path) -> int:
    """Lock a file in it, which the kernel unlocks at the end of the process; it has its name only once it is locked."""
    new = outer / f"{HELD}.new"
    held = os.open(new, os.O_CREAT | os.O_RDWR, 0o600)
    fcntl.flock(held, fcntl.LOCK_EX)
    new.rename(outer / HELD)
    return held


@cache
def _sweep(root: str, _process: int) -> None:
    """Remove what nobody holds, once a process. A lock is seen from every container that sees the folder; a process number is not."""
    for path in Path(root).glob(f"{PREFIX}*/{HELD}"):
        with contextlib.suppress(OSError):  # it is of another user, held, or was removed meanwhile
            held = os.open(path, os.O_RDWR)
            try:
                fcntl.flock(held, fcntl.LOCK_EX | fcntl.LOCK_NB)
                shutil.rmtree(path.parent, ignore_errors=True)
            finally:
                os.close(held)
