"""WARC 1.1 files, written and read with FastWARC: every fetched page with its status line, headers and the bytes as sent.

`write` makes one gzip member per record, so that `read_at` needs no more than an offset. `scan` reads any WARC (gzip, zstd, lz4,
plain) and never stops at damage: it yields a BrokenRecord and goes on at the next record it can find. Reading costs about
0.1 ms a record and the memory of one.
"""

from __future__ import annotations

import io
import re
import zlib
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import BinaryIO

from fastwarc.stream_io import GzipWriter
from fastwarc.warc import ArchiveIterator, WarcRecord, WarcRecordType

from infra.ids import payload_digest
from tasks.web.coding import decoded
from tasks.web.fetch import Fetched

_MAX_RECORD_BYTES = 256 * 1024 * 1024
_READ_BYTES = 64 * 1024
_BOUNDARY = b"\r\n\r\nWARC/1."
_BASE32_SHA1 = re.compile(r"sha1:[A-Z2-7]{32}")
_KINDS = WarcRecordType.response | WarcRecordType.resource | WarcRecordType.conversion
_GZIP_MAGIC = b"\x1f\x8b\x08"
_MAGICS = {_GZIP_MAGIC: "gzip", b"\x28\xb5\x2f\xfd": "zstd", b"\x04\x22\x4d\x18": "lz4", b"WARC/": "plain"}
_HOP_HEADERS = frozenset({"transfer-encoding", "connection", "keep-alive"})


@dataclass(frozen=True)
class Location:
    """Where a record lies in its file: bytes from the start, bytes long (compressed)."""

    offset: int
    length: int


@dataclass(frozen=True)
class Record:
    """One captured HTTP answer (or `resource`/`conversion` body, then with status 200 and no headers)."""

    url: str
    status: int
    headers: tuple[tuple[str, str], ...]
    content_type: str | None
    body: bytes
    """As stored: still under its Content-Encoding, see `content`."""
    payload_digest: str
    """Of `body`, as infra.ids gives it."""
    date: datetime | None
    offset: int

    def header(self, name: str) -> str | None:
        """The first header of that name, in any case."""
        return next((value for key, value in self.headers if key.lower() == name.lower()), None)

    def values(self, name: str) -> list[str]:
        """All headers of that name, in any case."""
        return [value for key, value in self.headers if key.lower() == name.lower()]

    def content(self, max_bytes: int) -> bytes:
        """The body without its Content-Encoding; raises CodingError."""
        return decoded(self.body, self.header("Content-Encoding"), max_bytes)


@dataclass(frozen=True)
class BrokenRecord:
    """A stretch of a WARC file that gave no record."""

    offset: int
    why: str


def write(target: Path | BinaryIO, fetched: Iterable[Fetched], agent: str) -> list[Location]:
    """Writes a warcinfo record, then one response record per item that has a status; returns the places of the latter, in
    order. Items without a status (nothing was received) are left to the round log and must not be given."""
    if isinstance(target, Path):
        with target.open("wb") as stream:
            return write(stream, fetched, agent)
    about = f"software: Gristmill\r\nhttp-header-user-agent: {agent}\r\nformat: WARC File Format 1.1\r\n".encode()
    _append(target, WarcRecordType.warcinfo, about, {"Content-Type": "application/warc-fields"})
    return [_append_response(target, item) for item in fetched]


def _append_response(stream: BinaryIO, item: Fetched) -> Location:
    assert item.status is not None
    lines = [f"HTTP/1.1 {item.status} {item.reason}".rstrip()]
    # the body is stored after transfer decoding; Common Crawl keeps such headers under this prefix too
    lines += [f"{'X-Crawler-' if k.lower() in _HOP_HEADERS else ''}{k}: {v}" for k, v in item.headers]
    head = "\r\n".join(lines).encode("latin-1") + b"\r\n\r\n"
    fields = {
        "WARC-Target-URI": item.url,
        "WARC-Date": item.date.strftime("%Y-%m-%dT%H:%M:%S.%fZ"),
        "Content-Type": "application/http; msgtype=response",
    }
    return _append(stream, WarcRecordType.response, head + item.body, fields)


def _append(stream: BinaryIO, record_type: WarcRecordType, block: bytes, fields: dict[str, str]) -> Location:
    record = WarcRecord()
    record.init_headers(record_type)
    for name, value in fields.items():
        record.headers[name] = value
    record.is_http = record_type == WarcRecordType.response
    record.set_bytes_content(block)
    if record.is_http:
        record.parse_http()
    member = io.BytesIO()
    writer = GzipWriter(member, compression_level=6)
    record.write(writer, checksum_data=True)
    writer.finish()
    offset = stream.tell()
    stream.write(member.getvalue())
    return Location(offset, member.tell())


def read_at(stream: BinaryIO, offset: int) -> Record:
    """The record that begins at `offset`; raises ValueError when there is none that is whole."""
    stream.seek(offset)
    for item in _scan_stream(stream, offset):
        if isinstance(item, Record):
            return item
        raise ValueError(f"no record at offset {offset}: {item.why}")
    raise ValueError(f"no record at offset {offset}")


def scan(path: Path) -> Iterator[Record | BrokenRecord]:
    """Every response, resource and conversion record of a WARC file in file order, and every damaged stretch."""
    with path.open("rb") as stream:
        yield from _scan_stream(stream, 0)


