"""The classifiers that a run asks for: trained, or given as trained versions; registered; and what they say of the corpus."""

from __future__ import annotations

from collections.abc import Sequence

from flows.config import RunConfig
from infra.dataset import ShardSet, named
from infra.errors import InputError
from tasks.enrol import enrol
from tasks.quality import QualityConfig, quality
from tasks.score import score
from tasks.toxicity import ToxicityConfig, toxicity


def scored(measured: ShardSet, documents: Sequence[ShardSet], config: RunConfig) -> list[ShardSet]:
    """The classifiers, and last the signals that a filter can ask: with the classifiers' scores, or, where there are none, as measured.

    Raises:
        InputError: a version that is given as trained is not what its key says.
    """
    judges = [*_quality(documents, config.quality), *_toxicity(config.toxicity)]
    if not judges:
        return [measured]
    enrol(judges, config=config.enrol)
    by_step = {name: [one for one in judges if one.step == name] for name in ("quality", "toxicity")}
    return [*judges, score(measured, documents, by_step["quality"], by_step["toxicity"], config=config.score)]


def _quality(documents: Sequence[ShardSet], config: QualityConfig) -> list[ShardSet]:
    if config.trained:
        return [_given("quality", config.trained)]
    # without it the corpus is no part of the recipe, and the next crawl has the same classifier
    return [quality(documents if config.corpus_negatives else [], config=config)] if config.wanted else []


def _toxicity(config: ToxicityConfig) -> list[ShardSet]:
    if config.trained:
        return [_given("toxicity", config.trained)]
    return [toxicity(config=config)] if config.wanted else []


def _given(kind: str, path: str) -> ShardSet:
    found = named(path)
    if found.step != kind:
        raise InputError(f"{kind}.trained: {path} was made by the step {found.step}; give a version below {kind}/")
    return found
