"""dpo: align a model by preference pairs; held-out accuracy, implicit rewards and what it writes, before and after (docs/align.md)."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING

from expectations.figures import judged, suite_file
from infra import trainings
from infra.dataset import ShardSet
from infra.steps import Output, step
from tasks.learn import aligned, posttrain
from tasks.learn.align_config import DpoConfig

if TYPE_CHECKING:
    # what the process runs that trains is code of this step; nothing of it is imported here
    from tasks.learn import dpo as adapter  # noqa: F401
    from tasks.learn import posttraining  # noqa: F401


def files_read(config: DpoConfig) -> dict[str, str]:
    """The suite is part of the recipe, and what holds weights in four bits."""
    return suite_file(config.suite) | posttrain.quantiser(config)


@step(schema="model", fingerprint=files_read)
def dpo(model: ShardSet, preferences: ShardSet, config: DpoConfig, out: Output) -> None:
    """Make preferred answers likelier than others, without going far from the model as it was; a kill costs the steps since a checkpoint.

    Raises:
        InputError: no pair fits the model.
        GateFailed: the figures are not what the suite asks for.
    """
    work = trainings.work_folder(out)
    job = posttrain.post_job("dpo", config, work, models={"model": model}, rows={"preferences": preferences})
    result = trainings.followed(partial(posttrain.run, job), work, posttrain.in_words)
    trainings.keep_result(result, work, out, **posttrain.KEPT)
    scores = aligned.keep(result, work, out)
    trainings.keep_used(posttrain.used(config, result), out)
    out.facts |= judged("dpo", scores, out.facts, config.suite)
