"""How a model is aligned: by pairs (DPO), by a reward model, by reinforcement on rewards. Imports no torch."""

from __future__ import annotations

from typing import Literal

from pydantic import BaseModel, ConfigDict, Field, field_validator, model_validator

from models.tokeniser import from_anywhere
from tasks.learn.tuning_config import TuningConfig

FIGURES = "figures"
"""Folder of the figures and their items, in the folder of a job."""


class WriteConfig(BaseModel):
    """Answers to held-out prompts, drawn before and after, on which reward and its side effects are measured."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    prompts: int = Field(100, ge=0)
    """At most so many prompts of the test split: those with the smallest row_id, which is a hash. 0: nothing is written."""
    num_samples: int = Field(4, ge=1)
    """Answers drawn to each."""
    max_new_tokens: int = Field(128, ge=1)
    """Tokens of an answer at most; one that reaches it is counted as cut off."""
    temperature: float = Field(1.0, ge=0)
    """1: as the model is; 0: always the likeliest token."""
    seed: int = Field(1, ge=0)
    """Fixes the draws."""


class AlignConfig(TuningConfig):
    """What all ways of aligning have in common."""

    max_length: int | None = Field(None, ge=8)
    """Tokens of a prompt with its answer; null: as many as the model sees at once, 1,024 at most. Rows with more are left
    out and counted."""
    heldout_rows: int | None = Field(1000, ge=1)
    """Pairs of the test split that are judged: those with the smallest row_id, which is a hash. null: all."""
    write: WriteConfig = WriteConfig()
    """What is written before and after."""
    suite: str | None = "aligned"
    """Expectation suite that the figures must pass, by name or path; null: they are not judged."""

    @field_validator("suite")
    @classmethod
    def _absolute_if_a_file(cls, suite: str | None) -> str | None:
        return from_anywhere(suite) if suite else suite


class DpoConfig(AlignConfig):
    """Direct preference optimisation (Rafailov et al. 2023) by TRL's DPOTrainer."""

    learning_rate: float = Field(1e-6, gt=0)
    """Highest learning rate. 1e-6 for billions of parameters (TRL's own); small models take 1e-5 to 1e-4."""
    epochs: float = Field(1.0, gt=0)
    """Passes over the training pairs; more than a few make the model wander from where it began."""
    beta: float = Field(0.1, gt=0)
    """How strongly the model is held to where it began: the larger, the nearer it stays."""
    loss: Literal["sigmoid", "sigmoid_norm", "ipo"] = "sigmoid"
    """sigmoid: the paper's. sigmoid_norm: likelihoods are per token, so length earns nothing. ipo: bounded (Azar et al. 2023)."""


class KtoConfig(AlignConfig):
    """Kahneman-Tversky optimisation (Ethayarajh et al. 2024) by TRL's KTOTrainer, of answers that are each good or bad."""

    learning_rate: float = Field(1e-6, gt=0)
    """Highest learning rate. 1e-6 for billions of parameters (TRL's own); small models take 1e-5 to 1e-3."""
    epochs: float = Field(1.0, gt=0)
    """Passes over the training rows."""
    batch_size: int = Field(8, ge=2)
    """Answers in one forward pass. How far the model has gone is estimated in each: few say it badly, one alone not at all."""
    beta: float = Field(0.1, gt=0)
    """How strongly the model is held to where it began: the larger, the nearer it stays."""


class RewardConfig(AlignConfig):
    """A reward model (Bradley-Terry loss) by TRL's RewardTrainer."""

    learning_rate: float = Field(1e-4, gt=0)
    """Highest learning rate."""
    epochs: float = Field(1.0, gt=0)
    """Passes over the training pairs; reward models overfit after one or two."""
    center: float = Field(0.01, ge=0)
    """Weight of (sum of both rewards)^2, which keeps rewards around 0 (Eisenstein et al. 2023); 0: none."""

    @model_validator(mode="after")
    def _whole(self) -> RewardConfig:
        if self.lora is not None and self.lora.base != "fp32":
            raise ValueError(
                f"lora.base: a reward model is trained on whole weights, for its head is new (got {self.lora.base!r})"
            )
        return self


class ReinforceConfig(AlignConfig):
    """Reinforcement on the rewards of what the model writes: RLOO (Ahmadian et al. 2024) or GRPO (Shao et al. 2024), by TRL."""

    method: Literal["grpo", "rloo"] = "grpo"
    """grpo: clipped, with advantages inside a group of answers. rloo: REINFORCE, each answer beside the mean of the others."""
    learning_rate: float = Field(1e-6, gt=0)
    """Highest learning rate; small models take 1e-5 to 1e-3."""
    epochs: float = Field(1.0, gt=0)
    """Passes over the training prompts."""
    batch_size: int = Field(8, ge=1)
    """Answers in one forward pass; batch_size x gradient_accumulation is a multiple of num_generations, and what is written anew for each
    optimiser step: so no checkpoint ever lies between writing and learning, and a resumed training writes what it would have."""
    num_generations: int = Field(8, ge=2)
    """Answers to a prompt that are compared with one another."""
    max_new_tokens: int = Field(128, ge=1)
    """Tokens of an answer at most, in training."""
    temperature: float = Field(1.0, gt=0)
    """Of the draws in training."""
    beta: float = Field(0.04, ge=0)
    """Weight of the divergence from the model at the start (0.04: Shao et al. 2024, section 4.2); 0: it may go anywhere, and takes no
    memory for that model. rloo subtracts it from the reward."""
    loss: Literal["grpo", "dr_grpo", "dapo", "bnpo"] = "dapo"
    """grpo: mean over each answer's tokens, which favours long wrong ones. dapo: over the tokens of all answers. dr_grpo: by a constant
    length. bnpo: over the tokens of a forward pass."""
    scale: Literal["group", "batch", "none"] = "group"
    """By which deviation advantages are divided; none: by nothing, so that easy and hard prompts weigh as they differ."""
    clip: float = Field(0.2, gt=0)
    """How far a token's ratio may move in one update."""
    thinking: bool = False
    """Answers are expected as <think>…</think> and the answer behind it; what can be checked is looked for there."""
    verified_weight: float = Field(1.0, ge=0)
    """Of a right answer in the reward."""
    format_weight: float = Field(0.2, ge=0)
    """Of an answer in form, with `thinking`."""
    model_weight: float = Field(1.0, ge=0)
    """Of the reward model's judgement, where one is given."""

    @model_validator(mode="after")
    def _whole_groups(self) -> ReinforceConfig:
        if self.answers_per_step % self.num_generations:
            raise ValueError(
                f"batch_size {self.batch_size} x gradient_accumulation {self.gradient_accumulation} must be a multiple of num_generations "
                f"{self.num_generations}: a step learns from all answers to its prompts"
            )
        return self

    @property
    def answers_per_step(self) -> int:
        """Answers that one optimiser step learns from."""
        return self.batch_size * self.gradient_accumulation
