"""From raw pages and rows to a corpus that the gate has judged."""

from __future__ import annotations

from prefect import flow
from pydantic import BaseModel, ConfigDict

from flows.budget import within_budget
from flows.classifiers import scored
from flows.config import RunConfig
from flows.uniqueness import unique
from infra.cluster import pool
from infra.dataset import ShardSet
from infra.orchestration import Lineage, tracked_flow
from tasks.audit import audit
from tasks.crawl import crawl
from tasks.extract import extract
from tasks.filter import filter
from tasks.ingest import ingest
from tasks.rebalance import rebalance
from tasks.redact import redact
from tasks.rewrite import rewrite
from tasks.signals import signals
from tasks.validate import earlier, validate


class Prepared(BaseModel):
    """A corpus that waits for its publication."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    documents: ShardSet
    checks: ShardSet
    """What the gate found."""
    history: list[ShardSet]
    """The versions that the documents came from, and the classifiers that judged them."""


@flow(name="prepare", description=__doc__, persist_result=False)
def prepare(config: RunConfig, lineage: Lineage | None = None) -> Prepared:
    """Crawl, extract, measure, filter, audit, rewrite, make unique, redact and validate one corpus.

    Args:
        config: the whole run's configuration.
        lineage: given by a flow that this one runs for.
    """
    with tracked_flow("prepare", config, lineage), pool(config.dask):
        corpus, history, stages = corpus_of(config)
        checks = validate(corpus, stages, earlier(config.name, corpus), config=config.validate_)
        return Prepared(documents=corpus, checks=checks, history=history)


def corpus_of(config: RunConfig) -> tuple[ShardSet, list[ShardSet], list[ShardSet]]:
    """The corpus as the gate will find it, the versions that it came from, and all that the gate may ask about."""
    pages = crawl(config=config.crawl)
    documents = [within_budget(extract(pages, config=config.extract), config.budget), ingest(config=config.ingest)]
    measured = signals(documents, config=config.signals)
    *judges, scores = scored(measured, documents, config)
    verdicts = within_budget(filter(scores, config=config.filter), config.budget)
    audits = [audit(scores, documents, config=config.audit.of(config.filter))] if config.audit else []
    rewritten = within_budget(rewrite(documents, verdicts, config=config.rewrite), config.budget)
    distinct = unique(rewritten, config)
    redacted = redact(distinct[-1], config=config.redact)
    taken, chosen = [pages, *documents], [verdicts, *audits, rewritten, *distinct]
    corpus = redacted
    if config.rebalance:
        corpus = rebalance(redacted, config=config.rebalance)
        chosen.append(redacted)
    stages = [*taken, measured, *judges, *([scores] if judges else []), *chosen]
    return corpus, [*taken, *judges, *chosen, corpus], stages
