"""From scores to a registered model and a page to read."""

from __future__ import annotations

from prefect import flow

from flows import promotion
from flows.config import RunConfig
from infra.dataset import ShardSet
from infra.orchestration import Lineage, tracked_flow
from tasks.compare import compare
from tasks.register import register


@flow(name="release", description=__doc__, persist_result=False)
def release(
    model: ShardSet, dataset: ShardSet, scores: list[ShardSet], config: RunConfig, lineage: Lineage | None = None
) -> dict[str, ShardSet]:
    """Register the model with its lineage, and hold it beside the champion of its name; gives what was made, by step.

    Args:
        model: what `train` made.
        dataset: what it was trained on.
        scores: what `evaluate` measured, and after it what else was.
        config: the whole run's configuration.
        lineage: given by a flow that this one runs for.
    """
    with tracked_flow("release", config, lineage):
        made = {"register": register(model, dataset, scores, config=config.register_)}
        if champion := promotion.scores_of_champion(config.register_.name, scores):
            made["compare"] = compare(scores, champion, config=config.gate)
        return made
