"""A document's passport: what each step of a run did with it; and the proof that a run's files are those its manifests name."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pyarrow.compute as pc
from rich.console import Console

from infra import dataset, ledger, storage
from infra.dataset import RUN, ShardSet
from infra.errors import GristmillError, InputError
from infra.steps import BESIDE
from infra.whereabouts import DUPLICATES, LOOKED_UP, dropped_words
from tasks.trim import REPEATS
from tasks.web.urls import UrlError, canonical


def trace_document(what: str, run_name: str, console: Console) -> None:
    """Print every step's verdict on the documents that `what` (URL, doc_id, content_id) names.

    Raises:
        InputError: the run knows no such document.
    """
    name = ledger.find_run(run_name)
    versions = [entry.shards() for entry in ledger.entries(name)]
    ids = _doc_ids(_canonical(what), versions) or _doc_ids(what, versions)
    if not ids:
        raise InputError(f"{what}: no step of run {name} has seen it; is it the canonical URL, and the right run (--run)?")
    console.print(f"run {name}", highlight=False)
    for doc in sorted(ids):
        console.print(f"document {doc}", highlight=False)
        for version, verdict in passport(doc, versions):
            console.print(
                f"  {version.step:<10} {verdict}  (version {version.version})", highlight=False, markup=False, soft_wrap=True
            )


def _canonical(what: str) -> str:
    try:
        return canonical(what)
    except UrlError:
        return what  # an id


def passport(doc: str, versions: list[ShardSet]) -> Iterator[tuple[ShardSet, str]]:
    """Each version that has a row for the document, or is a model that was trained on it, and what it says."""
    for version in versions:
        if version.schema_name == "model" and (words := _learned_words(version, doc)):
            yield version, words
        for row in _rows(version, doc, rejects=False):
            yield version, _kept_words(version, row)
        for row in _rows(version, doc, rejects=True):
            yield version, dropped_words(row) + _where(version, row)


def verify_run(run_name: str, console: Console) -> bool:
    """Compare every file of a run with its digest; True when all are whole."""
    good = True
    for entry in ledger.entries(ledger.find_run(run_name)):
        version = entry.shards()
        manifest = version.manifest()
        wanted = {
            **{shard.name: shard.digest for shard in manifest.shards},
            **{file.name: file.digest for file in manifest.files},
            **{f"rejects/{shard.name}": shard.rejects_digest for shard in manifest.shards if shard.rejects_digest},
            **{file["name"]: file["digest"] for file in storage.read_json(version.file(RUN)).get(BESIDE, [])},
        }
        bad = [name for name, digest in wanted.items() if not dataset.is_sound(version.folder, name, digest)]
        console.print(f"{entry.step:<10} {len(wanted) - len(bad)} of {len(wanted)} files whole", highlight=False)
        for name in bad:
            good = False
            console.print(
                f"  [red]{version.file(name)}: not the bytes of its manifest[/]; remove {version.folder} and run again",
                soft_wrap=True,
            )
    return good


def _doc_ids(what: str, versions: list[ShardSet]) -> set[str]:
    found: set[str] = set()
    for version in versions:
        for rejects in (False, True):
            table = dataset.dataset(version.folder, rejects=rejects)
            if table is None or "doc_id" not in table.schema.names:
                continue
            for column in LOOKED_UP:
                if column in table.schema.names:
                    found.update(table.to_table(["doc_id"], filter=pc.field(column) == what)["doc_id"].to_pylist())
    return found


def _rows(version: ShardSet, doc: str, *, rejects: bool) -> list[dict[str, Any]]:
    table = dataset.dataset(version.folder, rejects=rejects)
    if table is None or "doc_id" not in table.schema.names:
        return []
    columns = [name for name in table.schema.names if name not in ("text", "excerpt")]
    rows: list[dict[str, Any]] = table.to_table(columns, filter=pc.field("doc_id") == doc).to_pylist()
    return rows


def _where(version: ShardSet, row: dict[str, Any]) -> str:
    """The address of the document that was kept instead, where one was."""
    kept = _rows(version, row["detail"], rejects=False) if row["rule"] in DUPLICATES and row["detail"] else []
    return f" ({kept[0]['url']})" if kept and kept[0].get("url") else ""


def _learned_words(model: ShardSet, doc: str) -> str:
    """What a training did with the document; empty: it had nothing to do with it."""
    from flows.read_by import in_words
    from flows.trained import training_of

    try:
        return in_words(training_of(model), doc)
    except GristmillError as error:
        return f"what it learned from cannot be told: {error}"


def _kept_words(version: ShardSet, row: dict[str, Any]) -> str:
    if version.schema_name == "token_documents":
        return f"{row['num_tokens']} tokens from offset {row['offset']}"
    if version.schema_name == "captures":
        return f"fetched {row['url']}, status {row['status']}, {row['num_bytes']:,} bytes"
    if version.schema_name == "indexed":
        seen = f", seen before as number {row['first']:,}" if row["first"] != row["number"] else ""
        copy = f", a copy of number {row['node']:,}" if row["node"] != row["number"] else ""
        return f"number {row['number']:,} in the rank{seen or copy}"
    extra = ", ".join(
        f"{name} {row[name]}"
        for name in ("language", "split", "cluster", "contaminated", "augmented", "augmented_from")
        if row.get(name)
    )
    return f"kept{': ' + extra if extra else ''}{_repeated_words(version, row)}"


def _repeated_words(version: ShardSet, row: dict[str, Any]) -> str:
    """What `trim` took out of a document or marked in it, and which document had the first such piece before."""
    told = dataset.dataset(version.file(REPEATS)) if version.step == "trim" else None
    found = told.to_table(filter=pc.field("doc_id") == row["doc_id"]).to_pylist() if told is not None else []
    words = []
    for level, action in dict.fromkeys((one["level"], one["action"]) for one in found):
        pieces = [one for one in found if (one["level"], one["action"]) == (level, action)]
        done = "removed" if action == "remove" else "marked"
        words.append(f"{level} {done} in {len(pieces)} places, the first as in document {pieces[0]['first_doc_id']}")
    return "".join(f"; {one}" for one in words)
