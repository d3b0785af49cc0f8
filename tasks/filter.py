"""filter: compare stored signals with the thresholds of a profile; verdicts only, no text is read."""

from __future__ import annotations

from functools import partial

import pyarrow as pa
import pyarrow.compute as pc

from infra.dataset import EXCERPT_CHARS, REJECTS_SCHEMA, Outcome, ShardRef, ShardSet
from infra.steps import Output, step
from tasks.text.rules import FilterConfig, decide
from tasks.text.signals import SCORE_NAMES, SIGNAL_NAMES

MEASURED = frozenset((*SIGNAL_NAMES, *SCORE_NAMES))


def decide_shard(shard: ShardRef, config: FilterConfig) -> Outcome:
    """Verdicts of one shard: the rows that stay, and for every other the first rule it breaks."""
    table = shard.read()
    decision = decide(table, config)
    keep = pa.array(decision.keep)
    kept = table.filter(keep).select([name for name in table.column_names if name not in MEASURED])
    drop = pc.invert(keep)
    dropped = table.filter(drop)
    rejects = pa.table(
        {
            "doc_id": dropped["doc_id"],
            "url": dropped["url"],
            "source": dropped["source"],
            "rule": decision.rule.filter(drop),
            "value": decision.value.filter(drop),
            "threshold": decision.threshold.filter(drop),
            "detail": decision.detail.filter(drop),
            "excerpt": pc.utf8_slice_codeunits(dropped["text"], 0, EXCERPT_CHARS)
            if "text" in table.column_names
            else pa.nulls(dropped.num_rows, pa.string()),
        },
        schema=REJECTS_SCHEMA,
    )
    return Outcome(kept, rejects)


@step(schema="verdicts", fingerprint=FilterConfig.files)
def filter(signals: ShardSet, config: FilterConfig, out: Output) -> None:
    """Decide which documents stay, by language and by the rules of the configured profile."""
    out.map(partial(decide_shard, config=config), signals.shards())
