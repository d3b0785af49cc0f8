"""The peer datasketch 2.0.0: MinHash in batches and its LSH, with xxHash, which is quicker than its default SHA-1.

The loop is the one of its documentation: a document whose query finds nothing stays and is inserted. Nothing is verified.
"""

from __future__ import annotations

from pathlib import Path

import shared
import xxhash
from datasketch import MinHash, MinHashLSH


def remove(corpus: Path, output: Path) -> None:
    """Shingles in Python, sketches, query, insert."""
    index = MinHashLSH(num_perm=shared.NUM_HASHES, params=(shared.NUM_BANDS, shared.NUM_ROWS))
    kept = shared.Kept(output)
    for batch in shared.batches(corpus):
        sets = [[shingle.encode() for shingle in shared.word_shingles(text)] for text in batch["text"].to_pylist()]
        sketches = MinHash.bulk(sets, num_perm=shared.NUM_HASHES, hashfunc=xxhash.xxh32_intdigest)
        keep = []
        for key, sketch in zip(batch["doc_id"].to_pylist(), sketches, strict=True):
            keep.append(not index.query(sketch))
            if keep[-1]:
                index.insert(key, sketch, check_duplication=False)
        kept.write(batch, keep)
    kept.close()


if __name__ == "__main__":
    shared.run(remove, shared.word_shingles)
