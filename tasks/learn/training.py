"""The process that trains: `python -m tasks.learn.training JOB`, alone or as one of torchrun's ranks.

torch and transformers are imported here and nowhere above, so a flow, a server or the command line never pays for them. What happens
goes line by line to `Job.events`: steps, lines of history, the result or an error in words. The process ends when the one that started it
does, so no training goes on unseen beside the next try.
"""

from __future__ import annotations

import json
import logging
import os
import sys
import threading
import time
from dataclasses import asdict
from pathlib import Path
from typing import Any

import psutil
import transformers

from infra.energy import metered
from infra.errors import InputError
from infra.versions import code_version
from tasks.learn import device, parallel
from tasks.learn.job import Job
from tasks.learn.tokens import read_shard
from tasks.learn.trainer import train

STEP_SECONDS = 0.2
"""Between two lines that only tell the step."""
WATCH_SECONDS = 0.2
"""So long a rank may outlive torchrun: less than the next try needs to begin."""


def main(path: str) -> int:
    """Do the job of a file; 0: done, 1: an error that the events tell."""
    job = Job.model_validate_json(Path(path).read_text("utf-8"))
    logging.basicConfig(level=logging.INFO, format="%(message)s", stream=sys.stdout)
    transformers.utils.logging.disable_progress_bar()
    threading.Thread(target=_end_with, args=(job.owner,), daemon=True).start()
    try:
        if (mine := code_version()) != job.code_version:
            raise InputError(f"training: this process runs the code {mine} and was started by {job.code_version}; start again")
        _train(job)
    except InputError as error:
        _tell(job, {"error": str(error)})
        return 1
    return 0


def _train(job: Job) -> None:
    config = job.config
    opened = {name: [read_shard(job.tokens, index) for index in indices] for name, indices in job.splits.items()}
    last = [0.0]

    def on_step(step: int) -> None:
        if time.monotonic() - last[0] >= STEP_SECONDS or step == config.max_steps:
            last[0] = time.monotonic()
            _tell(job, {"step": step})

    name, _ = device.resolve(config.device)
    with parallel.joined(config.ranks, name) as ranks, metered("training") as electricity:
        result = train(
            opened["train"],
            opened["valid"],
            config,
            Path(job.folder),
            tokeniser_folder=job.tokeniser,
            on_log=(lambda line: _tell(job, {"log": line})) if ranks.first else (lambda line: None),
            on_step=on_step if ranks.first else lambda step: None,
            provenance=job.provenance,
            ranks=ranks,
            cache=Path(job.cache),
        )
    if ranks.first:
        told = {**asdict(result), "energy_joules_estimated": electricity.joules}
        _tell(job, {"result": json.loads(json.dumps(told, default=str))})


def _tell(job: Job, event: dict[str, Any]) -> None:
    """Append one line in one write, so that lines of several ranks never mix."""
    with Path(job.events).open("a", encoding="utf-8") as file:
        file.write(json.dumps(event) + "\n")


def _end_with(owner: int) -> None:
    """End this process, however deep in a product it is, when the one that waits for it, or torchrun in between, is gone."""
    parent = os.getppid()
    waits = psutil.Process(owner) if psutil.pid_exists(owner) else None
    while waits is not None and waits.is_running() and os.getppid() == parent:
        time.sleep(WATCH_SECONDS)
    os._exit(1)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1]))
