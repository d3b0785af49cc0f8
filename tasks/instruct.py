"""instruct: conversations that a model is tuned on, from instruction rows, chats and tasks of many shapes."""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial

from infra import storage
from infra.dataset import Counts
from infra.steps import Output, step
from tasks.text.conversations import InstructConfig, candidates, doubles, keep, none_usable
from tasks.text.readers import fingerprint, plan


def source_files(config: InstructConfig) -> Mapping[str, str]:
    """Name, size and time of every file read: a changed folder is another version under the same label."""
    return fingerprint(config.places())


@step(schema="conversations", fingerprint=source_files)
def instruct(config: InstructConfig, out: Output) -> None:
    """Bring rows into the shape of conversations, with where they came from; the shard plan follows from the files alone."""
    read = out.map_aside("candidates", partial(candidates, config=config), plan(config.places()))
    receipts = out.map(keep, list(zip(read, doubles(read), strict=True)))
    out.sum_facts(receipts)
    counts = Counts.summed(receipt.counts for receipt in receipts)
    if counts.total and not counts.kept:
        raise none_usable(counts.total, counts.dropped, storage.join(out.folder, "rejects"))
