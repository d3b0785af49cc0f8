"""Rows become documents or counted rejects, never less, however the files are packed and wherever a shard ends."""

from __future__ import annotations

import gzip
import json
import os
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import zstandard
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from infra.errors import InputError
from infra.ids import content_id, doc_id, payload_digest, text_digest
from tasks.text.readers import DatasetSource, Fields, FolderSource, IngestConfig, files_of, fingerprint, plan, read_piece

TWO = [{"text": "The first text."}, {"text": "The second text,\nof two lines."}]


def _config(path: Path, shard_bytes: int = 64_000_000, **source: Any) -> IngestConfig:
    return IngestConfig(sources=(FolderSource(kind="folder", path=str(path), **source),), shard_bytes=shard_bytes)


def _read(config: IngestConfig) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    """Documents and rejects of all shards."""
    shards = [read_piece(pieces, config) for pieces in plan(config)]
    return [row for kept, _ in shards for row in kept.to_pylist()], [row for _, gone in shards for row in gone.to_pylist()]


def _lines(*rows: Any) -> bytes:
    return "".join(json.dumps(row) + "\n" for row in rows).encode()


def _put(path: Path, data: bytes) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(data)
    return path


@pytest.mark.parametrize(
    ("name", "pack"),
    [
        ("a.jsonl", lambda data: data),
        ("a.ndjson", lambda data: data),
        ("A.JSONL.GZ", gzip.compress),
        ("members.jsonl.gz", lambda data: b"".join(gzip.compress(line) for line in data.splitlines(keepends=True))),
        ("a.jsonl.zst", zstandard.compress),
        ("frames.jsonl.zst", lambda data: b"".join(zstandard.compress(line) for line in data.splitlines(keepends=True))),
    ],
)
def test_json_lines_are_read_from_every_packing(tmp_path: Path, name: str, pack: Any) -> None:
    _put(tmp_path / "deep" / name, pack(_lines(*TWO)))
    kept, gone = _read(_config(tmp_path))
    assert [row["text"] for row in kept] == [row["text"] for row in TWO]
    assert not gone


def test_a_file_that_no_reader_takes_is_a_reject_whatever_bytes_its_name_has(tmp_path: Path) -> None:
    _put(tmp_path / "a.jsonl", _lines(*TWO))
    _put(tmp_path / os.fsdecode(b"\xff.pdf"), b"%PDF")
    kept, gone = _read(_config(tmp_path))
    assert len(kept) == len(TWO)
    assert [row["rule"] for row in gone] == ["unknown_kind"]
    assert "".join(fingerprint(_config(tmp_path))).encode()


@pytest.mark.parametrize("data", [json.dumps(TWO).encode(), b"\xef\xbb\xbf\n" + json.dumps(TWO, indent=2).encode()])
def test_a_json_file_that_is_one_array_has_a_row_for_each_of_its_items(tmp_path: Path, data: bytes) -> None:
    _put(tmp_path / "a.json", data)
    kept, gone = _read(_config(tmp_path, shard_bytes=16))
    assert sorted(row["text"] for row in kept) == sorted(row["text"] for row in TWO)
    assert not gone


def test_parquet_is_read_by_row_groups_and_other_columns_are_left_alone(tmp_path: Path) -> None:
    table = pa.table({"text": [f"text {i}" for i in range(10)], "label": list(range(10))})
    pq.write_table(table, tmp_path / "a.parquet", row_group_size=3)
    config = _config(tmp_path, shard_bytes=1)
    assert len(plan(config)) == 4
    kept, gone = _read(config)
    assert [row["text"] for row in kept] == [f"text {i}" for i in range(10)]
    assert not gone


def test_a_text_file_is_one_document_named_by_its_place_in_the_folder(tmp_path: Path) -> None:
    _put(tmp_path / "b" / "two.md", "# Zwei\n\nÜber".encode())
    _put(tmp_path / "one.txt", b"\xef\xbb\xbfOne.")
    _put(tmp_path / "ignored.pdf", b"%PDF")
    kept, gone = _read(_config(tmp_path))
    assert [(row["url"], row["text"], row["host"]) for row in kept] == [
        ("b/two.md", "# Zwei\n\nÜber", "folder"),
        ("one.txt", "One.", "folder"),
    ]
    assert [(Path(row["url"]).name, row["rule"], row["detail"]) for row in gone] == [
        ("ignored.pdf", "unknown_kind", "no reader for .pdf")
    ]
    assert _read(_config(tmp_path / "one.txt"))[0][0]["url"] == "one.txt"


