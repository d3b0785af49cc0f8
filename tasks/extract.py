"""extract: from captured pages to their main text; a page without usable text is a reject with its reason."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from itertools import groupby
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from expectations.schemas import DOCUMENTS
from infra import storage
from infra.dataset import EXCERPT_CHARS, Outcome, ShardRef, ShardSet, rejects_table
from infra.ids import content_id, text_digest
from infra.steps import Output, step
from tasks.web import html, warc
from tasks.web.coding import CodingError
from tasks.web.html import HtmlConfig


def extract_shard(job: tuple[ShardRef, str], config: HtmlConfig) -> Outcome:
    """The documents of one shard of captures; `job` is the shard and the index that says where its payloads lie."""
    shard, index = job
    captures = shard.read(["doc_id", "source", "url", "host", "content_type", "payload_digest"]).to_pylist()
    places = shard.beside(pq.read_table(pa.BufferReader(storage.read_bytes(index)), columns=["file", "offset"])).to_pylist()
    rows, rejects = [], []
    for at, record in _records(places):
        capture = captures[at]
        found = _text(record, capture, config)
        if isinstance(found, html.Rejected):
            excerpt = "" if isinstance(record, warc.BrokenRecord) else record.body[:EXCERPT_CHARS].decode("latin-1")
            rejects.append({**capture, "rule": found.rule, "detail": found.detail, "excerpt": excerpt})
            continue
        names = {name: capture[name] for name in ("doc_id", "source", "url", "host")}
        rows.append({**names, "content_id": content_id(found.text), "text": found.text, "text_digest": text_digest(found.text)})
    documents = pa.Table.from_pylist(rows, schema=DOCUMENTS).sort_by("doc_id")
    return Outcome(documents, rejects_table(sorted(rejects, key=lambda row: row["doc_id"])))


@step(schema="documents")
def extract(pages: ShardSet, config: HtmlConfig, out: Output) -> None:
    """Turn captured pages into documents: character set, main text, and the reason where there is none."""
    folder = storage.join(pages.folder, "warc")
    jobs = [(shard, storage.join(folder, f"index-{shard.index:05d}.parquet")) for shard in pages.shards()]
    out.map(partial(extract_shard, config=config), jobs, by_document=True)


def _text(record: warc.Record | warc.BrokenRecord, capture: dict[str, Any], config: HtmlConfig) -> html.Extracted | html.Rejected:
    if isinstance(record, warc.BrokenRecord):
        return html.Rejected("broken_warc_record", f"{record.why} (at byte {record.offset})")
    if record.payload_digest != capture["payload_digest"]:
        return html.Rejected("broken_warc_record", "the payload on disk is not the one that was captured")
    try:
        return html.extract(record.content(config.max_bytes), capture["content_type"], config)
    except CodingError as error:
        return html.Rejected(error.rule, str(error))


def _records(places: list[dict[str, Any]]) -> Iterator[tuple[int, warc.Record | warc.BrokenRecord]]:
    """Each row's record, file by file and in the order of the file."""
    order = sorted(range(len(places)), key=lambda at: (places[at]["file"], places[at]["offset"]))
    for path, group in groupby(order, key=lambda at: places[at]["file"]):
        with storage.open_read(path) as file:
            for at in group:
                offset = places[at]["offset"]
                try:
                    yield at, warc.read_at(file, offset)
                except ValueError as error:
                    yield at, warc.BrokenRecord(offset, str(error))
