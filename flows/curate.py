"""From raw pages and rows to a published dataset version."""

from __future__ import annotations

from prefect import flow

from flows.config import RunConfig
from infra.cluster import pool
from infra.dataset import ShardSet
from infra.orchestration import Lineage, tracked_flow
from tasks.crawl import crawl
from tasks.dedup import dedup
from tasks.extract import extract
from tasks.filter import filter
from tasks.ingest import ingest
from tasks.publish import publish
from tasks.redact import redact
from tasks.rewrite import rewrite
from tasks.signals import signals
from tasks.split import split
from tasks.validate import earlier, validate


@flow(name="curate", description=__doc__, persist_result=False)
def curate(config: RunConfig, lineage: Lineage | None = None) -> ShardSet:
    """Crawl, extract, measure, filter, rewrite, deduplicate, redact, validate, split and publish one corpus.

    Args:
        config: the whole run's configuration.
        lineage: given by a flow that this one runs for.
    """
    with tracked_flow("curate", config, lineage), pool(config.dask):
        pages = crawl(config=config.crawl)
        documents = [extract(pages, config=config.extract), ingest(config=config.ingest)]
        measured = signals(documents, config=config.signals)
        verdicts = filter(measured, config=config.filter)
        rewritten = rewrite(documents, verdicts, config=config.rewrite)
        unique = dedup(rewritten, config=config.dedup)
        redacted = redact(unique, config=config.redact)
        validate(
            redacted, [pages, *documents, verdicts, rewritten, unique], earlier(config.name, redacted), config=config.validate_
        )
        divided = split(redacted, config=config.split)
        return publish(divided, [pages, *documents, verdicts, rewritten, unique, redacted], config=config.publish)
