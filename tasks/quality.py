"""quality: train a classifier that tells texts like the positive references from others, as DCLM did (Li et al. 2024, arXiv 2406.11794).

DCLM's positives were 200,000 texts of OpenHermes 2.5 and r/ExplainLikeImFive, its negatives 200,000 documents of its own corpus before the
filter: `corpus_negatives`. The references are the version's shards, the model and its figures its files. One thread trains: about 4 s per
million words, five epochs.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial

from pydantic import Field, model_validator

from expectations.croissant import sources_told
from infra.dataset import ShardSet
from infra.errors import InputError
from infra.steps import Output, step
from tasks.text.readers import IngestConfig, Source, fingerprint, plan
from tasks.text.references import ClassifierConfig, highest_place, read_references, sample_documents
from tasks.text.terms import list_files
from tasks.text.training import make_classifier

POSITIVE, NEGATIVE = "positive", "negative"
CLASSES = (POSITIVE, NEGATIVE)


class QualityConfig(ClassifierConfig):
    """What counts as a good text."""

    positive: tuple[Source, ...] = ()
    """Texts as the corpus should be; without any, no quality is measured."""
    negative: tuple[Source, ...] = ()
    """Texts as it should not be."""
    corpus_negatives: int = Field(0, ge=0)
    """So many of the corpus' own documents, drawn by their hash, are negative references too. What is like the positives among them is
    taken for negative as well."""

    @property
    def wanted(self) -> bool:
        """Whether documents get a quality score."""
        return bool(self.positive or self.trained)

    @model_validator(mode="after")
    def _both_sides(self) -> QualityConfig:
        others = bool(self.negative or self.corpus_negatives)
        if self.trained and (self.positive or others):
            raise ValueError("trained: a trained version needs no references; leave out positive, negative and corpus_negatives")
        if bool(self.positive) != others:
            raise ValueError("needs both sides: `positive`, and `negative` or `corpus_negatives`")
        return self

    def references(self) -> dict[str, IngestConfig]:
        """The sources by class, as `ingest` would read them."""
        return {
            POSITIVE: IngestConfig(sources=self.positive, shard_bytes=self.shard_bytes),
            NEGATIVE: IngestConfig(sources=self.negative, shard_bytes=self.shard_bytes),
        }


def files_read(config: QualityConfig) -> Mapping[str, str]:
    """The references' files and the word lists are part of the recipe."""
    files = {
        f"{side} {name}": seen for side, sources in config.references().items() for name, seen in fingerprint(sources).items()
    }
    lists = list_files(config.training.term_lists)
    return {**files, **lists}


@step(schema="references", fingerprint=files_read)
def quality(corpus: list[ShardSet], config: QualityConfig, out: Output) -> None:
    """Train a quality classifier on positive and negative references, calibrate it, and measure it on those it has not seen.

    `corpus` are the documents that `corpus_negatives` draws from; none are needed without it.

    Raises:
        InputError: a corpus without `corpus_negatives`, or the other way round; or the references are too few, or teach nothing.
    """
    if bool(corpus) != bool(config.corpus_negatives):
        raise InputError(
            "quality: documents and corpus_negatives go together: without the number nothing is drawn from them, and without them there "
            "is nothing to draw from"
        )
    training, sources = config.training, config.references()
    jobs = [(side, pieces) for side, some in sources.items() for pieces in plan(some)]
    read = partial(read_references, sources=sources, label_of={one: one for one in CLASSES}, classes=CLASSES, training=training)
    candidates = out.map_aside("references", read, jobs)
    told = sources_told([one.model_dump() for side in CLASSES for one in sources[side].sources])
    if config.corpus_negatives:
        shards = [shard for version in corpus for shard in version.shards()]
        highest = highest_place(shards, config.corpus_negatives, training.seed)
        if highest is None:
            raise InputError("quality: corpus_negatives: the corpus has no documents to draw from")
        draw = partial(sample_documents, label=NEGATIVE, highest=highest, training=training)
        candidates += out.map_aside("corpus", draw, shards)
        told.append("the corpus' own documents, drawn at random, as negative")
    make_classifier("quality", candidates, (CLASSES, (POSITIVE,)), told, config, out)
