"""dedup: find exact duplicates by content and near duplicates by MinHash, verify each pair, and keep one document of each star.

Passes: signatures (per shard) → candidate pairs (per band) → shingles of the candidates (per shard) → exact Jaccard → stars → removal
(per shard). A document is removed only for a kept document that it verifiably resembles, which the reject row names with the similarity.
Memory in the flow's process: 24 bytes per document and the shingles of the candidates; one band's keys in a worker.
"""

from __future__ import annotations

from functools import partial

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from infra import storage
from infra.dataset import EXCERPT_CHARS, Outcome, ShardRef, ShardSet, write_table
from infra.steps import Output, step
from tasks.text import clusters, minhash
from tasks.text.minhash import DedupConfig

NEAR = "near_duplicate"
EXACT = "exact_duplicate"
# pairs below min_jaccard but above this share much text: they are not removed, but must not straddle a train/test split
LOOSE_JACCARD = 0.5


def sign_shard(shard: ShardRef, config: DedupConfig) -> Outcome:
    """Band keys and rank facts of one shard's documents."""
    table = shard.read(["doc_id", "content_id", "text"])
    text = table["text"].combine_chunks()
    keys = minhash.band_keys(minhash.signatures(text, config), config)
    columns = {f"band_{band}": pa.array(np.ascontiguousarray(keys[:, band])) for band in range(config.num_bands)}
    length = pc.utf8_length(text)
    return Outcome(pa.table({"doc_id": table["doc_id"], "content_id": table["content_id"], "num_chars": length, **columns}))


def propose_pairs(band: int, signed: list[ShardRef], singles: str) -> Outcome:
    """Pairs of documents (global row numbers) that share this band's key; of exact copies only one takes part."""
    keys = np.concatenate([shard.read([f"band_{band}"])[f"band_{band}"].to_numpy() for shard in signed])
    rows, rank = np.frombuffer(storage.read_bytes(singles), dtype=np.int64).reshape(2, -1)
    found = clusters.candidate_pairs(keys[rows], rows, rank)
    pairs = pa.table({"left": found.pairs[:, 0], "right": found.pairs[:, 1]})
    return Outcome(
        pairs, facts={"capped_buckets": float(found.num_capped_buckets), "skipped_pairs": float(found.num_skipped_pairs)}
    )


def shingle_shard(job: tuple[ShardRef, np.ndarray, int], config: DedupConfig) -> Outcome:
    """Shingle sets of one shard's candidates; `job` is the shard, the candidates' rows in it and its first global row."""
    shard, rows, first_row = job
    text = shard.read(["text"])["text"].combine_chunks().take(pa.array(rows))
    values, offsets = minhash.shingle_hashes(text, config)
    sets = pa.LargeListArray.from_arrays(pa.array(offsets, pa.int64()), pa.array(values))
    return Outcome(pa.table({"row": pa.array(rows + first_row, pa.int64()), "shingles": sets}))


def remove_shard(job: tuple[ShardRef, int], fates: str, config: DedupConfig) -> Outcome:
    """Split one shard into kept documents (with their loose cluster) and duplicates (with the document kept for them)."""
    shard, first_row = job
    table = shard.read()
    fate = pq.read_table(pa.BufferReader(storage.read_bytes(fates))).slice(first_row, table.num_rows)
    keep = pc.is_null(fate["keeper"])
    gone, why = table.filter(pc.invert(keep)), fate.filter(pc.invert(keep))
    rejects = pa.table(
        {
            "doc_id": gone["doc_id"],
            "url": gone["url"],
            "source": gone["source"],
            "rule": why["rule"],
            "value": why["similarity"],
            "threshold": pa.repeat(config.min_jaccard, gone.num_rows),
            "detail": why["keeper"],
            "excerpt": pc.utf8_slice_codeunits(gone["text"], 0, EXCERPT_CHARS),
        }
    )
    return Outcome(table.filter(keep).append_column("cluster", fate["cluster"].filter(keep)), rejects)


@step(schema="clustered_documents")
def dedup(documents: ShardSet, config: DedupConfig, out: Output) -> None:
    """Remove exact and verified near duplicates; of each group the longest document is kept."""
    shards = documents.shards()
    starts = np.concatenate([[0], np.cumsum([shard.num_rows for shard in shards])]).astype(np.int64)
    signed = out.map_aside("signatures", partial(sign_shard, config=config), shards)
    corpus = _columns(signed, ["doc_id", "content_id", "num_chars"])
    rank = _rank(corpus)
    keeper_of_copy = _first_of_content(corpus, rank)
    singles = np.flatnonzero(keeper_of_copy < 0)
    path = out.aside("singles.bin")
    storage.write_bytes(path, np.stack([singles, rank[singles]]).tobytes())
    proposals = out.map_aside("pairs", partial(propose_pairs, signed=signed, singles=path), range(config.num_bands))
    pairs = clusters.unique_pairs(*(_pairs(proposal) for proposal in proposals))
    similarity = _verify(out, shards, starts, pairs, config)
    chosen = clusters.stars(corpus.num_rows, pairs, similarity, rank, config.min_jaccard)
    label = _loose_clusters(rank, pairs[similarity >= LOOSE_JACCARD])
    fates = _fates(corpus, keeper_of_copy, chosen.keeper, chosen.similarity, label)
    write_table(out.aside("fates.parquet"), fates)
    jobs = list(zip(shards, starts[:-1].tolist(), strict=True))
    out.map(partial(remove_shard, fates=out.aside("fates.parquet"), config=config), jobs)
    out.facts |= {"num_candidate_pairs": len(pairs), "num_verified_pairs": int((similarity >= config.min_jaccard).sum())}


