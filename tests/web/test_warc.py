"""What is written can be read, by whomever it was written; damage costs the damaged record and is told."""

import gzip
import random
from datetime import UTC, datetime
from io import BytesIO
from pathlib import Path

import pytest
import zstandard
from fastwarc.stream_io import Lz4Writer
from warcio.statusandheaders import StatusAndHeaders
from warcio.warcwriter import WARCWriter

from infra.ids import payload_digest
from tasks.web import warc
from tasks.web.exchange import Fetched
from tasks.web.warc import BrokenRecord, Record, read_at, scan
from tasks.web.warc_writer import Location, Writer

DATE = datetime(2026, 8, 1, 12, 30, 15, tzinfo=UTC)
HEAD = b"HTTP/1.1 200 OK\r\nContent-Type: text/html; charset=x\r\nSet-Cookie: a=1\r\nset-cookie: b=2\r\n"
BODIES = [b"<p>page %d " % i + bytes(range(256)) for i in range(4)]
PAGES = [
    Fetched(f"http://h/{i}?q=%C3%A9", DATE, 200, "OK", (), body, b"GET /%d HTTP/1.1\r\n\r\n" % i, HEAD + b"\r\n" + body)
    for i, body in enumerate(BODIES)
]
ARC_1 = b"filedesc://x.arc 0.0.0.0 20140216050221 text/plain 69\n1 0 Somebody\nURL IP-address Archive-date Content-type Archive-length\n"
ARC_2 = (
    b"filedesc://x.arc 0.0.0.0 20140216050221 text/plain 200 - - 0 x.arc 115\n2 0 Somebody\n"
    b"URL IP-address Archive-date Content-type Result-code Checksum Location Offset Filename Archive-length\n"
)


def _written(folder: Path, compression: str = "gzip") -> tuple[Path, list[Location]]:
    path = folder / f"out.{compression}"
    with path.open("wb") as stream:
        writer = Writer(stream, "Gristmill/0.1 (+https://example.org/bot)", "zstd" if compression == "zstd" else "gzip")
        return path, [writer.write(page, {"via": "http://h/"}) for page in PAGES]


def _plain(folder: Path) -> bytes:
    return gzip.decompress(_written(folder)[0].read_bytes())


def _lz4(plain: bytes) -> bytes:
    """Frame by frame."""
    stream = BytesIO()
    for record in plain.split(b"WARC/1.1\r\n")[1:]:
        writer = Lz4Writer(stream)
        writer.write(b"WARC/1.1\r\n" + record)
        writer.finish()
        writer.flush()
    return stream.getvalue()


def _arc(page: Fetched, version: int = 1) -> bytes:
    more = b"200 CHECKSUM - 123456789012 x.arc " if version == 2 else b""
    head = b"%b 192.0.2.1 20140216050221 text/html %b%d\n" % (page.url.encode(), more, len(page.wire))
    return head + page.wire + b"\n"


def _scanned(folder: Path, raw: bytes) -> tuple[list[str], list[BrokenRecord]]:
    """(the number in each URL, the broken ones)."""
    records, broken = _parted(folder, raw)
    return [record.url[9] for record in records], broken


def _parted(folder: Path, raw: bytes) -> tuple[list[Record], list[BrokenRecord]]:
    path = folder / "changed.warc"
    path.write_bytes(raw)
    items = list(scan(path))
    return [i for i in items if isinstance(i, Record)], [i for i in items if isinstance(i, BrokenRecord)]


@pytest.mark.parametrize("compression", ["gzip", "zstd"])
def test_what_is_written_is_read_again_in_order_and_by_its_place(tmp_path: Path, compression: str) -> None:
    path, places = _written(tmp_path, compression)
    records = [item for item in scan(path) if isinstance(item, Record)]
    assert [(r.url, r.body, r.status, r.date) for r in records] == [(p.url, p.body, 200, DATE) for p in PAGES]
    assert records[0].payload_digest == payload_digest(PAGES[0].body)
    assert records[0].headers == (("Content-Type", "text/html; charset=x"), ("Set-Cookie", "a=1"), ("set-cookie", "b=2"))
    assert records[0].values("SET-cookie") == ["a=1", "b=2"]
    with path.open("rb") as stream:
        assert [read_at(stream, place.offset) for place in reversed(places)] == records[::-1]
        for nowhere in (places[1].offset + 3, 0, 10**9):
            with pytest.raises(ValueError, match="no record"):
                read_at(stream, nowhere)


