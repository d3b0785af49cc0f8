"""kto: align a model by single answers that were called good or bad; what it learnt of held-out ones, before and after (docs/align.md)."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING

from expectations.figures import judged, suite_file
from infra import trainings
from infra.dataset import ShardSet
from infra.steps import Output, step
from tasks.learn import aligned, posttrain
from tasks.learn.align_config import KtoConfig

if TYPE_CHECKING:
    # what the process runs that trains is code of this step; nothing of it is imported here
    from tasks.learn import kto as adapter  # noqa: F401
    from tasks.learn import posttraining  # noqa: F401


def files_read(config: KtoConfig) -> dict[str, str]:
    """The suite is part of the recipe, and what holds weights in four bits."""
    return suite_file(config.suite) | posttrain.quantiser(config)


@step(schema="model", fingerprint=files_read)
def kto(model: ShardSet, ratings: ShardSet, config: KtoConfig, out: Output) -> None:
    """Make good answers likelier and bad ones less so, not far from the model as it was; a kill costs the steps since a checkpoint.

    Raises:
        InputError: of good or of bad answers none fits the model.
        GateFailed: the figures are not what the suite asks for.
    """
    work = trainings.work_folder(out)
    job = posttrain.post_job("kto", config, work, models={"model": model}, rows={"ratings": ratings})
    result = trainings.followed(partial(posttrain.run, job), work, posttrain.in_words)
    trainings.keep_result(result, work, out, **posttrain.KEPT)
    scores = aligned.keep(result, work, out)
    trainings.keep_used(posttrain.used(config, result), out)
    out.facts |= judged("kto", scores, out.facts, config.suite)
