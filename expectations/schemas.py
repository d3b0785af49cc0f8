"""What the tables between steps look like: one Arrow schema per stage, by the name that manifests and suites use.

Ids are 32 lower-case hex characters (`infra/ids.py`). Fields are nullable throughout: which of them may really be null is
said by the suites beside this file, where a hand can change it. The steps that make a table take its schema from here.
"""

from __future__ import annotations

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.dataset as pads

from infra.dataset import REJECTS_SCHEMA

CONSENT = pa.schema(
    [
        ("robots_denies", pa.list_(pa.string())),
        ("robots_orders", pa.list_(pa.string())),
        ("tdm_reserved", pa.bool_()),
        ("content_signal", pa.string()),
    ]
)
"""What was said about collecting a page (tasks/web/consent.py): by its site and its answer in captures, also by itself in documents;
null where nobody was asked."""

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
        *CONSENT,
    ]
)
"""One fetched page, in `doc_id` order; `num_bytes` is the payload before decoding."""

DOCUMENTS = pa.schema(
    [
        ("doc_id", pa.string()),
        ("content_id", pa.string()),
        ("source", pa.string()),
        ("url", pa.string()),
        ("host", pa.string()),
        ("text", pa.string()),
        ("text_digest", pa.string()),
        ("title", pa.string()),
        ("author", pa.string()),
        ("date", pa.string()),
        ("language_tag", pa.string()),
        ("canonical_url", pa.string()),
        ("licence", pa.string()),
        ("site_name", pa.string()),
        *CONSENT,
    ]
)
"""One text, and what its page says of itself (null where it says nothing). Rewrite and redact change `text` and its `text_digest`,
never the ids."""

EXTRACTED = pa.schema(
    [
        *DOCUMENTS,
        ("encoding", pa.string()),
        ("extractor", pa.string()),
        ("doubt", pa.float32()),  # share of the fast text in lines that do not look like text
        ("links", pa.list_(pa.string())),
    ]
)
"""The same as it comes from its page, with how it was found and where it leads; the steps behind do not carry these on."""

AUDITED = pa.schema(
    [
        *((name, pa.string()) for name in ("kind", "group", "rule")),
        *((name, pa.int64()) for name in ("documents", "removed", "other_documents", "other_removed")),
        *((name, pa.float64()) for name in ("removal_rate", "other_removal_rate")),
        *((f"difference{end}", pa.float64()) for end in ("", "_low", "_high")),
        *((f"ratio{end}", pa.float64()) for end in ("", "_low", "_high")),
        *((f"adjusted_ratio{end}", pa.float64()) for end in ("", "_low", "_high")),
        *((name, pa.float64()) for name in ("p_value", "p_adjusted")),
        ("tested", pa.bool_()),
        ("flagged", pa.bool_()),
    ]
)
"""One row per (kind, group, rule), in that order, of the audit of a filter (tasks/text/disparity.py). Rates are null where there are no
documents, ratios also where none was removed."""

REWRITTEN = pa.schema(
    [*DOCUMENTS, ("language", pa.string()), ("language_score", pa.float32()), ("quality_percentile", pa.float32())]
)
"""Documents with the language that `signals` found, and the place of their quality score (null where no classifier gives one)."""

COPIES = pa.field("num_copies", pa.int32())
"""How many documents of this content were seen, over all crawls of the index."""

PUBLISHED = pa.schema([*REWRITTEN, COPIES])
"""What publish writes."""

CLUSTERED = pa.schema([*REWRITTEN, ("cluster", pa.string()), COPIES])
"""The same with the loose duplicate cluster, named by its best-ranked document."""

INDEXED = pa.schema(
    [
        ("number", pa.int64()),  # place in the total rank of all generations
        ("first", pa.int64()),  # number of the first document of this doc_id: itself, unless it was seen before
        ("node", pa.int64()),  # number of the first document of this content
        ("doc_id", pa.string()),
        ("content_id", pa.string()),
        ("url", pa.string()),
        ("host", pa.string()),
        ("source", pa.string()),
        ("quality", pa.float32()),  # -1 where nobody measured it
        ("num_chars", pa.int32()),
        ("num_shingles", pa.int32()),
        ("content_high", pa.uint64()),
        ("content_low", pa.uint64()),
        ("shard", pa.int32()),  # where its text is: among the shards of its generation, and there
        ("row", pa.int32()),
    ]
)
"""What an index knows of a document, one row for each, beside the shard that has its text."""

EDGE = pa.schema(
    [
        ("better", pa.int64()),
        ("worse", pa.int64()),
        ("shared", pa.int32()),  # distinct shingles in both
        ("size_better", pa.int32()),
        ("size_worse", pa.int32()),
    ]
)
"""A pair of documents of different content that share at least half of the smaller one's shingles, by their numbers."""

FORGOTTEN = pa.schema([("number", pa.int64()), ("first", pa.int64()), ("node", pa.int64()), ("reason", pa.string())])
"""A document that was taken out of an index, as INDEXED has it, and why."""

SPLIT = CLUSTERED.append(pa.field("split", pa.string()))
"""The same with `train` or `test`."""

AUGMENTED = pa.schema([("augmented", pa.string()), ("augmented_from", pa.string())])
"""How a document was made of another one, and the doc_id of that one; null in documents that are as they came. Beside PUBLISHED, too, where
there are such documents."""


CONTAMINATION = pa.schema([("contaminated", pa.list_(pa.string()))])
"""Names of the evaluation sets of which a document holds an item, null where it holds none: from `decontaminate` on, where it marks. Beside
PUBLISHED, too."""

