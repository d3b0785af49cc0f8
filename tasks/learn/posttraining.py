"""The process that trains on from a model: `python -m tasks.learn.posttraining JOB`, by the method that the job names.

TRL, torch and transformers are imported here and in the methods' modules, and nowhere above.
"""

from __future__ import annotations

import importlib
import json
import sys
from contextlib import ExitStack
from typing import Any

import transformers

from infra import storage
from infra.energy import metered
from tasks.learn import process
from tasks.learn.posttrain import PostJob


def main(path: str) -> int:
    """Do the job of a file; 0: done, 1: an error that the events tell."""
    transformers.utils.logging.disable_progress_bar()
    return process.do(path, PostJob, _train)


def _train(job: PostJob) -> None:
    method: Any = importlib.import_module(f"tasks.learn.{job.method}")
    teller = process.Teller(job)
    with ExitStack() as stack, metered("training") as electricity:
        models = {name: stack.enter_context(storage.local_folder(folder)) for name, folder in job.models.items()}
        result = method.train(job.model_copy(update={"models": models}), teller.on_log, teller.on_step)
    told = {**result, "energy_joules_estimated": electricity.joules}
    process.tell(job, {"result": json.loads(json.dumps(told, default=str))})


if __name__ == "__main__":
    sys.exit(main(sys.argv[1]))
