"""The certificate of a decontamination: what was looked for in what, by which rules, what was found, what was done. No clock is in it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from tasks.text.contamination import (
    COMMON,
    CONTAMINATED,
    EXACT,
    METHODS,
    NGRAM,
    TOO_SHORT,
    DecontaminateConfig,
    Evidence,
    Looked,
    long_wholes,
)
from tasks.text.needles import NONE

FORMAT = 1
MAX_HITS, MAX_PAGE_HITS, MAX_COMMON = 1000, 100, 20
"""Hits in the certificate, on its page, and phrases told; all hits are in the table."""


def certificate(
    looked: Looked,
    found: Evidence,
    documents: npt.NDArray[np.int64],
    hits: pa.Table,
    items: pa.Table,
    corpus: Mapping[str, Any],
    digests: Mapping[str, str],
    config: DecontaminateConfig,
) -> dict[str, Any]:
    """Everything that a reader must know to trust or to doubt a score.

    Args:
        found: all evidence, that which does not decide as well.
        documents: in how many documents each needle stands.
        hits: as `hit_table` gives them.
        items: as `item_table` gives them.
        corpus: what was looked at: step, version, digest, number of documents, and of those `held_out_still`, which are items of a set
            themselves and so no hits of it.
        digests: of the tables of hits and items, by file.
    """
    rules = config.model_dump(mode="json", exclude={"sets"})
    return {
        "format": FORMAT,
        "documents": dict(corpus),
        "rules": rules,
        "sets": [_set(looked, number, found, items) for number in range(len(looked.sets))],
        "contaminated_items": pc.sum(pc.equal(items["state"], CONTAMINATED)).as_py() or 0,
        "contaminated_documents": len(np.unique(found.document[found.is_hit])),
        "statement": _statement(looked, found, items, corpus, config),
        "common": _common(looked, documents, config),
        "files": dict(digests),
        "num_hits": hits.num_rows,
        "hits": hits.slice(0, MAX_HITS).to_pylist(),
    }


def _set(looked: Looked, number: int, found: Evidence, items: pa.Table) -> dict[str, Any]:
    one = looked.sets[number]
    states = items.filter(pc.equal(items["set"], one.name))["state"]
    first = sum(len(other.passages) for other in looked.sets[:number])
    passages = looked.passage_of[first : first + len(one.passages)]
    is_own = np.zeros(len(looked.needles.whole_of), bool)
    is_own[passages] = True
    own = is_own[found.passage]
    wholes = looked.needles.whole_of[passages]
    hit = found.take(own & found.is_hit)
    too_short = pc.sum(pc.equal(states, TOO_SHORT)).as_py() or 0
    return {
        "name": one.name,
        "digest": one.digest,
        "files": dict(one.files),
        "fields": list(one.fields),
        "items": len(one.keys),
        "tested": len(one.keys) - too_short,
        "too_short": too_short,
        "common": pc.sum(pc.equal(states, COMMON)).as_py() or 0,
        "passages": len(one.passages),
        "passages_too_short": int((wholes == NONE).sum()),
        "contaminated_items": pc.sum(pc.equal(states, CONTAMINATED)).as_py() or 0,
        "contaminated_documents": len(np.unique(hit.document)),
        "found": [
            _tally(looked, number, found.take(own), method, length)
            for method in METHODS
            for length in ([0] if method == EXACT else looked.needles.lengths.tolist())
        ],
    }


def _tally(looked: Looked, number: int, found: Evidence, method: str, length: int) -> dict[str, Any]:
    """Items of a set and documents for one method and length: all with any such overlap, and those that it makes hits."""

    def items(some: Evidence) -> int:
        overlapping = np.zeros(len(looked.needles.whole_of), bool)
        overlapping[some.passage] = True
        return int(looked.most(overlapping)[looked.item_at[number] : looked.item_at[number + 1]].sum())

    rows = found.take((found.method == METHODS.index(method)) & (found.ngram_words == length))
    hits = rows.take(rows.is_hit)
    return {
        "method": method,
        "ngram_words": length,
        "items_overlapping": items(rows),
        "documents_overlapping": len(np.unique(rows.document)),
        "items": items(hits),
        "documents": len(np.unique(hits.document)),
    }


def _common(looked: Looked, documents: npt.NDArray[np.int64], config: DecontaminateConfig) -> dict[str, Any]:
    """What stands in too many documents to be evidence: how much of it, and the most frequent."""
    needles = looked.needles
    common = np.flatnonzero((documents > config.max_documents) & ~long_wholes(needles))
    told = [
        {"words": needles.words(int(needles.at[one]), int(needles.num_words[one])), "documents": int(documents[one])}
        for one in common[np.lexsort((common, -documents[common]))][:MAX_COMMON]
    ]
    lengths, counts = np.unique(needles.num_words[common], return_counts=True)
    return {"by_words": {str(n): count for n, count in zip(lengths.tolist(), counts.tolist(), strict=True)}, "examples": told}


def _statement(looked: Looked, found: Evidence, items: pa.Table, corpus: Mapping[str, Any], config: DecontaminateConfig) -> str:
    names = ", ".join(one.name for one in looked.sets)
    dirty = pc.sum(pc.equal(items["state"], CONTAMINATED)).as_py() or 0
    short = pc.sum(pc.equal(items["state"], TOO_SHORT)).as_py() or 0
    common = pc.sum(pc.equal(items["state"], COMMON)).as_py() or 0
    where = len(np.unique(found.document[found.is_hit]))
    done = "which went" if config.action == "remove" else "which stayed, marked"
    what = f"{_counted(dirty, 'item')} found in {_counted(where, 'document')}, {done}" if where else "none was found"
    untested = f" {_counted(short, 'item')} too short to look for." if short else ""
    if common:
        each = f"{_counted(common, 'item')} {'stands' if common == 1 else 'stand'} in more than {config.max_documents:,} documents each"
        untested += f" {each} and {'was' if common == 1 else 'were'} taken for common phrases."
    still = corpus["held_out_still"]
    exempt = f" {_counted(still, 'document')} of the sets themselves, held out still, not counted." if still else ""
    searched = f"{_counted(corpus['documents'], 'document')} searched for {_counted(items.num_rows, 'item')} of {names}"
    return f"{searched}: {what}.{untested}{exempt}"


def _counted(number: int, what: str) -> str:
    return f"{number:,} {what}{'s' * (number != 1)}"


def page(told: Mapping[str, Any]) -> str:
    """The certificate as Markdown."""
    rules, corpus = told["rules"], told["documents"]
    asked = [
        *(["a whole passage"] if rules["exact"] else []),
        *(f"at least {share:.0%} of a passage's {length}-grams" for length, share in rules["min_containment"].items()),
        *(f"one {length}-gram" for length in rules["any_ngram"]),
    ]
    sets = "".join(
        f"| {one['name']} | `{one['digest']}` | {', '.join(one['fields'])} | {one['items']:,} | {one['too_short']:,} | {one['common']:,} "
        f"| {one['contaminated_items']:,} | {one['contaminated_documents']:,} |\n"
        for one in told["sets"]
    )
    found = "".join(
        f"| {one['name']} | {_named(row['method'], row['ngram_words'])} | {row['items_overlapping']:,} | {row['documents_overlapping']:,} "
        f"| {row['items']:,} | {row['documents']:,} |\n"
        for one in told["sets"]
        for row in one["found"]
    )
    hits = "".join(
        f"| {hit['set']} | {_cell(hit['id'])} | {_cell(hit['field'])} | `{hit['doc_id']}` {_cell(hit['url'])} "
        f"| {_named(hit['method'], hit['ngram_words'])} | {hit['value']:.3g} | {_cell(hit['words'])} |\n"
        for hit in told["hits"][:MAX_PAGE_HITS]
    )
    common = "".join(f"- {one['documents']:,} documents: {one['words']}\n" for one in told["common"]["examples"])
    return (
        f"# Contamination certificate\n\n{told['statement']}\n\n"
        f"Searched: {corpus['step']} version `{corpus['version']}`, digest `{corpus['digest']}`. A document is a hit if it has "
        f"{' or '.join(asked)}; words are compared in lower case, without punctuation. What stands in more than {rules['max_documents']} "
        "documents is no evidence, unless one document has all of a passage as long as the longest n-gram, or the share that is asked "
        "for; an item of which only this was found is common. Paraphrases are not found.\n\n"
        "| set | digest | passages | items | too short | common | contaminated | documents |\n"
        "| --- | --- | --- | ---: | ---: | ---: | ---: | ---: |\n"
        f"{sets}\n## What was found, by method\n\nAny overlap is told beside what made a hit.\n\n"
        "| set | method | items with any | documents with any | items hit | documents hit |\n| --- | --- | ---: | ---: | ---: | ---: |\n"
        f"{found}\n## Hits\n\n{_how_many(told)}\n\n"
        "| set | item | passage | document | method | value | words |\n| --- | --- | --- | --- | --- | ---: | --- |\n"
        f"{hits}\n" + (f"## Common phrases that were no evidence\n\n{common}" if common else "")
    )


def _how_many(told: Mapping[str, Any]) -> str:
    if not told["num_hits"]:
        return "None."
    shown = min(told["num_hits"], MAX_PAGE_HITS)
    return (
        f"{told['num_hits']:,}, of which {shown:,} are here; `hits.parquet` has all, `items.parquet` every item with its flags. "
        "Every n-gram of the words told stands in the document, in one place or another."
    )


def _named(method: str, length: int) -> str:
    return {EXACT: "whole passage", NGRAM: f"{length}-gram"}.get(method, f"{length}-gram containment")


def _cell(text: str) -> str:
    return " ".join(str(text).split()).replace("|", "\\|")
