"""What is true of a corpus, by brute force: the exact Jaccard similarity of every pair of documents that share a shingle.

Shingles are those of our normal form, as a `SketchConfig` says, as 64-bit hashes. An inverted index over them finds every pair, so no hash
of a hash decides; documents of equal shingles count once. Cost: one sort of all shingles, then one step for each shingle that two
documents share; 20,000 documents of 700 words take 4 s and 1 GB.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import pyarrow as pa
from numba import njit

from tasks.text import minhash
from tasks.text.minhash import SketchConfig

Flags = npt.NDArray[np.bool_]
Ints = npt.NDArray[np.int64]
Floats = npt.NDArray[np.float64]
Hashes = npt.NDArray[np.uint64]


class Truth(NamedTuple):
    """The contents of some documents, and how alike they are."""

    node: Ints
    """(num_docs,) the content of each document; equal for equal sets of shingles."""
    pairs: Ints
    """(num_pairs, 2) contents, the smaller first; all pairs of at least the least similarity."""
    jaccard: Floats
    """(num_pairs,)."""

    @property
    def num_nodes(self) -> int:
        """How many contents there are."""
        return int(self.node.max()) + 1 if self.node.size else 0


class Score(NamedTuple):
    """How a tool did."""

    recall: float
    """Share of pairs of the given similarity of which not both were kept; documents of equal content count once."""
    precision: float
    """Share of removed contents that have a kept content of the given similarity."""
    copies: float
    """Share of exact copies that were removed."""
    num_pairs: int
    num_removed: int
    """Contents of which no document was kept."""


@njit(cache=True)
def _pairs_kernel(values: Hashes, owner: Ints, order: Ints, sizes: Ints, least: float) -> tuple[Any, Any]:
    """values u64[n] of documents owner[n], ascending by owner; order: places by (value, owner)."""
    bucket = np.empty(values.size, np.int64)  # where in `order` the postings of an entry's value begin
    start = 0
    for place in range(values.size):
        if values[order[place]] != values[order[start]]:
            start = place
        bucket[order[place]] = start
    shared, touched = np.zeros(sizes.size, np.int64), np.empty(sizes.size, np.int64)
    pairs, jaccard, num_pairs, entry = np.empty((1024, 2), np.int64), np.empty(1024, np.float64), 0, 0
    for doc in range(sizes.size):
        num_touched = 0
        while entry < values.size and owner[entry] == doc:
            place = bucket[entry]
            while owner[order[place]] < doc:
                other = owner[order[place]]
                if shared[other] == 0:
                    touched[num_touched] = other
                    num_touched += 1
                shared[other] += 1
                place += 1
            entry += 1
        for other in touched[:num_touched]:
            similarity = shared[other] / (sizes[doc] + sizes[other] - shared[other])
            shared[other] = 0
            if similarity < least:
                continue
            if num_pairs == len(pairs):
                pairs = np.concatenate((pairs, np.empty_like(pairs)))
                jaccard = np.concatenate((jaccard, np.empty_like(jaccard)))
            pairs[num_pairs, 0], pairs[num_pairs, 1], jaccard[num_pairs] = other, doc, similarity
            num_pairs += 1
    return pairs[:num_pairs].copy(), jaccard[:num_pairs].copy()


def truth_of(texts: pa.Array, config: SketchConfig, least: float = 0.3) -> Truth:
    """Every pair of contents of these texts with a Jaccard similarity of at least `least`."""
    values, offsets = minhash.shingle_hashes(texts, config)
    seen: dict[bytes, int] = {}
    node = np.empty(len(texts), np.int64)
    firsts: list[int] = []
    for document in range(len(texts)):
        key = values[offsets[document] : offsets[document + 1]].tobytes()
        node[document] = seen.setdefault(key, len(seen))
        if node[document] == len(firsts):
            firsts.append(document)
    first = np.array(firsts, np.int64)
    sizes = np.diff(offsets)[first]
    chosen = np.concatenate([values[offsets[one] : offsets[one + 1]] for one in firsts]) if firsts else values
    owner = np.repeat(np.arange(len(first)), sizes)
    order = np.argsort(chosen, kind="stable")
    return Truth(node, *_pairs_kernel(chosen, owner, order, sizes, least))


def score(truth: Truth, kept: Flags, similar: float = 0.85, alike: float = 0.75) -> Score:
    """A tool's recall of pairs of at least `similar`, and the precision of its removals at `alike`, of which documents it `kept`.

    Not every tool names for whom it removed a document: any kept one counts.
    """
    kept_node = np.zeros(truth.num_nodes, np.bool_)
    kept_node[truth.node[kept]] = True
    left, right = truth.pairs.T
    both = kept_node[left] & kept_node[right]
    wanted = truth.jaccard >= similar
    near, has_kept = truth.jaccard >= alike, np.zeros(truth.num_nodes, np.bool_)
    has_kept[left[near & kept_node[right]]] = True
    has_kept[right[near & kept_node[left]]] = True
    gone = ~kept_node
    extra = len(kept) - truth.num_nodes  # documents beside the first of their content
    extra_kept = int(kept.sum()) - int(kept_node.sum())
    return Score(
        recall=_share(int((wanted & ~both).sum()), int(wanted.sum())),
        precision=_share(int((gone & has_kept).sum()), int(gone.sum())),
        copies=1 - extra_kept / extra if extra else 1.0,
        num_pairs=int(wanted.sum()),
        num_removed=int(gone.sum()),
    )


def _share(part: int, whole: int) -> float:
    return part / whole if whole else 1.0
