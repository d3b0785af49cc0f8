"""Which texts share a run of words with others: held-out documents that the training split has parts of.

Words, and what is common, are those of decontamination (needles.py, contamination.py): what stands in more than MAX_DOCUMENTS
training documents is a page frame or a saying and no evidence. Costs 5 to 9 ns per byte searched, and 200 bytes a word looked for.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from tasks.text.contamination import DecontaminateConfig
from tasks.text.needles import NONE, Needles, needles_of, search

Ints = npt.NDArray[np.int64]
Mask = npt.NDArray[np.bool_]

MAX_DOCUMENTS = DecontaminateConfig().max_documents


def runs_of(texts: pa.Array, num_words: int) -> Needles:
    """All runs of `num_words` words of the texts."""
    return needles_of(texts, (num_words,), num_words)


def documents_with(texts: pa.Array, runs: Needles) -> Ints:
    """(runs,) how many of these texts have each run."""
    return np.bincount(search(texts, runs)[1], minlength=runs.size)


def overlapping(runs: Needles, documents: Ints) -> tuple[Mask, Mask]:
    """(texts,) which have a run that some documents, and not too many, have, too; and which are long enough to say.

    Args:
        documents: (runs,) how many documents have each run.
    """
    telling = np.append((documents > 0) & (documents <= MAX_DOCUMENTS), False)  # NONE is the last
    grams = runs.gram_of[0]
    before = [np.concatenate([[0], np.cumsum(some)]) for some in (telling[grams], grams != NONE)]
    found, long = (sums[runs.passage_at[1:]] > sums[runs.passage_at[:-1]] for sums in before)
    return found, long
