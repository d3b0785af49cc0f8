"""What is written are the bytes of the exchange, and other readers find it right."""

import zlib
from base64 import b32encode
from datetime import UTC, datetime, timedelta
from hashlib import sha1
from io import BytesIO
from pathlib import Path
from typing import Literal

import fastwarc
import pytest
import zstandard
from hypothesis import given, settings
from hypothesis import strategies as st
from warcio.archiveiterator import ArchiveIterator

from tasks.web.exchange import Fetched
from tasks.web.warc import Record, read_at, scan
from tasks.web.warc_writer import Location, Original, Writer

DATE = datetime(2026, 8, 1, 12, 30, 15, 123456, tzinfo=UTC)
AGENT = "Gristmill/0.1 (+https://example.org/bot)"
METADATA = {"fetchTimeMs": "12", "via": "http://h/é", "hopsFromSeed": "L"}
Compression = Literal["gzip", "zstd"]
BOTH: tuple[Compression, ...] = ("gzip", "zstd")


def _exchange(
    path: str, body: bytes, headers: bytes = b"", status: int = 200, chunk_bytes: int | None = None, line_end: bytes = b"\r\n"
) -> Fetched:
    """What the client gives; with `chunk_bytes` the body went in chunks."""
    wire = body
    if chunk_bytes:
        headers += b"Transfer-Encoding: chunked" + line_end
        pieces = [body[at : at + chunk_bytes] for at in range(0, len(body), chunk_bytes)]
        wire = b"".join(b"%x%b%b%b" % (len(piece), line_end, piece, line_end) for piece in [*pieces, b""])
    head = line_end.join([b"HTTP/1.1 %d Why not" % status, headers, b""])
    request = b"GET /%b HTTP/1.1\r\nHost: h\r\n\r\n" % path.encode()
    return Fetched(f"http://h/{path}", DATE, status, "Why not", (), body, request, head + wire, "192.0.2.1")


PAGE = _exchange("page", b"<p>page", b"Content-Type: text/html\r\n")
SAME = _exchange("same", b"<p>page", b"Content-Type: text/html\r\nAge: 3\r\n")
CHUNKED = _exchange("chunked", b"<p>in chunks", chunk_bytes=5)


def _written(compression: Compression) -> tuple[bytes, list[Location]]:
    stream = BytesIO()
    writer = Writer(stream, AGENT, compression)
    places = [
        writer.write(PAGE, METADATA),
        writer.write(SAME, METADATA, Original(PAGE.url, PAGE.date)),
        writer.write(CHUNKED, {}),
        writer.not_modified(_exchange("page", b"", b"ETag: x\r\n", 304), Original(PAGE.url, DATE - timedelta(days=1))),
    ]
    return stream.getvalue(), places


def _sha1(content: bytes) -> str:
    return "sha1:" + b32encode(sha1(content).digest()).decode()


def test_warcio_reads_every_record_and_finds_its_digests_right() -> None:
    raw, places = _written("gzip")
    archive = ArchiveIterator(BytesIO(raw), check_digests=True)
    kinds, offsets, bodies, wrong = [], [], [], []
    for record in archive:
        kinds.append(record.rec_type)
        body = record.content_stream().read()
        bodies += [body] if record.rec_type == "response" else []
        wrong += record.digest_checker.problems
        offsets.append(archive.get_record_offset())
    three = ["request", "response", "metadata"]
    assert kinds == ["warcinfo", *three, "request", "revisit", "metadata", "request", "response", "request", "revisit"]
    assert {place.offset for place in places} <= set(offsets)
    assert bodies == [PAGE.body, CHUNKED.body]
    # warcio takes the payload digest before transfer decoding
    assert wrong == [f"payload digest failed {_sha1(CHUNKED.body)}"]


@pytest.mark.parametrize("compression", BOTH)
def test_fastwarc_reads_every_record_and_finds_its_digests_right(compression: Compression) -> None:
    raw, places = _written(compression)
    archive = fastwarc.ArchiveIterator(BytesIO(raw), parse_http=False)
    found = [(r.stream_pos, r.verify_block_digest(), r.reader.read(), r.headers.to_dict()) for r in archive]
    assert len(found) == 11
    assert all(good for _, good, _, _ in found)
    blocks = {offset: block for offset, _, block, _ in found}
    assert blocks[places[0].offset] == PAGE.wire
    assert blocks[places[2].offset] == CHUNKED.wire
    assert next(block for _, _, block, fields in found if fields["WARC-Type"] == "request") == PAGE.request


@pytest.mark.parametrize("compression", BOTH)
def test_each_record_is_a_member_or_frame_of_its_own(compression: Compression) -> None:
    raw, places = _written(compression)
    for place in places:
        stored = raw[place.offset : place.offset + place.length]
        unzip = zlib.decompressobj(31) if compression == "gzip" else zstandard.ZstdDecompressor().decompressobj()
        assert unzip.decompress(stored).startswith(b"WARC/1.1\r\nWARC-Type: re")
        assert unzip.eof
        assert unzip.unused_data == b""


