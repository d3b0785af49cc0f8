"""ingest: documents that are text already, from folders of JSONL, Parquet or text files, and from `datasets`."""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial

from infra import storage
from infra.dataset import Counts, Outcome
from infra.errors import InputError
from infra.steps import Output, step
from tasks.text.readers import IngestConfig, Piece, fingerprint, plan, read_piece


def ingest_pieces(pieces: list[Piece], config: IngestConfig) -> Outcome:
    """One shard of documents, in the order of their ids; rows that cannot be used are rejected with their reason."""
    documents, rejects = read_piece(pieces, config)
    return Outcome(documents.sort_by("doc_id"), rejects)


def source_files(config: IngestConfig) -> Mapping[str, str]:
    """Name, size and time of every file read: a changed folder is another version under the same label."""
    return fingerprint(config)


@step(schema="documents", fingerprint=source_files)
def ingest(config: IngestConfig, out: Output) -> None:
    """Import rows from local files and datasets as documents; the shard plan follows from the files alone."""
    counts = Counts.summed(receipt.counts for receipt in out.map(partial(ingest_pieces, config=config), plan(config)))
    if counts.total and not counts.kept:
        reasons = ", ".join(f"{rule} {count:,}" for rule, count in counts.dropped.items())
        raise InputError(
            f"ingest.sources: none of {counts.total:,} rows can be used ({reasons}); "
            "is the text in another field? Name it in `fields.text`. The rows are in " + storage.join(out.folder, "rejects")
        )
