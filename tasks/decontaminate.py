"""decontaminate: find the items of evaluation sets in the documents, remove or mark these, and certify it.

Runs where sets are configured, after dedup: copies of a page count once as evidence of what is common. Before redact, which would hide an
item's addresses. Passes: needles found (per shard) → how common each is → evidence, items and hits → removal or marks (per shard). The
bytes of every evaluation set are part of the recipe: a changed set makes this step again, and nothing before it. Memory in a worker: the
needles, some 200 bytes a word of the sets; in the flow's process also what was found, at most `max_documents` documents a needle and shard.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import lru_cache, partial
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from expectations.cards import CERTIFICATE, CERTIFICATE_FOLDER, CERTIFICATE_PAGE
from expectations.schemas import CONTAMINATION
from infra import storage
from infra.dataset import EXCERPT_CHARS, REJECTS_SCHEMA, Outcome, ShardRef, ShardSet, bytes_digest, write_table
from infra.errors import InputError
from infra.steps import Output, step
from tasks.text.certificate import certificate, page
from tasks.text.contamination import (
    EXACT,
    METHODS,
    NGRAM,
    DecontaminateConfig,
    Evidence,
    Looked,
    hit_table,
    item_table,
    long_wholes,
    weigh,
)
from tasks.text.evaluation_sets import file_digests, read_set
from tasks.text.needles import Needles, needles_of, search

RULE = "contaminated"
HITS, ITEMS = f"{CERTIFICATE_FOLDER}/hits.parquet", f"{CERTIFICATE_FOLDER}/items.parquet"
_FOUND = pa.schema(
    [
        *(("row", pa.int32()), ("needle", pa.int32()), ("documents", pa.int64())),
        *(("doc_id", pa.string()), ("url", pa.string()), ("split", pa.string())),
    ]
)
"""A needle in a document; with row -1 a needle that stands in so many documents of a shard that these are not named."""
_FATES = pa.schema(
    [
        *(("shard", pa.int32()), ("row", pa.int32()), ("sets", pa.list_(pa.string()))),
        *(("value", pa.float64()), ("threshold", pa.float64()), ("detail", pa.string())),
    ]
)
"""The documents that are hits: where they are, and the strongest hit of each."""


def sets_read(config: DecontaminateConfig) -> Mapping[str, str]:
    """The bytes of the evaluation sets are part of the recipe."""
    return {f"{one.name} {name}": digest for one in config.sets for name, digest in file_digests(one).items()}


def search_shard(shard: ShardRef, passages: str, digest: str, config: DecontaminateConfig, held_out: bool) -> Outcome:
    """Which needles stand in which documents of one shard, as rows of _FOUND; with their splits where sets are `held_out` of versions."""
    table = shard.read(None if held_out else ["doc_id", "url", "text"])
    if "split" not in table.column_names:
        table = table.append_column("split", pa.nulls(table.num_rows, pa.string()))
    needles = _needles(passages, digest, config.ngram_words, config.min_words)
    rows, found = search(table["text"].combine_chunks(), needles)
    counts = np.bincount(found, minlength=needles.size)
    counted_only = (counts > config.max_documents) & ~long_wholes(needles)
    named = ~counted_only[found]
    rows, found, common = rows[named], found[named], np.flatnonzero(counted_only)
    names = ["doc_id", "url", "split"]
    documents = table.select(names).take(pa.array(rows))
    return Outcome(
        pa.table(
            {
                "row": np.concatenate([rows, np.full(len(common), -1)]).astype(np.int32),
                "needle": np.concatenate([found, common]).astype(np.int32),
                "documents": np.concatenate([np.ones(len(rows), np.int64), counts[common]]),
                **{
                    name: pa.chunked_array([*documents[name].chunks, pa.nulls(len(common), pa.string())], pa.string())
                    for name in names
                },
            },
            schema=_FOUND,
        )
    )


def judge_shard(job: tuple[int, ShardRef], fates: str, config: DecontaminateConfig) -> Outcome:
    """One shard without its hits, or with them marked."""
    number, shard = job
    table = shard.read()
    fate = pq.read_table(pa.BufferReader(storage.read_bytes(fates)), filters=pc.field("shard") == number)
    if config.action == "mark":
        return Outcome(_marked(table, fate))
    gone = table.take(fate["row"])
    rejects = pa.table(
        {
            "doc_id": gone["doc_id"],
            "url": gone["url"],
            "source": gone["source"],
            "rule": pa.repeat(RULE, gone.num_rows),
            "value": fate["value"],
            "threshold": fate["threshold"],
            "detail": fate["detail"],
            "excerpt": pc.utf8_slice_codeunits(gone["text"], 0, EXCERPT_CHARS),
        },
        schema=REJECTS_SCHEMA,
    )
    keep = np.ones(table.num_rows, bool)
    keep[fate["row"].to_numpy()] = False
    return Outcome(table.filter(pa.array(keep)), rejects)


@step(schema="clustered_documents", fingerprint=sets_read)
def decontaminate(documents: ShardSet, config: DecontaminateConfig, out: Output) -> None:
    """Remove or mark the documents that hold items of evaluation sets, and write a certificate of what was looked for and found.

    Raises:
        InputError: there are no sets, or one cannot be read.
    """
    if not config.sets:
        raise InputError("decontaminate.sets: no evaluation set is given; name one: sets=[{name: gsm8k, path: gsm8k_test.jsonl}]")
    sets = [read_set(one) for one in config.sets]
    passages = out.aside("passages.parquet")
    digest, _ = write_table(passages, pa.table({"text": pa.array([text for one in sets for text in one.passages], pa.string())}))
    looked = Looked(sets, _needles(passages, digest, config.ngram_words, config.min_words))
    shards = documents.shards()
    held_out = any(one.held_out for one in sets)
    search_one = partial(search_shard, passages=passages, digest=digest, config=config, held_out=held_out)
    found = [part.read() for part in out.map_aside("found", search_one, shards)]
    pairs, counts = _gathered(found, looked.needles)
    splits = _splits(documents, pairs) if held_out else [""] * pairs.num_rows
    doc_ids, urls = pairs["doc_id"].to_pylist(), pc.fill_null(pairs["url"], "").to_pylist()
    evidence = weigh(looked, *_by_document(pairs), counts, config)
    themselves = _themselves(evidence, looked, doc_ids, splits)
    exempt = len(np.unique(evidence.document[themselves & evidence.is_hit]))
    evidence = evidence.take(~themselves)
    hits = evidence.take(evidence.is_hit)
    write_table(out.aside("fates.parquet"), _fates(looked, hits, pairs))
    out.map(partial(judge_shard, fates=out.aside("fates.parquet"), config=config), list(enumerate(shards)))
    _certify(out, looked, evidence, counts, hit_table(looked, hits, doc_ids, urls), exempt, documents, config)


@lru_cache(maxsize=1)
def _needles(path: str, digest: str, ngram_words: Sequence[int], min_words: int) -> Needles:
    """The needles of the passages in a file, made once in a process; a file of the same name with other bytes has another digest."""
    data = storage.read_bytes(path)
    assert bytes_digest(data) == digest, f"{path} has changed while it was in use"
    return needles_of(pq.read_table(pa.BufferReader(data))["text"].combine_chunks(), ngram_words, min_words)


def _gathered(found: Sequence[pa.Table], needles: Needles) -> tuple[pa.Table, np.ndarray]:
    """(the pairs with named documents and the `shard` of each, in how many documents each needle stands)."""
    tables = [one.append_column("shard", pa.repeat(pa.scalar(i, pa.int32()), one.num_rows)) for i, one in enumerate(found)]
    table = pa.concat_tables([_FOUND.append(pa.field("shard", pa.int32())).empty_table(), *tables])
    counts = np.bincount(table["needle"].to_numpy(), table["documents"].to_numpy(), needles.size).astype(np.int64)
    return table.filter(pc.greater_equal(table["row"], 0)), counts


def _by_document(pairs: pa.Table) -> tuple[np.ndarray, np.ndarray]:
    """(document, needle) of each pair; a document is called by its first pair's number."""
    shard, row = pairs["shard"].to_numpy().astype(np.int64), pairs["row"].to_numpy().astype(np.int64)
    _, first, which = np.unique(shard << 32 | row, return_index=True, return_inverse=True)
    return first[which].astype(np.int64), pairs["needle"].to_numpy().astype(np.int64)