def test_url_source_and_id_are_used_where_given(tmp_path: Path) -> None:
    rows = [
        {"text": "with all", "url": "HTTP://Example.org:80/a/../b#part", "source": "wiki", "id": "x1"},
        {"text": "with an id", "id": 7},
        {"text": "id zero", "id": 0},
        {"text": "with nothing", "url": None, "source": "", "id": None},
        {"text": "an odd address", "url": "isbn:12345"},
    ]
    _put(tmp_path / "a.jsonl", _lines(*rows))
    kept, _ = _read(_config(tmp_path, name="mine"))
    digests = [payload_digest(str(row["text"]).encode()) for row in rows]
    assert [(row["source"], row["url"], row["host"]) for row in kept] == [
        ("wiki", "http://example.org/b", "example.org"),
        ("mine", "7", "mine"),
        ("mine", "0", "mine"),
        ("mine", f"mine:{digests[3]}", "mine"),
        ("mine", "isbn:12345", "mine"),
    ]
    # the id of a page is the same whether its capture or its text was imported: by the canonical URL
    assert kept[0]["doc_id"] == doc_id("wiki", "http://example.org/b", digests[0])
    assert kept[1]["doc_id"] == doc_id("mine", "7", digests[1])
    assert kept[0]["content_id"] == content_id("with all")
    assert kept[0]["text_digest"] == text_digest("with all")


def test_other_field_names_are_named_by_fields(tmp_path: Path) -> None:
    fields = Fields(text="body", url="link", id="key", source="origin")
    row = {"body": "the body", "link": "http://h/", "key": "k", "origin": "o", "text": "not this", "url": "http://other/"}
    _put(tmp_path / "a.jsonl", _lines(row))
    pq.write_table(pa.Table.from_pylist([row]), tmp_path / "b.parquet")
    kept, _ = _read(_config(tmp_path, fields=fields))
    assert [(row["text"], row["url"], row["source"]) for row in kept] == [("the body", "http://h/", "o")] * 2


BAD_LINES = [
    (b'{"text": "never closed', "broken_json", "Unterminated string"),
    (b'{"text": "a"}{"text": "b"}', "broken_json", "Extra data"),
    (b'{"text": "a"} null', "broken_json", "Extra data"),
    (b'{"text": "a", "number": ' + b"1" * 5000 + b"}", "broken_json", "digits"),
    (b'{"text": "a", "deep": ' + b"[" * 100_000 + b"]" * 100_000 + b"}", "broken_json", "recursion"),
    (b"null", "not_an_object", "null"),
    (b'["text"]', "not_an_object", "text"),
    (b"12", "not_an_object", "12"),
    (b'{"text": "caf\xe9"}', "not_utf8", "0xe9"),
    (b'{"text": "a", "other": "caf\xe9"}', "not_utf8", "0xe9"),
    (b'{"text": ""}', "no_text", "blank text"),
    (b'{"text": " \\n\\t\\u00a0"}', "no_text", "blank text"),
    (b"{}", "no_text", "no text"),
    (b'{"text": null, "url": "http://h/"}', "no_text", "no text"),
    (b'{"text": 12}', "no_text", "text is a int"),
    (b'{"text": ["a", "b"]}', "no_text", "text is a list"),
    (b'{"text": "half \\ud83d of a pair"}', "broken_text", "half a surrogate pair (character 5)"),
    (b'{"text": "a NUL \\u0000 inside"}', "broken_text", "NUL"),
]


@pytest.mark.parametrize(("line", "rule", "detail"), BAD_LINES, ids=[f"{rule}-{i}" for i, (_, rule, _) in enumerate(BAD_LINES)])
def test_a_bad_line_is_a_reject_with_its_reason_and_its_neighbours_stay(
    tmp_path: Path, line: bytes, rule: str, detail: str
) -> None:
    path = _put(tmp_path / "a.jsonl", _lines(TWO[0]) + line + b"\n" + _lines(TWO[1]))
    kept, gone = _read(_config(tmp_path))
    assert [row["text"] for row in kept] == [row["text"] for row in TWO]
    assert [row["rule"] for row in gone] == [rule]
    assert detail in gone[0]["detail"]
    assert str(path) in gone[0]["detail"]


def test_rows_of_parquet_without_usable_text_are_rejects_too(tmp_path: Path) -> None:
    pq.write_table(pa.table({"text": ["good", None, "", "  ", "a\0b"]}), tmp_path / "a.parquet")
    pq.write_table(pa.table({"text": [1, 2]}), tmp_path / "b.parquet")
    kept, gone = _read(_config(tmp_path))
    assert [row["text"] for row in kept] == ["good"]
    assert Counter(row["rule"] for row in gone) == {"no_text": 5, "broken_text": 1}


