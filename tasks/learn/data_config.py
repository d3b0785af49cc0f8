"""How token shards become samples: packing, mixing, curriculum and masking. Imports no torch."""

from __future__ import annotations

from itertools import pairwise
from typing import Literal

from pydantic import BaseModel, ConfigDict, Field, field_validator, model_validator

Packing = Literal["stream", "documents", "best_fit"]


class StageConfig(BaseModel):
    """A part of the training with a mixture of its own."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    until: float = Field(gt=0, le=1)
    """Share of the training's samples at which the stage ends; it begins where the one before ends."""
    weights: dict[str, float]
    """Share of the stage's samples by source, as `weights` of the whole training."""

    @field_validator("weights")
    @classmethod
    def _shares(cls, weights: dict[str, float]) -> dict[str, float]:
        return shares_of_a_whole(weights)


class DataConfig(BaseModel):
    """Which tokens are in a sample, and which samples come when."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    packing: Packing = "documents"
    """documents: windows over the stream of a source, attention kept inside each document, positions restart. stream: the same windows,
    attention crosses documents. best_fit: documents are put whole into windows, only those longer than a window are cut, and the
    rest of a window is filled up and not learned from (Ding et al. 2024, Fewer Truncations Improve Language Modeling)."""
    weights: dict[str, float] = Field(default_factory=dict)
    """Share of the samples by source, each from 0 to 1. Sources not named have the rest, as they are to each other. Empty, and without
    `epochs` and `curriculum`: every sample of every source once in each epoch, in one order."""
    epochs: dict[str, float] = Field(default_factory=dict)
    """Times that a source counts among those without a weight: {books: 2} reads books twice as often as the others; fractions too."""
    max_epochs: float | None = Field(None, gt=0)
    """Times that a training may read a source; one that would read it more often does not begin. null: as often as it comes."""
    curriculum: tuple[StageConfig, ...] = ()
    """Stages by share of the training, in order; behind the last one `weights` hold."""
    mask_share: float = Field(0.15, gt=0, le=1)
    """Masked models only: share of the tokens that are learned from. Of these 80 % are masked, 10 % replaced, 10 % left as they are
    (Devlin et al. 2019, BERT, 3.1)."""
    mask_whole_words: bool = False
    """Masked models only: the parts of a word ("##" of WordPiece) are chosen together."""

    @field_validator("weights")
    @classmethod
    def _shares(cls, weights: dict[str, float]) -> dict[str, float]:
        return shares_of_a_whole(weights)

    @field_validator("epochs")
    @classmethod
    def _not_negative(cls, epochs: dict[str, float]) -> dict[str, float]:
        for source, times in epochs.items():
            if not 0 <= times < float("inf"):
                raise ValueError(f"{source}: a source is read 0 times or more (got {times:g})")
        return epochs

    @model_validator(mode="after")
    def _belongs_together(self) -> DataConfig:
        if both := sorted(self.weights.keys() & self.epochs.keys()):
            raise ValueError(
                f"{both[0]}: has a share in `weights` and times in `epochs`; one of them decides how often it is read"
            )
        for before, after in pairwise(self.curriculum):
            if after.until <= before.until:
                raise ValueError(f"curriculum: stages end one after another (got until {before.until:g}, then {after.until:g})")
        return self

    @property
    def mixes(self) -> bool:
        """Whether anything but the amount of text decides how often a source is read."""
        return bool(self.weights or self.epochs or self.curriculum)


def shares_of_a_whole(weights: dict[str, float]) -> dict[str, float]:
    """Weights that can be shares of one whole.

    Raises:
        ValueError: they cannot.
    """
    for source, weight in weights.items():
        if not 0 <= weight <= 1:
            raise ValueError(f"{source}: a weight is a share of the samples, from 0 to 1 (got {weight:g})")
    if (whole := sum(weights.values())) > 1 + 1e-9:
        raise ValueError(f"the weights add up to {whole:.4g}; at most 1 is possible")
    return weights
