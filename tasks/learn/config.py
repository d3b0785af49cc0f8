"""How a model is trained and evaluated. Imports no torch, so that reading a config costs milliseconds."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from pydantic import BaseModel, ConfigDict, Field, field_validator, model_validator

from models.presets import ModelConfig

MODEL = "model"
"""Folder of a trained version that holds the Hugging Face model."""
TOKENISER = "tokeniser"
"""Folder of a token version that holds the tokeniser."""
SCORES, ITEMS = "scores.json", "items.parquet"
"""Files of a version of scores: its `figures` and more, and what each item gave to them (expectations.schemas.ITEMS)."""

Device = Literal["auto", "cuda", "cpu"]
Precision = Literal["auto", "bf16", "fp32"]


class TrainConfig(BaseModel):
    """Pre-training: AdamW, linear warm-up, cosine decay. The amount is given in steps, never in time, so that it is repeatable."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    model: ModelConfig = ModelConfig()
    """Which model is trained."""
    max_steps: int = Field(300, ge=1)
    """Optimiser steps. Tokens read: max_steps x batch_size x gradient_accumulation x context_length."""
    batch_size: int = Field(16, ge=1)
    """Windows in one forward pass; memory grows with it, by batch_size x context_length x vocabulary for the logits alone."""
    gradient_accumulation: int = Field(1, ge=1)
    """Forward passes summed into one optimiser step: a larger batch at the same memory."""
    learning_rate: float = Field(3e-3, gt=0)
    """Highest learning rate, reached after the warm-up. About 3e-3 for 4M parameters, 6e-4 for 125M (GPT-3, table 2.1)."""
    min_lr_ratio: float = Field(0.1, ge=0, le=1)
    """Learning rate at the last step, as a part of `learning_rate`."""
    warmup_steps: int = Field(30, ge=0)
    """Steps over which the learning rate rises from 0."""
    weight_decay: float = Field(0.1, ge=0)
    """Decoupled weight decay of matrices; norms are left alone."""
    betas: tuple[float, float] = (0.9, 0.95)
    """AdamW's decay of the first and second moment."""
    grad_clip: float = Field(1.0, gt=0)
    """Largest global norm of the gradient; longer ones are scaled down."""
    precision: Precision = "auto"
    """bf16: matrix products in bfloat16 under autocast, weights kept in float32. fp32: all in float32. auto: bf16 where the
    processor computes in it, else fp32, with the reason in the log: emulated bf16 is several times slower than fp32."""
    seed: int = Field(1, ge=0, lt=2**32)
    """Fixes the first weights and the order of the data."""
    eval_every_steps: int = Field(100, ge=1)
    """Steps between two looks at the validation loss; the last step always has one."""
    eval_batches: int = Field(8, ge=1)
    """Validation batches of `batch_size` windows at each look: always the same ones."""
    checkpoint_every_steps: int = Field(100, ge=1)
    """Steps between two checkpoints: what a kill can cost at most. The last step always has one."""
    log_every_steps: int = Field(10, ge=1)
    """Steps between two lines of history; the logged loss is the mean since the line before."""
    num_threads: int | None = Field(None, ge=1)
    """CPU threads; None: all that this process may use. Results are bit-equal only at equal numbers of threads."""
    device: Device = "auto"
    """auto: CUDA where it works, else the CPU, with the reason in the log. cuda: an error where it does not work."""
    compile: bool = False
    """torch.compile: 30 to 55 % faster on a CPU once compiled, which takes 30 to 170 s; for runs of hours."""

    @model_validator(mode="after")
    def _warms_up_in_time(self) -> TrainConfig:
        if self.warmup_steps >= self.max_steps:
            raise ValueError(f"warmup_steps {self.warmup_steps} must be below max_steps {self.max_steps}")
        if not all(0 <= beta < 1 for beta in self.betas):
            raise ValueError(f"betas must be at least 0 and below 1 (got {self.betas})")
        return self

    @property
    def samples_per_step(self) -> int:
        """Windows that one optimiser step reads."""
        return self.batch_size * self.gradient_accumulation

    @property
    def tokens_per_step(self) -> int:
        """Tokens that one optimiser step learns from."""
        return self.samples_per_step * self.model.shape.context_length


class SampleConfig(BaseModel):
    """Texts that the model writes, for a person to read."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    prompts: tuple[str, ...] = ("The", "This operation", "To create a", "Returns a list of")
    """Beginnings of documents that the model continues."""
    max_new_tokens: int = Field(48, ge=1)
    """Length of each continuation, in tokens."""
    temperature: float = Field(0.8, ge=0)
    """0: always the likeliest token."""
    seed: int = 1
    """Equal seeds give equal texts."""


class EvalConfig(BaseModel):
    """How a trained model is scored on held-out documents."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    max_documents: int | None = Field(None, ge=1)
    """Score at most so many documents: those with the smallest doc_id, which is a hash, so a fixed random sample. None: all."""
    batch_tokens: int = Field(8192, ge=1)
    """Tokens in one forward pass; memory is about batch_tokens x vocabulary x 8 bytes."""
    precision: Precision = "fp32"
    """fp32 gives figures that do not depend on the machine's bfloat16; bf16 is faster where the processor computes in it."""
    num_threads: int | None = Field(None, ge=1)
    """CPU threads; None: all that this process may use."""
    device: Device = "auto"
    """Where to compute, as in training."""
    mask_every: int = Field(7, ge=1)
    """Of a masked model: so many passes, in each of which every so manieth token is masked and predicted from the others. 7 hides 14 % at a
    time, about what such models are trained with (BERT, section 3.1: 15 %); from the context length on, each token is hidden alone."""


Perturbation = Literal["typos", "lower_case"]


class RobustnessConfig(BaseModel):
    """The same documents once more with small faults: how much worse does the model predict them?"""

    model_config = ConfigDict(frozen=True, extra="forbid")

    perturbations: tuple[Perturbation, ...] = ("typos", "lower_case")
    """typos: words mistyped, as `augment` does; lower_case: no capitals. None: nothing is measured."""
    max_documents: int | None = Field(200, ge=1)
    """At most so many documents, those with the smallest doc_id; None: all that are scored. Each perturbation costs a pass over them."""
    typo_rate: float = Field(0.1, gt=0, le=1)
    """Chance with which a word of four ASCII letters or more is mistyped; other words stay."""
    seed: int = 1
    """Decides which words."""


class EvaluateConfig(EvalConfig):
    """The configuration of the step: scores, and sample texts to read."""

    samples: SampleConfig = SampleConfig()
    """What the model is asked to continue."""
    robustness: RobustnessConfig = RobustnessConfig()
    """Which faults the model is confronted with."""
    overlap_words: int | None = Field(13, ge=2)
    """A held-out document that has so many words in a row with the training split is in the dirty half (GPT-3, appendix C: 13); null:
    nobody looks."""
    suite: str | None = "scores"
    """Expectation suite that the figures must pass, by name or path; null: they are not judged."""

    @field_validator("suite")
    @classmethod
    def _absolute_if_a_file(cls, suite: str | None) -> str | None:
        return str(Path(suite).absolute()) if suite and Path(suite).is_file() else suite


class GateConfig(BaseModel):
    """What a challenger must not be worse in than the champion."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    metrics: tuple[str, ...] = ("heldout.bits_per_byte", "heldout.pseudo_bits_per_byte")
    """Names of figures, or patterns with `*` such as `tasks.*`; each is a chance of one in forty to refuse an equal model, so name few."""
    tolerance: float = Field(0.0, ge=0)
    """How much worse is still accepted, as a part of the champion's value: 0.01 lets 1 % pass."""
