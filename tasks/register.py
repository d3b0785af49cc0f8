"""register: put the model into the MLflow registry with the data it was trained on and the scores it got, and write its card."""

from __future__ import annotations

import tempfile
from pathlib import Path

import yaml
from pydantic import BaseModel, ConfigDict, Field

from infra import storage, tracking
from infra.dataset import Counts, Manifest, ShardSet
from infra.settings import settings
from infra.steps import Output, step
from tasks.learn.config import MODEL

CARD = "README.md"
REGISTRY = "registry.json"


class RegisterConfig(BaseModel):
    """Under which name the model is registered."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: str = Field("gristmill", pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$")
    """Name of the registered model; equal weights are registered once."""
    licence: str = "unknown"
    """Licence of the weights on the model card."""


def registry(config: RegisterConfig) -> dict[str, str]:
    """A card written without MLflow, or a version in another registry, is not a registration in this one."""
    return {"registry": settings().mlflow_url or "none"}


@step(schema="registry", fingerprint=registry)
def register(model: ShardSet, dataset: ShardSet, scores: ShardSet, config: RegisterConfig, out: Output) -> None:
    """Register the model as the next version of its name, with lineage; without MLflow only its card is written."""
    trained, measured = model.manifest(), scores.manifest()
    card = model_card(config, trained, dataset, measured)
    storage.write_bytes(storage.join(out.folder, CARD), card.encode())
    out.keep_file(CARD)
    out.counts = Counts(total=1, kept=1)
    if tracking.current() is None:
        return
    numbers = {name: value for name, value in measured.facts.items() if isinstance(value, int | float)}
    with tempfile.TemporaryDirectory(prefix="gristmill-model-") as folder:
        for entry in trained.files:
            if entry.name.startswith(f"{MODEL}/"):
                Path(folder, Path(entry.name).name).write_bytes(storage.read_bytes(model.file(entry.name)))
        Path(folder, CARD).write_text(card, encoding="utf-8")
        registered = tracking.register_model(
            name=config.name,
            folder=Path(folder),
            trained_on=dataset,
            evaluated_on=scores,
            params={"model_digest": model.digest, "num_parameters": trained.facts["num_parameters"], "version": model.version},
            metrics=numbers,
        )
    out.volatile = {"registered": registered}


def _held_out(unit: str) -> str:
    return {
        "host": "Held out by host: the model has seen no page of the hosts it is measured on.",
        "cluster": "Held out by duplicate cluster: hosts may be on both sides, near copies are not.",
    }.get(unit, "How the test split was held out is not known.")


def model_card(config: RegisterConfig, trained: Manifest, dataset: ShardSet, measured: Manifest) -> str:
    """A model card in the Hugging Face format; every number on it comes from a manifest."""
    facts, got = trained.facts, measured.facts
    head = {"license": config.licence, "library_name": "transformers", "pipeline_tag": "text-generation", "tags": ["gristmill"]}
    return (
        f"---\n{yaml.safe_dump(head)}---\n# {config.name}\n\n"
        f"A LLaMA-style causal language model of {facts['num_parameters']:,} parameters, trained from scratch by Gristmill on "
        f"{facts['tokens']:,} tokens ({facts['epochs']} epochs) of dataset version `{dataset.version}` (digest `{dataset.digest}`, "
        f"{dataset.counts.kept:,} documents).\n\n"
        "| measured on the held-out split | model | unigram baseline |\n| --- | ---: | ---: |\n"
        f"| perplexity per token | {got['perplexity']:.2f} | {got.get('perplexity.unigram', float('nan')):.2f} |\n"
        f"| bits per byte | {got['bits_per_byte']:.3f} | |\n| next-token accuracy | {got['accuracy']:.1%} | |\n\n"
        f"{_held_out(dataset.manifest().facts.get('held_out_by', 'none'))} Nothing here says how it does on other text. It was "
        "not tuned to follow instructions, not tested for bias, hallucination or memorisation, and has no guardrails.\n\n"
        f"Weights: version `{trained.version}`, digest `{trained.digest}`. Code `{trained.recipe['code']}`.\n"
    )
