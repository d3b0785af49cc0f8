"""What the tables between steps look like: one Arrow schema per stage, and the check that a table has it.

Ids are 32 lower-case hex characters (`infra/ids.py`). Fields are nullable throughout: which of them may really be null is
said by the suites beside this file, where a hand can change it. Costs nothing until `conform` casts a table.
"""

from __future__ import annotations

from collections.abc import Mapping

import pyarrow as pa

from infra.dataset import REJECTS_SCHEMA
from infra.errors import InputError

CAPTURES = pa.schema(
    [
        ("doc_id", pa.string()),
        ("source", pa.string()),
        ("url", pa.string()),
        ("host", pa.string()),
        ("status", pa.int32()),
        ("content_type", pa.string()),
        ("payload_digest", pa.string()),
        ("num_bytes", pa.int64()),
    ]
)
"""One fetched page or imported row, in `doc_id` order; `num_bytes` is the payload before decoding."""

DOCUMENTS = pa.schema(
    [
        ("doc_id", pa.string()),
        ("content_id", pa.string()),
        ("source", pa.string()),
        ("url", pa.string()),
        ("host", pa.string()),
        ("text", pa.string()),
        ("text_digest", pa.string()),
    ]
)
"""One text. From extract to redact the columns stay; rewrite and redact change `text` and its `text_digest`, never the ids."""

PUBLISHED = DOCUMENTS.append(pa.field("language", pa.string()))
"""What the gate sees and publish writes: documents with the language that `signals` found."""

TOKEN_DOCS = pa.schema(
    [
        ("doc_id", pa.string()),
        ("shard", pa.int32()),
        ("offset", pa.int64()),
        ("num_tokens", pa.int32()),
        ("num_bytes", pa.int32()),
    ]
)
"""Where a document's tokens lie: `offset` in tokens from the start of token shard `shard`; `num_bytes` of its UTF-8 text."""

SCHEMAS: dict[str, pa.Schema] = {
    "captures": CAPTURES,
    "documents": DOCUMENTS,
    "rewritten": DOCUMENTS,
    "redacted": DOCUMENTS,
    "published": PUBLISHED,
    "rejects": REJECTS_SCHEMA,
    "token_docs": TOKEN_DOCS,
}
"""Schemas by the name that manifests and suites use; `signals` is open, see `signals_schema`."""

OPEN_SCHEMAS = ("signals",)
SIGNAL_TYPES = (pa.float32(), pa.int32(), pa.bool_(), pa.string())


class SchemaError(InputError):
    """A table that does not have its stage's columns; the message names the step, the column and the types."""


def signals_schema(columns: Mapping[str, pa.DataType]) -> pa.Schema:
    """The schema of `signals`: who the document is, then one column per signal in the order given.

    Raises:
        SchemaError: a signal takes the name of an identity column, or has a type that signals do not use.
    """
    identity = [DOCUMENTS.field(name) for name in ("doc_id", "content_id", "source", "url", "host")]
    for name, kind in columns.items():
        if name in DOCUMENTS.names:
            raise SchemaError(f"signals: {name}: a signal cannot have the name of a document column")
        if kind not in SIGNAL_TYPES:
            raise SchemaError(f"signals: {name}: type {kind}; a signal is {', '.join(map(str, SIGNAL_TYPES))}")
    return pa.schema([*identity, *(pa.field(name, kind) for name, kind in columns.items())])


def conform(table: pa.Table, schema: pa.Schema, where: str) -> pa.Table:
    """`table` with exactly the columns of `schema`, in its order and types.

    Raises:
        SchemaError: a column is missing, unknown, or does not cast without loss; `where` opens the message.
    """
    missing = [name for name in schema.names if name not in table.column_names]
    unknown = [name for name in table.column_names if name not in schema.names]
    if missing or unknown:
        problems = [f"column {name!r} is missing" for name in missing] + [f"column {name!r} is unknown" for name in unknown]
        raise SchemaError(f"{where}: {'; '.join(problems)} (expected {', '.join(schema.names)})")
    try:
        return table.select(schema.names).cast(schema)
    except (pa.ArrowInvalid, pa.ArrowNotImplementedError) as error:
        raise SchemaError(f"{where}: {error}") from error