@pytest.mark.parametrize("zipped", [True, False])
def test_we_read_what_warcio_writes(tmp_path: Path, zipped: bool) -> None:
    stream = BytesIO()
    writer = WARCWriter(stream, gzip=zipped)
    head = StatusAndHeaders("200 OK", [("Content-Type", "text/html")], protocol="HTTP/1.1")
    writer.write_record(writer.create_warc_record("http://w/1", "response", payload=BytesIO(b"<p>theirs"), http_headers=head))
    chunked = StatusAndHeaders("200 OK", [("Transfer-Encoding", "Chunked")], protocol="HTTP/1.1")
    for name, stored in (("2", b"5\r\n<p>in\r\n7\r\n chunks\r\n0\r\n\r\n"), ("3", b"<p>not in chunks")):
        payload = BytesIO(stored)
        writer.write_record(writer.create_warc_record(f"http://w/{name}", "response", payload=payload, http_headers=chunked))
    writer.write_record(
        writer.create_warc_record("http://w/4", "resource", payload=BytesIO(b"bare"), warc_content_type="text/plain")
    )
    writer.write_record(
        writer.create_warc_record("dns:w", "response", payload=BytesIO(b"w 192.0.2.1"), warc_content_type="text/dns")
    )
    writer.write_record(writer.create_revisit_record("http://w/1", "sha1:X", "http://w/1", "2026-08-01T00:00:00Z", head))
    records, broken = _parted(tmp_path, stream.getvalue())
    assert broken == []
    assert [(r.url, r.status, r.content_type, r.body) for r in records] == [
        ("http://w/1", 200, "text/html", b"<p>theirs"), ("http://w/2", 200, None, b"<p>in chunks"),
        ("http://w/3", 200, None, b"<p>not in chunks"), ("http://w/4", 200, "text/plain", b"bare"),
    ]  # fmt: skip
    assert [read_at(BytesIO(stream.getvalue()), record.offset) for record in records] == records


@pytest.mark.parametrize(
    ("stored", "payload"),
    [
        (b"3\r\nabc\r\n0\r\n\r\n", b"abc"),
        (b"0003 ;name=value\r\nabc\r\n0\r\nTrailer: x\r\n\r\n", b"abc"),
        (b"3\nabc\n0\n\n", b"abc"),
        (b"A\r\n0123456789\r\n0\r\n", b"0123456789"),
        (b"0\r\n\r\n", b""),
        (b"", b""),
        (b"3\r\nabc\r\n", None),
        (b"9\r\nabc\r\n0\r\n\r\n", None),
        (b"2\r\nabc\r\n0\r\n\r\n", None),
        (b"3\r\nabc\r\nxyz\r\n", None),
        (b"-3\r\nabc\r\n0\r\n\r\n", None),
    ],
)
def test_a_chunked_body_is_joined_and_one_that_is_not_is_taken_as_it_is(stored: bytes, payload: bytes | None) -> None:
    page = Fetched(
        "http://h/0", DATE, 200, wire=b"HTTP/1.1 200 OK\r\nTransfer-Encoding: gzip\r\ntransfer-encoding: chunked\r\n\r\n" + stored
    )
    stream = BytesIO()
    place = Writer(stream, "a").write(page, {})
    assert read_at(stream, place.offset).body == (stored if payload is None else payload)


