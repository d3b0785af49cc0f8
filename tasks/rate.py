"""rate: single answers that were called good or bad, from folders and datasets, exported thumbs among them.

Each keeps its source and origin; one that cannot be used, is there twice, or contradicts others is a reject with its reason.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial

from expectations.schemas import RATINGS
from infra import storage
from infra.dataset import Counts
from infra.errors import InputError
from infra.steps import Output, step
from tasks.text.given_rows import keep_rows
from tasks.text.preferences import WHY_NOT, decide
from tasks.text.rated import RateConfig, read_rated
from tasks.text.readers import fingerprint, plan


def files_read(config: RateConfig) -> Mapping[str, str]:
    """Name, size and time of every file read."""
    return fingerprint(config.read())


@step(schema="ratings", fingerprint=files_read)
def rate(config: RateConfig, out: Output) -> None:
    """Read rated answers, decide where they contradict each other, and hold some prompts out.

    Raises:
        InputError: there is nothing to read, or no rated answer among it.
    """
    if not config.sources:
        raise InputError("rate.sources: none given; name a folder or a dataset with answers that were called good or bad")
    candidates = out.map_aside("rated", partial(read_rated, config=config), plan(config.read()))
    jobs = list(zip(candidates, decide(candidates), strict=True))
    receipts = out.map(partial(keep_rows, schema=RATINGS, why_not=WHY_NOT, excerpt="answer"), jobs)
    out.sum_facts(receipts)
    counts = Counts.summed(receipt.counts for receipt in receipts)
    if not counts.kept:
        reasons = ", ".join(f"{rule} {count:,}" for rule, count in counts.dropped.items()) or "no rows"
        raise InputError(
            f"rate.sources: none of {counts.total:,} rows is a rated answer ({reasons}); are answer and rating in other fields? Name them "
            f"in `fields.text` and `fields.good`. The rows are in {storage.join(out.folder, 'rejects')}"
        )
