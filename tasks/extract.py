"""extract: from captured pages to their main text and metadata; a page without usable text is a reject with its reason."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import asdict
from functools import partial
from itertools import groupby
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from expectations.schemas import CONSENT, EXTRACTED
from infra import storage
from infra.dataset import EXCERPT_CHARS, Outcome, ShardRef, ShardSet, rejects_table
from infra.ids import content_id, text_digest
from infra.steps import Output, step
from tasks.web import main_text, warc
from tasks.web.coding import CodingError
from tasks.web.consent import Consent, tdm_header
from tasks.web.extractor import extractor
from tasks.web.html import Rejected
from tasks.web.main_text import ExtractConfig, Extracted

Extract = Callable[[bytes, str | None, str], Extracted | Rejected]


def extract_shard(job: tuple[ShardRef, str], config: ExtractConfig) -> Outcome:
    """The documents of one shard of captures; `job` is the shard and the index that says where its payloads lie."""
    shard, index = job
    captures = shard.read(["doc_id", "source", "url", "host", "content_type", "payload_digest", *CONSENT.names]).to_pylist()
    places = shard.beside(pq.read_table(pa.BufferReader(storage.read_bytes(index)), columns=["file", "offset"])).to_pylist()
    rows, rejects = [], []
    with ExitStack() as stack:
        work: Extract = (
            stack.enter_context(extractor(config)).extract if config.guarded else partial(main_text.extract, config=config)
        )
        for at, record in _records(places):
            capture = captures[at]
            found = _extracted(record, capture, config, work)
            if isinstance(found, Rejected):
                excerpt = "" if isinstance(record, warc.BrokenRecord) else record.body[:EXCERPT_CHARS].decode("latin-1")
                rejects.append({**capture, "rule": found.rule, "detail": found.detail, "excerpt": excerpt})
            else:
                rows.append(_row(capture, *found))
    documents = pa.Table.from_pylist(rows, schema=EXTRACTED).sort_by("doc_id")
    used = {
        f"extractor.{name}": float(sum(row["extractor"] == name for row in rows)) for name in {row["extractor"] for row in rows}
    }
    return Outcome(documents, rejects_table(sorted(rejects, key=lambda row: row["doc_id"])), used)


@step(schema="extracted")
def extract(pages: ShardSet, config: ExtractConfig, out: Output) -> None:
    """Turn captured pages into documents: character set, main text, metadata, and the reason where there is no text."""
    folder = storage.join(pages.folder, "warc")
    jobs = [(shard, storage.join(folder, f"index-{shard.index:05d}.parquet")) for shard in pages.shards()]
    out.sum_facts(out.map(partial(extract_shard, config=config), jobs, by_document=True))


def _row(capture: dict[str, Any], found: Extracted, said: Consent) -> dict[str, Any]:
    return {
        **{name: capture[name] for name in ("doc_id", "source", "url", "host")},
        "content_id": content_id(found.text),
        "text": found.text,
        "text_digest": text_digest(found.text),
        **asdict(found.metadata),
        **said.row(),
        **{name: getattr(found, name) for name in ("encoding", "extractor", "doubt", "links")},
    }


def _extracted(
    record: warc.Record | warc.BrokenRecord, capture: dict[str, Any], config: ExtractConfig, work: Extract
) -> tuple[Extracted, Consent] | Rejected:
    """What a page gave, with what its site, its answer and itself say about collecting it."""
    if isinstance(record, warc.BrokenRecord):
        return Rejected("broken_warc_record", f"{record.why} (at byte {record.offset})")
    if record.payload_digest != capture["payload_digest"]:
        return Rejected("broken_warc_record", "the payload on disk is not the one that was captured")
    said = Consent.of_row(capture)
    if refusal := said.refusal(config.consent, page_known=False):
        return Rejected(*refusal)
    try:
        found = work(record.content(config.max_bytes), capture["content_type"], capture["url"])
    except CodingError as error:
        return Rejected(error.rule, str(error))
    if isinstance(found, Rejected):
        return found
    said = said.and_page(found.robots_orders, tdm_header(found.tdm_reservation))
    refusal = said.refusal(config.consent, found.metadata.licence)
    return Rejected(*refusal) if refusal else (found, said)


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