def test_a_text_file_that_is_not_utf8_is_a_reject(tmp_path: Path) -> None:
    _put(tmp_path / "latin.txt", "déjà vu".encode("latin-1"))
    _put(tmp_path / "empty.txt", b"")
    kept, gone = _read(_config(tmp_path))
    assert not kept
    assert {row["url"] or row["detail"]: row["rule"] for row in gone} == {
        str(tmp_path / "latin.txt"): "not_utf8",
        "empty.txt": "no_text",
    }


def test_half_a_surrogate_pair_in_another_field_costs_nothing(tmp_path: Path) -> None:
    _put(tmp_path / "a.jsonl", b'{"text": "good", "url": "http://h/\\ud800", "id": "\\udfff", "source": "s\\ud800"}\n')
    kept, gone = _read(_config(tmp_path))
    assert (len(kept), len(gone)) == (1, 0)
    assert kept[0]["source"] == "s\\ud800"


def test_a_byte_order_mark_and_windows_line_ends_are_no_part_of_the_rows(tmp_path: Path) -> None:
    _put(tmp_path / "a.jsonl", b"\xef\xbb\xbf" + _lines(*TWO).replace(b"\n", b"\r\n") + b"\r\n  \r\n")
    kept, gone = _read(_config(tmp_path))
    assert ([row["text"] for row in kept], gone) == ([row["text"] for row in TWO], [])


ANY_LINE = st.one_of(
    st.text(min_size=1, max_size=60).map(lambda text: json.dumps({"text": text}).encode()),
    st.text(min_size=1, max_size=60).map(
        lambda text: json.dumps({"text": text, "id": text[:3]}, ensure_ascii=False).encode("utf-8", "replace")
    ),
    st.sampled_from([line for line, *_ in BAD_LINES if len(line) < 100]),
)


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    files=st.lists(st.lists(ANY_LINE, max_size=8), min_size=1, max_size=3),
    shard_bytes=st.integers(1, 200),
    ends_with_newline=st.booleans(),
)
def test_wherever_a_shard_ends_no_row_is_lost_or_doubled(
    tmp_path: Path, files: list[list[bytes]], shard_bytes: int, ends_with_newline: bool
) -> None:
    for old in tmp_path.iterdir():
        old.unlink()
    for number, lines in enumerate(files):
        _put(tmp_path / f"{number}.jsonl", b"\n".join(lines) + (b"\n" if ends_with_newline else b""))
    whole, whole_gone = _read(_config(tmp_path))
    kept, gone = _read(_config(tmp_path, shard_bytes))
    assert len(kept) + len(gone) == sum(len(lines) for lines in files)
    assert kept == whole
    assert gone == whole_gone


