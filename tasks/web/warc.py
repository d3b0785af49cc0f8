"""WARC and ARC files, read: every captured HTTP answer with its status line, headers and the bytes as sent.

FastWARC reads WARC (WET too), warcio ARC; plain, gzip, zstd (with the file's own dictionary too) and lz4. `scan` never stops at
damage: it yields a BrokenRecord and goes on at the next record it can find. `read_at` needs no more than an offset, also in a
file compressed record by record. The body of an answer is what was sent under its transfer coding, however it was stored.
Costs about 0.1 ms a record and the memory of one; a member or frame that unfolds to more than 256 MiB is streamed.
"""

from __future__ import annotations

import io
import re
import zlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, BinaryIO

import zstandard
from fastwarc.warc import ArchiveIterator, WarcRecord, WarcRecordType
from warcio.exceptions import ArchiveLoadFailed
from warcio.recordloader import ArcWarcRecord, ArcWarcRecordLoader

from infra.ids import payload_digest
from tasks.web.exchange import Message
from tasks.web.warc_writer import HEAD_END, digest

SUFFIXES = tuple(kind + coding for kind in (".warc", ".wet", ".arc") for coding in ("", ".gz", ".zst", ".lz4"))
"""How the names of files end that can be read here, in lower case."""

_MAX_RECORD_BYTES = 256 * 1024 * 1024
_READ_BYTES = 8 * 1024  # of zstd these unfold to 256 MiB at most: 4 bytes can stand for a block of 128 KiB
_FIND_BYTES = 64 * 1024
_BEFORE_BYTES = 4  # what a pattern looks back
_START_BYTES = 4 * 1024  # enough for the head of an ARC record
_MAX_DICTIONARY_BYTES = 16 * 1024 * 1024
_BASE32_SHA1 = re.compile(r"sha1:[A-Z2-7]{32}")
_KINDS = WarcRecordType.response | WarcRecordType.resource | WarcRecordType.conversion
_HTTP = ("http:", "https:")
_STATUS_LINE = re.compile(rb"[\r\n]*HTTP/\d\S*[ \t]+(\d{3})(?!\d)[^\n]*")
_LINE_END = re.compile(rb"\r?\n")
_CHUNK_SIZE = re.compile(rb"([0-9A-Fa-f]{1,15})[ \t]*(?:;[^\n]*)?\r?\n")
# ARC 1 has five fields, ARC 2 ten; the URL may hold blanks, so that it ends where the others fit
_ARC_HEAD = rb"[A-Za-z][A-Za-z0-9+.-]*:[^\r\n]*? \S+ \d{12,18} \S+(?: \S+ \S+ \S+ \S+ \S+)? -?\d+(?=\s)"
_ARC_START = re.compile(_ARC_HEAD)
_ARC_NEXT = re.compile(rb"\r?\n|$|" + _ARC_HEAD)
_ARC_FIELDS = re.compile(r"(\S+:.*?) \S+ (\d{12,18}) \S+(?: \S+ \S+ \S+ \S+ \S+)? (\d+)")
_MAGICS = {
    "gzip": rb"\x1f\x8b\x08",
    "zstd": rb"\x28\xb5\x2f\xfd|[\x50-\x5f]\x2a\x4d\x18",
    "lz4": rb"\x04\x22\x4d\x18",
    "warc": rb"WARC/[01]\.",
    "arc": _ARC_HEAD,
}
_KIND = re.compile(b"|".join(b"(?P<%b>%b)" % (kind.encode(), magic) for kind, magic in _MAGICS.items()))
_NEXT = {kind: re.compile(magic) for kind, magic in _MAGICS.items()} | {
    "warc": re.compile(rb"(?<=\r\n\r\n)" + _MAGICS["warc"]),
    "arc": re.compile(rb"(?<=\n)" + _MAGICS["arc"]),
}
_ANY_NEXT = re.compile(b"|".join(pattern.pattern for pattern in _NEXT.values()))
_ZSTD_DICTIONARY = b"\x5d\x2a\x4d\x18"  # of a first frame that holds the dictionary of the others (IIPC, warc-zstd 1.0)