def _splits(documents: ShardSet, pairs: pa.Table) -> list[str]:
    """The split of the document of each pair: as its row says, or the manifest of a published version; empty where neither does."""
    parts = documents.manifest().facts.get("splits")
    of_shard = {index: name for name, indices in parts.items() for index in indices} if isinstance(parts, dict) else {}
    indices = [shard.index for shard in documents.shards()]
    rows = zip(pairs["split"].to_pylist(), pairs["shard"].to_pylist(), strict=True)
    return [said or of_shard.get(indices[shard], "") for said, shard in rows]


def _themselves(found: Evidence, looked: Looked, doc_ids: Sequence[str], splits: Sequence[str]) -> np.ndarray:
    """Which evidence is a held-out document of ours found in itself, which says nothing.

    The document must be held out still: the same page in documents that are not split, or in another split, may be trained on.
    """
    keys, items = looked.keys, looked.item_of[found.passage]
    held_out = [looked.sets[at].held_out for at in looked.set_of(items).tolist()]
    rows = zip(items.tolist(), held_out, found.document.tolist(), strict=True)
    same = [name != "" and splits[document] == name and keys[item] == doc_ids[document] for item, name, document in rows]
    return np.array(same, bool)


def _fates(looked: Looked, hits: Evidence, pairs: pa.Table) -> pa.Table:
    """One row for each document that is a hit, in order of shard and row."""
    shard, row = pairs["shard"].to_numpy(), pairs["row"].to_numpy()
    names = [one.name for one in looked.sets]
    which = looked.set_of(looked.item_of[hits.passage])
    order = np.lexsort((hits.passage, -hits.value, hits.method, hits.document))
    rows: dict[int, dict[str, Any]] = {}
    for at in order.tolist():
        document = int(hits.document[at])
        if document not in rows:
            strongest = {"value": hits.value[at], "threshold": hits.threshold[at], "detail": _told(looked, hits, at)}
            rows[document] = {"shard": shard[document], "row": row[document], "sets": set(), **strongest}
        rows[document]["sets"].add(int(which[at]))
    ready = [{**one, "sets": [names[i] for i in sorted(one["sets"])]} for one in rows.values()]
    return pa.Table.from_pylist(ready, _FATES).sort_by([("shard", "ascending"), ("row", "ascending")])


