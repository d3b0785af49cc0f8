"""decontaminate: find the items of evaluation sets in the documents, remove or mark these, and certify it.

Runs where sets are configured, after dedup: copies of a page count once as evidence of what is common. Before redact, which would hide an
item's addresses. Passes: needles found (per shard) → how common each is → evidence, items and hits → removal or marks (per shard). The
bytes of every evaluation set are part of the recipe: a changed set makes this step again, and nothing before it. Memory in a worker: the
needles, some 200 bytes a word of the sets, and a shard. In the flow's process: the needles, one shard's findings, and of all shards only
what is evidence: of a needle at most `max_documents` documents, of a long passage those that hold it. A passage that many items share is
weighed once.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import lru_cache, partial
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from expectations.schemas import CERTIFICATE, CERTIFICATE_FOLDER, CERTIFICATE_PAGE, CONTAMINATION
from infra import storage
from infra.dataset import EXCERPT_CHARS, REJECTS_SCHEMA, Outcome, ShardRef, ShardSet, bytes_digest, write_table
from infra.errors import InputError
from infra.steps import RECIPE, Output, step
from tasks.text.certificate import certificate, page
from tasks.text.contamination import (
    CONTAINMENT,
    EXACT,
    METHODS,
    NGRAM,
    DecontaminateConfig,
    Evidence,
    Looked,
    contained,
    distinct_passages,
    hit_table,
    item_table,
    long_wholes,
    weigh,
)
from tasks.text.evaluation_sets import file_digests, read_set
from tasks.text.needles import NONE, Needles, needles_of, search

RULE = "contaminated"
HITS, ITEMS = f"{CERTIFICATE_FOLDER}/hits.parquet", f"{CERTIFICATE_FOLDER}/items.parquet"
_FOUND = pa.schema(
    [
        *(("row", pa.int32()), ("needle", pa.int32()), ("documents", pa.int64())),
        *(("doc_id", pa.string()), ("url", pa.string()), ("split", pa.string())),
        *(("passage", pa.int32()), ("ngram_words", pa.int32()), ("value", pa.float64())),
        *(("start", pa.int64()), ("run_words", pa.int64())),
    ]
)
"""A needle in a document; with row -1 a needle that stands in so many documents of a shard that these are not named; with needle NONE
a document that contains a long `passage`, which is told by the last columns."""
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
    long = contained(needles, rows.astype(np.int64), found.astype(np.int64), config)
    rows, found, common = rows[named], found[named], np.flatnonzero(counted_only)
    num_found, num_common, num_long = len(rows), len(common), len(long)
    of_row = np.concatenate([rows, np.full(num_common, -1), long.document])
    documents = table.select(["doc_id", "url", "split"]).take(pa.array(of_row, mask=of_row < 0))
    none = np.zeros(num_found + num_common)
    told = {
        name: np.concatenate([none, getattr(long, name)]) for name in ("passage", "ngram_words", "value", "start", "run_words")
    }
    columns = {
        "row": of_row,
        "needle": np.concatenate([found, common, np.full(num_long, NONE)]),
        "documents": np.concatenate([np.ones(num_found), counts[common], np.zeros(num_long)]),
        **{name: documents[name].combine_chunks() for name in documents.column_names},
        **told,
    }
    return Outcome(pa.table([pa.array(columns[one.name]).cast(one.type) for one in _FOUND], schema=_FOUND))


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
        InputError: there are no sets, or one cannot be read, or is another than that of the recipe.
    """
    if not config.sets:
        raise InputError("decontaminate.sets: no evaluation set is given; name one: sets=[{name: gsm8k, path: gsm8k_test.jsonl}]")
    sets = [read_set(one) for one in config.sets]
    recipe = storage.read_json(storage.join(out.folder, RECIPE))["files"]
    if changed := {f"{one.name} {name}": digest for one in sets for name, digest in one.files.items()}.items() ^ recipe.items():
        raise InputError(f"decontaminate.sets: {min(changed)[0]}: changed while it was read; run again when nobody writes to it")
    passages = out.aside("passages.parquet")
    digest, _ = write_table(passages, pa.table({"text": distinct_passages(sets).dictionary}))
    looked = Looked(sets, _needles(passages, digest, config.ngram_words, config.min_words))
    shards = documents.shards()
    held_out = any(one.held_out for one in sets)
    search_one = partial(search_shard, passages=passages, digest=digest, config=config, held_out=held_out)
    pairs, counts = _gathered(out.map_aside("found", search_one, shards), looked.needles, config)
    splits = _splits(documents, pairs) if held_out else [""] * pairs.num_rows
    doc_ids, urls = pairs["doc_id"].to_pylist(), pc.fill_null(pairs["url"], "").to_pylist()
    evidence = _weighed(pairs, looked.needles, counts, config)
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


