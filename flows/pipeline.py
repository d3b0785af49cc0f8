"""The whole mill: curate here, train, align and evaluate on the queue `gpu`, release here."""

from __future__ import annotations

from prefect import flow

from flows.align import last
from flows.approval import approve
from flows.config import RunConfig
from flows.deployments import run_elsewhere
from flows.prepare import prepare
from flows.publish import publish
from flows.release import release
from infra.dataset import ShardSet
from infra.errors import InputError
from infra.orchestration import tracked_flow
from tasks.report import report

AFTER = ("register", "compare", "report")
"""Steps behind the evaluation: what an earlier try made of them is no input of this one."""
SCORED = ("evaluate", "benchmark", "probe")
"""Steps that measure the model, in their order."""


@flow(name="pipeline", description=__doc__, persist_result=False)
def pipeline(config: RunConfig) -> ShardSet:
    """Turn the configured sources into an evaluated, registered model and a report page.

    Args:
        config: the whole run's configuration.
    """
    if config.adopt.checkpoint:
        raise InputError(
            "adopt.checkpoint: the pipeline trains a model of its own; begin with another maker's by `gristmill run align`, or train on "
            "from it (pretrain.model.from_checkpoint)"
        )
    with tracked_flow("pipeline", config) as lineage:
        prepared = prepare(config, lineage)
        approve(prepared.checks, config)
        dataset = publish(prepared, config, lineage)
        made = run_elsewhere("train", config, lineage, dataset=dataset)
        if config.aligns:
            made = run_elsewhere("align", config, lineage, model=made["pretrain"], dataset=dataset)
        model = last(made)
        made = run_elsewhere("evaluate", config, lineage, model=model, tokens=made["tokenise"])
        made = {step: version for step, version in made.items() if step not in AFTER}
        scores = [made[step] for step in SCORED if step in made]
        made |= release(model, dataset, scores, config, lineage)
        return report(list(made.values()), config=config.report)
