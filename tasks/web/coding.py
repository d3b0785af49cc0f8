"""HTTP content codings undone within a byte limit: a few kilobytes that unfold into gigabytes are a reject, not an outage."""

from __future__ import annotations

import io
import zlib

from fastwarc.stream_io import BrotliReader, ZstdReader


class CodingError(ValueError):
    """A body that cannot be decoded; `rule` is `bad_coding` or `too_large`."""

    def __init__(self, rule: str, detail: str) -> None:
        super().__init__(detail)
        self.rule = rule


def decoded(body: bytes, content_encoding: str | None, max_bytes: int) -> bytes:
    """`body` without its Content-Encoding (gzip, deflate, br, zstd; several in a row): at most `max_bytes`, else CodingError."""
    for coding in reversed((content_encoding or "").lower().split(",")):
        match coding.strip():
            case "" | "identity":
                pass
            case "gzip" | "x-gzip":
                body = gunzipped(body, max_bytes)
            case "deflate":
                body = _inflated(body, max_bytes)
            case "br":
                body = _read(BrotliReader, body, max_bytes)
            case "zstd":
                body = _read(ZstdReader, body, max_bytes)
            case unknown:
                raise CodingError("bad_coding", f"unknown content coding {unknown!r}")
    if len(body) > max_bytes:
        raise CodingError("too_large", f"more than {max_bytes} bytes when decoded")
    return body


def gunzipped(body: bytes, max_bytes: int) -> bytes:
    """The members of a gzip file, joined; a cut or damaged one raises CodingError."""
    parts: list[bytes] = []
    room = max_bytes
    while body.startswith(b"\x1f\x8b") or not parts:
        part, body = _zlib_part(body, 31, room)
        parts.append(part)
        room -= len(part)
    return b"".join(parts)


def _inflated(body: bytes, max_bytes: int) -> bytes:
    """`deflate` means zlib (RFC 9110), but some servers send it raw."""
    zlib_header = body[:1] == b"\x78"
    return _zlib_part(body, 15 if zlib_header else -15, max_bytes)[0]


def _zlib_part(body: bytes, window_bits: int, max_bytes: int) -> tuple[bytes, bytes]:
    """(the decoded stream, what follows it)."""
    unzip = zlib.decompressobj(window_bits)
    try:
        part = unzip.decompress(body, max_bytes + 1)
    except zlib.error as error:
        raise CodingError("bad_coding", f"damaged: {error}") from error
    if len(part) > max_bytes:
        raise CodingError("too_large", f"more than {max_bytes} bytes when decoded")
    if not unzip.eof:
        raise CodingError("bad_coding", "the compressed stream ends early")
    return part, unzip.unused_data


def _read(reader: type[BrotliReader] | type[ZstdReader], body: bytes, max_bytes: int) -> bytes:
    try:
        return reader(io.BytesIO(body)).read(max_bytes + 1)
    except OSError as error:
        raise CodingError("bad_coding", f"damaged: {error}") from error