CERTIFICATE_FOLDER = "contamination"
"""Folder of a certificate and its tables, in the version that made it, in the dataset, and among the files of the model."""
CERTIFICATE, CERTIFICATE_PAGE = f"{CERTIFICATE_FOLDER}/certificate.json", f"{CERTIFICATE_FOLDER}/certificate.md"


def originals(rows: pads.Dataset) -> pads.Dataset:
    """The documents that are as they came, where some are copies."""
    [made, _] = AUGMENTED.names
    return rows.filter(pc.field(made).is_null()) if made in rows.schema.names else rows


ENLARGED = pa.schema([*SPLIT, *AUGMENTED])
"""Documents with a split, and copies of training documents that were changed."""

TOKEN_DOCS = pa.schema(
    [
        ("doc_id", pa.string()),
        ("source", pa.string()),
        ("offset", pa.int64()),  # of its first token in the shard
        ("num_tokens", pa.int32()),  # with the closing end-of-text token
        ("num_bytes", pa.int32()),  # of its UTF-8 text
    ]
)
"""Where a document's tokens lie in its token shard."""

REFERENCES = pa.schema(
    [
        ("doc_id", pa.string()),
        ("content_id", pa.string()),
        ("source", pa.string()),
        ("url", pa.string()),
        ("label", pa.string()),
        ("part", pa.string()),  # train, calibrate or test
        ("key", pa.uint64()),  # hash of `text`; copies have one
        ("text", pa.string()),
    ]
)
"""What a classifier was trained and measured on: each text as the one line that it reads, with its class."""

ITEMS = pa.schema(
    [
        ("metric", pa.string()),
        ("item", pa.string()),  # doc_id, or the name of a question or pair: equal for every model that is measured on it
        ("group", pa.string()),  # source, language, identity group …; "" where there is none
        ("amount", pa.float64()),
        ("weight", pa.float64()),
    ]
)
"""What single items gave to a model's metrics: a metric is sum(amount) / sum(weight)."""

SCORES = pa.schema(
    [
        ("name", pa.string()),
        ("value", pa.float64()),  # null where there was nothing to measure
        ("low", pa.float64()),  # ends of the 95 % interval
        ("high", pa.float64()),
        ("below", pa.float64()),  # value - low
        ("above", pa.float64()),  # high - value
        ("n", pa.int64()),  # items measured
        ("better", pa.string()),  # higher, lower, zero or none
        ("unit", pa.string()),
        ("form", pa.string()),  # how it follows from its items
        ("small", pa.bool_()),
    ]
)
"""The figures of an evaluation (tasks/learn/figures.py), one row for each."""

MESSAGES = pa.list_(pa.struct([("role", pa.string()), ("content", pa.string())]))
"""Turns of a conversation, in their order: role is system, user or assistant."""

_ROW = [
    ("row_id", pa.string()),  # hash of the source, its key of the row, and its content
    ("source", pa.string()),
    ("origin", pa.string()),  # where it came from: file and row, a URL, a vote
    ("task", pa.string()),  # which formatter made it
    ("split", pa.string()),  # train or test; equal prompts are on one side
]

CONVERSATIONS = pa.schema([*_ROW, ("messages", MESSAGES)])
"""What a model is tuned on: the turns of the assistant are learnt, the last turn is one of them."""

PREFERENCES = pa.schema([*_ROW, ("prompt", MESSAGES), ("chosen", pa.string()), ("rejected", pa.string())])
"""Two answers to a prompt whose last turn is the user's, and which of them was preferred."""

RATINGS = pa.schema([*_ROW, ("prompt", MESSAGES), ("answer", pa.string()), ("good", pa.bool_())])
"""An answer to a prompt whose last turn is the user's, and whether it was called good, or bad."""

PROBLEMS = pa.schema([*_ROW, ("prompt", MESSAGES), ("check", pa.string()), ("answer", pa.string())])
"""A prompt whose answers can be checked: `check` says how (number, exact, regex, json_schema), `answer` against what."""

SCHEMAS: dict[str, pa.Schema] = {
    "captures": CAPTURES,
    "extracted": EXTRACTED,
    "documents": DOCUMENTS,
    "audit": AUDITED,
    "rewritten": REWRITTEN,
    "indexed": INDEXED,
    "forgotten": FORGOTTEN,
    "clustered_documents": CLUSTERED,
    "split_documents": SPLIT,
    "augmented_documents": ENLARGED,
    "published": PUBLISHED,
    "rejects": REJECTS_SCHEMA,
    "token_documents": TOKEN_DOCS,
    "references": REFERENCES,
    "scores": SCORES,
    "conversations": CONVERSATIONS,
    "preferences": PREFERENCES,
    "ratings": RATINGS,
    "problems": PROBLEMS,
    "aligned": SCORES,
}
"""What the steps of a flow write; a single step on plain files has the columns it was given beside those it adds."""

OPTIONAL = {
    "signals": dict.fromkeys(
        ("quality_score", "quality_percentile", "toxicity_score"), "no classifier for it has scored these documents (step score)"
    ),
    **dict.fromkeys(
        ("clustered_documents", "split_documents", "augmented_documents", "published"),
        dict.fromkeys(
            CONTAMINATION.names, "no evaluation set was looked for, or what was found was removed (step decontaminate)"
        ),
    ),
}
"""Columns that a stage may lack, with the reason: an expectation on one that is not there is not applicable."""

OPEN_SCHEMAS = ("signals", "verdicts", "any")
"""Stages whose columns grow with what is measured, and `any` for tables of other makers."""
