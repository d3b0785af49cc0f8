"""MinHash of real documentation: ours beside datasketch's, both schemes, in one run, with equal values checked.

    make bench

Prints MB/s, ns per shingle and the ratio, by processor time. datasketch gets ready-made shingles in one row; the other adds what it takes
to make some with a regular expression, which normalises less than ours, for a user of it has to. Then the one pass that deduplication
makes (`sketch`) with every preset, beside the limit: every byte read once, as fast as xxHash reads, and one multiplication, addition and
comparison per shingle and hash, as fast as a loop does them whose operands are in the first-level cache. What is above the limit is
what normal forms and the hashes of shingles cost.
"""

from __future__ import annotations

import re
import time
from collections.abc import Callable
from typing import Any, Literal

import numpy as np
import pyarrow as pa
import xxhash
from datasketch import MinHash
from numba import njit, uint32

from tasks.text import minhash
from tasks.web import demo

NUM_DOCUMENTS = 1500
TAG, WORD = re.compile(r"<[^>]+>"), re.compile(r"\w+")
SCHEMES: tuple[Literal["affine32", "affine64"], ...] = ("affine32", "affine64")
ELEMENT_HASHES = {"affine32": minhash.element_hash, "affine64": minhash.element_hash64}


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


def timed(work: Callable[[], Any], times: int = 3) -> tuple[Any, float]:
    """The result and the processor seconds of the quickest of several runs."""
    best = float("inf")
    for _ in range(times):
        started = time.process_time()
        result = work()
        best = min(best, time.process_time() - started)
    return result, best


def shingles(words: list[str], size: int) -> list[bytes]:
    """Word n-grams, made with Python strings."""
    return [" ".join(words[at : at + size]).encode() for at in range(max(1, len(words) - size + 1))]


@njit
def _permute(values: Any, factors: Any) -> Any:
    """One multiplication, addition and comparison for every value and factor: a loop that LLVM vectorises."""
    total = uint32(0)
    for k in range(factors.size):
        factor, least = factors[k], uint32(0xFFFFFFFF)
        for at in range(values.size):
            least = min(least, uint32(factor * values[at] + factor))
        total ^= least
    return total


def permutations_per_s() -> float:
    """How many of them this core does in a second."""
    values, factors = np.arange(4096, dtype=np.uint32), np.arange(1, 4096, 2, dtype=np.uint32)
    _permute(values, factors)
    return values.size * factors.size / timed(lambda: _permute(values, factors), times=20)[1]


def print_rates(num_bytes: int, num_shingles: int, rows: list[tuple[str, float]]) -> None:
    """One line each: what, and its processor seconds; the ratio is to the first."""
    for name, seconds in rows:
        rate, each = num_bytes / 1e6 / seconds, seconds / num_shingles * 1e9
        print(f"  {name:<32} {rate:>9.1f} MB/s {each:>9.1f} ns per shingle {seconds / rows[0][1]:>8.2f} x ours")


def main() -> None:
    """Measure and print."""
    texts = documents()
    array = pa.array(texts)
    num_bytes = sum(len(text.encode()) for text in texts)
    minhash.compile_kernels()
    print(f"{len(texts):,} documents, {num_bytes / 1e6:.1f} MB")
    for scheme in SCHEMES:
        config = minhash.SketchConfig(scheme=scheme)
        ours, our_s = timed(lambda config=config: minhash.signatures(array, config), times=10)
        size = config.shingle_length
        made = [shingles(minhash.normalise(text, config).split(), size) for text in texts]
        _, make_s = timed(lambda size=size: [shingles(WORD.findall(text.lower()), size) for text in texts])
        settings = {"num_perm": config.num_hashes, "seed": config.seed, "scheme": scheme, "hashfunc": ELEMENT_HASHES[scheme]}
        theirs, their_s = timed(lambda made=made, settings=settings: list(MinHash.generator(made, **settings)))
        np.testing.assert_array_equal(ours, np.stack([one.hashvalues for one in theirs]))
        print(f"signatures, {scheme}, {config.num_hashes} hashes of word {size}-grams: equal values")
        rows = [("gristmill", our_s), ("datasketch, shingles ready", their_s), ("datasketch, shingles made", their_s + make_s)]
        print_rates(num_bytes, sum(map(len, made)), rows)
    _, read_s = timed(lambda: [xxhash.xxh64_intdigest(text.encode()) for text in texts])
    permuted_per_s = permutations_per_s()
    print(f"one pass: content, number of shingles and band keys; this core does {permuted_per_s / 1e9:.1f} · 10^9 permutations/s")
    for preset in minhash.PRESETS:
        config = minhash.SketchConfig(preset=preset)
        found, our_s = timed(lambda config=config: minhash.sketch(array, config), times=5)
        num_shingles = int(found.num_shingles.sum())
        limit_s = read_s + num_shingles * config.num_hashes / permuted_per_s
        print_rates(num_bytes, num_shingles, [(f"{preset}, {config.num_hashes} hashes", our_s), ("  limit", limit_s)])


if __name__ == "__main__":
    main()
