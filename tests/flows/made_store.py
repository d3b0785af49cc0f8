"""Stores of small real versions, written by the functions with which steps write theirs: from crawl to registered model at once."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import pyarrow as pa

from infra import dataset, ids, ledger, storage
from infra.dataset import Outcome, ShardSet, rejects_table
from infra.ledger import Entry
from infra.settings import settings

Given = ShardSet | Sequence[ShardSet]


def make(
    step: str,
    rows: pa.Table | None,
    rejects: Sequence[Mapping[str, Any]] = (),
    *,
    inputs: Mapping[str, Given] | None = None,
    config: Mapping[str, Any] | None = None,
    files: Mapping[str, str] | None = None,
    code: str = "aaaa",
    schema: str = "documents",
    facts: Mapping[str, Any] | None = None,
    noted: Mapping[str, Any] | None = None,
) -> ShardSet:
    """A complete version in the store, entered in the ledger if a run is on."""
    recipe = {
        "step": step,
        "inputs": {name: _names(given) for name, given in (inputs or {}).items()},
        "config": dict(config or {}),
        "files": dict(files or {}),
        "code": f"{step}-{code}",
        "libraries": {"pyarrow": "25"},
    }
    folder = storage.join(settings().store, step, dataset.version_of(recipe))
    if rows is None:
        receipts, whole = [], storage.join(folder, "whole.bin")
        storage.write_bytes(whole, str(recipe).encode())
        entries = [dataset.file_entry(folder, "whole.bin")]
    else:
        receipts, entries = [dataset.write_shard(folder, 0, Outcome(rows, rejects_table(dict(row) for row in rejects)))], []
    storage.write_json(
        storage.join(folder, "run.json"), {"started": "2026-11-01T00:00:00+00:00", "host": "here", **(noted or {})}
    )
    manifest = dataset.seal(
        folder, step=step, schema_name=schema, recipe=recipe, receipts=receipts, files=entries, facts=dict(facts or {})
    )
    made = dataset.shard_set(folder, manifest)
    ledger.enter(Entry.of(made, loaded=False, seconds=0.1))
    return made


def corpus(
    pages: Mapping[str, str],
    *,
    min_words: int = 2,
    payload: str = "",
    model: str = "",
    code: str = "aaaa",
    upper: bool = False,
    previous: ShardSet | None = None,
) -> dict[str, ShardSet]:
    """Crawl, filter, validate, publish; and with `model`, tokenise, pretrain and register.

    Args:
        pages: URL → text.
        min_words: pages of fewer words are dropped by `filter`.
        payload: what is added to the bytes of every page, though not to its text.
        model: name to register the model under, followed by `:` and its version.
        code: stands for the code of `filter`.
        upper: whether `publish` changes the texts.
        previous: what `validate` compares with.
    """
    made: dict[str, ShardSet] = {}
    rows = [_row(url, text, payload) for url, text in sorted(pages.items())]
    site = {"kind": "site", "name": "web", "urls": sorted(pages)}
    made["crawl"] = make("crawl", _table(rows), config={"snapshot": payload or "first", "sources": [site]})
    kept = [row for row in rows if len(row["text"].split()) >= min_words]
    dropped = [
        {**row, "rule": "min_words", "value": len(row["text"].split()), "threshold": min_words} for row in rows if row not in kept
    ]
    filtering = {"min_words": min_words}
    made["filter"] = make("filter", _table(kept), dropped, inputs={"documents": made["crawl"]}, config=filtering, code=code)
    judged = {"documents": made["filter"], "history": [made["crawl"]], "previous": [previous] if previous else []}
    made["validate"] = make(
        "validate", None, inputs=judged, config={"suite": "published"}, files={"published": "5u1te"}, schema="checks"
    )
    shown = [{**row, "text": row["text"].upper(), "text_digest": ids.text_digest(row["text"].upper())} for row in kept]
    history = {"documents": made["filter"], "history": [made["crawl"], made["filter"]]}
    made["publish"] = make("publish", _table(shown if upper else kept), inputs=history, config={"title": "T", "upper": upper})
    if model:
        made |= _model(made, kept, model)
    return made


def _model(made: Mapping[str, ShardSet], kept: Sequence[Mapping[str, Any]], model: str) -> dict[str, ShardSet]:
    name, _, version = model.partition(":")
    tokens = pa.table({"doc_id": [row["doc_id"] for row in kept], "num_tokens": [len(row["text"].split()) + 1 for row in kept]})
    tokenise = make(
        "tokenise",
        tokens,
        inputs={"dataset": made["publish"]},
        schema="token_documents",
        facts={"splits": {"train": [0], "test": []}},
    )
    pretrain = make("pretrain", None, inputs={"tokens": tokenise}, config={"seed": 1}, schema="model")
    registered = {"name": name, "version": version, "digest": pretrain.digest, "model_id": "m-1", "url": "http://mlflow.example/"}
    inputs = {"model": pretrain, "dataset": made["publish"]}
    register = make("register", None, inputs=inputs, config={"name": name}, schema="registry", noted={"registered": registered})
    return {"tokenise": tokenise, "pretrain": pretrain, "register": register}


def _row(url: str, text: str, payload: str) -> dict[str, Any]:
    return {
        "doc_id": ids.doc_id("web", url, ids.payload_digest((text + payload).encode())),
        "source": "web",
        "url": url,
        "text": text,
        "text_digest": ids.text_digest(text),
    }


def _table(rows: Sequence[Mapping[str, Any]]) -> pa.Table:
    names = ("doc_id", "source", "url", "text", "text_digest")
    ordered = sorted(rows, key=lambda row: str(row["doc_id"]))
    return pa.table({name: pa.array([row[name] for row in ordered], pa.string()) for name in names})


def _names(given: Given) -> Any:
    if isinstance(given, ShardSet):
        return f"{given.step}/{given.version}@{given.digest}"
    return [_names(one) for one in given]