@pytest.mark.parametrize(
    ("answer", "status", "headers"),
    [
        (b"HTTP/1.0 404\n\nrest", 404, ()),
        (b"HTTP/1.1 200 OK\r\n\r\nrest", 200, ()),
        (b"HTTP/1.1 103 Early Hints\r\nLink: x\r\n\r\nHTTP/1.1 200 OK\r\nA: 1\r\n\r\nrest", 200, (("A", "1"),)),
        (b"HTTP/1.1 200 \xe9\r\nA:1\r\n folded\r\nno colon\r\n: empty\r\nB: \xe9\r\n\r\nrest", 200,
         (("A", "1 folded"), ("", "empty"), ("B", "é"))),
    ],
)  # fmt: skip
def test_heads_are_read_however_they_are_written(answer: bytes, status: int, headers: tuple[tuple[str, str], ...]) -> None:
    stream = BytesIO()
    place = Writer(stream, "a").write(Fetched("http://h/0", DATE, status, wire=answer), {})
    record = read_at(stream, place.offset)
    assert (record.status, record.headers, record.body) == (status, headers, b"rest")


def test_an_answer_without_a_status_line_is_broken(tmp_path: Path) -> None:
    stream = BytesIO()
    Writer(stream, "a").write(Fetched("http://h/0", DATE, 200, wire=b"<html>"), {})
    assert [item.why for item in _scanned(tmp_path, stream.getvalue())[1]] == ["no HTTP status line"]


def test_text_that_others_extracted_is_read(tmp_path: Path) -> None:
    text = "Prüfung\nNext line\n".encode()
    about = b"WARC/1.0\r\nWARC-Type: warcinfo\r\nContent-Type: application/warc-fields\r\nContent-Length: 0\r\n\r\n\r\n\r\n"
    page = (
        b"WARC/1.0\r\nWARC-Type: conversion\r\nWARC-Target-URI: http://h/0\r\nWARC-Date: 2024-05-18T01:58:10Z\r\n"
        b"WARC-Refers-To: <urn:uuid:1>\r\nContent-Type: text/plain\r\nContent-Length: %d\r\n\r\n%b\r\n\r\n" % (len(text), text)
    )
    for raw in (about + page, gzip.compress(about) + gzip.compress(page)):
        (record,), broken = _parted(tmp_path, raw)
        assert broken == []
        assert (record.url, record.status, record.headers, record.content_type) == ("http://h/0", 200, (), "text/plain")
        assert record.body == text
        assert record.date == datetime(2024, 5, 18, 1, 58, 10, tzinfo=UTC)


@pytest.mark.parametrize(("version", "description"), [(1, ARC_1), (2, ARC_2)])
@pytest.mark.parametrize("zipped", [True, False])
def test_arc_files_of_both_versions_are_read_also_by_place(
    tmp_path: Path, version: int, description: bytes, zipped: bool
) -> None:
    golden = b"http://h/0 has blanks 192.0.2.1 20140216050221 text/html %b73\n" % (b"200 - - 9 x.arc " if version == 2 else b"")
    golden += b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n4\r\n<p>0\r\n7\r\n golden\r\n0\r\n\r\n"
    dns = b"dns:h 192.0.2.1 20140216050221 text/dns %b11\nh 192.0.2.1" % (b"0 - - 9 x.arc " if version == 2 else b"")
    parts = [description + b"\n", golden + b"\n", dns + b"\n", *(_arc(page, version) for page in PAGES[1:])]
    raw = b"".join(gzip.compress(part) for part in parts) if zipped else b"".join(parts)
    records, broken = _parted(tmp_path, raw)
    assert broken == []
    assert (records[0].url, records[0].body) == ("http://h/0 has blanks", b"<p>0 golden")
    assert [(r.url, r.status, r.body) for r in records[1:]] == [(p.url, 200, p.body) for p in PAGES[1:]]
    assert {record.date for record in records} == {datetime(2014, 2, 16, 5, 2, 21, tzinfo=UTC)}
    assert [read_at(BytesIO(raw), record.offset) for record in records] == records