def _fields() -> list[dict[str, str]]:
    return [record.headers.to_dict() for record in fastwarc.ArchiveIterator(BytesIO(_written("gzip")[0]), parse_http=False)]


def test_a_response_says_what_the_standard_asks_and_its_companions_point_to_it() -> None:
    _, request, response, metadata, *_ = _fields()
    assert (
        response.items()
        >= {
            "WARC-Target-URI": "http://h/page",
            "WARC-Date": "2026-08-01T12:30:15.123456Z",
            "WARC-IP-Address": "192.0.2.1",
            "WARC-Payload-Digest": _sha1(PAGE.body),
            "WARC-Block-Digest": _sha1(PAGE.wire),
            "Content-Type": "application/http; msgtype=response",
        }.items()
    )
    assert response["WARC-Record-ID"].startswith("<urn:uuid:")
    assert request["WARC-Concurrent-To"] == metadata["WARC-Concurrent-To"] == response["WARC-Record-ID"]
    assert len({fields["WARC-Record-ID"] for fields in _fields()}) == len(_fields())


def test_the_payload_digest_is_over_what_was_sent_in_chunks() -> None:
    assert _sha1(CHUNKED.body) in [fields.get("WARC-Payload-Digest") for fields in _fields()]


def test_a_revisit_refers_to_its_original_and_holds_only_the_head() -> None:
    raw, places = _written("gzip")
    archive = fastwarc.ArchiveIterator(BytesIO(raw), parse_http=False)
    same, not_modified = (
        (r.headers.to_dict(), r.reader.read()) for r in archive if r.record_type == fastwarc.WarcRecordType.revisit
    )
    assert (
        same[0].items()
        >= {
            "WARC-Profile": "http://netpreserve.org/warc/1.1/revisit/identical-payload-digest",
            "WARC-Refers-To-Target-URI": PAGE.url,
            "WARC-Refers-To-Date": "2026-08-01T12:30:15.123456Z",
            "WARC-Payload-Digest": _sha1(PAGE.body),
            "WARC-Truncated": "length",
        }.items()
    )
    assert same[1] == SAME.wire.removesuffix(SAME.body)
    assert not_modified[0]["WARC-Profile"].endswith("/server-not-modified")
    assert not_modified[0]["WARC-Refers-To-Date"] == "2026-07-31T12:30:15.123456Z"
    assert b"304" in not_modified[1]
    with pytest.raises(ValueError, match="no record"):
        read_at(BytesIO(raw), places[1].offset)


def test_no_value_can_forge_a_field() -> None:
    stream = BytesIO()
    Writer(stream, "a\r\nb: c").write(PAGE, {"via": "x\r\nhops: 1\n2\ud800"})
    *_, metadata = (record.reader.read() for record in fastwarc.ArchiveIterator(BytesIO(stream.getvalue()), parse_http=False))
    assert metadata == b"via: x hops: 1 2?\r\n"


@pytest.mark.parametrize("compression", BOTH)
def test_writing_goes_on_where_it_stopped_without_another_warcinfo(tmp_path: Path, compression: Compression) -> None:
    path = tmp_path / "out.warc"
    places = []
    for page in (PAGE, CHUNKED):
        with path.open("ab") as stream:
            places.append(Writer(stream, AGENT, compression).write(page, METADATA))
    with path.open("rb") as stream:
        assert [read_at(stream, place.offset).url for place in places] == [PAGE.url, CHUNKED.url]
    kinds = [str(record.record_type) for record in fastwarc.ArchiveIterator(str(path), parse_http=False)]
    assert kinds.count("warcinfo") == 1


TEXT = st.text(st.characters(max_codepoint=255, exclude_characters="\r\n\0"), max_size=20).map(
    lambda text: text.encode("latin-1")
)
EXCHANGES = st.builds(
    _exchange,
    st.text("abcé/?=&%20", max_size=12),
    st.binary(max_size=200),
    st.lists(TEXT.map(lambda value: b"X-Odd: " + value), max_size=3).map(
        lambda lines: b"".join(line + b"\r\n" for line in lines)
    ),
    st.integers(200, 599),
    st.sampled_from([None, None, 1, 7, 4096]),
    st.sampled_from([b"\r\n", b"\r\n", b"\n"]),
)


@settings(max_examples=60, deadline=None)
@given(
    st.lists(EXCHANGES, max_size=5), st.sampled_from(BOTH), st.dictionaries(st.sampled_from(["via", "note"]), st.text(max_size=9))
)
def test_what_is_written_is_what_is_read(
    tmp_path_factory: pytest.TempPathFactory, exchanges: list[Fetched], compression: Compression, metadata: dict[str, str]
) -> None:
    path = tmp_path_factory.mktemp("warc") / "any.warc"
    with path.open("wb") as stream:
        writer = Writer(stream, AGENT, compression)
        places = [writer.write(exchange, metadata) for exchange in exchanges]
    records = list(scan(path))
    assert all(isinstance(record, Record) for record in records)
    found = [(r.url, r.status, r.body, r.date, r.offset) for r in records if isinstance(r, Record)]
    assert found == [(e.url, e.status, e.body, e.date, p.offset) for e, p in zip(exchanges, places, strict=True)]
