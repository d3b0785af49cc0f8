"""From raw pages and rows to a published dataset version."""

from __future__ import annotations

from prefect import flow

from flows.approval import approve
from flows.config import RunConfig
from flows.prepare import prepare
from flows.publish import publish
from infra.dataset import ShardSet
from infra.orchestration import tracked_flow


@flow(name="curate", description=__doc__, persist_result=False)
def curate(config: RunConfig) -> ShardSet:
    """Crawl, extract, measure, filter, audit, rewrite, deduplicate, redact, validate, split and publish one corpus.

    Args:
        config: the whole run's configuration.
    """
    with tracked_flow("curate", config) as lineage:
        prepared = prepare(config, lineage)
        approve(prepared.checks, config)
        return publish(prepared, config, lineage)
