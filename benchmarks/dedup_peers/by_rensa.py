"""The peer rensa 0.5.0, with full-set R-MinHash: its deduplicator, or with --lsh its sketches in batches and its LSH.

The deduplicator is the loop of its README (`add_pairs`) with LSH of 14 bands; it checks a candidate by the estimate of the sketches.
`python by_rensa.py remove CORPUS OUTPUT --lsh` keeps what no candidate proposes and checks nothing.
"""

from __future__ import annotations

import sys
from pathlib import Path

import shared
from rensa import RMinHash, RMinHashDeduplicator, RMinHashLSH

SEED = 42


def remove(corpus: Path, output: Path) -> None:
    """Shingles in Python, all else in Rust."""
    kept = shared.Kept(output)
    judge = by_lsh() if "--lsh" in sys.argv else by_deduplicator()
    for batch in shared.batches(corpus):
        sets = [list(shared.word_shingles(text)) for text in batch["text"].to_pylist()]
        kept.write(batch, judge(batch["doc_id"].to_pylist(), sets))
    kept.close()


def by_deduplicator():
    """Its own deduplicator, which keeps its index across calls."""
    deduplicator = RMinHashDeduplicator(shared.SIMILAR, shared.NUM_HASHES, True, shared.NUM_BANDS, SEED)
    return lambda keys, sets: deduplicator.add_pairs(zip(keys, sets, strict=True))


def by_lsh():
    """Query, then insert what finds nothing."""
    index = RMinHashLSH(shared.SIMILAR, shared.NUM_HASHES, shared.NUM_BANDS)
    count = 0

    def judge(keys, sets):
        nonlocal count
        keep = []
        for sketch in RMinHash.from_token_sets(sets, num_perm=shared.NUM_HASHES, seed=SEED):
            keep.append(not index.query(sketch))
            if keep[-1]:
                index.insert(count, sketch)
                count += 1
        return keep

    return judge


if __name__ == "__main__":
    shared.run(remove, shared.word_shingles)
