"""From a published dataset version to a trained model."""

from __future__ import annotations

from prefect import flow

from flows.config import RunConfig
from infra.cluster import pool
from infra.dataset import ShardSet
from infra.orchestration import Lineage, tracked_flow
from tasks.pretrain import pretrain
from tasks.tokenise import tokenise


@flow(name="train", description=__doc__, persist_result=False)
def train(dataset: ShardSet, config: RunConfig, lineage: Lineage | None = None) -> ShardSet:
    """Learn a tokeniser, turn the corpus into tokens and pretrain a model on them.

    Args:
        dataset: what `curate` published; read from the shared storage, wherever this runs.
        config: the whole run's configuration.
        lineage: given by a flow that this one runs for.
    """
    with tracked_flow("train", config, lineage):
        with pool(config.dask):
            tokens = tokenise(dataset, config=config.tokenise)
        return pretrain(tokens, config=config.pretrain)
