"""dedup: decide who goes, from an index: copies, captures of one URL, and near duplicates; one document of each star stays.

No text is compared here: the thresholds are held against the similarities of the index, so deciding again takes seconds beside copying
what stays. A document is removed only for a kept document that it verifiably resembles, which its reject row names with the similarity.
In the flow's process are some 130 bytes per similar pair at the peak (measured), and DuckDB's capped memory.
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
from infra.rejects import FORGOTTEN
from infra.steps import Output, step
from tasks.index import by_shard, similarities
from tasks.text import clusters
from tasks.text.generations import Chain

EXACT, SEEN, SAME_URL, NEAR = "exact_duplicate", "seen_before", "same_url", "near_duplicate"
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


# d is the document, node the first document of its content; its content's fate is its own, if its URL does not crowd it out
_FATES = f"""
    SELECT wanted.position AS shard,
        CASE WHEN d.number IS NULL THEN '{FORGOTTEN}'
             WHEN d.number <> d.first THEN '{SEEN}'
             WHEN crowded.document IS NOT NULL THEN '{SAME_URL}'
             WHEN stars.keeper >= 0 OR keeper.number <> d.number AND keeper.content_id <> d.content_id THEN '{NEAR}'
             WHEN keeper.number <> d.number THEN '{EXACT}' END AS rule,
        CASE WHEN d.number IS NULL THEN dead.reason WHEN keeper.number <> d.number THEN keeper.doc_id END AS keeper,
        CASE WHEN d.number IS NULL OR d.number <> d.first OR crowded.document IS NOT NULL THEN NULL
             WHEN stars.keeper >= 0 THEN stars.similarity ELSE 1.0 END AS similarity,
        coalesce(relative.doc_id, node.doc_id) AS cluster,
        copies.num_copies
    FROM indexed e
    JOIN wanted ON wanted.generation = e.generation AND wanted.shard = e.shard
    LEFT JOIN dead ON dead.number = e.number
    LEFT JOIN living d ON d.number = e.number
    LEFT JOIN living node ON node.number = d.node
    LEFT JOIN crowded ON crowded.document = d.first
    LEFT JOIN stars ON stars.content = d.node
    LEFT JOIN living keeper ON keeper.number = CASE WHEN crowded.document IS NOT NULL THEN crowded.crowded_by
        WHEN stars.keeper >= 0 THEN stars.keeper WHEN stars.stays >= 0 THEN stars.stays ELSE d.node END
    LEFT JOIN loose ON loose.node = d.node
    LEFT JOIN living relative ON relative.number = loose.label
    LEFT JOIN (SELECT node, count(*)::INTEGER AS num_copies FROM living GROUP BY node) copies ON copies.node = d.node
    ORDER BY wanted.position, e."row" """


def _decided(sql: Any, edges: pa.Table, config: DedupConfig) -> dict[str, pa.Table]:
    """stars: the fate of each content that resembles another one or shares URLs; crowded: documents that go for their URL; loose: the
    loose cluster of each content that has one."""
    pairs = np.stack([edges["better"].to_numpy(), edges["worse"].to_numpy()], axis=1)
    similarity = similarities(edges, config.measure)
    near = similarity >= config.min_similarity if config.near else np.zeros(len(pairs), bool)
    judged = _judged(sql, pairs[near]) if config.same_url else ()
    found = clusters.stars(pairs[near], similarity[near], *judged)
    stars = {"content": found.content, "stays": found.stays, "keeper": found.keeper, "similarity": found.similarity}
    nodes, label = clusters.components(pairs[similarities(edges) >= LOOSE_JACCARD])
    return {
        "stars": pa.table(stars),
        "crowded": pa.table({"document": found.crowded, "crowded_by": found.crowded_by}),
        "loose": pa.table({"node": nodes, "label": label}),
    }


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
        generation, first = place_of(chain, version)
        shards += of_version
        places += [(generation, first + at) for at in range(len(of_version))]
    decided = fates(out, chain, places, config)
    out.map(partial(remove_shard, config=config), list(zip(shards, decided, strict=True)))


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
