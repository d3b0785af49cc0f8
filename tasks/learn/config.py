"""How a model is trained and evaluated. Imports no torch, so that reading a config costs milliseconds."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from pydantic import BaseModel, ConfigDict, Field, field_validator, model_validator

from infra.dataset import GUARD
from models.presets import ModelConfig, context_length
from tasks.learn.costs import CostConfig
from tasks.learn.data_config import DataConfig

MODEL = "model"
"""Folder of a trained version that holds the Hugging Face model."""
TOKENISER = "tokeniser"
"""Folder of a token version that holds the tokeniser."""
HISTORY, SKIPPED, SPEED = "history.json", "skipped.json", "speed.json"
"""Files of a trained version: its lines of history, the steps that were skipped as outliers, and, beside it, what the clock said."""
LEFT_OUT = "left_out.json"
"""File of a version that was tuned on rows: those that were not learnt from, each with its rule, value and threshold."""
SCORES, ITEMS = "scores.json", "items.parquet"
"""Files of a version of scores: its `figures` and more, and what each item gave to them (expectations.schemas.ITEMS)."""

Device = Literal["auto", "cuda", "cpu"]
Precision = Literal["auto", "bf16", "fp32"]


class TrainConfig(BaseModel):
    """Pre-training. The amount is given in steps, never in time, so that it is repeatable."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    model: ModelConfig = ModelConfig()
    """Which model is trained, from scratch or on from a checkpoint."""
    data: DataConfig = DataConfig()
    """How documents become samples, and which sources are read how often."""
    max_steps: int = Field(300, ge=1)
    """Optimiser steps. Tokens read: max_steps x batch_size x gradient_accumulation x context_length."""
    batch_size: int = Field(16, ge=1)
    """Samples in one forward pass, those of all ranks together; memory of a rank grows with its part."""
    gradient_accumulation: int = Field(1, ge=1)
    """Forward passes summed into one optimiser step: a larger batch at the same memory."""
    optimizer: Literal["adamw", "adam", "sgd", "rmsprop"] = "adamw"
    """adamw: decoupled weight decay. adam, sgd, rmsprop: the decay is part of the gradient. sgd needs a rate a hundred times higher."""
    learning_rate: float = Field(3e-3, gt=0)
    """Highest learning rate, reached after the warm-up. About 3e-3 for 4M parameters, 6e-4 for 125M (GPT-3, table 2.1)."""
    min_lr_ratio: float = Field(0.1, ge=0, le=1)
    """Learning rate at the last step, as a part of `learning_rate`; `constant` has no use for it."""
    schedule: Literal["cosine", "wsd", "linear", "step", "exponential", "constant"] = "cosine"
    """How the rate falls after the warm-up: along a cosine; wsd: not at all before the last part, then with 1 - sqrt (Haegele et al. 2024);
    linear; step: to `step_factor` of itself at each of `step_times` equal parts; exponential: by an equal factor at each step."""
    warmup_steps: int = Field(30, ge=0)
    """Steps over which the learning rate rises from 0."""
    decay_share: float = Field(0.2, gt=0, le=1)
    """wsd: part of all steps in which the rate falls."""
    step_times: int = Field(3, ge=1)
    """step: how often the rate falls."""
    step_factor: float = Field(0.3, gt=0, lt=1)
    """step: what is left of the rate each time, never less than `min_lr_ratio` of the highest."""
    weight_decay: float = Field(0.1, ge=0)
    """Decay of matrices; norms and biases are left alone."""
    betas: tuple[float, float] = (0.9, 0.95)
    """Adam's decay of the first and second moment."""
    momentum: float = Field(0.9, ge=0, lt=1)
    """sgd (Nesterov's) and rmsprop."""
    l1: float = Field(0.0, ge=0)
    """Penalty per absolute weight of matrices, added to the gradient and not to the told loss: drives weights to zero."""
    l2: float = Field(0.0, ge=0)
    """Penalty per squared weight of matrices, added to the gradient and not to the told loss; with adamw `weight_decay` is better."""
    label_smoothing: float = Field(0.0, ge=0, lt=1)
    """Part of the target that is spread over all tokens. The told losses are without it, so they compare."""
    grad_clip: float = Field(1.0, gt=0)
    """Largest global norm of the gradient; longer ones are scaled down."""
    ema_decay: float = Field(0.0, ge=0, lt=1)
    """Above 0: a moving average of the weights with this decay per step is validated and kept instead of the weights themselves."""
    skip_spikes: float = Field(6.0, ge=0)
    """A step whose loss or gradient norm lies so many standard deviations above the mean of the last 128 steps changes nothing and is told
    with its documents (the rule of OLMo-core's SkipStepOptimizer). 0: none is skipped."""
    early_stopping: int = Field(0, ge=0)
    """Training ends after so many looks at the validation loss without a better one. 0: it goes to its last step."""
    early_stopping_delta: float = Field(0.0, ge=0)
    """Nats that count as better."""
    keep: Literal["best", "last"] = "best"
    """Which weights become the model: those with the lowest validation loss, or the last ones. The other ones lie beside it."""
    precision: Precision = "auto"
    """bf16: matrix products in bfloat16 under autocast, weights kept in float32. fp32: all in float32. auto: bf16 where the
    processor computes in it, else fp32, with the reason in the log: emulated bf16 is several times slower than fp32."""
    seed: int = Field(1, ge=0, lt=2**32)
    """Fixes the first weights, the order of the data, masks and dropout."""
    eval_every_steps: int = Field(100, ge=1)
    """Steps between two looks at the validation loss; the last step always has one."""
    eval_batches: int = Field(8, ge=1)
    """Validation batches of `batch_size` samples at each look: always the same ones."""
    checkpoint_every_steps: int = Field(100, ge=1)
    """Steps between two checkpoints: what a kill can cost at most. The last step always has one."""
    log_every_steps: int = Field(10, ge=1)
    """Steps between two lines of history; the logged loss is the mean since the line before."""
    # by what means it is computed: no part of the recipe, so another machine goes on where this one stood (docs/decisions/017)
    num_threads: int | None = Field(None, ge=1, json_schema_extra=GUARD)
    """CPU threads of a rank; None: all that may be used, divided by the ranks. Results are bit-equal only at equal numbers of threads."""
    device: Device = Field("auto", json_schema_extra=GUARD)
    """auto: CUDA where it works, else the CPU, with the reason in the log. cuda: an error where it does not work."""
    ranks: int = Field(1, ge=1, json_schema_extra=GUARD)
    """Processes that train together, started by torchrun: on GPUs one for each. The same samples are read for any number."""
    parallel: Literal["ddp", "fsdp"] = Field("ddp", json_schema_extra=GUARD)
    """With several ranks. ddp: each holds the whole model. fsdp: weights, gradients and moments are divided among them (FSDP2)."""
    activation_checkpointing: bool = Field(False, json_schema_extra=GUARD)
    """Activations of a block are computed again in the backward pass: about a third slower, for much less memory in deep models."""
    loss_chunk: int = Field(0, ge=0, json_schema_extra=GUARD)
    """Tokens whose logits are in memory at once. 0: chosen so that they take at most 8 MB, or 256 MB on a GPU."""
    compile: bool = Field(False, json_schema_extra=GUARD)
    """torch.compile of each block: faster once compiled, which takes a minute, and seconds where it was compiled before."""
    costs: CostConfig = Field(CostConfig(), json_schema_extra=GUARD)
    """Prices, for the cost of the run to be told; no part of the recipe."""

    @model_validator(mode="after")
    def _fits_together(self) -> TrainConfig:
        if self.warmup_steps >= self.max_steps:
            raise ValueError(f"warmup_steps {self.warmup_steps} must be below max_steps {self.max_steps}")
        if not all(0 <= beta < 1 for beta in self.betas):
            raise ValueError(f"betas must be at least 0 and below 1 (got {self.betas})")
        if self.batch_size % self.ranks:
            raise ValueError(
                f"batch_size {self.batch_size} must be a multiple of ranks {self.ranks}, which share each forward pass"
            )
        if self.schedule == "exponential" and not self.min_lr_ratio:
            raise ValueError("min_lr_ratio must be above 0 for the exponential schedule, which never reaches 0")
        return self

    @property
    def samples_per_step(self) -> int:
        """Samples that one optimiser step reads."""
        return self.batch_size * self.gradient_accumulation

    @property
    def tokens_per_step(self) -> int:
        """Tokens that one optimiser step learns from."""
        return self.samples_per_step * context_length(self.model)


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
    """CPU threads; None: all that this process may use. Part of the recipe: figures differ in their last bits by it (2e-6 nats a token,
    measured with one and two), and the digest of a version is said of its bytes."""
    device: Device = "auto"
    """Where to compute, as in training; part of the recipe, as `num_threads` is."""
    mask_every: int = Field(7, ge=1)
    """Of a masked model: so many passes, in each of which every so manieth token is masked and predicted from the others. 7 hides 14 % at a
    time, about what such models are trained with (BERT, section 3.1: 15 %); from the context length on, each token is hidden alone."""
    suite: str | None = "scores"
    """Expectation suite that the figures must pass, by name or path; null: they are not judged."""

    @field_validator("suite")
    @classmethod
    def _absolute_if_a_file(cls, suite: str | None) -> str | None:
        return str(Path(suite).absolute()) if suite and Path(suite).is_file() else suite


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


class GateConfig(BaseModel):
    """What a challenger must not be worse in than the champion."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    metrics: tuple[str, ...] = ("heldout.bits_per_byte", "heldout.pseudo_bits_per_byte")
    """Names of figures, or patterns with `*` such as `tasks.*`; each is a chance of one in forty to refuse an equal model, so name few."""
    tolerance: float = Field(0.0, ge=0)
    """How much worse is still accepted, as a part of the champion's value: 0.01 lets 1 % pass."""
