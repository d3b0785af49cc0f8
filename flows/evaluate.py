"""From a trained model to its scores: held-out documents, tasks and questions, probes."""

from __future__ import annotations

import logging

from prefect import flow

from flows.align import newest_model, tokens_for
from flows.config import RunConfig
from infra import lineage as made_from
from infra.dataset import ShardSet, named, opened
from infra.orchestration import Lineage, tracked_flow
from tasks.benchmark import benchmark
from tasks.evaluate import evaluate as evaluate_model
from tasks.probe import probe

log = logging.getLogger("gristmill")


@flow(name="evaluate", description=__doc__, persist_result=False)
def evaluate(
    config: RunConfig, model: ShardSet | str | None = None, tokens: ShardSet | str | None = None, lineage: Lineage | None = None
) -> dict[str, ShardSet]:
    """Measure a model on held-out documents and, where configured, by tasks and probes; gives what was made, by step.

    Args:
        config: the whole run's configuration.
        model: what `train` or `align` made, or its path below the storage root; by default what the newest run of this corpus ended with
            that has a model.
        tokens: the token shards whose test split is scored; by default its own, or, of an adopted model, what the corpus published last.
        lineage: given by a flow that this one runs for.
    """
    with tracked_flow("evaluate", config, lineage):
        trained = named(model or newest_model(config.name))
        log.info("evaluated is %s/%s", trained.step, trained.version)
        shards = named(tokens) if tokens else tokens_for(trained, config)
        made = {"evaluate": evaluate_model(trained, shards, config=config.evaluate)}
        if config.benchmark:
            dataset = opened(shards.manifest().recipe["inputs"]["dataset"])
            made["benchmark"] = benchmark(trained, dataset, config=config.benchmark)
        if config.probe:
            made["probe"] = probe(trained, shards, _classifiers(shards), config=config.probe)
        return made


def _classifiers(tokens: ShardSet) -> list[ShardSet]:
    """The toxicity classifier that the documents of the tokens were scored by, if any."""
    return [named(one.id) for one in made_from.chain([tokens.path]) if one.manifest["step"] == "toxicity"]
