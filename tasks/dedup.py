"""dedup: decide who goes, from an index: copies, captures of one URL, and near duplicates; one document of each star stays.

No text is compared here: the thresholds are held against the similarities of the index, so deciding again takes seconds beside copying
what stays. A document is removed only for a kept document that it verifiably resembles, which its reject row names with the similarity.
In the flow's process are 40 bytes per similar pair, and DuckDB's capped memory.
"""

from __future__ import annotations

from functools import partial
from typing import Any, Literal

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from pydantic import BaseModel, ConfigDict, Field

from expectations.schemas import COPIES
from infra import dataset, relations
from infra.dataset import EXCERPT_CHARS, REJECTS_SCHEMA, Outcome, ShardRef, ShardSet, write_table
from infra.errors import InputError
from infra.steps import Output, step
from tasks.index import by_shard, similarities
from tasks.text import clusters
from tasks.text.generations import Chain

EXACT, SEEN, SAME_URL, NEAR, FORGOTTEN = "exact_duplicate", "seen_before", "same_url", "near_duplicate", "forgotten"
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


def fates(out: Output, chain: Chain, places: list[tuple[int, int]], config: DedupConfig) -> list[str]:
    """Decide the fate of every document.

    Args:
        places: (generation, place among its shards) of the shards that are asked for.

    Returns:
        For each of them a file with a row for each of its rows: rule (null: it stays), keeper, similarity, cluster, num_copies.
    """
    paths = [out.aside("fates", dataset.part_name(position)) for position in range(len(places))]
    wanted = pa.table(
        {
            "generation": pa.array([generation for generation, _ in places], pa.int32()),
            "shard": pa.array([shard for _, shard in places], pa.int32()),
            "position": pa.array(range(len(places)), pa.int32()),
        }
    )
    edges = chain.edges()
    with chain.relations(wanted=wanted) as sql:
        for name, table in _decided(sql, edges, config).items():
            sql.register(name, table)
        for position, table in by_shard(relations.batches(sql, _FATES), len(places)):
            write_table(paths[position], table)
    return paths


# d is the document, node the first document of its content, whose fate its copies share
_FATES = f"""
    SELECT wanted.position AS shard,
        CASE WHEN d.number IS NULL THEN '{FORGOTTEN}'
             WHEN d.number <> d.first THEN '{SEEN}'
             WHEN d.number <> d.node THEN CASE WHEN d.content_id = node.content_id THEN '{EXACT}' ELSE '{NEAR}' END
             ELSE stars.rule END AS rule,
        CASE WHEN d.number IS NULL THEN dead.reason ELSE keeper.doc_id END AS keeper,
        CASE WHEN d.number <> d.first THEN NULL
             WHEN d.number <> d.node AND stars.removed IS NULL THEN 1.0
             ELSE stars.similarity END AS similarity,
        coalesce(relative.doc_id, node.doc_id) AS cluster,
        copies.num_copies
    FROM indexed e
    JOIN wanted ON wanted.generation = e.generation AND wanted.shard = e.shard
    LEFT JOIN dead ON dead.number = e.number
    LEFT JOIN living d ON d.number = e.number
    LEFT JOIN living node ON node.number = d.node
    LEFT JOIN stars ON stars.removed = d.node
    LEFT JOIN living keeper ON keeper.number = CASE WHEN d.number = d.node THEN stars.keeper ELSE coalesce(stars.keeper, d.node) END
    LEFT JOIN loose ON loose.node = d.node
    LEFT JOIN living relative ON relative.number = loose.label
    LEFT JOIN (SELECT node, count(*)::INTEGER AS num_copies FROM living GROUP BY node) copies ON copies.node = d.node
    ORDER BY wanted.position, e."row" """


def _decided(sql: Any, edges: pa.Table, config: DedupConfig) -> dict[str, pa.Table]:
    """stars: whom each removed node goes for; loose: the loose cluster of each node that has one."""
    pairs = np.stack([edges["better"].to_numpy(), edges["worse"].to_numpy()], axis=1)
    similarity = similarities(edges, config.measure)
    near = similarity >= config.min_similarity if config.near else np.zeros(len(pairs), bool)
    grouped = (
        _of_one_url(sql) if config.same_url else pa.table({"node": pa.array([], pa.int64()), "url": pa.array([], pa.int64())})
    )
    found = clusters.stars(pairs[near], similarity[near], grouped["node"].to_numpy(), grouped["url"].to_numpy())
    by_url = np.isnan(found.similarity)
    stars = pa.table(
        {
            "removed": found.removed,
            "keeper": found.keeper,
            "similarity": pa.array(found.similarity, mask=by_url),
            "rule": pc.if_else(pa.array(by_url), SAME_URL, NEAR),
        }
    )
    nodes, label = clusters.components(pairs[similarities(edges) >= LOOSE_JACCARD])
    return {"stars": stars, "loose": pa.table({"node": nodes, "label": label})}


def _of_one_url(sql: Any) -> pa.Table:
    """node, url (a number): the nodes whose first document shares its URL with that of another node."""
    return sql.sql("""SELECT number AS node, min(number) OVER (PARTITION BY url) AS url FROM living
        WHERE number = node AND url <> '' QUALIFY count(*) OVER (PARTITION BY url) > 1 ORDER BY number""").to_arrow_table()


def remove_shard(job: tuple[ShardRef, str], config: DedupConfig) -> Outcome:
    """Split one shard into the documents that stay, with loose cluster and number of copies, and the others, each with its keeper."""
    shard, fate_file = job
    table, rows = shard.read(), dataset.of_files([fate_file])
    assert rows is not None
    fate = rows.to_table()
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
    shards, places = [], []
    for version in documents:
        of_version = version.shards()
        generation, first = _place(chain, version)
        shards += of_version
        places += [(generation, first + at) for at in range(len(of_version))]
    decided = fates(out, chain, places, config)
    out.map(partial(remove_shard, config=config), list(zip(shards, decided, strict=True)))


def _place(chain: Chain, version: ShardSet) -> tuple[int, int]:
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
