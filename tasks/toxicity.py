"""toxicity: train a classifier on texts that people have labelled, and measure it per class and per group of people.

The classes and which of them count as toxic are yours; the score is the calibrated probability of those. The references are the
version's shards, the model and its figures its files. What such labels are worth is on the card and in docs/classifiers.md.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial

from pydantic import Field, field_validator, model_validator

from expectations.croissant import sources_told
from infra.steps import Output, step
from tasks.text.classifier import valid_label
from tasks.text.readers import IngestConfig, fingerprint, plan
from tasks.text.references import ClassifierConfig, LabelledSource, read_references
from tasks.text.terms import list_files
from tasks.text.training import make_classifier

LABELLED = "labelled"


class ToxicityConfig(ClassifierConfig):
    """Labelled texts, and which labels count as toxic."""

    sources: tuple[LabelledSource, ...] = ()
    """Labelled texts; without any, no toxicity is measured."""
    classes: tuple[str, ...] = Field(("toxic", "other"), min_length=2)
    """All labels; a text under another one is a reject."""
    toxic: tuple[str, ...] = Field(("toxic",), min_length=1)
    """Those whose probability is the score."""

    @property
    def wanted(self) -> bool:
        """Whether documents get a toxicity score."""
        return bool(self.sources or self.trained)

    @field_validator("classes")
    @classmethod
    def _names(cls, classes: tuple[str, ...]) -> tuple[str, ...]:
        if len(set(classes)) < len(classes):
            raise ValueError("a class is named twice")
        return tuple(map(valid_label, classes))

    @model_validator(mode="after")
    def _some_and_not_all(self) -> ToxicityConfig:
        if self.trained and self.sources:
            raise ValueError("trained: a trained version needs no references; leave out sources")
        if unknown := sorted(set(self.toxic) - set(self.classes)):
            raise ValueError(f"toxic: {', '.join(unknown)}: none of the classes {', '.join(self.classes)}")
        if set(self.toxic) == set(self.classes):
            raise ValueError("toxic: one class at least must not be toxic")
        return self

    def references(self) -> dict[str, IngestConfig]:
        """The sources, as `ingest` would read them."""
        return {LABELLED: IngestConfig(sources=self.sources, shard_bytes=self.shard_bytes)}


def files_read(config: ToxicityConfig) -> Mapping[str, str]:
    """The references' files and the word lists are part of the recipe."""
    lists = list_files(config.training.term_lists)
    return {**fingerprint(config.references()[LABELLED]), **lists}


@step(schema="references", fingerprint=files_read)
def toxicity(config: ToxicityConfig, out: Output) -> None:
    """Train a toxicity classifier on labelled texts, calibrate it, and measure it on those it has not seen."""
    sources = config.references()
    jobs = [(LABELLED, pieces) for pieces in plan(sources[LABELLED])]
    read = partial(read_references, sources=sources, label_of={}, classes=config.classes, training=config.training)
    candidates = out.map_aside("references", read, jobs)
    told = sources_told([one.model_dump() for one in config.sources])
    make_classifier("toxicity", candidates, (config.classes, config.toxic), told, config, out)
