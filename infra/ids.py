"""Content-derived names: documents, contents and texts are called by 128-bit BLAKE2b digests, never by a file position.

`doc_id` names one capture and never changes; `content_id` is equal for exact duplicates; `text_digest` names the bytes of
one stage's text. All are 32 lower-case hex characters.
"""

from __future__ import annotations

import hashlib
import unicodedata

ID_BYTES = 16


def digest_of(*parts: str | bytes) -> str:
    """32 hex characters over `parts`; each part is length-prefixed, so ("ab", "c") and ("a", "bc") differ."""
    state = hashlib.blake2b(digest_size=ID_BYTES)
    for part in parts:
        raw = part.encode("utf-8", "surrogatepass") if isinstance(part, str) else part
        state.update(len(raw).to_bytes(8, "little"))
        state.update(raw)
    return state.hexdigest()


def doc_id(source: str, key: str, payload_digest: str) -> str:
    """The id of one capture: `key` is the canonical URL or the source's own key of the row."""
    return digest_of("doc", source, key, payload_digest)


def content_id(text: str) -> str:
    """Equal for exact duplicates: NFC, lower-case, runs of white space folded to one space."""
    return digest_of("content", " ".join(unicodedata.normalize("NFC", text).lower().split()))


def text_digest(text: str) -> str:
    """The digest of exactly this text."""
    return digest_of("text", text)


def payload_digest(payload: bytes) -> str:
    """The digest of a fetched body or an imported row, before any decoding."""
    return digest_of("payload", payload)
