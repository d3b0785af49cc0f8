"""What every way of training on from a model has in common: amounts, rates, adapters, checkpoints. Imports no torch.

Each method adds its own keys in a module of its own (`sft_config.py` …).
"""

from __future__ import annotations

from typing import Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator

from infra.dataset import GUARD
from tasks.learn.config import Device, Precision
from tasks.learn.costs import CostConfig


class LoraConfig(BaseModel):
    """Low-rank adapters (Hu et al. 2021): the model's weights stay; small matrices beside them learn, and are merged at the end."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    base: Literal["fp32", "nf4"] = "fp32"
    """How the model's own weights are held while adapters learn. nf4: in four bits, with scales in eight (QLoRA, Dettmers et al. 2023), an
    eighth of the memory; the adapters are then merged into the weights as they came, and these measured, whole. Needs
    `pip install 'gristmill[qlora]'`."""
    rank: int = Field(16, ge=1)
    """Width of the two matrices beside each one: trained weights and memory of the optimiser grow with it."""
    alpha: float = Field(32.0, gt=0)
    """What they add is multiplied by alpha / rank."""
    dropout: float = Field(0.0, ge=0, lt=1)
    """Share of their inputs that is left out in training."""
    target_modules: tuple[str, ...] = ()
    """Names of the matrices, by their last part (`q_proj`). Empty: all linear layers but the output head (QLoRA, section 4)."""


class TuningConfig(BaseModel):
    """Training on from a model. The amount is given in passes over the rows or in steps, never in time, so that it is repeatable."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    epochs: float = Field(3.0, gt=0)
    """Passes over the training rows."""
    max_steps: int | None = Field(None, ge=1)
    """Optimiser steps, in place of `epochs`; null: as many as the epochs take."""
    batch_size: int = Field(8, ge=1)
    """Samples in one forward pass; memory grows with it."""
    gradient_accumulation: int = Field(1, ge=1)
    """Forward passes summed into one optimiser step: a larger batch at the same memory."""
    learning_rate: float = Field(2e-5, gt=0)
    """Highest learning rate, reached after the warm-up. About 2e-5 where all weights of a large model are trained, ten times that for
    adapters, and 1e-3 for models of a few million parameters."""
    schedule: Literal["linear", "cosine", "constant"] = "linear"
    """How the rate falls after the warm-up, to 0 at the last step; constant: not at all."""
    warmup_share: float = Field(0.03, ge=0, lt=1)
    """Part of all steps in which the learning rate rises from 0."""
    weight_decay: float = Field(0.0, ge=0)
    """AdamW's decay of matrices; norms and biases are left alone."""
    betas: tuple[float, float] = (0.9, 0.999)
    """AdamW's decay of the first and second moment."""
    grad_clip: float = Field(1.0, gt=0)
    """Largest global norm of the gradient; longer ones are scaled down."""
    lora: LoraConfig | None = None
    """Train adapters, and merge them at the end; null: all weights are trained."""
    precision: Precision = "auto"
    """bf16: matrix products in bfloat16 under autocast, weights kept in float32. fp32: all in float32. auto: bf16 where the processor
    computes in it, else fp32, with the reason in the log."""
    seed: int = Field(1, ge=0, lt=2**32)
    """Fixes the order of the rows, dropout, the adapters' first weights and what is drawn."""
    log_every_steps: int = Field(5, ge=1)
    """Steps between two lines of history; the logged loss is the mean since the line before."""
    checkpoint_every_steps: int = Field(50, ge=1)
    """Steps between two checkpoints: what a kill can cost at most. A multiple of `log_every_steps`, so that no line spans a checkpoint, and
    a training that goes on tells what an undisturbed one does."""
    # by what means it is computed: no part of the recipe
    num_threads: int | None = Field(None, ge=1, json_schema_extra=GUARD)
    """CPU threads; None: all that may be used. Results are bit-equal only at equal numbers of threads."""
    device: Device = Field("auto", json_schema_extra=GUARD)
    """auto: CUDA where it works, else the CPU, with the reason in the log. cuda: an error where it does not work."""
    activation_checkpointing: bool = Field(False, json_schema_extra=GUARD)
    """Activations of a block are computed again in the backward pass: about a third slower, for much less memory in deep models."""
    costs: CostConfig = Field(CostConfig(), json_schema_extra=GUARD)
    """Prices, for the cost of the run to be told; no part of the recipe."""

    @model_validator(mode="after")
    def _fits_together(self) -> TuningConfig:
        if self.checkpoint_every_steps % self.log_every_steps:
            raise ValueError(
                f"checkpoint_every_steps {self.checkpoint_every_steps} must be a multiple of log_every_steps {self.log_every_steps}"
            )
        if not all(0 <= beta < 1 for beta in self.betas):
            raise ValueError(f"betas must be at least 0 and below 1 (got {self.betas})")
        return self
