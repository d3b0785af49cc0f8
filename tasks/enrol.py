"""enrol: put trained classifiers into the MLflow registry, each with its references, its figures and its card.

A step of its own and not part of the training: a classifier that was trained without MLflow, or for another registry, is registered
when one is there, and a new name trains nothing anew. Without MLflow only the facts are written; the card lies beside the model.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict, Field, model_validator

from infra import ledger, scratch, storage, tracking
from infra.dataset import Counts, ShardSet
from infra.errors import InputError
from infra.settings import settings
from infra.steps import Output, step
from tasks.text.classifier_card import CARD

FACTS = "classifiers.json"
NAME = r"^[A-Za-z0-9][A-Za-z0-9._-]*$"


class EnrolConfig(BaseModel):
    """Under which names classifiers are registered."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    quality: str = Field("gristmill-quality", pattern=NAME)
    """Name of the quality classifier; equal models are registered once."""
    toxicity: str = Field("gristmill-toxicity", pattern=NAME)
    """Name of the toxicity classifier."""

    @model_validator(mode="after")
    def _two_names(self) -> EnrolConfig:
        if self.quality == self.toxicity:
            raise ValueError(
                f"quality, toxicity: two classifiers cannot be versions of one model (got {self.quality!r} for both)"
            )
        return self


def registry(config: EnrolConfig) -> dict[str, str]:
    """A version in another registry is not a registration in this one."""
    return {"registry": settings().mlflow_url or "none"}


@step(schema="registry", fingerprint=registry)
def enrol(classifiers: list[ShardSet], config: EnrolConfig, out: Output) -> None:
    """Register each classifier as the next version of its name, with the references it was trained and measured on.

    Raises:
        InputError: one of them is no classifier.
    """
    if others := sorted({one.step for one in classifiers} - set(EnrolConfig.model_fields)):
        raise InputError(f"enrol: takes what `gristmill step quality` or `toxicity` wrote (got versions by {', '.join(others)})")
    names = {one.version: str(getattr(config, one.step)) for one in classifiers}
    facts = {names[one.version]: _facts(one) for one in classifiers}
    storage.write_json(storage.join(out.folder, FACTS), facts)
    out.keep_file(FACTS)
    out.counts = Counts(total=len(classifiers), kept=len(classifiers))
    if tracking.current() is not None:
        out.volatile["registered"] = [_register(names[one.version], one) for one in classifiers]


def _register(name: str, classifier: ShardSet) -> dict[str, str]:
    manifest = classifier.manifest()
    numbers = {key: value for key, value in manifest.facts.items() if isinstance(value, int | float)}
    with scratch.folder("classifier") as folder:
        for entry in manifest.files:
            Path(folder, entry.name).write_bytes(storage.read_bytes(classifier.file(entry.name)))
        return tracking.register_model(
            name=name,
            folder=Path(folder),
            trained_on=classifier,
            evaluated_on=None,
            params={"model_digest": classifier.digest, "version": classifier.version, **manifest.recipe["config"]["training"]},
            metrics=numbers,
            tags={"run": ledger.current_run(), "model.version": classifier.version, "dataset.version": classifier.version},
            card=Path(folder, CARD).read_text(encoding="utf-8").split("---\n", 2)[2],
            model_type="text classifier",
        )


def _facts(classifier: ShardSet) -> dict[str, Any]:
    """What follows from the recipe alone."""
    manifest = classifier.manifest()
    return {"version": classifier.version, "digest": classifier.digest, "code": manifest.recipe["code"], **manifest.facts}
