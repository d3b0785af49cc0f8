"""The sites of a corpus once more, under a new snapshot, to its next dataset version."""

from __future__ import annotations

from prefect import flow

from flows.approval import approve
from flows.config import RunConfig, with_snapshot
from flows.prepare import prepare
from flows.publish import publish
from infra.dataset import ShardSet
from infra.orchestration import scheduled_label, tracked_flow


@flow(name="recrawl", description=__doc__, persist_result=False)
def recrawl(config: RunConfig) -> ShardSet:
    """Crawl again under the time for which this run was scheduled, which a retry keeps, and publish what came of it.

    What did not change since the last snapshot is not sent again, and a page whose bytes are as before keeps its `doc_id`. `gristmill diff`
    tells what is new, changed and gone.

    Args:
        config: the whole run's configuration; its `crawl.snapshot` is replaced.
    """
    fresh = with_snapshot(config, scheduled_label())
    with tracked_flow("recrawl", fresh) as lineage:
        prepared = prepare(fresh, lineage)
        approve(prepared.checks, fresh)
        return publish(prepared, fresh, lineage)
