"""The process that trains: `python -m tasks.learn.training JOB`, alone or as one of torchrun's ranks.

torch and transformers are imported here and nowhere above, so a flow, a server or the command line never pays for them.
"""

from __future__ import annotations

import json
import sys
from dataclasses import asdict
from pathlib import Path

import transformers

from infra.energy import metered
from tasks.learn import device, parallel, process
from tasks.learn.job import Job
from tasks.learn.tokens import read_shard
from tasks.learn.trainer import train


def main(path: str) -> int:
    """Do the job of a file; 0: done, 1: an error that the events tell."""
    transformers.utils.logging.disable_progress_bar()
    return process.do(path, Job, _train)


def _train(job: Job) -> None:
    config = job.config
    opened = {name: [read_shard(job.tokens, index) for index in indices] for name, indices in job.splits.items()}
    teller = process.Teller(job)
    name, _ = device.resolve(config.device)
    with parallel.joined(config.ranks, name) as ranks, metered("training") as electricity:
        result = train(
            opened["train"],
            opened["valid"],
            config,
            Path(job.folder),
            tokeniser_folder=job.tokeniser,
            on_log=teller.on_log if ranks.first else lambda line: None,
            on_step=(lambda step: teller.on_step(step, config.max_steps)) if ranks.first else lambda step: None,
            provenance=job.provenance,
            ranks=ranks,
            cache=Path(job.cache),
            teacher=job.teacher,
        )
    if ranks.first:
        told = {**asdict(result), "energy_joules_estimated": electricity.joules}
        process.tell(job, {"result": json.loads(json.dumps(told, default=str))})


if __name__ == "__main__":
    sys.exit(main(sys.argv[1]))
