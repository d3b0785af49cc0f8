"""MinHash signatures of real documentation: ours beside datasketch's, in one run, with equal values checked.

    make bench

Prints MB/s and documents/s of both, by CPU time, and the ratio. datasketch gets ready-made shingles in one row, and makes them in
Python in the other, which is what a user of it pays. The limit to hold both against: xxHash alone over the same bytes.
"""

from __future__ import annotations

import re
import time
from collections.abc import Callable
from typing import Any

import numpy as np
import pyarrow as pa
import xxhash
from datasketch import MinHash

from tasks.text import minhash
from tasks.web import demo

NUM_DOCUMENTS = 1500
TAG = re.compile(r"<[^>]+>")


def documents() -> list[str]:
    """Operation texts of the botocore wheel, tags taken out."""
    found = []
    for name in demo.service_names():
        for operation in demo._read_service(name)["operations"].values():
            text = TAG.sub(" ", operation.get("documentation", ""))
            if len(text) > 500:
                found.append(text)
            if len(found) == NUM_DOCUMENTS:
                return found
    return found


def timed(work: Callable[[], Any]) -> tuple[Any, float]:
    """The result and the CPU seconds of the best of three."""
    best = float("inf")
    for _ in range(3):
        started = time.process_time()
        result = work()
        best = min(best, time.process_time() - started)
    return result, best


def shingles(text: str, size: int) -> list[bytes]:
    """What our kernel hashes, made with Python strings."""
    words = minhash.normalise(text).split()
    return [" ".join(words[at : at + size]).encode() for at in range(max(1, len(words) - size + 1))]


def main() -> None:
    """Measure and print."""
    config = minhash.DedupConfig()
    texts = documents()
    array = pa.array(texts)
    num_bytes = sum(len(text.encode()) for text in texts)
    minhash.compile_kernels()
    ours, our_s = timed(lambda: minhash.signatures(array, config))
    made, make_s = timed(lambda: [shingles(text, config.ngram_words) for text in texts])
    settings = {"num_perm": config.num_hashes, "seed": config.seed, "hashfunc": minhash.element_hash}
    theirs, their_s = timed(lambda: list(MinHash.generator(made, **settings)))
    _, hash_s = timed(lambda: [xxhash.xxh64_intdigest(text.encode()) for text in texts])
    np.testing.assert_array_equal(ours, np.stack([one.hashvalues for one in theirs]))
    print(
        f"{len(texts):,} documents, {num_bytes / 1e6:.1f} MB, {config.num_hashes} hashes of word {config.ngram_words}-grams; equal values"
    )
    for name, seconds in (
        ("gristmill", our_s),
        ("datasketch, shingles ready", their_s),
        ("datasketch, shingles made", their_s + make_s),
        ("limit: xxHash over the bytes", hash_s),
    ):
        print(
            f"{name:<30} {num_bytes / 1e6 / seconds:>10.1f} MB/s {len(texts) / seconds:>12,.0f} documents/s  {seconds / our_s:>8.2f} x ours"
        )


if __name__ == "__main__":
    main()
