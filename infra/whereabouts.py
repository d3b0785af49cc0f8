"""Which versions hold a document, which dropped it and why: asked of the shards, from where it came in down to where it went.

A URL is looked up only where documents come in; below that the `doc_id` is followed, in whose order the rows lie, so that most of a shard
is skipped unread. A version is asked only if one that it was made from holds the document. Memory does not grow with the corpus.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from infra.dataset import dataset, folder_of, read_manifest
from infra.graph import Graph
from infra.lineage import Record

DUPLICATES = ("exact_duplicate", "near_duplicate", "seen_before", "same_url")
"""Rules whose rejects name the document that was kept."""
LOOKED_UP = ("doc_id", "content_id", "url")


@dataclass(frozen=True)
class Whereabouts:
    """What was found of one or several documents."""

    documents: Sequence[str]
    """Their doc_ids."""
    entrances: Sequence[str]
    """Versions with which they came in."""
    notes: Mapping[str, str]
    """Node id → what that version did with them; of what has no rows of documents (a model), which version it came of."""


def whereabouts(words: Iterable[str], graph: Graph, versions: Iterable[Record]) -> Whereabouts:
    """Look for the documents that one of `words` (URL, doc_id, content_id) names.

    Args:
        words: the same thing in several spellings, such as a URL as given and its canonical form.
        graph: the lineage of the store.
        versions: the store's versions.
    """
    folders = {one.id: folder_of(one.path) for one in versions}
    wanted = pa.array(sorted(set(words)), pa.string())
    parents: dict[str, set[str]] = {name: set() for name in folders}
    for edge in graph.edges:
        if edge.kind == "input" and edge.source in folders:
            parents[edge.target].add(edge.source)
    documents = sorted({doc for name in folders if not parents[name] for doc in _doc_ids(folders[name], wanted)})
    ids = pa.array(documents, pa.string())
    notes: dict[str, str] = {}
    held: dict[str, str] = {}
    """What each holder says of them; what has no rows of its own repeats its parent's words."""
    for name in graph.order() if documents else ():
        if name in folders and _has_documents(folders[name]):
            if parents[name] and not parents[name] & held.keys():
                continue
            kept, note = _note(folders[name], ids)
            notes |= {name: note} if note else {}
            held |= {name: f"{graph.nodes[name].label}, which {note}"} if kept else {}
        elif above := [one for one in graph.parents(name) if one in held]:
            held[name] = held[above[0]]
            notes[name] = f"came of {held[name]}"
    return Whereabouts(documents, [name for name in notes if name in folders and not parents[name]], notes)


def _has_documents(folder: str) -> bool:
    """Whether the rows of a version, or its rejects, are documents."""
    return any(rows is not None and "doc_id" in rows.schema.names for rows in (dataset(folder), dataset(folder, rejects=True)))


def _doc_ids(folder: str, wanted: pa.Array) -> set[str]:
    found: set[str] = set()
    for rejects in (False, True):
        rows = dataset(folder, rejects=rejects)
        if rows is None or "doc_id" not in rows.schema.names:
            continue
        for column in LOOKED_UP:
            if column in rows.schema.names:
                found.update(rows.to_table(["doc_id"], filter=pc.field(column).isin(wanted))["doc_id"].to_pylist())
    return found - {""}


def _note(folder: str, ids: pa.Array) -> tuple[bool, str]:
    """Whether a version holds one of the documents, and in words what it did with them."""
    wanted = pc.field("doc_id").isin(ids)
    words = []
    rows = dataset(folder)
    kept = 0
    if rows is not None and "doc_id" in rows.schema.names:
        columns = [name for name in ("doc_id", "num_tokens") if name in rows.schema.names]
        table = rows.to_table([*columns, "__filename"], filter=wanted)
        kept = table.num_rows
        if kept:
            words.append(_held(folder, table))
    rejects = dataset(folder, rejects=True)
    if rejects is not None:
        columns = ["rule", "value", "threshold", "detail"]
        words += sorted({dropped_words(row) for row in rejects.to_table(columns, filter=wanted).to_pylist()})
    return bool(kept), "; ".join(words)


def _held(folder: str, table: pa.Table) -> str:
    """`holds it`, in which split, and as how many tokens."""
    splits = read_manifest(folder).facts.get("splits", {})
    indices = {int(name.rpartition("part-")[2].partition(".")[0]) for name in table["__filename"].to_pylist()}
    inside = [name for name, members in splits.items() if indices & set(members)]
    tokens = f" as {pc.sum(table['num_tokens']).as_py():,} tokens" if "num_tokens" in table.column_names else ""
    many = f" {table.num_rows} of them" if table.num_rows > 1 else ""
    return f"holds{many or ' it'}{tokens}{' in its ' + ' and '.join(inside) + ' split' if inside else ''}"


def dropped_words(row: dict[str, Any]) -> str:
    """A reject in words: rule, value and threshold."""
    numbers = ""
    if row["value"] is not None and row["threshold"] is not None:
        what = "similarity" if row["rule"] in DUPLICATES else "value"
        numbers = f" ({what} {row['value']:.4g}, threshold {row['threshold']:.4g})"
    instead = "kept instead is " if row["detail"] and row["rule"] in DUPLICATES else ""
    return f"dropped by {row['rule']}{numbers}{': ' + instead + row['detail'] if row['detail'] else ''}"