@dataclass(frozen=True)
class Record(Message):
    """One captured HTTP answer (or `resource`/`conversion` body, then with status 200 and no headers)."""

    url: str
    status: int
    headers: tuple[tuple[str, str], ...]
    content_type: str | None
    body: bytes
    """After transfer decoding: still under its Content-Encoding, see `content`."""
    payload_digest: str
    """Of `body`, as infra.ids gives it."""
    date: datetime | None
    offset: int


@dataclass(frozen=True)
class BrokenRecord:
    """A stretch of a file that gave no record."""

    offset: int
    why: str


def read_at(stream: BinaryIO, offset: int) -> Record:
    """The record that begins at `offset`; raises ValueError when there is none that is whole."""
    item = next(_scan_stream(stream, offset), None)
    if isinstance(item, Record) and item.offset == offset:
        return item
    raise ValueError(f"no record at offset {offset}" + (f": {item.why}" if isinstance(item, BrokenRecord) else ""))


def content_at(stream: BinaryIO, offset: int) -> bytes:
    """The record in the gzip member or zstd frame that begins at `offset`, byte for byte, such as `warc_writer.Writer.copy` takes it;
    raises ValueError when there is none that is whole."""
    stream.seek(offset)
    is_zstd = stream.read(4) == b"\x28\xb5\x2f\xfd"
    try:
        return _unzipped(stream, offset, zstandard.ZstdDecompressor().decompressobj() if is_zstd else zlib.decompressobj(31))[0]
    except (zlib.error, zstandard.ZstdError, _TooLarge) as error:
        raise ValueError(f"no record at offset {offset}: {error}") from error


def scan(path: Path) -> Iterator[Record | BrokenRecord]:
    """Every HTTP response, resource and conversion record of a file in file order, and every damaged stretch."""
    with path.open("rb") as stream:
        yield from _scan_stream(stream, 0)


def _scan_stream(stream: BinaryIO, offset: int) -> Iterator[Record | BrokenRecord]:
    stream.seek(offset)
    start = stream.read(_START_BYTES)
    num_blank = len(start) - len(start.lstrip(b"\r\n"))
    if num_blank == len(start):
        return
    begin = offset + num_blank
    kind = _KIND.match(start, num_blank)
    if kind is None:
        yield BrokenRecord(offset, "neither gzip, zstd, lz4 nor plain WARC or ARC")
        found = _find(stream, offset + 1, _ANY_NEXT)
        if found is None:
            return
        begin = found
        stream.seek(begin)
        kind = _KIND.match(stream.read(_START_BYTES))
    match kind and kind.lastgroup:
        case "gzip":
            yield from _compressed_records(stream, begin, "gzip", lambda: zlib.decompressobj(31))
        case "zstd":
            try:
                unzip = zstandard.ZstdDecompressor(_dictionary(stream))
            except zstandard.ZstdError as error:
                yield BrokenRecord(0, f"damaged zstd dictionary: {error}")
            else:
                yield from _compressed_records(stream, begin, "zstd", unzip.decompressobj)
        case "lz4":
            yield from _warc_records(stream, begin, "lz4")
        case "warc":
            yield from _warc_records(stream, begin, "warc")
        case "arc":
            yield from _arc_records(stream, begin)


def _dictionary(stream: BinaryIO) -> zstandard.ZstdCompressionDict | None:
    """What the first frame of a zstd file holds for the others; it may be compressed itself."""
    stream.seek(0)
    if stream.read(4) != _ZSTD_DICTIONARY:
        return None
    content = stream.read(min(int.from_bytes(stream.read(4), "little"), _MAX_DICTIONARY_BYTES))
    if content.startswith(b"\x28\xb5\x2f\xfd"):
        content = zstandard.ZstdDecompressor().decompress(content, _MAX_DICTIONARY_BYTES, allow_extra_data=False)
    return zstandard.ZstdCompressionDict(content)


def _compressed_records(stream: BinaryIO, begin: int, kind: str, new_unzip: Callable[[], Any]) -> Iterator[Record | BrokenRecord]:
    """Member by member (gzip) or frame by frame (zstd): damage in one is none in the others; a damaged stretch is told once."""
    told, place = False, begin
    while True:
        try:
            content, num_bytes = _unzipped(stream, place, new_unzip())
        except _TooLarge:
            yield from _warc_records(stream, place, kind)
            return
        except (ValueError, zlib.error, zstandard.ZstdError) as error:
            if not told:
                yield BrokenRecord(place, f"damaged {kind} data: {error}")
            told, found = True, _find(stream, place + 1, _NEXT[kind])
            if found is None:
                return
            place = found
        else:
            if not num_bytes:
                return
            yield from _records_of(content, place)
            told, place = False, place + num_bytes


