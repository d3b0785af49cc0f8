"""From a trained model to its scores on held-out documents."""

from __future__ import annotations

from prefect import flow

from flows.config import RunConfig
from infra.dataset import ShardSet
from infra.orchestration import Lineage, tracked_flow
from tasks.evaluate import evaluate as evaluate_model


@flow(name="evaluate", description=__doc__, persist_result=False)
def evaluate(model: ShardSet, tokens: ShardSet, config: RunConfig, lineage: Lineage | None = None) -> ShardSet:
    """Measure perplexity, bits per byte and accuracy on the test split, and write sample texts.

    Args:
        model: what `train` made.
        tokens: the token shards it was trained beside; their test split is scored.
        config: the whole run's configuration.
        lineage: given by a flow that this one runs for.
    """
    with tracked_flow("evaluate", config, lineage):
        return evaluate_model(model, tokens, config=config.evaluate)