def _scan_stream(stream: BinaryIO, offset: int) -> Iterator[Record | BrokenRecord]:
    magic = stream.read(5)
    stream.seek(offset)
    kind = next((kind for start, kind in _MAGICS.items() if magic.startswith(start)), None)
    if not magic:
        return
    if kind == "gzip":
        for place, member in _gzip_members(stream, offset):
            yield from _records_of(member, place) if isinstance(member, bytes) else [BrokenRecord(place, str(member))]
    elif kind:
        yield from _streamed_records(stream, offset, resync=kind == "plain")
    else:
        yield BrokenRecord(offset, "neither gzip, zstd, lz4 nor plain WARC")


def _gzip_members(stream: BinaryIO, offset: int) -> Iterator[tuple[int, bytes | ValueError]]:
    """(offset, content) of each whole gzip member, (offset, why not) of each damaged stretch."""
    damaged = False
    while True:
        try:
            member, num_bytes = _gzip_member(stream, offset)
        except ValueError as error:
            if not damaged:
                yield offset, error
            damaged, found = True, _find(stream, offset + 1, _GZIP_MAGIC)
            if found is None:
                return
            offset = found
        else:
            if not num_bytes:
                return
            damaged = False
            yield offset, member
            offset += num_bytes


def _gzip_member(stream: BinaryIO, offset: int) -> tuple[bytes, int]:
    """(content, compressed bytes) of the member at `offset`; (b"", 0) at the end of the file; ValueError when damaged."""
    stream.seek(offset)
    unzip, parts, num_read, num_content = zlib.decompressobj(31), [], 0, 0
    while not unzip.eof:
        chunk = stream.read(_READ_BYTES)
        if not chunk:
            if not num_read:
                return b"", 0
            raise ValueError("the file ends inside a record")
        num_read += len(chunk)
        try:
            parts.append(unzip.decompress(chunk, _MAX_RECORD_BYTES))
        except zlib.error as error:
            raise ValueError(f"damaged gzip data: {error}") from error
        num_content += len(parts[-1])
        if num_content >= _MAX_RECORD_BYTES:
            raise ValueError(f"a gzip member of more than {_MAX_RECORD_BYTES} bytes")
    return b"".join(parts), num_read - len(unzip.unused_data)


def _records_of(member: bytes, offset: int) -> Iterator[Record | BrokenRecord]:
    """The records of one gzip member: one as the standard wants it, all where a whole file was compressed at once."""
    try:
        for record in ArchiveIterator(io.BytesIO(member), parse_http=False):
            item = _record(record, offset)
            if item is not None:
                yield item
    except OSError as error:
        yield BrokenRecord(offset, str(error))


def _streamed_records(stream: BinaryIO, offset: int, *, resync: bool) -> Iterator[Record | BrokenRecord]:
    """Records of a plain file, or of one under a stream compression; only in a plain one can the next be found by sight."""
    begin: int | None = offset
    while begin is not None:
        stream.seek(begin)
        place, why = begin, ""
        try:
            for record in ArchiveIterator(stream, parse_http=False):
                place = record.stream_pos
                item = _record(record, place)
                if isinstance(item, BrokenRecord):
                    why = item.why
                    break
                if item is not None:
                    yield item
        except OSError as error:
            why = str(error)
        if why:
            yield BrokenRecord(place, why if resync else f"{why}; the rest of the file was not read")
        found = _find(stream, place + 1, _BOUNDARY) if why and resync else None
        begin = found + 4 if found is not None else None


def _record(record: WarcRecord, offset: int) -> Record | BrokenRecord | None:
    """None for the kinds that hold no page (warcinfo, request, metadata, revisit)."""
    fields = record.headers
    if "Content-Length" not in fields:
        return BrokenRecord(offset, "a record header that ends early")
    digest = fields.get("WARC-Block-Digest") or ""
    # to be asked before the HTTP head is parsed: afterwards FastWARC digests what is left
    intact = not _BASE32_SHA1.fullmatch(digest) or record.verify_block_digest()
    if record.is_http:
        record.parse_http()
    num_declared = record.content_length
    body = record.reader.read()
    if len(body) != num_declared:
        return BrokenRecord(offset, f"the record ends after {len(body)} of {num_declared} bytes")
    if not intact:
        return BrokenRecord(offset, f"its content does not match its digest {digest}")
    if not record.record_type & _KINDS:
        return None
    http = record.http_headers if record.is_http else None
    if http is not None and http.status_code is None:
        return BrokenRecord(offset, "no HTTP status line")
    headers = tuple(http.to_tuples()) if http is not None else ()
    content_type = next((v for k, v in headers if k.lower() == "content-type"), None) if http else fields.get("Content-Type")
    url = (fields.get("WARC-Target-URI") or "").strip("<>")
    status = http.status_code if http is not None else 200
    return Record(url, status or 0, headers, content_type, body, payload_digest(body), record.record_date, offset)


def _find(stream: BinaryIO, offset: int, pattern: bytes) -> int | None:
    """Where `pattern` next begins at or after `offset`."""
    stream.seek(offset)
    window = b""
    while chunk := stream.read(_READ_BYTES):
        window += chunk
        at = window.find(pattern)
        if at >= 0:
            return offset + at
        kept = len(pattern) - 1
        offset += len(window) - kept if len(window) > kept else 0
        window = window[-kept:]
    return None
