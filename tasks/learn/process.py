"""What a process that trains does besides: it tells what happens, and ends with the one that waits for it. Imports no torch.

What happens goes line by line to `Work.events`: steps, lines of history, the result or an error in words. The process ends when the one
that started it does, so no training goes on unseen beside the next try.
"""

from __future__ import annotations

import json
import logging
import os
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import psutil

from infra.errors import InputError
from infra.versions import code_version
from tasks.learn.job import Work

WATCH_SECONDS = 0.2
"""So long a rank may outlive torchrun: less than the next try needs to begin."""

STEP_SECONDS = 0.2
"""Between two lines that only tell the step."""

Kind = TypeVar("Kind", bound=Work)


def do(path: str, kind: type[Kind], train: Callable[[Kind], None]) -> int:
    """Do the job of a file; 0: done, 1: an error that the events tell."""
    job = kind.model_validate_json(Path(path).read_text("utf-8"))
    logging.basicConfig(level=logging.INFO, format="%(message)s", stream=sys.stdout)
    threading.Thread(target=_end_with, args=(job.owner,), daemon=True).start()
    try:
        if (mine := code_version()) != job.code_version:
            raise InputError(f"training: this process runs the code {mine} and was started by {job.code_version}; start again")
        train(job)
    except InputError as error:
        tell(job, {"error": str(error)})
        return 1
    return 0


def tell(job: Work, event: dict[str, Any]) -> None:
    """Append one line in one write, so that lines of several ranks never mix."""
    with Path(job.events).open("a", encoding="utf-8") as file:
        file.write(json.dumps(event) + "\n")


class Teller:
    """Tells how a training goes: each line of history, and steps not too often."""

    def __init__(self, job: Work) -> None:
        self._job = job
        self._total: int | None = None
        self._last = 0.0

    def on_log(self, line: dict[str, float | None]) -> None:
        """A line of history."""
        tell(self._job, {"log": line})

    def on_step(self, step: int, total: int) -> None:
        """A step was made, of so many."""
        if total != self._total:
            self._total = total
            tell(self._job, {"total": total})
        if time.monotonic() - self._last >= STEP_SECONDS or step == total:
            self._last = time.monotonic()
            tell(self._job, {"step": step})


def _end_with(owner: int) -> None:
    """End this process, however deep in a product it is, when the one that waits for it, or torchrun in between, is gone."""
    parent = os.getppid()
    waits = psutil.Process(owner) if psutil.pid_exists(owner) else None
    while waits is not None and waits.is_running() and os.getppid() == parent:
        time.sleep(WATCH_SECONDS)
    os._exit(1)
