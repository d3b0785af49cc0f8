"""From a trained model to its scores on held-out documents."""

from __future__ import annotations

from prefect import flow

from flows.config import RunConfig
from infra import ledger
from infra.dataset import ShardSet, named
from infra.orchestration import Lineage, tracked_flow
from tasks.evaluate import evaluate as evaluate_model


@flow(name="evaluate", description=__doc__, persist_result=False)
def evaluate(
    config: RunConfig, model: ShardSet | str | None = None, tokens: ShardSet | str | None = None, lineage: Lineage | None = None
) -> ShardSet:
    """Measure perplexity, bits per byte and accuracy on the test split, and write sample texts.

    Args:
        config: the whole run's configuration.
        model: what `train` made, or its path below the storage root; by default the newest of this corpus.
        tokens: the token shards it was trained beside, whose test split is scored; by default those of the newest model.
        lineage: given by a flow that this one runs for.
    """
    with tracked_flow("evaluate", config, lineage):
        if model is None or tokens is None:
            newest = ledger.newest(config.name, "tokenise", "pretrain")
            model, tokens = model or newest["pretrain"], tokens or newest["tokenise"]
        return evaluate_model(named(model), named(tokens), config=config.evaluate)