@pytest.mark.parametrize(
    ("bad", "why"),
    [
        (b"http://h/1 192.0.2.1 20140216050221 text/html -1\nHTTP/1.1 200 OK\n\n\n", "no head of an ARC record"),
        (b"http://h/1 192.0.2.1 20140216050221 text/html abc\nHTTP/1.1 200 OK\n\n\n", "no head of an ARC record"),
        (b"http://h/1 192.0.2.1 20140216050221 text/html 19\nHTTP/1.1 200 OK\n\nabc\n", "does not end where its head says"),
        (b"http://h/1 192.0.2.1 20140216050221 text/html 99\nHTTP/1.1 200 OK\n\nabc\n", "does not end where its head says"),
        (b"http://h/1 192.0.2.1 20140216050221 text/html 9999\nHTTP/1.1 200 OK\n\nabc\n", "the record ends after"),
        (b"http://h/1 192.0.2.1 20140216050221 text/html 3\nabc\n", "no HTTP status line"),
        (b"what is this\n", "no head of an ARC record"),
    ],
)
def test_damage_in_a_plain_arc_file_costs_the_record_only(tmp_path: Path, bad: bytes, why: str) -> None:
    good, broken = _scanned(tmp_path, ARC_1 + b"\n" + _arc(PAGES[0]) + bad + _arc(PAGES[2]) + _arc(PAGES[3]))
    assert good == list("023")
    assert len(broken) == 1
    assert why in broken[0].why


def test_all_ways_to_compress_a_file_give_the_same_records(tmp_path: Path) -> None:
    plain = _plain(tmp_path)
    for raw in (plain, gzip.compress(plain), zstandard.compress(plain), _lz4(plain), b"\r\n" + plain):
        assert _scanned(tmp_path, raw) == (list("0123"), [])
    framed = _lz4(plain)
    assert all(read_at(BytesIO(framed), record.offset) == record for record in _parted(tmp_path, framed)[0])


@pytest.mark.parametrize("zipped", [True, False])
def test_a_zstd_file_may_bring_its_dictionary(tmp_path: Path, zipped: bool) -> None:
    records = [b"WARC/1.1\r\n" + record for record in _plain(tmp_path).split(b"WARC/1.1\r\n")[1:]]
    dictionary = zstandard.train_dictionary(2000, [*records] * 20)
    content = zstandard.compress(dictionary.as_bytes()) if zipped else dictionary.as_bytes()
    zipper = zstandard.ZstdCompressor(dict_data=dictionary)
    raw = b"\x5d\x2a\x4d\x18" + len(content).to_bytes(4, "little") + content + b"".join(map(zipper.compress, records))
    good, broken = _parted(tmp_path, raw)
    assert [record.body for record in good] == BODIES
    assert broken == []
    assert [read_at(BytesIO(raw), record.offset) for record in good] == good
    damaged = raw[:20] + b"XXXX" + raw[24:]
    assert _scanned(tmp_path, damaged)[1]