class _TooLarge(Exception):
    """A member or frame that is not to be held in memory."""


def _unzipped(stream: BinaryIO, offset: int, unzip: Any) -> tuple[bytes, int]:
    """(content, compressed bytes) of the member or frame at `offset`; (b"", 0) at the end of the file."""
    stream.seek(offset)
    parts: list[bytes] = []
    num_read, num_content = 0, 0
    while not unzip.eof:
        chunk = stream.read(_READ_BYTES)
        if not chunk:
            if not num_read:
                return b"", 0
            raise ValueError("the file ends inside a record")
        num_read += len(chunk)
        parts.append(unzip.decompress(chunk))
        num_content += len(parts[-1])
        if num_content > _MAX_RECORD_BYTES:
            raise _TooLarge
    return b"".join(parts), num_read - len(unzip.unused_data)


def _records_of(content: bytes, place: int) -> Iterator[Record | BrokenRecord]:
    """The records of one member or frame: one as the standards want it, all where a whole file was compressed at once."""
    content = content.lstrip(b"\r\n")
    read = _arc_records if _ARC_START.match(content) else _warc_records
    yield from (replace(item, offset=place) for item in read(io.BytesIO(content), 0))


def _warc_records(stream: BinaryIO, begin: int, kind: str = "warc") -> Iterator[Record | BrokenRecord]:
    """Records of a file that FastWARC reads as a stream; after damage, from where the next record, member or frame begins."""
    found: int | None = begin
    while found is not None:
        stream.seek(found)
        place, why = found, ""
        try:
            for record in ArchiveIterator(stream, parse_http=False):
                place = record.stream_pos
                item = _warc_record(record, place)
                if isinstance(item, BrokenRecord):
                    why = item.why
                    break
                if item is not None:
                    yield item
        except OSError as error:
            why = str(error)
        found = _find(stream, place + 1, _NEXT[kind]) if why else None
        if why:
            yield BrokenRecord(place, why if found is not None or kind == "warc" else f"{why}; the rest of the file was not read")


def _warc_record(record: WarcRecord, offset: int) -> Record | BrokenRecord | None:
    """None for what is no page: warcinfo, request, metadata, revisit, and answers that are not HTTP."""
    fields = record.headers
    if "Content-Length" not in fields:
        return BrokenRecord(offset, "a record header that ends early")
    if record.content_length > _MAX_RECORD_BYTES:
        return BrokenRecord(offset, f"a record of more than {_MAX_RECORD_BYTES} bytes")
    block = record.reader.read()
    if len(block) != record.content_length:
        return BrokenRecord(offset, f"the record ends after {len(block)} of {record.content_length} bytes")
    declared = fields.get("WARC-Block-Digest") or ""
    if _BASE32_SHA1.fullmatch(declared) and declared != digest(block):
        return BrokenRecord(offset, f"its content does not match its digest {declared}")
    if not record.record_type & _KINDS:
        return None
    url = (fields.get("WARC-Target-URI") or "").strip("<>")
    if record.record_type == WarcRecordType.response:
        return _answer(url, block, record.record_date, offset)
    return Record(url, 200, (), fields.get("Content-Type"), block, payload_digest(block), record.record_date, offset)


def _arc_records(stream: BinaryIO, begin: int) -> Iterator[Record | BrokenRecord]:
    """Records of a plain ARC file, which warcio reads; after damage, from the next line that looks like the head of one."""
    loader = ArcWarcRecordLoader(arc2warc=False)
    place: int | None = begin
    while place is not None:
        stream.seek(place)
        line = stream.readline(_START_BYTES)
        if not line:
            return
        if not line.strip():
            place += len(line)
            continue
        try:
            item = _arc_record(loader.parse_record_stream(stream, line, "arc", no_record_parse=True), place)
        except ArchiveLoadFailed:
            item = BrokenRecord(place, "no head of an ARC record")
        end = stream.tell()
        if not isinstance(item, BrokenRecord) and not _ARC_NEXT.match(stream.read(_START_BYTES)):
            item = BrokenRecord(place, "the record does not end where its head says")
        if item is not None:
            yield item
        place = _find(stream, place + 1, _NEXT["arc"]) if isinstance(item, BrokenRecord) else end


