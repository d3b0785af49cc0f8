"""How a model is tuned on conversations. Imports no torch."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from tasks.learn.tuning_config import TuningConfig


class SftConfig(TuningConfig):
    """Supervised fine-tuning: the assistant's words are learnt, given all that was said before them."""

    batch_size: int = Field(2, ge=1)
    """Rows in one forward pass; memory grows with it."""
    gradient_accumulation: int = Field(4, ge=1)
    """Forward passes summed into one optimiser step: a larger batch at the same memory."""
    max_length: int | None = Field(None, ge=8)
    """Tokens that a conversation may have, marks of the chat template included; null: as many as the model sees at once, 1,024 at most."""
    too_long: Literal["drop", "truncate"] = "drop"
    """Conversations with more: drop leaves them out; truncate cuts off their end, and leaves out those of which no learnt word is left.
    Both are counted."""
    packing: bool = True
    """Several conversations lie in one row of `max_length` tokens, and none sees another; a batch is then so many rows. False: one in a
    row, filled up to the longest of its batch; for models that do not keep them apart, which are refused."""
    heldout_rows: int | None = Field(500, ge=1)
    """Conversations of the test split that are scored before and after: those with the smallest row_id, which is a hash. null: all."""
