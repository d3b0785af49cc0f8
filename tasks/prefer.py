"""prefer: preference pairs from folders and datasets, in the shapes of TRL, HH, ShareGPT and exported votes.

Each pair keeps its source and origin; one that cannot be used, is there twice, or contradicts others is a reject with its reason.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial

from expectations.schemas import PREFERENCES
from infra import storage
from infra.dataset import Counts
from infra.errors import InputError
from infra.steps import Output, step
from tasks.text.given_rows import keep_rows
from tasks.text.preferences import WHY_NOT, PreferConfig, decide, read_pairs
from tasks.text.readers import fingerprint, plan


def files_read(config: PreferConfig) -> Mapping[str, str]:
    """Name, size and time of every file read."""
    return fingerprint(config.read())


@step(schema="preferences", fingerprint=files_read)
def prefer(config: PreferConfig, out: Output) -> None:
    """Read pairs, decide among those that contradict each other, and hold some prompts out.

    Raises:
        InputError: there is nothing to read, or no pair among it.
    """
    if not config.sources:
        raise InputError("prefer.sources: none given; name a folder or a dataset with preference pairs")
    candidates = out.map_aside("pairs", partial(read_pairs, config=config), plan(config.read()))
    jobs = list(zip(candidates, decide(candidates), strict=True))
    receipts = out.map(partial(keep_rows, schema=PREFERENCES, why_not=WHY_NOT, excerpt="chosen"), jobs)
    out.sum_facts(receipts)
    counts = Counts.summed(receipt.counts for receipt in receipts)
    if not counts.kept:
        reasons = ", ".join(f"{rule} {count:,}" for rule, count in counts.dropped.items()) or "no rows"
        raise InputError(
            f"prefer.sources: none of {counts.total:,} rows is a pair ({reasons}); are the answers in other fields? Name them in "
            f"`fields.text` and `fields.rejected`. The rows are in {storage.join(out.folder, 'rejects')}"
        )