def _columns(signed: list[ShardRef], names: list[str]) -> pa.Table:
    empty = pa.table(
        {"doc_id": pa.array([], pa.string()), "content_id": pa.array([], pa.string()), "num_chars": pa.array([], pa.int32())}
    )
    tables = [shard.read(names) for shard in signed]
    return pa.concat_tables(tables).combine_chunks() if tables else empty


def _rank(corpus: pa.Table) -> np.ndarray:
    """Place of each document in the total order that decides who stays: longest first, then by id."""
    order = pc.sort_indices(corpus, [("num_chars", "descending"), ("doc_id", "ascending")]).to_numpy()
    rank = np.empty(len(order), np.int64)
    rank[order] = np.arange(len(order))
    return rank


def _first_of_content(corpus: pa.Table, rank: np.ndarray) -> np.ndarray:
    """For each exact copy the row of the best-ranked document of equal content; -1 for that document itself."""
    codes = corpus["content_id"].combine_chunks().dictionary_encode().indices.to_numpy()
    order = np.lexsort((rank, codes))
    first = np.ones(len(order), bool)
    first[1:] = codes[order][1:] != codes[order][:-1]
    leader = order[np.maximum.accumulate(np.where(first, np.arange(len(order)), 0))] if len(order) else order
    keeper = np.full(len(order), -1, np.int64)
    keeper[order] = np.where(first, -1, leader)
    return keeper


def _pairs(proposal: ShardRef) -> np.ndarray:
    table = proposal.read()
    return np.stack([table["left"].to_numpy(), table["right"].to_numpy()], axis=1)


def _loose_clusters(rank: np.ndarray, pairs: np.ndarray) -> np.ndarray:
    """The best-ranked document of each document's component: the same whatever the order of rows."""
    order = np.argsort(rank)
    return order[clusters.components(len(rank), rank[pairs])[rank]]


def _verify(out: Output, shards: list[ShardRef], starts: np.ndarray, pairs: np.ndarray, config: DedupConfig) -> np.ndarray:
    """Exact Jaccard similarity of each pair's shingle sets."""
    candidates = np.unique(pairs)
    cuts = np.searchsorted(candidates, starts)
    jobs = [
        (shard, candidates[cuts[i] : cuts[i + 1]] - starts[i], int(starts[i]))
        for i, shard in enumerate(shards)
        if cuts[i] < cuts[i + 1]
    ]
    shingled = out.map_aside("shingles", partial(shingle_shard, config=config), jobs)
    if not shingled:
        return np.zeros(0)
    table = pa.concat_tables([shard.read() for shard in shingled]).combine_chunks()
    sets = table["shingles"].combine_chunks()
    values, offsets = sets.flatten().to_numpy(), sets.offsets.to_numpy() - sets.offsets[0].as_py()
    place = np.searchsorted(table["row"].to_numpy(), pairs)
    return minhash.jaccard_pairs(values, offsets, place[:, 0], place[:, 1])


def _fates(corpus: pa.Table, keeper_of_copy: np.ndarray, keeper: np.ndarray, likeness: np.ndarray, label: np.ndarray) -> pa.Table:
    """One row per document: whom it was removed for (null = kept), by which rule, how similar, and its loose cluster."""
    exact = keeper_of_copy >= 0
    # a copy of a document that is itself a near duplicate goes to the document that was kept in the end
    through = np.where(exact, keeper_of_copy, np.arange(len(exact)))
    final, value = keeper[through], likeness[through]
    final = np.where(exact & (final < 0), keeper_of_copy, final)
    value = np.where(exact & (keeper[through] < 0), 1.0, value)
    removed = final >= 0
    ids = corpus["doc_id"].combine_chunks()
    rule = np.where(exact, EXACT, NEAR)
    return pa.table(
        {
            "keeper": ids.take(pa.array(final, mask=~removed)),
            "rule": pa.array(rule.tolist(), pa.string()),
            "similarity": pa.array(value, pa.float64()),
            "cluster": ids.take(pa.array(label[through])),
        }
    )