def test_small_files_share_a_shard_and_big_ones_are_cut(tmp_path: Path) -> None:
    for number in range(6):
        _put(tmp_path / f"{number}.jsonl", _lines({"text": f"text number {number}"}))
    size = (tmp_path / "0.jsonl").stat().st_size
    assert [len(pieces) for pieces in plan(_config(tmp_path, 2 * size))] == [2, 2, 2]
    assert len(plan(_config(tmp_path, size // 2))) == 12


def test_the_plan_does_not_follow_the_order_in_which_files_were_made(tmp_path: Path) -> None:
    for folder, numbers in (("up", range(20)), ("down", reversed(range(20)))):
        for number in numbers:
            _put(tmp_path / folder / f"{number:02d}.jsonl", _lines({"text": f"text number {number}"}))
    up, down = (_read(_config(tmp_path / folder, 100))[0] for folder in ("up", "down"))
    assert up == down


@pytest.mark.parametrize("name", ["a.parquet", "more/b.parquet"])
def test_a_parquet_file_without_the_column_names_the_columns_it_has(tmp_path: Path, name: str) -> None:
    (tmp_path / "more").mkdir()
    pq.write_table(pa.table({"body": ["x"], "title": ["y"]}), tmp_path / name)
    with pytest.raises(InputError, match=rf"{name}: no column 'text'; it has body, title; .*`fields.text`"):
        _read(_config(tmp_path))


def test_a_damaged_file_is_an_error_that_names_it_and_never_a_shorter_corpus(tmp_path: Path) -> None:
    data = _lines(*({"text": f"text number {i}"} for i in range(2000)))
    broken = {
        "cut.jsonl.gz": gzip.compress(data)[:-20],
        "tail.jsonl.gz": gzip.compress(data) + b"junk",
        "cut.jsonl.zst": zstandard.compress(data)[:-20],
        "second.jsonl.zst": zstandard.compress(data) + zstandard.compress(data)[:-20],
        "none.jsonl.zst": b"this is no zstd",
        "cut.json": json.dumps(TWO).encode()[:-5],
        "text.parquet": b"this is no parquet",
        "empty.parquet": b"",
    }
    for name, raw in broken.items():
        path = _put(tmp_path / name, raw)
        with pytest.raises(InputError, match=name):
            _read(_config(path))


def test_a_parquet_file_with_damaged_pages_is_an_error_that_names_it(tmp_path: Path) -> None:
    path = tmp_path / "a.parquet"
    pq.write_table(pa.table({"text": [f"text number {i}" for i in range(5000)]}), path, compression="zstd")
    raw = bytearray(path.read_bytes())
    raw[100:2000] = bytes(1900)
    path.write_bytes(raw)
    with pytest.raises(InputError, match=r"a\.parquet: damaged Parquet"):
        _read(_config(path))


def test_a_folder_without_usable_files_says_which_kinds_can_be_read(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="no such file or folder"):
        files_of(str(tmp_path / "nowhere"))
    _put(tmp_path / "a.pdf", b"%PDF")
    for path in (tmp_path, tmp_path / "a.pdf"):
        with pytest.raises(InputError, match=r"these kinds can: \.jsonl"):
            files_of(str(path))


def test_a_file_name_that_is_not_utf8_is_an_error_and_no_crash(tmp_path: Path) -> None:
    try:
        _put(tmp_path / "caf\udce9.txt", b"text")
    except OSError:
        pytest.skip("this file system takes UTF-8 names only")
    with pytest.raises(InputError, match="not UTF-8"):
        files_of(str(tmp_path))


def test_a_changed_file_changes_the_fingerprint(tmp_path: Path) -> None:
    path = _put(tmp_path / "a.jsonl", _lines(TWO[0]))
    before = fingerprint(_config(tmp_path))
    assert fingerprint(_config(tmp_path)) == before
    _put(path, _lines(*TWO))
    assert fingerprint(_config(tmp_path)) != before


@pytest.fixture(scope="module")
def datasets_cache(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    import datasets

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(datasets.config, "HF_DATASETS_CACHE", str(tmp_path_factory.mktemp("cache")))
        patch.setattr(datasets.config, "HF_HUB_OFFLINE", True)
        yield


def _dataset(path: Path, shard_bytes: int = 64_000_000, **source: Any) -> IngestConfig:
    return IngestConfig(sources=(DatasetSource(kind="dataset", dataset=str(path), **source),), shard_bytes=shard_bytes)


@pytest.mark.usefixtures("datasets_cache")
@pytest.mark.parametrize("kind", ["jsonl", "parquet"])
def test_a_local_dataset_is_read_by_rows_whatever_the_shard_size(tmp_path: Path, kind: str) -> None:
    rows = [{"text": f"text number {i}", "url": f"http://h/{i}"} for i in range(9)] + [{"text": "", "url": "http://h/9"}]
    if kind == "jsonl":
        _put(tmp_path / "data" / "train.jsonl", _lines(*rows))
    else:
        (tmp_path / "data").mkdir()
        pq.write_table(pa.Table.from_pylist(rows), tmp_path / "data" / "train.parquet")
    whole, gone = _read(_dataset(tmp_path / "data"))
    assert [row["url"] for row in whole] == [row["url"] for row in rows[:9]]
    assert [(row["rule"], row["url"]) for row in gone] == [("no_text", "http://h/9")]
    small = _dataset(tmp_path / "data", shard_bytes=60)
    assert len(plan(small)) > 3
    assert _read(small) == (whole, gone)


@pytest.mark.usefixtures("datasets_cache")
def test_a_dataset_without_the_split_the_column_or_readable_files_is_a_clear_error(tmp_path: Path) -> None:
    _put(tmp_path / "good" / "train.jsonl", _lines({"body": "x"}))
    with pytest.raises(InputError, match=r"split 'validation': .*train"):
        _read(_dataset(tmp_path / "good", split="validation"))
    with pytest.raises(InputError, match=r"no column 'text'; it has body"):
        _read(_dataset(tmp_path / "good"))
    _put(tmp_path / "broken" / "train.jsonl", b'{"text": "a"}\n{"text": \n')
    with pytest.raises(InputError, match=r"ingest\.sources: dataset .*broken"):
        _read(_dataset(tmp_path / "broken"))
    with pytest.raises(InputError, match=r"ingest\.sources: dataset .*nowhere"):
        _read(_dataset(tmp_path / "nowhere"))
