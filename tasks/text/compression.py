"""How far zlib compresses a text: much where it repeats itself, little where it is noise.

Level LEVEL of zlib, the whole text at once, header and checksum among the bytes, so that a short text can come out above 1. Level 1 read
61 MB/s of WikiText on a 2.5 GHz core; level 6 read 45 and came 5 % lower. Of the 30 µs of an article of 1.8 KB a call of nothing takes 2.
zlib runs without Python's lock. Other versions of it may make other bytes, and with them a ratio that differs a little: this was 1.2.13.
"""

from __future__ import annotations

import zlib

import numpy as np
import pyarrow as pa

from tasks.text.buffers import string_buffers
from tasks.text.groups import SHARE, Columns, Signal, ratio

LEVEL = 1
VERSION = zlib.ZLIB_RUNTIME_VERSION
"""Of the library that is loaded, whatever it was compiled against: part of the recipe of what is measured."""
SIGNALS = (Signal("zlib_ratio", SHARE, f"bytes of the text as zlib compresses it, level {LEVEL} ÷ its UTF-8 bytes"),)


def measure(text: pa.Array, language: pa.Array | None) -> Columns:
    """The column of SIGNALS; the language does not matter."""
    data, offsets = string_buffers(text)
    view = data.data
    spans = zip(offsets[:-1].tolist(), offsets[1:].tolist(), strict=True)
    compressed = np.array([len(zlib.compress(view[start:end], LEVEL)) for start, end in spans], np.int64)
    return {"zlib_ratio": ratio(compressed, np.diff(offsets))}