def test_a_file_compressed_as_a_whole_may_be_larger_than_memory_allows(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    plain = _plain(tmp_path)
    monkeypatch.setattr(warc, "_MAX_RECORD_BYTES", 2000)
    for raw in (gzip.compress(plain), zstandard.compress(plain)):
        assert _scanned(tmp_path, raw) == (list("0123"), [])
    monkeypatch.setattr(warc, "_MAX_RECORD_BYTES", 100)
    assert "a record of more than 100 bytes" in _scanned(tmp_path, gzip.compress(plain))[1][0].why


@pytest.mark.parametrize("kind", ["gzip", "zstd", "lz4", "plain", "arc", "arc.gz"])
def test_damage_anywhere_costs_the_damaged_record_only(tmp_path: Path, kind: str) -> None:
    plain = _plain(tmp_path)
    arc = [ARC_1 + b"\n", *map(_arc, PAGES)]
    raw = {
        "gzip": _written(tmp_path)[0].read_bytes(),
        "zstd": _written(tmp_path, "zstd")[0].read_bytes(),
        "lz4": _lz4(plain),
        "plain": plain,
        "arc": b"".join(arc),
        "arc.gz": b"".join(map(gzip.compress, arc)),
    }[kind]
    told_always = kind in ("gzip", "zstd", "arc.gz")  # whose checksums are over the heads too
    chance = random.Random(3)
    for start in range(0, len(raw), len(raw) // 150):
        at = min(start + chance.randrange(len(raw) // 150), len(raw) - 1)
        if kind == "arc" and raw[at : at + 1] == b"\n":
            continue  # the line end between two records belongs to both
        damaged = raw[:at] + bytes([raw[at] ^ chance.choice([0x01, 0x20, 0xFF])]) + raw[at + 1 :]
        records, broken = _parted(tmp_path, damaged)
        bodies = [record.body for record in records]
        lost = [body for body in BODIES if body not in bodies]
        assert len(lost) <= 1, at
        assert not (told_always and lost) or broken, at


@pytest.mark.parametrize("compression", ["gzip", "zstd"])
def test_a_damaged_record_costs_itself_only(tmp_path: Path, compression: str) -> None:
    path, places = _written(tmp_path, compression)
    raw = bytearray(path.read_bytes())
    raw[places[1].offset + 60] ^= 0xFF
    good, broken = _scanned(tmp_path, bytes(raw))
    assert good == list("023")
    assert [item.offset for item in broken] == [places[1].offset]
    junk = bytes(path.read_bytes()[: places[2].offset]) + b"junk" + path.read_bytes()[places[2].offset :]
    assert [_scanned(tmp_path, junk)[0], len(_scanned(tmp_path, junk)[1])] == [list("0123"), 1]
    beheaded = b"junk" + path.read_bytes()
    assert [_scanned(tmp_path, beheaded)[0], len(_scanned(tmp_path, beheaded)[1])] == [list("0123"), 1]


@pytest.mark.parametrize("compression", ["gzip", "zstd"])
@pytest.mark.parametrize("num_cut", [1, 20, 100])
def test_a_file_that_was_cut_off_tells_so(tmp_path: Path, num_cut: int, compression: str) -> None:
    path, places = _written(tmp_path, compression)
    raw = path.read_bytes()[: places[3].offset + places[3].length]
    good, broken = _scanned(tmp_path, raw[:-num_cut])
    assert good == list("012")
    assert "ends inside a record" in broken[0].why


@pytest.mark.parametrize("num_cut", [20, 200, 400, 700])
def test_a_plain_file_that_was_cut_off_tells_so(tmp_path: Path, num_cut: int) -> None:
    plain = _plain(tmp_path)
    last = plain.rindex(b"WARC/1.1\r\nWARC-Type: metadata")
    good, broken = _scanned(tmp_path, plain[: last - num_cut])
    assert good == list("012")
    assert len(broken) == 1


def test_damage_in_a_plain_file_is_found_by_digest_length_or_header_and_passed_over(tmp_path: Path) -> None:
    plain = _plain(tmp_path)
    second = plain.index(b"WARC/1.1\r\nWARC-Type: response", plain.index(b"page 0"))
    flipped = plain.replace(b"page 1", b"PAGE 1")
    headless = plain[:second] + b"XXXX" + plain[second + 4 :]
    at = plain.index(b"Content-Length: ", second) + len(b"Content-Length: ")
    longer = plain[:at] + b"9" + plain[at:]
    for raw in (flipped, headless, longer):
        good, broken = _scanned(tmp_path, raw)
        assert good == list("023")
        assert len(broken) == 1


def test_a_file_that_is_no_warc_is_one_broken_record_and_an_empty_one_nothing(tmp_path: Path) -> None:
    assert [item.why for item in _scanned(tmp_path, b"hello")[1]] == ["neither gzip, zstd, lz4 nor plain WARC or ARC"]
    assert len(_scanned(tmp_path, gzip.compress(b"hello, no warc"))[1]) == 1
    assert _scanned(tmp_path, b"") == ([], [])
    whole = zstandard.compress(b"WARC/1.1\r\n" * 99)
    assert "ends inside a record" in _scanned(tmp_path, whole[:-5])[1][0].why


def test_file_names_that_can_be_read_are_known_by_their_endings() -> None:
    for name in ("a.warc", "a.warc.gz", "a.warc.zst", "a.warc.lz4", "a.warc.wet.gz", "a.arc", "a.arc.gz"):
        assert name.endswith(warc.SUFFIXES)
    assert not "a.warc.wat.gz".endswith(warc.SUFFIXES)
