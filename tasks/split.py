"""split: hold whole hosts out for testing and validation, before any tokeniser sees the text; no duplicate cluster lies in two splits.

Hosts are held out in an order that a seed and their names decide: for the test until the wanted share of characters is reached, then for
validation, which may choose the weights of a model and is never scored. A held-out document that shares a loose duplicate cluster with
documents of another split would make what is measured easier than it is: it is dropped by rule `straddles_split`. So the test split is
the same whatever is held out for validation. A corpus of fewer than three hosts is split by cluster instead, and the manifest says so.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial, reduce
from typing import Literal

import pyarrow as pa
import pyarrow.compute as pc
from pydantic import BaseModel, ConfigDict, Field

from infra.cluster import at_hand
from infra.dataset import Outcome, ShardRef, ShardSet, rejects_table
from infra.ids import digest_of
from infra.steps import Output, step

MIN_HOSTS = 3
Units = Mapping[str, frozenset[str]]
"""Names of units, or of clusters, by the split that is held out."""


class SplitConfig(BaseModel):
    """How much is held out, and by what."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    test_share: float = Field(0.05, gt=0, lt=1)
    """Share of the corpus's characters to hold out, reached with whole hosts (or clusters): the result may be more."""
    validation_share: float = Field(0.02, ge=0, lt=1)
    """Share to hold out besides, on which pretrain looks at its loss, reached in the same way while a unit is left for training; 0: none,
    and it looks at the test split."""
    by: Literal["host", "cluster"] = "host"
    """Unit that is never divided."""
    seed: int = 0
    """Decides which units are held out."""


def _chars_by(shard: ShardRef) -> Outcome:
    table = _clustered(shard.read())
    sized = pa.table({"host": table["host"], "cluster": table["cluster"], "num_chars": pc.utf8_length(table["text"])})
    return Outcome(sized.group_by(["host", "cluster"]).aggregate([("num_chars", "sum")]))


def _split_shard(shard: ShardRef, unit: str, held_out: Units, straddling: Units) -> Outcome:
    table = _clustered(shard.read())
    inside = {name: pc.is_in(table[unit], pa.array(sorted(units), pa.string())) for name, units in held_out.items()}
    split = pc.if_else(inside["test"], "test", pc.if_else(inside["validation"], "validation", "train"))
    straddles = reduce(
        pc.or_,
        (
            pc.and_(inside[name], pc.is_in(table["cluster"], pa.array(sorted(clusters), pa.string())))
            for name, clusters in straddling.items()
        ),
    )
    rejects = rejects_table(
        {**row, "rule": "straddles_split", "detail": row["cluster"], "excerpt": row["text"]}
        for row in table.filter(straddles).select(["doc_id", "url", "source", "cluster", "text"]).to_pylist()
    )
    return Outcome(table.append_column("split", split).filter(pc.invert(straddles)), rejects)


@step(schema="split_documents")
def split(documents: ShardSet, config: SplitConfig, out: Output) -> None:
    """Mark each document `train`, `validation` or `test`, by whole hosts, with no duplicate cluster in two of them."""
    shards = documents.shards()
    with at_hand(documents.counts.kept):
        sizes = pa.concat_tables([part.read() for part in out.map_aside("sizes", _chars_by, shards)] or [_no_sizes()])
    unit = config.by if config.by == "cluster" or len(pc.unique(sizes["host"])) >= MIN_HOSTS else "cluster"
    held_out = _held_out(sizes, unit, config)
    straddling = {name: _straddling(sizes, unit, units) for name, units in held_out.items()}
    with at_hand(documents.counts.kept):
        out.map(partial(_split_shard, unit=unit, held_out=held_out, straddling=straddling), shards)
    told = {name: sorted(units) if unit == "host" else len(units) for name, units in held_out.items()}
    out.facts = {"unit": unit, **{f"held_out.{name}": units for name, units in told.items()}}


def _held_out(sizes: pa.Table, unit: str, config: SplitConfig) -> Units:
    """Units in seeded order until their characters reach the wanted shares, those of `test` first; never all of them."""
    totals = sizes.group_by(unit).aggregate([("num_chars_sum", "sum")])
    chars = dict(zip(totals[unit].to_pylist(), totals["num_chars_sum_sum"].to_pylist(), strict=True))
    left = sorted(chars, key=lambda name: digest_of("split", str(config.seed), name), reverse=True)
    held: dict[str, frozenset[str]] = {}
    for split_name, share in (("test", config.test_share), ("validation", config.validation_share)):
        units, num_chars, wanted = set(), 0, share * sum(chars.values())
        while num_chars < wanted and len(left) > 1:
            units.add(name := left.pop())
            num_chars += chars[name]
        held[split_name] = frozenset(units)
    return held


def _straddling(sizes: pa.Table, unit: str, units: frozenset[str]) -> frozenset[str]:
    """Clusters with documents in these units and elsewhere."""
    here = pc.is_in(sizes[unit], pa.array(sorted(units), pa.string()))
    inside, outside = (pc.unique(sizes["cluster"].filter(side)) for side in (here, pc.invert(here)))
    return frozenset(inside.filter(pc.is_in(inside, outside)).to_pylist())


def _clustered(table: pa.Table) -> pa.Table:
    """Documents that no dedup has seen are each a cluster of their own."""
    return table if "cluster" in table.column_names else table.append_column("cluster", table["doc_id"])


def _no_sizes() -> pa.Table:
    return pa.table(
        {"host": pa.array([], pa.string()), "cluster": pa.array([], pa.string()), "num_chars_sum": pa.array([], pa.int64())}
    )
