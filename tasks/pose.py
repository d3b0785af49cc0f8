"""pose: problems whose answers can be checked, from folders and datasets, and generated arithmetic.

What a check is and what it costs is in tasks/learn/verifiers.py. A row that cannot be asked or checked is a reject with its reason.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial

from expectations.schemas import PROBLEMS
from infra import storage
from infra.dataset import Counts
from infra.errors import InputError
from infra.steps import Output, step
from tasks.learn.problems import WHY_NOT, PoseConfig, decide, pose_rows
from tasks.text.given_rows import keep_rows
from tasks.text.readers import fingerprint, plan


def files_read(config: PoseConfig) -> Mapping[str, str]:
    """Name, size and time of every file read."""
    return fingerprint(config.read())


@step(schema="problems", fingerprint=files_read)
def pose(config: PoseConfig, out: Output) -> None:
    """Read or generate problems, each once, and hold some prompts out.

    Raises:
        InputError: there is nothing to read or to generate, or no problem among it.
    """
    jobs = [*plan(config.read()), *([None] if config.arithmetic else [])]
    if not jobs:
        raise InputError("pose: no problems; name `pose.sources`, or how many to generate in `pose.arithmetic`")
    candidates = out.map_aside("problems", partial(pose_rows, config=config), jobs)
    keep = partial(keep_rows, schema=PROBLEMS, why_not=WHY_NOT, excerpt="prompt")
    receipts = out.map(keep, list(zip(candidates, decide(candidates), strict=True)))
    out.sum_facts(receipts)
    counts = Counts.summed(receipt.counts for receipt in receipts)
    if not counts.kept:
        reasons = ", ".join(f"{rule} {count:,}" for rule, count in counts.dropped.items()) or "no rows"
        raise InputError(
            f"pose.sources: none of {counts.total:,} rows is a problem ({reasons}); are prompt, check and answer in other fields? Name "
            f"them in `fields`, or the check in `check`. The rows are in {storage.join(out.folder, 'rejects')}"
        )
