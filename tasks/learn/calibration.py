"""Whether a model is as right as it is sure: next-token calibration from sums per bin of confidence, and no logits kept.

Confidence is the probability of the likeliest token. Of each document there are the sums of hits minus confidence by bin, so the
expected calibration error (Naeini et al. 2015; Guo et al. 2017, equation 3) has an interval over documents, and two models' can be
compared document by document. Costs 8 bytes a document and bin.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from expectations.schemas import ITEMS
from tasks.learn.comparison import Cells, interval_of
from tasks.learn.figures import Figure

Floats = npt.NDArray[np.float64]
Ints = npt.NDArray[np.int64]

NUM_BINS = 15
"""Equally wide ones from 0 to 1 (Guo et al. 2017, section 5)."""


def bin_of(confidence: Floats) -> Ints:
    """(T,) the bin of each confidence; 1 is in the last."""
    return np.minimum((confidence * NUM_BINS).astype(np.int64), NUM_BINS - 1)


def bin_names() -> list[str]:
    """The bins as groups of items, in order."""
    return [f"{number / NUM_BINS:.3f}" for number in range(NUM_BINS)]


def ece(name: str, gaps: Floats, num_tokens: Ints, seed: int = 0) -> Figure:
    """The expected calibration error: the mean over tokens of |accuracy - confidence| of their bin.

    Args:
        gaps: (D, NUM_BINS) hits minus confidence, summed over each document's tokens in a bin.
        num_tokens: (D,) tokens of each document.
    """
    some = num_tokens > 0
    gaps, weights = gaps[some], num_tokens[some].astype(np.float64)
    if not len(weights):
        return Figure(name, None, None, None, 0, "lower", "", "gap")
    value, low, high = interval_of(Cells(gaps, weights), "gap", seed)
    return Figure(name, value, low, high, len(weights), "lower", "", "gap")


def ece_items(name: str, names: Sequence[str], gaps: Floats, num_tokens: Ints) -> pa.Table:
    """ITEMS of it: one row for each document and bin; the tokens are the weight of a document's first row, so that they sum."""
    document, place = np.nonzero((gaps != 0) | (np.arange(NUM_BINS) == 0))
    weight = np.where(place == 0, num_tokens[document], 0)
    columns: dict[str, Any] = {
        "metric": pa.repeat(name, len(document)),
        "item": pa.array(list(names), pa.string()).take(pa.array(document)),
        "group": pa.array(bin_names(), pa.string()).take(pa.array(place)),
        "amount": gaps[document, place],
        "weight": weight.astype(np.float64),
    }
    return pa.table(columns, schema=ITEMS)


def reliability(bins: Floats) -> list[dict[str, float]]:
    """Points of the reliability plot, from (NUM_BINS, 3) sums of tokens, confidence and hits; empty bins are left out."""
    return [
        {"tokens": int(tokens), "confidence": confidence / tokens, "accuracy": hits / tokens}
        for tokens, confidence, hits in bins.tolist()
        if tokens
    ]
