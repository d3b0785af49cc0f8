"""dedup: decide who goes, from an index: copies, captures of one URL, and near duplicates; one document of each star stays.

No text is compared here: the thresholds are held against the similarities of the index, so deciding again takes seconds beside copying
what stays. A document is removed only for a kept document that it verifiably resembles, which its reject row names with the similarity.
In the flow's process are some 130 bytes per similar pair at the peak (measured), some 160 per document that another one's fate names, and
DuckDB's capped memory.
"""

from __future__ import annotations

from functools import partial
from typing import Any, Literal

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from pydantic import BaseModel, ConfigDict, Field

from expectations.schemas import COPIES
from infra import dataset
from infra.dataset import EXCERPT_CHARS, REJECTS_SCHEMA, Outcome, ShardRef, ShardSet
from infra.errors import InputError
from infra.rejects import FORGOTTEN
from infra.steps import Output, step
from tasks.index import similarities
from tasks.text import clusters
from tasks.text.fates import Decided, fate_of, read_decided
from tasks.text.generations import Chain

LOOSE_JACCARD = 0.5
"""Pairs from this similarity on share much text: below the threshold they are not removed, but must not straddle a train/test split."""


class DedupConfig(BaseModel):
    """What counts as a duplicate."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    measure: Literal["jaccard", "containment"] = "jaccard"
    """`jaccard`: shared shingles among all of both documents; `containment`: among those of the smaller one, which finds excerpts too."""
    min_similarity: float = Field(0.8, ge=0.5, le=1)
    """From this exact similarity on a document is a near duplicate (0.5 to 1). The index proposes by Jaccard: `gristmill report` shows
    which share of such pairs it finds, by default 0.92 at 0.8 and 0.99 at 0.85."""
    near: bool = True
    """Whether near duplicates go."""
    same_url: bool = False
    """Whether of all texts of one URL only the first stays, whatever they say."""
    documents: Literal["all", "new"] = "all"
    """`all`: the documents of all crawls in the index; `new`: those of the newest only, without what earlier ones had."""


def decided(chain: Chain, config: DedupConfig) -> Decided:
    """Decide about all documents of a chain."""
    edges = chain.edges()
    pairs = np.stack([edges["better"].to_numpy(), edges["worse"].to_numpy()], axis=1)
    similarity = similarities(edges, config.measure)
    near = similarity >= config.min_similarity if config.near else np.zeros(len(pairs), bool)
    with chain.relations() as sql:
        judged = _judged(sql, pairs[near]) if config.same_url else ()
        found = clusters.stars(pairs[near], similarity[near], *judged)
        nodes, label = clusters.components(pairs[similarities(edges) >= LOOSE_JACCARD])
        copies = sql.sql("""SELECT node, count(*) AS num_copies FROM living GROUP BY node HAVING count(*) > 1
            ORDER BY node""").to_arrow_table()
        old, new = chain.reborn
        unnamed = Decided(
            stars=_batch(content=found.content, stays=found.stays, keeper=found.keeper, similarity=found.similarity),
            crowded=_batch(document=found.crowded, crowded_by=found.crowded_by),
            loose=_batch(node=nodes, label=label),
            copies=_batch(**{name: copies[name].to_numpy() for name in copies.column_names}),
            dead=_whole(chain.dead_rows.sort_by("number")),
            renamed=_batch(node=old, reborn=new),
            names=_batch(),
        )
        sql.register("named", pa.table({"number": unnamed.needed_names()}))
        names = "SELECT number, doc_id FROM living SEMI JOIN named USING (number) ORDER BY number"
        return unnamed._replace(names=_whole(sql.sql(names).to_arrow_table()))


def _batch(**columns: np.ndarray) -> pa.RecordBatch:
    return pa.record_batch({name: pa.array(column) for name, column in columns.items()})


def _whole(table: pa.Table) -> pa.RecordBatch:
    return pa.record_batch([column.combine_chunks() for column in table.columns], schema=table.schema)


def _judged(sql: Any, pairs: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Number, content and URL (a number, or -1) of the documents that have to be judged one by one: those with a URL under which there
    is another content, their copies, and the first of each content that resembles another one."""
    sql.register("alike", pa.table({"number": np.unique(pairs)}))
    found = sql.sql("""
        WITH documents AS (SELECT number, node, url FROM living WHERE number = first),
            shared AS (SELECT url, min(number) AS code FROM documents WHERE url <> '' GROUP BY url HAVING count(DISTINCT node) > 1),
            contents AS (SELECT DISTINCT node FROM documents SEMI JOIN shared USING (url))
        SELECT number, node, coalesce(shared.code, -1) AS url FROM documents LEFT JOIN shared USING (url)
        WHERE node IN (SELECT node FROM contents) OR number IN (SELECT number FROM alike)
        ORDER BY number""").to_arrow_table()
    number, node, url = (found[name].to_numpy() for name in ("number", "node", "url"))
    return number, node, url


