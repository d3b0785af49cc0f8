"""One turn of a served model's life: tuned on what people said of it, evaluated, held beside the champion, registered as challenger."""

from __future__ import annotations

from prefect import flow

from flows import registered
from flows.align import last, tokens_of
from flows.config import RunConfig
from flows.deployments import run_elsewhere
from flows.pipeline import AFTER, SCORED
from flows.release import release
from infra import tracking
from infra.dataset import ShardSet, named, opened
from infra.errors import InputError
from infra.orchestration import tracked_flow
from tasks.report import report


@flow(name="improve", description=__doc__, persist_result=False)
def improve(config: RunConfig, model: ShardSet | str | None = None) -> ShardSet:
    """Align a model that was trained here, evaluate it, register it, and write the page of all that.

    Args:
        config: the whole run's configuration; `prefer.sources` or `rate.sources` name what people said (`gristmill votes export`).
        model: what is tuned, or its path below the storage root; by default the champion of `register.name`.
    """
    with tracked_flow("improve", config) as lineage:
        base = named(model or _champion(config.register_.name))
        tokens = tokens_of(base, "improve")
        dataset = opened(tokens.manifest().recipe["inputs"]["dataset"])
        made = run_elsewhere("align", config, lineage, model=base, dataset=dataset)
        tuned = last({"model": base, **made})
        if tuned == base:
            raise InputError(
                "improve: nothing is configured that changes the model; name rows in instruct.sources, prefer.sources, rate.sources or "
                "pose.sources"
            )
        made = run_elsewhere("evaluate", config, lineage, model=tuned, tokens=tokens)
        made = {step: version for step, version in made.items() if step not in AFTER}
        scores = [made[step] for step in SCORED if step in made]
        made |= release(tuned, dataset, scores, config, lineage)
        return report(list(made.values()), config=config.report)


def _champion(name: str) -> ShardSet:
    what = f"{name}@{tracking.CHAMPION}"
    return registered.version_of(what, registered.row_of(what))
