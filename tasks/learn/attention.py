"""Attention that stays inside documents."""

from __future__ import annotations

import torch


def attention_mask(documents: torch.Tensor, causal: bool) -> torch.Tensor:
    """Which positions (B, 1, C, C) each position may look at: those of its document, for a causal model not those behind it.

    Args:
        documents: (B, C) as `Batch.documents`. Positions that fill up look at one another, for softmax over nothing is NaN.
    """
    same = documents[:, None, :, None] == documents[:, None, None, :]
    return same.tril() if causal else same
