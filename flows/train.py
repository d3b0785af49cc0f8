"""From a published dataset version to a trained model."""

from __future__ import annotations

from prefect import flow

from flows.config import RunConfig
from infra import ledger
from infra.cluster import pool
from infra.dataset import ShardSet, named
from infra.orchestration import Lineage, tracked_flow
from tasks.pretrain import pretrain
from tasks.tokenise import tokenise


@flow(name="train", description=__doc__, persist_result=False)
def train(config: RunConfig, dataset: ShardSet | str | None = None, lineage: Lineage | None = None) -> ShardSet:
    """Learn a tokeniser, turn the corpus into tokens and pretrain a model on them.

    Args:
        config: the whole run's configuration.
        dataset: what `curate` published, or its path below the storage root; by default what the corpus published last. Read from the
            shared storage, wherever this runs.
        lineage: given by a flow that this one runs for.
    """
    with tracked_flow("train", config, lineage):
        with pool(config.dask):
            tokens = tokenise(named(dataset or ledger.newest(config.name, "publish")["publish"]), config=config.tokenise)
        return pretrain(tokens, config=config.pretrain)
