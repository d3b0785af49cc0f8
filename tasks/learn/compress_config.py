"""How models are made smaller or faster, and written for other programs. Imports no torch."""

from __future__ import annotations

from typing import Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator

from tasks.learn.config import Device, EvalConfig, TrainConfig


class HeldOutConfig(EvalConfig):
    """How the perplexity before and after is measured."""

    max_documents: int | None = Field(200, ge=1)
    """Score at most so many documents: those with the smallest doc_id, which is a hash, so a fixed random sample. None: all."""
    device: Device = "cpu"
    """Where to compute; int8 is computed on a CPU only, and compared there."""
    suite: None = None
    """The figures before and after are judged by the step `weigh`."""


class SpeedConfig(BaseModel):
    """What is timed: the original and the compressed model in turns, in one process."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    batch_sizes: tuple[int, ...] = (1, 8)
    """Texts that are written or read at once; empty: nothing is timed."""
    new_tokens: int = Field(32, ge=1)
    """Tokens that are written to each prompt."""
    prompt_tokens: int = Field(64, ge=1)
    """Length of the prompts, and of the texts that are read in one pass, in tokens."""
    rounds: int = Field(3, ge=1)
    """Turns of each model behind an untimed one; the median counts."""


class QuantiseConfig(BaseModel):
    """Weights in int8 for CPUs."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    held_out: HeldOutConfig = HeldOutConfig()
    """How the perplexity before and after is measured, on the test split of the tokens."""
    speed: SpeedConfig = SpeedConfig()
    """How the speed before and after is measured; with the threads of `held_out`."""
    max_perplexity_ratio: float | None = Field(1.05, ge=1)
    """A perplexity that has grown by a larger factor stops the flow; null: none does. `weigh` asks more, by items and intervals."""

    @model_validator(mode="after")
    def _on_a_cpu(self) -> QuantiseConfig:
        if self.held_out.device != "cpu":
            raise ValueError(f"held_out.device must be cpu, where both models are compared (got {self.held_out.device})")
        return self


class Lesson(BaseModel):
    """What a student learns from its teacher."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    share: float = Field(0.5, gt=0, le=1)
    """Part of the loss that is the distance from the teacher's probabilities; the rest is the text itself."""
    temperature: float = Field(2.0, ge=1)
    """What the logits of both are divided by, so that the teacher's less likely tokens are seen, too (Hinton et al. 2015, section 2)."""


class Teacher(BaseModel):
    """The teacher of a training."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    folder: str
    """Local folder of the model."""
    lesson: Lesson


class DistilConfig(TrainConfig):
    """Pre-training of a student, whose model is that of `model`, with a teacher beside it."""

    lesson: Lesson = Lesson()
    """How much of the loss the teacher is."""

    @model_validator(mode="after")
    def _can_be_taught(self) -> DistilConfig:
        if self.label_smoothing:
            raise ValueError(
                f"label_smoothing: the teacher's probabilities are smooth; leave it out (got {self.label_smoothing})"
            )
        return self

    @property
    def training(self) -> TrainConfig:
        """As it would be without a teacher."""
        return TrainConfig.model_validate(self.model_dump(exclude={"lesson"}))


class PruneConfig(BaseModel):
    """Which weights, or parts, a model does without."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    method: Literal["global", "layer", "two_of_four", "width", "depth"] = "global"
    """What goes first. global: the smallest weights of all matrices of the blocks. layer: the smallest of each matrix. two_of_four: the
    smaller two of each four in a row, which some GPUs compute faster. These set weights to 0 and make no model smaller. width: units of the
    feed-forward blocks that add least to their output. depth: whole blocks, those whose output is most like their input. These do."""
    sparsities: tuple[float, ...] = (0.1, 0.2, 0.3, 0.5, 0.7)
    """Parts of the weights, units or blocks that are taken out, each measured for the table; `two_of_four` is always one half."""
    keep: float = 0.3
    """The one of them whose model becomes the version."""
    calibration_documents: int = Field(32, ge=1)
    """width and depth: training documents on which units and blocks are watched."""
    held_out: HeldOutConfig = HeldOutConfig()
    """How the perplexity is measured, on the test split of the tokens."""
    speed: SpeedConfig = SpeedConfig()
    """width and depth: how the speed before and after is measured; with the threads of `held_out`."""

    @model_validator(mode="after")
    def _keeps_what_it_measures(self) -> PruneConfig:
        if wrong := [one for one in self.sparsities if not 0 < one < 1]:
            raise ValueError(f"sparsities must be above 0 and below 1 (got {', '.join(map(str, wrong))})")
        if self.method != "two_of_four" and self.keep not in self.sparsities:
            raise ValueError(f"keep {self.keep} must be one of sparsities ({', '.join(map(str, self.sparsities))})")
        return self

    @property
    def asked(self) -> tuple[float, ...]:
        """The sparsities that are measured."""
        return (0.5,) if self.method == "two_of_four" else tuple(sorted(set(self.sparsities)))

    @property
    def kept(self) -> float:
        """The one whose model becomes the version."""
        return 0.5 if self.method == "two_of_four" else self.keep

    @property
    def smaller(self) -> bool:
        """Whether the method makes the model smaller."""
        return self.method in ("width", "depth")


class ExportConfig(BaseModel):
    """In which form a model is written for other programs."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    format: Literal["gguf", "safetensors"] = "gguf"
    """gguf: one file for llama.cpp and its relatives. safetensors: a Hugging Face folder."""
    dtype: Literal["f32", "f16", "q8_0"] = "f16"
    """Of matrices. f32 is exact; f16 rounds to 11 bits; q8_0, for gguf alone: int8 with a scale for each 32 weights."""
    name: str = Field("gristmill", pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$")
    """What a GGUF file says that the model is called, and the beginning of its own name."""

    @model_validator(mode="after")
    def _of_format(self) -> ExportConfig:
        if self.format == "safetensors" and self.dtype == "q8_0":
            raise ValueError(
                "dtype q8_0: only with format gguf; take f32 or f16, or the step `quantise` for int8 on this machine"
            )
        return self
