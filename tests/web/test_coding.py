"""Content codings come undone exactly, and never beyond the limit."""

import gzip
import zlib

import pytest
import zstandard
from hypothesis import given
from hypothesis import strategies as st

from tasks.web.coding import CodingError, decoded


@given(st.binary(max_size=2000))
def test_every_coding_gives_back_what_was_coded(body: bytes) -> None:
    assert decoded(body, None, 5000) == body
    assert decoded(gzip.compress(body, mtime=0), "gzip", 5000) == body
    assert decoded(gzip.compress(body, mtime=0) + gzip.compress(b"more"), "GZIP", 5000) == body + b"more"
    assert decoded(zlib.compress(body), "deflate", 5000) == body
    assert decoded(zlib.compress(body, wbits=-15), "deflate", 5000) == body
    assert decoded(zstandard.compress(body), "zstd", 5000) == body
    assert decoded(gzip.compress(zlib.compress(body)), "deflate, gzip", 5000) == body


@pytest.mark.parametrize(
    ("body", "coding"),
    [
        (gzip.compress(b"0" * 10_000_000, mtime=0), "gzip"),
        (zstandard.compress(b"0" * 10_000_000), "zstd"),
        (zlib.compress(b"0" * 10_000_000), "deflate"),
    ],
)
def test_a_bomb_is_refused(body: bytes, coding: str) -> None:
    with pytest.raises(CodingError) as caught:
        decoded(body, coding, 100_000)
    assert caught.value.rule == "too_large"


@pytest.mark.parametrize(
    ("body", "coding"),
    [(gzip.compress(b"abc" * 99, mtime=0)[:-9], "gzip"), (b"not gzip", "gzip"), (b"x", "rot13"), (b"\xff\xff", "br")],
)
def test_damage_and_unknown_codings_are_told_apart_from_pages(body: bytes, coding: str) -> None:
    with pytest.raises(CodingError) as caught:
        decoded(body, coding, 100_000)
    assert caught.value.rule == "bad_coding"
