"""split: hold whole hosts out for testing, before any tokeniser sees the text; no duplicate cluster lies on both sides.

Hosts are held out in an order that a seed and their names decide, until the wanted share of characters is reached. A document of a
held-out host that shares a loose duplicate cluster with a training document would make the test easier than it is: it is dropped by
rule `straddles_split`. A corpus of fewer than three hosts is split by cluster instead, and the manifest says so.
"""

from __future__ import annotations

from functools import partial
from typing import Literal

import pyarrow as pa
import pyarrow.compute as pc
from pydantic import BaseModel, ConfigDict, Field

from infra.cluster import at_hand
from infra.dataset import Outcome, ShardRef, ShardSet, rejects_table
from infra.ids import digest_of
from infra.steps import Output, step

MIN_HOSTS = 3


class SplitConfig(BaseModel):
    """How much is held out, and by what."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    test_share: float = Field(0.05, gt=0, lt=1)
    """Share of the corpus's characters to hold out, reached with whole hosts (or clusters): the result may be more."""
    by: Literal["host", "cluster"] = "host"
    """Unit that is never divided."""
    seed: int = 0
    """Decides which units are held out."""


def _chars_by(shard: ShardRef) -> Outcome:
    table = _clustered(shard.read())
    sized = pa.table({"host": table["host"], "cluster": table["cluster"], "num_chars": pc.utf8_length(table["text"])})
    return Outcome(sized.group_by(["host", "cluster"]).aggregate([("num_chars", "sum")]))


def _split_shard(shard: ShardRef, unit: str, held_out: frozenset[str], straddling: frozenset[str]) -> Outcome:
    table = _clustered(shard.read())
    in_test = pc.is_in(table[unit], pa.array(sorted(held_out), pa.string()))
    straddles = pc.and_(in_test, pc.is_in(table["cluster"], pa.array(sorted(straddling), pa.string())))
    marked = table.append_column("split", pc.if_else(in_test, "test", "train"))
    rejects = rejects_table(
        {**row, "rule": "straddles_split", "detail": row["cluster"], "excerpt": row["text"]}
        for row in table.filter(straddles).select(["doc_id", "url", "source", "cluster", "text"]).to_pylist()
    )
    return Outcome(marked.filter(pc.invert(straddles)), rejects)


@step(schema="split_documents")
def split(documents: ShardSet, config: SplitConfig, out: Output) -> None:
    """Mark each document `train` or `test`, by whole hosts, with no duplicate cluster on both sides."""
    shards = documents.shards()
    with at_hand(documents.counts.kept):
        sizes = pa.concat_tables([part.read() for part in out.map_aside("sizes", _chars_by, shards)] or [_no_sizes()])
    unit = config.by if config.by == "cluster" or len(pc.unique(sizes["host"])) >= MIN_HOSTS else "cluster"
    held_out = _held_out(sizes, unit, config)
    straddling = _straddling(sizes, held_out) if unit == "host" else frozenset()
    with at_hand(documents.counts.kept):
        out.map(partial(_split_shard, unit=unit, held_out=held_out, straddling=straddling), shards)
    out.facts = {"unit": unit, "held_out": sorted(held_out) if unit == "host" else len(held_out)}


def _held_out(sizes: pa.Table, unit: str, config: SplitConfig) -> frozenset[str]:
    """Units in seeded order until their characters reach the wanted share; never all of them."""
    totals = sizes.group_by(unit).aggregate([("num_chars_sum", "sum")])
    chars = dict(zip(totals[unit].to_pylist(), totals["num_chars_sum_sum"].to_pylist(), strict=True))
    wanted = config.test_share * sum(chars.values())
    held, held_chars = set(), 0
    for name in sorted(chars, key=lambda name: digest_of("split", str(config.seed), name))[:-1]:
        if held_chars >= wanted:
            break
        held.add(name)
        held_chars += chars[name]
    return frozenset(held)


def _straddling(sizes: pa.Table, held_out: frozenset[str]) -> frozenset[str]:
    """Clusters with documents on both sides."""
    test = pc.is_in(sizes["host"], pa.array(sorted(held_out), pa.string()))
    inside, outside = set(sizes["cluster"].filter(test).to_pylist()), set(sizes["cluster"].filter(pc.invert(test)).to_pylist())
    return frozenset(inside & outside)


def _clustered(table: pa.Table) -> pa.Table:
    """Documents that no dedup has seen are each a cluster of their own."""
    return table if "cluster" in table.column_names else table.append_column("cluster", table["doc_id"])


def _no_sizes() -> pa.Table:
    return pa.table(
        {"host": pa.array([], pa.string()), "cluster": pa.array([], pa.string()), "num_chars_sum": pa.array([], pa.int64())}
    )
