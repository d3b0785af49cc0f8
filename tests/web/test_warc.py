"""What is written can be read, by us and by warcio; damage costs the damaged record and is told."""

import gzip
from datetime import UTC, datetime
from io import BytesIO
from pathlib import Path

import pytest
import zstandard
from hypothesis import given, settings
from hypothesis import strategies as st
from warcio.archiveiterator import ArchiveIterator
from warcio.statusandheaders import StatusAndHeaders
from warcio.warcwriter import WARCWriter

from infra.ids import payload_digest
from tasks.web.fetch import Fetched
from tasks.web.warc import BrokenRecord, Location, Record, read_at, scan, write

DATE = datetime(2026, 8, 1, 12, 30, 15, tzinfo=UTC)
HEADERS = (
    ("Content-Type", "text/html; charset=x"),
    ("Set-Cookie", "a=1"),
    ("Set-Cookie", "b=2"),
    ("Transfer-Encoding", "chunked"),
)
PAGES = [
    Fetched(f"http://h/{i}?q=é".replace("é", "%C3%A9"), DATE, 200, "OK", HEADERS, b"<p>page %d " % i + bytes(range(256)))
    for i in range(4)
]


def _written(folder: Path) -> tuple[Path, list[Location]]:
    path = folder / "out.warc.gz"
    return path, write(path, PAGES, "Gristmill/0.1 (+https://example.org/bot)")


def _scanned(folder: Path, raw: bytes) -> tuple[list[str], list[BrokenRecord]]:
    path = folder / "changed.warc"
    path.write_bytes(raw)
    items = list(scan(path))
    return [i.url[-10] for i in items if isinstance(i, Record)], [i for i in items if isinstance(i, BrokenRecord)]


def test_what_is_written_is_read_again_in_order_and_by_its_place(tmp_path: Path) -> None:
    path, places = _written(tmp_path)
    records = [item for item in scan(path) if isinstance(item, Record)]
    assert [(r.url, r.body, r.status, r.date) for r in records] == [(p.url, p.body, 200, DATE) for p in PAGES]
    assert records[0].payload_digest == payload_digest(PAGES[0].body)
    assert records[0].headers == (*HEADERS[:3], ("X-Crawler-Transfer-Encoding", "chunked"))
    with path.open("rb") as stream:
        assert [read_at(stream, place.offset) for place in reversed(places)] == records[::-1]
        with pytest.raises(ValueError, match="no record"):
            read_at(stream, places[1].offset + 3)


@settings(max_examples=30, deadline=None)
@given(st.binary(max_size=500), st.integers(200, 599))
def test_any_body_survives(body: bytes, status: int) -> None:
    stream = BytesIO()
    (place,) = write(stream, [Fetched("http://h/", DATE, status, "Why not", (), body)], "a")
    record = read_at(stream, place.offset)
    assert (record.body, record.status) == (body, status)
    assert place.offset + place.length == len(stream.getvalue())


def test_warcio_reads_what_we_write_and_finds_its_digests_right(tmp_path: Path) -> None:
    path, _ = _written(tmp_path)
    with path.open("rb") as stream:
        responses = (record for record in ArchiveIterator(stream, check_digests="raise") if record.rec_type == "response")
        found = [(record.rec_headers["WARC-Target-URI"], record.content_stream().read()) for record in responses]
    assert found == [(page.url, page.body) for page in PAGES]


@pytest.mark.parametrize("zipped", [True, False])
def test_we_read_what_warcio_writes(tmp_path: Path, zipped: bool) -> None:
    stream = BytesIO()
    writer = WARCWriter(stream, gzip=zipped)
    head = StatusAndHeaders("200 OK", [("Content-Type", "text/html")], protocol="HTTP/1.1")
    writer.write_record(writer.create_warc_record("http://w/1", "response", payload=BytesIO(b"<p>theirs"), http_headers=head))
    writer.write_record(
        writer.create_warc_record("http://w/2", "resource", payload=BytesIO(b"bare"), warc_content_type="text/plain")
    )
    path = tmp_path / "theirs.warc"
    path.write_bytes(stream.getvalue())
    records = [item for item in scan(path) if isinstance(item, Record)]
    assert [(r.url, r.status, r.content_type, r.body) for r in records] == [
        ("http://w/1", 200, "text/html", b"<p>theirs"), ("http://w/2", 200, "text/plain", b"bare"),
    ]  # fmt: skip


def test_plain_whole_file_gzip_and_zstd_give_the_same_records(tmp_path: Path) -> None:
    path, _ = _written(tmp_path)
    plain = gzip.decompress(path.read_bytes())
    for raw in (plain, gzip.compress(plain), zstandard.compress(plain)):
        assert _scanned(tmp_path, raw) == (list("0123"), [])


def test_a_damaged_gzip_record_costs_itself_only(tmp_path: Path) -> None:
    path, places = _written(tmp_path)
    raw = bytearray(path.read_bytes())
    raw[places[1].offset + 60] ^= 0xFF
    good, broken = _scanned(tmp_path, bytes(raw))
    assert good == list("023")
    assert [item.offset for item in broken] == [places[1].offset]
    junk = bytes(path.read_bytes()[: places[2].offset]) + b"junk" + path.read_bytes()[places[2].offset :]
    assert [_scanned(tmp_path, junk)[0], len(_scanned(tmp_path, junk)[1])] == [list("0123"), 1]


@pytest.mark.parametrize("num_cut", [1, 20, 200, 400])
def test_a_file_that_was_cut_off_tells_so(tmp_path: Path, num_cut: int) -> None:
    raw = _written(tmp_path)[0].read_bytes()
    good, broken = _scanned(tmp_path, raw[:-num_cut])
    assert good == list("012")
    assert "ends inside a record" in broken[0].why


@pytest.mark.parametrize("num_cut", [20, 300, 500, 700])
def test_a_plain_file_that_was_cut_off_tells_so(tmp_path: Path, num_cut: int) -> None:
    plain = gzip.decompress(_written(tmp_path)[0].read_bytes())
    good, broken = _scanned(tmp_path, plain[:-num_cut])
    assert good == list("012")
    assert len(broken) == 1


def test_damage_in_a_plain_file_is_found_by_digest_length_or_header_and_passed_over(tmp_path: Path) -> None:
    plain = gzip.decompress(_written(tmp_path)[0].read_bytes())
    second = plain.index(b"WARC/1.1", plain.index(b"page 0"))
    flipped = plain.replace(b"page 1", b"PAGE 1")
    headless = plain[:second] + b"XXXX" + plain[second + 4 :]
    at = plain.index(b"Content-Length: ", second) + len(b"Content-Length: ")
    longer = plain[:at] + b"9" + plain[at:]
    for raw in (flipped, headless, longer):
        good, broken = _scanned(tmp_path, raw)
        assert good == list("023")
        assert len(broken) == 1


def test_a_file_that_is_no_warc_is_one_broken_record_and_an_empty_one_nothing(tmp_path: Path) -> None:
    assert [item.why for item in _scanned(tmp_path, b"hello")[1]] == ["neither gzip, zstd, lz4 nor plain WARC"]
    assert len(_scanned(tmp_path, gzip.compress(b"hello, no warc"))[1]) == 1
    assert _scanned(tmp_path, b"") == ([], [])
    assert "not read" in _scanned(tmp_path, zstandard.compress(b"WARC/1.1\r\n" * 99)[:-5])[1][0].why
