"""From a corpus that the gate let through to a published dataset version."""

from __future__ import annotations

from prefect import flow

from flows.config import RunConfig
from flows.prepare import Prepared
from infra.cluster import pool
from infra.dataset import ShardSet
from infra.orchestration import Lineage, announce, tracked_flow
from tasks.augment import augment
from tasks.publish import publish as publish_version
from tasks.split import split


@flow(name="publish", description=__doc__, persist_result=False)
def publish(prepared: Prepared, config: RunConfig, lineage: Lineage | None = None) -> ShardSet:
    """Hold out a test split, make copies of training documents if asked to, publish the dataset version and announce it.

    Args:
        prepared: what `prepare` made.
        config: the whole run's configuration.
        lineage: given by a flow that this one runs for.
    """
    with tracked_flow("publish", config, lineage), pool(config.dask):
        dataset = divided(prepared.documents, prepared.history, config)
        announce(config.name, dataset, config)
        return dataset


def divided(corpus: ShardSet, history: list[ShardSet], config: RunConfig) -> ShardSet:
    """The dataset version with its splits, of which nobody is told yet."""
    documents = split(corpus, config=config.split)
    if config.augment:
        history, documents = [*history, documents], augment(documents, config=config.augment.beside(config.redact))
    return publish_version(documents, history, config=config.publish)