def _arc_record(record: ArcWarcRecord, offset: int) -> Record | BrokenRecord | None:
    """None for what is no page: the file's own description, and answers that are not HTTP."""
    # warcio takes five fields from the end of the line, which of ARC 2 is too few: the others are left at the URL
    fields = _ARC_FIELDS.fullmatch(" ".join(value for _, value in record.rec_headers.headers))
    if fields is None:
        return BrokenRecord(offset, "no head of an ARC record")
    if int(fields[3]) > _MAX_RECORD_BYTES:
        return BrokenRecord(offset, f"a record of more than {_MAX_RECORD_BYTES} bytes")
    block = record.raw_stream.read()
    if len(block) != record.length:
        return BrokenRecord(offset, f"the record ends after {len(block)} of {record.length} bytes")
    return _answer(fields[1], block, _arc_date(fields[2]), offset)


def _arc_date(digits: str) -> datetime | None:
    try:
        return datetime.strptime(digits[:14].ljust(14, "0"), "%Y%m%d%H%M%S").replace(tzinfo=UTC)
    except ValueError:
        return None


def _answer(url: str, block: bytes, date: datetime | None, offset: int) -> Record | BrokenRecord | None:
    """What an HTTP server sent, as a record; None for other servers (dns:, ftp:)."""
    if not url.lower().startswith(_HTTP):
        return None
    line = _STATUS_LINE.match(block)
    if line is None:
        return BrokenRecord(offset, "no HTTP status line")
    stored = block
    while line is not None:
        end = HEAD_END.search(stored, line.end())
        status, headers = int(line[1]), _headers(stored[line.end() : end.start() if end else len(stored)])
        stored = stored[end.end() :] if end else b""
        # interim answers, which some tools keep, precede the answer
        line = _STATUS_LINE.match(stored) if 100 <= status < 200 and status != 101 else None
    content_type = next((value for name, value in headers if name.lower() == "content-type"), None)
    codings = ",".join(value for name, value in headers if name.lower() == "transfer-encoding")
    is_chunked = codings.lower().rpartition(",")[2].strip() == "chunked"
    # a header that does not fit the body comes from tools that store the body decoded
    unchunked = _unchunked(stored) if is_chunked else None
    body = stored if unchunked is None else unchunked
    return Record(url, status, headers, content_type, body, payload_digest(body), date, offset)


def _headers(lines: bytes) -> tuple[tuple[str, str], ...]:
    headers: list[tuple[str, str]] = []
    for line in lines.decode("latin-1").split("\n"):
        name, colon, value = line.partition(":")
        if line[:1] in (" ", "\t") and headers:  # obsolete folding (RFC 9112 section 5.2)
            headers[-1] = (headers[-1][0], f"{headers[-1][1]} {line.strip()}".strip())
        elif colon:
            headers.append((name.strip(), value.strip()))
    return tuple(headers)


def _unchunked(stored: bytes) -> bytes | None:
    """The payload of a chunked body, as forgiving as browsers are of line ends and blanks; None when it is damaged or none."""
    parts: list[bytes] = []
    at = 0
    while size := _CHUNK_SIZE.match(stored, at):
        num_bytes = int(size[1], 16)
        if not num_bytes:
            return b"".join(parts)
        at = size.end() + num_bytes
        parts.append(stored[size.end() : at])
        line_end = _LINE_END.match(stored, at)
        if line_end is None:
            return None
        at = line_end.end()
    return None


def _find(stream: BinaryIO, offset: int, pattern: re.Pattern[bytes]) -> int | None:
    """Where `pattern` next begins at or after `offset`."""
    start = max(offset - _BEFORE_BYTES, 0)
    stream.seek(start)
    window, at = b"", offset - start
    while chunk := stream.read(_FIND_BYTES):
        window += chunk
        if match := pattern.search(window, at):
            return start + match.start()
        num_done = max(len(window) - _START_BYTES, 0)
        window, start, at = window[num_done:], start + num_done, max(at - num_done, 0)
    return None