def _gathered(parts: Sequence[ShardRef], needles: Needles, config: DecontaminateConfig) -> tuple[pa.Table, np.ndarray]:
    """(what may be evidence and the `shard` of each row, in how many documents each needle stands)."""
    counts = np.zeros(needles.size, np.int64)
    for part in parts:
        one = part.read(["needle", "documents"]).filter(pc.field("needle") != NONE)
        np.add.at(counts, one["needle"].to_numpy(), one["documents"].to_numpy())
    telling = np.append((counts <= config.max_documents) | long_wholes(needles), True)  # NONE is the last
    found = [_FOUND.append(pa.field("shard", pa.int32())).empty_table()]
    for i, part in enumerate(parts):
        one = part.read()
        one = one.filter(pa.array(telling[one["needle"].to_numpy()] & (one["row"].to_numpy() >= 0)))
        found.append(one.append_column("shard", pa.repeat(pa.scalar(i, pa.int32()), one.num_rows)))
    return pa.concat_tables(found), counts


def _weighed(pairs: pa.Table, needles: Needles, counts: np.ndarray, config: DecontaminateConfig) -> Evidence:
    """The evidence in what was gathered; a document is called by its first row's number."""
    shard, row = pairs["shard"].to_numpy().astype(np.int64), pairs["row"].to_numpy().astype(np.int64)
    _, first, which = np.unique(shard << 32 | row, return_index=True, return_inverse=True)
    document, needle = first[which].astype(np.int64), pairs["needle"].to_numpy().astype(np.int64)
    is_long = needle == NONE
    rows = pairs.filter(pa.array(is_long))
    length, value = rows["ngram_words"].to_numpy().astype(np.int64), rows["value"].to_numpy()
    long = Evidence(
        document=document[is_long],
        passage=rows["passage"].to_numpy().astype(np.int64),
        method=np.full(len(length), METHODS.index(CONTAINMENT)),
        ngram_words=length,
        value=value,
        threshold=np.array([config.min_containment[one] for one in length.tolist()], float),
        start=rows["start"].to_numpy(),
        run_words=rows["run_words"].to_numpy(),
    )
    return weigh(needles, document[~is_long], needle[~is_long], counts, long, config)


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
    owners: dict[int, set[tuple[str, str]]] = {}
    for passage, item, number in zip(
        looked.passage_of.tolist(), looked.item_of.tolist(), looked.set_of(looked.item_of).tolist(), strict=True
    ):
        owners.setdefault(passage, set()).add((looked.sets[number].held_out, looked.keys[item]))
    rows = zip(found.passage.tolist(), found.document.tolist(), strict=True)
    return np.array([splits[doc] != "" and owners[passage] == {(splits[doc], doc_ids[doc])} for passage, doc in rows], bool)


def _fates(looked: Looked, hits: Evidence, pairs: pa.Table) -> pa.Table:
    """One row for each document that is a hit, in order of shard and row."""
    shard, row = pairs["shard"].to_numpy(), pairs["row"].to_numpy()
    names = [one.name for one in looked.sets]
    passage, use, _ = looked.first_uses
    sets_of: dict[int, list[int]] = {}
    for one, number in zip(passage.tolist(), looked.set_of(looked.item_of[use]).tolist(), strict=True):
        sets_of.setdefault(one, []).append(number)
    order = np.lexsort((hits.passage, -hits.value, hits.method, hits.document))
    rows: dict[int, dict[str, Any]] = {}
    for at in order.tolist():
        document = int(hits.document[at])
        if document not in rows:
            strongest = {"value": hits.value[at], "threshold": hits.threshold[at], "detail": _told(looked, hits, at)}
            rows[document] = {"shard": shard[document], "row": row[document], "sets": set(), **strongest}
        rows[document]["sets"].update(sets_of[int(hits.passage[at])])
    ready = [{**one, "sets": [names[i] for i in sorted(one["sets"])]} for one in rows.values()]
    return pa.Table.from_pylist(ready, _FATES).sort_by([("shard", "ascending"), ("row", "ascending")])


def _told(looked: Looked, hits: Evidence, at: int) -> str:
    """A hit in words for a reject."""
    passage, method = int(hits.passage[at]), METHODS[int(hits.method[at])]
    use = int(looked.first_uses_of(np.array([passage]))[1][0])
    item = int(looked.item_of[use])
    number = int(looked.set_of(np.array([item]))[0])
    one, place = looked.sets[number], item - int(looked.item_at[number])
    length = int(hits.ngram_words[at])
    kind = {EXACT: "the whole", NGRAM: f"{length}-grams of the"}.get(method, f"share of the {length}-grams of the")
    words = looked.needles.words(
        int(hits.start[at]), min(int(hits.run_words[at]), length or 13)
    )  # one n-gram: it is there as told
    return f"{one.name}, item {place} ({one.keys[place]}): {kind} {looked.fields[use]}: {words}"


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
    items = item_table(looked, evidence, counts, config)
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
        **{f"num_{name}": sum(one[name] for one in told["sets"]) for name in ("tested", "too_short", "common")},
        "num_contaminated_items": told["contaminated_items"],
        "num_contaminated_documents": told["contaminated_documents"],
        **{f"contaminated_items.{one['name']}": one["contaminated_items"] for one in told["sets"]},
    }
