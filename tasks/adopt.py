"""adopt: a model of another maker as a version, so that it can be tuned, scored and served as our own."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from pydantic import BaseModel, ConfigDict, field_validator

from infra import scratch, trainings
from infra.dataset import Counts
from infra.errors import InputError
from infra.steps import Output, step
from models import adopted
from models.tokeniser import from_anywhere
from tasks.learn.config import MODEL


class AdoptConfig(BaseModel):
    """Which model."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    checkpoint: str = ""
    """A folder that transformers loads, a trained version, a name on the Hugging Face hub, or a GGUF file."""

    @field_validator("checkpoint")
    @classmethod
    def _from_anywhere(cls, given: str) -> str:
        return from_anywhere(given)


def files_read(config: AdoptConfig) -> Mapping[str, str]:
    """What the model is made of is part of the recipe."""
    if not config.checkpoint:
        raise InputError("adopt.checkpoint: names no model; give a folder that transformers loads, a hub name or a GGUF file")
    return adopted.digests(config.checkpoint)


@step(schema="model", fingerprint=files_read)
def adopt(config: AdoptConfig, out: Output) -> None:
    """Take in a causal model: safetensors as they are, a GGUF file in float32, with a chat template where it has none."""
    with scratch.folder("model") as folder:
        out.facts = adopted.adopt(config.checkpoint, Path(folder))
        trainings.keep_model(Path(folder), MODEL, out)
    out.counts = Counts(total=1, kept=1)
