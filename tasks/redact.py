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


def redact_shard(shard: ShardRef, config: RedactConfig) -> Outcome:
    """Mask one shard; ids stay, `text_digest` is that of the masked text."""
    table = shard.read()
    text, counts = pii.redact(table["text"].combine_chunks(), config)
    digests = pa.array([text_digest(one) for one in text.to_pylist()], pa.string())
    names = table.column_names
    masked = table.set_column(names.index("text"), "text", text).set_column(names.index("text_digest"), "text_digest", digests)
    facts = {f"masked.{kind}": float(found.sum()) for kind, found in counts.items()}
    touched = np.any([found > 0 for found in counts.values()], axis=0)
    return Outcome(masked, facts={**facts, "documents_touched": float(np.sum(touched))})


@step(schema="clustered_documents")
def redact(documents: ShardSet, config: RedactConfig, out: Output) -> None:
    """Mask personal data that identifies by form: e-mail addresses and public IP addresses."""
    out.sum_facts(out.map(partial(redact_shard, config=config), documents.shards(), by_document=True))