def remove_shard(job: tuple[ShardRef, ShardRef], folder: str, version: str, config: DedupConfig) -> Outcome:
    """Split one shard into the documents that stay, with loose cluster and number of copies, and the others, each with its keeper.

    `job` is the shard and what the index has of it; in `folder` is what was decided for this `version`.
    """
    shard, indexed = job
    table = shard.read()
    fate = fate_of(indexed.read(["number", "first", "node", "doc_id"]), read_decided(folder, version))
    keep = pc.is_null(fate["rule"])
    gone, why = table.filter(pc.invert(keep)), fate.filter(pc.invert(keep))
    told = pc.not_equal(why["rule"], FORGOTTEN)
    rejects = pa.table(
        {
            "doc_id": gone["doc_id"],
            "url": gone["url"],
            "source": gone["source"],
            "rule": why["rule"],
            "value": why["similarity"],
            "threshold": pc.if_else(pc.is_valid(why["similarity"]), config.min_similarity, None),
            "detail": why["keeper"],
            "excerpt": pc.if_else(told, pc.utf8_slice_codeunits(gone["text"], 0, EXCERPT_CHARS), None),
        }
    )
    kept = table.filter(keep)
    for name in ("cluster", COPIES.name):
        kept = kept.append_column(name, fate[name].filter(keep))
    return Outcome(kept, rejects.cast(REJECTS_SCHEMA))


def documents_of(index: ShardSet, config: DedupConfig) -> list[ShardSet]:
    """The versions whose documents are asked for: of all crawls in the index, or of the newest."""
    generations = Chain.of(index).generations
    return [version for one in (generations if config.documents == "all" else generations[-1:]) for version in one.documents]


@step(schema="clustered_documents")
def dedup(documents: list[ShardSet], index: ShardSet, config: DedupConfig, out: Output) -> None:
    """Remove the copies and near duplicates among these documents and all others of the index."""
    chain = Chain.of(index)
    chain.check()
    folder = out.aside("decided")
    decided(chain, config).write(folder)
    jobs: list[tuple[ShardRef, ShardRef]] = []
    for version in documents:
        generation, first = place_of(chain, version)
        of_index = dataset.open_version(chain.generations[generation].folder).shards()
        jobs += [(shard, of_index[first + at]) for at, shard in enumerate(version.shards())]
    out.map(partial(remove_shard, folder=folder, version=out.version, config=config), jobs)


def place_of(chain: Chain, version: ShardSet) -> tuple[int, int]:
    """(generation, place of its first shard there) of a version of documents.

    Raises:
        InputError: it is not in the index.
    """
    for generation, segment in enumerate(chain.generations):
        first = 0
        for one in segment.documents:
            if (one.version, one.digest) == (version.version, version.digest):
                return generation, first
            first += one.num_shards
    raise InputError(f"{version.folder}: its documents are not in the index; give the index that was made of them (step index)")