def _told(looked: Looked, hits: Evidence, at: int) -> str:
    """A hit in words for a reject."""
    passage, method = int(hits.passage[at]), METHODS[int(hits.method[at])]
    item = int(looked.item_of[passage])
    number = int(looked.set_of(np.array([item]))[0])
    one, place = looked.sets[number], item - int(looked.item_at[number])
    length = int(hits.ngram_words[at])
    kind = {EXACT: "the whole", NGRAM: f"{length}-grams of the"}.get(method, f"share of the {length}-grams of the")
    words = looked.needles.words(int(hits.start[at]), min(int(hits.run_words[at]), 13))
    return f"{one.name}, item {place} ({one.keys[place]}): {kind} {looked.fields[passage]}: {words}"


def _marked(table: pa.Table, fate: pa.Table) -> pa.Table:
    """The documents with the names of the sets whose items they hold; marks that are there already stay."""
    [name] = CONTAMINATION.names
    kind = CONTAMINATION.field(name).type
    if name in table.column_names:
        old = table[name].combine_chunks().cast(kind)
        table = table.drop_columns([name])
    else:
        old = pa.nulls(table.num_rows, kind)
    before = old.take(fate["row"]).to_pylist()
    new = [list(dict.fromkeys([*(was or ()), *sets])) for was, sets in zip(before, fate["sets"].to_pylist(), strict=True)]
    place = np.arange(table.num_rows)
    place[fate["row"].to_numpy()] = table.num_rows + np.arange(fate.num_rows)
    return table.append_column(CONTAMINATION.field(name), pa.concat_arrays([old, pa.array(new, kind)]).take(pa.array(place)))


def _certify(
    out: Output,
    looked: Looked,
    evidence: Evidence,
    counts: np.ndarray,
    hits: pa.Table,
    exempt: int,
    documents: ShardSet,
    config: DecontaminateConfig,
) -> None:
    """Write the certificate, its page and its tables, and tell the numbers as facts."""
    items = item_table(looked, evidence, config)
    digests = {name: write_table(storage.join(out.folder, name), table)[0] for name, table in ((HITS, hits), (ITEMS, items))}
    corpus = {
        "step": documents.step,
        "version": documents.version,
        "digest": documents.digest,
        "documents": documents.counts.kept,
        "held_out_still": exempt,
    }
    told = certificate(looked, evidence, counts, hits, items, corpus, digests, config)
    storage.write_json(storage.join(out.folder, CERTIFICATE), told)
    storage.write_bytes(storage.join(out.folder, CERTIFICATE_PAGE), page(told).encode())
    for name in (CERTIFICATE, CERTIFICATE_PAGE, HITS, ITEMS):
        out.keep_file(name)
    out.facts |= {
        "action": config.action,
        "num_items": items.num_rows,
        **{f"num_{name}": sum(one[name] for one in told["sets"]) for name in ("tested", "too_short")},
        "num_contaminated_items": told["contaminated_items"],
        "num_contaminated_documents": told["contaminated_documents"],
        **{f"contaminated_items.{one['name']}": one["contaminated_items"] for one in told["sets"]},
    }
