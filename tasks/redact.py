"""redact: mask e-mail addresses and public IP addresses; nothing is dropped, and what was masked is counted."""

from __future__ import annotations

from functools import partial

import numpy as np
import pyarrow as pa

from infra.dataset import Outcome, ShardRef, ShardSet
from infra.ids import text_digest
from infra.steps import Output, step
from tasks.text import pii
from tasks.text.pii import RedactConfig

MASKED = ("text", "title", "author")
"""Columns in which people are named."""


def redact_shard(shard: ShardRef, config: RedactConfig) -> Outcome:
    """Mask one shard; ids stay, `text_digest` is that of the masked text."""
    masked = shard.read()
    counts: dict[str, np.ndarray] = {}
    for name in (column for column in MASKED if column in masked.column_names):
        column, found = pii.redact(masked[name].combine_chunks(), config)
        masked = masked.set_column(masked.column_names.index(name), name, column)
        counts = {kind: counts.get(kind, 0) + numbers for kind, numbers in found.items()}
    digests = pa.array([text_digest(one) for one in masked["text"].to_pylist()], pa.string())
    masked = masked.set_column(masked.column_names.index("text_digest"), "text_digest", digests)
    facts = {f"masked.{kind}": float(found.sum()) for kind, found in counts.items()}
    touched = np.any([found > 0 for found in counts.values()], axis=0)
    return Outcome(masked, facts={**facts, "documents_touched": float(np.sum(touched))})


@step(schema="clustered_documents")
def redact(documents: ShardSet, config: RedactConfig, out: Output) -> None:
    """Mask personal data that identifies by form: e-mail addresses and public IP addresses."""
    out.sum_facts(out.map(partial(redact_shard, config=config), documents.shards(), by_document=True))
